"""The benchmark of the screen runs to its end: every key is answered, and what its goals ask for is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent / "bench" / "tui.py"


def test_the_benchmark_of_the_screen_answers_as_json() -> None:
    words = [
        "--quick",
        "--json",
        "--part",
        "fleet",
        "--part",
        "keys",
        "--size",
        "80x24",
        "--gpus",
        "80",
        "--seconds",
        "1",
    ]
    done = subprocess.run([sys.executable, BENCH, *words], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)["80x24"]
    assert told["first_screen_s"] > 0 and told["rss_mb"] >= told["pss_mb"] > 0 and told["core_percent"] > 0
    assert told["bytes_a_refresh"] >= 0
    assert told["unanswered"] == 0 and told["key_max_ms"] >= told["key_p95_ms"] >= told["key_p50_ms"] > 0
