"""Recorded files whose answer is known get it; the table is tests/bench/known_answers.toml, and a person would type the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

from known_answers import answered, cases, failures

LABELLED = [case for case in cases() if not case.get("unlabelled")]


@pytest.mark.data
@pytest.mark.parametrize("case", LABELLED, ids=[case["name"] for case in LABELLED])
def test_a_recorded_file_gets_its_known_answer(data: Path, case: dict[str, Any]) -> None:
    assert failures(case, answered(case)) == []


def test_every_kind_of_file_with_a_known_answer_is_in_the_table() -> None:
    """Operation traces, dumps, run logs, statistics, timelines, metrics and databases."""
    paths = [path for case in LABELLED for path in case["paths"]]
    for part in (
        "bytedance/trace-AR", "bytedance/trace-ST", "flight_recorder/gpu_error", "flight_recorder/lock_gil", "greyhound",
        "tracelens_fsdp", "resnet50_num_workers_0.", "xpu_timer/hang", "ingero/pytorch-dataloader",
    ):  # fmt: skip
        assert any(part in path for path in paths)
