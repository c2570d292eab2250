"""What one pass of the whole diagnosis costs: one job of 10,240 ranks, its steps after a cold restart, and 200 jobs at once.

    python tests/bench/scale.py [--quick] [--json] [--folder DIR]

The rows lie in a real store of the collector (DuckDB file and sealed Parquet segments), written by a process of its own. The
pass runs in another one, with two threads, over `CatalogReader`: every detector, as in the collector. `live` is the pass when
one more step has come, in a process that made a pass before; `cold` the first pass of a fresh process over all steps. A rank
that takes 1.3 times as long is planted and has to be found. Peak memory is that of the process of the pass.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

from scale_rows import KERNELS, Fleet

from warpline_analysis.detector import Detector, Reader
from warpline_analysis.detectors import DETECTORS
from warpline_analysis.runner import ask
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.finding import FindingKind, Report

THREADS: Final = 2
GOAL_SECONDS: Final = 2.0
GOAL_MIB: Final = 4096


@dataclass(frozen=True)
class Case:
    """A fleet and how many of its steps the store holds."""

    fleet: Fleet
    steps: int


def cases(quick: bool) -> dict[str, Case]:
    """The one large job, and the many."""
    steps, jobs = (12, 20) if quick else (60, 200)
    return {
        "one": Case(Fleet("big", 1, 160, 8, 8, slow=4321), steps),
        "many": Case(Fleet("many", jobs, 8, 4, 2, slow=5 * 64 + 9, kernels=0), 30 if quick else 100),
    }


def main() -> int:
    """Print the figures; the other parts run in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--quick", action="store_true", help="12 steps instead of 60, 20 jobs of 30 steps instead of 200 of 100"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep the stores here, and use those of a run before")
    parser.add_argument("--part", choices=("write", "pass"), help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=("one", "many"), help=argparse.SUPPRESS)
    parser.add_argument("--range", type=int, nargs=2, default=(0, 0), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        case = cases(options.quick)[options.case]
        return write(case, options.folder, *options.range) if options.part == "write" else passes(case, options.folder)
    if options.folder:
        figures = measure(options.quick, options.folder)
    else:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(options.quick, Path(folder))
    print(json.dumps(figures, indent=2) if options.json else table(figures))
    return 0


def measure(quick: bool, folder: Path) -> dict[str, Any]:
    """Write what is not there yet and make the passes."""
    one, many = (folder / f"{name}{'-quick' if quick else ''}" for name in ("one", "many"))
    case = cases(quick)["one"]
    last = case.steps - 1
    if not (one / "done").exists():
        child("write", "one", quick, one, 0, 1)
        with passing("one", quick, one) as process:
            first = ask_for(process)
        child("write", "one", quick, one, 1, last)
        (one / "done").write_text(json.dumps(first))
    first = json.loads((one / "done").read_text())
    child("write", "one", quick, one, last, last)  # a store kept from another version gets its new columns
    with passing("one", quick, one) as process:
        ask_for(process)
        if not (one / "whole").exists():
            child("write", "one", quick, one, last, last + 1)
            (one / "whole").touch()
        live = ask_for(process)
    with passing("one", quick, one) as process:
        cold = ask_for(process)
    if not (many / "done").exists():
        child("write", "many", quick, many, 0, cases(quick)["many"].steps)
        (many / "done").touch()
    child("write", "many", quick, many, 1, 1)
    with passing("many", quick, many) as process:
        fleet = ask_for(process)
    return {
        "ranks": case.fleet.ranks,
        "clusters": KERNELS,
        "rows": first["rows"],
        "steps": case.steps,
        "seconds_per_window": live["wall_seconds"],
        "cold_seconds": cold["wall_seconds"],
        "cold_seconds_per_window": round(cold["wall_seconds"] / case.steps, 3),
        "peak_rss_mb": max(each["peak_rss_mb"] for each in (first, live, cold)),
        "found": live["found"] and cold["found"],
        "per_detector": live["per_detector"],
        "first": first,
        "live": live,
        "cold": cold,
        "many": fleet | {"jobs": cases(quick)["many"].fleet.jobs},
    }


def command(part: str, case: str, quick: bool, folder: Path, *more: str) -> list[str]:
    """This program in the role of a part."""
    words = [sys.executable, __file__, "--part", part, "--case", case, "--folder", str(folder), *more]
    return words + (["--quick"] if quick else [])


def child(part: str, case: str, quick: bool, folder: Path, first: int, end: int) -> None:
    """Write steps `first` to before `end`."""
    subprocess.run(command(part, case, quick, folder, "--range", str(first), str(end)), check=True)


@contextmanager
def passing(case: str, quick: bool, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A fresh process that makes one pass for each line it is sent."""
    with subprocess.Popen(
        command("pass", case, quick, folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.communicate()


def ask_for(process: subprocess.Popen[str]) -> dict[str, Any]:
    """One pass."""
    assert process.stdin and process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    figures: dict[str, Any] = json.loads(process.stdout.readline())
    return figures


def write(case: Case, folder: Path, first: int, end: int) -> int:
    """The writer: steps through a collector's store, sealed as they would be."""
    store = DuckDBStore(folder)
    try:
        if first == 0:
            store.write(list(case.fleet.begin()))
        for step in range(first, end):
            store.write(list(case.fleet.step(step)))
            store.maintain()
    finally:
        store.close()
    return 0


def passes(case: Case, folder: Path) -> int:
    """The pass: one for each line on standard input, its figures on standard output."""
    with CatalogReader(folder, threads=THREADS) as reader:
        for _ in sys.stdin:
            print(json.dumps(one_pass(case, reader)), flush=True)
    return 0


def one_pass(case: Case, reader: CatalogReader) -> dict[str, Any]:
    """Ask every detector; what it took, what it found."""
    spent: dict[str, dict[str, float]] = {}

    def timed(name: str, detector: Detector) -> Detector:
        def detect(reader: Reader) -> Report:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return detector(reader)
            finally:
                spent[name] = {
                    "wall_seconds": round(time.perf_counter() - wall, 3),
                    "cpu_seconds": round(time.process_time() - cpu, 3),
                }

        return detect

    detectors = {name: timed(name, detector) for name, detector in DETECTORS.items()}
    wall, cpu = time.perf_counter(), time.process_time()
    reports = ask(reader, detectors)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    tables = ("steps", "phases", "collectives", "kernel_clusters", "device_samples")
    counts = " UNION ALL ".join(f"SELECT count(*) AS rows FROM {name}" for name in tables)
    report = sum(reports.values(), Report())
    return {
        "wall_seconds": round(wall, 3),
        "cpu_seconds": round(cpu, 3),
        "rows": reader.query(f"SELECT sum(rows)::BIGINT AS rows FROM ({counts})")["rows"][0].as_py(),
        "found": found(case.fleet, report),
        "findings": [finding.summary[:200] for finding in report.findings],
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "per_detector": spent,
    }


def found(fleet: Fleet, report: Report) -> bool:
    """Whether the planted rank is named as a straggler, and nobody else is."""
    kinds = (FindingKind.COMPUTE_STRAGGLER, FindingKind.MASKED_STRAGGLER, FindingKind.PIPELINE_BUBBLE)
    named = {(each.subject.job, each.subject.rank) for each in report.findings if each.kind in kinds}
    return named == {fleet.planted}


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    many = figures["many"]
    lines = [
        "| pass | rows | wall s | CPU s | peak MiB | planted rank found |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    named = (
        ("first step of 10,240 ranks", figures["first"]),
        (f"one more step, {figures['steps']} in the store", figures["live"]),
        (f"{figures['steps']} steps after a restart", figures["cold"]),
        (f"{many['jobs']} jobs of 64 ranks", many),
    )
    lines += [
        f"| {name} | {each['rows']:,} | {each['wall_seconds']} | {each['cpu_seconds']} | {each['peak_rss_mb']} | "
        f"{each['found']} |"
        for name, each in named
    ]
    lines += [
        "",
        "| detector | live wall s | live CPU s | many jobs wall s | many jobs CPU s |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {each['wall_seconds']} | {each['cpu_seconds']} | {many['per_detector'][name]['wall_seconds']} | "
        f"{many['per_detector'][name]['cpu_seconds']} |"
        for name, each in figures["per_detector"].items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
