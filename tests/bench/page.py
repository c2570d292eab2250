"""The figures of the diagnosis benchmark as Markdown, as they stand in BENCHMARKS.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Rows = Mapping[str, Mapping[str, Any]]

HEADINGS: Final[Mapping[str, str]] = {
    "episodes": "episodes",
    "detection_rate": "detection",
    "top1": "top-1 culprit",
    "class_accuracy": "class",
    "innocent_accused": "others accused too",
    "verdict_steps_p50": "verdict p50, observed steps",
    "verdict_steps_p95": "p95",
    "verdict_wall_steps_p95": "p95, wall steps",
}
HEALTHY: Final[Mapping[str, str]] = {
    "healthy_episodes": "episodes",
    "healthy_accused_count": "accused",
    "false_alarms": "false alarms",
    "job_days": "job-days",
    "false_alarms_per_job_day": "per job-day",
    "false_alarms_per_job_day_upper95": "at most, 95 %",
    "step_seconds_assumed": "median step, s",
}
PEERS: Final[Mapping[str, str]] = {
    "victim_named": "victim named",
    "top1": "victim first",
    "top1_without_pipeline": "victim first, jobs without a pipeline",
    "innocent_named": "innocents named too",
    "accused_without_guilty_rank": "a rank named where none is guilty",
    "healthy_accused": "healthy job accused",
}
PARTS: Final[Mapping[str, str]] = {
    "by_kind": "kind",
    "by_size": "size of the fault (relative)",
    "by_kind_and_size": "kind and size",
    "by_clock_error_ms": "clock error, ms",
    "by_ranks": "ranks",
}
LISTS: Final[Mapping[str, str]] = {
    "misses": "Missed",
    "wrong_culprit": "Accused beside or instead of the culprit",
    "healthy_accused_names": "Healthy, and accused",
}


def page(figures: Mapping[str, Any]) -> str:
    """Totals, breakdowns, transplants, recorded files, peers, and every miss by name."""
    moved = figures["transplanted"]
    parts = [_totals(figures), table("", {"faults of 10 % and more": figures}, HEADINGS)]
    parts.append(table("healthy", {"all": figures} | _prefixed(figures["healthy_by_clock_error_ms"], " ms"), HEALTHY))
    parts.append(table("healthy, by ranks", figures["healthy_by_ranks"], HEALTHY))
    parts += [table(heading, figures[key], HEADINGS) for key, heading in PARTS.items()]
    parts.append(table("adds less than 2 % to the step", {"all kinds": figures["added_below_2_percent"]}, HEADINGS))
    sizes = {f"+{key}": row for key, row in moved["by_size"].items()}
    parts.append(table("transplanted onto real durations", {"all": moved} | moved["by_source"] | sizes, HEADINGS))
    parts.append(table("real durations, no fault", {"all": moved}, HEALTHY))
    parts += [_known(figures["known_answers"]), *_peers(figures["peers"])]
    for whose, listed in (("", figures), (" (transplanted)", moved)):
        parts += [_list(heading + whose, listed[key]) for key, heading in LISTS.items()]
    return "\n\n".join(part for part in parts if part)


def table(first: str, rows: Rows, headings: Mapping[str, str]) -> str:
    """Markdown; empty where there are no rows."""
    if not rows:
        return ""
    lines = [f"| {first} | " + " | ".join(headings.values()) + " |", "|" + " --- |" * (len(headings) + 1)]
    return "\n".join(lines + [f"| {name} | {_cells(row, headings)} |" for name, row in rows.items()])


def _cells(row: Mapping[str, Any], headings: Mapping[str, str]) -> str:
    values = [row.get(key) for key in headings]
    return " | ".join("-" if value is None else str(value) for value in values)


def _prefixed(rows: Rows, unit: str) -> dict[str, Mapping[str, Any]]:
    return {f"{name}{unit}": row for name, row in rows.items()}


def _totals(figures: Mapping[str, Any]) -> str:
    seeds, clocks = figures["seeds"], figures["clock_error_changes_verdict"]
    return (
        f"Durations {figures['durations']}; {seeds['faulty']} faulty and {seeds['healthy']} healthy episodes, seeds from "
        f"{seeds['first']} on, settings tried {seeds['tuning']} only; {figures['seconds']} s with {figures['workers']} workers. "
        f"The same run under another clock error gave other alarms in {clocks['changed']} of {clocks['episodes']} episodes"
        f"{': ' + '; '.join(clocks['names']) if clocks['names'] else ''}."
    )


def _known(answers: Mapping[str, Any]) -> str:
    wrong = "".join(f"\n- {each}" for each in answers["wrong"])
    reported = "".join(f"\n- not scored, {name}: {said}" for name, said in answers["unlabelled"].items())
    return f"Recorded files with a known answer: {answers['right']} of {answers['files']} right.\n{wrong}{reported}"


def _peers(peers: Mapping[str, Any]) -> list[str]:
    tools = {name: row for name, row in peers.items() if isinstance(row, dict)}
    rankers = {name: row for name, row in tools.items() if "top1" in row}
    errors = sorted({error for row in rankers.values() for error in row["top1_by_clock_error_ms"]}, key=float)
    by_clock = {name: row["top1_by_clock_error_ms"] for name, row in rankers.items()}
    parts = [table(f"{peers.get('episodes', 0)} episodes of up to 16 ranks", rankers, PEERS)]
    parts.append(table("victim first, by clock error", by_clock, {error: f"{error} ms" for error in errors}))
    others = [(name, row) for name, row in tools.items() if name not in rankers]
    parts += [f"{name}: " + ", ".join(f"{key} {value}" for key, value in row.items()) for name, row in others]
    return parts


def _list(heading: str, names: Sequence[str]) -> str:
    return f"{heading} ({len(names)})" + (":\n\n" + "\n".join(f"- {each}" for each in names) if names else ": none")
