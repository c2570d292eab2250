"""Ranks of a job as real processes, an agent's two sources beside them, and a dump as PyTorch writes it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from warpline_agent.sources.kernels import KernelsConfig, TrainingKernels
from warpline_agent.sources.progress import Progress, ProgressConfig
from warpline_analysis.detectors import hang

SECOND = 10**9
NOW = 1_800_000_000 * SECOND
PATIENCE_SECONDS = 60.0
HASH = "9f3c"
RANK = Path(__file__).with_name("rank.py")
NCCL = "ncclDevKernel_AllReduce"


def dump(rank: int, reached: int = 41, completed: int = 40) -> dict[str, Any]:
    """A dump as PyTorch 2.13 writes it: four ranks, one all-reduce pending."""
    entry = {
        "frames": [{"name": "all_reduce", "filename": "train.py", "line": 7}], "record_id": 0, "pg_id": 0,
        "process_group": ("0", "default_pg"), "collective_seq_id": reached, "p2p_seq_id": 0, "op_id": reached,
        "profiling_name": "nccl:all_reduce", "time_created_ns": NOW, "input_sizes": [[4]], "input_dtypes": ["Float"],
        "output_sizes": [[4]], "output_dtypes": ["Float"], "state": "scheduled", "time_discovered_started_ns": None,
        "time_discovered_completed_ns": None, "retired": False, "timeout_ms": 600000, "is_p2p": False,
    }  # fmt: skip
    status = {
        "last_enqueued_collective": reached,
        "last_started_collective": -1,
        "last_completed_collective": completed,
    }
    groups = {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1, 2, 3]"}}
    return {
        "version": "2.10",
        "pg_config": groups,
        "pg_status": {"0": status},
        "entries": [entry] * (reached > completed),
    }


class Node:
    """An agent's two sources, all they have told, and a clock that can be moved on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ahead_ns = 0
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.kernels = TrainingKernels(KernelsConfig(directories=(str(folder),), containers=False), node="n1")
        self.kernels.open()
        self.start()

    def start(self) -> None:
        """An agent begins, as one does that was restarted."""
        config = ProgressConfig(directories=(str(self.folder),), containers=False)
        self.progress = Progress(config, clock_ns=self.now_ns)
        self.progress.open()

    def now_ns(self) -> int:
        return time.time_ns() + self.ahead_ns

    def at(self, moment_ns: int) -> None:
        """It is that moment, however long a busy machine took."""
        self.ahead_ns += moment_ns - self.now_ns()

    def look(self, later_seconds: float = 0.0) -> list[dict[str, Any]]:
        """New rows of progress, so much later."""
        self.ahead_ns += int(later_seconds * 1e9)
        before = len(self.rows.setdefault("progress", []))
        for table, batch, _ in self.progress.read():
            self.rows.setdefault(table, []).extend(row | {"node": "n1"} for row in batch.to_pylist())
        return self.rows["progress"][before:]

    def states(self, later_seconds: float = 0.0) -> dict[int, str]:
        """What each rank is said to be at; only those of which something is told."""
        return {row["rank"]: row["state"] for row in self.look(later_seconds)}

    def until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert time.monotonic() < end, f"did not happen: {list(self.progress.health())} {self.rows.keys()}"
            threading.Event().wait(0.02)
            list(self.kernels.read())

    def captures(self, ranks: int) -> bool:
        followed = self.kernels._followed.values()
        return len(followed) == ranks and all(each.file.standing().capturing for each in followed)

    def recorded(self, kernels: int) -> bool:
        return all(each.file.standing().counters["records"] >= kernels for each in self.kernels._followed.values())

    def close(self) -> None:
        self.progress.close()
        self.kernels.close()


@pytest.fixture
def job(
    compile_fake: Callable[[str, str], Path], native_library: Path, drive: Callable[..., Any], tmp_path: Path
) -> Iterator[Callable[..., tuple[Node, list[Any]]]]:
    """Four ranks that have set up a communicator, with five operations enqueued and ended, and an agent that captures."""
    (tmp_path / "rings").mkdir()
    nodes: list[Node] = []

    def start(ranks: int = 4, **more: str) -> tuple[Node, list[Any]]:
        cupti = compile_fake("cupti", "libcupti.so.12")
        told = {
            "FAKE_CUPTI": str(cupti), "WARPLINE_CUPTI": str(cupti), "CUDA_INJECTION64_PATH": str(native_library),
            "FAKE_NCCL": str(compile_fake("nccl_host", "libnccl_fake.so")), "NCCL_PROFILER_PLUGIN": str(native_library),
            "FAKE_NCCL_API": "6", "WARPLINE_DIRECTORY": str(tmp_path / "rings"), "WARPLINE_JOB": "night",
            "WORLD_SIZE": str(ranks), **more,
        }  # fmt: skip
        started = [drive([sys.executable, RANK], told | {"RANK": str(rank)}) for rank in range(ranks)]
        for rank, process in enumerate(started):
            assert process.ask("cuda") == "1"
            process.ask(f"nccl comm {HASH} {rank} {ranks} 1 world")
        nodes.append(Node(tmp_path / "rings"))
        nodes[-1].until(lambda: nodes[-1].captures(ranks))
        for process in started:
            for _ in range(3):
                process.ask("step 0.1")
            process.ask("nccl coll 0 5 1000 0")
            process.ask(f"cupti kernels 5 {NCCL}")
        nodes[-1].until(lambda: nodes[-1].recorded(5))
        return nodes[-1], started

    yield start
    for each in nodes:
        each.close()


def hang_of(reader_of: Any, node: Node) -> Any:
    return hang.detect(
        reader_of({name: node.rows.get(name, []) for name in ("progress", "communicators", "collectives")})
    )
