"""What one incident's walk shows: the incident itself, and of the step of the walk in front what that wants to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from warpline_proto.capture import STATES
from warpline_proto.finding import OPEN, Subject

from ..beside.durations import Durations, Span, durations
from ..beside.ranks import Compared, compared, in_ranks
from ..beside.steps import Steps, steps
from ..capturing import Look, looks
from ..literal import literal
from ..view import Ask
from .incidents import Listed, listed_of, states

VERDICT: Final = "verdict"
EVIDENCE: Final = "evidence"
STEPS: Final = "steps"
KERNELS: Final = "kernels"
SQL: Final = "sql"
NEXT: Final = "next"
WALK: Final = (VERDICT, EVIDENCE, STEPS, KERNELS, SQL, NEXT)
"""Parts of the walk, in order."""
CAPTURES_MAX: Final = 12


@dataclass(frozen=True)
class CaptureState:
    """How far one request to look closer got."""

    id: str
    what: str
    rank: int | None
    state: str
    detail: str
    requested_ns: int | None


@dataclass(frozen=True)
class Walk:
    """The incident, None where there is none of that id, and what is known of the part of the walk in front."""

    now_ns: int
    part: str
    listed: Listed | None = None
    who: Compared = field(default_factory=Compared)
    steps: Steps = field(default_factory=Steps)
    durations: Durations = field(default_factory=Durations)
    captures: tuple[CaptureState, ...] = ()
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True)
class WalkView:
    """One part of the walk through an incident; `chosen` is the kernel whose distribution is looked at, None for the first."""

    incident: str
    part: str = VERDICT
    chosen: str | None = None

    def take(self, ask: Ask) -> Walk:
        """Ask for the incident, and for what the part wants."""
        rows = ask.rows(states(ask, f"id = {literal(self.incident)}")).to_pylist()
        listed = listed_of(ask, rows[0]) if rows else None
        if listed is None or self.part in (VERDICT, EVIDENCE, SQL):
            return Walk(ask.now_ns, self.part, listed)
        finding = listed.incident.finding
        who = compared(ask, finding.subject)
        if self.part == STEPS:
            return Walk(ask.now_ns, self.part, listed, who, steps=steps(ask, who, finding.onset))
        if self.part == KERNELS:
            found = durations(ask, who, _span(listed), self.chosen)
            return Walk(ask.now_ns, self.part, listed, who, durations=found)
        known = who.accused or ((finding.subject.rank,) if finding.subject.rank is not None else ())
        asked = _captures(ask, finding.subject, known, self.incident)
        return Walk(
            ask.now_ns, self.part, listed, who, captures=asked, looks=looks(finding.subject.job, known, who.peers)
        )


def _span(listed: Listed) -> Span:
    """While it stood: from its onset on, to where it was closed."""
    incident = listed.incident
    return Span(incident.finding.onset.step, None, None if incident.state == OPEN else incident.updated_ns)


def _captures(ask: Ask, subject: Subject, ranks: Sequence[int | None], identifier: str) -> tuple[CaptureState, ...]:
    about = [f"reason = {literal(identifier)}"]
    about += [f"(job = {literal(subject.job)} AND {in_ranks(ranks)})"] if subject.job is not None and ranks else []
    order = ", ".join(map(literal, STATES))
    rows = ask.rows(f"""
SELECT id, what, rank, state, coalesce(detail, '') AS detail, requested_ns FROM captures
WHERE ({" OR ".join(about)}) AND {ask.until("updated_ns")}
QUALIFY row_number() OVER (
    PARTITION BY id ORDER BY list_position([{order}], state) DESC NULLS LAST, updated_ns DESC
) = 1
ORDER BY requested_ns DESC LIMIT {CAPTURES_MAX}
""").to_pylist()
    return tuple(map(_capture, rows))


def _capture(row: dict[str, Any]) -> CaptureState:
    return CaptureState(**row)
