"""What is said of one node's GPUs: the heading, the rows of the table, one GPU at length, the programs on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich.text import Text

from .grid import grid
from .held import reasons
from .incident import Incident, open_ones, troubled
from .spark import spark
from .views.node import Node
from .views.node_gpus import Gpu, Line, Process, Worker
from .widgets.table import Cell
from .words import UNKNOWN, age, number, size

COLUMNS: Final = (
    "GPU", "W/limit", "util", "SM", "MHz", "held by", "°C", "memory", "util past", "power past", "rank", "NVLink tx/rx", "ECC",
    "model",
)  # fmt: skip
PAST: Final = 12
PAST_WIDE: Final = 30
"""Characters of a line in the table, and where the window is wide."""
WIDE_COLUMNS: Final = 160
STALE_NS: Final = 30 * 10**9
HOT_CELSIUS: Final = 85.0
HELD_SHARE: Final = 0.05
"""From this share of the time on it is said that something held the clocks, though it does not now."""
SEVERITIES: Final = {"critical": "bold red", "warning": "yellow", "info": "dim"}


def heading(node: Node) -> Text:
    """Who it is, how old its readings are, and what works there."""
    if node.node is None:
        return Text(
            "No node has been heard of yet. Is `warpline agent` running? `warpline doctor` tells what works here."
        )
    models = sorted({gpu.gpu_name or "GPU of unknown model" for gpu in node.gpus})
    said = Text(node.node, "bold").append(f"  {len(node.gpus)} × {', '.join(models) or 'GPU'}", "not bold")
    if node.heard_ns is None:
        said.append("  no reading is kept of this time", "not bold yellow")
    elif node.now_ns - node.heard_ns > STALE_NS:
        said.append(f"  last heard {age(node.heard_ns, node.now_ns)}", "not bold yellow")
    for job in sorted({each.job for each in node.workers}):
        said.append(f"  {job}: {_ranks([each.rank for each in node.workers if each.job == job])}", "not bold")
    if len(node.nodes) > 1 and node.node in node.nodes:
        said.append(f"  node {node.nodes.index(node.node) + 1} of {len(node.nodes)}", "not bold dim")
    return said


def _ranks(ranks: list[int | None]) -> str:
    known = sorted(rank for rank in ranks if rank is not None)
    if not known:
        return "ranks unknown"
    whole = known[-1] - known[0] + 1 == len(known) and len(known) > 2
    listed = f"{known[0]}-{known[-1]}" if whole else ", ".join(map(str, known))
    return f"rank{'s' if len(known) > 1 else ''} {listed}"


def row(gpu: Gpu, node: Node, columns: int) -> list[Cell]:
    """One GPU in the table, in a window so wide."""
    past = PAST_WIDE if columns >= WIDE_COLUMNS else PAST
    line = node.lines.get(gpu.key)
    worker = node.worker(gpu)
    marked = ("gpu", gpu.gpu_uuid) in troubled(node.incidents)
    index = number(gpu.gpu_index)
    return [
        Text(f"▶ {index}", "bold red") if marked else index,
        f"{number(gpu.power_watts)}/{number(gpu.power_limit_watts)}",
        number(gpu.gpu_utilization_percent, "%"),
        number(gpu.sm_active_percent, "%"),
        number(gpu.sm_clock_mhz),
        held_by(gpu, node),
        Text(number(gpu.temperature_celsius), "yellow" if (gpu.temperature_celsius or 0) >= HOT_CELSIUS else ""),
        _memory(gpu),
        spark(line.utilization_percent if line else (), past, 0.0, 100.0),
        spark(line.power_watts if line else (), past, 0.0, gpu.power_limit_watts),
        f"{worker.job} {number(worker.rank)}" if worker else gpu.job or UNKNOWN,
        f"{_rate(gpu.nvlink_tx_bytes_per_second)}/{_rate(gpu.nvlink_rx_bytes_per_second)}",
        _ecc(gpu),
        gpu.gpu_name or UNKNOWN,
    ]


def held_by(gpu: Gpu, node: Node) -> Cell:
    """What holds its clocks now, else what held them in the last ten minutes."""
    now = reasons(gpu.clock_event_reasons)
    if now:
        return Text(now[0].short, "yellow" if now[0].slows else "dim")
    past = {name: part for name, part in node.held.get(gpu.key, {}).items() if part >= HELD_SHARE}
    if past:
        worst = max(past, key=lambda name: past[name])
        return Text(f"was {worst}", "yellow")
    return UNKNOWN if gpu.clock_event_reasons is None else "nothing"


def _memory(gpu: Gpu) -> str:
    if gpu.memory_used_bytes is None:
        return UNKNOWN
    used = f"{gpu.memory_used_bytes / 2**30:.0f}"
    return f"{used} GiB" if gpu.memory_total_bytes is None else f"{used}/{gpu.memory_total_bytes / 2**30:.0f} GiB"


def _rate(bytes_per_second: float | None) -> str:
    return UNKNOWN if bytes_per_second is None else f"{bytes_per_second / 1e9:.1f}"


def _ecc(gpu: Gpu) -> Cell:
    if gpu.ecc_uncorrected:
        return Text(f"{gpu.ecc_uncorrected} uncorrected", "bold red")
    if gpu.ecc_corrected is None:
        return UNKNOWN
    return Text(f"{gpu.ecc_corrected} corrected", "yellow") if gpu.ecc_corrected else "0"


def at_length(gpu: Gpu | None, node: Node, columns: int) -> Text:
    """Everything of one GPU."""
    if gpu is None:
        return Text("No GPU of this node is known.", "dim")
    parts = [
        Text(
            f"GPU {number(gpu.gpu_index)}  {gpu.gpu_name or ''}  {gpu.gpu_uuid or gpu.key}  {gpu.bus_id or ''}", "bold"
        )
    ]
    parts += _clocks(gpu, node)
    line = node.lines.get(gpu.key)
    if line is not None:
        parts += _past(line, gpu, node, columns)
    parts += [Text(each) for each in _facts(gpu)]
    return Text("\n").join(parts)


def _clocks(gpu: Gpu, node: Node) -> Iterator[Text]:
    said = f"SM clock {number(gpu.sm_clock_mhz)} of {number(gpu.sm_clock_max_mhz)} MHz, memory {number(gpu.memory_clock_mhz)} MHz"
    found = reasons(gpu.clock_event_reasons)
    if gpu.clock_event_reasons is None:
        yield Text(f"{said}; why is not told by this GPU")
    elif not found:
        yield Text(f"{said}; nothing holds it")
    for each in found:
        yield Text(f"{said}; held: {each.short}: {each.words}", "yellow" if each.slows else "")
    for name, part in sorted(node.held.get(gpu.key, {}).items(), key=lambda item: -item[1]):
        yield Text(f"held by {name} for {part:.1%} of the last 10 min", "yellow" if part >= HELD_SHARE else "dim")


def _past(line: Line, gpu: Gpu, node: Node, columns: int) -> Iterator[Text]:
    width = min(node.span.bins, max(columns - 42, 10))
    yield Text(node.span.grain, "dim")
    for name, values, unit, high in (
        ("power", line.power_watts, " W", gpu.power_limit_watts),
        ("utilisation", line.utilization_percent, "%", 100.0),
        ("SM clock", line.sm_clock_mhz, " MHz", gpu.sm_clock_max_mhz),
        ("temperature", line.temperature_celsius, " °C", None),
        ("memory", line.memory_used_bytes, "", gpu.memory_total_bytes),
    ):
        known = [value for value in values if value is not None]
        if known:
            ends = (min(known), max(known))
            low, top = (size(each) for each in ends) if name == "memory" else (f"{each:.0f}{unit}" for each in ends)
            spanned = low if low == top else f"{low} to {top}"
            low_end = None if high is None else 0.0
            yield (
                Text(f"{name:<11} ").append(spark(values, width, low_end, high), "green").append(f"  {spanned}", "dim")
            )


def _facts(gpu: Gpu) -> Iterator[str]:
    yield (
        f"pipes: tensor {number(gpu.tensor_active_percent, '%')}, device memory {number(gpu.dram_active_percent, '%')} active; "
        f"temperature {number(gpu.temperature_celsius)} °C, memory {number(gpu.memory_temperature_celsius)} °C, "
        f"fan {number(gpu.fan_percent, '%')}, P{number(gpu.performance_state)}"
    )
    yield (
        f"memory {size(gpu.memory_used_bytes)} of {size(gpu.memory_total_bytes)}; ECC {number(gpu.ecc_corrected)} corrected, "
        f"{number(gpu.ecc_uncorrected)} uncorrected, {number(gpu.remapped_rows)} rows remapped"
    )
    yield (
        f"PCIe generation {number(gpu.pcie_generation)} × {number(gpu.pcie_width)}, "
        f"{_rate(gpu.pcie_tx_bytes_per_second)}/{_rate(gpu.pcie_rx_bytes_per_second)} GB/s, {number(gpu.pcie_replays)} replays; "
        f"NVLink {_rate(gpu.nvlink_tx_bytes_per_second)}/{_rate(gpu.nvlink_rx_bytes_per_second)} GB/s, "
        f"{number(gpu.nvlink_errors)} errors"
    )


def processes(node: Node) -> Text:
    """Programs on the GPUs; where no source tells them, the ranks that told steps."""
    if node.processes:
        rows = [("GPU", "pid", "program", "memory", "user", "job", "rank", "pod"), *map(_process, node.processes)]
        return _table(rows, [True, True, False, True, False, False, True, False])
    if not node.workers:
        return Text(
            "No program is known on these GPUs. The sources nvml and processes tell them; see `sources` (4).", "dim"
        )
    said = [
        ("GPU", "job", "rank", "newest step"),
        *((_short(each), each.job, number(each.rank), number(each.step)) for each in node.workers),
    ]
    return Text("No source tells processes here; these ranks told steps in the last 10 min:\n", "dim").append_text(
        _table(said, [False, False, True, True])
    )


def _process(each: Process) -> tuple[str, ...]:
    return (
        number(each.gpu_index), number(each.pid), each.process or UNKNOWN, size(each.memory_bytes), each.user or UNKNOWN,
        each.job or UNKNOWN, number(each.rank), each.pod or UNKNOWN,
    )  # fmt: skip


def _short(worker: Worker) -> str:
    return (worker.gpu_uuid or number(worker.device))[:12]


def _table(rows: Sequence[tuple[str, ...]], right: list[bool]) -> Text:
    first, *others = grid(rows, right)
    return Text(first, "bold dim").append("\n" + "\n".join(others), "not bold not dim")


def found(incidents: tuple[Incident, ...]) -> Iterator[Text]:
    """Open findings, two lines each."""
    for each in open_ones(incidents):
        severity = str(each.finding.severity)
        yield Text(f"▶ {severity.upper()} ", SEVERITIES.get(severity, "")).append(
            each.finding.summary, "not bold not dim default"
        )
        yield Text(f"  → {each.finding.next_step}", "green")
