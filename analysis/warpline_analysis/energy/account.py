"""The account of a time: rows of `energy_intervals` for every GPU, whose joules add up to what its counter grew by.

A time is accounted in windows of ten minutes of the clock, each by itself: samples a little before and after tell how long a run
is in all, and what the rarely read signals were. A window may be accounted again when rows of it come late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from warpline_proto.power_tables import ENERGY_INTERVALS, WINDOW_NS

from ..detector import Reader
from .attribution import load_owners
from .causes import before, causes, load_hosts
from .runs import METHODS, Runs, runs
from .signals import RESIDENCY_SECONDS_MAX, Samples, load
from .states import STATES

SOURCE: Final = "energy"
"""What wrote the rows that no agent's source did."""
AROUND_SECONDS: Final = RESIDENCY_SECONDS_MAX
"""Samples so long before and after a window are looked at too: two readings of residency, and ten of the longest threshold."""
_SIGNALS: Final = {
    "SM, tensor and FP activity": "compute",
    "GPU utilisation": "utilization",
    "device memory activity": "dram",
    "PCIe rates": "pcie",
    "NVLink rates": "nvlink",
    "energy counter": "joules",
    "power": "watts",
}
RESIDENCY: Final = "program residency"


def windows(start_ns: int, end_ns: int) -> Sequence[int]:
    """Starts of the windows that a time touches."""
    step = WINDOW_NS
    return range(start_ns - start_ns % step, end_ns, step)


def account(
    reader: Reader, window_ns: int, floors: Mapping[str | None, float], updated_ns: int, nodes: Sequence[str] = ()
) -> pa.RecordBatch:
    """Rows of the window that starts at `window_ns`, of `nodes` (none: all); `floors` as `states.told` wants them."""
    end_ns = window_ns + WINDOW_NS
    around_ns = int(AROUND_SECONDS * 1e9)
    start_ns, until_ns = window_ns - around_ns, end_ns + around_ns
    samples = load(reader, start_ns, until_ns, nodes)
    owners = load_owners(reader, samples, start_ns, until_ns, nodes)
    found = runs(samples, floors, window_ns, end_ns, owners.owner)
    went_before = before(samples, found, floors, load_hosts(reader, start_ns, until_ns, nodes))
    told: dict[str, Any] = {f"before_{name}": _known(values) for name, values in went_before.signals.items()}
    told |= {"cause": causes(went_before), "window_ns": window_ns, "updated_ns": updated_ns}
    return rows(samples, found, told | owners.of(found))


def rows(samples: Samples, found: Runs, columns: Mapping[str, Any]) -> pa.RecordBatch:
    """Runs as rows of `energy_intervals`; `columns` are added: one value for all, or one a run."""
    lacking = missing(samples)
    gpus = [samples.gpus[number] for number in found.gpu.tolist()]
    told: dict[str, Any] = {
        "cluster": [gpu.cluster for gpu in gpus],
        "node": [gpu.node for gpu in gpus],
        "source": [gpu.source for gpu in gpus],
        "gpu_uuid": [gpu.uuid for gpu in gpus],
        "gpu_index": [gpu.index for gpu in gpus],
        "gpu_name": [gpu.name for gpu in gpus],
        "start_ns": found.start_ns,
        "end_ns": found.end_ns,
        "state": [STATES[state] for state in found.state.tolist()],
        "seconds": found.seconds,
        "joules": _known(found.joules),
        "unmeasured_seconds": found.unmeasured_seconds,
        "joules_method": [METHODS[method] if method >= 0 else None for method in found.method.tolist()],
        "error_joules": _known(np.where(np.isnan(found.joules), np.nan, found.error_joules)),
        "run_seconds": found.run_seconds,
        "continued": found.continued,
        "short_seconds": found.short_seconds,
        "short_joules": found.short_joules,
        "samples": found.samples,
        "resets": found.resets,
        "sm_clock_mhz": _known(found.sm_clock_mhz),
        "missing": [lacking[number] for number in found.gpu.tolist()],
        "job": [samples.jobs[job] if job >= 0 else None for job in found.job.tolist()],
    }
    return ENERGY_INTERVALS.from_columns({**told, **columns}, length=len(found))


def missing(samples: Samples) -> list[list[str]]:
    """By GPU, what it never gave of what the rule asks for."""
    count = len(samples.gpus)
    given = {
        name: np.bincount(samples.gpu, ~np.isnan(getattr(samples, column)), count) > 0
        for name, column in _SIGNALS.items()
    }
    given[RESIDENCY] = np.bincount(samples.gpu, samples.resident >= 0, count) > 0
    return [[name for name, there in given.items() if not there[number]] for number in range(count)]


def _known(values: Any) -> pa.Array:
    """NaN as NULL."""
    return pa.array(values, from_pandas=True)
