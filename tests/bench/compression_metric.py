"""How far what was decoded lies from what was measured: first Wasserstein distances of each (kernel, stream) of a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warpline_agent.kernels import Kernels

Numbers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Distances:
    """One value a group: how many durations, their sum (ns), W1 (ns)."""

    count: Numbers
    sum_ns: Reals
    w1_ns: Reals


@dataclass(frozen=True)
class Steps:
    """Distributions as steps: `weight` durations of `value` ns in each group."""

    group: Numbers
    value: Reals
    weight: Reals


def raw_steps(kernels: Kernels) -> tuple[Steps, Numbers]:
    """Every record, and (kernel id, stream) of each group."""
    told = np.column_stack([kernels.kernel_ids()[kernels.name_id], kernels.stream])
    names, group = np.unique(told, axis=0, return_inverse=True)
    return Steps(group.reshape(-1), kernels.duration_ns.astype(np.float64), np.ones(len(kernels))), names


def row_steps(rows: pa.RecordBatch, names: Numbers) -> Steps:
    """The runs of rows of `kernel_clusters`, by the groups in `names`."""
    stream = np.asarray(rows.column("stream").fill_null(-1).to_numpy(zero_copy_only=False))
    place = {tuple(name): at for at, name in enumerate(names.tolist())}
    told = zip(rows.column("kernel_id").to_pylist(), stream.tolist(), strict=True)
    owner = np.array([place[each] for each in told], dtype=np.int64)
    counts = rows.column("run_counts")
    size = np.asarray(counts.value_lengths().to_numpy(zero_copy_only=False))
    return Steps(
        np.repeat(owner, size),
        rows.column("run_means_ns").flatten().to_numpy().astype(np.float64),
        counts.flatten().to_numpy().astype(np.float64),
    )


def compare(raw: Steps, decoded: Steps) -> Distances:
    """Group by group; the decoded side is weighted so that both have one mass."""
    groups = int(raw.group.max()) + 1
    count = np.bincount(raw.group, raw.weight, groups)
    mass = np.bincount(decoded.group, decoded.weight, groups)
    owner = np.concatenate([raw.group, decoded.group])
    value = np.concatenate([raw.value, decoded.value])
    weight = np.concatenate([raw.weight / count[raw.group], -decoded.weight / mass[decoded.group]])
    order = np.lexsort((value, owner))
    owner, value = owner[order], value[order]
    gap = np.where(owner[1:] == owner[:-1], value[1:] - value[:-1], 0.0)
    w1 = np.bincount(owner[:-1], np.abs(np.cumsum(weight[order])[:-1]) * gap, groups)
    sums = np.bincount(raw.group, raw.value * raw.weight, groups)
    return Distances(count.astype(np.int64), sums.astype(np.float64), w1.astype(np.float64))
