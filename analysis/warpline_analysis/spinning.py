"""Which GPUs are fully utilised, at boost clocks and at hardly more than idle power: a kernel spins there and computes nothing.

Utilisation says only that a kernel was resident; power says what it did. The power of an idle GPU is learned from readings of
the same model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from warpline_proto.execution_idle import PERCENT_MAX

from .devices import CELL_SECONDS, Grid, typical
from .robust import Array, Flags, longest_run

UTILIZATION: Final = 90.0
IDLE_UTILIZATION: Final = 5.0
POWER_SHARE: Final = 0.25
"""Near-idle reaches so far from the idle power towards the limit."""
FLOOR_SHARE_MAX: Final = 0.25
"""No GPU idles above this part of its limit: where none was seen idle, a lowest power below it stands for the floor."""
CLOCK_SHARE: Final = 0.8
"""Part of the highest clock that counts as high."""
READINGS_MIN: Final = 5
"""Cells with a reading, ten seconds at least."""
SPIN_SHARE: Final = 0.9
FLOOR_READINGS_MIN: Final = 5
BYTES_PER_SECOND: Final = 1e9
WORK: Final = (
    "memory_utilization_percent", "dram_active_percent", "tensor_active_percent", "fp64_active_percent",
    "fp32_active_percent", "fp16_active_percent",
)  # fmt: skip
"""Any of these above PERCENT_MAX is work."""
RATES: Final = (
    "pcie_tx_bytes_per_second", "pcie_rx_bytes_per_second", "nvlink_tx_bytes_per_second", "nvlink_rx_bytes_per_second",
)  # fmt: skip
"""Any of these above BYTES_PER_SECOND is work too."""


@dataclass(frozen=True)
class Spin:
    """One GPU (by its column) that spins over cells `start` to before `end`; `lasting` whether it still does.

    `work_known` says whether a measure of work was there and low.
    """

    column: int
    start: int
    end: int
    watts: float
    floor_watts: float
    limit_watts: float
    lasting: bool
    work_known: bool

    @property
    def seconds(self) -> float:
        """How long."""
        return float((self.end - self.start) * CELL_SECONDS)


def floors(grids: Iterable[Grid]) -> Mapping[str | None, float]:
    """Idle power by model: the median of readings without utilisation, else a lowest power that can only be idle."""
    idle: dict[str | None, list[Array]] = {}
    lowest: dict[str | None, float] = {}
    for grid in grids:
        power, limit = grid.raw("power_watts"), grid.settled("power_limit_watts")
        unused = grid.raw("gpu_utilization_percent") <= IDLE_UTILIZATION
        low = np.where(power <= FLOOR_SHARE_MAX * limit, power, np.nan)
        for column, gpu in enumerate(grid.gpus):
            idle.setdefault(gpu.name, []).append(power[unused[:, column] & ~np.isnan(power[:, column]), column])
            if not np.isnan(low[:, column]).all():
                lowest[gpu.name] = min(lowest.get(gpu.name, np.inf), float(np.nanmin(low[:, column])))
    readings = {name: np.concatenate(parts) for name, parts in idle.items()}
    seen = {name: float(np.median(values)) for name, values in readings.items() if len(values) >= FLOOR_READINGS_MIN}
    return lowest | seen


def find_spins(grid: Grid, columns: Sequence[int], floor_watts: float) -> list[Spin]:
    """The GPUs among `columns` that spin."""
    power, limit = grid.sampled("power_watts"), grid.settled("power_limit_watts")
    ceiling = floor_watts + POWER_SHARE * (limit - floor_watts)
    busy = grid.sampled("gpu_utilization_percent") >= UTILIZATION
    works, known = _work(grid)
    resident = grid.settled("resident_processes") > 0
    fast = grid.sampled("sm_clock_mhz") >= CLOCK_SHARE * _highest(grid)
    spins: Flags = busy & (power <= ceiling) & fast & resident & ~works
    judged: Flags = ~np.isnan(power) & ~np.isnan(grid.sampled("gpu_utilization_percent"))
    read = _read(grid)
    found = []
    for column in columns:
        if np.sum(spins[:, column] & read[:, column]) < READINGS_MIN:
            continue
        start, end = longest_run(np.where(spins[:, column], 1.0, np.where(judged[:, column], -1.0, 0.0)))
        inside = spins[start:end, column]
        enough = np.sum(inside & read[start:end, column]) >= READINGS_MIN
        if not enough or inside.sum() < SPIN_SHARE * judged[start:end, column].sum():
            continue
        newest = np.flatnonzero(judged[:, column])[-READINGS_MIN:]
        found.append(
            Spin(
                column=column,
                start=start,
                end=end,
                watts=typical(power[start:end, column], inside),
                floor_watts=floor_watts,
                limit_watts=typical(limit[start:end, column], inside),
                lasting=bool(spins[newest, column].mean() >= 0.5),
                work_known=bool(known[start:end, column].any()),
            )
        )
    return found


def _read(grid: Grid) -> Flags:
    both: Flags = ~np.isnan(grid.raw("gpu_utilization_percent")) & ~np.isnan(grid.raw("power_watts"))
    return both


def readings_of(grid: Grid, columns: Sequence[int]) -> int:
    """Cells with power and utilisation, of the GPU that has most."""
    return int(_read(grid)[:, columns].sum(axis=0).max())


def unknown(grid: Grid, floor_watts: float | None) -> tuple[str, ...]:
    """What has to be known to call anything spinning, and is not."""
    lacking = {
        "GPU utilisation": "gpu_utilization_percent",
        "power": "power_watts",
        "power limit": "power_limit_watts",
        "SM clock": "sm_clock_mhz",
        "program residency": "resident_processes",
    }
    names = [name for name, column in lacking.items() if np.isnan(grid.raw(column)).all()]
    if np.isnan(_highest(grid)).all() and "SM clock" not in names:
        names.append("highest SM clock")
    if floor_watts is None and "power" not in names:
        names.append("idle power of this model")
    return tuple(names)


def _highest(grid: Grid) -> Array:
    """Highest SM clock by GPU: as stated, at any time of the window."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result: Array = np.nanmax(grid.raw("sm_clock_max_mhz"), axis=0)[None, :]
    return result


def _work(grid: Grid) -> tuple[Flags, Flags]:
    """Where memory, pipes or links are at work, and where that is known."""
    works = np.zeros((grid.cells, len(grid.gpus)), dtype=bool)
    known = works.copy()
    for name in (*WORK, *RATES):
        values = grid.sampled(name)
        works |= values >= (BYTES_PER_SECOND if name in RATES else PERCENT_MAX)
        known |= ~np.isnan(values)
    return works, known
