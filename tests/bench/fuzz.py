"""Fuzzing of what reads hostile bytes: frames of agents, NCCL's logs, rings of training processes, Kineto traces.

    python tests/bench/fuzz.py [--target frame|nccl_log|ring|kineto|all] [--seconds N] [--seed S] [--state DIR] [--json]
        [--quick] [--engine mixed|mutation|hypothesis|atheris] [--replay FILE] [--report]

Each target runs in a process of its own, all at once, for N seconds of wall clock (--quick: 15, a minute over the four), cut into
stretches with seeds of their own. Engines: `mutation` makes inputs by the grammar of each format, hostile values in every field,
and changes bytes of those and of recorded files (WARPLINE_TEST_DATA); `hypothesis` draws by the same grammar and makes what it
finds smaller; `mixed`, the default, is both, every fourth stretch the latter; `atheris` is guided by coverage, where it is
installed. Asked of every input: only declared errors come out, what is read fits its table and adds up, and CPU time and memory
stay under the bounds of the target. An input that breaks one of these is kept in DIR/findings, once for each way of breaking; one
that ends its process (memory, a crash in a library, a hang) is found by the parent. DIR/journal.jsonl has a line a stretch:
commit, seed, executions, wall and CPU seconds; a later run adds to it, and --report gives the sums. The exit status is 1 where
this run found something.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import fuzz_engine as engine
from fuzz_engine import Current, Runner, Stretch, Target
from fuzz_frame import FrameTarget
from fuzz_kineto import KinetoTarget
from fuzz_nccl_log import NcclLogTarget
from fuzz_ring import RingTarget

TARGETS: Final[dict[str, type[Target]]] = {
    "frame": FrameTarget,
    "nccl_log": NcclLogTarget,
    "ring": RingTarget,
    "kineto": KinetoTarget,
}
ENGINES: Final = ("mixed", "mutation", "hypothesis", "atheris")
MIXED: Final = ("mutation", "mutation", "hypothesis", "mutation")
STRETCH_SECONDS: Final = 60.0
QUICK_SECONDS: Final = 15.0
HUNG_SECONDS: Final = 300.0
"""Without an input ended for so long a process is given up; the alarm of an input comes long before."""
ADDRESS_BYTES_MAX: Final = 6 * 1024**3
KEPT_FOR_MUTATION: Final = 64


def main() -> int:
    asked = _arguments()
    if asked.work:
        return work(asked.work, asked.engine, asked.seconds, asked.seed, asked.state)
    if asked.replay:
        return replay(asked.target, asked.replay)
    if asked.report:
        print_report(engine.stretches(asked.state), asked.json)
        return 0
    names = list(TARGETS) if asked.target == "all" else [asked.target]
    before = len(engine.stretches(asked.state))
    followed = [Followed(name, asked) for name in names]
    while any(each.look() for each in followed):
        time.sleep(1.0)
    found = engine.stretches(asked.state)
    print_report(found[before:], asked.json)
    return int(any(each.findings for each in found[before:]))


class Followed:
    """The process of one target, started again where an input ends it."""

    def __init__(self, name: str, asked: argparse.Namespace) -> None:
        self._name, self._asked = name, asked
        self._end = time.monotonic() + asked.seconds
        self._restarts = 0
        self._current = asked.state / f"{name}-{asked.engine}.current"
        asked.state.mkdir(parents=True, exist_ok=True)
        self._start()

    def _start(self) -> None:
        left = max(self._end - time.monotonic(), 1.0)
        command = [sys.executable, __file__, "--work", self._name, "--engine", self._asked.engine]
        command += ["--seconds", str(left), "--seed", str(self._asked.seed), "--state", str(self._asked.state)]
        self._process = subprocess.Popen(command, process_group=0)
        self._seen = (0, time.monotonic())

    def look(self) -> bool:
        """Whether it still runs; what it broke on is kept."""
        status = self._process.poll()
        if status is None:
            count = Current.look(self._current)[0] if self._current.exists() else 0
            if count != self._seen[0]:
                self._seen = (count, time.monotonic())
            if time.monotonic() - self._seen[1] <= HUNG_SECONDS:
                return True
            os.killpg(self._process.pid, signal.SIGKILL)
            status = self._process.wait()
        if status == 0:
            return False
        _, data = Current.look(self._current)
        fresh = engine.keep(self._asked.state, self._name, data, f"the process ended with status {status}\n")
        began = engine.now()
        lost = Stretch(self._name, self._asked.engine, engine.commit(), "", began, findings=int(fresh))
        engine.write(self._asked.state, lost)
        self._restarts += 1
        if time.monotonic() >= self._end or self._restarts > 100:
            return False
        self._start()
        return True


def work(name: str, how: str, seconds: float, seed: int, state: Path) -> int:
    """Stretch after stretch of one target in this process."""
    engine.prepare(ADDRESS_BYTES_MAX)
    target = TARGETS[name]()
    current = Current(state / f"{name}-{how}.current")
    end = time.monotonic() + seconds
    code = engine.commit()
    number = sum(each.target == name for each in engine.stretches(state))
    while (left := end - time.monotonic()) > 0:
        its = MIXED[number % len(MIXED)] if how == "mixed" else how
        its_seed = f"{seed}/{name}/{its}/{number}"
        stretch = Stretch(name, its, code, its_seed, engine.now())
        runner = Runner(target, state, stretch, current)
        try:
            most = left if how == "atheris" else min(left, STRETCH_SECONDS)
            _run(target, runner, its, Random(its_seed), most, state)
        finally:
            engine.write(state, runner.finish())
        number += 1
    return 0


def _run(target: Target, runner: Runner, how: str, random: Random, seconds: float, state: Path) -> None:
    if how == "hypothesis":
        from fuzz_hypothesis import run
    elif how == "atheris":
        from fuzz_atheris import run
    else:
        run = mutation
    run(target, runner, random, seconds, state)


def mutation(target: Target, runner: Runner, random: Random, seconds: float, state: Path) -> None:
    """Draw, read, change, read again; what gave a kind of outcome that is rare is changed more often."""
    end = time.monotonic() + seconds
    pool: list[bytes] = []
    while time.monotonic() < end:
        fresh = len(pool) < 8 or random.random() < 0.3
        data = target.draw(random) if fresh else target.mutate(random.choice(pool), random)
        outcome = runner.one(data)
        if outcome == "broken" or len(data) > 1024 * 1024:
            continue
        if len(pool) < KEPT_FOR_MUTATION:
            pool.append(data)
        elif outcome.startswith("read") or random.random() < 0.2:
            pool[random.randrange(len(pool))] = data


def replay(name: str, path: Path) -> int:
    """Read one kept input without catching anything."""
    engine.prepare(ADDRESS_BYTES_MAX)
    target = TARGETS[name]()
    before = time.process_time()
    with engine.bounded(target):
        outcome = target.run(path.read_bytes())
    print(f"{outcome}, {time.process_time() - before:.3f} s of CPU, peak {engine.rss() >> 20} MiB")
    return 0


def print_report(found: list[Stretch], as_json: bool) -> None:
    """Cumulative figures, as lines of a table or as JSON."""
    rows = engine.table(found)
    if as_json:
        print(json.dumps({"fuzz": rows, "findings": sum(row["findings"] for row in rows)}))
        return
    print(
        "| target | inputs | of hypothesis | wall s | CPU s | slowest s | peak MiB | findings | at commits | outcomes |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---|---|")
    for name in TARGETS:
        if its := [row for row in rows if row["target"] == name]:
            print(_line(name, its))


def _line(name: str, rows: list[dict[str, Any]]) -> str:
    """One target over all engines and commits."""
    outcomes: Counter[str] = Counter()
    for row in rows:
        outcomes.update(row["outcomes"])
    by_hypothesis = sum(row["executions"] for row in rows if row["engine"] == "hypothesis")
    cells = [name, sum(row["executions"] for row in rows), by_hypothesis]
    cells += [round(sum(row[each] for row in rows)) for each in ("wall_seconds", "cpu_seconds")]
    cells += [max(row["slowest_seconds"] for row in rows), max(row["peak_rss_mb"] for row in rows)]
    cells += [sum(row["findings"] for row in rows), ", ".join(dict.fromkeys(row["code"][:7] for row in rows))]
    cells += ["; ".join(f"{each} {count}" for each, count in outcomes.most_common(6))]
    return "| " + " | ".join(map(str, cells)) + " |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--state", type=Path, default=engine.ROOT / ".bench" / "fuzz")
    parser.add_argument("--engine", choices=ENGINES, default="mixed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--work", choices=list(TARGETS), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.quick:
        asked.seconds = QUICK_SECONDS
    return asked


if __name__ == "__main__":
    sys.exit(main())
