"""A real PyTorch job of four processes on CPUs over gloo, judged from its traces: healthy, one rank slow, one loader slow.

    WARPLINE_TEST_TORCH=/path/to/python/with/torch python tests/bench/gloo.py [--times N] [--json]

Nothing in warpline was tuned on it. Right is, of a healthy run, that nobody is accused; of a slow one, that the slowed rank
and no other is accused, of the kind it was slowed by. The victim changes from run to run. That the whole job became slower
accuses nobody, and is true where other work of the machine begins meanwhile: it is no part of this.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from warpline_cli.verbs.analyze import analyze

TRAINING: Final = Path(__file__).parents[1] / "gloo" / "training.py"
RANKS: Final = 4
RUN_SECONDS_MAX: Final = 240
KINDS: Final = {"compute": "compute_straggler", "data": "host_straggler"}
"""What slows the victim, and what it has to be accused of."""
LOUD: Final = ("warning", "critical")
OF_ALL: Final = "regression"
"""What is said of a job as a whole."""


def run_job(python: str, folder: Path, victim: int | None, how: str) -> None:
    """One run, with one trace a rank in `folder`; CalledProcessError or TimeoutExpired where it fails."""
    slow = [] if victim is None else ["--slow", str(victim), "--how", how]
    subprocess.run(
        [python, str(TRAINING), str(folder), *slow],
        check=True,
        timeout=RUN_SECONDS_MAX,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wrong(answer: Mapping[str, Any], victim: int | None, how: str) -> list[str]:
    """What is wrong with an answer; empty where it is right."""
    loud = [each for each in answer["findings"] if each["severity"] in LOUD and each["kind"] != OF_ALL]
    accused = {(finding["kind"], finding["subject"].get("rank")) for finding in loud}
    due = set() if victim is None else {(KINDS[how], victim)}
    missed = [f"not said: {kind} of rank {rank}" for kind, rank in sorted(due - accused)]
    return missed + [
        f"said: {finding['summary']}"
        for finding in loud
        if (finding["kind"], finding["subject"].get("rank")) not in due
    ]


def judge(python: str, victim: int | None, how: str) -> list[str]:
    """Run, analyse, hold against what is known."""
    with tempfile.TemporaryDirectory(prefix="warpline-gloo-") as name:
        run_job(python, Path(name), victim, how)
        return wrong(analyze([name]), victim, how)


def measure(judged: Callable[[int | None, str], list[str]], times: int) -> dict[str, Any]:
    """`times` runs of each condition, in turn; `judged` makes one, with its victim, and says what is wrong with its answer."""
    told: dict[str, list[list[str]]] = {condition: [] for condition in ("healthy", *KINDS)}
    for turn in range(times):
        for number, condition in enumerate(told):
            victim = None if condition == "healthy" else (turn + number) % RANKS
            told[condition].append(judged(victim, condition))
    return {
        condition: {
            "runs": len(runs),
            "right": sum(not each for each in runs),
            "wrong": [text for each in runs for text in each],
        }
        for condition, runs in told.items()
    }


def tell(description: str | None, measured: Callable[[str, int], dict[str, Any]]) -> None:
    """Print how many runs were right, of a Python with torch and so many times each condition, as the command line asks."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="runs of each condition")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    python = os.environ.get("WARPLINE_TEST_TORCH")
    if not python:
        parser.error("set WARPLINE_TEST_TORCH to a Python that has torch")
    figures = measured(python, options.times)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for condition, told in figures.items():
        print(f"{condition:8} {told['right']} of {told['runs']} right", *told["wrong"], sep="\n         ")


if __name__ == "__main__":
    tell(__doc__, lambda python, times: measure(partial(judge, python), times))
