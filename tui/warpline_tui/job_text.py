"""What is said of one job: the heading, the line of iteration times with what changed on it, groups, operations and energy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

from rich.text import Text

from .grid import grid
from .incident import Incident, open_ones
from .node_text import found
from .power import Power
from .power_text import CAUSES, STATES
from .spark import plot
from .views.job import Job
from .views.job_collectives import Member, Operation
from .views.job_steps import Course, Group, Mark, RankOff
from .widgets.table import Cell
from .words import UNKNOWN, age, clock, duration, energy, money, number, share, size

RANK_COLUMNS: Final = (
    "rank", "stage", "dp", "tp", "above its stage", "in", "step", "compute", "comm", "idle", "data wait", "node",
)  # fmt: skip
OPERATION_COLUMNS: Final = (
    "group",
    "operation",
    "size",
    "ranks",
    "times",
    "busbw",
    "transfer",
    "wait",
    "median",
    "communicator",
)
NAMES: Final = {
    "pp": "stage",
    "dp": "data-parallel index",
    "tp": "tensor-parallel index",
    "ep": "expert-parallel index",
}
WORTH_A_LOOK: Final = 0.05
"""From this share of a step above the median on it is marked."""
PHASES_SHOWN: Final = 6
LETTERS: Final = "abcdefgh"
SCALE_COLUMNS: Final = 10
"""Room for the scale left of the line."""


def heading(job: Job) -> Text:
    """Which job, how large, where it stands."""
    if job.job is None:
        return Text("No job has told a step yet. `warpline run -- torchrun ...` starts one that is watched.")
    said = Text(job.job, "bold")
    if job.size is not None and job.size.last_step is not None:
        of = f" of {job.size.world_size}" if job.size.world_size and job.size.world_size != job.size.ranks else ""
        where = f" on {job.size.nodes} node{'' if job.size.nodes == 1 else 's'}" if job.size.nodes else ""
        said.append(f"  {job.size.ranks}{of} ranks{where}  step {job.size.last_step:,}", "not bold")
        if job.size.last_ns is not None:
            said.append(f" begun {age(job.size.last_ns, job.now_ns)}", "not bold dim")
    marks = job.course.marks
    if marks:
        said.append(f"  a step takes {duration(median(mark.median_ns for mark in marks))}", "not bold")
        said.append(f", now {duration(marks[-1].median_ns)}", "not bold")
    if len(job.jobs) > 1 and job.job in job.jobs:
        said.append(f"  job {job.jobs.index(job.job) + 1} of {len(job.jobs)}", "not bold dim")
    return said


def line(job: Job, columns: int, rows: int) -> Text:
    """Iteration times from shortest to longest over the ranks, the onsets of what was found below."""
    marks = job.course.marks
    if not marks:
        return Text("No step of this job is kept of this time.", "dim")
    width = max(columns - SCALE_COLUMNS - 2, 10)
    bands = _bands(marks, width * 2)
    low, high = min(mark.low_ns for mark in marks), max(mark.high_ns for mark in marks)
    margin = max((high - low) * 0.05, high * 0.02)
    drawn = plot(bands, rows, low - margin, high + margin)
    scale = [duration(high), *[""] * (rows - 2), duration(low)] if rows > 1 else [duration(high)]
    said = Text(no_wrap=True, overflow="ellipsis")
    for label, row in zip(scale, drawn, strict=True):
        said.append(f"{label:>{SCALE_COLUMNS - 2}} ", "dim").append(row + "\n", "green")
    onsets = _onsets(job.incidents, marks, len(bands) // 2)
    if onsets:
        under = [" "] * (len(bands) // 2 + 1)
        for at, letter, _ in onsets:
            under[at] = letter
        said.append(" " * (SCALE_COLUMNS - 1) + "".join(under).rstrip() + "\n", "bold yellow")
    said.append(f"{' ' * (SCALE_COLUMNS - 1)}{_axis(job.course, job.now_ns)}", "dim")
    for _, letter, words in onsets:
        said.append(f"\n{letter} ", "bold yellow").append(words, "default not bold")
    return said


def _bands(marks: Sequence[Mark], most: int) -> list[tuple[float, float] | None]:
    """As many as there is room for: each of a few marks, from the shortest to the longest of them, or several of one."""
    count = len(marks)
    pieces = (marks[at * count // most : max((at + 1) * count // most, at * count // most + 1)] for at in range(most))
    return [(min(each.low_ns for each in piece), max(each.high_ns for each in piece)) for piece in pieces]


def _onsets(incidents: tuple[Incident, ...], marks: Sequence[Mark], columns: int) -> list[tuple[int, str, str]]:
    """(column, letter, words) of open findings that say since when, within what is shown."""
    said: list[tuple[int, str, str]] = []
    for incident in open_ones(incidents):
        at = _place(incident, marks)
        if at is not None and len(said) < len(LETTERS):
            letter = LETTERS[len(said)]
            onset = incident.finding.onset
            since = f"from step {onset.step}: " if onset.step is not None else ""
            said.append((at * columns // len(marks), letter, f"{since}{incident.finding.summary}"))
    return said


def _place(incident: Incident, marks: Sequence[Mark]) -> int | None:
    onset = incident.finding.onset
    if onset.step is not None and all(mark.step is not None for mark in marks):
        return next(
            (
                at
                for at, mark in enumerate(marks)
                if (mark.step or 0) >= onset.step and onset.step >= (marks[0].step or 0)
            ),
            None,
        )
    if onset.time_ns is None or not marks or (marks[0].time_ns or 0) > onset.time_ns:
        return None
    return next((at for at, mark in enumerate(marks) if (mark.time_ns or 0) >= onset.time_ns), None)


def _axis(course: Course, now_ns: int) -> str:
    first, last = course.marks[0], course.marks[-1]
    steps = f"step {first.step:,} to {last.step:,}" if first.step is not None and last.step is not None else ""
    times = f"{clock(first.time_ns, now_ns)} to {clock(last.time_ns, now_ns)}" if first.time_ns and last.time_ns else ""
    return "  ".join(filter(None, (steps, times, course.grain)))


def overview(job: Job) -> Text:
    """What is wrong with the job, or that nothing is."""
    lines = [*found(job.incidents), *_slowest(job), *_groups(job), *_waits(job), *_waste(job.energy)]
    return Text("\n").join(lines) if lines else Text("Nothing is accused here, and no rank or group differs.", "green")


def _slowest(job: Job) -> Iterator[Text]:
    worst = next(iter(job.ranks), None)
    if worst is not None and (worst.over_share or 0.0) >= WORTH_A_LOOK:
        yield Text(
            f"Rank {number(worst.rank)} on {worst.node or 'an unknown node'} is {duration(worst.over_ns)} a step "
            f"({worst.over_share:.0%}) above the median of its stage in {worst.phase}.", "yellow",
        )  # fmt: skip


def _groups(job: Job) -> Iterator[Text]:
    for phase, usual in _usual(job.groups).items():
        above = [each for each in job.groups if each.phases.get(phase, 0.0) > usual * (1 + WORTH_A_LOOK)]
        if usual and len(job.groups) > 1 and 0 < len(above) <= len(job.groups) // 2:
            worst = max(above, key=lambda each: each.phases[phase])
            yield Text(
                f"{NAMES[job.by].capitalize()} {number(worst.index)} takes {duration(worst.phases[phase])} for {phase}, "
                f"the groups' median is {duration(usual)}."
            )
            return


def _waits(job: Job) -> Iterator[Text]:
    known = [each for each in job.operations if each.wait_ns is not None and each.transfer_ns]
    worst = max(known, key=lambda each: (each.wait_ns or 0.0) * each.count, default=None)
    if worst is not None and (worst.wait_ns or 0.0) > (worst.transfer_ns or 0.0):
        yield Text(
            f"In {worst.operation} of {worst.group_name or worst.communicator} ranks wait {duration(worst.wait_ns)} for the last "
            f"to come; the transfer takes {duration(worst.transfer_ns)}."
        )


def _waste(power: Power) -> Iterator[Text]:
    idle = power.of("execution_idle")
    if idle.seconds and power.seconds and idle.seconds / power.seconds >= WORTH_A_LOOK:
        cost = f", {money(power.idle_cost)} {power.currency}" if power.currency else ""
        yield Text(
            f"Its GPUs were idle {share(idle.seconds, power.seconds)} of the time: {energy(idle.joules)}{cost}.",
            "yellow",
        )


def rank_row(rank: RankOff) -> list[Cell]:
    """One rank in the table."""
    off = rank.over_share or 0.0
    above = f"{duration(rank.over_ns)} {off:.0%}" if rank.over_ns else UNKNOWN
    return [
        number(rank.rank), number(rank.stage), number(rank.dp), number(rank.tp),
        Text(f"▲ {above}", "bold yellow") if off >= WORTH_A_LOOK else above, rank.phase or UNKNOWN, duration(rank.step_ns),
        duration(rank.compute_ns), duration(rank.communication_ns), duration(rank.idle_ns), duration(rank.data_wait_ns),
        rank.node or UNKNOWN,
    ]  # fmt: skip


def groups(job: Job) -> Text:
    """Each group's phases; one that takes longer than the median of the groups is marked."""
    if not job.groups:
        return Text("No steps with their places in parallel groups are kept of this time.", "dim")
    usual = _usual(job.groups)
    phases = sorted(usual, key=lambda phase: -usual[phase])[:PHASES_SHOWN]
    rows = [(NAMES[job.by], "ranks", *phases)]
    for each in job.groups:
        cells = tuple(_phase(each.phases.get(phase), usual[phase]) for phase in phases)
        rows.append((number(each.index), str(each.ranks), *cells))
    first, *others = grid(rows, [True] * len(rows[0]))
    styled = [Text(row, "yellow" if "▲" in row else "") for row in others]
    told = Text(
        f"Mean of a step and rank; ▲: {WORTH_A_LOOK:.0%} and more above the median of the groups.   b: by another\n",
        "dim",
    )
    return told.append(first + "\n", "bold").append_text(Text("\n").join(styled))


def _usual(listed: Sequence[Group]) -> dict[str, float]:
    phases = dict.fromkeys(phase for group in listed for phase in group.phases)
    return {phase: median(group.phases[phase] for group in listed if phase in group.phases) for phase in phases}


def _phase(value: float | None, usual: float) -> str:
    if value is None:
        return UNKNOWN
    return f"▲ {duration(value)}" if value > usual * (1 + WORTH_A_LOOK) else duration(value)


def operation_row(each: Operation) -> list[Cell]:
    """One operation of one size on one communicator."""
    busbw = UNKNOWN if each.bus_bytes_per_second is None else f"{each.bus_bytes_per_second / 1e9:.2f} GB/s"
    return [
        each.group_name or UNKNOWN, each.operation or UNKNOWN, size(each.message_bytes), number(each.nranks), f"{each.count:,}",
        busbw, duration(each.transfer_ns), duration(each.wait_ns), duration(each.median_ns), each.communicator or UNKNOWN,
    ]  # fmt: skip


def operations(listed: tuple[Operation, ...]) -> Text:
    """Operations as NCCL counts them: how many, of which sizes, how many bytes."""
    if not listed:
        return Text("No collective is told: the NCCL plugin (`warpline run`) and profiles tell them.", "dim")
    rows: list[tuple[str, ...]] = [
        ("operation", "times", "smallest", "average", "largest", "bytes", "busbw from", "to")
    ]
    for name in dict.fromkeys(each.operation for each in listed):
        rows.append(_of(name or UNKNOWN, [each for each in listed if each.operation == name]))
    first, *others = grid(rows, [False] + [True] * 7)
    return Text(first, "bold dim").append("\n" + "\n".join(others), "not bold not dim")


def _of(name: str, listed: list[Operation]) -> tuple[str, ...]:
    sized = [(each.message_bytes, each.count) for each in listed if each.message_bytes is not None]
    whole, times = sum(bytes_ * count for bytes_, count in sized), sum(count for _, count in sized)
    speeds = [each.bus_bytes_per_second / 1e9 for each in listed if each.bus_bytes_per_second is not None]
    return (
        name, f"{sum(each.count for each in listed):,}", size(min((each for each, _ in sized), default=None)),
        size(whole / times if times else None), size(max((each for each, _ in sized), default=None)),
        size(whole if sized else None), f"{min(speeds):.2f} GB/s" if speeds else UNKNOWN,
        f"{max(speeds):.2f} GB/s" if speeds else UNKNOWN,
    )  # fmt: skip


def members(communicator: str | None, listed: tuple[Member, ...]) -> Text:
    """Who is in the communicator under the cursor."""
    if communicator is None or not listed:
        return Text("enter: who is in the communicator under the cursor", "dim")
    states = sorted({each.state or UNKNOWN for each in listed})
    versions = sorted({each.library_version for each in listed if each.library_version})
    said = Text(
        f"{communicator}: {len(listed)} ranks, {', '.join(states)}, NCCL {', '.join(versions) or UNKNOWN}\n", "bold"
    )
    by_node: dict[str, list[str]] = {}
    for each in listed:
        by_node.setdefault(each.node or "node unknown", []).append(number(each.rank))
    said.append("\n".join(f"{node}: {', '.join(ranks)}" for node, ranks in by_node.items()), "not bold")
    transports = sorted({each.transports for each in listed if each.transports})
    return said.append(f"\ntransports {'; '.join(transports)}" if transports else "", "dim")


def account(power: Power, now_ns: int) -> Text:
    """Energy of the last accounted hour: what for, how much of it for nothing, and what that followed."""
    if power.error is not None:
        return Text(f"Energy cannot be asked for: {power.error}", "bold red")
    if power.end_ns is None:
        return Text(
            "Nothing is accounted for this job: each ten minutes are added up two minutes after they are over.", "dim"
        )
    cost = f", {money(power.cost)} {power.currency}" if power.currency else "; no price is set"
    said = Text(f"{energy(power.joules)}{cost} in the hour to {clock(power.end_ns, now_ns)}\n", "bold")
    states = [
        ("state", "time", "energy"),
        *(
            (STATES.get(each.state, (each.state, ""))[0], share(each.seconds, power.seconds), energy(each.joules))
            for each in power.states
        ),
    ]
    said.append("\n".join(grid(states, [False, True, True])), "not bold")
    idle = sum(each.seconds for each in power.causes)
    if power.causes:
        wasted = f", {money(power.idle_cost)} {power.currency}" if power.currency else ""
        said.append(f"\nExecution-idle ({energy(power.of('execution_idle').joules)}{wasted}):\n", "bold")
        rows = [
            (CAUSES.get(each.cause, each.cause or UNKNOWN), share(each.seconds, idle), energy(each.joules))
            for each in power.causes
        ]
        said.append("\n".join(grid(rows, [False, True, True])), "not bold")
    return said
