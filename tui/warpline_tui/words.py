"""How values are written for people: durations, bytes, shares, ages, subjects; a dash for what is not known."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from warpline_proto.finding import Finding, Subject

UNKNOWN = "-"
_TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))
_BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_ENERGIES = ((3.6e9, "MWh"), (3.6e6, "kWh"))


def duration(nanoseconds: float | None) -> str:
    """1234567 -> 1.23 ms."""
    if nanoseconds is None:
        return UNKNOWN
    for size, unit in _TIMES:
        if abs(nanoseconds) >= size:
            return (
                f"{nanoseconds / size:.3g} {unit}" if nanoseconds / size < 1000 else f"{nanoseconds / size:.0f} {unit}"
            )
    return "0"


def size(count: float | None) -> str:
    """Bytes with a binary unit."""
    if count is None:
        return UNKNOWN
    for unit_size, unit in _BYTES:
        if count >= unit_size:
            return f"{count / unit_size:.1f} {unit}"
    return f"{count:.0f} B"


def energy(joules: float | None) -> str:
    """Joules in the unit that bills are written in: Wh, kWh, MWh."""
    if joules is None:
        return UNKNOWN
    for unit_joules, unit in _ENERGIES:
        if joules >= unit_joules:
            return f"{joules / unit_joules:,.2f} {unit}"
    return f"{joules / 3.6e3:.1f} Wh" if joules else "0 Wh"


def money(amount: float | None) -> str:
    """An amount of any currency; one that is small, but not nothing, says so."""
    if amount is None:
        return UNKNOWN
    return "<0.01" if 0 < amount < 0.01 else f"{amount:,.2f}"


def number(value: float | None, unit: str = "") -> str:
    """A rounded number and its unit."""
    return UNKNOWN if value is None else f"{value:.0f}{unit}"


def share(part: float | None, whole: float | None) -> str:
    """A percentage."""
    return UNKNOWN if part is None or not whole else f"{100 * part / whole:.0f}%"


def bar(value: float | None, full: float | None, width: int = 8) -> str:
    """A bar of `width` cells; blank where not known."""
    if value is None or not full:
        return " " * width
    filled = round(width * min(max(value / full, 0.0), 1.0))
    return "█" * filled + "░" * (width - filled)


def age(then_ns: int | None, now_ns: int) -> str:
    """How long ago."""
    if then_ns is None:
        return UNKNOWN
    seconds = (now_ns - then_ns) / 1e9
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(seconds, 0) / divisor:.0f} {unit} ago"
    return f"{seconds / 86400:.0f} days ago"


def moment(time_ns: int | None) -> str:
    """A UTC time of day."""
    return UNKNOWN if time_ns is None else datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(time_ns: int, now_ns: int) -> str:
    """A UTC time of day, with its date where that is another day than now."""
    then, now = (datetime.fromtimestamp(each // 10**9, UTC) for each in (time_ns, now_ns))
    return then.strftime("%H:%M UTC" if then.date() == now.date() else "%Y-%m-%d %H:%M UTC")


def subject(who: Subject) -> str:
    """Who is accused, with its place: `rank 3, stage 0, dp 1, GPU GPU-5c.., on node-7`."""
    words = [who.group] if who.group is not None else []
    if who.rank is not None:
        words.append(f"rank {who.rank}")
    places = (
        ("stage", who.stage),
        ("dp", who.dp),
        ("tp", who.tp),
        ("ep", who.ep),
        ("GPU", who.gpu),
        ("link", who.link),
    )
    words += [f"{name} {value}" for name, value in places if value is not None]
    if who.communicator is not None and who.communicator != who.link:
        words.append(f"communicator {who.communicator}")
    if who.node is not None:
        words.append(f"on {who.node}")
    return ", ".join(words) or "the whole job"


def accused(who: Subject) -> str:
    """Who is accused, and of which job."""
    return subject(who) if who.job is None else f"{subject(who)} of job {who.job}"


UUID_CHARS = 12
"""Of a GPU's UUID, in a table; the detail has all of it."""


def who(accused: Subject) -> str:
    """Who is accused, short enough for a column that stands beside the job's."""
    gpu = None if accused.gpu is None else accused.gpu[:UUID_CHARS]
    named = accused.group is not None or accused.rank is not None
    return subject(replace(accused, gpu=gpu, stage=None if named else accused.stage, dp=None, tp=None, ep=None))


def since_when(finding: Finding) -> str:
    """Since when, short enough for a column: time of day where known, else the step."""
    if finding.onset.time_ns is not None:
        return datetime.fromtimestamp(finding.onset.time_ns / 1e9, UTC).strftime("%H:%M:%S UTC")
    return since(finding)


def since(finding: Finding, unknown: str = UNKNOWN) -> str:
    """Since when, in the best clock there is; `unknown` where there is none."""
    words = [] if finding.onset.step is None else [f"step {finding.onset.step}"]
    if finding.onset.time_ns is not None:
        words.append(moment(finding.onset.time_ns))
    return ", ".join(words) or unknown


def cost(finding: Finding, unknown: str = UNKNOWN) -> str:
    """What it costs, as far as known; `unknown` where nothing is."""
    words = []
    if finding.cost.seconds_per_step is not None:
        words.append(f"{duration(finding.cost.seconds_per_step * 1e9)} a step")
    if finding.cost.gpu_hours is not None:
        words.append(f"{finding.cost.gpu_hours:.3g} GPU-hours")
    if finding.cost.joules is not None:
        words.append(energy(finding.cost.joules))
    return ", ".join(words) or unknown
