"""Steps of a training process that nothing marks, from its NCCL operations or else from its kernels.

NCCL's operations are seen all the time and numbered alike on all ranks of a communicator, so steps are too. Where they leave it
open what a step is, the kernels decide: an optimizer takes time.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import numpy as np

from warpline_hook import ring

from .anchor_choice import Choice, from_kernels, from_operations, near
from .anchored import Anchored, Ended
from .anchors import Events, Keys, Kind
from .kernels import COMPUTE, Kernels, StepSpan
from .parsers import nccl
from .rare_names import RareNames
from .ring_file import Records, RingFile
from .ring_records import communicator_row

NCCL: Final = "nccl"
KERNELS: Final = "kernels"
HEAVY_BYTES_MIN: Final = 65_536
"""A reduction of so many bytes may be one of gradients; norms, losses and flags are smaller."""
REDUCTIONS: Final = ("all_reduce", "reduce_scatter", "reduce")
GATHERS: Final = ("all_gather",)
UNCOUNTED: Final = ("all_to_all", "gather", "scatter")
"""Their size varies: they are known by their communicator alone, and end nothing."""
OPTIMIZER: Final = re.compile(
    r"adam|optimi[sz]er|multi_tensor_apply|lamb\b|adagrad|adafactor|rmsprop|(?<![a-z])sgd", re.IGNORECASE
)
"""Kernels that run once a step, not once a micro-batch."""
LEVELS_MAX: Final = 4
"""A window of capture is doubled at most so often, with the time between windows,"""
PERIOD_MAX: Final = (1 << 15) - 1
"""and as far as the control word holds it."""
WINDOW_PERIODS: Final = 3.5
"""A window holds so many steps."""
WINDOWS_TRIED: Final = 6
"""Windows without a step found before they grow."""
SILENT_NS: Final = 60_000_000_000
"""Without an operation for so long kernels speak alone: NCCL tells nothing of CUDA graphs."""
_MIX: Final = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)


class InferredSteps:
    """One process. `boundary` says by what steps are told, None while they are not."""

    def __init__(self) -> None:
        self._operations = Anchored(from_operations)
        self._kernels = Anchored(self._from_kernels)
        self._all_ns = 0
        self._rare = RareNames()
        self._optimizers = np.zeros(0, dtype=np.bool_)  # by name
        self._windows = 0
        self._level = 0

    @property
    def boundary(self) -> str | None:
        """nccl, kernels, or None where no step is told."""
        if self._operations.choice is not None:
            return NCCL
        return KERNELS if self._kernels.choice is not None else None

    @property
    def period_ns(self) -> float | None:
        """How long steps usually take."""
        found = self._operations.choice or self._kernels.choice
        return None if found is None else found.period_ns

    def account(self) -> str:
        """What keeps steps from being told, in words; empty where nothing does."""
        if self.boundary is not None or not self._rare.frequent(self._optimizers):
            return ""
        return (
            f"kernels of the optimizer come too often to tell steps by: {self._rare.passed_over} kernels not looked at"
        )

    def window(self, at_ns: int) -> None:
        """Capture began: no kernel from before is known. Windows in which no step is found for long become longer."""
        self.hole(at_ns)
        self._windows += 1
        if self._windows >= WINDOWS_TRIED and self.boundary is None:
            self._windows, self._level = 0, min(self._level + 1, LEVELS_MAX)

    def hole(self, at_ns: int) -> None:
        """Kernels were lost here."""
        self._kernels.keys.hole(at_ns)

    def control(self, word: int) -> int:
        """A control word with windows of time long enough to hold steps whole; any other as it is."""
        window, period = word >> 32 & 0xFFFF, word >> 48 & 0x7FFF
        if word & 0xFF != ring.TIME:
            return word
        period_ns, level = self.period_ns, self._level
        if period_ns is not None:
            needed = WINDOW_PERIODS * period_ns / (window * ring.WINDOW_UNIT_SECONDS * 1e9)
            level = min(max(math.ceil(math.log2(needed)), 0), LEVELS_MAX)
        while period << level > PERIOD_MAX:
            level -= 1
        return word & ~(0x7FFFFFFF << 32) | window << level + 32 | period << level + 48

    def take_operations(self, records: Records, file: RingFile) -> list[StepSpan]:
        """NCCL operations as they were enqueued; the steps they end."""
        chosen = records[np.isin(records["kind"], (ring.COLLECTIVE, ring.POINT_TO_POINT))]
        if not len(chosen):
            return []
        kinds = _Operations(file)
        return _spans(self._operations.take(kinds.events(chosen), lambda at: kinds.kind(chosen[at])), NCCL)

    def take_kernels(self, kernels: Kernels) -> list[StepSpan]:
        """Kernels, with the names of all so far; the steps they end, where operations end none."""
        if self._operations.choice is not None:
            return []
        self._know(kernels.names)
        if not self._optimizers.any():
            return []  # without one nothing is sure
        self._all_ns += int(kernels.duration_ns.sum(where=kernels.category == COMPUTE))
        ends = kernels.end_ns
        places = self._rare.among(kernels.name_id, int(ends.min()), int(ends.max()), self._optimizers)
        if not places.size:
            return []
        some = kernels.select(places)
        weight = np.where(some.category == COMPUTE, some.duration_ns, 0)
        unnumbered = np.full(len(some), -1, dtype=np.int64)
        events = Events(some.end_ns, some.name_id.astype(np.int64), weight, unnumbered)
        ended = self._kernels.take(events, lambda at: _kernel_kind(some, at))
        return _spans(ended, KERNELS) if self._operations.choice is None else []

    def _from_kernels(self, keys: Keys) -> Choice | None:
        """What ends steps by kernels; where there are operations, one that recurs with it, for its number."""
        found = from_kernels(keys, self._all_ns)
        if found is None or self._kernels.now_ns - self._operations.now_ns > SILENT_NS:
            return found
        self._operations.settle(near(self._operations.keys, found.period_ns))
        return None

    def _know(self, names: tuple[str, ...]) -> None:
        fresh = [OPTIMIZER.search(name) is not None for name in names[self._optimizers.size :]]
        self._optimizers = np.append(self._optimizers, np.array(fresh, dtype=np.bool_))


class _Operations:
    """Kinds of NCCL operations: communicator, function, type and size."""

    def __init__(self, file: RingFile) -> None:
        self._file = file

    def events(self, records: Records) -> Events:
        varying = self._varying(records)
        columns = (records["extra"], records["name"], records["context"], records["value"])
        parts = [column.astype(np.uint64) for column in columns]
        parts[2][varying], parts[3][varying] = 0, 0
        mixed = np.zeros(len(records), dtype=np.uint64)
        for part, factor in zip(parts, _MIX, strict=True):
            mixed = (mixed ^ part) * np.uint64(factor)
            mixed ^= mixed >> np.uint64(29)
        counted = np.where(records["kind"] == ring.COLLECTIVE, records["number"].astype(np.int64), -1)
        times = records["start_ns"].astype(np.int64) + 1  # the operation that ends a step belongs to it
        return Events(times, mixed.view(np.int64), records["value"].astype(np.int64), counted)

    def kind(self, record: Any) -> Kind:
        text = self._file.texts.get(int(record["extra"]))
        communicator = (communicator_row(text) if text is not None else None) or {}
        operation = self._operation(int(record["name"]))
        group = int(record["extra"])
        if record["kind"] == ring.POINT_TO_POINT or operation is None or operation in UNCOUNTED:
            return Kind(group=group, counts=False)
        nranks = communicator.get("nranks")
        datatype = nccl.datatype(self._file.text(int(record["context"])) or "")
        elements = min(int(record["value"]), 1 << 48)
        size = nccl.message_bytes(operation, elements, datatype, nranks) or elements
        large = size >= HEAVY_BYTES_MIN
        heavy, gathers = large and operation in REDUCTIONS, large and operation in GATHERS
        order = (-(nranks or 0), operation, size)
        return Kind(order, group, size, heavy, gathers)

    def _operation(self, name: int) -> str | None:
        return nccl.operation(self._file.text(name) or "")

    def _varying(self, records: Records) -> Any:
        names = np.unique(records["name"])
        varying = [name for name in names.tolist() if (self._operation(name) or "all_to_all") in UNCOUNTED]
        return (records["kind"] == ring.POINT_TO_POINT) | np.isin(records["name"], varying)


def _kernel_kind(kernels: Kernels, at: int) -> Kind:
    number = int(kernels.name_id[at])
    return Kind((kernels.names[number],), group=number, heavy=OPTIMIZER.search(kernels.names[number]) is not None)


def _spans(ended: list[Ended], boundary: str) -> list[StepSpan]:
    return [StepSpan(each.number, each.start_ns, each.duration_ns, boundary=boundary) for each in ended]
