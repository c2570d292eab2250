"""What a pass remembers of the one before changes no finding: late rows, sealing, a restart and lost segments included."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).parent / "bench"))

from scale_rows import Fleet

from warpline_analysis.detector import Reader
from warpline_analysis.runner import ask
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import Config, DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.finding import FindingKind, Report
from warpline_proto.tables import TABLES

FLEET = Fleet("late", jobs=2, replicas=8, tensor=2, stages=2, slow=13, kernels=3)
CONFIG = Config(seal_rows=400, compact_files=3, chunks_max=4, grace_seconds=0.0)
LATE_RANKS = range(16, 32)
STEPS = 16


def told(reader: Reader) -> dict[str, Report]:
    """What each detector says."""
    return ask(reader)


def parted(batches: Iterable[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Rows that come in time, and those of some ranks that do not."""
    early, late = [], []
    for batch in batches:
        is_late = (
            pc.is_in(batch.rows.column("rank"), pa.array(list(LATE_RANKS)))
            if "rank" in batch.rows.schema.names
            else None
        )
        if is_late is None:
            early.append(batch)
            continue
        early.append(Batch(batch.table, batch.source, batch.rows.filter(pc.invert(is_late))))
        late.append(Batch(batch.table, batch.source, batch.rows.filter(is_late)))
    return early, late


def in_memory(reader: CatalogReader, reader_of: Callable[[Any], Reader]) -> Reader:
    """The same rows as one table each, without parts and without anything remembered."""
    return reader_of({name: reader.query(f"SELECT * FROM {name}") for name in TABLES})


def test_a_pass_that_remembers_says_what_a_fresh_one_says(tmp_path: Path, reader_of: Callable[[Any], Reader]) -> None:
    """After each of these: steps in order, old steps of half the ranks, sealing, a restart, a lost segment."""
    store = DuckDBStore(tmp_path, CONFIG)
    store.write(list(FLEET.begin()))
    held: list[Batch] = []

    def compare(live: CatalogReader) -> dict[str, Report]:
        said = told(live)
        with CatalogReader(tmp_path) as fresh:
            assert told(fresh) == said
            assert told(in_memory(fresh, reader_of)) == said
        return said

    with CatalogReader(tmp_path) as live:
        for step in range(STEPS):
            early, late = parted(FLEET.step(step))
            store.write(early)
            held += late
            if step % 7 == 6:
                store.maintain()
                told(live)
        before = compare(live)
        store.write(held)
        after = compare(live)
        assert before != after
        store.maintain()
        assert compare(live) == after
        store.close()

        store = DuckDBStore(tmp_path, CONFIG)
        store.write(list(FLEET.step(STEPS)))
        named = {f.subject.rank for f in compare(live)["straggler"].findings if f.kind == FindingKind.COMPUTE_STRAGGLER}
        assert named == {13}
        store.close()

        rows = live.query("SELECT count(*) AS rows FROM phases")
        for table in ("phases", "steps", "collectives", "device_samples"):
            sorted((tmp_path / "segments" / table).iterdir())[0].unlink()
        store = DuckDBStore(tmp_path, CONFIG)
        assert live.query("SELECT count(*) AS rows FROM phases") != rows
        compare(live)
        store.close()
