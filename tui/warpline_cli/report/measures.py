"""Sections of a report that measure: steps, energy, bandwidth, nodes, and what was not seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from warpline_analysis.energy.money import JOULES_PER_KWH
from warpline_analysis.energy.report import Line
from warpline_tui.words import UNKNOWN, duration, moment, size
from warpline_tui.words import money as amount

from . import plots
from .markup import Html, folded, table, tag
from .told import JOBS_MAX, LINES_MAX, PHASE_STEPS, Row, Told


def iterations(told: Told) -> Iterator[str]:
    """A plot a job, with what began where."""
    what = "mean of ten minutes on the slowest rank" if told.range.long else "median of a few steps"
    for number, (job, rows) in enumerate(told.iterations.items()):
        states = [state for state in told.findings if state.finding.subject.job == job]
        first, last = rows[0], rows[-1]
        times = [row["at_ns"] for row in (first, last)]
        when = (
            ""
            if None in times or not told.range.start_ns <= times[0]
            else f", {moment(times[0])} to {moment(times[1])}"
        )
        about = f"job {job}: steps up to {last['last_step']}{when}; last {duration(last['seconds'] * 1e9)} a step"
        if last["run_ns"] is not None:
            about += f"; it was started again, its run up to {moment(last['run_ns'])} is not drawn"
        yield tag("figure", plots.iterations(f"job{number}", rows, states, job, what), tag("figcaption", about))
    if not told.iterations:
        yield _absent(told, "iterations", "No steps are known of this time.")
    elif len(told.iterations) == JOBS_MAX:
        yield tag("p", f"At most {JOBS_MAX} jobs: those with findings first. --job names one.", class_="quiet")


def stages(told: Told) -> Iterator[str]:
    """Parts of a step by stage, and the phases that the framework names."""
    if not told.stages:
        yield _absent(told, "stages", "Nothing is known of what steps are made of.")
    elif any(row[part] for row in told.stages for part in plots.PARTS):
        yield tag(
            "figure", plots.stages("stages", told.stages, plots.PARTS), tag("figcaption", "job and stage (ranks)")
        )
    if told.phases:
        kinds, groups = _by_kind(told)
        about = f"job and stage (ranks): phases of the newest {PHASE_STEPS} steps by kind, mean over ranks; they may overlap"
        yield tag("figure", plots.stages("phases", groups, kinds), tag("figcaption", about))
        heading = ("job", "stage", "phase", "kind", "ranks", "a step")
        rows = [
            [
                row["job"], _number(row["stage"]), row["phase"] or UNKNOWN, row["kind"] or UNKNOWN, str(row["ranks"]),
                duration(row["seconds_per_step"] * 1e9),
            ]
            for row in told.phases
        ]  # fmt: skip
        named = table(heading, rows, (False, True, False, False, True, True))
        yield folded("each phase by its name", named)


def _by_kind(told: Told) -> tuple[Sequence[str], Sequence[Row]]:
    """Kinds of phases, and of each job and stage their sum a step, in seconds."""
    groups: dict[tuple[str, int | None], dict[str, Any]] = {}
    for row in told.phases:
        group = groups.setdefault(
            (row["job"], row["stage"]), {"job": row["job"], "stage": row["stage"], "ranks": row["ranks"]}
        )
        kind = row["kind"] or "of no kind"
        group[kind] = group.get(kind, 0.0) + row["seconds_per_step"]
    order = ("compute", "communication", "host", "data", "optimizer")
    kinds = {row["kind"] or "of no kind" for row in told.phases}
    return [*(each for each in order if each in kinds), *sorted(kinds - {*order})], list(groups.values())


def energies(told: Told) -> Iterator[str]:
    """Where the energy went, and what it cost."""
    account = told.energy
    if account.whole is None:
        yield tag(
            "p",
            account.trouble or "Nothing is accounted of this time: the collector does so about twelve minutes later.",
        )
        return
    if any(row["watts"] for row in account.over_time):
        yield tag("figure", plots.power("power", account.over_time))
    whole = account.whole
    rows = [
        [
            said, f"{whole.seconds[state] / 3600:,.2f}", f"{whole.joules[state] / JOULES_PER_KWH:,.3f}",
            f"{whole.joules[state] / (whole.total_joules or 1):.1%}",
        ]
        for state, (said, _) in plots.STATES.items() if whole.seconds.get(state)
    ]  # fmt: skip
    rows.append(["all", f"{whole.total_seconds / 3600:,.2f}", f"{whole.total_joules / JOULES_PER_KWH:,.3f}", ""])
    yield table(("state", "GPU-hours", "kWh", "share"), rows, (False, True, True, True), id="energy")
    if whole.cost is not None:
        yield tag(
            "p", f"Together {amount(whole.cost)} {account.currency}, idle under programs {amount(whole.idle_cost)}."
        )
    yield tag("h3", "By job")
    yield _lines("job", account.jobs, account.currency)


def _lines(by: str, lines: Sequence[Line], currency: str | None) -> Html:
    heading = [by, "GPUs", "kWh", *([currency] if currency else []), "idle", "idle kWh", "avoidable kWh"]
    rows = [
        [
            f"(no {by} known)" if line.key is None else line.key, str(line.gpus), f"{line.total_joules / JOULES_PER_KWH:,.3f}",
            *([amount(line.cost)] if currency else []), f"{line.idle_shares()[1]:.1%}",
            f"{line.joules['execution_idle'] / JOULES_PER_KWH:,.3f}",
            UNKNOWN if line.avoidable_joules is None else f"{line.avoidable_joules / JOULES_PER_KWH:,.3f}",
        ]
        for line in lines[:LINES_MAX]
    ]  # fmt: skip
    if len(lines) > LINES_MAX:
        rows.append([f"({len(lines) - LINES_MAX} more)", *[""] * (len(heading) - 1)])
    return table(heading, rows, [False, *[True] * (len(heading) - 1)])


def bandwidth(told: Told) -> Iterator[str]:
    """Bus bandwidth by operation and size, without waiting."""
    if not told.bandwidth:
        yield _absent(told, "bandwidth", "No collectives of known size and time are kept of this time.")
        return
    timed = "timed on the rank that came last, which waits least"
    about = f"of the newest {PHASE_STEPS} steps: median, and from 5 to 95 of 100; {timed}"
    yield tag("figure", plots.bandwidth("busbw", told.bandwidth), tag("figcaption", about))
    rows = [
        [
            row["job"], row["operation"] or UNKNOWN, size(row["bytes"]), str(row["operations"]),
            *(f"{row[key]:.4g}" for key in ("low", "middle", "high")),
        ]
        for row in told.bandwidth
    ]  # fmt: skip
    heading = ("job", "operation", "message", "operations", "GB/s, low", "median", "high")
    yield folded("as a table", table(heading, rows, (False, False, True, True, True, True, True)))


def nodes(told: Told) -> Iterator[str]:
    """Nodes by open findings and idle energy."""
    if not told.nodes:
        yield tag("p", "No node is accused, and no energy is accounted by node.")
        return
    money = [] if told.energy.currency is None else [f"idle, {told.energy.currency}"]
    rows = [
        [
            row["node"], *(str(row[each] or UNKNOWN) for each in ("critical", "warning", "info")), _number(row["kwh"], ",.3f"),
            _number(row["idle_kwh"], ",.3f"), _number(row["idle_share"], ".1%"), *([amount(row["idle_cost"])] if money else []),
        ]
        for row in told.nodes
    ]  # fmt: skip
    heading = ("node", "critical", "warning", "info", "kWh", "idle kWh", "idle", *money)
    yield table(heading, rows, [False, *[True] * (len(heading) - 1)])


def quality(told: Told) -> Iterator[str]:
    """Agents that are late or drop, sources that give nothing, questions that nobody could judge."""
    troubled = [row for row in told.agents if row["trouble"]]
    well = sum(row["agents"] for row in told.agents if not row["trouble"])
    if told.agents:
        yield tag("p", f"{well} agents are well, {sum(row['agents'] for row in troubled)} are not.")
    else:
        yield _absent(told, "agents", "No agent was judged in this time: a running collector does so once a minute.")
    if troubled:
        rows = [
            [row["trouble"], str(row["agents"]), _number(row["dropped"]), f"{row['agent']}: {row['detail']}"]
            for row in troubled
        ]
        yield table(("trouble", "agents", "rows dropped", "for example"), rows, (False, True, True, False))
    if told.sources:
        yield tag("h3", "Sources that are not fresh")
        yield table(("source", "state", "nodes", "rows dropped", "last", "why"), list(map(_source, told.sources)))
    unknown = [answer for answer in told.answers if answer["state"] != "fresh"]
    healthy = [answer for answer in told.answers if answer["state"] == "fresh"]
    for title, answers in (("Questions that nobody could judge", unknown), ("Judged, and nobody accused", healthy)):
        if answers:
            rows = [[answer["subject"] or UNKNOWN, answer["reason"] or UNKNOWN] for answer in answers]
            yield folded(f"{title}: {len(answers)}", table(("question", "answer"), rows))
    failed = [each for each in told.asked if each.trouble]
    if failed:
        yield tag("h3", "Questions of this report without an answer")
        yield table(("part", "why"), [[each.title, each.trouble] for each in failed])


def _source(row: Row) -> list[str]:
    return [
        row["source"] or UNKNOWN, row["state"] or UNKNOWN, str(row["nodes"]), _number(row["dropped"]), moment(row["time_ns"]),
        row["reason"] or UNKNOWN,
    ]  # fmt: skip


def _absent(told: Told, title: str, words: str) -> Html:
    trouble = next((each.trouble for each in told.asked if each.title == title and each.trouble), "")
    return tag("p", trouble or words, class_="quiet")


def _number(value: float | None, form: str = "") -> str:
    return UNKNOWN if value is None else format(value, form)
