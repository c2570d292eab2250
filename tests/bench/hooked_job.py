"""A real PyTorch job of four processes on CPUs over gloo, judged from what the hook records: healthy, slow compute, slow data.

    WARPLINE_TEST_TORCH=/path/to/python/with/torch python tests/bench/hooked_job.py [--times N] [--json]

The job is `tests/gloo/unchanged.py`, started by torchrun and `warpline run`. Nothing in warpline was tuned on it. Right is, of a
healthy run, that nobody is accused; of a slow one, that the slowed rank and no other is, of the kind it was slowed by.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from cluster.reader import RecordingReader
from gloo import RANKS, RUN_SECONDS_MAX, measure, tell, wrong
from hook import environment

from warpline_agent.sources.hook import Hook, HookConfig
from warpline_analysis.runner import run as diagnose

TRAINING: Final = Path(__file__).parents[1] / "gloo" / "unchanged.py"


def recorded(folder: Path) -> RecordingReader:
    """What the agent's source reads of a run."""
    source = Hook(HookConfig(directories=(str(folder),), positions="", containers=False))
    source.open()
    read: dict[str, list[pa.RecordBatch]] = defaultdict(list)
    for table, batch, _ in source.read():
        read[table].append(batch)
    source.close()
    return RecordingReader({table: pa.Table.from_batches(batches) for table, batches in read.items()})


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
        found = diagnose(recorded(Path(folder))).findings
    return wrong({"findings": [each.to_json() for each in found]}, victim, how)


def measured(base: str, times: int) -> dict[str, Any]:
    """`times` runs of each condition, by a Python that has the hook beside torch."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(partial(judge, environment(Path(folder), base)), times)


if __name__ == "__main__":
    tell(__doc__, measured)
