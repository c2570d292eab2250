"""Which part of what is kept is drawn: a capture, the ranks and time of a finding, or ranks and a time that somebody named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from warpline_cli.asking import Query, text
from warpline_cli.finding_names import identifier
from warpline_proto.errors import ConfigError

STEPS_SHOWN: Final = 20
"""Of a finding: a quarter of them before it began."""
SPAN_MIN_NS: Final = 10 * 10**9
SPAN_MAX_NS: Final = 600 * 10**9
ACCUSED_MAX: Final = 8
"""Ranks of a finding that accuses a node, a stage or a communicator."""
PEERS: Final = 3
"""Ranks beside them that nobody accuses, those with the same part of the model first."""
_SUBJECT: Final = {"stage": "pp", "dp": "dp", "tp": "tp", "ep": "ep", "node": "node", "gpu": "gpu_uuid"}
"""Fields of a finding's subject, as columns of steps."""
_CAPTURES: Final = 'warpline sql "SELECT id, state FROM current_captures"'


@dataclass(frozen=True)
class Selection:
    """What to draw: one capture, or a job, its ranks (all where empty), and a time (all where None) on the collector's clock.

    The time of a capture is on the clock of its node.
    """

    capture: str | None = None
    job: str | None = None
    ranks: tuple[int, ...] = ()
    start_ns: int | None = None
    end_ns: int | None = None
    finding: str | None = None

    def of_job(self) -> str:
        """The condition that rows of the job's ranks meet."""
        parts = [f"job = {text(self.job)}" if self.job is not None else "true"]
        if self.ranks:
            parts.append(f"rank IN ({', '.join(map(str, self.ranks))})")
        return " AND ".join(parts)

    def within(self, end: str = "start_ns + greatest(coalesce(duration_ns, 0), 1)") -> str:
        """The condition that rows with a start, and an end as SQL, meet when any of their time is of the selection."""
        parts = ["start_ns IS NOT NULL"]
        if self.end_ns is not None:
            parts.append(f"start_ns < {self.end_ns}")
        if self.start_ns is not None:
            parts.append(f"{end} > {self.start_ns}")
        return " AND ".join(parts)


def of_capture(query: Query, capture: str) -> Selection:
    """The selection of a closer look; ConfigError where it gave no records, with the reason."""
    rows = query(f"SELECT * FROM current_captures WHERE id = {text(capture)}").to_pylist()
    if not rows:
        raise ConfigError(f"there is no capture {capture!r}", _CAPTURES)
    row = rows[0]
    if row["what"] not in ("kernels", "trace") or row["state"] != "done":
        raise ConfigError(f"capture {capture!r} of {row['what']} is {row['state']}: {row['detail']}")
    start_ns, end_ns = row["delivered_start_ns"], row["delivered_end_ns"]
    return Selection(capture, row["job"], (row["rank"],), start_ns, end_ns)


def of_finding(query: Query, finding: str, start_ns: int | None, end_ns: int | None) -> Selection:
    """The ranks that a finding accuses and some peers, around the time since when, or in the time that is named.

    The beginning of an identifier is enough where one has it. ConfigError where there is no such finding, or no step of the
    ranks that it accuses is kept from then.
    """
    finding = identifier(query, finding)
    [row] = query(f"SELECT * FROM findings WHERE id = {text(finding)} ORDER BY updated_ns DESC LIMIT 1").to_pylist()
    subject = json.loads(row["subject"])
    job = row["job"] or _job_beside(query, subject, row)
    start_ns, end_ns = _around(query, job, row, start_ns, end_ns)
    around = f"job = {text(job)} AND start_ns < {end_ns} AND start_ns + coalesce(duration_ns, 0) > {start_ns}"
    known = query(
        "SELECT rank, max(pp) AS pp, max(dp) AS dp, max(tp) AS tp, max(ep) AS ep, max(node) AS node, max(gpu_uuid) AS gpu_uuid "
        f"FROM steps WHERE {around} AND rank IS NOT NULL GROUP BY rank ORDER BY rank"
    ).to_pylist()
    ranks = _ranks(known, subject)
    if not ranks:
        raise ConfigError(
            f"no step of whom {finding} accuses is kept from its time", "name --job, --from and --to yourself"
        )
    return Selection(None, job, ranks, start_ns, end_ns, finding)


def _job_beside(query: Query, subject: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The job that ran where the finding is, if it names none itself."""
    place = [
        f"{column} = {text(subject[key])}"
        for key, column in _SUBJECT.items()
        if key in ("node", "gpu") and key in subject
    ]
    if place:
        since_ns = row["onset_ns"] or row["opened_ns"]
        asked = f"SELECT job FROM steps WHERE ({' OR '.join(place)}) AND job IS NOT NULL"
        found = query(f"{asked} ORDER BY abs(start_ns - {since_ns}) LIMIT 1").to_pylist()
        if found:
            return str(found[0]["job"])
    raise ConfigError(f"{row['id']} is of no job whose steps are kept", "name --job, --from and --to yourself")


def _around(
    query: Query, job: str, row: Mapping[str, Any], start_ns: int | None, end_ns: int | None
) -> tuple[int, int]:
    """Some steps before and after since when; of a finding that does not say, those before it was raised."""
    usual = query(
        f"SELECT median(duration_ns)::DOUBLE AS usual_ns FROM steps WHERE job = {text(job)} AND scope = 'step'"
    ).to_pylist()[0]["usual_ns"]
    span_ns = min(max(int(STEPS_SHOWN * (usual or 0)), SPAN_MIN_NS), SPAN_MAX_NS)
    since_ns, before_ns = row["onset_ns"], span_ns // 4
    if since_ns is None:
        since_ns, before_ns = row["opened_ns"], span_ns * 3 // 4
    if start_ns is None:
        start_ns = since_ns - before_ns if end_ns is None else end_ns - span_ns
    return start_ns, end_ns if end_ns is not None else start_ns + span_ns


def _ranks(known: Sequence[Mapping[str, Any]], subject: Mapping[str, Any]) -> tuple[int, ...]:
    wanted = {column: subject[key] for key, column in _SUBJECT.items() if subject.get(key) is not None}
    if subject.get("rank") is not None:
        wanted = {"rank": subject["rank"]}
    accused = [row for row in known if all(row[column] == value for column, value in wanted.items())][:ACCUSED_MAX]
    if not accused:
        return ()
    first, taken = accused[0], {row["rank"] for row in accused}

    def farther(row: Mapping[str, Any]) -> tuple[bool, int]:
        return any(row[part] != first[part] for part in ("pp", "tp", "ep")), abs(row["rank"] - first["rank"])

    beside = sorted((row for row in known if row["rank"] not in taken), key=farther)[:PEERS]
    return tuple(sorted(taken | {row["rank"] for row in beside}))
