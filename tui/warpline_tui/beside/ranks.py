"""Which ranks a finding accuses, and which others do the same work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.finding import Subject

from ..literal import literal
from ..view import Ask

RANKS_MAX: Final = 20_000
RANKS_SECONDS: Final = 10.0
"""Which ranks a job has, and where they run, is asked so rarely."""
SHOWN_MAX: Final = 32
"""So many accused and so many peers are compared; how many there are is said."""
TABLES: Final = ("steps", "phases", "kernel_clusters")
"""Where ranks are looked for, in order; the first that knows the job tells."""
_FIELDS: Final = (
    ("rank", "rank"), ("stage", "pp"), ("dp", "dp"), ("tp", "tp"), ("ep", "ep"), ("node", "node"), ("gpu", "gpu_uuid"),
)  # fmt: skip
"""Field of a subject -> column that says the same."""


@dataclass(frozen=True)
class Compared:
    """The accused ranks of a job and their peers, both cut to SHOWN_MAX; in words who they are.

    A rank is None where the job names none. `why` says what keeps them from being compared, empty where nothing does.
    """

    job: str | None = None
    accused: tuple[int | None, ...] = ()
    peers: tuple[int | None, ...] = ()
    accused_said: str = ""
    peers_said: str = ""
    why: str = ""


def compared(ask: Ask, subject: Subject) -> Compared:
    """Whom `subject` accuses, and its peers: ranks of the same stage and tensor part, else the other ranks of the job."""
    if subject.job is None:
        return Compared(why="It accuses no job: there are no ranks to compare.")
    ranks = ranks_of(ask, subject.job)
    if not ranks:
        return Compared(subject.job, why=f"No step, phase or kernel of job {subject.job} is kept.")
    if not any(getattr(subject, field) is not None for field, _ in _FIELDS):
        return _job(subject.job, ranks)
    accused = [row for row in ranks if _is(row, subject)]
    if not accused:
        return Compared(
            subject.job, why=f"None of the {len(ranks)} ranks of job {subject.job} that are kept is the accused."
        )
    return beside(subject.job, ranks, accused)


def beside(job: str, ranks: Sequence[dict[str, Any]], accused: Sequence[dict[str, Any]]) -> Compared:
    """Some ranks of a job and those that do the same work."""
    chosen = {row["rank"] for row in accused}
    parts = {(row["pp"], row["tp"]) for row in accused}
    others = [row for row in ranks if row["rank"] not in chosen]
    same = [row for row in others if (row["pp"], row["tp"]) in parts]
    peers = same or others
    said = (
        f"{_count(len(peers), 'peer')} doing the same work"
        if same
        else f"the other {_count(len(peers), 'rank')} of the job"
    )
    mine = _ranks_said([row["rank"] for row in accused])
    if not peers:
        return Compared(
            job, _cut(accused), (), mine, "", f"Job {job} has no other rank: there are no peers to compare with."
        )
    return Compared(job, _cut(accused), _cut(peers), mine, said + _left(len(peers)))


def ranks_of(ask: Ask, job: str) -> list[dict[str, Any]]:
    """Ranks of a job with their places, from the first table that knows it."""
    for table in TABLES:
        found: list[dict[str, Any]] = ask.rows(_ranks(ask, table, job), RANKS_SECONDS).to_pylist()
        if found:
            return found
    return []


def in_ranks(ranks: Sequence[int | None], column: str = "rank") -> str:
    """SQL: the row is of one of these ranks."""
    numbers = sorted({int(rank) for rank in ranks if rank is not None})
    terms = [f"{column} IN ({', '.join(map(str, numbers))})"] if numbers else []
    terms += [f"{column} IS NULL"] if None in ranks else []
    return f"({' OR '.join(terms)})" if terms else "FALSE"


def _ranks(ask: Ask, table: str, job: str) -> str:
    return f"""
SELECT rank, max(dp) AS dp, max(tp) AS tp, max(pp) AS pp, max(ep) AS ep,
       arg_max(node, coalesce(start_ns, 0)) AS node, arg_max(gpu_uuid, coalesce(start_ns, 0)) AS gpu_uuid
FROM {table} WHERE job = {literal(job)} AND {ask.until("start_ns")} GROUP BY rank ORDER BY rank LIMIT {RANKS_MAX}
"""


def _is(row: dict[str, Any], subject: Subject) -> bool:
    """A rank is named by all that the subject tells; of a place in the job alone where the row does not know the GPU."""
    told = [(getattr(subject, field), row[column]) for field, column in _FIELDS]
    return all(wanted is None or wanted == there for wanted, there in told if there is not None) and any(
        wanted is not None and wanted == there for wanted, there in told
    )


def _job(job: str, ranks: Sequence[dict[str, Any]]) -> Compared:
    said = f"the {len(ranks):,} ranks of the job" if len(ranks) > 1 else "the only rank of the job"
    return Compared(
        job, _cut(ranks), (), said + _left(len(ranks)), "", "It accuses no rank: this is the job as a whole."
    )


def _cut(rows: Sequence[dict[str, Any]]) -> tuple[int | None, ...]:
    return tuple(row["rank"] for row in rows[:SHOWN_MAX])


def _left(count: int) -> str:
    return f" ({SHOWN_MAX} of them are shown)" if count > SHOWN_MAX else ""


def _ranks_said(ranks: Sequence[int | None]) -> str:
    if ranks == [None]:
        return "the only rank"
    numbers = ", ".join(str(rank) for rank in ranks[:4])
    more = f" and {len(ranks) - 4} more" if len(ranks) > 4 else ""
    return f"rank {numbers}" if len(ranks) == 1 else f"ranks {numbers}{more}"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
