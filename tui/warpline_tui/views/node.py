"""What the node screen shows: its GPUs and their past, its ports, its log, its agent, what was replaced, what was found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ..incident import Incident, newest, open_ones
from ..literal import literal
from ..spans import RECENT, Span, settled
from ..view import Ask
from . import headline
from .node_agent import Agent, Event, Sources, Tenure, agent, events, sources, tenures
from .node_gpus import Gpu, Line, Process, Worker, gpus, held, lines, processes, remembered, workers
from .node_links import Port, ports

NODES_MAX: Final = 5_000
NODES_SECONDS: Final = 30.0
"""The list of nodes, and the newest reading of one that is silent, are asked for so rarely."""
STEADY_SECONDS: Final = 10
"""All but the newest readings is asked for up to a multiple of so many seconds."""
RECENT_NS: Final = 600 * 10**9
"""A node that was not heard of for so long before the fleet's newest reading is not listed."""


@dataclass(frozen=True)
class Node:
    """One node at one moment; `heard_ns` is its newest reading, `span` what its lines cover, `nodes` are all that are heard."""

    now_ns: int
    node: str | None = None
    nodes: tuple[str, ...] = ()
    heard_ns: int | None = None
    gpus: tuple[Gpu, ...] = ()
    held: dict[str, dict[str, float]] = field(default_factory=dict)
    span: Span = RECENT
    lines: dict[str, Line] = field(default_factory=dict)
    processes: tuple[Process, ...] = ()
    workers: tuple[Worker, ...] = ()
    ports: tuple[Port, ...] = ()
    events: tuple[Event, ...] = ()
    agent: Agent | None = None
    sources: Sources = field(default_factory=Sources)
    tenures: tuple[Tenure, ...] = ()
    incidents: tuple[Incident, ...] = ()

    def worker(self, gpu: Gpu) -> Worker | None:
        """The rank on a GPU, as far as it is known: by its UUID, else by its ordinal.

        Of ranks that all see one device and call it 0 nobody knows which GPU that is.
        """
        if gpu.gpu_uuid is not None and any(each.gpu_uuid for each in self.workers):
            return next((each for each in self.workers if each.gpu_uuid == gpu.gpu_uuid), None)
        there = [each for each in self.workers if each.device is not None and each.device == gpu.gpu_index]
        return there[0] if len(there) == 1 else None

    def on(self, gpu: Gpu) -> tuple[Process, ...]:
        """Programs that hold a GPU."""
        return tuple(each for each in self.processes if each.gpu_uuid == gpu.gpu_uuid)


@dataclass(frozen=True)
class NodeView:
    """A node, None for the one that is worth a look first, with lines over a span."""

    node: str | None = None
    span: Span = RECENT

    def take(self, ask: Ask) -> Node:
        """Ask for everything of the node."""
        fleet_ns = headline.newest(ask)
        nodes = _nodes(ask, fleet_ns)
        node = self.node if self.node is not None else _worth_a_look(ask, nodes)
        if node is None:
            return Node(ask.now_ns)
        heard_ns = _heard(ask, node, fleet_ns)
        end_ns = heard_ns or ask.now_ns
        steady_ns = settled(end_ns, STEADY_SECONDS)
        span, drawn = lines(ask, node, self.span, steady_ns)
        return Node(
            now_ns=ask.now_ns,
            node=node,
            nodes=nodes,
            heard_ns=heard_ns,
            gpus=gpus(ask, node, end_ns) or remembered(ask, node, steady_ns),
            held=held(ask, node, steady_ns),
            span=span,
            lines=drawn,
            processes=processes(ask, node, steady_ns),
            workers=workers(ask, node, steady_ns),
            ports=ports(ask, node, steady_ns),
            events=events(ask, node),
            agent=agent(ask, node, steady_ns),
            sources=sources(ask, node, steady_ns),
            tenures=tenures(ask, node),
            incidents=newest(ask, f"node = {literal(node)}"),
        )


def _nodes(ask: Ask, newest_ns: int | None) -> tuple[str, ...]:
    """Those with a reading shortly before the newest, as of a whole minute."""
    since_ns = ((newest_ns or ask.now_ns) - RECENT_NS) // (60 * 10**9) * 60 * 10**9
    rows = ask.rows(
        f"""
SELECT DISTINCT node FROM device_samples WHERE node IS NOT NULL AND time_ns >= {since_ns} AND {ask.until()}
ORDER BY node LIMIT {NODES_MAX}
""",
        NODES_SECONDS,
    )
    return tuple(rows["node"].to_pylist())


def _worth_a_look(ask: Ask, nodes: tuple[str, ...]) -> str | None:
    """The node that the gravest open finding names, else the first."""
    accused = (each.finding.subject.node for each in open_ones(newest(ask)))
    return next((each for each in accused if each is not None), nodes[0] if nodes else None)


def _heard(ask: Ask, node: str, fleet_ns: int | None) -> int | None:
    """The node's newest reading: looked for where the fleet is, and, of a silent node, now and then everywhere."""
    if fleet_ns is not None:
        recent = f"time_ns BETWEEN {fleet_ns - RECENT_NS} AND {fleet_ns}"
        found: int | None = ask.rows(_newest_of(node, recent))["newest"][0].as_py()
        if found is not None:
            return found
    last: int | None = ask.rows(_newest_of(node, ask.until()), NODES_SECONDS)["newest"][0].as_py()
    return last


def _newest_of(node: str, when: str) -> str:
    return f"SELECT max(time_ns) AS newest FROM device_samples WHERE node = {literal(node)} AND {when}"
