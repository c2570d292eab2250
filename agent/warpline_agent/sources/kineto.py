"""PyTorch profiler (Kineto) traces: read once from a file, or picked up live from the folder a job writes them to."""

from __future__ import annotations

import fnmatch
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from warpline_proto.capture import KERNELS, Capture
from warpline_proto.errors import Denied, Refused, Unsupported

from ..identity import stamp
from ..kernels import Kernels
from ..kineto_reading import clock_of, reading_of, trace_of
from ..raw_block import Process
from ..raw_capture import deliver
from ..raw_ring import RawRing
from ..recordings.archive import Limits, file_input
from ..source import Delivered, Health, Input, Origin, Reading, Rows

_KINETO: Final = re.compile(
    rb'"(?:deviceProperties|computeProperties|baseTimeNanoseconds)"\s*:'
    rb'|"cat"\s*:\s*"(?:kernel|Kernel|cpu_op|Operator|cuda_runtime|cuda_driver|Runtime|user_annotation'
    rb'|gpu_user_annotation|gpu_memcpy|gpu_memset|python_function|cpu_instant_event|ac2g|async_cpu_to_gpu)"'
)


class Kineto:
    """One trace of one rank."""

    name = "kineto"

    def recognises(self, candidate: Input) -> bool:
        """A JSON object or array whose first part has what only Kineto writes; other Chrome traces are left alone."""
        return candidate.head.lstrip()[:1] in (b"{", b"[") and bool(_KINETO.search(candidate.head))

    def read(self, candidate: Input) -> Reading:
        """Steps, clusters, names, collectives, communicators and phases of the trace."""
        return reading_of(trace_of(candidate), candidate.name)


@dataclass(frozen=True)
class KinetoConfig:
    """Where a job writes its traces. Without a directory the source is off.

    `job` names the job the folder belongs to; empty, it is the run id in the trace, else the name of the folder.
    """

    directory: str = ""
    job: str = ""
    pattern: str = "*.json*"
    period_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.period_seconds <= 0:
            raise ValueError(f"period_seconds {self.period_seconds} is not above zero")


DEFAULTS: Final = KinetoConfig()
FILES_KNOWN_MAX: Final = 10_000
"""Files remembered as read; of a folder with more, only the newest are looked at."""
FILES_A_ROUND_MAX: Final = 4
"""Files read in one round, so that a folder full of traces does not hold up the other sources."""
FILE_BYTES_MAX: Final = 2 * 1024 * 1024 * 1024
"""Unpacked size beyond which a live trace is refused."""

Mark = tuple[int, int, int]
"""Inode, size and time of change (ns) of a file: equal in two rounds means that nobody writes it any more."""


class KinetoFolder:
    """Watches one folder for traces; a file is read once, in the round after the one in which it stopped growing."""

    name = "kineto"
    Config = KinetoConfig
    captures = frozenset({KERNELS})

    def __init__(
        self, config: KinetoConfig = DEFAULTS, listing: Callable[[Path], Iterable[Path]] | None = None
    ) -> None:
        self.period_seconds = config.period_seconds
        self._config = config
        self._listing = listing or _files
        self._seen: OrderedDict[Path, Mark] = OrderedDict()
        self._done: OrderedDict[Path, Mark] = OrderedDict()
        self._refused: dict[str, str] = {}
        self._ring: RawRing | None = None

    def keep_raw_in(self, ring: RawRing) -> None:
        """Keep the kernels of the traces there."""
        self._ring = ring

    def open(self) -> None:
        """Unsupported where no folder is configured or it does not exist, Denied where it may not be listed."""
        if not self._config.directory:
            raise Unsupported("no folder of traces is configured", "set directory in [sources.kineto]")
        folder = Path(self._config.directory)
        if not folder.is_dir():
            raise Unsupported(f"{folder} is not a folder", "create it, or set directory in [sources.kineto]")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise Denied(f"{folder} may not be listed", "let the agent's user read it")
        if self._ring is not None:
            self._ring.open()

    def read(self) -> Iterable[Rows]:
        """Rows of the traces that became complete since the last round."""
        self._refused = {}
        rows: list[Rows] = []
        ready = self._ready()
        for path, mark in ready[:FILES_A_ROUND_MAX]:
            _remember(self._done, path, mark)
            try:
                trace = trace_of(self._input(path))
                read = reading_of(trace, path.name)
            except Refused as error:
                self._refused[str(path)] = str(error)
            else:
                rows += self._owned(read)
                self._keep_raw(trace.kernels, read.origin)
        if self._ring is not None:
            rows += self._ring.end_round()
        return rows

    def _owned(self, read: Reading) -> Iterable[Rows]:
        for rows in read.rows:
            yield rows._replace(batch=stamp(rows.batch, **self._owner(read.origin)))

    def _owner(self, origin: Origin) -> dict[str, Any]:
        job = self._config.job or origin.run_id or Path(self._config.directory).resolve().name
        return {"job": job, "rank": origin.rank, "node": origin.node}

    def _keep_raw(self, kernels: Kernels, origin: Origin) -> None:
        if self._ring is not None and len(kernels):
            process = Process.of(clock_of(origin.node, origin.content), **self._owner(origin))
            self._ring.append(process, kernels, mark=origin.content or "")

    def capture(self, request: Capture) -> Iterable[Rows | Delivered]:
        """Kernels of a time of which a trace was read; Denied otherwise: the training process decides when it writes one."""
        held = self._ring is not None and self._ring.blocks(request.job, request.rank)
        if self._ring is None or not held:
            raise Denied(
                "the training process decides when it records a trace",
                f"let the profiler of rank {request.rank} record some steps into {self._config.directory}",
            )
        return deliver(self._ring, request)

    def health(self) -> Iterable[Health]:
        """The files of the last round that could not be read, each with the reason, and how the raw ring fares."""
        yield from (Health(path, "refused", reason) for path, reason in self._refused.items())
        if self._ring is not None:
            yield from self._ring.health()

    def close(self) -> None:
        """Forget what was seen but not read; the raw ring stays on disk."""
        self._seen.clear()
        if self._ring is not None:
            self._ring.close()

    def _ready(self) -> list[tuple[Path, Mark]]:
        ready = []
        for path in self._listing(Path(self._config.directory)):
            mark = _mark(path) if fnmatch.fnmatch(path.name, self._config.pattern) else None
            if mark is None or self._done.get(path) == mark:
                continue
            if self._seen.get(path) == mark:
                ready.append((path, mark))
            _remember(self._seen, path, mark)
        return ready

    def _input(self, path: Path) -> Input:
        found = file_input(path, str(path), Limits(file_bytes=FILE_BYTES_MAX))
        if not Kineto().recognises(found):
            raise Refused("not a Kineto trace", "narrow `pattern` in [sources.kineto]")
        return found


def _files(folder: Path) -> list[Path]:
    """Newest FILES_KNOWN_MAX regular files of the folder, oldest first."""
    try:
        with os.scandir(folder) as entries:
            found = [(each.stat().st_mtime_ns, each.path) for each in entries if each.is_file(follow_symlinks=False)]
    except OSError as error:
        raise Denied(f"{folder} cannot be listed: {error.strerror}") from error
    return [Path(path) for _, path in sorted(found)[-FILES_KNOWN_MAX:]]


def _mark(path: Path) -> Mark | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _remember(known: OrderedDict[Path, Mark], path: Path, mark: Mark) -> None:
    known[path] = mark
    known.move_to_end(path)
    while len(known) > FILES_KNOWN_MAX:
        known.popitem(last=False)
