"""Gives recorded files to jobs, on evidence only, and recognises the same data given twice.

Files are put together by a run id, by an NCCL communicator id, by having been written together (same folder or archive, same
stem, same world size), or by communicators of the same name and ranks in one folder. Each of these also needs that sizes
agree and that no rank was recorded twice by the same kind of file. What none of these covers is a job of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from warpline_proto.tables import JOBS

from ..source import Reading, Rows

MEASURED: Final = ("steps", "phases", "kernel_clusters", "collectives")
"""Tables of which one rank has one recording: the same rank in two files of one kind means two runs."""
OF_A_JOB: Final = (*MEASURED, "communicators", "stacks")
SIZES: Final = ("world_size", "dp_size", "tp_size", "pp_size", "ep_size", "ranks_per_record")
COMMUNICATOR_ID: Final = re.compile(r"(?<![0-9a-f])(?:0x)?0*[1-9a-f][0-9a-f]{12,15}(?![0-9a-f])", re.IGNORECASE)
"""NCCL's commId is a 64-bit hash; shorter hexadecimal numbers are addresses, which repeat from process to process."""
GENERIC_NAMES: Final = frozenset({"", "default_pg", "world", "WORLD"})
DISTINCT_DURATIONS_MIN: Final = 3
"""Rows with fewer distinct durations say too little to be called the same data."""
IDENTIFIER_CHARS: Final = 48
NAMED_MAX: Final = 4


@dataclass(frozen=True)
class Piece:
    """One file that was read: `path` as shown, `folder` or archive it lies in, `kind` of format, `digest` of its bytes."""

    path: str
    folder: str
    kind: str
    digest: str
    reading: Reading

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Job:
    """Pieces (by position) that belong to one job, its readable identifier and why they were put together."""

    id: str
    members: tuple[int, ...]
    evidence: str


@dataclass
class Assignment:
    """All jobs, which piece repeats which, and what an operator should know about a piece."""

    jobs: list[Job] = field(default_factory=list)
    repeats: dict[int, int] = field(default_factory=dict)
    notes: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class _Group:
    members: list[int]
    evidence: list[str]


@dataclass(frozen=True)
class _Bucket:
    """Pieces that share one piece of evidence. `certain` evidence holds for the rest even if two of them collide."""

    reason: str
    certain: bool
    members: tuple[int, ...]


def assign(pieces: Sequence[Piece]) -> Assignment:
    """Every piece to its job. Telemetry that speaks of no job (no rank, no step, no communicator) gets none."""
    result = Assignment(repeats=_repeats(pieces))
    owned = [index for index, piece in enumerate(pieces) if index not in result.repeats and of_a_job(piece.reading)]
    groups = {index: _Group([index], []) for index in owned}
    for bucket in _buckets(pieces, owned):
        _join(pieces, bucket, groups, result.notes)
    seen: set[int] = set()
    taken: set[str] = set()
    for index in owned:
        if index not in seen:
            group = groups[index]
            seen.update(group.members)
            result.jobs.append(_job(pieces, group, taken))
    return result


def of_a_job(reading: Reading) -> bool:
    """Whether a file speaks of a job at all, rather than of a machine."""
    origin = reading.origin
    if origin.run_id or origin.rank is not None or origin.world_size is not None or origin.communicators:
        return True
    if any(rows.table in (*OF_A_JOB, "jobs") and rows.batch.num_rows for rows in reading.rows):
        return True
    return bool(_ranks(reading.rows))


def identifier(stem: str, digest: str) -> str:
    """A readable name that is the same wherever the file lies: its stem and a short digest of what it holds."""
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.")[:IDENTIFIER_CHARS] or "job"
    return f"{clean}-{hashlib.blake2b(digest.encode(), digest_size=2).hexdigest()}"


def stem(name: str) -> str:
    """A file name without what says only how it is stored."""
    return re.sub(r"(\.(pt|trace|json|jsonl|gz|csv|log|txt|out|parquet|sqlite|xml|tar|tgz|zip))+$", "", name)


def job_rows(job: Job, pieces: Sequence[Piece]) -> pa.RecordBatch:
    """The row of table `jobs` for one job: what its files say of it, put together."""
    row: dict[str, Any] = {}
    for index in job.members:
        row = {**_said(pieces[index].reading), **row}
    if "ranks_per_record" not in row:
        row["ranks_per_record"] = _ranks_per_record(row, [pieces[index] for index in job.members])
    source = pieces[_first(pieces, job.members)].kind
    return JOBS.from_rows([{**row, "job": job.id, "evidence": job.evidence, "source": source}])


def _repeats(pieces: Sequence[Piece]) -> dict[int, int]:
    """Piece -> the piece whose data it repeats: the fullest of those with equal content and rank, else the first."""
    same: dict[tuple[str, int | None], list[int]] = defaultdict(list)
    for index, piece in enumerate(pieces):
        content = (_tells(piece.reading.rows) and piece.reading.origin.content) or _content(piece.reading.rows)
        if content:
            same[content, piece.reading.origin.rank].append(index)
    repeats: dict[int, int] = {}
    for members in same.values():
        kept = max(members, key=lambda index: (sum(rows.batch.num_rows for rows in pieces[index].reading.rows), -index))
        repeats |= {index: kept for index in members if index != kept}
    return repeats


def _tells(rows: Iterable[Rows]) -> bool:
    """Whether anything was measured; the mere make-up of a job (an empty dump) is the same from run to run."""
    return any(item.batch.num_rows for item in rows if item.table not in ("jobs", "communicators", "kernel_names"))


def _content(rows: Iterable[Rows]) -> str | None:
    """Digest of the measured rows; None where there are too few to tell two recordings apart."""
    digest = hashlib.blake2b(digest_size=16)
    distinct = 0
    for item in rows:
        if item.table not in MEASURED or item.batch.num_rows == 0:
            continue
        column = "sum_ns" if item.table == "kernel_clusters" else "duration_ns"
        distinct = max(distinct, pc.count_distinct(item.batch.column(column)).as_py())
        digest.update(item.table.encode())
        digest.update(item.batch.serialize())
    return digest.hexdigest() if distinct >= DISTINCT_DURATIONS_MIN else None


def _buckets(pieces: Sequence[Piece], owned: Sequence[int]) -> list[_Bucket]:
    """All evidence that names two files or more, strongest first."""
    found: list[dict[tuple[Any, ...], list[int]]] = [defaultdict(list) for _ in range(4)]
    for index in owned:
        piece, origin = pieces[index], pieces[index].reading.origin
        world = _world(piece.reading)
        if origin.run_id:
            found[0][f"run id {origin.run_id}",].append(index)
        for name, ranks in dict(origin.communicators).items():
            match = COMMUNICATOR_ID.search(name)
            if match:
                found[1][f"NCCL communicator {match[0].lower()}",].append(index)
            elif len(ranks) > 1 and name not in GENERIC_NAMES and not name.isdecimal() and world is not None:
                reason = f"communicator {name} of ranks {_short(ranks)} in one folder"
                found[3][reason, piece.folder, world, ranks].append(index)
        if origin.sibling and world is not None:
            reason = f"written together as {origin.sibling}, world size {world}"
            found[2][reason, piece.folder].append(index)
    return [
        _Bucket(str(key[0]), strength < 2, tuple(members))
        for strength, buckets in enumerate(found)
        for key, members in buckets.items()
        if len(members) > 1
    ]


def _join(pieces: Sequence[Piece], bucket: _Bucket, groups: dict[int, _Group], notes: dict[int, list[str]]) -> None:
    """Put the pieces of a bucket into one group, unless sizes or ranks contradict it."""
    held = {id(groups[index]): groups[index] for index in bucket.members}
    together = list(held.values())
    if len(together) < 2:
        return
    clash = _clash(pieces, [index for group in together for index in group.members])
    if clash is not None:
        why, involved = clash
        for index in sorted(set(bucket.members) & involved if bucket.certain else bucket.members):
            notes[index].append(f"kept apart though {bucket.reason}: {why}")
        together = [group for group in together if bucket.certain and not involved & set(group.members)]
    if len(together) < 2:
        return
    merged = _Group(
        sorted(index for group in together for index in group.members),
        list(dict.fromkeys([reason for group in together for reason in group.evidence] + [bucket.reason])),
    )
    for index in merged.members:
        groups[index] = merged


def _clash(pieces: Sequence[Piece], members: Sequence[int]) -> tuple[str, set[int]] | None:
    """Why pieces cannot be one job, and which of them contradict each other."""
    for size in (*SIZES, "run_id"):
        values = {
            index: said[size] for index in members if (said := _said(pieces[index].reading)).get(size) is not None
        }
        if len(set(values.values())) > 1:
            return f"{size} differs ({_short(sorted(set(map(str, values.values()))))})", set(values)
    holders: dict[tuple[str, int], list[int]] = defaultdict(list)
    for index in members:
        for rank in _ranks(row for row in pieces[index].reading.rows if row.table in MEASURED):
            holders[pieces[index].kind, rank].append(index)
    twice = {key[1]: indices for key, indices in holders.items() if len(indices) > 1}
    if twice:
        names = _short(sorted({pieces[index].name for indices in twice.values() for index in indices}))
        return f"rank {_short(sorted(twice))} is in several of them with different data: {names}", {
            index for indices in twice.values() for index in indices
        }
    return None


def _job(pieces: Sequence[Piece], group: _Group, taken: set[str]) -> Job:
    piece = pieces[_first(pieces, group.members)]
    origin = piece.reading.origin
    said = next((run for index in group.members if (run := pieces[index].reading.origin.run_id)), None)
    name = identifier(said or stem((origin.sibling or piece.name).replace("*", "")), origin.content or piece.digest)
    unique = name
    for number in range(2, len(taken) + 3):
        if unique not in taken:
            break
        unique = f"{name}-{number}"
    taken.add(unique)
    evidence = "; ".join(group.evidence) or "one file, no evidence that others belong to it"
    return Job(unique, tuple(group.members), evidence)


def _first(pieces: Sequence[Piece], members: Iterable[int]) -> int:
    """The member that a job is named after: the first by name of those that measured something."""
    return min(members, key=lambda index: (not _measured(pieces[index].reading), pieces[index].name))


def _said(reading: Reading) -> Mapping[str, Any]:
    """What a file says of its job, by column of table `jobs`; unknown columns are left out."""
    said: dict[str, Any] = {}
    for rows in reading.rows:
        if rows.table == "jobs" and rows.batch.num_rows:
            said = {key: value for key, value in rows.batch.slice(0, 1).to_pylist()[0].items() if value is not None}
    if reading.origin.world_size is not None:
        said.setdefault("world_size", reading.origin.world_size)
    if reading.origin.run_id:
        said.setdefault("run_id", reading.origin.run_id)
    return said


def _world(reading: Reading) -> int | None:
    return _said(reading).get("world_size")


def _measured(reading: Reading) -> bool:
    return any(rows.table in MEASURED and rows.batch.num_rows for rows in reading.rows)


def _ranks(rows: Iterable[Rows]) -> set[int]:
    found: set[int] = set()
    for item in rows:
        position = item.batch.schema.get_field_index("rank")
        if position >= 0:
            found.update(rank for rank in pc.unique(item.batch.column(position)).to_pylist() if rank is not None)
    return found


def _ranks_per_record(row: Mapping[str, Any], members: Sequence[Piece]) -> int | None:
    """World size over recorded ranks, where exactly one rank of each (data-parallel, pipeline) place was recorded."""
    sizes = [row.get(key) for key in ("world_size", "dp_size", "pp_size")]
    if None in sizes:
        return None
    world, places = int(sizes[0] or 0), int(sizes[1] or 0) * int(sizes[2] or 0)
    recorded = len({rank for piece in members for rank in _ranks(piece.reading.rows)})
    return world // places if places and recorded == places and world % places == 0 else None


def _short(values: Sequence[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:NAMED_MAX])
    return f"{shown}, ... ({len(values)})" if len(values) > NAMED_MAX else shown
