"""What every timeline source tells of its kernels: the rows that are stored and the facts that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import nccl
from .compressor import compress
from .kernels import COMMUNICATION, Kernels, StepSpan, activity, by_device, name_rows, step_rows, union_ns
from .source import Rows


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
    """Counts and times (ns) of all records together, and of each device where there are several; no times without a record."""
    facts = _facts(kernels)
    devices = dict(by_device(kernels))
    facts["devices"] = sorted(devices)
    if len(devices) > 1:
        facts["by_device"] = {str(device): _facts(records) for device, records in devices.items()}
    return facts


def _facts(records: Kernels) -> dict[str, Any]:
    if not len(records):
        return {"gpu_activities": 0, "kernels": 0}
    kernels = records.select(records.category <= COMMUNICATION)
    communication = kernels.category == COMMUNICATION
    is_nccl = np.array([nccl.is_kernel(name) for name in kernels.names], dtype=np.bool_)[kernels.name_id]
    all_ns, seen, alone = union_ns(kernels.start_ns, kernels.end_ns), activity(records), activity(kernels)
    others = kernels.select(~is_nccl)
    return {
        "gpu_activities": len(records),
        "activities_without_duration": int((records.duration_ns <= 0).sum()),
        "span_ns": seen.span_ns,
        "busy_ns": seen.busy_ns,
        "compute_ns": seen.compute_ns,
        "communication_ns": seen.communication_ns,
        "exposed_communication_ns": seen.exposed_communication_ns,
        "memcpy_ns": seen.memcpy_ns,
        "idle_ns": seen.idle_ns,
        "kernels": len(kernels),
        "kernel_sum_ns": int(kernels.duration_ns.sum()),
        "kernel_span_ns": alone.span_ns,
        "kernel_busy_ns": alone.busy_ns,
        "communication_kernels": int(communication.sum()),
        "nccl_kernels": int(is_nccl.sum()),
        "nccl_sum_ns": int(kernels.duration_ns[is_nccl].sum()),
        "nccl_exposed_ns": all_ns - union_ns(others.start_ns, others.end_ns),
    }
