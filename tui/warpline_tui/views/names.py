"""Names to search for in the command palette: nodes, jobs, ranks and incidents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..view import Ask
from .headline import RECENT_NS, newest, since

NAMES_MAX: Final = 20_000
INCIDENTS_MAX: Final = 500
NAMES_SECONDS: Final = 30.0
"""They change rarely."""


@dataclass(frozen=True)
class Names:
    """Nodes that were heard of lately, (job, rank) of all that told steps, and (id, state, summary) of findings."""

    nodes: tuple[str, ...] = ()
    ranks: tuple[tuple[str, int | None], ...] = ()
    incidents: tuple[tuple[str, str, str], ...] = ()

    @property
    def jobs(self) -> tuple[str, ...]:
        """Jobs of these ranks."""
        return tuple(dict.fromkeys(job for job, _ in self.ranks))


@dataclass(frozen=True)
class NamesView:
    """All there are, to a bound."""

    def take(self, ask: Ask) -> Names:
        """Ask for them."""
        nodes = ask.rows(_nodes(ask), NAMES_SECONDS)["node"].to_pylist()
        ranks = ask.rows(_ranks(ask), NAMES_SECONDS).to_pylist()
        found = ask.rows(_incidents(ask)).to_pylist()
        return Names(
            tuple(nodes),
            tuple((str(row["job"]), row["rank"]) for row in ranks),
            tuple((str(row["id"]), str(row["state"]), str(row["summary"])) for row in found),
        )


def _nodes(ask: Ask) -> str:
    return f"""
SELECT DISTINCT node FROM device_samples
WHERE node IS NOT NULL AND {ask.until()}
  AND {since(newest(ask), RECENT_NS)}
ORDER BY node LIMIT {NAMES_MAX}
"""


def _ranks(ask: Ask) -> str:
    return f"""
SELECT DISTINCT job, rank FROM steps WHERE job IS NOT NULL AND {ask.until("start_ns")} ORDER BY job, rank LIMIT {NAMES_MAX}
"""


def _incidents(ask: Ask) -> str:
    return f"""
SELECT id, state, summary FROM (
    SELECT * FROM findings WHERE {ask.until("updated_ns")}
    QUALIFY row_number() OVER (PARTITION BY id ORDER BY updated_ns DESC) = 1
) ORDER BY state = 'open' DESC, updated_ns DESC LIMIT {INCIDENTS_MAX}
"""
