"""Faults with ground truth: what goes wrong, with whom, from which step, by how much, and what must be said of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from warpline_proto.finding import Finding, Severity, Subject

from .layout import Group, Layout

Random = np.random.Generator

SIZES: Final[Mapping[str, tuple[float, ...]]] = {
    "compute_straggler": (0.05, 0.1, 0.2, 0.5, 1.0),
    "host_straggler": (0.05, 0.1, 0.2, 0.5),
    "data_imbalance": (0.05, 0.1, 0.2, 0.5),
    "stage_imbalance": (0.05, 0.1, 0.3, 0.6),
    "link_degradation": (0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 3.0),
    "network_degradation": (0.1, 0.2, 0.35, 0.5, 1.0, 3.0),
    "throttling": (0.05, 0.1, 0.2, 0.5),
    "sporadic_stall": (0.2, 0.5, 1.0, 3.0),
    "regression": (0.05, 0.1, 0.2, 0.5),
    "pipeline_bubble": (0.1, 0.2, 0.5, 0.9),
    "masked_straggler": (0.1, 0.2, 0.5),
    "intermittent": (0.1, 0.2, 0.5),
    "overlapping": (0.1, 0.2, 0.5),
    "half_slow": (0.05, 0.1, 0.2, 0.5),
    "execution_idle": (0.85,),
    "idle_spin": (1.0,),
}
"""Relative increase of the faulted operation's own time. host_straggler and sporadic_stall: part of a healthy step that the
victim starts late, or that a spike adds to its backward pass. execution_idle: share of time; idle_spin: whole job."""
PIPELINED: Final = ("stage_imbalance", "pipeline_bubble")
REPLICATED: Final = ("data_imbalance", "half_slow", "link_degradation", "overlapping")
NETWORKED: Final = ("network_degradation", "masked_straggler")
ON_STEPS: Final = (10, 40)
OFF_STEPS: Final = (10, 60)
"""An intermittent fault is on, then off, for a number of steps in these bounds that is its own."""
LATER_STEPS: Final = 30
"""The second of two overlapping faults begins within so many steps of the first."""
STALL_SHARE: Final = 0.06
"""Share of steps in which a sporadic stall strikes."""
CAUSES: Final[Mapping[str, tuple[str, ...]]] = {
    "host_straggler": ("loader", "gc", "launch"),
    "network_degradation": ("errors", "rate", "silent"),
    "throttling": ("thermal", "brake", "power"),
}


@dataclass(frozen=True)
class Fault:
    """`ranks` are victims; `group` is a communicator, `stage` and `node` numbers, where the kind has one."""

    kind: str
    size: float
    start: int
    ranks: tuple[int, ...] = ()
    group: str | None = None
    stage: int | None = None
    node: int | None = None
    cause: str = ""
    on_steps: int = 1
    off_steps: int = 0

    def on(self, steps: int) -> npt.NDArray[np.bool_]:
        """In which steps it acts."""
        number = np.arange(steps)
        active: npt.NDArray[np.bool_] = number >= self.start
        if self.kind == "intermittent":
            active &= (number - self.start) % (self.on_steps + self.off_steps) < self.on_steps
        return active


@dataclass(frozen=True)
class Expectation:
    """What has to be said: one of `kinds`, of one of the culprits. With no culprit at all the job as a whole is meant.

    `symptoms` are communicators that suffer truly, though they are not the cause: who reports one has seen the fault. `alarmed`
    is a node with a port that really went down: who reports it is right, but has not seen the fault.
    """

    kinds: frozenset[str]
    ranks: frozenset[int] = frozenset()
    gpus: frozenset[str] = frozenset()
    communicators: frozenset[str] = frozenset()
    node: str | None = None
    stage: int | None = None
    symptoms: frozenset[str] = frozenset()
    alarmed: str | None = None

    def right_kind(self, finding: Finding) -> bool:
        """Whether it is called what it is."""
        return str(finding.kind) in self.kinds

    def symptom(self, finding: Finding) -> bool:
        """Whether a true consequence is reported."""
        return finding.subject.communicator in self.symptoms

    def coincidence(self, finding: Finding) -> bool:
        """Whether something true is reported that is no matter of the fault."""
        return finding.subject.node == self.alarmed is not None and finding.subject.rank is None

    def names(self, finding: Finding) -> bool:
        """Whether the accused is the culprit: nobody else beside, however many of several victims."""
        subject = finding.subject
        if self.ranks:
            accused = accused_ranks(subject)
            return (bool(accused) and accused <= self.ranks) or subject.gpu in self.gpus
        if self.gpus:
            return subject.gpu in self.gpus
        if self.communicators:
            return subject.communicator in self.communicators
        if self.node is not None:
            return subject.node == self.node and subject.communicator is None
        if self.stage is not None:
            return subject.stage == self.stage and subject.rank is None
        return self.right_kind(finding)


def accused_ranks(subject: Subject) -> frozenset[int]:
    """Ranks that a subject names, also where a group does so in words; of a long group those written out."""
    if subject.rank is not None:
        return frozenset((subject.rank,))
    words = re.fullmatch(r"ranks? ([\d, ]+?)(?:, \.\.\. \(\d+\))?", subject.group or "")
    return frozenset(int(number) for number in words[1].split(",")) if words else frozenset()


def alarms(findings: tuple[Finding, ...]) -> list[Finding]:
    """Findings that would wake somebody, worst and surest first, as `warpline analyze` lists them."""
    order = {Severity.CRITICAL: 0, Severity.WARNING: 1}
    loud = [finding for finding in findings if finding.severity in order]
    return sorted(loud, key=lambda finding: (order[finding.severity], -finding.confidence, finding.id))


def node_name(node: int) -> str:
    """Host name of a node."""
    return f"node{node:03d}"


def gpu_name(rank: int, layout: Layout) -> str:
    """UUID of a rank's GPU."""
    return f"GPU-{rank // layout.per_node:04d}-{rank % layout.per_node}"


SERVING_GPU: Final = "GPU-serving"


def possible(kind: str, layout: Layout) -> bool:
    """Whether a job of this layout can have it."""
    if kind in PIPELINED and layout.stages < 2:
        return False
    if kind in REPLICATED and layout.replicas < 2 + 2 * (kind == "half_slow"):
        return False
    if kind == "network_degradation":
        return bool(_crossed(layout))
    return not (kind in NETWORKED and layout.nodes < 2)


def _crossed(layout: Layout) -> dict[int, frozenset[str]]:
    """Node -> communicators with large messages that cross its network."""
    found: dict[int, set[str]] = {}
    for group in layout.groups():
        if group.kind in ("dp", "ep", "edp") and layout.spans_nodes(group):
            for node in {rank // layout.per_node for rank in group.ranks}:
                found.setdefault(node, set()).add(group.name)
    return {node: frozenset(names) for node, names in found.items()}


def _sick_node(size: float, start: int, layout: Layout, cause: str, random: Random) -> Fault:
    """One node; it is silent only where the communicators alone can tell it from the others."""
    crossed = _crossed(layout)
    node = sorted(crossed)[int(random.integers(len(crossed)))]
    alone = sum(names == crossed[node] for names in crossed.values()) == 1
    return Fault("network_degradation", size, start, node=node, cause=cause if alone or cause != "silent" else "errors")


def draw(kind: str, size: float, start: int, layout: Layout, random: Random) -> tuple[Fault, ...]:
    """One fault, or two that overlap, with victims by chance."""
    causes = CAUSES.get(kind, ("",))
    cause = causes[int(random.integers(len(causes)))]
    if kind == "overlapping":
        return _overlapping(size, start, layout, random)
    if kind == "link_degradation":
        groups = [group for group in layout.groups() if group.kind in ("dp", "edp")]
        return (Fault(kind, size, start, group=groups[int(random.integers(len(groups)))].name),)
    if kind == "stage_imbalance":
        return (Fault(kind, size, 0, stage=int(random.integers(layout.stages))),)
    if kind == "network_degradation":
        return (_sick_node(size, start, layout, cause, random),)
    if kind == "half_slow":
        chosen = random.permutation(layout.replicas)[: layout.replicas // 2]
        stage, tp = int(random.integers(layout.stages)), int(random.integers(layout.tensor))
        ranks = tuple(sorted(layout.rank(stage, int(dp), tp) for dp in chosen))
        return (Fault(kind, size, start, ranks=ranks),)
    if kind in ("data_imbalance", "regression", "execution_idle", "idle_spin"):
        return (Fault(kind, size, start, cause=cause),)
    victim = (int(random.integers(layout.ranks)),)
    if kind == "intermittent":
        on, off = (int(random.integers(*bounds)) for bounds in (ON_STEPS, OFF_STEPS))
        return (Fault(kind, size, start, ranks=victim, on_steps=on, off_steps=off),)
    return (Fault(kind, size, start, ranks=victim, cause=cause),)


def _overlapping(size: float, start: int, layout: Layout, random: Random) -> tuple[Fault, ...]:
    """A slow rank, and soon after it a link, another slow rank or a late host."""
    first = draw("compute_straggler", size, start, layout, random)
    later = start + int(random.integers(LATER_STEPS))
    other = ("link_degradation", "compute_straggler", "host_straggler")[int(random.integers(3))]
    while True:
        second = draw(other, 1.0 if other == "link_degradation" else size, later, layout, random)
        if second[0].ranks != first[0].ranks:
            return first + second


def expectations(faults: tuple[Fault, ...], layout: Layout) -> tuple[Expectation, ...]:
    """What has to be said of each fault."""
    return tuple(_EXPECT.get(fault.kind, _victims)(fault, layout) for fault in faults)


def _victims(fault: Fault, layout: Layout) -> Expectation:
    kind = {"intermittent": "compute_straggler", "half_slow": "compute_straggler"}.get(fault.kind, fault.kind)
    gpus = frozenset(gpu_name(rank, layout) for rank in fault.ranks)
    return Expectation(frozenset((kind,)), frozenset(fault.ranks), gpus)


def _link(fault: Fault, layout: Layout) -> Expectation:
    return Expectation(frozenset((fault.kind,)), communicators=frozenset((fault.group or "",)))


def _network(fault: Fault, layout: Layout) -> Expectation:
    node = fault.node or 0
    return Expectation(frozenset((fault.kind,)), node=node_name(node), symptoms=_crossed(layout)[node])


def alarm_node(fault: Fault, layout: Layout) -> int:
    """The node whose port goes down and comes back beside a masked straggler: some other one."""
    return (fault.ranks[0] // layout.per_node + 1) % layout.nodes


def _masked(fault: Fault, layout: Layout) -> Expectation:
    return replace(_victims(fault, layout), alarmed=node_name(alarm_node(fault, layout)))


def _whole_job(fault: Fault, layout: Layout) -> Expectation:
    return Expectation(frozenset((fault.kind,)))


_EXPECT: Final[Mapping[str, Callable[[Fault, Layout], Expectation]]] = {
    "link_degradation": _link,
    "network_degradation": _network,
    "stage_imbalance": lambda fault, layout: Expectation(frozenset((fault.kind,)), stage=fault.stage),
    "execution_idle": lambda fault, layout: Expectation(frozenset((fault.kind,)), gpus=frozenset((SERVING_GPU,))),
    "data_imbalance": _whole_job,
    "regression": _whole_job,
    "idle_spin": _whole_job,
    "masked_straggler": _masked,
}


def degraded(fault: Fault, group: Group, layout: Layout) -> bool:
    """Whether transfers of a communicator suffer: the one itself, or all that cross a sick node's network."""
    if fault.kind == "link_degradation":
        return fault.group == group.name
    crossing = fault.kind == "network_degradation" and layout.spans_nodes(group)
    return crossing and any(rank // layout.per_node == fault.node for rank in group.ranks)
