"""warpline beside others on one fixed sample: HolisticTraceAnalysis' straggler finder, Rbeast's change points, two recipes.

Each peer gets its own form of the same episodes: Kineto files of the newest steps (kernels called ncclKernel..., which HTA
needs, on the hosts' own clocks), the series of step times, kernel clusters, phases.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import recipes
import trials
from cluster.durations import durations
from cluster.episode import LAYOUTS, Episode, episode, record, run
from cluster.faults import accused_ranks, alarms, possible
from cluster.rows import Recording
from journal import BENCH, Journal, code_of, run_all
from peers import python_of
from scoring import warpline
from tables import share

RANK_CASES: Final = (
    ("compute_straggler", 0.2), ("compute_straggler", 0.5), ("compute_straggler", 1.0), ("throttling", 0.2),
    ("pipeline_bubble", 0.9), ("host_straggler", 0.2),
)  # fmt: skip
OTHER_CASES: Final = (("data_imbalance", 0.5), ("link_degradation", 1.0), ("regression", 0.2))
HEALTHY: Final = ("healthy", 0.0)
CASES: Final = (*RANK_CASES[:2], HEALTHY, *RANK_CASES[2:4], HEALTHY, *RANK_CASES[4:], HEALTHY, *OTHER_CASES)
SAMPLE: Final = 72
SEED: Final = 1_900_000
RANKS_MAX: Final = 16
RECIPES: Final[Mapping[str, Callable[[Mapping[str, pa.Table]], recipes.Answer]]] = {
    "mean-W1 + IQR": recipes.mean_w1,
    "mean-W1 + IQR, compute kernels only": partial(recipes.mean_w1, category="compute"),
    "z-score": recipes.z_score,
}
EXPORT_STEPS: Final = 20
"""Newest steps in the Kineto files: all of them lie after the onset."""
CHANGE_MIN: Final = 0.10
CHANGE_PROBABILITY_MIN: Final = 0.5
HTA: Final = """
import json, logging, sys
from pathlib import Path
logging.disable(logging.CRITICAL)
from hta.trace_analysis import TraceAnalysis
answers = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    try:
        answers[folder.name] = [int(r) for r in TraceAnalysis(trace_dir=str(folder)).get_potential_stragglers()]
    except Exception as error:
        answers[folder.name] = f"{type(error).__name__}: {error}"
Path(sys.argv[2]).write_text(json.dumps(answers))
"""
RBEAST: Final = """
import json, sys
from pathlib import Path
import numpy as np
import Rbeast
answers = {}
for name, series in json.loads(Path(sys.argv[1]).read_text()).items():
    found = Rbeast.beast(np.array(series), season="none", quiet=True, print_progress=False, print_options=False)
    trend = found.trend
    pairs = zip(np.ravel(trend.cp).tolist(), np.ravel(trend.cpPr).tolist())
    answers[name] = [[place, chance] for place, chance in pairs if np.isfinite(place)]
Path(sys.argv[2]).write_text(json.dumps(answers))
"""


@dataclass(frozen=True)
class Case:
    """What one tool needs to know of an episode, and what three of them said."""

    name: str
    victims: tuple[int, ...]
    healthy: bool
    pipelined: bool
    clock_error_ms: float
    onset: int
    step_seconds: tuple[float, ...]
    named: dict[str, tuple[int, ...]]
    alarmed: bool


def sample(count: int) -> list[Episode]:
    """The fixed sample, at most RANKS_MAX ranks each, all steps recorded."""
    small = [layout for layout in LAYOUTS if layout.ranks <= RANKS_MAX]
    found = []
    for at in range(count):
        kind, size = CASES[at % len(CASES)]
        layouts = [layout for layout in small if kind == "healthy" or possible(kind, layout)]
        each = episode(SEED + at, kind, size, at + at // len(CASES), tuple(layouts))
        sight = replace(each.sight, mode="phases", clusters=True, window=None)
        found.append(replace(each, sight=sight, conditions=replace(each.conditions, steps=200), faults=_early(each)))
    return found


def _early(each: Episode) -> Any:
    return tuple(replace(fault, start=min(fault.start, 100)) for fault in each.faults)


def compare(count: int, executor: Executor, journal: Journal) -> dict[str, Any]:
    """The table, by tool; a peer that cannot be installed says so. Kept whole or not at all: files are part of it."""
    code, name = (
        code_of(*trials.SOURCES, *(BENCH / f"{each}.py" for each in ("beside", "recipes", "peers"))),
        f"{count} episodes",
    )
    figures: dict[str, Any] | None = journal.known(code, "peers", name)
    if figures is None:
        figures = _compare(count, executor) if count else {}
        journal.add(code, "peers", name, figures)
    return figures


def _compare(count: int, executor: Executor) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="warpline-peers-") as name:
        folder = Path(name)
        jobs = [(each.name, (each, str(folder / "kineto" / f"{at:03d}"))) for at, each in enumerate(sample(count))]
        cases: list[Case] = run_all("peers", "", _case, jobs, executor, Journal(None))
        figures: dict[str, Any] = {
            "episodes": len(cases),
            "clock_errors_ms": sorted({case.clock_error_ms for case in cases}),
        }
        for tool in ("warpline", *RECIPES):
            figures[tool] = _ranks([case.named[tool] for case in cases], cases)
        quiet = [case for case in cases if case.healthy]
        figures["warpline"]["healthy_alarmed"] = share(sum(case.alarmed for case in quiet), len(quiet))
        hta = _peer("hta", HTA, folder / "kineto", folder / "hta.json")
        figures["HTA 0.5.0"] = hta if "not_measured" in hta else _hta(hta, cases)
        series = folder / "series.json"
        series.write_text(json.dumps({f"{at:03d}": case.step_seconds for at, case in enumerate(cases)}))
        found = _peer("rbeast", RBEAST, series, folder / "rbeast.json")
        figures["Rbeast 0.1.25"] = found if "not_measured" in found else _changes(found, cases)
    return figures


def _peer(name: str, script: str, given: Path, answer: Path) -> dict[str, Any]:
    try:
        command = [str(python_of(name)), "-c", script, str(given), str(answer)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (subprocess.CalledProcessError, OSError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        return {"not_measured": said[-1] if said else type(error).__name__}
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def _case(job: tuple[Episode, str]) -> Case:
    each, folder = job
    real = durations()
    timeline = run(each, real)
    recording = record(each, timeline, real)
    export(recording, Path(folder))
    tables = recording.until(each.conditions.steps)
    loud = alarms(warpline(recording, each.conditions.steps))
    named = [
        rank for finding in loud for rank in sorted(accused_ranks(finding.subject)) if finding.subject.link is None
    ]
    return Case(
        name=each.name,
        victims=tuple(rank for fault in each.faults for rank in fault.ranks),
        healthy=not each.faults,
        pipelined=each.layout.stages > 1,
        clock_error_ms=each.sight.clock_error_seconds * 1e3,
        onset=each.onset,
        step_seconds=tuple(timeline.length.tolist()),
        named={"warpline": tuple(named)} | {name: recipe(tables).ranks for name, recipe in RECIPES.items()},
        alarmed=bool(loud),
    )


def _ranks(named: Sequence[Sequence[int]], cases: Sequence[Case]) -> dict[str, Any]:
    """A tool that names ranks: found and first, innocents beside; in jobs without a guilty rank any name is wrong."""
    pairs = list(zip(named, cases, strict=True))
    guilty = [(said, case) for said, case in pairs if case.victims]
    others = [(said, case) for said, case in pairs if not case.victims and not case.healthy]
    healthy = [said for said, case in pairs if case.healthy]
    flat = [(said, case) for said, case in guilty if not case.pipelined]
    errors = sorted({case.clock_error_ms for case in cases})
    return {
        "victim_named": share(sum(set(case.victims) <= set(said) for said, case in guilty), len(guilty)),
        "top1": share(sum(bool(said) and said[0] in case.victims for said, case in guilty), len(guilty)),
        "top1_without_pipeline": share(sum(bool(said) and said[0] in case.victims for said, case in flat), len(flat)),
        "innocent_named": share(sum(bool(set(said) - set(case.victims)) for said, case in guilty), len(guilty)),
        "accused_without_guilty_rank": share(sum(bool(said) for said, _ in others), len(others)),
        "healthy_accused": share(sum(bool(said) for said in healthy), len(healthy)),
        "top1_by_clock_error_ms": {
            f"{error:g}": share(
                sum(bool(said) and said[0] in case.victims for said, case in guilty if case.clock_error_ms == error),
                sum(case.clock_error_ms == error for _, case in guilty),
            )
            for error in errors
        },
    }


def _hta(found: dict[str, Any], cases: Sequence[Case]) -> dict[str, Any]:
    answers = [found.get(f"{at:03d}", "no answer") for at in range(len(cases))]
    failed = [each for each in answers if isinstance(each, str)]
    figures = _ranks([() if isinstance(each, str) else each for each in answers], cases)
    return figures | {"failed": len(failed), "failures": sorted(set(failed))[:3]}


def _changes(found: dict[str, Any], cases: Sequence[Case]) -> dict[str, Any]:
    """Change points of step times name nobody: the onset within ten steps, and alarms in healthy jobs."""
    hits, alarms_raised, faulty, healthy = 0, 0, 0, 0
    for at, case in enumerate(cases):
        series = np.array(case.step_seconds)
        points = [int(place) for place, chance in found[f"{at:03d}"] if chance >= CHANGE_PROBABILITY_MIN]
        grown = [place for place in points if _grows(series, place)]
        faulty += not case.healthy
        healthy += case.healthy
        hits += not case.healthy and any(abs(place - case.onset) <= 10 for place in grown)
        alarms_raised += case.healthy and bool(grown)
    return {"onset_found": share(hits, faulty), "healthy_accused": share(alarms_raised, healthy), "names_a_rank": False}


def _grows(series: Any, place: int) -> bool:
    before, after = series[max(place - 20, 0) : place], series[place : place + 20]
    return bool(len(before) and len(after) and np.mean(after) > (1 + CHANGE_MIN) * np.mean(before))


def export(recording: Recording, folder: Path) -> None:
    """One Kineto file a rank: step marks, launches, compute and communication kernels of the newest steps."""
    folder.mkdir(parents=True)
    tables = recording.until(2**62)
    first = int(recording.observed[-EXPORT_STEPS])
    events: dict[int, list[dict[str, Any]]] = {}
    for name, stream in (("steps", 0), ("phases", 7), ("collectives", 20)):
        for row in _since(tables[name], first):
            events.setdefault(row["rank"], []).extend(_events(name, row, stream, len(events.get(row["rank"], ()))))
    for rank, listed in events.items():
        info = {"backend": "nccl", "rank": rank, "world_size": len(events)}
        document = {"schemaVersion": 1, "distributedInfo": info, "traceEvents": listed}
        (folder / f"rank{rank}.json").write_text(json.dumps(document))


def _since(rows: pa.Table, first: int) -> list[dict[str, Any]]:
    names = ["rank", "step", "start_ns", "duration_ns"] + [
        name for name in ("phase", "kind", "operation", "communicator") if name in rows.schema.names
    ]
    kept = rows.select(names).filter(pa.compute.greater_equal(rows.column("step"), first)).to_pylist()
    return [row for row in kept if row.get("kind") in (None, "compute", "optimizer")]


def _events(table: str, row: dict[str, Any], stream: int, number: int) -> list[dict[str, Any]]:
    start, length = row["start_ns"] % 10**15 / 1e3, row["duration_ns"] / 1e3
    if table == "steps":
        name = f"ProfilerStep#{row['step']}"
        place = {"ph": "X", "pid": 1, "tid": 1, "ts": start, "dur": length}
        return [place | {"cat": "user_annotation", "name": name}, place | {"cat": "cpu_op", "name": name, "args": {}}]
    called = row["phase"] if table == "phases" else f"ncclKernel_{row['operation']}_{row['communicator'].split('-')[0]}"
    correlation = 1000 + number
    launch = {
        "ph": "X",
        "cat": "cuda_runtime",
        "name": "cudaLaunchKernel",
        "pid": 1,
        "tid": 1,
        "ts": start + 1,
        "dur": 1,
    }
    kernel = {"ph": "X", "cat": "kernel", "name": called, "pid": 0, "tid": stream, "ts": start + 2, "dur": length}
    return [
        launch | {"args": {"correlation": correlation}},
        kernel | {"args": {"correlation": correlation, "stream": stream, "device": 0}},
    ]
