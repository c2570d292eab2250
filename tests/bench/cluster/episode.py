"""Episodes: one job, watched in one way, with one fault or none, all of it decided by a seed.

Settings of detectors may be tried on seeds of TUNING only; what is published comes from REPORT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np

from .durations import Durations
from .faults import SIZES, Expectation, Fault, draw, expectations, possible
from .layout import Layout
from .rows import Recording, Sight, Writer
from .telemetry import tell
from .timing import Timeline, simulate
from .work import Conditions

TUNING: Final = range(1_000_000)
REPORT: Final = range(1_000_000, 2_000_000)
CLOCK_ERRORS_MS: Final = (0.0, 0.1, 1.0, 10.0)
LAYOUTS: Final = (
    Layout(8), Layout(4, 2), Layout(4, 1, 4), Layout(16), Layout(2, 2, 4), Layout(8, 1, 2), Layout(4, 4, 2), Layout(32),
    Layout(8, 1, 4), Layout(8, 4, 2), Layout(16, 1, 4), Layout(64), Layout(16, 2, 2), Layout(16, 4, 1, 8), Layout(16, 1, 1, 8),
    Layout(8, 1, 2, 4), Layout(32, 4), Layout(16, 2, 4, 8),
)  # fmt: skip
"""8 to 128 ranks."""
LARGE: Final = (
    Layout(32, 8), Layout(8, 8, 4), Layout(16, 8, 4), Layout(64, 8, 1, 8), Layout(128, 8), Layout(32, 8, 4), Layout(64, 4, 4, 16),
)  # fmt: skip
"""256 to 1,024 ranks."""
LARGE_SHARE: Final = 0.05
STEPS: Final = 200
WINDOW: Final = (3, 50)
WINDOW_STEPS: Final = 1000
"""Steps of a run that is watched for WINDOW only: 60 observed ones."""
LARGE_WINDOW: Final = (5, 50)
LARGE_STEPS: Final = 300
SMALL_ADDED: Final = 0.02
"""Faults that lengthen the step by less are told apart."""


@dataclass(frozen=True)
class Episode:
    """`kind` is `healthy` or a fault of SIZES; `faults` is empty where healthy."""

    seed: int
    kind: str
    size: float
    layout: Layout
    conditions: Conditions
    sight: Sight
    faults: tuple[Fault, ...]

    @property
    def name(self) -> str:
        """Unique, and enough to make it again."""
        size = f"+{self.size * 100:.0f}%" if self.faults else ""
        watched = f"{self.sight.mode}{'-windows' if self.sight.window else ''}"
        return f"{self.kind}{size}/{self.layout}/{watched}/{self.sight.clock_error_seconds * 1e3:g}ms/{self.seed}"

    @property
    def onset(self) -> int:
        """First step of the (first) fault."""
        return min((fault.start for fault in self.faults), default=self.conditions.steps)

    @property
    def complete(self) -> int:
        """First step after which all its faults have begun."""
        return max((fault.start for fault in self.faults), default=self.conditions.steps)

    @cached_property
    def expected(self) -> tuple[Expectation, ...]:
        """What has to be said. Where neither phases nor kernels are told, no recorded time tells a slow backward pass from a rank
        that is slow as a whole: either name is right."""
        told = expectations(self.faults, self.layout)
        if self.sight.mode == "phases" or self.sight.clusters:
            return told
        either = frozenset(("pipeline_bubble", "compute_straggler"))
        return tuple(replace(each, kinds=either) if "pipeline_bubble" in each.kinds else each for each in told)


def run(episode: Episode, real: Durations) -> Timeline:
    """What happened."""
    return simulate(episode.layout, episode.conditions, episode.faults, real, episode.seed)


def added(episode: Episode, timeline: Timeline, real: Durations) -> float:
    """By which part the steps in which the fault acts are longer than the same steps without it, typically (in the mean
    for faults that act now and then)."""
    if not episode.faults:
        return 0.0
    healthy = simulate(episode.layout, episode.conditions, (), real, episode.seed)
    active = np.any([fault.on(len(timeline.length)) for fault in episode.faults], axis=0)
    ratio = timeline.length[active] / healthy.length[active] - 1
    return float(np.mean(ratio) if episode.kind == "sporadic_stall" else np.median(ratio)) if active.any() else 0.0


def record(episode: Episode, timeline: Timeline, real: Durations) -> Recording:
    """All rows of it."""
    random = np.random.default_rng((episode.seed, 3))
    writer = Writer(episode.layout, episode.conditions, episode.sight, timeline, random)
    writer.job()
    writer.steps()
    if episode.sight.mode == "phases":
        writer.phases()
    writer.collectives()
    if episode.sight.clusters:
        writer.clusters(real)
    tell(writer, episode.faults, np.random.default_rng((episode.seed, 4)))
    writer.recording.seal()
    return writer.recording


def draw_episodes(first: int, faulty: int, healthy: int) -> list[Episode]:
    """`faulty` episodes with kinds, sizes and clock errors in turn, and `healthy` ones, of seeds from `first` on."""
    cases = [(kind, size) for kind, sizes in SIZES.items() for size in sizes]
    order = np.random.default_rng(first).permutation(len(cases))
    listed = []
    for at in range(faulty):
        kind, size = cases[order[at % len(cases)]]
        listed.append(episode(first + at, kind, size, at // len(cases) + at))
    return listed + [episode(first + faulty + at, "healthy", 0.0, at) for at in range(healthy)]


def episode(seed: int, kind: str, size: float, turn: int, layouts: Sequence[Layout] = LAYOUTS) -> Episode:
    """One episode; `turn` decides its clock error."""
    random = np.random.default_rng((seed, 0))
    large = layouts is LAYOUTS and random.random() < LARGE_SHARE
    layout = _layout(kind, LARGE if large else layouts, random)
    sight = _sight(layout, CLOCK_ERRORS_MS[turn % len(CLOCK_ERRORS_MS)] / 1e3, large, random)
    conditions = _conditions(layout, sight, large, random)
    start = int(random.integers(conditions.steps * 3 // 10, conditions.steps * 6 // 10))
    if kind == "idle_spin":
        conditions = replace(conditions, steps=start)  # the job stops
    faults = () if kind == "healthy" else draw(kind, size, start, layout, random)
    return Episode(seed, kind, size, layout, conditions, sight, faults)


def _layout(kind: str, layouts: Sequence[Layout], random: np.random.Generator) -> Layout:
    fitting = [layout for layout in layouts if kind == "healthy" or possible(kind, layout)]
    return fitting[int(random.integers(len(fitting)))]


def _sight(layout: Layout, clock_error_seconds: float, large: bool, random: np.random.Generator) -> Sight:
    windowed = random.random() < 0.2
    return Sight(
        mode="kernels" if random.random() < 0.5 else "phases",
        clusters=layout.ranks <= 16,
        devices=not large and random.random() < 0.5,
        clock_error_seconds=clock_error_seconds,
        loss=0.01 if random.random() < 0.3 else 0.0,
        window=LARGE_WINDOW if large else WINDOW if windowed else None,
    )


def _conditions(layout: Layout, sight: Sight, large: bool, random: np.random.Generator) -> Conditions:
    full = LARGE_STEPS if large else WINDOW_STEPS if sight.window else STEPS
    return Conditions(
        steps=full,
        microbatches=int(random.choice([4, 8] if layout.stages > 1 else [1, 2, 4, 8])),
        forward_seconds=float(random.uniform(0.03, 0.12)),
        sharded=bool(random.random() < 0.6),
        sequences=str(random.choice(["fixed", "shared", "replica"])),
        checkpoint_every=int(random.choice([0, 50, 80])),
        evaluation_every=int(random.choice([0, 100])),
        spike_rate=float(random.choice([0.0, 0.002])),
        chip_log_sigma=float(random.choice([0.005, 0.01, 0.015])),
        hiccup_rate=float(random.choice([0.0, 0.005])),
    )
