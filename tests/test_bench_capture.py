"""The benchmark of capture runs to its end and answers what its goals ask for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent / "bench" / "capture.py"


def test_the_benchmark_of_capture_answers_as_json() -> None:
    done = subprocess.run([sys.executable, BENCH, "--quick", "--json"], capture_output=True, text=True, check=True)
    costs = json.loads(done.stdout)
    assert costs["ns_per_record"] == max(costs["ns_per_record_by_bytes"].values()) > 0
    assert costs["ns_per_nccl_op"] > 0
    assert costs["agent_core_percent_per_gpu"] > 0
    assert costs["agent_rss_mb"] > 0
    assert costs["records"] > 2_000_000
    assert costs["dropped"] == 0
