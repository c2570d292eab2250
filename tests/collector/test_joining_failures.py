"""Large segments are written while others store: what happens to the store in between costs no row and doubles none."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from warpline_collector import joining
from warpline_collector.segments import Segment
from warpline_collector.stores.duckdb import Config, DuckDBStore
from warpline_collector.stores.tended import TendedStore
from warpline_proto.batch import Frame
from warpline_proto.errors import StoreError

MakeFrame = Callable[..., Frame]
EACH_ONCE = "SELECT count(*) AS rows, count(DISTINCT (step, rank)) AS distinct_rows FROM steps"
ROWS = 10


def test_a_store_that_is_opened_anew_while_segments_are_joined_keeps_each_row_once(
    tmp_path: Path, make_frame: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk refuses a commit, the file is opened anew and goes on; what was being joined is not listed by old numbers."""
    store = TendedStore(tmp_path, Config(seal_rows=ROWS, merge_rows=4 * ROWS, grace_seconds=0.0))
    written = joining.joined
    troubles = 0

    def add(sequence: int) -> None:
        assert list(store.append([make_frame(sequence, rows=ROWS)])) == [True]
        DuckDBStore.maintain(store)

    def troubled(directory: Path, place: tuple[int, str], segments: Sequence[Segment]) -> Segment:
        nonlocal troubles
        troubles += 1
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            with pytest.raises(StoreError):
                store.append([make_frame(5, rows=ROWS)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        add(5)
        return written(directory, place, segments)

    for sequence in range(1, 5):
        add(sequence)
    monkeypatch.setattr(joining, "joined", troubled)
    store.maintain()
    monkeypatch.setattr(joining, "joined", written)
    assert troubles == 1
    numbers = store.connections()[0].sql("SELECT count(*), count(DISTINCT ordinal) FROM manifest").fetchall()
    assert numbers == [(5, 5)]
    for _ in range(3):
        store.maintain()
    assert store.query(EACH_ONCE).to_pylist() == [{"rows": 5 * ROWS, "distinct_rows": 5 * ROWS}]
    store.close()
    assert TendedStore(tmp_path).query(EACH_ONCE).to_pylist() == [{"rows": 5 * ROWS, "distinct_rows": 5 * ROWS}]
