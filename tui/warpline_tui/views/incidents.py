"""What the incidents screen shows: findings, each with what was folded under it, and what was asked without accusing anybody."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.finding import OPEN

from ..incident import GRAVEST_FIRST, Incident, read
from ..incident_text import FOLDED
from ..money import Lost, lost
from ..view import Ask

INCIDENTS_MAX: Final = 500
ANSWERS_MAX: Final = 1_000
HEALTH_SECONDS: Final = 5.0
"""What the analysis says of itself stands among what every source of every node says of itself: it is looked for so rarely."""
PASS: Final = "pass"
"""Under this subject the analysis reports for itself."""


@dataclass(frozen=True)
class Listed:
    """An incident, what it cost in money (None where no price is set or nothing is known), and how often it was written anew."""

    incident: Incident
    lost: Lost | None = None
    written: int = 1

    @property
    def folded(self) -> tuple[tuple[str, str], ...]:
        """Findings that follow from it: kind and summary."""
        found = map(FOLDED.fullmatch, self.incident.finding.ruled_out)
        return tuple((each["kind"], each["summary"]) for each in found if each)

    @property
    def rows(self) -> int:
        """Rows of evidence that are kept with it."""
        return sum(len(each.rows) for each in self.incident.finding.evidence)


@dataclass(frozen=True)
class Answer:
    """A question of the analysis that accused nobody: `judged` where it found health, else `why` says what it wanted."""

    question: str
    judged: bool
    why: str


@dataclass(frozen=True)
class Incidents:
    """Open ones first, the gravest first, of `total`; `unread` were written by another version in a form that is not known here.

    `passed_ns` is when the analysis last went over everything, None where it never reported.
    """

    now_ns: int
    listed: tuple[Listed, ...] = ()
    total: int = 0
    unread: int = 0
    answers: tuple[Answer, ...] = ()
    passed_ns: int | None = None
    currency: str | None = None

    @property
    def open(self) -> tuple[Listed, ...]:
        """Those that stand."""
        return tuple(each for each in self.listed if each.incident.state == OPEN)


@dataclass(frozen=True)
class IncidentsView:
    """All incidents, to a bound; whoever looks filters and sorts."""

    def take(self, ask: Ask) -> Incidents:
        """Ask for incidents and answers."""
        rows = ask.rows(_incidents(ask)).to_pylist()
        listed = tuple(each for each in (listed_of(ask, row) for row in rows) if each is not None)
        [health] = ask.rows(_passed(ask), HEALTH_SECONDS).to_pylist()
        return Incidents(
            ask.now_ns,
            listed,
            rows[0]["total"] if rows else 0,
            len(rows) - len(listed),
            tuple(map(_answer, ask.rows(_answers(ask), HEALTH_SECONDS).to_pylist())),
            health["passed_ns"],
            None if ask.prices is None else ask.prices.currency,
        )


def states(ask: Ask, only: str = "TRUE") -> str:
    """SQL: the newest state of each finding for which `only` holds, and how many states were written of it."""
    return f"""
SELECT id, document, state, severity, opened_ns, updated_ns, alarms, count(*) OVER (PARTITION BY id) AS written FROM findings
WHERE {ask.until("updated_ns")} AND {only}
QUALIFY row_number() OVER (PARTITION BY id ORDER BY updated_ns DESC) = 1
"""


def listed_of(ask: Ask, row: dict[str, Any]) -> Listed | None:
    """A row of `states`; None where its form is not known."""
    incident = read(row)
    if incident is None:
        return None
    dated_ns = incident.finding.onset.time_ns or incident.opened_ns
    return Listed(incident, lost(incident.finding.cost, ask.prices, dated_ns), row["written"])


def swallowed(listed: Listed) -> str:
    """What it stands for, in words: findings folded under it by kind."""
    counts = Counter(kind for kind, _ in listed.folded)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _incidents(ask: Ask) -> str:
    return f"""
SELECT *, count(*) OVER () AS total FROM ({states(ask)})
ORDER BY {GRAVEST_FIRST}
LIMIT {INCIDENTS_MAX}
"""


def _answers(ask: Ask) -> str:
    return f"""
SELECT subject, state, reason FROM source_health WHERE source = 'analysis' AND subject <> '{PASS}' AND {ask.until()}
QUALIFY row_number() OVER (PARTITION BY subject ORDER BY time_ns DESC) = 1 ORDER BY subject LIMIT {ANSWERS_MAX}
"""


def _passed(ask: Ask) -> str:
    of_pass = f"source = 'analysis' AND subject = '{PASS}'"
    return f"SELECT max(time_ns) AS passed_ns FROM source_health WHERE {of_pass} AND {ask.until()}"


def _answer(row: dict[str, Any]) -> Answer:
    return Answer(row["subject"], row["state"] == "fresh", row["reason"] or "")
