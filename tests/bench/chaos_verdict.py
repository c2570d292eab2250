"""What became of each frame: the journals of acknowledgements and of spools, held against the rows of a store.

Reads the store with DuckDB alone: the tables of its file, and the Parquet files that its manifest lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import duckdb

Frame = tuple[str, int]
"""Boot and sequence."""
Rows = Mapping[str, Mapping[Frame, Sequence[int]]]
"""By table and frame: rows, how many of them are distinct, and how many of those are sound."""
NONE: Final = (0, 0, 0)
NUMBERS: Final = {"steps": "step", "kernel_clusters": "step", "log_events": "code"}
"""Column of each table that holds the frame's sequence."""
TRUE: Final = {
    "steps": "duration_ns = 1000000 + rank",
    "kernel_clusters": "kernel_id = rank AND count = 2 AND sum_ns = 20000",
    "log_events": "kind = 'chaos'",
}
"""What holds for each row as it was put; one that was altered is as good as missing."""


@dataclass
class Journal:
    """`sent` and `acked` over the wire, `refused` for ever; `spooled` to a disk of an agent."""

    sent: set[Frame] = field(default_factory=set)
    newest: dict[str, int] = field(default_factory=dict)
    refused: set[Frame] = field(default_factory=set)
    spooled: set[Frame] = field(default_factory=set)

    @property
    def acked(self) -> set[Frame]:
        """An acknowledgement is for all frames of its boot up to its sequence."""
        return {each for each in self.sent if each[1] <= self.newest.get(each[0], 0)}


@dataclass(frozen=True)
class Verdict:
    """Frames, but `duplicates` are rows. What is stored without an acknowledgement is allowed, but must be whole."""

    sent: int
    acked: int
    stored: int
    acked_lost: int
    duplicates: int
    partial: int
    spooled_lost: int
    refused: int
    examples: tuple[str, ...]


def read_journals(wire: Path, spools: Iterable[Path]) -> Journal:
    """What the proxy saw (`S agent boot sequence`, `A boot sequence`, `R boot sequence`) and what the agents kept."""
    journal = Journal()
    for line in wire.read_text().splitlines():
        kind, *words = line.split()
        boot, sequence = words[-2], int(words[-1])
        if kind == "S":
            journal.sent.add((boot, sequence))
        elif kind == "A":
            journal.newest[boot] = max(sequence, journal.newest.get(boot, 0))
        else:
            journal.refused.add((boot, sequence))
    for path in spools:
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) == 3 and words[2] == "disk":
                journal.spooled.add((words[0], int(words[1])))
    return journal


def read_store(directory: Path, tables: Iterable[str]) -> Rows:
    """All rows of a store that no collector holds."""
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.execute(f"ATTACH '{directory / 'warpline.duckdb'}' AS store (READ_ONLY)")
        found: dict[str, dict[Frame, Sequence[int]]] = {}
        for table in tables:
            paths = connection.execute("SELECT path FROM store.manifest WHERE table_name = ?", [table]).fetchall()
            columns = f"job, {NUMBERS[table]} AS sequence, rank, {TRUE[table]} AS sound"
            rows = f"SELECT {columns} FROM store.{table}"
            if paths:
                listed = [str(directory / path) for (path,) in paths]
                rows += f" UNION ALL SELECT {columns} FROM read_parquet({listed})"
            counts = "count(*), count(DISTINCT rank), count(DISTINCT rank) FILTER (sound)"
            counted = f"SELECT job, sequence, {counts} FROM ({rows}) GROUP BY ALL"
            found[table] = {(job, number): each for job, number, *each in connection.sql(counted).fetchall()}
        return found


def judge(journal: Journal, rows: Rows, expected: Mapping[str, int]) -> Verdict:
    """Hold what was promised against what is there."""
    stored = {frame for counted in rows.values() for frame in counted}
    lacking = {
        frame for frame in stored if any(rows[table].get(frame, NONE)[2] < number for table, number in expected.items())
    }
    doubled = {
        frame: sum(count - own for counted in rows.values() for count, own, _ in [counted.get(frame, NONE)])
        for frame in stored
    }
    promised = journal.acked - journal.refused
    lost = {frame for frame in promised if frame not in stored or frame in lacking}
    unspooled = {frame for frame in journal.spooled - journal.refused if frame not in stored}
    return Verdict(
        sent=len(journal.sent),
        acked=len(promised),
        stored=len(stored),
        acked_lost=len(lost),
        duplicates=sum(doubled.values()),
        partial=len(lacking),
        spooled_lost=len(unspooled),
        refused=len(journal.refused),
        examples=tuple(
            f"{what}: {frame[0]} {frame[1]}"
            for what, frames in (
                ("lost", lost),
                ("doubled", {frame for frame, more in doubled.items() if more}),
                ("partial", lacking),
                ("lost from the spool", unspooled),
            )
            for frame in sorted(frames)[:5]
        ),
    )
