"""Kernels and NCCL operations of training processes, as the native library in each captures them.

Its ring is found beside the file of the hook, read several times a second, and taken away once its process is gone. Kernels are
told when their step is over and nothing more of it can come; of steps that were captured in part only the kernels are told.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from warpline_hook import ring
from warpline_hook.environment import DIRECTORY_DEFAULT
from warpline_proto.capture import KERNELS, Capture
from warpline_proto.errors import Denied, Refused, SourceError, Unsupported
from warpline_proto.tables import COLLECTIVES, COMMUNICATORS, KERNEL_CLUSTERS

from ..blind_channel import BlindChannels
from ..capture_duty import MODES, CaptureDuty
from ..gpu_activity import GpuActivity
from ..hook_search import FILES_MAX, Found, Search, key_of, opened, take_away
from ..identity import stamp
from ..kernel_budget import KernelBudget
from ..kernels import KernelLog, Kernels, StepSpan, name_rows, step_rows
from ..nccl_join import Operations
from ..operation_rows import operation_rows
from ..raw_block import Process
from ..raw_capture import deliver
from ..raw_ring import RawRing
from ..ring_file import Standing, Text, open_ring
from ..ring_followed import Followed, complete_steps, inferred_only, new_names
from ..ring_mark import Mark, Marks, RingMark, WasPut, found_mark
from ..ring_records import communicator_row
from ..source import Delivered, Health, Rows
from ..traced import Traced

LATE_SECONDS: Final = 2.0
"""Records come at the latest so long after their kernel ended: four flushes."""
TROUBLE: Final = {"busy": "busy", "denied": "denied", "dead": "dead", "paused": "busy"}
"""States of a channel that are told, and as what."""


@dataclass(frozen=True)
class KernelsConfig:
    """Settings. `mode` is auto (all the time where that costs little, windows or less elsewhere), full, windows or off.

    `directories` are where WARPLINE_DIRECTORY may point, here and with `containers` in containers too. With auto capture is to
    make a job slower by no more than `overhead_percent_max`.
    """

    period_seconds: float = 0.25
    directories: tuple[str, ...] = (DIRECTORY_DEFAULT,)
    containers: bool = True
    mode: str = "auto"
    overhead_percent_max: float = 1.0

    def __post_init__(self) -> None:
        if self.period_seconds <= 0:
            raise ValueError("period_seconds must be above 0")
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r} is none of {', '.join(MODES)}")
        if not 0 < self.overhead_percent_max <= 100:
            raise ValueError("overhead_percent_max must be above 0 and at most 100")
        if not all(each.startswith("/") for each in self.directories):
            raise ValueError("directories must be absolute paths")


DEFAULTS: Final = KernelsConfig()


class TrainingKernels:
    """Reads every ring that this agent may read."""

    name = "kernels"
    captures = frozenset({KERNELS})
    Config = KernelsConfig

    def __init__(
        self,
        config: KernelsConfig = DEFAULTS,
        clock_ns: Callable[[], int] = time.time_ns,
        proc: str = "/proc",
        node: str | None = None,
    ) -> None:
        self.period_seconds = config.period_seconds
        self._config = config
        self._clock_ns = clock_ns
        self._clock = f"realtime@{node or platform.node()}"
        self._search = Search(config.directories, config.containers, proc, ring.SUFFIX)
        self._followed: dict[str, Followed] = {}
        self._refused: dict[str, Health] = {}
        self._finished: set[str] = set()
        self._health: dict[str, list[Health]] = {}
        self._ring: RawRing | None = None
        self._budget = KernelBudget()
        self._duty = CaptureDuty(config.mode, config.overhead_percent_max)
        self._blind = BlindChannels()
        self._traced = Traced()
        self._was_put: WasPut | None = None
        self._closed: dict[str, Mark] = {}

    def keep_until_settled(self, was_put: WasPut) -> None:
        """Keep records in the ring until it is told that their rows are on disk."""
        self._was_put = was_put

    def so_far(self) -> Marks:
        """What is on disk once all rows given so far are."""
        return Marks([RingMark(followed.file, followed.mark()) for followed in self._followed.values()])

    def tell_within(self, budget: KernelBudget) -> None:
        """Tell kernels as finely as it allows."""
        self._budget = budget

    def see_activity(self, activity: GpuActivity) -> None:
        """Learn there how busy GPUs are: kernels that are missing of a busy one were not recorded."""
        self._blind.see(activity)

    def give_way_to(self, traced: Traced) -> None:
        """Leave CUPTI to the traces that are told of there."""
        self._traced = traced

    def keep_raw_in(self, ring: RawRing) -> None:
        """Keep the records there, one by one."""
        self._ring = ring

    def open(self) -> None:
        """Unsupported where none of the directories is there."""
        if not any(Path(each).is_dir() for each in self._config.directories):
            raise Unsupported(
                f"there is no {' or '.join(self._config.directories)}", "set [sources.kernels] directories"
            )
        if self._ring is not None:
            self._ring.open()

    def read(self) -> Iterable[Rows]:
        """What has become whole since the last call."""
        for followed in self._followed.values():
            if self._was_put is None:
                followed.file.release()  # the rows of the round before have been taken over by now
        self._find()
        for key, followed in list(self._followed.items()):
            yield from self._read_one(key, followed)
        if self._ring is not None:
            yield from self._ring.end_round()

    def health(self) -> Iterable[Health]:
        """Channels that give nothing and why, what was lost, rings that cannot be read."""
        yield from self._refused.values()
        for told in self._health.values():
            yield from told
        yield from self._budget.health()
        yield from self._duty.health()
        if self._ring is not None:
            yield from self._ring.health()

    def capture(self, request: Capture) -> Iterable[Rows | Delivered]:
        """Kernels of a rank one by one, from the raw ring."""
        if self._ring is None:
            raise Denied("raw kernel records are not kept", "set grade in [agent.raw_ring]")
        return deliver(self._ring, request)

    def close(self) -> None:
        """Give the files back; what was read and not released is read again."""
        self._closed = {key: followed.mark() for key, followed in self._followed.items()}
        for followed in self._followed.values():
            followed.close_steps()
            followed.file.close()
        self._followed = {}
        if self._ring is not None:
            self._ring.close()

    def _find(self) -> None:
        everywhere, looked = self._search.everywhere(self._clock_ns())
        seen: set[str] = set()
        for found in everywhere:
            with opened(found.path) as folder:
                for name in found.names if folder is not None else ():
                    seen.add(self._follow(found, name, folder))
        self._refused = {key: each for key, each in self._refused.items() if key in seen}
        self._finished &= seen
        for key, followed in self._followed.items():
            if looked and key not in seen and not followed.found.ours:
                followed.found = replace(followed.found, pids={})  # its container is gone

    def _follow(self, found: Found, name: str, folder: int | None) -> str:
        """Begin with one ring, or look anew for the steps beside one that is followed; its key."""
        key = key_of(name, folder)
        if not key:
            return ""
        if key in self._followed:
            self._followed[key].found = found
            self._followed[key].look_for_steps(folder)
        elif key not in self._refused and key not in self._finished and len(self._followed) < FILES_MAX:
            self._begin(key, found, name, folder)
        return key

    def _begin(self, key: str, found: Found, name: str, folder: int | None) -> None:
        try:
            file = open_ring(Path(name), folder)
        except (SourceError, Refused) as error:
            state = "denied" if isinstance(error, SourceError) else "refused"
            self._refused[key] = Health(f"{found.path}/{name}", state, str(error))
            return
        if file is not None:
            self._followed[key] = Followed(file, name, found, dropped=dict(file.standing().dropped))
            if self._was_put is not None:
                mark = self._closed.pop(key, None) or found_mark(file, self._was_put)
                self._followed[key].go_on(mark, self._clock_ns())
            self._followed[key].look_for_steps(folder)

    def _read_one(self, key: str, followed: Followed) -> Iterator[Rows]:
        file = followed.file
        lives = not self._search.gone(followed.file.process, followed.found)
        now_ns = self._clock_ns()
        standing = file.standing()
        if lives:
            file.say(time.monotonic_ns(), self._control(key, followed, standing, now_ns))
        texts = file.read_texts()
        taken = file.taken
        events, records = file.read("events", final=not lives), file.read("kernels", final=not lives)
        operations = file.read("nccl", final=not lives)
        followed.take_steps()
        followed.take_events(events, standing, now_ns)
        followed.take_records(records, operations, taken, now_ns)
        ripe = followed.ripe(now_ns - int(LATE_SECONDS * 1e9), final=not lives)
        if ripe.kernels is not None:
            yield from self._kernels(followed, ripe.kernels, ripe.whole)
        yield from self._inferred(followed, inferred_only(ripe))
        if ripe.operations is not None:
            yield from self._operations(followed, ripe.operations)
        marked = [span for span in ripe.over if span.boundary is None]
        yield from self._duty.take(key, events, records, marked, now_ns)
        yield from self._communicators(followed, texts)
        yield from _losses(followed, standing)
        blind = self._blind.look(key, f"pid {file.process.pid}", followed.identity.gpu_uuid, standing, now_ns)
        self._health[key] = [*_troubles(followed, standing), *blind]
        if self._was_put is not None:
            file.make_room()
        if not lives and file.is_done:
            self._done(key, followed)

    def _control(self, key: str, followed: Followed, standing: Standing, now_ns: int) -> int:
        """What the process is asked to capture."""
        if self._traced.now(self._search.pid_of(followed.file.process, followed.found), now_ns):
            return ring.control(ring.AWAY, 0)
        word = self._duty.control(key, followed.identity, standing, now_ns)
        return word if followed.inferred is None else followed.inferred.control(word)

    def _kernels(self, followed: Followed, kernels: Kernels, whole: list[StepSpan]) -> Iterator[Rows]:
        identity = followed.identity
        place = {name: value for name, value in identity.columns.items() if name not in ("rank", "device")}
        if self._ring is not None:
            self._ring.append(Process.of(self._clock, rank=identity.rank, **place), kernels)
        within = complete_steps(kernels)
        seen = set(within.step.tolist())
        whole = [span for span in whole if span.step in seen]  # one without any is not known to have been idle
        if whole:
            told = step_rows(within, whole, rank=identity.rank, clock=self._clock, whole=None)
            yield Rows("steps", stamp(told, **place))
        packed = self._budget.compress(kernels, rank=identity.rank, clock=self._clock)
        yield Rows(KERNEL_CLUSTERS.name, stamp(packed.rows, **place), packed.dropped)
        fresh = new_names(followed, kernels)
        if fresh is not None:
            yield Rows("kernel_names", name_rows(fresh))

    def _inferred(self, followed: Followed, spans: list[StepSpan]) -> Iterator[Rows]:
        if spans:
            told = step_rows(KernelLog().finish(), spans, rank=followed.identity.rank, clock=self._clock, whole=None)
            place = {name: value for name, value in followed.identity.columns.items() if name != "rank"}
            yield Rows("steps", stamp(told, **place))

    def _operations(self, followed: Followed, operations: Operations) -> Iterator[Rows]:
        place = {**followed.identity.columns, "clock": self._clock}
        yield Rows(COLLECTIVES.name, operation_rows(operations, followed.file, followed.past, place))

    def _communicators(self, followed: Followed, texts: Mapping[int, Text]) -> Iterator[Rows]:
        known = [row for text in texts.values() if (row := communicator_row(text)) is not None]
        if known:
            own = {**followed.identity.columns, "pid": followed.file.process.pid, "state": "ready"}
            own |= {
                "start_ns": self._clock_ns(),
                "library_version": _nccl_version(followed.file.standing().nccl_version),
            }
            columns = {column.name for column in COMMUNICATORS.columns}
            told = {name: value for name, value in own.items() if name in columns}
            yield Rows(COMMUNICATORS.name, COMMUNICATORS.from_rows([told | row for row in known]))

    def _done(self, key: str, followed: Followed) -> None:
        """Nothing more will come: its rows of the round before are safe, and the file is ours to take away."""
        followed.close_steps()
        followed.file.close()
        del self._followed[key]
        self._health.pop(key, None)
        self._duty.forget(key)
        self._blind.forget(key)
        self._finished.add(key)
        take_away(followed.name, followed.found, followed.file.owner)


def _losses(followed: Followed, standing: Standing) -> Iterator[Rows]:
    """Records that found no room since the last look, by table."""
    lost = {lane: max(count - followed.dropped.get(lane, 0), 0) for lane, count in standing.dropped.items()}
    followed.dropped = dict(standing.dropped)
    if lost["kernels"]:
        yield Rows(KERNEL_CLUSTERS.name, KERNEL_CLUSTERS.empty(), min(lost["kernels"], 1 << 40))
    if lost["nccl"]:
        yield Rows(COLLECTIVES.name, COLLECTIVES.empty(), min(lost["nccl"], 1 << 40))


def _troubles(followed: Followed, standing: Standing) -> Iterator[Health]:
    """What a channel says is wrong, and what was counted."""
    file = followed.file
    process = f"pid {file.process.pid}"
    for channel, (state, reason) in standing.channels.items():
        if state in TROUBLE:
            yield Health(f"{channel} of {process}", TROUBLE[state], file.text(reason) or state)
    counters = standing.counters
    counted = (
        (counters["invalid"] + followed.impossible, "records with impossible times"),
        (counters["dropped_cupti"], "dropped by CUPTI"),
        (file.lost, "begun and never whole"),
    )
    said = [f"{count} {what}" for count, what in counted if count] + [followed.lost_before(standing)]
    if any(said):
        yield Health(f"records of {process}", "dropped", " and ".join(filter(None, said)))
    if followed.operations.uncertain:
        yield Health(f"operations of {process}", "partial", followed.operations.account())
    if followed.inferred is not None and (why := followed.inferred.account()):
        yield Health(f"steps of {process}", "partial", why)


def _nccl_version(number: int) -> str | None:
    """22907 -> 2.29.7."""
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}" if 20_000 < number < 10**6 else None
