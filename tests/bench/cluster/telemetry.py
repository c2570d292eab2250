"""What is read beside the job's own times: GPU sensors, network ports, stacks and logs of the hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from .faults import SERVING_GPU, Fault, alarm_node, gpu_name, node_name
from .layout import GPUS_PER_NODE, Ints, Layout
from .rows import JOB, ORIGIN_NS, Writer
from .timing import Timeline
from .work import Reals

IDLE_WATTS: Final = 110.0
SPIN_WATTS: Final = 160.0
BUSY_WATTS: Final = 660.0
CLOCK_MHZ: Final = 1980.0
READINGS_MAX: Final = 400
"""Readings of each GPU and port; longer runs are read more rarely, as far as that leaves one every two seconds or so."""
SPIN_SECONDS: Final = 300.0
"""How long a job that spins is watched after its last step."""
REASONS: Final = {"thermal": 0x40, "brake": 0x80, "power": 0x4}
"""NVML clock-event reasons: hardware thermal, power brake, software power cap."""
PORTS: Final = 4
LINE_BITS_PER_SECOND: Final = 400_000_000_000
STACKS: Final = {
    "loader": ("get (queue.py:180)", "_next_data (torch/utils/data/dataloader.py:1448)", "train_step (train.py:210)"),
    "gc": ("collect (gc)", "forward (model.py:88)", "train_step (train.py:214)"),
    "launch": ("cudaLaunchKernel (libcudart)", "forward (model.py:91)", "train_step (train.py:214)"),
}
STACKS_SHARE: Final = 0.25
"""Share of jobs in which somebody is suspected for nothing: stacks are at hand there, too, and show nothing."""
USUAL_STACK: Final = ("cudaStreamSynchronize (libcudart)", "item (tensor.py)", "train_step (train.py:230)")


def tell(writer: Writer, faults: Sequence[Fault], random: np.random.Generator) -> None:
    """Everything that belongs to the run, faults included."""
    throttled = [fault for fault in faults if fault.kind == "throttling"]
    spinning = [fault for fault in faults if fault.kind == "idle_spin"]
    idling = [fault for fault in faults if fault.kind == "execution_idle"]
    if writer.sight.devices or throttled or spinning or idling:
        _devices(writer, throttled, spinning, random)
        _serving(writer, idling, random)
    if writer.layout.nodes > 1:
        _ports(writer, [fault for fault in faults if fault.kind == "network_degradation"], random)
    if random.random() < STACKS_SHARE:
        begun = int(random.integers(len(writer.timeline.length)))
        _stacks(writer, int(random.integers(writer.layout.ranks)), begun, USUAL_STACK)
    for fault in faults:
        if fault.kind == "host_straggler":
            _stacks(writer, fault.ranks[0], fault.start, STACKS[fault.cause])
        if fault.kind == "masked_straggler":
            _alarm(writer, fault)


def _moments(timeline: Timeline, after: float) -> tuple[Reals, Ints]:
    """Times of the readings and the step that each falls into or follows."""
    end = float(timeline.begin[-1] + timeline.length[-1]) + after
    seconds = np.arange(0.0, end, max(1.0, min(1.9, end / READINGS_MAX), end / (5 * READINGS_MAX)))
    return seconds, np.searchsorted(timeline.begin, seconds, side="right") - 1


def _devices(
    writer: Writer, throttled: Sequence[Fault], spinning: Sequence[Fault], random: np.random.Generator
) -> None:
    line, layout = writer.timeline, writer.layout
    seconds, step = _moments(line, SPIN_SECONDS if spinning else 0.0)
    moment, rank = (
        each.ravel() for each in np.meshgrid(np.arange(len(seconds)), np.arange(layout.ranks), indexing="ij")
    )
    within = seconds - line.begin[np.maximum(step, 0)] < line.length[np.maximum(step, 0)]
    share = np.where(
        within[moment, None].ravel(), (line.compute / line.length[:, None])[np.maximum(step[moment], 0), rank], 0
    )
    ended = seconds[moment] > line.begin[-1] + line.length[-1]
    idle_watts = np.where(ended, SPIN_WATTS, IDLE_WATTS)
    share = np.clip(share * random.normal(1.0, 0.03, len(rank)), 0.0, 1.0)
    clock, reasons = _clocks(throttled, step[moment], rank, random)
    power = (idle_watts + (BUSY_WATTS - IDLE_WATTS) * share * clock / CLOCK_MHZ) * random.normal(1.0, 0.01, len(rank))
    busy = within[moment] | ended
    hot = np.zeros(len(rank)) + 18 * ((reasons & 0x40) > 0)
    columns = {
        "source": "nvml",
        "node": [node_name(int(each)) for each in layout.node_of[rank]],
        "gpu_uuid": [gpu_name(int(each), layout) for each in rank],
        "gpu_index": rank % layout.per_node,
        "job": JOB,
        "time_ns": writer.stamp(seconds[moment], rank),
        "power_watts": power,
        "power_limit_watts": 700.0,
        "energy_joules": _energy(power.reshape(len(seconds), -1), seconds).ravel(),
        "sm_clock_mhz": np.round(clock / 15) * 15,
        "sm_clock_max_mhz": CLOCK_MHZ,
        "clock_event_reasons": reasons,
        "hardware_thermal_ns": _counter((reasons & 0x40) > 0, seconds, layout.ranks),
        "power_brake_ns": _counter((reasons & 0x80) > 0, seconds, layout.ranks),
        "power_cap_ns": _counter((reasons & 0x4) > 0, seconds, layout.ranks),
        "gpu_utilization_percent": np.where(busy, 100.0, 0.0),
        "sm_active_percent": np.where(ended, 12.0, 90 * share),
        "dram_active_percent": np.where(ended, 0.5, 55 * share),
        "temperature_celsius": 45 + 25 * share + hot + random.normal(0.0, 1.0, len(rank)),
        "resident_processes": 1,
    }  # fmt: skip
    writer.recording.add("device_samples", columns, np.maximum(step[moment], 0))


def _clocks(throttled: Sequence[Fault], step: Ints, rank: Ints, random: np.random.Generator) -> tuple[Reals, Ints]:
    """Clock and reasons of each reading. All GPUs touch their power cap now and then, which slows nobody noticeably."""
    capped = random.random(len(rank)) < 0.15
    clock = CLOCK_MHZ - 15.0 * random.integers(0, 3, len(rank)) - 45.0 * capped
    reasons = np.where(capped, REASONS["power"], 0)
    for fault in throttled:
        hit = np.isin(rank, fault.ranks) & (step >= fault.start)
        clock = np.where(hit, clock / (1 + fault.size), clock)
        reasons = np.where(hit, reasons | REASONS[fault.cause], reasons)
    return clock, reasons.astype(np.int64)


def _energy(power: Reals, seconds: Reals) -> Reals:
    total: Reals = np.cumsum(power * np.diff(seconds, prepend=0.0)[:, None], axis=0)
    return total


def _counter(held: Any, seconds: Reals, ranks: int) -> Ints:
    spent = held.reshape(-1, ranks) * np.diff(seconds, prepend=0.0)[:, None]
    return np.asarray(np.cumsum(spent, axis=0).ravel() * 1e9, dtype=np.int64)


def _serving(writer: Writer, idling: Sequence[Fault], random: np.random.Generator) -> None:
    """One GPU beside the job that answers requests: quiet for seconds at a time, unless it idles for most of the time."""
    line = writer.timeline
    seconds, step = _moments(line, 0.0)
    length = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 1.0
    quiet = seconds % 10 < 2
    for fault in idling:
        quiet = np.where(step >= fault.start, seconds % 60 < 60 * fault.size, quiet)
    active = np.where(quiet, 0.0, random.uniform(20.0, 80.0, len(seconds)))
    power = IDLE_WATTS + 4.0 * active + random.normal(0.0, 2.0, len(seconds))
    columns = {
        "source": "nvml", "node": node_name(0), "gpu_uuid": SERVING_GPU, "gpu_index": GPUS_PER_NODE, "job": "serving",
        "time_ns": ORIGIN_NS + (seconds * 1e9).astype(np.int64), "power_watts": power,
        "energy_joules": np.cumsum(power) * length, "sm_clock_mhz": CLOCK_MHZ, "sm_clock_max_mhz": CLOCK_MHZ,
        "gpu_utilization_percent": np.where(quiet, 0.0, 100.0), "sm_active_percent": active,
        "dram_active_percent": active / 2, "temperature_celsius": 40 + active / 5, "resident_processes": 1,
    }  # fmt: skip
    writer.recording.add("device_samples", columns, np.maximum(step, 0))


def _ports(writer: Writer, sick: Sequence[Fault], random: np.random.Generator) -> None:
    """Counters of the network ports of each node, read four times a minute at most."""
    line, layout = writer.timeline, writer.layout
    seconds, step = _moments(line, 0.0)
    every = max(1, round(15.0 / max(float(np.median(np.diff(seconds))), 1e-9))) if len(seconds) > 1 else 1
    seconds, step = seconds[::every], step[::every]
    sent = sum(each.message_bytes for each in line.operations if each.kind in ("dp", "ep", "edp"))
    for node in range(layout.nodes):
        ill = [fault for fault in sick if fault.node == node]
        late = step >= ill[0].start if ill else np.zeros(len(step), dtype=bool)
        cause = ill[0].cause if ill else ""
        for port in range(PORTS):
            bad = late & (port == 0)
            values = {
                "port_xmit_data": (np.maximum(step, 0) * (sent * random.uniform(0.98, 1.02)), "B"),
                "symbol_error": (np.cumsum(bad * 40 * (cause == "errors")), "errors"),
                "port_xmit_wait": (np.cumsum(random.integers(0, 50, len(step)) + 9000 * bad * (cause != "")), "ticks"),
                "rate": (np.where(bad & (cause == "rate"), LINE_BITS_PER_SECOND // 4, LINE_BITS_PER_SECOND), "bit/s"),
                "state": (np.full(len(step), 4), "code"),
            }
            for counter, (value, unit) in values.items():
                _port_rows(writer, node, port, counter, value, unit, seconds, step)


def _port_rows(
    writer: Writer, node: int, port: int, counter: str, value: Any, unit: str, seconds: Reals, step: Ints
) -> None:
    first = np.full(len(seconds), node * writer.layout.per_node)
    columns = {
        "source": "infiniband", "node": node_name(node), "time_ns": writer.stamp(seconds, first), "link_kind": "infiniband",
        "device": f"mlx5_{port}", "port": 1, "counter": counter, "value": np.asarray(value).astype(np.uint64), "unit": unit,
    }  # fmt: skip
    writer.recording.add("link_counters", columns, np.maximum(step, 0))


def _stacks(writer: Writer, suspect: int, begun: int, stack: Sequence[str]) -> None:
    """Stacks of a suspect and of a neighbour, taken when the steps from `begun` on start."""
    layout: Layout = writer.layout
    other = (suspect + 1) % layout.ranks
    taken = [step for step in writer.recording.observed.tolist() if step >= begun][:20]
    if not taken:
        return
    ranks = np.array([rank for _ in taken for rank in (suspect, other)], dtype=np.int64)
    step = np.repeat(np.array(taken, dtype=np.int64), 2)
    frames = [stack if rank == suspect else USUAL_STACK for rank in ranks.tolist()]
    columns = writer.identity(ranks) | {
        "source": "stacks", "time_ns": writer.stamp(writer.timeline.begin[step] + 0.01, ranks), "pid": 1000 + ranks,
        "thread": 1000 + ranks, "thread_name": "MainThread", "active": True, "frames": [list(each) for each in frames],
        "count": 1,
    }  # fmt: skip
    del columns["clock"]
    writer.recording.add("stacks", columns, step)


def _alarm(writer: Writer, fault: Fault) -> None:
    """A port of some other node goes down and comes back: the alarm that everybody looks at."""
    node = alarm_node(fault, writer.layout)
    at = float(writer.timeline.begin[fault.start])
    columns = {
        "source": "kernel_log", "node": node_name(node), "time_ns": [ORIGIN_NS + int((at + wait) * 1e9) for wait in (0, 3)],
        "kind": "link_event", "severity": ["warning", "info"], "link": "mlx5_1",
        "message": ["mlx5_core 0000:3b:00.0 mlx5_1: Link down", "mlx5_core 0000:3b:00.0 mlx5_1: Link up"], "count": 1,
    }  # fmt: skip
    writer.recording.add("log_events", columns, np.full(2, fault.start))
