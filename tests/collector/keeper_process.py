"""A store that is killed while it lets go of rows: appends a day of phases at a time until somebody ends it."""

from __future__ import annotations

import sys
from pathlib import Path

from warpline_collector.retention import Config as Kept
from warpline_collector.stores.duckdb import Config
from warpline_collector.stores.tended import TendedStore
from warpline_proto.batch import Batch, Frame
from warpline_proto.tables import TABLES

DAY_NS = 86_400 * 10**9
ROWS = 40


def tell(word: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main(directory: str) -> None:
    """A frame a day, sealed at once, kept for four days, merged two by two, files gone at once."""
    day = 0

    def clock() -> int:
        return 1_800_000_000 * 10**9 + day * DAY_NS

    settings = Config(seal_rows=ROWS, compact_files=2, grace_seconds=0.0)
    kept = Kept(phases="4 days", source_health="forever")
    store = TendedStore(Path(directory), settings, clock, kept, lambda: clock() / 1e9)
    day = store.acknowledged("node", "boot")
    tell("open")
    while True:
        day += 1
        rows = [{"job": "a", "rank": rank, "step": day, "start_ns": rank} for rank in range(ROWS)]
        store.append([Frame("node", "boot", day, day, (Batch("phases", "test", TABLES["phases"].from_rows(rows)),))])
        tell(str(day))
        store.maintain()


if __name__ == "__main__":
    main(sys.argv[1])
