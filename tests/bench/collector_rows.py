"""What the agents of a fleet send, as the bytes they put on the wire: eight ranks a node, a frame a second, made ahead.

A frame holds the kernel clusters of the two ranks whose step ended in that second, readings of GPUs and ports, collectives and
steps, each as an Arrow stream in zstd: the form in which frames wait in an agent's spool, and go out while the collector does
not ask for a smaller one, as it does not where many send. Rows are made once a node; for each second times, steps, durations,
counters and readings are written into the Arrow stream in place, so that every row has a time and values of its own. Shapes of
kernels (how many runs a cluster has, how many kernels each counts) are one of SHAPES and stay the same for a node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zstandard

from warpline_proto import service_pb2, wire
from warpline_proto.clusters import NUMBERS, cluster_groups
from warpline_proto.tables import COLLECTIVES, DEVICE_SAMPLES, KERNEL_CLUSTERS, LINK_COUNTERS, STEPS, TABLES

RANKS: Final = 8
"""Ranks and GPUs of a node, and ports."""
KERNELS: Final = 112
"""Kernel clusters of one rank and step."""
STEP_SECONDS: Final = 4
PAIR: Final = RANKS // STEP_SECONDS
"""Ranks of a node whose step ends in one second."""
NODES_PER_JOB: Final = 64
SHAPES: Final = 32
ROWS_PER_SECOND: Final = PAIR * KERNELS + RANKS + 2 * RANKS + RANKS + PAIR
"""Of one node: kernel clusters, GPUs, two counters a port, collectives, steps."""
DURATIONS: Final = tuple(name for name in NUMBERS if name != "count")
LEVEL: Final = 1
"""Of zstd; agents take 3, for frames a little shorter."""
KERNEL_SOURCE: Final = "kernels"

Ints = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


def node_name(node: int) -> str:
    """Of one length for all."""
    return f"node-{node:05d}"


def job_name(node: int) -> str:
    """Jobs have NODES_PER_JOB nodes."""
    return f"job-{node // NODES_PER_JOB:03d}"


def gpu_uuid(node: int, device: int) -> str:
    """As NVML writes them."""
    return f"GPU-{node:08x}-0000-4000-8000-{device:012x}"


class Part:
    """One table of a node's frame as an Arrow stream, into which the values of some columns are written for each second.

    `lists` are such columns that are lists of whole numbers, by the offsets of their rows.
    """

    def __init__(
        self,
        table: str,
        source: str,
        columns: Mapping[str, Any],
        changing: tuple[str, ...],
        lists: Mapping[str, Ints] = {},
    ) -> None:
        self._about: dict[str, Any] = {"table": table, "source": source}
        rows = max(len(each) for each in columns.values() if not isinstance(each, (str, int, float)))
        marks = {name: _mark(table, name, rows, at) for at, name in enumerate(changing)}
        flat = {name: _mark(table, "", int(offsets[-1]), 100) for name, offsets in lists.items()}
        told = {
            name: pa.ListArray.from_arrays(pa.array(lists[name], pa.int32()), pa.array(flat[name])) for name in lists
        }
        batch = TABLES[table].from_columns({**columns, **marks, **told})
        self._rows = batch.num_rows
        self._plain = np.frombuffer(wire.to_ipc(batch.schema, [batch]), np.uint8)
        self._slots = {name: _slot(self._plain.tobytes(), np.asarray(mark)) for name, mark in (marks | flat).items()}

    def payloads(self, values: Mapping[str, npt.NDArray[Any]]) -> Iterator[service_pb2.Part]:
        """A part for each second; values are (seconds, rows)."""
        packer = zstandard.ZstdCompressor(LEVEL)
        told = {name: np.ascontiguousarray(each).view(np.uint8) for name, each in values.items()}
        plain = self._plain.copy()
        for second in range(len(next(iter(values.values())))):
            for name, (offset, length) in self._slots.items():
                plain[offset : offset + length] = told[name][second]
            data = packer.compress(plain.tobytes())
            yield service_pb2.Part(**self._about, rows=self._rows, unpacked_bytes=plain.size, payload=data)


def _mark(table: str, name: str, rows: int, at: int) -> Ints | Reals:
    """Values that occur nowhere else, as wide as those of the column."""
    kind = TABLES[table].schema.field(name).type if name else pa.int64()
    marks = 0x3FF1_2345_0000_0000 + (at << 20) + np.arange(rows, dtype=np.int64)
    return marks.view(np.float64) if pa.types.is_floating(kind) else marks


def _slot(plain: bytes, mark: npt.NDArray[Any]) -> tuple[int, int]:
    """Where the values of a column lie in an Arrow stream, and how many bytes they take."""
    found = plain.find(mark.tobytes())
    assert found >= 0, "a column is not where it is looked for"
    return found, mark.nbytes


@dataclass(frozen=True)
class Kernels:
    """Kernel clusters of the two ranks of one phase: what stays from step to step, and how durations change."""

    template: Any

    @classmethod
    def drawn(cls, random: np.random.Generator) -> Kernels:
        """Launches of each kernel, as an agent's clusters of them."""
        size = np.tile(random.integers(8, 97, KERNELS), PAIR)
        middle = np.tile(np.exp(random.uniform(np.log(3e3), np.log(3e6), KERNELS)), PAIR)
        owner = np.repeat(np.arange(size.size), size)
        spread = np.tile(np.linspace(0.01, 0.08, KERNELS), PAIR)
        durations = np.rint(middle[owner] * random.lognormal(0.0, spread[owner])).astype(np.int64)
        ordered = durations[np.lexsort((durations, owner))]
        return cls(cluster_groups(ordered, np.cumsum(size) - size, size, density=False))

    def part(self, node: int, phase: int) -> Part:
        """The rows of one step with durations left open."""
        found, ranks = self.template, np.repeat(np.arange(PAIR * phase, PAIR * phase + PAIR), KERNELS)
        uuids = pa.array([gpu_uuid(node, each) for each in range(RANKS)])
        offsets = pa.array(found.run_offsets, pa.int32())
        columns: dict[str, Any] = {
            "cluster": "load", "node": node_name(node), "source": KERNEL_SOURCE, "job": job_name(node),
            "rank": node % NODES_PER_JOB * RANKS + ranks, "gpu_uuid": uuids.take(pa.array(ranks)), "device": ranks,
            "dp": node % NODES_PER_JOB, "tp": ranks, "pp": 0, "clock": f"realtime@{node_name(node)}",
            "stream": np.tile(np.where(np.arange(KERNELS) < 88, 7, 13), PAIR), "cluster_index": 0, "grade": "clusters",
            "kernel_id": np.tile(kernel_ids(), PAIR), "category": pa.array(categories() * PAIR),
            "run_counts": pa.ListArray.from_arrays(offsets, pa.array(found.run_counts, pa.int32())),
            "count": found.numbers["count"],
        }  # fmt: skip
        changing = ("step", "start_ns", "end_ns", *DURATIONS)
        return Part(KERNEL_CLUSTERS.name, KERNEL_SOURCE, columns, changing, {"run_means_ns": found.run_offsets})

    def values(self, start_ns: int, seconds: Ints, random: np.random.Generator) -> dict[str, Any]:
        """What changes: every duration by some percent, each row by a factor of its own."""
        found = self.template
        shape = (seconds.size, PAIR * KERNELS)
        factor = random.normal(1.0, 0.02, shape)
        begun = start_ns + (seconds - STEP_SECONDS)[:, None] * 10**9 + random.integers(0, 10**6, (seconds.size, PAIR))
        start = np.repeat(begun, KERNELS, axis=1)
        values = {name: (found.numbers[name] * factor).astype(np.int64) for name in DURATIONS}
        owner = np.repeat(np.arange(shape[1]), np.diff(found.run_offsets))
        values["run_means_ns"] = (found.run_means_ns * factor[:, owner]).astype(np.int64)
        step = (seconds // STEP_SECONDS)[:, None] + np.zeros(shape[1], np.int64)
        return values | {"step": step, "start_ns": start, "end_ns": start + STEP_SECONDS * 10**9}


def kernel_ids() -> Ints:
    """As wide as the hashes that agents give."""
    return np.random.default_rng(0).integers(0, 2**62, KERNELS)


def categories() -> list[str]:
    """Of each kernel."""
    return ["compute"] * 88 + ["communication"] * 16 + ["memcpy"] * 6 + ["memset"] * 2


@dataclass(frozen=True)
class Node:
    """One node of the fleet, from `start_ns` (a whole second) on."""

    number: int
    kernels: Kernels
    start_ns: int

    @property
    def boot(self) -> str:
        """As an agent names its start."""
        return f"{self.start_ns:020d}-{self.number:05d}"

    def frames(self, seconds: int) -> Iterator[bytes]:
        """A frame a second, as the bytes of the message."""
        random = np.random.default_rng([1, self.number])
        others = zip(*(made.payloads(values) for made, values in self._parts(seconds, random)), strict=True)
        steps = [made.payloads(values) for made, values in self._steps(seconds, random)]
        kernels = [
            self.kernels.part(self.number, phase).payloads(
                self.kernels.values(self.start_ns, np.arange(phase, seconds + STEP_SECONDS, STEP_SECONDS), random)
            )
            for phase in range(STEP_SECONDS)
        ]
        for second, parts in enumerate(others):
            phase = second % STEP_SECONDS
            frame = service_pb2.Frame(
                version=wire.VERSION, agent=node_name(self.number), boot=self.boot, sequence=second + 1,
                created_ns=self.start_ns + second * 10**9, parts=[next(kernels[phase]), *parts, next(steps[phase])],
            )  # fmt: skip
            yield frame.SerializeToString()

    def _place(self, source: str) -> dict[str, Any]:
        return {"cluster": "load", "node": node_name(self.number), "source": source}

    def _uuids(self, ranks: range = range(RANKS)) -> pa.Array:
        return pa.array([gpu_uuid(self.number, each) for each in ranks])

    def _times(self, seconds: int, rows: int, random: np.random.Generator) -> Ints:
        return self.start_ns + np.arange(seconds)[:, None] * 10**9 - random.integers(0, 9 * 10**8, (seconds, rows))

    def _parts(self, seconds: int, random: np.random.Generator) -> Iterator[tuple[Part, dict[str, Any]]]:
        shape_ = (seconds, RANKS)
        power = random.normal(620.0, 15.0, shape_)
        devices = self._place("nvml") | {
            "gpu_uuid": self._uuids(), "gpu_index": np.arange(RANKS), "gpu_name": "NVIDIA H100 80GB HBM3",
            "bus_id": [f"0000:{16 * each + 11:02x}:00.0" for each in range(RANKS)], "job": job_name(self.number),
            "power_method": "instant", "power_limit_watts": 700.0, "memory_clock_mhz": 2619.0, "sm_clock_max_mhz": 1980.0,
            "clock_event_reasons": 0, "thermal_ns": 0, "hardware_thermal_ns": 0, "power_brake_ns": 0, "sync_boost_ns": 0,
            "memory_total_bytes": 80 * 2**30, "memory_used_bytes": 70 * 2**30, "performance_state": 0, "pcie_replays": 0,
            "ecc_corrected": 0, "ecc_uncorrected": 0, "remapped_rows": 0, "resident_processes": 1,
        }  # fmt: skip
        readings = {
            "time_ns": self._times(seconds, RANKS, random), "power_watts": power.round(3),
            "energy_joules": np.cumsum(power, axis=0).round(3) + 1e6, "sm_clock_mhz": random.normal(1950, 12, shape_).round(),
            "power_cap_ns": np.cumsum(random.integers(0, 10**8, shape_), axis=0),
            "gpu_utilization_percent": random.normal(96, 3, shape_).round().clip(0, 100),
            "memory_utilization_percent": random.normal(60, 5, shape_).round(),
            "sm_active_percent": random.normal(88, 4, shape_).round(2),
            "dram_active_percent": random.normal(45, 4, shape_).round(2),
            "temperature_celsius": random.normal(62, 3, shape_).round(),
            "memory_temperature_celsius": random.normal(74, 3, shape_).round(),
            "nvlink_tx_bytes": np.cumsum(random.integers(10**10, 10**11, shape_), axis=0),
            "nvlink_rx_bytes": np.cumsum(random.integers(10**10, 10**11, shape_), axis=0),
        }  # fmt: skip
        yield Part(DEVICE_SAMPLES.name, "nvml", devices, tuple(readings)), readings
        links = self._place("links") | {
            "link_kind": "infiniband", "device": [f"mlx5_{each // 2}" for each in range(2 * RANKS)], "port": 1,
            "counter": ["port_rcv_data", "port_xmit_data"] * RANKS, "unit": "B", "saturated": False,
        }  # fmt: skip
        counters = {
            "time_ns": self._times(seconds, 2 * RANKS, random),
            "value": np.cumsum(random.integers(10**9, 4 * 10**10, (seconds, 2 * RANKS)), axis=0),
        }
        yield Part(LINK_COUNTERS.name, "links", links, tuple(counters)), counters
        every = np.arange(RANKS)
        operations = self._place("nccl") | {
            "job": job_name(self.number), "rank": self.number % NODES_PER_JOB * RANKS + every, "dp": self.number % NODES_PER_JOB,
            "tp": every, "pp": 0, "gpu_uuid": self._uuids(), "device": every,
            "communicator": [f"0x{each:016x}" for each in every], "communicator_rank": self.number % NODES_PER_JOB,
            "operation": "all_reduce", "datatype": "bfloat16", "elements": 2**26, "message_bytes": 2**27,
            "nranks": NODES_PER_JOB, "algorithm": "ring", "protocol": "simple", "channels": 16,
            "clock": f"realtime@{node_name(self.number)}", "timing": "kernel_gpu", "state": "completed",
        }  # fmt: skip
        timed = {
            "start_ns": self._times(seconds, RANKS, random), "duration_ns": random.integers(10**7, 2 * 10**7, shape_),
            "sequence": np.arange(seconds)[:, None] + np.zeros(RANKS, np.int64),
        }  # fmt: skip
        yield Part(COLLECTIVES.name, "nccl", operations, tuple(timed)), timed

    def _steps(self, seconds: int, random: np.random.Generator) -> Iterator[tuple[Part, dict[str, Any]]]:
        """By phase: the steps that end in its seconds."""
        for phase in range(STEP_SECONDS):
            ranks = range(PAIR * phase, PAIR * phase + PAIR)
            mine = np.arange(phase, seconds + STEP_SECONDS, STEP_SECONDS)
            shape_ = (mine.size, len(ranks))
            told = np.arange(ranks.start, ranks.stop)
            columns = self._place("hook") | {
                "job": job_name(self.number), "rank": self.number % NODES_PER_JOB * RANKS + told,
                "dp": self.number % NODES_PER_JOB, "tp": told, "pp": 0, "gpu_uuid": self._uuids(ranks),
                "device": told, "scope": "step",
                "clock": f"realtime@{node_name(self.number)}", "kernels": 5_000,
            }  # fmt: skip
            length = random.normal(STEP_SECONDS * 1e9, 2e6, shape_)
            compute = 0.7 * length * random.lognormal(0.0, 0.01, shape_)
            values = {
                "step": (mine // STEP_SECONDS)[:, None] + np.zeros(len(ranks), np.int64),
                "start_ns": (self.start_ns + (mine - STEP_SECONDS) * 10**9)[:, None] + random.integers(0, 10**6, shape_),
                "duration_ns": _ns(length), "span_ns": _ns(length), "busy_ns": _ns(0.97 * length), "compute_ns": _ns(compute),
                "communication_ns": _ns(0.97 * length - compute), "exposed_communication_ns": _ns(0.2 * (length - compute)),
                "idle_ns": _ns(0.03 * length), "data_wait_ns": _ns(random.lognormal(15, 0.3, shape_)),
            }  # fmt: skip
            yield Part(STEPS.name, "hook", columns, tuple(values)), values


def _ns(values: Reals) -> Ints:
    whole: Ints = np.rint(values).astype(np.int64)
    return whole
