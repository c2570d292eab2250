"""PyTorch profiler (Kineto) traces: read once from a file, or picked up live from the folder a job writes them to."""

from __future__ import annotations

import fnmatch
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from warpline_proto.capture import KERNELS, Capture
from warpline_proto.errors import Denied, Refused, Unsupported

from ..identity import stamp
from ..kernels import Kernels, clean_name, digest
from ..parsers import values
from ..parsers.kineto import Trace, read_trace
from ..parsers.kineto_cpu import cpu_collective_rows, with_cpu_times
from ..parsers.kineto_rows import (
    Distributed,
    communicator_rows,
    distributed,
    group_memberships,
    phase_rows,
    told_collectives,
)
from ..raw_block import Process
from ..raw_capture import deliver
from ..raw_ring import RawRing
from ..raw_rows import recorded_rows
from ..recordings.archive import Limits, file_input
from ..source import Delivered, Health, Input, Origin, Reading, Rows
from ..timeline import collective_rows, timeline_facts, timeline_rows

_KINETO: Final = re.compile(
    rb'"(?:deviceProperties|computeProperties|baseTimeNanoseconds)"\s*:'
    rb'|"cat"\s*:\s*"(?:kernel|Kernel|cpu_op|Operator|cuda_runtime|cuda_driver|Runtime|user_annotation'
    rb'|gpu_user_annotation|gpu_memcpy|gpu_memset|python_function|cpu_instant_event|ac2g|async_cpu_to_gpu)"'
)
_RANK_IN_NAME: Final = re.compile(r"(?<![A-Za-z])(worker|rank)([-_]?)\d+")
_MOMENT_IN_NAME: Final = re.compile(r"(?<=[._-])\d{10,19}(?=[._-])[._-]")
_HOST_KEYS: Final = ("host_name", "hostname")
_RUN_KEYS: Final = ("run_id", "mast_job_name", "job_id")


class Kineto:
    """One trace of one rank."""

    name = "kineto"

    def recognises(self, candidate: Input) -> bool:
        """A JSON object or array whose first part has what only Kineto writes; other Chrome traces are left alone."""
        return candidate.head.lstrip()[:1] in (b"{", b"[") and bool(_KINETO.search(candidate.head))

    def read(self, candidate: Input) -> Reading:
        """Steps, clusters, names, collectives, communicators and phases of the trace."""
        return _reading(_trace(candidate), candidate.name)


def _trace(candidate: Input) -> Trace:
    with candidate.open() as stream:
        return read_trace(stream)


def _reading(trace: Trace, name: str) -> Reading:
    job = distributed(trace.members)
    content = digest(trace.kernels)
    node = _first(trace.members, _HOST_KEYS)
    clock = _clock(node, content)
    phases, phases_dropped = phase_rows(trace, job, clock)
    rows = timeline_rows(trace.kernels, with_cpu_times(trace), rank=job.rank, clock=clock, whole=trace.whole)
    told = told_collectives(trace, job)
    rows += [
        collective_rows(trace.kernels, trace.launch_ns, told, rank=job.rank, clock=clock),
        cpu_collective_rows(trace, job, clock),
        Rows("communicators", communicator_rows(job)),
        Rows("phases", phases, phases_dropped + trace.annotations_dropped),
    ]
    origin = Origin(
        run_id=_first(trace.members, _RUN_KEYS),
        rank=job.rank,
        world_size=job.world_size,
        communicators=group_memberships(job),
        node=node,
        content=content,
        sibling=_sibling(name),
    )
    raw = partial(recorded_rows, trace.kernels, clock)
    return Reading([each for each in rows if each.batch.num_rows], _facts(trace, job), origin, _notes(trace), [raw])


def _clock(node: str | None, content: str | None) -> str | None:
    """Times of one host can be compared. Where no host is named, only times of one and the same trace can."""
    if node is not None:
        return f"trace@{node}"
    return f"trace@{content[:16]}" if content is not None else None


def _first(members: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    found = next((text for key in keys if (text := values.text(members.get(key)))), None)
    return None if found is None else clean_name(found)[:200]


def _sibling(name: str) -> str | None:
    """The name without rank and moment, where it has a rank: `worker3_step_12.1694128201554` -> `worker*_step_12`."""
    if not _RANK_IN_NAME.search(name):
        return None
    return _MOMENT_IN_NAME.sub("", _RANK_IN_NAME.sub(r"\1\2*", name, count=1))


def _facts(trace: Trace, job: Distributed) -> dict[str, Any]:
    properties = trace.members.get("deviceProperties") or trace.members.get("computeProperties")
    named = [values.text(values.mapping(each).get("name")) for each in properties] if values.is_list(properties) else []
    names = [clean_name(each) for each in named if each]
    return {
        "events": trace.events,
        "malformed_events": trace.malformed,
        "rank": job.rank,
        "world_size": job.world_size,
        "steps": len(trace.steps),
        "gpu_names": {each: names.count(each) for each in dict.fromkeys(names)},
        "nccl_version": job.library_version,
    } | timeline_facts(trace.kernels)


def _notes(trace: Trace) -> list[str]:
    notes = []
    if not len(trace.kernels):
        seen = ", ".join(sorted(clean_name(each) for each in trace.categories)[:8]) or "no events with a duration"
        notes.append(f"no GPU activity was recorded (only {seen}): GPU times are not known")
    if trace.malformed:
        notes.append(f"{trace.malformed} events without a name, or with times that are none, were left out")
    if trace.records_dropped:
        notes.append(f"{trace.records_dropped} records of GPU activity beyond the bound were left out")
    if trace.annotations_dropped:
        notes.append(f"{trace.annotations_dropped} annotations beyond the bound were left out")
    return notes


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
                trace = _trace(self._input(path))
                read = _reading(trace, path.name)
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
            process = Process.of(_clock(origin.node, origin.content), **self._owner(origin))
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
