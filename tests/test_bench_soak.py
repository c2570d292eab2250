"""What the soak says of memory can be believed: what grows is called growing, noise and a saw are not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

from soak import SERIES, one_run, summary
from soak_flat import flatness

MINUTES = np.arange(120.0)
RANDOM = np.random.default_rng(7)


@pytest.mark.parametrize(("series", "verdict"), [
    (300.0 + RANDOM.normal(0, 5, 120), "flat"),
    (300.0 - 200.0 * np.exp(-MINUTES / 10), "flat"),
    (300.0 + 40.0 * (MINUTES % 15) / 15, "flat"),
    (300.0 + 0.5 * MINUTES, "growing"),
    (300.0 + 0.5 * MINUTES + RANDOM.normal(0, 10, 120), "growing"),
    (300.0 + RANDOM.normal(0, 400, 120), "undecided"),
    (np.full(20, 300.0), "undecided"),
])  # fmt: skip
def test_flat_growing_or_not_to_be_told(series: Any, verdict: str) -> None:
    """A start that settles, noise, and a table that fills and is let go are flat; 10 % an hour is not."""
    found = flatness([60.0 * at for at in range(len(series))], list(series))
    assert found.verdict == verdict
    assert found.least <= found.mean <= found.most


def samples(run: int, growth_mb: float) -> list[dict[str, Any]]:
    made = []
    for minute in range(120):
        each: dict[str, Any] = {
            "run": run,
            "at": 60.0 * minute,
            "code": "c",
            "restarts": minute,
            "deaths": [],
            "wrong": [],
        }
        each |= {"counts": {"asked": minute, "lost": 0, "duplicates": 0}, "fleet": {"refused": 0, "kills": 3}}
        for whose, what in SERIES.values():
            each.setdefault(whose, {})[what] = 100.0 + growth_mb * minute
        each["generator"] = {"cpu_seconds": 6.0 * minute}
        made.append(each)
    return made


def test_runs_add_up_and_one_that_grows_spoils_all(tmp_path: Path) -> None:
    """Outcomes of several calls lie in one file; hours, seeds and counts are of all of them."""
    file = tmp_path / "samples.jsonl"
    lines = [*samples(1, 0.0), {"run": 1, "ended": True, "wrong": []}, *samples(2, 0.0)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = summary(file)
    assert (told["hours"], told["runs"], told["seeds"], told["asked"], told["sound"]) == (3.967, 2, [1, 2], 238, True)
    assert one_run(samples(1, 0.0))["generator_core_percent"] == 10.0
    with file.open("a") as more:
        more.writelines(json.dumps(line) + "\n" for line in samples(3, 0.5))
    told = summary(file)
    assert not told["sound"] and "3: collector_own_rss_mb" in told["growing"]
