"""Rows of made-up jobs of any number and size, step by step, as the agents of all their nodes would send them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warpline_proto.batch import Batch
from warpline_proto.tables import TABLES

GPUS_PER_NODE = 8
ORIGIN_NS = 1_780_000_000_000_000_000
STEP_SECONDS = 5
"""Every step; one reading of each GPU a second."""
KERNELS = 100
"""Kernel clusters of each rank and step."""
SLOW = 1.3
"""What the planted rank takes longer, from its first step on."""
SOURCE = "scale"

Ints = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fleet:
    """`jobs` jobs of one shape, rank = tp + T * (dp + D * pp) in each; `kernels` clusters are told of each rank and step.

    `slow` is the planted rank, counted over all jobs, or None.
    """

    name: str
    jobs: int
    replicas: int
    tensor: int = 1
    stages: int = 1
    slow: int | None = None
    kernels: int = KERNELS
    devices: bool = True
    seed: int = 0

    @property
    def each(self) -> int:
        """Ranks of one job."""
        return self.replicas * self.tensor * self.stages

    @property
    def ranks(self) -> int:
        """Ranks of all jobs."""
        return self.each * self.jobs

    @property
    def planted(self) -> tuple[str, int] | None:
        """Job and rank of the planted one."""
        return None if self.slow is None else (self._job(self.slow // self.each), self.slow % self.each)

    def _job(self, at: int) -> str:
        return f"{self.name}-{at:03d}"

    @cached_property
    def _order(self) -> Ints:
        """Ranks node by node, nodes in the order in which their agents happen to send."""
        nodes = np.random.default_rng(self.seed).permutation(-(-self.ranks // GPUS_PER_NODE))
        order = (nodes[:, None] * GPUS_PER_NODE + np.arange(GPUS_PER_NODE)).ravel()
        return order[order < self.ranks]

    @cached_property
    def _identity(self) -> dict[str, Any]:
        every = self._order
        job, rank = np.divmod(every, self.each)
        pp, dp, tp = np.unravel_index(rank, (self.stages, self.replicas, self.tensor))
        nodes = [f"{self.name}-node{each // GPUS_PER_NODE:04d}" for each in every]
        return {
            "cluster": pa.repeat(self.name, len(rank)), "node": pa.array(nodes), "source": pa.repeat(SOURCE, len(rank)),
            "job": pa.array([self._job(at) for at in job]), "rank": pa.array(rank), "dp": pa.array(dp), "tp": pa.array(tp),
            "pp": pa.array(pp), "gpu_uuid": pa.array([f"GPU-{self.name}-{each:06d}" for each in every]),
            "device": pa.array(every % GPUS_PER_NODE), "clock": pa.array([f"realtime@{each}" for each in nodes]),
        }  # fmt: skip

    def _rows(self, table: str, each: int, columns: dict[str, Any]) -> Batch:
        """A batch with `each` rows a rank."""
        known = {column.name for column in TABLES[table].columns}
        index = pa.array(np.repeat(np.arange(self.ranks), each))
        identity = {name: values.take(index) for name, values in self._identity.items() if name in known}
        return Batch(table, SOURCE, TABLES[table].from_columns(identity | columns, length=len(index)))

    def begin(self) -> Iterator[Batch]:
        """What the launcher tells."""
        rows = [{
            "source": "launcher", "job": self._job(at), "time_ns": ORIGIN_NS, "world_size": self.each, "tp_size": self.tensor,
            "dp_size": self.replicas, "pp_size": self.stages,
        } for at in range(self.jobs)]  # fmt: skip
        yield Batch("jobs", SOURCE, TABLES["jobs"].from_rows(rows))
        if self.kernels:
            names = [{"kernel_id": at, "name": f"kernel_{at}", "time_ns": ORIGIN_NS} for at in range(self.kernels)]
            yield Batch("kernel_names", SOURCE, TABLES["kernel_names"].from_rows(names))

    def step(self, step: int) -> Iterator[Batch]:
        """All rows of one step."""
        random = np.random.default_rng((self.seed, step))
        start = ORIGIN_NS + step * STEP_SECONDS * 10**9 + random.integers(0, 10**6, self.ranks)
        slow = np.where(self._order == (-1 if self.slow is None else self.slow), SLOW, 1.0)
        compute = 0.45 * STEP_SECONDS * random.lognormal(0.0, 0.01, self.ranks) * slow
        yield self._steps(step, start, compute, random)
        yield self._phases(step, start, compute, random)
        yield from self._collectives(step, start, compute)
        if self.kernels:
            yield self._clusters(step, start, slow, random)
        if self.devices:
            yield self._devices(step, compute, random)

    def _steps(self, step: int, start: Ints, compute: Reals, random: np.random.Generator) -> Batch:
        length = np.full(self.ranks, STEP_SECONDS * 1e9) * random.lognormal(0.0, 0.0005, self.ranks)
        idle = 0.02 * length * random.lognormal(0.0, 0.05, self.ranks)
        columns = {
            "scope": "step", "step": step, "start_ns": start, "duration_ns": _ns(length), "span_ns": _ns(length),
            "busy_ns": _ns(length - idle), "compute_ns": _ns(compute * 1e9), "idle_ns": _ns(idle),
            "communication_ns": _ns(length - idle - compute * 1e9), "kernels": 5000,
            "exposed_communication_ns": _ns(length - idle - compute * 1e9), "data_wait_ns": _ns(idle / 10),
        }  # fmt: skip
        return self._rows("steps", 1, columns)

    def _phases(self, step: int, start: Ints, compute: Reals, random: np.random.Generator) -> Batch:
        parts = compute[:, None] * np.array([0.32, 0.64, 0.04]) * random.lognormal(0.0, 0.003, (self.ranks, 3)) * 1e9
        begin = start[:, None] + np.cumsum(parts, axis=1).astype(np.int64) - parts.astype(np.int64)
        columns = {
            "step": step, "phase": pa.array(["forward-compute", "backward-compute", "optimizer"] * self.ranks),
            "kind": pa.array(["compute", "compute", "optimizer"] * self.ranks), "sequence": 0,
            "start_ns": begin.ravel(), "duration_ns": _ns(parts.ravel()),
        }  # fmt: skip
        return self._rows("phases", 3, columns)

    def _collectives(self, step: int, start: Ints, compute: Reals) -> Iterator[Batch]:
        """The groups' reductions: each ends when its last rank has come and moved its bytes."""
        pp, dp, tp = (self._identity[name].to_numpy() for name in ("pp", "dp", "tp"))
        stage = self._order // self.each * self.stages + pp
        for kind, group, size, operation in (
            ("tp", stage * self.replicas + dp, self.tensor, "all_reduce"),
            ("dp", stage * self.tensor + tp, self.replicas, "reduce_scatter"),
        ):
            if size < 2:
                continue
            latest = np.zeros(int(group.max()) + 1)
            np.maximum.at(latest, group, compute)
            names = pa.array([f"{kind}-{at}" for at in range(len(latest))]).take(pa.array(group))
            columns = {
                "step": step, "communicator": names, "sequence": step, "operation": operation, "datatype": "bfloat16",
                "message_bytes": 256 * 2**20, "nranks": size, "start_ns": start + _ns(compute * 1e9),
                "duration_ns": _ns((latest[group] - compute + 0.05) * 1e9), "timing": "kernel_gpu", "state": "completed",
            }  # fmt: skip
            yield self._rows("collectives", 1, columns)

    def _clusters(self, step: int, start: Ints, slow: Reals, random: np.random.Generator) -> Batch:
        usual = 2e4 * 1.06 ** np.arange(self.kernels)
        middle = (slow[:, None] * usual * random.lognormal(0.0, 0.02, (self.ranks, self.kernels))).ravel()
        each = np.repeat(start, self.kernels)
        columns: dict[str, Any] = {
            name: _ns(middle * factor)
            for name, factor in (
                ("min_ns", 0.9), ("p10_ns", 0.95), ("p50_ns", 1.0), ("p90_ns", 1.06), ("p99_ns", 1.15), ("max_ns", 1.3),
            )
        }  # fmt: skip
        columns |= {
            "step": step, "start_ns": each, "end_ns": each + STEP_SECONDS * 10**9, "stream": 7, "cluster_index": 0,
            "kernel_id": np.tile(np.arange(self.kernels), self.ranks), "category": "compute", "count": 48,
            "sum_ns": _ns(middle * 48.5),
        }  # fmt: skip
        return self._rows("kernel_clusters", self.kernels, columns)

    def _devices(self, step: int, compute: Reals, random: np.random.Generator) -> Batch:
        second = np.tile(np.arange(STEP_SECONDS), self.ranks)
        count = len(second)
        columns = {
            "gpu_index": np.repeat(self._order % GPUS_PER_NODE, STEP_SECONDS), "gpu_name": "NVIDIA H100 80GB HBM3",
            "time_ns": ORIGIN_NS + (step * STEP_SECONDS + second) * 10**9 + random.integers(0, 10**8, count),
            "power_watts": random.normal(620, 12, count), "power_method": "instant", "power_limit_watts": 700.0,
            "energy_joules": (step * STEP_SECONDS + second) * 620.0, "sm_clock_mhz": random.normal(1950, 10, count),
            "memory_clock_mhz": 2619.0, "sm_clock_max_mhz": 1980.0, "clock_event_reasons": 0, "power_cap_ns": 0,
            "thermal_ns": 0, "gpu_utilization_percent": np.repeat(100 * compute / compute.max(), STEP_SECONDS),
            "memory_used_bytes": 70 * 2**30, "memory_total_bytes": 80 * 2**30, "resident_processes": 1,
            "temperature_celsius": random.normal(62, 2, count).round(), "bus_id": "0000:1b:00.0",
        }  # fmt: skip
        return self._rows("device_samples", STEP_SECONDS, columns)


def _ns(values: Reals) -> Ints:
    whole: Ints = np.maximum(np.rint(values), 1).astype(np.int64)
    return whole
