"""What the screen shows at one moment: frozen, plain, and drawn from without asking anybody."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from warpline_proto.finding import GRAVITY, OPEN, Finding

from .power import Power


@dataclass(frozen=True)
class Gpu:
    """The newest reading of one GPU; None where the device does not tell."""

    node: str
    index: int | None
    uuid: str | None
    name: str | None
    job: str | None
    time_ns: int | None
    power_watts: float | None
    power_limit_watts: float | None
    utilization_percent: float | None
    sm_clock_mhz: float | None
    temperature_celsius: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    resident_processes: int | None


@dataclass(frozen=True)
class Rank:
    """One rank's recent steps: newest step, median durations in ns over the steps looked at."""

    job: str
    rank: int | None
    node: str | None
    stage: int | None
    dp: int | None
    step: int | None
    steps: int
    step_ns: float | None
    compute_ns: float | None
    communication_ns: float | None
    idle_ns: float | None

    @property
    def key(self) -> RankKey:
        """What names the rank."""
        return (self.job, self.rank)


RankKey = tuple[str, int | None]


@dataclass(frozen=True)
class Kernel:
    """One kernel of one rank over the steps kept: calls, total and order statistics in ns; p50 and p99 None where it is told by
    sums alone."""

    name: str
    category: str
    count: int
    sum_ns: int
    min_ns: int
    p50_ns: float | None
    p99_ns: float | None
    max_ns: int
    share: float


@dataclass(frozen=True)
class Incident:
    """A finding with its life."""

    finding: Finding
    state: str
    opened_ns: int | None
    updated_ns: int | None


@dataclass(frozen=True)
class SourceState:
    """The newest word of one source on one node."""

    node: str
    source: str
    subject: str
    state: str
    reason: str
    time_ns: int | None
    dropped: int


@dataclass(frozen=True)
class CaptureCost:
    """What capturing kernels adds to the time of a job; None where it cannot be told yet; `verdict` is within, over, or that."""

    job: str
    mode: str
    overhead_percent: float | None
    low_percent: float | None
    high_percent: float | None
    budget_percent: float | None
    verdict: str


@dataclass(frozen=True)
class Wanted:
    """What a viewer has chosen: the rank whose kernels are listed, and what power is told by; None where it is not looked at."""

    rank: RankKey | None = None
    power_by: str | None = None


NOTHING_CHOSEN: Final = Wanted()


@dataclass(frozen=True)
class Snapshot:
    """Everything a refresh draws. `error` says why this one is not newer than the last; `taken_ns` is the viewer's clock."""

    taken_ns: int = 0
    newest_ns: int | None = None
    gpus: tuple[Gpu, ...] = ()
    ranks: tuple[Rank, ...] = ()
    incidents: tuple[Incident, ...] = ()
    sources: tuple[SourceState, ...] = ()
    costs: tuple[CaptureCost, ...] = ()
    selected: RankKey | None = None
    kernels: tuple[Kernel, ...] = ()
    power: Power = field(default_factory=Power)
    error: str | None = None

    @property
    def open_incidents(self) -> tuple[Incident, ...]:
        """Those that are not resolved, worst first."""
        shown = [incident for incident in self.incidents if incident.state == OPEN]
        return tuple(sorted(shown, key=lambda each: GRAVITY[each.finding.severity]))

    def troubled(self) -> set[tuple[str, Any]]:
        """(field, value) pairs of the subjects of open findings, to mark them wherever they are shown."""
        marks: set[tuple[str, Any]] = set()
        for incident in self.open_incidents:
            subject = incident.finding.subject
            marks |= {("gpu", subject.gpu), ("rank", (subject.job, subject.rank))}
        return marks - {("gpu", None)}
