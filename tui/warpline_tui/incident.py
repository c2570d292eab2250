"""Incidents as the screens tell them: a finding with its life, newest state of each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.finding import GRAVITY, OPEN, Finding, from_json

from .view import Ask

INCIDENTS_MAX: Final = 200
GRAVEST_FIRST: Final = (
    f"state <> '{OPEN}', list_position({[str(each) for each in GRAVITY]}, severity) NULLS LAST, updated_ns DESC"
)
"""SQL: the order of findings, so that where there are too many of them those are left that matter."""


@dataclass(frozen=True)
class Incident:
    """A finding with its life; `state` is open or resolved."""

    finding: Finding
    state: str
    opened_ns: int | None
    updated_ns: int | None
    alarms: int | None = None
    """Accusations that it stood for then; None where that was not written."""


def newest(ask: Ask, of: str = "TRUE") -> tuple[Incident, ...]:
    """The newest state of each finding at the moment looked at, the gravest open first; `of` is SQL about its subject."""
    rows = ask.rows(f"""
SELECT document, state, opened_ns, updated_ns, alarms FROM findings WHERE {ask.until("updated_ns")} AND {of}
QUALIFY row_number() OVER (PARTITION BY id ORDER BY updated_ns DESC) = 1
ORDER BY {GRAVEST_FIRST} LIMIT {INCIDENTS_MAX}
""")
    return tuple(filter(None, map(read, rows.to_pylist())))


def open_ones(incidents: Iterable[Incident]) -> tuple[Incident, ...]:
    """Those that are not resolved, worst first."""
    return tuple(
        sorted((each for each in incidents if each.state == OPEN), key=lambda each: GRAVITY[each.finding.severity])
    )


def troubled(incidents: Iterable[Incident]) -> set[tuple[str, Any]]:
    """(field, value) pairs of the subjects of open findings, to mark them wherever they are shown."""
    marks: set[tuple[str, Any]] = set()
    for incident in open_ones(incidents):
        subject = incident.finding.subject
        marks |= {("gpu", subject.gpu), ("rank", (subject.job, subject.rank))}
    return marks - {("gpu", None)}


def read(row: dict[str, Any]) -> Incident | None:
    """A row of `findings`; None where another version wrote it in a form that this one cannot read: the others are shown."""
    try:
        finding = from_json(json.loads(str(row["document"])))
    except (KeyError, TypeError, ValueError):
        return None
    return Incident(finding, str(row["state"]), row["opened_ns"], row["updated_ns"], row["alarms"])
