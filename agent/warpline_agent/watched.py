"""One training process that is watched: its ring, the file of its hook and what the operating system says, at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from warpline_hook import layout
from warpline_hook.process import Process
from warpline_proto.errors import Refused, SourceError

from .hook_file import HookFile, open_file
from .hook_rows import Identity, identity_of
from .hook_search import Found, Search
from .process_states import process_state
from .progress import Sight, Standing, Watch
from .ring_file import RingFile, open_ring
from .ring_followed import environment
from .ring_peek import Lately, lately, newest_enqueued

RECENT_STEPS: Final = 20
"""Newest steps from which the usual one is taken."""
TRUE_NS: Final = 2**62


@dataclass
class Watched:
    """`pid` is the process as this agent knows it. `told` is what was last said of it, and when."""

    found: Found
    ring: RingFile | None = None
    steps: HookFile | None = None
    identity: Identity = field(default_factory=Identity)
    watch: Watch = field(default_factory=Watch)
    lately: Lately = field(default_factory=Lately)
    standing: Standing | None = None
    sight: Sight | None = None
    step: int | None = None
    pid: int | None = None
    told: tuple[str, int] = ("", 0)

    @property
    def process(self) -> Process | None:
        """Who it says it is."""
        file = self.ring or self.steps
        return None if file is None else file.process

    def open(self, names: list[str], folder: int | None) -> None:
        """Open what is there of its files and not open yet; what cannot be read other sources tell of."""
        for name in sorted(names, key=len):
            try:
                if not name.endswith(layout.SUFFIX):
                    self.ring = self.ring or open_ring(Path(name), folder)
                elif self.steps is None:
                    self.steps = HookFile(open_file(name, folder))
            except (SourceError, Refused, OSError):
                continue

    def look(self, search: Search, at_ns: int, proc: str) -> Standing | None:
        """What it is at; None where its process cannot be seen and may be there."""
        process = self.process
        if process is None:
            return None
        gone = search.gone(process, self.found)
        self.pid = self.pid if gone else search.pid_of(process, self.found)
        state = None if gone or self.pid is None else process_state(self.pid, proc)
        if state is None and not gone:
            return None
        told = self._told()
        self.sight = Sight(
            at_ns,
            state.os_state if state else None,
            in_order=self._ended(),
            cpu_ns=state.cpu_ns if state else 0,
            io_bytes=state.io_bytes if state else None,
            **told,
        )
        self.standing = self.watch.see(self.sight)
        return self.standing

    def _told(self) -> dict[str, Any]:
        """What its files say of when it did what; the ring is gone through only where nothing else has happened for long."""
        told: dict[str, Any] = self._steps()
        if self.ring is None:
            return told
        standing = self.ring.standing()
        self.ring.read_texts()
        told["begun_ns"] = _true(self.ring.created_ns)
        told["last_kernel_ns"] = _true(standing.last_record_ns)
        told["enqueued_ns"] = newest_enqueued(self.ring)
        if self.identity.job is None and self.identity.rank is None:
            self.identity = identity_of(environment(self.ring))
        return told

    def look_back(self, at_ns: int) -> Standing | None:
        """The same once more, with all that the ring tells, for a process that does not go on."""
        if self.ring is None or self.sight is None or self.standing is None or self.standing.goes_on:
            return self.standing
        self.lately = lately(self.ring)
        seen = {"enqueued_ns": self.lately.enqueued_ns, "captured_from_ns": self.lately.captured_from_ns}
        self.sight = Sight(**(vars(self.sight) | seen))
        self.standing = self.watch.see(self.sight)
        return self.standing

    def _steps(self) -> dict[str, Any]:
        if self.steps is None:
            return {}
        try:
            records = [each for each in self.steps.newest(RECENT_STEPS) if each.phase is None]
            if told := self.steps.identity():
                self.identity = identity_of(told)
        except (Refused, OSError):
            return {"steps_told": True}
        took = [each.times["duration"] or 0 for each in records]
        start = records[-1].times["start"] if records else None
        self.step = records[-1].step if records else self.step
        return {
            "steps_told": True,
            "step_end_ns": None if start is None else start + took[-1],
            "usual_step_ns": int(median(took)) if took else None,
        }

    def _ended(self) -> bool:
        """Whether it has said that it ends."""
        if self.steps is not None and self.steps.state == layout.ENDED:
            return True
        states = [] if self.ring is None else [state for state, _ in self.ring.standing().channels.values()]
        return "ended" in states

    def close(self) -> None:
        """Give its files back."""
        for file in (self.ring, self.steps):
            if file is not None:
                file.close()


def _true(time_ns: int) -> int | None:
    """A time as the process tells it, None where it cannot be one."""
    return time_ns if 0 < time_ns < TRUE_NS else None


def rows(watched: Watched, standing: Standing, at_ns: int) -> list[Mapping[str, Any]]:
    """Rows of `progress`: the process, and, while it does not go on, how far it is on each of its communicators."""
    sight = watched.sight
    common = {
        **watched.identity.columns,
        "time_ns": at_ns,
        "pid": watched.pid,
        "state": standing.state,
        "since_ns": standing.since_ns,
        "reason": standing.reason,
        "step": watched.step,
        "last_kernel_ns": sight.last_kernel_ns if sight else None,
        "cpu_percent": standing.cpu_percent,
        "io_bytes_per_second": standing.io_bytes_per_second,
        "watched": watched.ring is not None and watched.ring.standing().channels["nccl"][0] == "ok",
    }
    return [common, *(() if standing.goes_on else (common | dict(each) for each in watched.lately.operations))]
