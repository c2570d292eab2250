"""What the sources screen shows: the newest word of each source, and what capturing kernels costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ..view import Ask

ROWS_MAX: Final = 2_000
COSTS_MAX: Final = 3


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
class Sources:
    """Those with trouble first; `now_ns` is what their ages are told against."""

    now_ns: int
    sources: tuple[SourceState, ...] = ()
    costs: tuple[CaptureCost, ...] = ()


@dataclass(frozen=True)
class SourcesView:
    """Every source of every node, to a bound."""

    def take(self, ask: Ask) -> Sources:
        """Ask for states and costs."""
        return Sources(
            ask.now_ns,
            tuple(SourceState(**_texts(row)) for row in ask.rows(_states(ask)).to_pylist()),
            tuple(CaptureCost(**row) for row in ask.rows(_costs(ask)).to_pylist()),
        )


def _states(ask: Ask) -> str:
    return f"""
SELECT node, source, subject, state, reason, time_ns, coalesce(dropped, 0) AS dropped FROM source_health
WHERE {ask.until()}
QUALIFY row_number() OVER (PARTITION BY node, source, subject ORDER BY time_ns DESC) = 1
ORDER BY state = 'fresh', node, source, subject LIMIT {ROWS_MAX}
"""


def _costs(ask: Ask) -> str:
    return f"""
WITH newest AS (
    SELECT * FROM capture_overhead WHERE {ask.until()}
    QUALIFY row_number() OVER (PARTITION BY job, rank ORDER BY time_ns DESC) = 1
)
SELECT coalesce(job, '-') AS job, mode, overhead_percent, low_percent, high_percent, budget_percent, verdict FROM newest
QUALIFY row_number() OVER (PARTITION BY job ORDER BY overhead_percent DESC NULLS LAST, time_ns DESC) = 1
ORDER BY time_ns DESC LIMIT {COSTS_MAX}
"""


def _texts(row: dict[str, Any]) -> dict[str, Any]:
    return {key: ("" if value is None and key not in ("time_ns", "dropped") else value) for key, value in row.items()}
