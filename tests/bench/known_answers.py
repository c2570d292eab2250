"""Recorded files with known answers, read and judged as `warpline analyze` does it; the table is known_answers.toml."""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final

import pyarrow.compute as pc
import pyarrow.parquet as pq
from cluster.durations import DATA
from cluster.faults import accused_ranks
from journal import ROOT, Journal, code_of, run_all

from warpline_cli.verbs.analyze import analyze
from warpline_proto.finding import Subject

TABLE: Final = Path(__file__).with_name("known_answers.toml")
PRODUCT: Final = ("agent", "analysis", "collector", "proto", "tui")
LOUD: Final = ("warning", "critical")


def cases() -> list[dict[str, Any]]:
    """The table."""
    found: list[dict[str, Any]] = tomllib.loads(TABLE.read_text())["case"]
    return found


def check_all(executor: Executor, journal: Journal, cases_max: int) -> dict[str, Any]:
    """How many labelled files got the required verdict, which did not and why, and what was said of the others."""
    at_hand = [case for case in cases()[:cases_max] if all((DATA / path).exists() for path in case["paths"])]
    code = code_of(*(ROOT / name for name in PRODUCT), Path(__file__), TABLE)
    answers = run_all("recorded files", code, answered, [(case["name"], case) for case in at_hand], executor, journal)
    pairs = list(zip(at_hand, answers, strict=True))
    labelled = [(case, failures(case, answer)) for case, answer in pairs if not case.get("unlabelled")]
    return {
        "files": len(labelled),
        "right": sum(not wrong for _, wrong in labelled),
        "wrong": [f"{case['name']}: {'; '.join(wrong)}" for case, wrong in labelled if wrong],
        "not_at_hand": len(cases()[:cases_max]) - len(at_hand),
        "unlabelled": {case["name"]: _said(answer) for case, answer in pairs if case.get("unlabelled")},
    }


def answered(case: Mapping[str, Any]) -> dict[str, Any]:
    """What `warpline analyze --json` says of a case's files."""
    with tempfile.TemporaryDirectory(prefix="warpline-known-") as folder:
        said: dict[str, Any] = json.loads(json.dumps(analyze(_paths(case, Path(folder))), default=str))
        return said


def _paths(case: Mapping[str, Any], folder: Path) -> list[Path]:
    """The files; without one replica where the case says so."""
    paths = [DATA / path for path in case["paths"]]
    if "without_dp" not in case:
        return paths
    for path in paths:
        rows = pq.read_table(path)
        pq.write_table(rows.filter(pc.not_equal(rows.column("dp_rank"), case["without_dp"])), folder / path.name)
    return [folder / path.name for path in paths]


def failures(case: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
    """What of the required verdict is not met; empty where all is."""
    loud = [finding for finding in answer["findings"] if finding["severity"] in LOUD]
    told = [json.dumps([finding["summary"], finding["subject"]]) for finding in loud]
    wrong = [] if answer["verdict"] in case["verdict"] else [f"verdict {answer['verdict']}"]
    wrong += [f"no {kind}" for kind in case.get("kinds", ()) if kind not in {finding["kind"] for finding in loud}]
    wanted = case.get("subject", {})
    if wanted and not any(wanted.items() <= finding["subject"].items() for finding in loud):
        wrong.append(f"nobody is {wanted}")
    wrong += [f"{word} is not named" for word in case.get("words", ()) if not any(word in text for text in told)]
    if "only_ranks" in case:
        beyond = _accused(loud) - set(case["only_ranks"])
        wrong += [f"rank {rank} is accused" for rank in sorted(beyond)]
    return wrong + ([f"accuses: {text[:120]}" for text in told] if case.get("none") else [])


def _accused(loud: Sequence[Mapping[str, Any]]) -> set[int]:
    return {rank for finding in loud for rank in accused_ranks(Subject(**finding["subject"]))}


def _said(answer: Mapping[str, Any]) -> str:
    listed = [f"{finding['severity']} {finding['kind']}" for finding in answer["findings"]]
    return f"{answer['verdict']}: {', '.join(listed) or 'no finding'}"
