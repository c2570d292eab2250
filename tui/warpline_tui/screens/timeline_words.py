"""The timeline in words: what is under the cursor, exactly, and against what is usual for the rank."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from rich.text import Text

from ..lanes import Form, Kind, Lane, Slice
from ..views.timeline import Timeline
from ..views.timeline_usual import STEPS_MAX, Had, Key, Usual
from ..widgets.lane_cells import LEGENDS, percent
from ..words import UNKNOWN, duration

KERNELS_MAX: Final = 20
UNUSUAL: Final = 1.2
"""From so many times the usual on, it is said in bold."""
NO_JOB: Final = (
    "No rank is known yet. Steps come from `warpline run -- torchrun ...` on a node with an agent; a recorded trace is read by "
    "`warpline analyze --store DIR FILE` and shown by `warpline top --store DIR`."
)
NO_TIME: Final = (
    "Nothing with a time is kept of this rank. Steps come from `warpline run -- torchrun ...` on a node with an agent."
)


def exact(nanoseconds: int) -> str:
    """A duration to the nanosecond: 1,234,567 ns as 1.234567 ms."""
    for size, digits, unit in ((10**9, 9, "s"), (10**6, 6, "ms"), (10**3, 3, "µs")):
        if abs(nanoseconds) >= size:
            return f"{nanoseconds / size:,.{digits}f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{nanoseconds} ns"


def instant(time_ns: int) -> str:
    """A UTC time to the nanosecond."""
    seconds, rest = divmod(time_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest:09d}"


def named(who: tuple[str, int | None]) -> str:
    """rank 3 of train."""
    job, rank = who
    return f"{'rank not known' if rank is None else f'rank {rank}'} of {job}"


def heading(shown: Timeline, follows: bool, needle: str, span: tuple[int, int]) -> Text:
    """Whose timeline, which time of it."""
    if shown.who is None:
        return Text("Timeline")
    said = Text.assemble((named(shown.who), "bold"), f"  {instant(span[0])[:-3]} + {duration(span[1] - span[0])}")
    said.append("  newest steps" if follows else "", "dim")
    return said.append(f"  /{needle}" if needle else "", "bold")


def export_command(job: str, ranks: list[int], start_ns: int, end_ns: int) -> str:
    """The command that writes the span for the Perfetto UI."""
    of_ranks = "".join(f" --rank {rank}" for rank in ranks)
    return (
        f"warpline export trace --job {shlex.quote(job)}{of_ranks} --from {start_ns} --to {end_ns} -o timeline.json.gz"
    )


def notes(shown: Timeline) -> Text:
    """What is missing, and how what stands beside was aligned."""
    if shown.who is None:
        return Text(NO_JOB)
    if not shown.lanes:
        return Text(NO_TIME)
    said = list(shown.notes)
    if not any(lane.slices for lane in shown.lanes):
        said = ["nothing of this rank is kept in this time: `0` goes to its newest steps, `z` to all that is kept"]
    said += [f"beside: {shown.beside}"] if shown.beside else []
    left_out = sum(lane.left_out for lane in {lane.sql: lane for lane in shown.lanes}.values())
    said += [f"{left_out:,} marks too many are left out: zoom in"] if left_out else []
    return Text("; ".join(said), "dim")


def about(shown: Timeline, lane: Lane | None, cursor_ns: int, slack_ns: int, columns: int = 200) -> Text:
    """What is under the cursor; names of kernels are cut where a line of `columns` ends."""
    if lane is None:
        return Text("")
    at_ns = cursor_ns + (shown.shift_ns if lane.side else 0)
    lines = list(_lines(shown, lane, at_ns, slack_ns))
    if lane.kind.value in LEGENDS:
        lines.append(Text(LEGENDS[lane.kind.value], "dim", no_wrap=True))
    for line in lines:
        if line.no_wrap:
            line.truncate(columns, overflow="ellipsis")
    return Text("\n").join(lines)


def _lines(shown: Timeline, lane: Lane, at_ns: int, slack_ns: int) -> Iterator[Text]:
    if lane.kind in (Kind.POWER, Kind.CLOCK):
        yield _reading(lane, at_ns)
        return
    each = lane.at(at_ns, slack_ns)
    if each is None:
        yield Text.assemble((lane.label, "bold"), f": nothing at {instant(at_ns)}", (_to_step(shown, at_ns), "dim"))
        return
    yield _title(lane, each)
    into = "" if lane.kind is Kind.STEP else _to_step(shown, each.start_ns)
    yield Text(f"from {instant(each.start_ns)}{into}", "dim")
    if lane.kind is Kind.COLLECTIVE:
        yield _waiting(each)
    if each.about:
        yield Text(each.about)
    yield from _against(lane, each, shown.usual_beside if lane.side else shown.usual)


def _reading(lane: Lane, at_ns: int) -> Text:
    found = lane.reading_at(at_ns)
    if found is None:
        return Text.assemble((lane.label, "bold"), f": no reading holds at {instant(at_ns)}")
    means = (
        ""
        if found.count == 1
        else f" mean of {found.count} readings, {found.lowest:,.0f} to {found.highest:,.0f} {lane.unit}"
    )
    top = f", of {lane.top:,.0f} {lane.unit} at most" if lane.top else ""
    return Text.assemble(
        (f"{lane.label} {found.value:,.0f} {lane.unit}", "bold"), f"{means}{top}, read at {instant(found.time_ns)}"
    )


def _title(lane: Lane, each: Slice) -> Text:
    """Name, how long, how many."""
    took = each.end_ns - each.start_ns
    said = Text(each.name, "bold", overflow="ellipsis", no_wrap=True)
    if lane.kind is Kind.LOG:
        return said.append(f"  {each.category}", "not bold")
    if lane.kind is Kind.FINDING:
        return said.append(f"  {each.category}; enter opens it", "not bold")
    if each.partial:
        words = f": its kernels are not kept one by one; over all of the step they took {percent(each.share)}"
        return Text.assemble((f"{duration(took)} of step {each.step}", "bold"), words)
    if each.form is Form.SUMS:
        what = (
            f"{each.count} kernels of step {each.step}"
            if lane.kind is Kind.KERNEL
            else f"{lane.label} in step {each.step}"
        )
        if each.step is None:
            what = f"{each.count} kernels" if lane.kind is Kind.KERNEL else lane.label
        where = "; where in it is not known" if each.share < 1 else ""
        return Text.assemble(
            (what, "bold"), f": {duration(each.busy_ns)} of {duration(took)}, {percent(each.share)}{where}"
        )
    if each.form is Form.MANY:
        together = f"{each.count} in this column, {duration(each.busy_ns)} of {duration(took)}"
        return Text.assemble(
            (together, "bold"), f"; longest {duration(each.longest_ns)}: {each.name}", no_wrap=True, overflow="ellipsis"
        )
    lead = Text(f"{exact(took)}  ", "bold", overflow="ellipsis", no_wrap=True)
    told = f"  {each.category}" if each.category else ""
    return lead.append_text(said).append(told, "not bold dim")


def _to_step(shown: Timeline, time_ns: int) -> str:
    """How far into which step."""
    steps = next((lane for lane in shown.lanes if lane.kind is Kind.STEP and lane.side == 0), None)
    found = None if steps is None else steps.at(time_ns)
    if found is None or found.step is None or found.form is not Form.ONE:
        return ""
    return f", {duration(time_ns - found.start_ns)} into step {found.step}"


def _waiting(each: Slice) -> Text:
    """Waiting is told apart from moving data: who waits long is not to blame."""
    if each.wait_ns is None:
        return Text(
            "waiting and transfer cannot be told apart: the same operation is not known of every rank in it", "dim"
        )
    transfer_ns = each.busy_ns - each.wait_ns
    said = Text.assemble(
        "waited ", (duration(each.wait_ns), "bold"), " for other ranks, transfer ", (duration(transfer_ns), "bold")
    )
    return said.append("" if each.last is None else f"; rank {each.last} came last")


def _against(lane: Lane, each: Slice, usual: Usual) -> Iterator[Text]:
    if lane.kind is Kind.KERNEL and each.form is Form.SUMS:
        yield from _kernels(each, usual)
        return
    key = _key(lane, each)
    if key is None or each.form is Form.MANY:
        return
    one = key[0] in ("kernel", "collective")
    found = usual.median_one(key, each.step) if one else usual.median_sum(key, each.step)
    took = each.busy_ns if each.form is Form.SUMS else each.end_ns - each.start_ns
    yield _compared(took, found, usual)
    had = usual.of(key, each.step)
    others = usual.median_sum(key, each.step)
    if had is not None and others is not None and had.count > 1:
        yield Text(
            f"in step {each.step}: {had.count} of it, {duration(had.sum_ns)} together; other steps {duration(others[0])}",
            "dim",
        )
    if lane.kind is Kind.STEP:
        yield from _parts(each, usual)


def _compared(took_ns: float, found: tuple[float, int] | None, usual: Usual) -> Text:
    if found is None:
        return Text("no other step of this rank to compare with", "dim")
    middle, steps = found
    times = took_ns / middle if middle else None
    style = "bold" if times is not None and (times >= UNUSUAL or times <= 1 / UNUSUAL) else ""
    factor = "" if times is None else f": this is {times:.2f} times that"
    return Text.assemble(
        f"median of {steps} other steps {duration(middle)}",
        (factor, style),
        (" (part of them)" if usual.left_out else "", "dim"),
    )


def _parts(each: Slice, usual: Usual) -> Iterator[Text]:
    """What else is known of a step."""
    for what, words in (("idle", "GPU idle"), ("data", "waited for data"), ("launch", "median from launch to start")):
        had = usual.of((what, ""), each.step)
        if had is not None:
            others = usual.median_sum((what, ""), each.step)
            middle = "" if others is None else f", other steps {duration(others[0])}"
            yield Text(f"{words} {duration(had.sum_ns)}{middle}")


def _kernels(each: Slice, usual: Usual) -> Iterator[Text]:
    """Kernels of the step, on all streams, against the other steps."""
    found = usual.kernels(each.step)
    if not found:
        yield Text(f"its kernels are told of the newest {STEPS_MAX} steps on the screen", "dim")
    else:
        yield Text("kernels of this step on all streams, those with most time first:", "dim")
    for name, had in found[:KERNELS_MAX]:
        yield _kernel(name, had, usual.median_sum(("kernel", name), each.step))
    if len(found) > KERNELS_MAX:
        yield Text(f"and {len(found) - KERNELS_MAX} more", "dim")


def _kernel(name: str, had: Had, others: tuple[float, int] | None) -> Text:
    times = had.sum_ns / others[0] if others and others[0] else None
    factor = UNKNOWN if times is None else f"{times:.2f}x usual"
    style = "bold" if times is not None and times >= UNUSUAL else ""
    said = Text.assemble(
        f"{duration(had.sum_ns):>9} {had.count:>5} calls, p50 {duration(had.one_ns):>8}  ",
        (f"{factor:<12}", style),
        name,
    )
    said.no_wrap, said.overflow = True, "ellipsis"
    return said


def _key(lane: Lane, each: Slice) -> Key | None:
    """What it is called in what is usual."""
    if lane.kind is Kind.STEP:
        return "step", ""
    if lane.kind is Kind.GAP:
        return ("idle", "") if each.form is Form.SUMS else None
    if lane.kind in (Kind.PHASE, Kind.GC, Kind.DATA):
        return ("data", "") if each.form is Form.SUMS else ("phase", each.name)
    if lane.kind is Kind.COLLECTIVE:
        return "collective", f"{each.name} of {lane.label.removeprefix('coll. ').removeprefix('collectives')}"
    return ("kernel", each.name) if lane.kind is Kind.KERNEL else None
