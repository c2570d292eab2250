"""Kineto traces (PyTorch profiler): the events that speak of the GPU, of steps and of collectives, and nothing else.

Kineto writes Chrome traces. Categories were capitalised before 2022 (`Kernel`, `Memcpy`, `Runtime`, `Operator`); times are
microseconds, whole before 2024 and with three decimals since, and count from `baseTimeNanoseconds` where that is given.
CPU operators, Python frames and flow arrows, nine tenths of a file, are passed over; only where the job itself runs on CPUs
are the operators its compute. Of the members beside the events only WANTED are looked at: a trace may hold the whole
environment of the job, with tokens in it.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from ..kernels import (
    COMPUTE,
    MEMCPY,
    MEMSET,
    RECORDS_MAX,
    TIME_NS_MAX,
    KernelLog,
    Kernels,
    StepSpan,
    Times,
    clean_name,
    steps_at,
    union_ns,
)
from .chrome_trace import ChromeTrace, nanoseconds

WANTED: Final = (
    "deviceProperties",
    "computeProperties",
    "distributedInfo",
    "baseTimeNanoseconds",
    "schemaVersion",
    "host_name",
    "hostname",
    "mast_job_name",
    "job_id",
    "run_id",
)
ANNOTATIONS_MAX: Final = 50_000
"""Annotations kept of one trace; more are counted only."""
CATEGORIES_MAX: Final = 64
"""Categories of events that are counted by name."""
ARGUMENTS_MAX: Final = 1_000_000
"""Communication kernels of which is kept what PyTorch wrote beside them."""
COLLECTIVE_ARGUMENTS: Final = frozenset(
    {
        "Collective name",
        "In msg nelems",
        "Out msg nelems",
        "Group size",
        "dtype",
        "Process Group Name",
        "Process Group Description",
        "Process Group Ranks",
        "Src Rank",
        "Dst Rank",
    }
)
OPERATORS_MAX: Final = 4_000_000
"""CPU operators kept of a trace of a job on CPUs; with more of them its compute times are not known."""
CPU_BACKENDS: Final = frozenset({"gloo", "mpi"})
"""Backends of torch.distributed that connect CPUs."""
CPU_COLLECTIVES: Final = tuple(f"{backend}:" for backend in sorted(CPU_BACKENDS))
"""How annotations of the collectives of these backends begin."""
_CPU_COMMUNICATION: Final = ("c10d::", "record_param_comms", "torch.distributed.", *CPU_COLLECTIVES)
_STEP: Final = re.compile(r"ProfilerStep#(\d{1,18})$")
_OPERATOR_ANNOTATIONS: Final = ("ProfilerStep#", "enumerate(", "Optimizer.")
"""Annotations that old traces file under `Operator`, among the operators."""


@dataclass(frozen=True)
class Annotation:
    """A named stretch of the program on the CPU."""

    name: str
    start_ns: int
    duration_ns: int


@dataclass(frozen=True)
class Operators:
    """CPU operators of a job on CPUs, ns; `communicates` where an operator starts or ends communication."""

    start_ns: Times
    end_ns: Times
    communicates: npt.NDArray[np.bool_]


@dataclass
class Trace:
    """What one trace says. `launch_ns` is when each record of `kernels` was launched on the CPU, -1 where not known.

    `operators` are None where the job does not run on CPUs, or where there are more than OPERATORS_MAX.
    """

    kernels: Kernels
    launch_ns: Times
    steps: list[StepSpan] = field(default_factory=list)
    annotations: list[Annotation] = field(default_factory=list)
    collective_arguments: dict[int, dict[str, Any]] = field(default_factory=dict)
    members: dict[str, Any] = field(default_factory=dict)
    operators: Operators | None = None
    whole: tuple[int, int] | None = None
    events: int = 0
    malformed: int = 0
    annotations_dropped: int = 0
    records_dropped: int = 0
    categories: dict[str, int] = field(default_factory=dict)


def read_trace(stream: BinaryIO) -> Trace:
    """One pass over a trace; Refused where it is damaged or no trace.

    A record belongs to the step in which the CPU launched it (launch and record share a correlation number; backward passes
    launch from other threads, so only time counts, not the thread). Where the launch was not recorded, and where steps are
    marked on the GPU alone, it belongs to the step in whose time it started.
    """
    chrome = ChromeTrace(stream, WANTED)
    events = _Events(chrome.members)
    for event in chrome.events():
        events.take(event)
    base = chrome.members.get("baseTimeNanoseconds")
    return events.finish(chrome, base if type(base) is int and 0 <= base < TIME_NS_MAX else 0)


class _Events:
    """Sorts events by category into columns."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._members = members
        self._operators = (array("q"), array("q"), array("b"))
        self._operators_wanted: bool | None = None
        self._log = KernelLog()
        self._correlations = array("q")
        self._launches: dict[int, int] = {}
        self._returns: dict[int, int] = {}
        self._annotations: list[Annotation] = []
        self._gpu_steps: list[Annotation] = []
        self._arguments: dict[int, dict[str, Any]] = {}
        self._categories: dict[str, int] = {}
        self._malformed = 0
        self._dropped = 0
        self._records_dropped = 0
        self._texts: dict[str, str] = {}
        launch, annotation = self._launch, self._annotation
        self._takers: dict[str, Callable[[dict[str, Any]], None]] = {
            "kernel": lambda event: self._record(event, COMPUTE),
            "gpu_memcpy": lambda event: self._record(event, MEMCPY),
            "gpu_memset": lambda event: self._record(event, MEMSET),
            "cuda_runtime": launch,
            "cuda_driver": launch,
            "user_annotation": annotation,
            "gpu_user_annotation": self._gpu_annotation,
            "Operator": self._operator,
            "cpu_op": self._cpu_operator,
        }
        older = {"Kernel": "kernel", "Memcpy": "gpu_memcpy", "Memset": "gpu_memset", "Runtime": "cuda_runtime"}
        self._takers |= {old: self._takers[new] for old, new in older.items()}

    def take(self, event: dict[str, Any]) -> None:
        if event.get("ph") != "X":
            return
        category = event.get("cat")
        if type(category) is not str:
            return
        if category in self._categories or len(self._categories) < CATEGORIES_MAX:
            self._categories[category] = self._categories.get(category, 0) + 1
        taker = self._takers.get(category)
        if taker is None:
            return
        try:
            taker(event)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            self._malformed += 1

    def _record(self, event: dict[str, Any], category: int) -> None:
        if len(self._log) >= RECORDS_MAX:
            self._records_dropped += 1
            return
        arguments = event.get("args") or {}
        name = self._log.name_id(_text(event["name"]), category)
        device = _number(arguments.get("device", event.get("pid")), 31)
        stream = _number(arguments.get("stream", event.get("tid")), 63)
        self._log.append(_time(event["ts"]), _time(event["dur"]), name, device, stream)
        self._correlations.append(_number(arguments.get("correlation"), 63))
        told = "Collective name" in arguments or "Process Group Name" in arguments
        if told and len(self._arguments) < ARGUMENTS_MAX:
            chosen = {key: self._once(arguments[key]) for key in arguments if key in COLLECTIVE_ARGUMENTS}
            self._arguments[len(self._log) - 1] = chosen

    def _once(self, value: object) -> object:
        """Equal texts as one object: every collective of a group repeats the list of its ranks."""
        return self._texts.setdefault(value, value) if isinstance(value, str) else value

    def _launch(self, event: dict[str, Any]) -> None:
        correlation = _number((event.get("args") or {}).get("correlation"), 63)
        if correlation >= 0 and len(self._launches) < RECORDS_MAX:
            start_ns = self._launches[correlation] = _time(event["ts"])
            if "dur" in event:
                self._returns[correlation] = start_ns + _time(event["dur"])

    def _annotation(self, event: dict[str, Any]) -> None:
        if len(self._annotations) >= ANNOTATIONS_MAX:
            self._dropped += 1
            return
        name, start, duration = _text(event["name"]), _time(event["ts"]), _time(event["dur"])
        self._annotations.append(Annotation(clean_name(name), start, duration))

    def _gpu_annotation(self, event: dict[str, Any]) -> None:
        name = _text(event["name"])
        if name.startswith("ProfilerStep#"):
            self._gpu_steps.append(Annotation(name, _time(event["ts"]), _time(event["dur"])))

    def _operator(self, event: dict[str, Any]) -> None:
        if _text(event["name"]).startswith(_OPERATOR_ANNOTATIONS):
            self._annotation(event)

    def _cpu_operator(self, event: dict[str, Any]) -> None:
        if self._operators_wanted is None:
            self._operators_wanted = _on_cpu(self._members)
        if not self._operators_wanted or len(self._operators[0]) > OPERATORS_MAX:
            return
        start, duration, name = _time(event["ts"]), _time(event["dur"]), _text(event["name"])
        for column, value in zip(
            self._operators, (start, start + duration, name.startswith(_CPU_COMMUNICATION)), strict=True
        ):
            column.append(value)

    def _cpu_operators(self, base_ns: int) -> Operators | None:
        start, end, communicates = self._operators
        if not self._operators_wanted or len(self._log) or len(start) > OPERATORS_MAX:
            return None
        return Operators(
            np.array(start, dtype=np.int64) + base_ns,
            np.array(end, dtype=np.int64) + base_ns,
            np.array(communicates, dtype=np.bool_),
        )

    def _of_launch(self, times: Mapping[int, int], base_ns: int) -> Times:
        """A time of the launch of each record, -1 where it is not known."""
        found = np.array([times.get(each, -1 - base_ns) for each in self._correlations], dtype=np.int64)
        return found + np.int64(base_ns)

    def finish(self, chrome: ChromeTrace, base_ns: int) -> Trace:
        launch = self._of_launch(self._launches, base_ns)
        kernels = replace(self._log.finish(base_ns), launched_ns=self._of_launch(self._returns, base_ns))
        moved = [replace(each, start_ns=each.start_ns + base_ns) for each in self._annotations]
        on_gpu = [replace(each, start_ns=each.start_ns + base_ns) for each in self._gpu_steps]
        steps = _steps(moved) or _steps(on_gpu)
        launch_known = bool(_steps(moved)) & (launch >= 0)
        times = np.where(launch_known, launch, kernels.start_ns)
        return Trace(
            kernels=kernels.with_steps(steps_at(times, steps)),
            launch_ns=launch,
            steps=_with_data_wait(steps, moved),
            annotations=[each for each in moved if not _STEP.match(each.name)],
            collective_arguments=self._arguments,
            members=dict(chrome.members),
            operators=self._cpu_operators(base_ns),
            whole=_whole(kernels, launch, moved),
            events=chrome.count,
            malformed=self._malformed,
            annotations_dropped=self._dropped,
            records_dropped=self._records_dropped,
            categories=self._categories,
        )


def _on_cpu(members: Mapping[str, Any]) -> bool:
    """Whether the job runs on CPUs, as far as was told before the first event: a CPU backend, and no GPU in sight."""
    told = members.get("distributedInfo")
    backend = told.get("backend") if type(told) is dict else None
    return backend in CPU_BACKENDS and not members.get("deviceProperties")


def _steps(annotations: list[Annotation]) -> list[StepSpan]:
    found = [(each, match) for each in annotations if (match := _STEP.match(each.name))]
    spans = [StepSpan(int(match[1]), each.start_ns, each.duration_ns) for each, match in found]
    return sorted(spans, key=lambda span: span.start_ns)


def _with_data_wait(steps: list[StepSpan], annotations: list[Annotation]) -> list[StepSpan]:
    """Steps with the time in which the program waited for its data loader; unknown where the trace marks none at all."""
    waits = [each for each in annotations if each.name.startswith("enumerate(")]
    if not waits:
        return steps
    start = np.array([each.start_ns for each in waits], dtype=np.int64)
    end = start + np.array([each.duration_ns for each in waits], dtype=np.int64)
    filled = []
    for step in steps:
        low, high = step.start_ns, step.start_ns + step.duration_ns
        filled.append(replace(step, data_wait_ns=union_ns(np.clip(start, low, high), np.clip(end, low, high))))
    return filled


def _whole(kernels: Kernels, launch_ns: Times, annotations: list[Annotation]) -> tuple[int, int] | None:
    """Start and duration of all that is kept: launches, annotations and GPU activity."""
    starts = [int(kernels.start_ns.min())] if len(kernels) else []
    ends = [int(kernels.end_ns.max())] if len(kernels) else []
    starts += [int(launch_ns[launch_ns >= 0].min())] if (launch_ns >= 0).any() else []
    starts += [each.start_ns for each in annotations]
    ends += [each.start_ns + each.duration_ns for each in annotations]
    return (min(starts), max(ends) - min(starts)) if ends else None


def _time(value: object) -> int:
    """Nanoseconds that can still be added to a base and to each other within 64 bits."""
    time_ns = nanoseconds(value)
    if not -TIME_NS_MAX < time_ns < TIME_NS_MAX:
        raise ValueError("a time beyond every clock")
    return time_ns


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError("a name that is no text")
    return value


def _number(value: object, bits: int) -> int:
    """A whole number that fits, else -1: identifiers of any size occur and must not end the reading."""
    return value if type(value) is int and 0 <= value < 2**bits else -1
