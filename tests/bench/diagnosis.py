"""How often warpline is right: faults with known truth, real and made-up, peers on the same sample, recorded answers.

    python tests/bench/diagnosis.py [--quick] [--seed N] [--json] [--workers N] [--no-peers] [--resume FOLDER]

Episodes come from seeds 1,000,000 on (`--seed` is added); settings of detectors may be tried on seeds below only. `--quick`
runs the same code over fewer episodes. With `--resume` each outcome is written to FOLDER as soon as it is known, and what is
there already for the same sources of the analysis and of the model is not done again. Progress goes to stderr. Without
WARPLINE_TEST_DATA scatter comes from a summary, and the parts that need recordings are empty.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import beside
import known_answers
import trials
from cluster import transplant
from cluster.durations import durations
from cluster.episode import REPORT, draw_episodes
from journal import FILE, Journal, run_all
from page import page
from tables import by, tables

TRANSPLANT_SEED: Final = 1_800_000
CLOCK_SEED: Final = 1_700_000
INTERRUPTED: Final = 130


@dataclass(frozen=True)
class Size:
    """How many episodes of each part."""

    faulty: int
    healthy: int
    transplanted: int
    beside: int
    clocks: int
    known: int = 1_000


FULL: Final = Size(faulty=1037, healthy=1000, transplanted=210, beside=beside.SAMPLE, clocks=61)
QUICK: Final = Size(faulty=12, healthy=6, transplanted=6, beside=5, clocks=1)


def main() -> int:
    """Print the figures."""
    options = _options()
    size = QUICK if options.quick else FULL
    size = replace(size, beside=0) if options.no_peers else size
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        figures = measure(size, REPORT.start + options.seed, options.workers, folder=options.resume)
    except KeyboardInterrupt:
        further = f"the same command goes on from {options.resume / FILE}" if options.resume else "nothing was kept"
        print(f"stopped before the end; {further}", file=sys.stderr)
        return INTERRUPTED
    print(json.dumps(figures, indent=2) if options.json else page(figures))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer episodes, under 50 s")
    parser.add_argument("--seed", type=int, default=0, help="added to the first seed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="keep outcomes here, and use those that are")
    return parser.parse_args()


def measure(size: Size, first: int, workers: int, start: str = "fork", folder: Path | None = None) -> dict[str, Any]:
    """All parts, in worker processes that are forked once the recordings are read, or started otherwise."""
    begun = time.perf_counter()
    real = durations()
    journal = Journal(folder)
    executor = ProcessPoolExecutor(workers, multiprocessing.get_context(start), initializer=_leave_signals)
    with ThreadPoolExecutor(1) as aside:
        executor.submit(os.getpid).result()  # all workers are forked before there is a thread
        try:
            figures = _parts(size, first, executor, aside, journal)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            journal.close()
    executor.shutdown()
    return figures | {
        "durations": real.source,
        "seeds": {"first": first, "faulty": size.faulty, "healthy": size.healthy, "tuning": "below 1000000"},
        "seconds": round(time.perf_counter() - begun, 1),
        "workers": workers,
    }


def _leave_signals() -> None:
    """Ctrl-C reaches all processes of a terminal; the parent alone decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _parts(size: Size, first: int, executor: Executor, aside: Executor, journal: Journal) -> dict[str, Any]:
    """Every part; the peers' own processes run beside the episodes."""
    code = trials.code()
    drawn = [(each.name, each) for each in draw_episodes(first, size.faulty, size.healthy)]
    jobs = [(f"{job[0]}: {job[1].name}", job) for job in transplant.episodes(TRANSPLANT_SEED, size.transplanted)]
    same = [(each.name, each) for each in draw_episodes(CLOCK_SEED, size.clocks, 0)]
    peers = aside.submit(beside.compare, size.beside, executor, journal)
    made_up = run_all("episodes", code, trials.examined, drawn, executor, journal)
    moved = [
        trials.outcome_of(said) for said in run_all("transplanted", code, trials.transplanted, jobs, executor, journal)
    ]
    clocks = run_all("clocks", code, trials.under_clocks, same, executor, journal)
    return tables([trials.outcome_of(said) for said in made_up]) | {
        "transplanted": tables(moved) | {"by_source": by(moved, lambda each: each.name.split(":")[0])},
        "clock_error_changes_verdict": _clocks([name for name, _ in same], clocks),
        "known_answers": known_answers.check_all(executor, journal, size.known),
        "peers": peers.result(),
    }


def _clocks(names: Sequence[str], errors: Sequence[str]) -> dict[str, Any]:
    """The same episodes under each clock error: in how many the alarms are not those of exact clocks."""
    changed = [f"{name}: {error}" for name, error in zip(names, errors, strict=True) if error]
    return {"episodes": len(names), "changed": len(changed), "names": changed}


if __name__ == "__main__":
    raise SystemExit(main())
