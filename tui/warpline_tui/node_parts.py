"""What is said of one node beside its GPUs: what is odd first, then links, log, agent, and what was replaced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.text import Text

from .grid import grid
from .held import reasons
from .node_text import HELD_SHARE, SEVERITIES, found
from .views.node import Node
from .views.node_agent import Agent, Event, Tenure
from .views.node_links import Port
from .words import UNKNOWN, age, duration, moment, number, size
from .xids import meaning

SHOWN: Final = 3
"""So many of a kind stand in the overview."""
DETAIL: Final = (
    "everything",
    "less of kernels",
    "sums of kernels alone",
    "only what a diagnosis cannot do without",
)
"""Levels of detail of an agent, in words."""


def overview(node: Node) -> Text:
    """What an operator should see first; where nothing is odd, that."""
    lines = [*found(node.incidents), *_held(node), *_links(node), *_log(node), *_agent(node)]
    if not lines and node.gpus:
        lines = [Text("Nothing is accused here, no link differs, no fault was logged, the agent is well.", "green")]
    if node.tenures:
        lines.append(Text(f"Something was replaced here: {_tenure(node.tenures[0], node.now_ns)}", "dim"))
    return Text("\n").join(lines) if lines else Text("Nothing is known of this node at this time.", "dim")


def _held(node: Node) -> Iterator[Text]:
    slowed = [gpu for gpu in node.gpus if any(each.slows for each in reasons(gpu.clock_event_reasons))]
    if slowed:
        words = sorted({each.short for gpu in slowed for each in reasons(gpu.clock_event_reasons) if each.slows})
        listed = ", ".join(number(gpu.gpu_index) for gpu in slowed)
        yield Text(f"Clocks are held on GPU {listed}: {', '.join(words)}.", "yellow")
    past = {
        key: max(parts, key=lambda name: parts[name])
        for key, parts in node.held.items()
        if parts and max(parts.values()) >= HELD_SHARE
    }
    others = [gpu for gpu in node.gpus if gpu.key in past and gpu not in slowed]
    if others:
        listed = ", ".join(f"{number(gpu.gpu_index)} ({past[gpu.key]})" for gpu in others)
        yield Text(f"Clocks were held in the last 10 min on GPU {listed}.", "yellow")


def _links(node: Node) -> Iterator[Text]:
    odd = [port for port in node.ports if port.odd]
    for port in odd[:SHOWN]:
        yield Text(f"Link {port.name} ({port.kind}): {'; '.join(port.odd)}", "yellow")
    if len(odd) > SHOWN:
        yield Text(f"{len(odd) - SHOWN} more links differ: see links.", "yellow")


def _log(node: Node) -> Iterator[Text]:
    grave = [each for each in node.events if each.severity in ("critical", "warning")]
    for each in grave[:SHOWN]:
        yield Text(f"{age(each.time_ns, node.now_ns)}: {meaning(each.kind, each.code)}", SEVERITIES[str(each.severity)])
    if len(grave) > SHOWN:
        yield Text(f"{len(grave) - SHOWN} more such lines in the last 7 days: see log.", "yellow")


def _agent(node: Node) -> Iterator[Text]:
    if node.agent is not None and node.agent.troubles:
        yield Text(f"Agent: {', '.join(node.agent.troubles)}. {node.agent.detail or ''}", "yellow")
    broken = [each for each in node.sources.unread if each.state != "unsupported"]
    for each in broken[:SHOWN]:
        yield Text(f"Source {each.source} ({each.subject}) is {each.state}: {each.reason}", "yellow")


def links(ports: tuple[Port, ...]) -> Text:
    """Every port against the others, the odd ones first."""
    if not ports:
        return Text("No port is known: the sources infiniband and nvml tell them; see `sources` (4).", "dim")
    rows: list[tuple[str, ...]] = [
        ("port", "kind", "state", "Gbit/s", "sent", "received", "errors", "what differs from the other rails")
    ]
    rows += [_port(port) for port in ports]
    lines = grid(rows, [False, False, False, True, True, True, True, False])
    styles = ["bold dim", *("yellow" if port.odd else "" for port in ports)]
    return Text("\n").join(Text(line, style) for line, style in zip(lines, styles, strict=True))


def _port(port: Port) -> tuple[str, ...]:
    rate = UNKNOWN if port.bits_per_second is None else f"{port.bits_per_second / 1e9:g}"
    return (
        port.name, port.kind, port.state or UNKNOWN, rate, _traffic(port.sent_bytes_per_second),
        _traffic(port.received_bytes_per_second), f"{port.total_errors:,}", "; ".join(port.odd) or "nothing",
    )  # fmt: skip


def _traffic(bytes_per_second: float | None) -> str:
    return UNKNOWN if bytes_per_second is None else f"{bytes_per_second / 1e9:.2f} GB/s"


def log(events: tuple[Event, ...], now_ns: int) -> Text:
    """Lines of the log, the newest first, each with what it means."""
    if not events:
        return Text(
            "No line of the log spoke of a fault in the last 7 days (as far as the source kernel_log is read).", "dim"
        )
    said = Text()
    for each in events:
        style = SEVERITIES.get(str(each.severity), "")
        who = " ".join(filter(None, (each.bus_id, each.link, each.job and f"job {each.job} rank {number(each.rank)}")))
        times = f" × {each.count}" if each.count and each.count > 1 else ""
        said.append(f"{moment(each.time_ns)}  {meaning(each.kind, each.code)}{times}  {who}\n", style)
        said.append(f"    {each.message or ''}\n", "dim")
    return said


def agent(node: Node) -> Text:
    """Its health, its cost, and what it does not read."""
    told = node.agent
    lines = (
        [Text("The collector has not judged an agent of this node in the last hour.", "dim")]
        if told is None
        else [*_told(told, node.now_ns)]
    )
    lines.append(Text(_cost(node)))
    lines.append(
        Text(
            f"Sources: {node.sources.fresh} fresh, {len(node.sources.unread)} not:"
            if node.sources.unread
            else f"Sources: {node.sources.fresh}, all fresh.",
            "bold",
        )
    )
    for each in node.sources.unread:
        dropped = f", {each.dropped:,} dropped" if each.dropped else ""
        said = (
            f"  {each.source} ({each.subject}): {each.state}{dropped}: {each.reason} ({age(each.time_ns, node.now_ns)})"
        )
        lines.append(Text(said, "dim" if each.state == "unsupported" else "yellow"))
    return Text("\n").join(lines)


def _told(told: Agent, now_ns: int) -> Iterator[Text]:
    wrong = ", ".join(told.troubles)
    yield Text(
        f"Agent {told.agent} {told.version or ''}, heard {age(told.heard_ns, now_ns)}: {wrong or 'well'}",
        "yellow" if wrong else "green",
    )
    if told.detail:
        yield Text(f"  {told.detail}", "yellow")
    if told.clock_offset_ns is not None:
        bound = "" if told.clock_error_ns is None else f" ± {duration(told.clock_error_ns)}"
        yield Text(f"Clock: {duration(told.clock_offset_ns)}{bound} off the collector's; {told.clock_jumps or 0} jumps")
    level = told.detail_level or 0
    yield Text(
        f"Tells {DETAIL[min(level, 3)]}; {told.dropped or 0:,} rows fell off, {told.lost or 0:,} frames lost, "
        f"{told.refused_rows or 0:,} rows refused, {told.kernels_left_out or 0:,} kernels left out",
        "yellow" if level or told.dropped or told.lost or told.refused_rows else "",
    )


def _cost(node: Node) -> str:
    told = node.agent or Agent()
    cpu = told.cpu_percent if told.cpu_percent is not None else node.sources.cpu_percent
    rss = told.rss_bytes if told.rss_bytes is not None else node.sources.rss_bytes
    cost = UNKNOWN if cpu is None else f"{cpu:.1f} %"
    return f"Its own cost: CPU {cost} of one core, memory {size(rss)}, {size(told.waiting_bytes)} waiting in its spool"


def replaced(tenures: tuple[Tenure, ...], now_ns: int) -> Text:
    """What was in which place from when to when."""
    if not tenures:
        return Text("Nothing was replaced here, as far as is known.", "dim")
    return Text("\n").join(Text(_tenure(each, now_ns)) for each in tenures)


def _tenure(each: Tenure, now_ns: int) -> str:
    where = "machine" if each.kind == "machine" else f"GPU {number(each.gpu_index)} ({each.slot or 'slot unknown'})"
    gone = each.until_ns is not None and each.until_ns <= now_ns
    until = f"to {moment(each.until_ns)}, then {each.replaced_by or 'another'}" if gone else "and is there"
    return f"{where}: {each.gpu_name or ''} {each.identity or UNKNOWN} since {moment(each.from_ns)} {until}"
