"""Watching for requests: the room of all is not taken by one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from warpline_collector import captures
from warpline_collector.captures import CaptureBoard
from warpline_collector.stores.duckdb import DuckDBStore


def test_more_watchers_of_one_node_than_it_needs_let_the_oldest_go(tmp_path: Path) -> None:
    """One agent may open streams without end; those of other nodes are kept, and nothing is remembered of who left."""
    store = DuckDBStore(tmp_path)

    async def check() -> list[bool]:
        board = CaptureBoard(store, poll_seconds=0.01)
        running = asyncio.create_task(board.run())

        async def watch(node: str) -> None:
            async for _ in board.watch(node, lambda: True):
                raise AssertionError("nothing was asked for")

        nodes = ["other", *["one"] * (captures.WATCHERS_OF_NODE_MAX + 2)]
        watching = [asyncio.create_task(watch(node)) for node in nodes]
        await asyncio.wait(watching[1:3])
        over = [task.done() for task in watching]
        for task in (*watching, running):
            task.cancel()
        await asyncio.gather(*watching, running, return_exceptions=True)
        assert board.has_room
        assert not board._places
        return over

    over = asyncio.run(asyncio.wait_for(check(), 60))
    assert over == [False, True, True, *[False] * captures.WATCHERS_OF_NODE_MAX]
    store.close()
