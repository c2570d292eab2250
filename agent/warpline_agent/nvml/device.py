"""Reads one GPU through pynvml by a plan: batched, each counter by the first way the device offers; runs in the NVML child."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .plan import Counter, Way

Value = int | float | str
GONE: Final = {15: "gpu_lost", 28: "gpu_lost", 16: "reset_required"}
"""NVML_ERROR_GPU_IS_LOST, GPU_NOT_FOUND and RESET_REQUIRED: nothing of this GPU can be read any more."""
NOT_OFFERED: Final = frozenset({2, 3, 13, 25, 26})
"""INVALID_ARGUMENT (a field this driver does not know), NOT_SUPPORTED, FUNCTION_NOT_FOUND, version mismatch, DEPRECATED."""
NO_PERMISSION: Final = 4
NOT_AVAILABLE: Final = frozenset({2**32 - 1, 2**64 - 1})
"""All bits set is how NVML writes a number it does not have."""
_VALUE_OF_TYPE: Final = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


class Gone(Exception):
    """The GPU is lost or must be reset; `code` is NVML's."""

    def __init__(self, code: int) -> None:
        super().__init__(GONE[code])
        self.code = code


class Trouble(Exception):
    """One call or field gave no value; `code` is NVML's, 0 for not yet."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Visit:
    """What one visit gave: values by column, and columns without a value with NVML's code (those not offered are final).

    `processes` are pid and bytes (None: not told) of those resident, None where they were not read.
    """

    values: dict[str, Value] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    processes: list[tuple[int, int | None]] | None = None


class Device:
    """One GPU: which ways still work, when each counter is due, and its last GPM sample."""

    def __init__(self, nvml: Any, handle: Any, counters: Iterable[Counter], stretch: float = 1) -> None:
        """`nvml` is pynvml or what stands for it; `stretch` multiplies all periods."""
        self._nvml = nvml
        self._handle = handle
        self._stretch = stretch
        self._counters = tuple(counters)
        self._ways = {item.column: list(item.ways) for item in self._counters}  # by name: hashing a counter takes long
        self._due_at: dict[str, float] = {}
        self._sooner = tuple(item for item in self._counters if item.sooner)
        self._seen: dict[str, float] = {}
        self._sooner_from: dict[str, float] = {}
        self._gpm_offered: bool | None = None
        self._gpm_sample: Any = None

    def visit(self, now: float) -> Visit:
        """Read every counter that is due at `now` (monotonic seconds); raises Gone."""
        due = [item for item in self._counters if self._ways[item.column] and self._due_at.get(item.column, now) <= now]
        for item in due:
            self._due_at[item.column] = now + (item.period_seconds - 0.5) * self._stretch
        visit = Visit()
        while due:
            due = self._attempt(due, visit)
        for item in self._sooner:
            self._hasten(item, visit, now)
        return visit

    def _hasten(self, item: Counter, visit: Visit, now: float) -> None:
        """Make a counter due with the next visit where what it hangs on has changed, no more than once a period."""
        value = visit.values.get(item.sooner)
        if not isinstance(value, int | float):
            return
        before = self._seen.get(item.column)
        if before is None or item.column in visit.values:
            self._seen[item.column] = value
        elif abs(value - before) >= item.change and now >= self._sooner_from.get(item.column, now):
            self._due_at[item.column] = now
            self._sooner_from[item.column] = now + item.period_seconds * self._stretch
            self._seen[item.column] = value

    def _attempt(self, counters: Sequence[Counter], visit: Visit) -> list[Counter]:
        """Try the present way of each counter; gives back those that have another way to try."""
        batch = self._fields({pair for item in counters for pair in self._ways[item.column][0].fields})
        metrics = self._metrics(sorted({self._ways[item.column][0].gpm for item in counters} - {0}))
        called: dict[tuple[str, tuple[int, ...]], Any] = {}
        again = []
        for item in counters:
            ways = self._ways[item.column]
            way = ways[0]
            try:
                visit.values[item.column] = _scaled(self._value(way, batch, metrics, called), way.scale)
                visit.values.update(way.also)
                visit.failed.pop(item.column, None)
                if way.part == "processes":
                    visit.processes = [_process(each) for each in called[way.call, way.arguments]]
            except Trouble as trouble:
                if trouble.code:
                    visit.failed[item.column] = trouble.code
                if trouble.code in NOT_OFFERED or trouble.code == NO_PERMISSION:
                    ways.pop(0)
                    again += [item] if ways else []
        return again

    def _value(
        self,
        way: Way,
        batch: dict[tuple[int, int], int | float | Trouble],
        metrics: dict[int, int | float | Trouble],
        called: dict[tuple[str, tuple[int, ...]], Any],
    ) -> int | float:
        if way.fields:
            return sum(_known(batch[pair]) for pair in way.fields)
        if way.gpm:
            return _known(metrics[way.gpm])
        key = (way.call, way.arguments)
        if key not in called:
            called[key] = self._call(way)
        answer = called[key]
        if isinstance(answer, Trouble):
            raise answer
        if way.part == "processes":
            return len({each.pid for each in answer})
        return _known(getattr(answer, way.part) if way.part else answer)

    def _call(self, way: Way) -> Any:
        function = getattr(self._nvml, way.call, None)
        if function is None:
            return Trouble(3)
        return self._guard(lambda: function(self._handle, *way.arguments))

    def _guard(self, work: Callable[[], Any]) -> Any:
        """The answer, or Trouble; raises Gone."""
        try:
            return work()
        except self._nvml.NVMLError as error:
            code = int(error.value)
            if code in GONE:
                raise Gone(code) from None
            return Trouble(code)

    def _fields(self, pairs: set[tuple[int, int]]) -> dict[tuple[int, int], int | float | Trouble]:
        """All field values in one call."""
        if not pairs:
            return {}
        wanted = sorted(pairs)
        answer = self._guard(lambda: self._nvml.nvmlDeviceGetFieldValues(self._handle, wanted))
        if isinstance(answer, Trouble):
            return dict.fromkeys(wanted, answer)
        return {pair: _field_value(each) for pair, each in zip(wanted, answer, strict=True)}

    def _metrics(self, ids: Sequence[int]) -> dict[int, int | float | Trouble]:
        """GPM metrics between the sample of the last time and one taken now."""
        if not ids:
            return {}
        if self._gpm_offered is None:
            support = self._guard(lambda: self._nvml.nvmlGpmQueryDeviceSupport(self._handle))
            self._gpm_offered = not isinstance(support, Trouble) and bool(support.isSupportedDevice)
        if not self._gpm_offered:
            return {each: Trouble(3) for each in ids}
        before, after = self._gpm_sample, self._guard(self._gpm_now)
        if isinstance(after, Trouble):
            return dict.fromkeys(ids, after)
        self._gpm_sample = after
        if before is None:
            return {each: Trouble(0) for each in ids}
        answer = self._guard(lambda: self._gpm_between(before, after, ids))
        self._guard(lambda: self._nvml.nvmlGpmSampleFree(before))
        if isinstance(answer, Trouble):
            return dict.fromkeys(ids, answer)
        return answer  # type: ignore[no-any-return]  # what _gpm_between returned

    def _gpm_now(self) -> Any:
        sample = self._nvml.nvmlGpmSampleAlloc()
        try:
            return self._nvml.nvmlGpmSampleGet(self._handle, sample)
        except self._nvml.NVMLError:
            self._nvml.nvmlGpmSampleFree(sample)
            raise

    def _gpm_between(self, before: Any, after: Any, ids: Sequence[int]) -> dict[int, int | float | Trouble]:
        request = self._nvml.c_nvmlGpmMetricsGet_t()
        request.version = self._nvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(ids)
        request.sample1, request.sample2 = before, after
        for position, each in enumerate(ids):
            request.metrics[position].metricId = each
        self._nvml.nvmlGpmMetricsGet(request)
        given = request.metrics[: len(ids)]
        return {
            each: Trouble(metric.nvmlReturn) if metric.nvmlReturn else float(metric.value)
            for each, metric in zip(ids, given, strict=True)
        }


def _field_value(answer: Any) -> int | float | Trouble:
    if answer.nvmlReturn in GONE:
        raise Gone(answer.nvmlReturn)
    if answer.nvmlReturn:
        return Trouble(answer.nvmlReturn)
    if not 0 <= answer.valueType < len(_VALUE_OF_TYPE):
        return Trouble(3)
    value: int | float = getattr(answer.value, _VALUE_OF_TYPE[answer.valueType])
    return value


def _known(value: Any) -> int | float:
    if isinstance(value, Trouble):
        raise value
    if not isinstance(value, int | float) or not math.isfinite(value) or value in NOT_AVAILABLE:
        raise Trouble(0)
    return value


def _process(told: Any) -> tuple[int, int | None]:
    memory = told.usedGpuMemory
    return int(told.pid), None if memory is None or memory in NOT_AVAILABLE else int(memory)


def _scaled(value: int | float, scale: float) -> int | float:
    return value if scale == 1 else value * scale
