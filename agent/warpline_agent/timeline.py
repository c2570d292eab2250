"""What every timeline source tells of its kernels: the rows that are stored and the facts that are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from warpline_proto.tables import COLLECTIVES

from .compressor import compress
from .kernels import (
    COMMUNICATION,
    NO_STEP,
    Kernels,
    StepSpan,
    Times,
    activity,
    by_device,
    kernel_operation,
    name_rows,
    step_rows,
    union_ns,
)
from .parsers import nccl
from .source import Rows

Row = dict[str, Any]

COLLECTIVES_MAX: Final = 1_000_000
"""Communication kernels of one recording that become rows; the last beyond it are dropped and counted."""


def timeline_rows(
    kernels: Kernels,
    spans: Sequence[StepSpan],
    *,
    rank: int | None,
    clock: str | None,
    whole: tuple[int, int] | None,
) -> list[Rows]:
    """Rows of `steps`, `kernel_clusters` and `kernel_names`. `whole` is start and duration (ns) of all that was recorded."""
    compressed = compress(kernels, rank=rank, clock=clock)
    return [
        Rows("steps", step_rows(kernels, spans, rank=rank, clock=clock, whole=whole)),
        Rows("kernel_clusters", compressed.rows, compressed.dropped),
        Rows("kernel_names", name_rows(kernels)),
    ]


def timeline_facts(kernels: Kernels) -> dict[str, Any]:
    """Counts of all records together and, GPU by GPU where there are several, how the time was used (ns)."""
    devices = dict(by_device(kernels))
    facts: dict[str, Any] = {"devices": sorted(device for device in devices if device >= 0), **_counts(kernels)}
    if len(devices) > 1:
        facts["by_device"] = {str(device): _counts(part) | _times(part) for device, part in devices.items()}
    elif devices:
        facts |= _times(kernels)
    return facts


def _is_nccl(kernels: Kernels) -> npt.NDArray[np.bool_]:
    return np.array([nccl.is_kernel(name) for name in kernels.names], dtype=np.bool_)[kernels.name_id]


def _counts(records: Kernels) -> dict[str, Any]:
    kernels = records.select(records.category <= COMMUNICATION)
    by_nccl = kernels.duration_ns[_is_nccl(kernels)]
    return {
        "gpu_activities": len(records),
        "activities_without_duration": int((records.duration_ns <= 0).sum()),
        "kernels": len(kernels),
        "kernel_sum_ns": int(kernels.duration_ns.sum()),
        "communication_kernels": int((kernels.category == COMMUNICATION).sum()),
        "nccl_kernels": int(by_nccl.size),
        "nccl_sum_ns": int(by_nccl.sum()),
    }


def _times(records: Kernels) -> dict[str, Any]:
    """How the time was used; `kernel_...` leaves copies and sets out, `nccl_exposed_ns` is covered by NCCL alone."""
    kernels = records.select(records.category <= COMMUNICATION)
    seen, alone = activity(records), activity(kernels)
    others = kernels.select(~_is_nccl(kernels))
    return seen.columns() | {
        "kernel_span_ns": alone.span_ns,
        "kernel_busy_ns": alone.busy_ns,
        "nccl_exposed_ns": alone.busy_ns - union_ns(others.start_ns, others.end_ns),
    }


def collective_rows(
    kernels: Kernels, launch_ns: Times, told: Mapping[int, Row], *, rank: int | None, clock: str | None
) -> Rows:
    """Rows of `collectives`: one for each communication kernel, in the order in which the CPU launched them.

    `launch_ns` goes with `kernels` (-1 where not known: then the start on the GPU counts), `told` has what the trace says
    of a record beyond its name, by position. `sequence` counts from the start of the trace on each communicator; where
    communicators are not named it counts over all of them, since the ranks of one program launch in one order, whatever
    order their GPUs run in.
    """
    found = np.flatnonzero(kernels.category == COMMUNICATION)
    launched = np.where(launch_ns[found] >= 0, launch_ns[found], kernels.start_ns[found])
    counters: dict[str | None, int] = {}
    rows: list[Row] = []
    for index in found[np.lexsort((kernels.start_ns[found], launched))][:COLLECTIVES_MAX].tolist():
        row = _from_name(kernels.names[int(kernels.name_id[index])])
        row |= {key: value for key, value in told.get(index, {}).items() if value is not None}
        communicator = row.get("communicator")
        row["sequence"] = counters[communicator] = counters.get(communicator, -1) + 1
        measured = {"rank": rank, "clock": clock, "timing": "kernel_gpu", "state": "completed"}
        rows.append(row | measured | _where_and_when(kernels, index))
    return Rows("collectives", COLLECTIVES.from_rows(rows), found.size - len(rows))


def _where_and_when(kernels: Kernels, index: int) -> Row:
    step, device, stream = int(kernels.step[index]), int(kernels.device[index]), int(kernels.stream[index])
    return {
        "device": device if device >= 0 else None,
        "stream": stream if stream >= 0 else None,
        "step": step if step != NO_STEP else None,
        "start_ns": int(kernels.start_ns[index]),
        "duration_ns": int(kernels.duration_ns[index]),
    }


def _from_name(name: str) -> Row:
    if not nccl.is_kernel(name):
        return {"operation": kernel_operation(name)}
    told = nccl.kernel(name)
    # Only reductions look at elements; the type in the name of any other kernel is not that of the message.
    reduces = told.operation in ("all_reduce", "reduce_scatter", "reduce")
    return {
        "operation": told.operation,
        "algorithm": told.algorithm,
        "protocol": told.protocol,
        "reduction": told.reduction if reduces else None,
        "datatype": told.datatype if reduces else None,
    }
