"""A writer that is killed in the middle: appends until somebody ends it, and tells each acknowledged sequence on stdout."""

from __future__ import annotations

import sys
from pathlib import Path

from warpline_collector.stores.duckdb import Config, DuckDBStore
from warpline_proto.batch import Batch, Frame
from warpline_proto.tables import STEPS

ROWS = 40


def tell(word: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main(directory: str, boot: str) -> None:
    """Append two frames at a time for ever; seals and compacts all the while."""
    store = DuckDBStore(Path(directory), Config(seal_rows=200, compact_files=3, grace_seconds=0.0))
    sequence = store.acknowledged("node", boot)
    tell("open")
    while True:
        frames = []
        for _ in range(2):
            sequence += 1
            rows = [{"job": boot, "rank": rank, "step": sequence, "start_ns": sequence} for rank in range(ROWS)]
            frames.append(Frame("node", boot, sequence, sequence, (Batch("steps", "test", STEPS.from_rows(rows)),)))
        store.append(frames)
        tell(str(sequence))
        store.maintain()


if __name__ == "__main__":
    main(*sys.argv[1:])
