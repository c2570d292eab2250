"""How often warpline is right: faults with known truth, real and made-up, peers on the same sample, recorded answers.

    python tests/bench/diagnosis.py [--quick] [--seed N] [--json] [--workers N] [--no-peers]

Episodes come from seeds 1,000,000 on (`--seed` is added); settings of detectors may be tried on seeds below only. `--quick`
runs the same code over fewer episodes. Without WARPLINE_TEST_DATA scatter comes from a summary, and the parts that need
recordings are empty.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import beside
import known_answers
import numpy as np
from cluster import transplant
from cluster.durations import durations
from cluster.episode import CLOCK_ERRORS_MS, REPORT, Episode, draw_episodes, record, run
from cluster.faults import alarms
from scoring import Outcome, examine, score, tables, warpline

TRANSPLANT_SEED: Final = 1_800_000
CLOCK_SEED: Final = 1_700_000
CHUNK: Final = 4
"""Episodes a worker takes at a time."""


@dataclass(frozen=True)
class Size:
    """How many episodes of each part."""

    faulty: int
    healthy: int
    transplanted: int
    beside: int
    clocks: int
    known: int = 1_000


FULL: Final = Size(faulty=1034, healthy=1000, transplanted=210, beside=beside.SAMPLE, clocks=47)
QUICK: Final = Size(faulty=14, healthy=8, transplanted=7, beside=6, clocks=2)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer episodes, under 50 s")
    parser.add_argument("--seed", type=int, default=0, help="added to the first seed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    figures = measure(
        replace(size, beside=0) if options.no_peers else size, REPORT.start + options.seed, options.workers
    )
    print(json.dumps(figures, indent=2) if options.json else text(figures))
    return 0


def measure(size: Size, first: int, workers: int, start: str = "fork") -> dict[str, Any]:
    """All parts, in worker processes that are forked once the recordings are read, or started otherwise."""
    begun = time.perf_counter()
    real = durations()
    context = multiprocessing.get_context(start)
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        made_up = list(executor.map(examine, draw_episodes(first, size.faulty, size.healthy), chunksize=CHUNK))
        transplanted = list(executor.map(_transplanted, transplant.episodes(TRANSPLANT_SEED, size.transplanted)))
        figures = tables(made_up) | {
            "transplanted": tables(transplanted),
            "clock_error_changes_verdict": _clocks(size.clocks, executor),
            "peers": beside.compare(size.beside, executor) if size.beside else {},
            "known_answers": known_answers.check_all(executor, size.known),
        }
    return figures | {
        "durations": real.source,
        "seeds": {"first": first, "faulty": size.faulty, "healthy": size.healthy, "tuning": "below 1000000"},
        "seconds": round(time.perf_counter() - begun, 1),
        "workers": workers,
    }


def _transplanted(job: tuple[str, Episode]) -> Outcome:
    source, episode = job
    real = durations()
    begun = time.perf_counter()
    timeline = transplant.run(source, episode, real)
    recording = record(episode, timeline, real)
    spent = time.perf_counter() - begun
    without = transplant.run(source, transplant.healthy_twin(episode), real)
    ratio = timeline.length[episode.onset :] / without.length[episode.onset :]
    added = float(np.median(ratio)) - 1 if episode.faults else 0.0
    outcome = score(episode, timeline, recording, added, transplant.tolerated(source), spent)
    return replace(outcome, name=f"{source}: {outcome.name}")


def _clocks(count: int, executor: Executor) -> dict[str, Any]:
    """The same episodes under each clock error: in how many the alarms are not those of exact clocks."""
    answers = list(executor.map(_under_clocks, draw_episodes(CLOCK_SEED, count, 0)))
    changed = [(name, errors) for name, errors in answers if errors]
    return {
        "episodes": len(answers),
        "changed": len(changed),
        "names": [f"{name}: {errors}" for name, errors in changed],
    }


def _under_clocks(episode: Episode) -> tuple[str, str]:
    real = durations()
    timeline = run(episode, real)
    said = []
    for error in CLOCK_ERRORS_MS:
        sight = replace(episode.sight, clock_error_seconds=error / 1e3)
        recording = record(replace(episode, sight=sight), timeline, real)
        loud = alarms(warpline(recording, len(timeline.length)))
        said.append({finding.id for finding in loud})
    differing = [f"{error:g} ms" for error, each in zip(CLOCK_ERRORS_MS, said, strict=True) if each != said[0]]
    return episode.name, ", ".join(differing)


HEADINGS: Final = (
    "episodes", "detection_rate", "top1", "class_accuracy", "innocent_accused", "verdict_steps_p50", "verdict_steps_p95",
    "verdict_wall_steps_p95",
)  # fmt: skip


def text(figures: Mapping[str, Any]) -> str:
    """Markdown: totals, breakdowns, peers, misses."""
    parts = [_totals(figures)]
    for key in ("by_kind", "by_kind_and_size", "by_clock_error_ms", "by_ranks"):
        parts.append(f"{key}\n\n{_table(figures[key])}")
    parts.append(f"adds less than 2 % to the step\n\n{_table({'all kinds': figures['added_below_2_percent']})}")
    transplanted = figures["transplanted"]
    parts.append(f"transplanted onto real durations\n\n{_table({'all': transplanted} | transplanted['by_size'])}")
    parts.append("peers\n\n" + json.dumps(figures["peers"], indent=2))
    parts.append("known answers\n\n" + json.dumps(figures["known_answers"], indent=2))
    listed = {name: figures[name] for name in ("misses", "wrong_culprit", "healthy_accused_names")}
    parts += [f"{name} ({len(names)})\n\n" + "\n".join(f"- {each}" for each in names) for name, names in listed.items()]
    return "\n\n".join(parts)


def _totals(figures: Mapping[str, Any]) -> str:
    names = [key for key, value in figures.items() if not isinstance(value, (dict, list))]
    nested = ("seconds_per_episode", "seeds", "clock_error_changes_verdict")
    return "\n".join([f"{key}: {figures[key]}" for key in names] + [f"{key}: {figures[key]}" for key in nested])


def _table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| | " + " | ".join(HEADINGS) + " |", "|" + " --- |" * (len(HEADINGS) + 1)]
    return "\n".join(lines + [f"| {name} | {_cells(row)} |" for name, row in rows.items()])


def _cells(row: Mapping[str, Any]) -> str:
    shown: Sequence[Any] = [row[key] for key in HEADINGS]
    return " | ".join("-" if value is None else str(value) for value in shown)


if __name__ == "__main__":
    raise SystemExit(main())
