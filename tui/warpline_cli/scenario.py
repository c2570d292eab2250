"""What a demonstration injects, decided by its seed alone, and whether what was found is that and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from warpline_agent.simulation import Layout
from warpline_agent.sources.synthetic import SyntheticConfig, communicator, gpu

FAULTS: Final = (
    "compute_straggler",
    "link_degradation",
    "execution_idle",
    "none",
    "stage_imbalance",
    "data_imbalance",
)
"""Seed 1 has the first, seed 2 the second, and so on round."""
SICK: Final = "pretrain"
HEALTHY: Final = "finetune"
LAYOUTS: Final = {SICK: Layout(replicas=4, stages=2, ranks_per_node=4), HEALTHY: Layout(4, 1, 4)}
START_STEP: Final = 30
SIMULATED_SECONDS: Final = 160.0
"""How much of the jobs' time a demonstration shows."""


@dataclass(frozen=True)
class Expectation:
    """The one accusation that must be made: `subject` lists what of it must be named, and how. None for a healthy run."""

    kind: str
    subject: Mapping[str, Any]
    words: str


@dataclass(frozen=True)
class Outcome:
    """`found`: what was injected was named. `wrong`: identifiers of findings that accuse somebody else."""

    found: bool
    wrong: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Found what there was, and accused nobody else."""
        return self.found and not self.wrong


@dataclass(frozen=True)
class Scenario:
    """Two jobs on three nodes; one fault, or none, in the first of them."""

    seed: int
    fault: str
    victim: int
    factor: float
    serving_node: int

    def nodes(self, start_ns: int, speed_up: float) -> list[SyntheticConfig]:
        """Settings of each node, made-up time ending up at the wall clock when all of it was shown."""
        origin_ns = start_ns - int(SIMULATED_SECONDS * (1.0 - 1.0 / speed_up) * 1e9)
        return [
            self._node(job, index, start_ns, origin_ns, speed_up)
            for job, layout in LAYOUTS.items()
            for index in range(layout.ranks // layout.ranks_per_node)
        ]

    def expectation(self) -> Expectation | None:
        """What must be found."""
        layout = LAYOUTS[SICK]
        replica, stage = layout.place(self.victim)
        since = f"from step {START_STEP} on"
        if self.fault == "compute_straggler":
            words = f"rank {self.victim} (stage {stage}, dp {replica}) computes {self.factor:.2f} times as long {since}"
            return Expectation(self.fault, {"job": SICK, "rank": self.victim}, words)
        if self.fault == "link_degradation":
            name = communicator(SICK, self.seed, f"dp{self.victim}")
            group = f"communicator {name} (gradients of stage {self.victim})"
            words = f"transfers of {group} take {self.factor:.2f} times as long {since}"
            return Expectation(self.fault, {"job": SICK, "communicator": name}, words)
        if self.fault == "execution_idle":
            accused = gpu(f"{SICK}-{self.serving_node}", layout.ranks_per_node)
            words = f"GPU {accused} of node {SICK}-{self.serving_node} does nothing for most of the time, its server resident"
            return Expectation(self.fault, {"gpu": accused}, words)
        if self.fault == "stage_imbalance":
            words = f"stage {self.victim} has {self.factor:.2f} times the work of its neighbour"
            return Expectation(self.fault, {"job": SICK, "stage": self.victim}, words)
        if self.fault == "data_imbalance":
            words = f"another replica in each step has {self.factor:.2f} times the work {since}"
            return Expectation(self.fault, {"job": SICK}, words)
        return None

    def judge(self, findings: Iterable[Mapping[str, Any]]) -> Outcome:
        """Findings in their published form against what was injected."""
        expected = self.expectation()
        right = False
        wrong: list[str] = []
        for finding in findings:
            if expected is not None and _meets(finding, expected):
                right = True
            elif finding["severity"] != "info":
                wrong.append(finding["id"])
        return Outcome(right or expected is None, tuple(wrong))

    def _node(self, job: str, index: int, start_ns: int, origin_ns: int, speed_up: float) -> SyntheticConfig:
        layout, sick = LAYOUTS[job], job == SICK
        return SyntheticConfig(
            job=job,
            node=f"{job}-{index}",
            node_index=index,
            replicas=layout.replicas,
            stages=layout.stages,
            ranks_per_node=layout.ranks_per_node,
            seed=self.seed,
            speed_up=speed_up,
            start_ns=start_ns,
            origin_ns=origin_ns,
            serving=sick and index == self.serving_node,
            fault=self.fault if sick else "none",
            victim=self.victim if sick else 0,
            start_step=0 if self.fault == "stage_imbalance" else START_STEP,
            factor=self.factor if sick else 1.0,
        )


def scenario(seed: int) -> Scenario:
    """The demonstration of one seed."""
    chance = random.Random(seed)
    layout = LAYOUTS[SICK]
    fault = FAULTS[(seed - 1) % len(FAULTS)]
    of_stages = fault in ("link_degradation", "stage_imbalance")
    victim = chance.randrange(layout.stages if of_stages else layout.ranks)
    factor = round(chance.uniform(2.5, 4.0) if fault == "link_degradation" else chance.uniform(1.4, 1.8), 2)
    return Scenario(seed, fault, victim, factor, chance.randrange(layout.ranks // layout.ranks_per_node))


def agent_settings(node: SyntheticConfig, collector: str, spool_directory: str) -> dict[str, Any]:
    """Sections of one agent's settings file."""
    from warpline_agent.config import AgentConfig

    agent = AgentConfig(
        cluster="demo",
        node=node.node,
        collector=collector,
        sources=("synthetic",),
        spool_directory=spool_directory,
        drain_seconds=0.5,
    )
    return {"agent": agent, "sources.synthetic": node}


def _meets(finding: Mapping[str, Any], expected: Expectation) -> bool:
    subject = finding["subject"]
    return finding["kind"] == expected.kind and all(
        subject.get(key) == value for key, value in expected.subject.items()
    )
