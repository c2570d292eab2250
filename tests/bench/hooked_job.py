"""A real PyTorch job of four processes on CPUs over gloo, judged from what the hook records: healthy, slow compute, slow data.

    WARPLINE_TEST_TORCH=/path/to/python/with/torch python tests/bench/hooked_job.py [--times N] [--json]

The job is `tests/gloo/unchanged.py`, started by torchrun and `warpline run`. Nothing in warpline was tuned on it. Right is, of a
healthy run, that nobody is accused; of a slow one, that the slowed rank and no other is, of the kind it was slowed by.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
from gloo import KINDS, RANKS, RUN_SECONDS_MAX, wrong
from hook import environment

from warpline_agent.sources.hook import Hook, HookConfig
from warpline_analysis.runner import run as diagnose
from warpline_proto.tables import TABLES

TRAINING: Final = Path(__file__).parents[1] / "gloo" / "unchanged.py"


class Rows:
    """A Reader over what the agent's source read of a run."""

    def __init__(self, folder: Path) -> None:
        source = Hook(HookConfig(directories=(str(folder),), positions="", containers=False))
        source.open()
        read = list(source.read())
        source.close()
        self._connection = duckdb.connect(":memory:", config={"threads": 1})
        for name, table in TABLES.items():
            batches = [each.batch for each in read if each.table == name] or [table.empty()]
            self._connection.register(name, pa.Table.from_batches(batches))

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """Rows of a question."""
        return self._connection.sql(sql, params=list(parameters)).to_arrow_table()


def judge(python: Path, victim: int | None, how: str) -> list[str]:
    """Run, read, analyse, hold against what is known; what is wrong."""
    slow = [] if victim is None else ["--slow", str(victim), "--how", how]
    launcher = [str(python), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    command = [sys.executable, "-m", "warpline_cli.main", "run", "--", *launcher, str(TRAINING), *slow]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        subprocess.run(
            command,
            env=os.environ | {"WARPLINE_DIRECTORY": folder, "OMP_NUM_THREADS": "1"},
            check=True,
            timeout=RUN_SECONDS_MAX,
            capture_output=True,
        )
        found = diagnose(Rows(Path(folder))).findings
    return wrong({"findings": [each.to_json() for each in found]}, victim, how)


def measure(base: str, times: int) -> dict[str, Any]:
    """`times` runs of each condition, in turn; the victim changes."""
    told: dict[str, list[list[str]]] = {condition: [] for condition in ("healthy", *KINDS)}
    with tempfile.TemporaryDirectory() as folder:
        python = environment(Path(folder), base)
        for turn in range(times):
            for number, condition in enumerate(told):
                victim = None if condition == "healthy" else (turn + number) % RANKS
                told[condition].append(judge(python, victim, condition))
    return {
        condition: {
            "runs": len(runs),
            "right": sum(not each for each in runs),
            "wrong": [text for each in runs for text in each],
        }
        for condition, runs in told.items()
    }


def main() -> None:
    """Print how many were right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="runs of each condition")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    base = os.environ.get("WARPLINE_TEST_TORCH")
    if not base:
        parser.error("set WARPLINE_TEST_TORCH to a Python that has torch")
    figures = measure(base, options.times)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for condition, told in figures.items():
        print(f"{condition:8} {told['right']} of {told['runs']} right", *told["wrong"], sep="\n         ")


if __name__ == "__main__":
    main()
