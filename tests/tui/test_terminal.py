"""The real program on a real terminal (tmux): what somebody sees who types `warpline top`, in a small and in a wide window."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.finding import Cost, Evidence, Finding, FindingKind, FindingState, Onset, Severity, Subject, to_rows
from warpline_proto.tables import TABLES

SIZES = [(80, 24), (140, 40)]
SLOW = Finding(
    kind=FindingKind.COMPUTE_STRAGGLER,
    severity=Severity.CRITICAL,
    confidence=0.97,
    subject=Subject(job="pretrain", rank=1, stage=0, dp=1, node="node-b", gpu="GPU-1"),
    summary="rank 1 computes 40 % longer than its peers",
    next_step="drain node-b and run a GEMM test on GPU-1",
    onset=Onset(step=12),
    cost=Cost(seconds_per_step=0.25),
    evidence=(Evidence("SELECT rank, duration_ns FROM steps", ({"rank": 1, "duration_ns": 700},)),),
)

WINDOW_NS = 600 * 10**9
Open = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two nodes, two ranks, one of them accused."""
    now = time.time_ns()
    rows = {
        "device_samples": [
            {"node": f"node-{name}", "gpu_uuid": f"GPU-{rank}", "gpu_index": 0, "gpu_name": "NVIDIA H100", "job": "pretrain",
             "time_ns": now, "power_watts": 512.0 + rank, "power_limit_watts": 700.0, "gpu_utilization_percent": 97.0,
             "resident_processes": 1}
            for rank, name in enumerate("ab")
        ],
        "steps": [
            {"job": "pretrain", "rank": rank, "dp": rank, "pp": 0, "node": f"node-{'ab'[rank]}", "scope": "step", "step": step,
             "start_ns": step * 10**9, "duration_ns": 10**9, "compute_ns": (5 + 2 * rank) * 10**8}
            for rank in range(2) for step in range(20)
        ],
        "kernel_clusters": [
            {"job": "pretrain", "rank": rank, "kernel_id": 7, "category": "compute", "count": 10, "sum_ns": 5_000_000,
             "min_ns": 400_000, "p50_ns": 500_000, "p99_ns": 600_000, "max_ns": 700_000}
            for rank in range(2)
        ],
        "kernel_names": [{"kernel_id": 7, "name": "sm90_xmma_gemm_bf16", "category": "compute"}],
        "source_health": [
            {"node": "node-b", "source": "kernel_log", "subject": "kernel_log", "state": "denied", "reason": "dmesg_restrict=1",
             "time_ns": now}
        ],
    }  # fmt: skip
    made = DuckDBStore(tmp_path / "store")
    made.write([Batch(name, "test", TABLES[name].from_rows(listed)) for name, listed in rows.items()])
    window_ns = now // WINDOW_NS * WINDOW_NS - 2 * WINDOW_NS
    account: list[dict[str, Any]] = [
        {"node": f"node-{name}", "gpu_uuid": f"GPU-{rank}", "gpu_index": 0, "job": "pretrain", "user": "ada", "state": state,
         "window_ns": window_ns, "start_ns": window_ns, "end_ns": window_ns + WINDOW_NS, "seconds": seconds, "continued": False,
         "joules": seconds * 450.0, "unmeasured_seconds": 0.0, "missing": [], "cause": cause, "updated_ns": now}
        for rank, name in enumerate("ab")
        for state, seconds, cause in (("active", 400.0, None), ("execution_idle", 200.0, "disk"))
    ]  # fmt: skip
    made.write([Batch("energy_intervals", "energy", TABLES["energy_intervals"].from_rows(account))])
    made.write([Batch("findings", "analysis", to_rows([FindingState(SLOW, "open", now, now)]))])
    made.close()
    return tmp_path / "store"


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_top_over_a_store_answers_who_what_and_what_to_do(
    store: Path, open_terminal: Open, columns: int, lines: int
) -> None:
    """Every screen by its key; nothing wider than the window; `q` leaves with 0 and gives the terminal back."""
    config = store.parent / "warpline.toml"
    config.write_text('[power]\nprice_per_kwh = 0.4\ncurrency = "EUR"\n')
    terminal = open_terminal(columns, lines, "top", "--store", str(store), "--config", str(config))
    screen = terminal.shows("2 nodes", "1 open: critical", "◆ node-b GPU 0", "513 of 700 W", "▶ pretrain")
    assert max(map(len, screen.splitlines())) <= columns
    assert len(screen.splitlines()) <= lines
    assert "quit" in screen.splitlines()[-1]

    terminal.press("2")
    screen = terminal.shows("compute_straggler", SLOW.summary, SLOW.next_step)
    assert "step 12" in screen

    terminal.press("3")
    terminal.shows("rank 1 of pretrain", "sm90_xmma", "500 µs")
    terminal.press("[")
    terminal.shows("rank 0 of pretrain")

    terminal.press("4")
    terminal.shows("denied", "kernel_log")

    terminal.press("5")
    screen = terminal.shows("1,025 W", "33.3%", "50.0 Wh", "after disk traffic", "By job, ", "pretrain", "0.02 EUR")
    assert max(map(len, screen.splitlines())) <= columns
    assert len(screen.splitlines()) <= lines
    terminal.press("b")
    terminal.shows("By user, ", "ada")

    terminal.press("q")
    terminal.shows("left with 0")


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_top_with_nobody_to_ask_says_so_and_still_leaves(open_terminal: Open, columns: int, lines: int) -> None:
    """No collector: the reason is on the screen, whole, not a traceback."""
    terminal = open_terminal(columns, lines, "top", "--collector", "127.0.0.1:1")
    terminal.shows("no collector answers at 127.0.0.1:1")
    terminal.press("q")
    screen = terminal.shows("left with 0")
    assert "Traceback" not in screen


def test_a_demonstration_on_the_screen_lives(tmp_path: Path, open_terminal: Open) -> None:
    """Collector, agents and screen for real: GPUs come up, the injected straggler is accused, enter walks through it,
    and leaving leaves nothing."""
    folder = tmp_path / "kept"
    terminal = open_terminal(140, 40, "demo", "--tui", "--seconds", "60", "--keep", str(folder))
    terminal.shows("3 nodes", "12 ranks", "▶", "open: critical")
    terminal.press("2")
    terminal.shows("compute_straggler", "step 30")
    terminal.press("Enter")
    terminal.shows("it stands", "→")
    terminal.press("Enter", "Enter")
    terminal.shows("peers doing the same work")
    terminal.press("Escape")
    terminal.shows("1 open, 0 over")
    terminal.press("q")
    terminal.shows("injected: ", "left with 0")
