"""What agents would have recorded of a run: rows of warpline's tables, on clocks that are off, with losses and windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warpline_proto.tables import TABLES

from .durations import Durations
from .faults import gpu_name, node_name
from .layout import Ints, Layout
from .timing import Operation, Timeline
from .work import BACKWARD, Conditions, Reals

ORIGIN_NS: Final = 1_780_000_000_000_000_000
DRIFT_MAX: Final = 5e-6
"""Seconds a second that a host's clock runs fast or slow; part of the clock error, which bounds both together."""
LOSS_BURST_STEPS: Final = 5
"""Where records are lost, one rank loses all of so many steps as well."""
JOB: Final = "job"
_NCCL: Final = {
    "all_reduce": "ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "all_gather": "ncclDevKernel_AllGather_RING_LL",
    "reduce_scatter": "ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL", "all_to_all": "ncclDevKernel_SendRecv",
}  # fmt: skip


@dataclass(frozen=True)
class Sight:
    """How the job is watched: `mode` phases (times the framework tells) or kernels (times of GPU activity), with or without
    kernel clusters and GPU readings; `window` is (steps, every) of a duty cycle or None; `loss` a share of rows."""

    mode: str
    clusters: bool
    devices: bool
    clock_error_seconds: float
    loss: float
    window: tuple[int, int] | None

    def observed(self, steps: int) -> Ints:
        """Steps inside capture windows."""
        number = np.arange(steps)
        return number if self.window is None else number[number % self.window[1] < self.window[0]]


class Recording:
    """Rows of each table in the order in which steps ended; `observed` are the steps inside capture windows."""

    def __init__(self, observed: Ints) -> None:
        self.observed = observed
        self._parts: dict[str, list[tuple[pa.RecordBatch, Ints]]] = {}
        self._sealed: dict[str, tuple[pa.Table, Ints]] = {}

    def add(self, name: str, columns: Mapping[str, Any], ended: Ints) -> None:
        """Rows of one table, each with the step that had ended when it became known."""
        rows = TABLES[name].from_columns(columns, length=len(ended))
        self._parts.setdefault(name, []).append((rows, ended))

    def seal(self) -> None:
        """Bring all rows in order; nothing is added afterwards."""
        for name, parts in self._parts.items():
            ended = np.concatenate([each for _, each in parts])
            order = np.argsort(ended, kind="stable")
            rows = pa.Table.from_batches([each for each, _ in parts])
            if not np.array_equal(order, np.arange(len(order))):
                rows = rows.take(pa.array(order))
            self._sealed[name] = (rows, ended[order])
        self._parts.clear()

    def until(self, step: int) -> dict[str, pa.Table]:
        """What is known when `step` has ended."""
        return {
            name: rows.slice(0, int(np.searchsorted(ended, step, side="right")))
            for name, (rows, ended) in self._sealed.items()
        }

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(rows.num_rows for rows, _ in self._sealed.values())


class Writer:
    """Turns (steps, ranks) arrays into rows."""

    def __init__(
        self, layout: Layout, conditions: Conditions, sight: Sight, timeline: Timeline, random: np.random.Generator
    ) -> None:
        self.layout, self.conditions, self.sight, self.timeline, self.random = (
            layout,
            conditions,
            sight,
            timeline,
            random,
        )
        self.recording = Recording(sight.observed(len(timeline.length)))
        pp, dp, tp = layout.places
        self._place = {"pp": pp, "dp": dp, "tp": tp, "ep": dp % layout.experts}
        if layout.experts == 1:
            del self._place["ep"]
        nodes = [node_name(int(node)) for node in layout.node_of]
        self._words = {
            "node": pa.array(nodes),
            "clock": pa.array([f"realtime@{node}" for node in nodes]),
            "gpu_uuid": pa.array([gpu_name(rank, layout) for rank in range(layout.ranks)]),
        }
        self.offset, self.drift = self._clocks()
        self._burst = (int(random.integers(layout.ranks)), int(random.integers(len(timeline.length))))

    def _clocks(self) -> tuple[Reals, Reals]:
        """Offset in seconds and drift of every rank's clock; half of the error each at the most."""
        error, lasting = self.sight.clock_error_seconds, float(self.timeline.begin[-1]) + 1
        limit = min(DRIFT_MAX, error / 2 / lasting)
        offset = self.random.uniform(-error / 2, error / 2, self.layout.nodes)
        drift = self.random.uniform(-limit, limit, self.layout.nodes)
        return offset[self.layout.node_of], drift[self.layout.node_of]

    def stamp(self, seconds: Reals, ranks: Ints) -> Ints:
        """Seconds of the run as the clocks of the ranks' hosts tell them."""
        told = seconds * (1 + self.drift[ranks]) + self.offset[ranks]
        return ORIGIN_NS + np.rint(told * 1e9).astype(np.int64)

    def identity(self, ranks: Ints) -> dict[str, Any]:
        """Columns that say which rank a row is of."""
        index = pa.array(ranks)
        words = {name: values.take(index) for name, values in self._words.items()}
        return {"job": JOB, "rank": ranks, **{name: of[ranks] for name, of in self._place.items()}, **words}

    def grid(self, *, everything: bool = False) -> tuple[Ints, Ints]:
        """(step, rank) of each row that one row a rank and step would have, lost ones left out."""
        steps = np.arange(len(self.timeline.length)) if everything else self.recording.observed
        step, rank = (each.ravel() for each in np.meshgrid(steps, np.arange(self.layout.ranks), indexing="ij"))
        if self.sight.loss == 0:
            return step, rank
        kept = self.random.random(len(step)) >= self.sight.loss
        victim, first = self._burst
        kept &= ~((rank == victim) & (step >= first) & (step < first + LOSS_BURST_STEPS))
        return step[kept], rank[kept]

    def steps(self) -> None:
        """Step times of every step; GPU activity inside the windows, where that is how the job is watched."""
        line = self.timeline
        step, rank = self.grid(everything=True)
        columns: dict[str, Any] = self.identity(rank) | {
            "source": "step_hook",
            "scope": "step",
            "step": step,
            "start_ns": self.stamp(line.begin[step], rank),
            "duration_ns": _ns(line.length[step] * self.random.lognormal(0.0, 0.0005, len(step))),
            "data_wait_ns": _ns(line.data[step, rank]),
        }
        if self.sight.mode == "kernels":
            seen = np.isin(step, self.recording.observed)
            for name, seconds in self._activity().items():
                columns[name] = pa.array(_ns(seconds[step, rank]), mask=~seen)
        self.recording.add("steps", columns, step)

    def _activity(self) -> dict[str, Reals]:
        line = self.timeline
        idle = line.gap + line.collection + line.save + line.data + line.stall
        communication = sum(((each.end - each.start) for each in line.operations), np.zeros_like(idle))
        length = np.broadcast_to(line.length[:, None], idle.shape)
        return {
            "span_ns": length,
            "idle_ns": idle,
            "busy_ns": length - idle,
            "compute_ns": line.compute,
            "communication_ns": communication + line.forward_wait + line.backward_wait + line.exchange,
            "exposed_communication_ns": np.maximum(length - idle - line.compute, 0.0),
        }

    def phases(self) -> None:
        """Compute, optimizer, waiting for neighbours, data, and what the framework times of the host's own work."""
        line = self.timeline
        start = line.pipeline_start
        told = [
            ("forward-compute", "compute", start, line.forward),
            ("backward-compute", "compute", start + line.forward, line.backward + line.stall),
            ("optimizer", "optimizer", np.zeros_like(start), line.optimizer),
            ("data-wait", "data", start - line.data, line.data),
            ("gc", "host", start - line.data - line.collection, line.collection),
            ("save-checkpoint", "host", start - line.data - line.collection - line.save, line.save),
        ]
        if self.layout.stages > 1:
            told.append(("forward-recv", "communication", start, line.forward_wait))
            told.append(("backward-recv", "communication", start + line.forward, line.backward_wait))
        if self.layout.tensor > 1 or self.layout.experts > 1:
            told.append(("exchange", "communication", start, line.exchange))
        for name, kind, begin, duration in told:
            step, rank = self.grid()
            self.recording.add(
                "phases",
                self.identity(rank)
                | {
                    "source": "step_hook",
                    "step": step,
                    "phase": name,
                    "kind": kind,
                    "sequence": 0,
                    "start_ns": self.stamp(line.begin[step] + begin[step, rank], rank),
                    "duration_ns": _ns(duration[step, rank]),
                },
                step,
            )

    def collectives(self) -> None:
        """One row a rank and operation, and who belongs to which communicator."""
        groups = list(self.layout.groups())
        index = {kind: np.zeros(self.layout.ranks, dtype=np.int64) for kind in {group.kind for group in groups}}
        for at, group in enumerate(groups):
            index[group.kind][list(group.ranks)] = at
        names, sizes = pa.array([group.name for group in groups]), np.array([len(group.ranks) for group in groups])
        turns: dict[str, int] = {}
        per_step = {kind: sum(each.kind == kind for each in self.timeline.operations) for kind in index}
        for each in self.timeline.operations:
            turn = turns.get(each.kind, 0)
            turns[each.kind] = turn + 1
            step, rank = self.grid()
            of = index[each.kind][rank]
            self._operation(each, step, rank, names.take(pa.array(of)), sizes[of], step * per_step[each.kind] + turn)
        self._communicators()

    def _operation(
        self, each: Operation, step: Ints, rank: Ints, communicator: pa.Array, nranks: Ints, sequence: Ints
    ) -> None:
        line = self.timeline
        duration = (each.end - each.start)[step, rank] * self.random.lognormal(0.0, 0.0003, len(step))
        columns = self.identity(rank) | {
            "source": "nccl",
            "step": step,
            "communicator": communicator,
            "sequence": sequence,
            "operation": each.operation,
            "datatype": "bfloat16",
            "message_bytes": each.message_bytes,
            "nranks": nranks,
            "start_ns": self.stamp(line.begin[step] + each.start[step, rank], rank),
            "duration_ns": _ns(duration),
            "timing": "kernel_gpu",
            "state": "completed",
        }
        self.recording.add("collectives", columns, step)

    def _communicators(self) -> None:
        for group in self.layout.groups():
            ranks = np.array(group.ranks, dtype=np.int64)
            nodes = len(np.unique(ranks // self.layout.per_node))
            columns = self.identity(ranks) | {
                "source": "nccl",
                "communicator": group.name,
                "group_kind": "other" if group.kind == "edp" else group.kind,
                "communicator_rank": np.arange(len(ranks)),
                "nranks": len(ranks),
                "nnodes": nodes,
                "network": "IB" if nodes > 1 else None,
                "start_ns": ORIGIN_NS,
                "state": "ready",
            }
            del columns["clock"]
            self.recording.add("communicators", columns, np.zeros(len(ranks), dtype=np.int64))

    def job(self) -> None:
        """What the launcher knows."""
        layout = self.layout
        columns = {
            "source": "launcher", "job": JOB, "time_ns": ORIGIN_NS, "world_size": layout.ranks, "dp_size": layout.replicas,
            "tp_size": layout.tensor, "pp_size": layout.stages, "ep_size": layout.experts,
        }  # fmt: skip
        self.recording.add("jobs", columns, np.zeros(1, dtype=np.int64))

    def clusters(self, real: Durations) -> None:
        """One cluster a kernel, rank and step: real kernels, as much slower as the rank's phase is, and the collectives."""
        line, conditions = self.timeline, self.conditions
        nominal = conditions.forward_seconds * conditions.microbatches
        for at, kernel in enumerate(real.kernels):
            backward = "backward" in kernel.name
            ratio = line.backward / (BACKWARD * nominal) if backward else line.forward / nominal
            step, rank = self.grid()
            noise = self.random.lognormal(0.0, kernel.log_sigma / np.sqrt(kernel.count), len(step))
            middle = kernel.median_ns * ratio[step, rank] * noise
            self._cluster(at, "compute", step, rank, middle, kernel.count, kernel.log_sigma)
        names = [kernel.name for kernel in real.kernels]
        for each in line.operations:
            step, rank = self.grid()
            names.append(f"{_NCCL[each.operation]}({each.kind}, {len(names)})")
            self._cluster(
                len(names) - 1, "communication", step, rank, 1e9 * (each.end - each.start)[step, rank], 1, 0.0
            )
        self.recording.add(
            "kernel_names", {"kernel_id": np.arange(len(names)), "name": names}, np.zeros(len(names), dtype=np.int64)
        )

    def _cluster(
        self, kernel: int, category: str, step: Ints, rank: Ints, middle: Reals, count: int, log_sigma: float
    ) -> None:
        spread = {name: np.exp(z * log_sigma) for name, z in
                  (("min", -2.5), ("p10", -1.2816), ("p50", 0.0), ("p90", 1.2816), ("p99", 2.3263), ("max", 2.6))}  # fmt: skip
        values = {f"{name}_ns": np.rint(middle * factor).astype(np.int64) for name, factor in spread.items()}
        columns = self.identity(rank) | values | {
            "source": "kernels",
            "step": step,
            "start_ns": self.stamp(self.timeline.begin[step], rank),
            "end_ns": self.stamp((self.timeline.begin + self.timeline.length)[step], rank),
            "stream": 7 if category == "compute" else 20,
            "kernel_id": kernel,
            "category": category,
            "cluster_index": 0,
            "count": count,
            "sum_ns": np.rint(middle * np.exp(log_sigma**2 / 2) * count).astype(np.int64),
        }  # fmt: skip
        self.recording.add("kernel_clusters", columns, step)


def _ns(seconds: Reals) -> Ints:
    whole: npt.NDArray[np.int64] = np.maximum(np.rint(seconds * 1e9), 1).astype(np.int64)
    return whole
