"""An agent of the chaos bench: the real spool and the real exporter, and frames whose rows are numbered, tens of them a second.

    python tests/bench/chaos_agent.py NAME ADDRESS SPOOL JOURNAL

A line of the journal is a frame that `put` returned for: boot, sequence, and whether it lies on the disk or only in memory.
SIGTERM ends it once everything is acknowledged (status 0), or after DRAIN_SECONDS (status 1).
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final

from warpline_agent.agent import new_boot
from warpline_agent.exporters.collector import CollectorExporter
from warpline_agent.spool import Spool
from warpline_proto.batch import Batch
from warpline_proto.tables import TABLES

ROWS: Final = {"steps": 20, "kernel_clusters": 4, "log_events": 2}
"""Rows of one frame by table: numbered by rank, and by the frame's sequence in `step` (`code` where there is no step)."""
WAITING_FRAMES_MAX: Final = 60
PAUSE_SECONDS: Final = 0.015
DRAIN_SECONDS: Final = 120.0


def batches(boot: str, sequence: int) -> list[Batch]:
    """The rows of one frame."""
    now_ns = time.time_ns()
    return [
        Batch(name, "chaos", TABLES[name].from_rows([_row(name, boot, sequence, rank, now_ns) for rank in range(rows)]))
        for name, rows in ROWS.items()
    ]


def _row(name: str, boot: str, sequence: int, rank: int, now_ns: int) -> dict[str, object]:
    row: dict[str, object] = {"job": boot, "rank": rank}
    if name == "log_events":
        return row | {"time_ns": now_ns, "kind": "chaos", "code": sequence}
    row |= {"step": sequence, "start_ns": now_ns, "clock": "unix"}
    if name == "steps":
        return row | {"duration_ns": 1_000_000 + rank}
    runs = {"count": 2, "sum_ns": 20_000, "min_ns": 9_000, "max_ns": 11_000, "p10_ns": 9_000, "p50_ns": 10_000}
    more = {"p90_ns": 11_000, "p99_ns": 11_000, "run_counts": [2], "run_means_ns": [10_000], "end_ns": now_ns + 20_000}
    return row | runs | more | {"stream": 7, "kernel_id": rank, "category": "compute", "cluster_index": 0}


def main(name: str, address: str, directory: str, journal: str) -> int:
    """Put frames until SIGTERM, then wait until they are acknowledged."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    boot = new_boot()
    spool = Spool(Path(directory), name, boot, time.time_ns)
    exporter = CollectorExporter(spool, address)
    exporter.start()
    sequence = 0
    with Path(journal).open("a", buffering=1) as told:
        while not stop.is_set():
            if spool.waiting_frames >= WAITING_FRAMES_MAX:
                stop.wait(PAUSE_SECONDS)
                continue
            sequence = spool.put(batches(boot, sequence + 1))
            stop.wait(PAUSE_SECONDS)
            told.write(f"{boot} {sequence} {'disk' if spool.health().state == 'fresh' else 'memory'}\n")
    drained = exporter.drain(DRAIN_SECONDS)
    exporter.close()
    spool.close()
    return 0 if drained else 1


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
