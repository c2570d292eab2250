"""Greyhound's run logs: its measurements are read, its verdicts are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.offline import read_paths
from warpline_agent.source import Reading, memory_input
from warpline_agent.sources.greyhound import Greyhound
from warpline_proto.errors import Refused

GEMM = "INFO:root:Computation result of rank {} collected = (Perf: min={}, max={}, avg={}, std=0.01)!!"
TASK = "INFO:root:task ([3, 1], [0, 2]) dispatched!"
PAIR = "INFO:root:Result of rank {} collected = (Perf: min=12.8, max=20.3, avg=18.8, std=2.6)!!"


def _read(*lines: str) -> Reading:
    candidate = memory_input("global_controller_localhost.log", "\n".join(lines).encode())
    assert Greyhound().recognises(candidate)
    return Greyhound().read(candidate)


def _rows(reading: Reading, table: str) -> list[dict[str, Any]]:
    return [row for rows in reading.rows if rows.table == table for row in rows.batch.to_pylist()]


@pytest.mark.data
def test_a_recorded_run_is_one_job_with_its_tests_and_iteration_times(data: Path) -> None:
    """Matrix products of 65.47 and 65.74 ms in the first round; rank 1 takes 515.5 ms in the second."""
    imported = read_paths([data / "G-stragglers" / "greyhound"])
    rows: dict[str, list[dict[str, Any]]] = {}
    for batch in imported.batches:
        rows.setdefault(batch.table, []).extend(batch.rows.to_pylist())
    gemm = {
        (row["round"], row["rank"]): round(row["duration_ns"] / 1e6, 2)
        for row in rows["probes"]
        if row["probe"] == "gemm"
    }
    assert gemm == {
        (0, 0): 65.47, (0, 1): 65.74, (0, 2): 65.74, (0, 3): 65.74,
        (1, 0): 65.47, (1, 1): 515.49, (1, 2): 65.69, (1, 3): 65.69,
    }  # fmt: skip
    pairs = [row for row in rows["probes"] if row["probe"] == "pair"]
    assert {(row["rank"], row["peer"]) for row in pairs} == {
        (3, 0),
        (0, 3),
        (1, 2),
        (2, 1),
        (0, 1),
        (1, 0),
        (2, 3),
        (3, 2),
    }
    first = [row["duration_ns"] / 1e6 for row in pairs if row["round"] == 0]
    assert (round(min(first), 1), round(max(first), 1)) == (12.8, 18.9)
    assert len(rows["metrics"]) == 7 * 4
    assert [(row["world_size"], row["run_id"]) for row in rows["jobs"]] == [(4, "log_2025_05_04_14_19_42_027694")]
    assert {row["job"] for row in rows["probes"] + rows["metrics"]} == {rows["jobs"][0]["job"]}


@pytest.mark.data
def test_what_the_detector_of_the_log_concluded_is_nowhere_in_the_rows(data: Path) -> None:
    """No change point, reason, plan or degradation gets in, and the script of the injection stays unread."""
    imported = read_paths([data / "G-stragglers" / "greyhound"])
    told = " ".join(str(batch.rows.to_pylist()) for batch in imported.batches).lower()
    assert not [word for word in ("fail", "reason", "degradation", "change", "mitigation", "plan") if word in told]
    assert [report.status for report in imported.inputs if report.path.endswith("injection.trace")] == ["reference"]


def test_pairs_are_those_of_the_task_before_and_rounds_count_repetitions() -> None:
    reading = _read(
        GEMM.format(0, 1, 1, 1), TASK, PAIR.format(3), PAIR.format(0), GEMM.format(0, 2, 2, 2), PAIR.format(3)
    )
    assert [(row["probe"], row["rank"], row["peer"], row["round"]) for row in _rows(reading, "probes")] == [
        ("gemm", 0, None, 0), ("pair", 3, 0, 0), ("pair", 0, 3, 0), ("gemm", 0, None, 1), ("pair", 3, 0, 1),
    ]  # fmt: skip


def test_damaged_measurements_are_left_out_and_told() -> None:
    reading = _read(GEMM.format(0, 65, 66, 65.5), GEMM.format(1, "1e", ".", "e"), GEMM.format(2, 1, 2, 0))
    assert len(_rows(reading, "probes")) == 1
    assert any("2 damaged" in note for note in reading.notes)


def test_a_log_without_a_measurement_is_refused() -> None:
    with pytest.raises(Refused, match="without a single measurement"):
        _read("CRITICAL:root:[Local controller] ID=0 is launched!")


@settings(max_examples=100)
@given(st.text(max_size=300))
def test_nothing_in_a_log_raises_anything_but_a_refusal(noise: str) -> None:
    """Whatever follows the words that are looked for."""
    starts = ("***** log=", "Esimated iteration time: {", "task ([", "Result of rank ", "[Local controller] ID=")
    candidate = memory_input("log", "\n".join(f"{start}{noise}" for start in starts).encode("utf-8", "replace"))
    try:
        Greyhound().read(candidate)
    except Refused:
        return
