"""Kernels: GPU activity as columns, the one form in which every timeline source hands over what ran on a GPU.

A trace file, an Nsight export and a live ring of activity records all become one `Kernels` through a `KernelLog`; what is
told about them (times per step, clusters, names) is computed from there and nowhere else. A live source appends the
records it has decoded since its last round, calls `finish`, and hands the result to `step_rows`, `name_rows` and
`compressor.compress`.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warpline_proto.tables import KERNEL_NAMES, STEPS

from . import launch_gaps
from .parsers import nccl
from .scrub import scrub

CATEGORIES: Final = ("compute", "communication", "memcpy", "memset")
COMPUTE, COMMUNICATION, MEMCPY, MEMSET = range(4)
NO_STEP: Final = -1
"""Step of activity outside any step."""
NAME_CHARS_MAX: Final = 4096
"""Kernel names are cut here (a templated C++ name can run to hundreds of kilobytes); the identifier is that of the cut."""
RECORDS_MAX: Final = 20_000_000
"""Records that a reader keeps of one recording; further ones are counted as dropped."""
TIME_NS_MAX: Final = 2**61
"""Larger times (the year 2043 as nanoseconds) are damage."""
NAMES_MAX: Final = 100_000
"""Names told apart in one recording; a program has a few thousand kernels."""
NAMES_KNOWN: Final = 4_096
"""Names whose identifiers are remembered: a program has the same ones in each step."""
NAME_BEYOND: Final = "(one of the names beyond the bound)"
_SECRET_CHARS: Final = 256
"""A secret that the cut would halve is still seen whole when so much more is looked at."""
DISTINCTIVE_RECORDS_MIN: Final = 16
"""With fewer kernels than this the pattern of their times alone does not tell one run from another."""

Times = npt.NDArray[np.int64]
_NOTHING: Final = np.zeros(0, dtype=np.int64)

# Communication that does not go through NCCL, and the operation it carries out. Reductions within a block or a warp are
# called all-reduce too and are not meant.
_OWN: Final = r"(?<!block)(?<!warp)(?<!block_)(?<!warp_)"
_OTHER_COMMUNICATION: Final[tuple[tuple[re.Pattern[str], str | None], ...]] = (
    (re.compile(r"cross_device_reduce|quick_?reduce::"), "all_reduce"),
    (re.compile(rf"{_OWN}all_?reduce"), "all_reduce"),
    (re.compile(rf"{_OWN}reduce_?scatter(?!_elementwise)"), "reduce_scatter"),
    (re.compile(r"all_?gather"), "all_gather"),
    (re.compile(r"all_?to_?all|deep_ep::\w*::?(?:dispatch|combine)"), "all_to_all"),
    (re.compile(r"nvshmem|userbuffers|deep_ep::|mscclpp"), None),
)


def categorise(name: str) -> int:
    """COMMUNICATION or COMPUTE by the name of a kernel (copies and sets are told apart by their record, not their name)."""
    lowered = name.lower()
    own = any(pattern.search(lowered) for pattern, _ in _OTHER_COMMUNICATION)
    return COMMUNICATION if own or nccl.is_kernel(name) else COMPUTE


def kernel_operation(name: str) -> str | None:
    """The collective operation that a communication kernel carries out, None where its name does not say."""
    if nccl.is_kernel(name):
        return nccl.kernel(name).operation
    lowered = name.lower()
    return next((operation for pattern, operation in _OTHER_COMMUNICATION if pattern.search(lowered)), None)


@lru_cache(maxsize=NAMES_KNOWN)
def kernel_id(name: str) -> int:
    """First 63 bits of the BLAKE2b hash of the name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def clean_name(name: str) -> str:
    """A name as it may be passed on: scrubbed, at most NAME_CHARS_MAX long, fit to be written as UTF-8."""
    seen = name[: NAME_CHARS_MAX + _SECRET_CHARS].encode("utf-8", "replace").decode("utf-8")
    return scrub(seen)[:NAME_CHARS_MAX]


@dataclass(frozen=True)
class Kernels:
    """GPU activity in no particular order; all arrays have one length.

    start_ns and duration_ns int64 (ns, on one clock; a duration of zero or less, as profilers emit them, stays as it is);
    name_id int32 into `names`, each scrubbed and at most NAME_CHARS_MAX long; category uint8 into CATEGORIES; device int32
    as the process numbers it, -1 unknown; stream int64, -1 unknown; step int64, NO_STEP outside any step; launched_ns when the
    call that launched it returned, on the same clock, -1 unknown, or None where no launch is known.
    """

    start_ns: Times
    duration_ns: Times
    name_id: npt.NDArray[np.int32]
    category: npt.NDArray[np.uint8]
    device: npt.NDArray[np.int32]
    stream: Times
    step: Times
    names: tuple[str, ...]
    launched_ns: Times | None = None

    def __len__(self) -> int:
        return int(self.start_ns.size)

    @property
    def end_ns(self) -> Times:
        """End of each record, ns."""
        return self.start_ns + self.duration_ns

    def select(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Kernels:
        """The records of a mask or of positions, with the same names."""
        return replace(
            self,
            start_ns=self.start_ns[chosen],
            duration_ns=self.duration_ns[chosen],
            name_id=self.name_id[chosen],
            category=self.category[chosen],
            device=self.device[chosen],
            stream=self.stream[chosen],
            step=self.step[chosen],
            launched_ns=None if self.launched_ns is None else self.launched_ns[chosen],
        )

    def with_steps(self, step: Times) -> Kernels:
        """The same records, given to these steps."""
        return replace(self, step=step)

    def moved(self, offset_ns: int) -> Kernels:
        """The same records, `offset_ns` later."""
        launched = self.launched_ns
        later = None if launched is None else np.where(launched == launch_gaps.UNKNOWN, launched, launched + offset_ns)
        return replace(self, start_ns=self.start_ns + offset_ns, launched_ns=later)

    def kernel_ids(self) -> Times:
        """`kernel_id` of each name, in the order of `names`."""
        return np.array([kernel_id(name) for name in self.names], dtype=np.int64)


class KernelLog:
    """Collects records one by one and makes them `Kernels`."""

    def __init__(self) -> None:
        self._start = array("q")
        self._duration = array("q")
        self._name = array("i")
        self._device = array("i")
        self._stream = array("q")
        self._names: dict[tuple[str, int], int] = {}
        self._categories = array("B")

    def __len__(self) -> int:
        return len(self._start)

    def name_id(self, name: str, category: int) -> int:
        """The number of a name; category COMPUTE stands for any kernel and becomes COMMUNICATION where the name says so."""
        found = self._names.get((name, category))
        if found is None and len(name) > NAME_CHARS_MAX + _SECRET_CHARS:
            return self.name_id(name[: NAME_CHARS_MAX + _SECRET_CHARS], category)
        if found is None and len(self._names) >= NAMES_MAX and name != NAME_BEYOND:
            return self.name_id(NAME_BEYOND, category)
        if found is None:
            found = self._names[name, category] = len(self._names)
            self._categories.append(categorise(name) if category == COMPUTE else category)
        return found

    def append(self, start_ns: int, duration_ns: int, name_id: int, device: int, stream: int) -> None:
        """One record; OverflowError, and nothing kept, where a value does not fit its column."""
        kept = len(self._start)
        columns = (self._start, self._duration, self._name, self._device, self._stream)
        try:
            for column, value in zip(columns, (start_ns, duration_ns, name_id, device, stream), strict=True):
                column.append(value)
        except OverflowError:
            for column in columns:
                del column[kept:]
            raise

    def finish(self, offset_ns: int = 0) -> Kernels:
        """All records so far, `offset_ns` added to every start, none given to a step."""
        name_id = np.array(self._name, dtype=np.int32)
        categories = np.array(self._categories, dtype=np.uint8)
        return Kernels(
            start_ns=np.array(self._start, dtype=np.int64) + offset_ns,
            duration_ns=np.array(self._duration, dtype=np.int64),
            name_id=name_id,
            category=categories[name_id],
            device=np.array(self._device, dtype=np.int32),
            stream=np.array(self._stream, dtype=np.int64),
            step=np.full(name_id.size, NO_STEP, dtype=np.int64),
            names=tuple(clean_name(name) for name, _ in self._names),
        )


def union_ns(start_ns: Times, end_ns: Times) -> int:
    """Time covered by at least one of the intervals, ns; an interval that ends before it starts covers nothing."""
    if start_ns.size == 0:
        return 0
    order = np.argsort(start_ns, kind="stable")
    start, end = start_ns[order], end_ns[order]
    reached = np.maximum.accumulate(end)
    begin = start.copy()
    begin[1:] = np.maximum(begin[1:], reached[:-1])
    return int(np.maximum(end - begin, 0).sum())


def gaps_ns(start_ns: Times, end_ns: Times) -> Times:
    """Lengths of the times between the first start and the last end that none of the intervals covers, ns, in order of time."""
    if start_ns.size == 0:
        return _NOTHING
    order = np.argsort(start_ns, kind="stable")
    reached = np.maximum.accumulate(end_ns[order])
    gaps = start_ns[order][1:] - reached[:-1]
    return gaps[gaps > 0]


@dataclass(frozen=True)
class Activity:
    """Times of a set of records as the steps table defines them, ns; None where there is not one record."""

    records: int
    start_ns: int | None
    span_ns: int | None
    busy_ns: int
    compute_ns: int
    communication_ns: int
    exposed_communication_ns: int
    memcpy_ns: int

    @property
    def idle_ns(self) -> int | None:
        """Span less busy."""
        return None if self.span_ns is None else self.span_ns - self.busy_ns

    def columns(self) -> dict[str, int | None]:
        """Its times by the names they have in the steps table."""
        return {
            "span_ns": self.span_ns,
            "busy_ns": self.busy_ns,
            "compute_ns": self.compute_ns,
            "communication_ns": self.communication_ns,
            "exposed_communication_ns": self.exposed_communication_ns,
            "memcpy_ns": self.memcpy_ns,
            "idle_ns": self.idle_ns,
        }


def activity(kernels: Kernels) -> Activity:
    """How the records of one device share the time. Records of several devices are taken as if they ran on one."""
    start, end = kernels.start_ns, np.maximum(kernels.end_ns, kernels.start_ns)
    compute = kernels.category == COMPUTE
    communication = kernels.category == COMMUNICATION
    copies = kernels.category >= MEMCPY
    compute_ns = union_ns(start[compute], end[compute])
    first = int(start.min()) if start.size else None
    return Activity(
        records=len(kernels),
        start_ns=first,
        span_ns=None if first is None else int(end.max()) - first,
        busy_ns=union_ns(start, end),
        compute_ns=compute_ns,
        communication_ns=union_ns(start[communication], end[communication]),
        exposed_communication_ns=union_ns(start[~copies], end[~copies]) - compute_ns,
        memcpy_ns=union_ns(start[copies], end[copies]),
    )


@dataclass(frozen=True)
class CpuTimes:
    """How a step of a job that computes on CPUs used its time; columns of `steps`."""

    compute_ns: int
    communication_ns: int
    exposed_communication_ns: int


@dataclass(frozen=True)
class StepSpan:
    """One step as the framework marked it, or as `boundary` says; `data_wait_ns` and `cpu` are None where nothing tells them."""

    step: int
    start_ns: int
    duration_ns: int
    data_wait_ns: int | None = None
    cpu: CpuTimes | None = None
    boundary: str | None = None


def steps_at(times_ns: Times, spans: Sequence[StepSpan]) -> Times:
    """The step in which each moment lies, NO_STEP for the rest. `spans` are in order of time."""
    if not spans:
        return np.full(times_ns.shape, NO_STEP, dtype=np.int64)
    starts = np.array([span.start_ns for span in spans], dtype=np.int64)
    ends = np.array([span.start_ns + span.duration_ns for span in spans], dtype=np.int64)
    numbers = np.array([span.step for span in spans], dtype=np.int64)
    position = np.searchsorted(starts, times_ns, side="right") - 1
    inside = (position >= 0) & (times_ns < ends[position])
    return np.where(inside, numbers[position], NO_STEP)


def by_device(kernels: Kernels) -> Iterator[tuple[int, Kernels]]:
    """The records of each device, lowest number first."""
    devices = np.unique(kernels.device)
    for device in devices:
        yield int(device), kernels if devices.size == 1 else kernels.select(kernels.device == device)


def by_step(kernels: Kernels) -> dict[int, Kernels]:
    """The records of each step, NO_STEP among them."""
    order = np.argsort(kernels.step, kind="stable")
    steps, first = np.unique(kernels.step[order], return_index=True)
    return {int(step): kernels.select(part) for step, part in zip(steps, np.split(order, first[1:]), strict=True)}


def step_rows(
    kernels: Kernels, spans: Sequence[StepSpan], *, rank: int | None, clock: str | None, whole: tuple[int, int] | None
) -> pa.RecordBatch:
    """Rows of `steps`: for each device one row a step, and one of scope `trace` over `whole` (start, duration; ns).

    Without one record, what the GPU did is not known and those columns are NULL; a step in which nothing ran, while the
    trace has GPU activity elsewhere, is a measured zero.
    """
    rows: list[dict[str, object]] = []
    for device, records in by_device(kernels) if len(kernels) else ((None, None),):
        place = {"rank": rank, "clock": clock, "device": None if device is None or device < 0 else device}
        if whole is not None:
            rows.append(place | {"scope": "trace", "start_ns": whole[0], "duration_ns": whole[1]} | _times(records))
        parts = {} if records is None else by_step(records)
        for span in spans:
            part = None if records is None else parts.get(span.step, records.select(_NOTHING))
            row = {"scope": "step", "step": span.step, "start_ns": span.start_ns, "duration_ns": span.duration_ns}
            row |= {"data_wait_ns": span.data_wait_ns, "boundary": span.boundary}
            rows.append(place | row | ({} if span.cpu is None else asdict(span.cpu)) | _times(part))
    return STEPS.from_rows(rows)


def _times(kernels: Kernels | None) -> dict[str, object]:
    if kernels is None:
        return {}
    seen = activity(kernels)
    launched = kernels.select(kernels.category <= COMMUNICATION)  # copies may return after they ran
    launches = launch_gaps.columns(launched.start_ns, launched.launched_ns)
    return {**seen.columns(), **_gaps(kernels), **launches, "kernels": seen.records}


def _gaps(kernels: Kernels) -> dict[str, object]:
    """NULL where nothing ran or nothing was idle: then there is no typical gap."""
    gaps = gaps_ns(kernels.start_ns, np.maximum(kernels.end_ns, kernels.start_ns))
    if not gaps.size:
        return {"idle_gaps": 0 if len(kernels) else None}
    middle = np.sort(gaps)[gaps.size // 2]
    return {"idle_gaps": gaps.size, "idle_gap_p50_ns": int(middle), "idle_gap_max_ns": int(gaps.max())}


def name_rows(kernels: Kernels) -> pa.RecordBatch:
    """Rows of `kernel_names`: one for each kernel that ran, with the moment it was first seen."""
    if not len(kernels):
        return KERNEL_NAMES.empty()
    first = np.full(len(kernels.names), np.iinfo(np.int64).max, dtype=np.int64)
    np.minimum.at(first, kernels.name_id, kernels.start_ns)
    used, position = np.unique(kernels.name_id, return_index=True)
    return KERNEL_NAMES.from_columns(
        {
            "time_ns": first[used],
            "kernel_id": kernels.kernel_ids()[used],
            "name": [kernels.names[index] for index in used],
            "category": [CATEGORIES[code] for code in kernels.category[position]],
        }
    )


def digest(kernels: Kernels) -> str | None:
    """Digest of what was measured: when kernels ran, counted from the first of them, and for how long.

    Names and copies are left out because tools write them differently for one and the same run. Where there are too few
    kernels to be distinctive their names and the time of day count too. None without a record.
    """
    chosen = kernels.select(kernels.category <= COMMUNICATION)
    if not len(chosen):
        chosen = kernels
    if not len(chosen):
        return None
    order = np.lexsort((chosen.duration_ns, chosen.start_ns))
    first = int(chosen.start_ns[order[0]])
    state = hashlib.blake2b(digest_size=16)
    state.update(np.ascontiguousarray(chosen.start_ns[order] - first, dtype="<i8").tobytes())
    state.update(np.ascontiguousarray(chosen.duration_ns[order], dtype="<i8").tobytes())
    if len(chosen) < DISTINCTIVE_RECORDS_MIN:
        state.update(str(first).encode())
        state.update("\0".join(chosen.names[index] for index in chosen.name_id[order]).encode())
    return state.hexdigest()
