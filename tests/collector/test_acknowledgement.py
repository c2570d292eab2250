"""What an acknowledgement means, and that one small node gets it as a large cluster does: after a commit, without a segment."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from warpline_collector.ingest import Ingest, Item, Stream
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Frame

MakeFrame = Callable[..., Frame]


async def test_three_rows_of_one_node_are_acknowledged_from_the_log_without_a_segment(
    tmp_path: Path, make_frame: MakeFrame
) -> None:
    """What lies on the disk at that moment, were the collector killed, has the rows and the ledger; nothing is sealed yet."""
    place, killed = tmp_path / "store", tmp_path / "killed"
    store = DuckDBStore(place)
    ingest, stream = Ingest(store, time.time_ns), Stream()
    running = asyncio.create_task(ingest.run())
    frame = make_frame(1)

    async def read() -> Item:
        return Item(stream, frame.boot, frame.sequence, 1_000, frame)

    await ingest.take(stream, 1_000, read)
    ack = await asyncio.wait_for(stream.acks.get(), 60)
    assert (ack.boot, ack.sequence, ack.refused) == ("boot-1", 1, "")
    killed.mkdir()
    for path in place.glob("warpline.duckdb*"):
        shutil.copy(path, killed)
    with duckdb.connect(str(killed / "warpline.duckdb")) as connection:
        assert connection.sql("SELECT count(*), max(step) FROM steps").fetchall() == [(3, 1)]
        assert connection.sql("SELECT agent, boot, sequence FROM ledger").fetchall() == [("node-1", "boot-1", 1)]
        assert connection.sql("SELECT count(*) FROM manifest").fetchall() == [(0,)]
    assert not list((place / "segments").glob("*/*"))
    await ingest.stop()
    await running
    store.close()
