"""Rows of `raw_kernels`: kernel records one by one, as they were recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from warpline_proto.tables import RAW_KERNELS

from .kernels import CATEGORIES, NO_STEP, Kernels, Times
from .source import Rows

ROWS_A_BATCH: Final = 50_000
"""Rows handed over at once."""
RECORDED_MAX: Final = 1_000_000
"""Records of one recorded file that become rows; the last beyond it are dropped and counted."""


def recorded_rows(kernels: Kernels, clock: str | None) -> Iterator[Rows]:
    """The records of a recorded file, earliest first."""
    order = np.argsort(kernels.start_ns, kind="stable")
    for start in range(0, min(len(kernels), RECORDED_MAX), ROWS_A_BATCH):
        part = kernels.select(order[start : min(start + ROWS_A_BATCH, RECORDED_MAX)])
        yield Rows(RAW_KERNELS.name, raw_rows(part, clock), 0 if start else max(len(kernels) - RECORDED_MAX, 0))


def raw_rows(kernels: Kernels, clock: str | None) -> pa.RecordBatch:
    """Rows of `raw_kernels`, one a record, without place and capture."""
    return RAW_KERNELS.from_columns(
        {
            "device": _known(kernels.device.astype(np.int64), -1),
            "step": _known(kernels.step, NO_STEP),
            "start_ns": kernels.start_ns,
            "clock": clock,
            "duration_ns": kernels.duration_ns,
            "stream": _known(kernels.stream, -1),
            "kernel_id": kernels.kernel_ids()[kernels.name_id],
            "category": pa.array(CATEGORIES).take(pa.array(kernels.category)),
        },
        length=len(kernels),
    )


def _known(values: Times, unknown: int) -> pa.Array:
    return pa.array(values, mask=values == unknown)
