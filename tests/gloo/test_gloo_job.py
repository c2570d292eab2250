"""A real PyTorch job on CPUs that no detector was tuned on: the slowed rank is named, and nobody where all is well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench" / "gloo.py"


def test_the_slowed_rank_of_a_real_job_is_named_and_nobody_of_a_healthy_one() -> None:
    """Once each: healthy, one rank that computes more, one whose data loader is late."""
    if not os.environ.get("WARPLINE_TEST_TORCH"):
        pytest.skip("needs PyTorch: set WARPLINE_TEST_TORCH to a Python that has it")
    command = [sys.executable, str(BENCH), "--times", "1", "--json"]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert {condition: told["wrong"] for condition, told in figures.items()} == {
        "healthy": [],
        "compute": [],
        "data": [],
    }
    assert all(told["runs"] == 1 for told in figures.values())
