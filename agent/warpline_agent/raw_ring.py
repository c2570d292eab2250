"""The raw ring: the last minutes of kernel records, exact to the nanosecond, compressed on local disk.

Every source that has `Kernels` may keep one. Records wait in memory until there are enough for a block or some seconds have
passed; an agent that is killed loses what waited. What falls off the end, and what could not be written, is counted.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import numpy as np

from warpline_proto.tables import RAW_KERNELS

from . import raw_block
from .kernels import COMMUNICATION, Kernels
from .raw_block import Damaged, Process
from .raw_segments import Block, Segments
from .source import Health, Rows


@runtime_checkable
class KeepsRaw(Protocol):
    """A Source that has raw kernel records; it keeps them in the ring it is given before it is opened."""

    def keep_raw_in(self, ring: RawRing) -> None: ...


OFF: Final = "off"
GRADES: Final = ("all", "kernels", "communication", OFF)
"""What is kept: everything, no copies and sets, communication kernels alone, nothing."""
JOIN_RECORDS_MAX: Final = 16_384
"""So many records make a block of their own; fewer are joined with those that follow, for what a block says of itself."""
BLOCK_SECONDS: Final = 5.0
"""Records wait for a full block no longer than this."""
BLOCK_NAMES_CHARS_MAX: Final = 4 * 1024 * 1024
"""Characters of the names of one block; records with more of them make several blocks."""
BYTES_MIN: Final = 64 * 1024 * 1024
"""The largest block, 6 MiB, is then a fraction of the ring."""
WAITING_PROCESSES_MAX: Final = 64
"""Processes of which records wait; beyond, those that wait longest are written."""


@dataclass(frozen=True)
class RawRingConfig:
    """How much is kept of raw kernel records, for each source that has them. `grade` is all, kernels, communication or off.

    Without a `directory` it is `raw` in the directory of the spool. `age_seconds_max` counts from the writing of a record;
    `capture_records_max` bounds what one capture sends.
    """

    directory: str = ""
    bytes_max: int = 256 * 1024 * 1024
    age_seconds_max: float = 900.0
    grade: str = "all"
    capture_records_max: int = 200_000

    def __post_init__(self) -> None:
        if self.grade not in GRADES:
            raise ValueError(f"grade {self.grade!r} is none of {', '.join(GRADES)}")
        if self.bytes_max < BYTES_MIN:
            raise ValueError(f"bytes_max must be at least {BYTES_MIN}")
        if self.age_seconds_max <= 0 or self.capture_records_max < 1:
            raise ValueError("age_seconds_max and capture_records_max must be above 0")


@dataclass
class _Waiting:
    """Records of one process that wait for their block since `since_ns`; all have the same names."""

    since_ns: int
    names: tuple[str, ...]
    parts: list[Kernels] = field(default_factory=list)
    records: int = 0
    left_out: int = 0


class RawRing:
    """One for a source, used from its thread alone: `append` and `flush` in a round, `blocks` and `read` for a capture."""

    def __init__(self, config: RawRingConfig, directory: Path, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.config = config
        self._clock_ns = clock_ns
        self._segments = Segments(directory, config.bytes_max, config.age_seconds_max, clock_ns)
        self._waiting: OrderedDict[Process, _Waiting] = OrderedDict()
        self._lost: OrderedDict[Process, int] = OrderedDict()
        self._unreported = 0
        self._trouble = ""

    @property
    def dropped(self) -> int:
        """Records that fell off the end, this start and earlier ones together."""
        return self._segments.dropped

    def open(self) -> None:
        """Take the directory and what it holds; one that cannot be had is tried again with each block."""
        if self.config.grade != OFF:
            self._attempt(self._segments.take)

    def append(self, process: Process, kernels: Kernels, mark: str = "") -> None:
        """Take records of one process on. Records of a file carry its mark: those that are or were here are not kept twice."""
        kept = self._graded(kernels)
        if not len(kept):
            return
        if mark or (len(kept) >= JOIN_RECORDS_MAX and process not in self._waiting):
            self._write_all(process, kept, len(kernels) - len(kept), mark)
            return
        waiting = self._waiting.get(process)
        if waiting is not None and waiting.names != kept.names:
            self._flush(process)
            waiting = None
        if waiting is None:
            waiting = self._waiting[process] = _Waiting(self._clock_ns(), kept.names)
        waiting.parts.append(kept)
        waiting.records += len(kept)
        waiting.left_out += len(kernels) - len(kept)
        if waiting.records >= JOIN_RECORDS_MAX:
            self._flush(process)
        while len(self._waiting) > WAITING_PROCESSES_MAX:
            self._flush(next(iter(self._waiting)))

    def flush(self, *, everything: bool = False) -> None:
        """Write what has waited long enough, or all of it; let go what is too old."""
        due_ns = self._clock_ns() - int(BLOCK_SECONDS * 1e9)
        for process in [each for each, held in self._waiting.items() if everything or held.since_ns <= due_ns]:
            self._flush(process)
        self._segments.make_room(0)

    def end_round(self) -> Iterable[Rows]:
        """What a source does at the end of each round: write what is due, and tell how many records could not be written."""
        self.flush()
        lost = self.take_losses()
        return [Rows(RAW_KERNELS.name, RAW_KERNELS.empty(), lost)] if lost else []

    def blocks(self, job: str | None, rank: int | None) -> list[Block]:
        """Blocks of a process that are held, in the order in which they were written."""
        return [
            block
            for block in self._segments.blocks()
            if (block.told.process.get("job"), block.told.process.get("rank")) == (job, rank)
        ]

    def processes(self) -> list[Process]:
        """Whose records are held."""
        return list(dict.fromkeys(block.told.process for block in self._segments.blocks()))

    def read(self, block: Block) -> Kernels | None:
        """Records of a block; None where it is gone or damaged since it was written."""
        try:
            return raw_block.decode(block.read())[1]
        except (OSError, Damaged):
            return None

    def take_losses(self) -> int:
        """Records that could not be written since the last call."""
        lost, self._unreported = self._unreported, 0
        return lost

    def health(self) -> Iterator[Health]:
        """Why records are not kept, where they are not, and what could not be read of an earlier start."""
        if self._trouble:
            yield Health("raw ring", "stale", f"raw records are not kept: {self._trouble}")
        elif self._segments.damaged_bytes:
            yield Health("raw ring", "dropped", f"{self._segments.damaged_bytes} bytes of an earlier start are damaged")

    def close(self) -> None:
        """Write what waits and give the directory back. Safe to call twice, or without a record."""
        self.flush(everything=True)
        self._segments.close()

    def _graded(self, kernels: Kernels) -> Kernels:
        if self.config.grade == "all":
            return kernels
        wanted = {"kernels": kernels.category <= COMMUNICATION, "communication": kernels.category == COMMUNICATION}
        return kernels.select(wanted.get(self.config.grade, np.zeros(len(kernels), dtype=np.bool_)))

    def _flush(self, process: Process) -> None:
        waiting = self._waiting.pop(process)
        self._write_all(process, _joined(waiting.parts), waiting.left_out)

    def _write_all(self, process: Process, kernels: Kernels, left_out: int, mark: str = "") -> None:
        """As many blocks as it takes, the same ones whenever the same records come again."""
        size = raw_block.RECORDS_MAX
        for start in range(0, len(kernels), size):
            part = _between(kernels, start, start + size)
            self._write(process, part, 0 if start else left_out, mark and f"{mark}/{start}")

    def _write(self, process: Process, kernels: Kernels, left_out: int, mark: str) -> None:
        if len(kernels) > 1 and _names_chars(kernels) > BLOCK_NAMES_CHARS_MAX:
            half = len(kernels) // 2
            self._write(process, _between(kernels, 0, half), left_out, mark and f"{mark}a")
            self._write(process, _between(kernels, half, len(kernels)), 0, mark and f"{mark}b")
            return
        if mark and self._segments.known(mark):
            return
        lost = self._lost.get(process, 0)
        told, data = raw_block.encode(process, kernels, left_out=left_out, lost=lost, mark=mark)
        if self._attempt(lambda: self._segments.put(told, data)):
            self._lost.pop(process, None)
            return
        self._unreported += len(kernels)
        self._lost[process] = lost + len(kernels)
        while len(self._lost) > WAITING_PROCESSES_MAX:
            self._lost.popitem(last=False)

    def _attempt(self, act: Callable[[], None]) -> bool:
        """Whether the disk let us; why not is told until it does."""
        try:
            act()
        except BlockingIOError:
            self._trouble = f"another agent holds {self._segments.directory} (directory in [agent.raw_ring])"
        except OSError as error:
            self._trouble = f"{self._segments.directory}: {error.strerror or error}"
        else:
            self._trouble = ""
        return not self._trouble


def _joined(parts: list[Kernels]) -> Kernels:
    if len(parts) == 1:
        return parts[0]
    return Kernels(
        start_ns=np.concatenate([part.start_ns for part in parts]),
        duration_ns=np.concatenate([part.duration_ns for part in parts]),
        name_id=np.concatenate([part.name_id for part in parts]),
        category=np.concatenate([part.category for part in parts]),
        device=np.concatenate([part.device for part in parts]),
        stream=np.concatenate([part.stream for part in parts]),
        step=np.concatenate([part.step for part in parts]),
        names=parts[0].names,
    )


def _between(kernels: Kernels, start: int, stop: int) -> Kernels:
    """The records at these positions, without a copy."""
    if start == 0 and stop >= len(kernels):
        return kernels
    return Kernels(
        start_ns=kernels.start_ns[start:stop],
        duration_ns=kernels.duration_ns[start:stop],
        name_id=kernels.name_id[start:stop],
        category=kernels.category[start:stop],
        device=kernels.device[start:stop],
        stream=kernels.stream[start:stop],
        step=kernels.step[start:stop],
        names=kernels.names,
    )


def _names_chars(kernels: Kernels) -> int:
    """Characters of the names; of all names first, since those that are used take a pass to tell."""
    if sum(map(len, kernels.names)) <= BLOCK_NAMES_CHARS_MAX:
        return 0
    return sum(len(kernels.names[index]) for index in np.unique(kernels.name_id))
