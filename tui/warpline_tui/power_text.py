"""What is said of power: what is drawn now, what the last hour of the account went into, why GPUs idled, whose they are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Final

from rich.text import Text

from .grid import grid
from .power import BY, Drawer, Live, Power, bounds
from .widgets.status import STALE_SECONDS
from .widgets.table import Cell
from .words import UNKNOWN, UUID_CHARS, age, clock, energy, money, number, share

STATES: Final = {
    "active": ("active", "at work"),
    "execution_idle": ("execution-idle", "a program holds the GPU, and nothing was done for 5 s or more"),
    "low_unknown": ("residency unknown", "nothing was done, and no source tells whether a program holds the GPU"),
    "busy_wait": ("busy-wait", "a kernel spins until others come"),
    "spinning": ("spinning", "full utilisation at the power of an idle GPU for 10 s or more"),
    "deep_idle": ("no program", "empty"),
    "blind": ("activity unknown", "no source tells what the GPU does"),
    "unobserved": ("not measured", "no reading for over 2 s"),
}
"""State -> its name here, and what it means."""
STYLES: Final = {
    "execution_idle": "yellow",
    "spinning": "bold red",
    "low_unknown": "dim",
    "unobserved": "dim",
    "blind": "dim",
}
CAUSES: Final = {
    "compute_to_idle": "after computing",
    "pcie": "after PCIe traffic",
    "nvlink": "after NVLink traffic",
    "nic": "after network traffic",
    "disk": "after disk traffic",
    "collective_wait": "after a collective",
    "forgotten_session": "for 30 min or more",
    None: "not known",
}
"""What went before an idle time, as it is said here; one that lasts half an hour is a session that was forgotten."""
MEANINGS_COLUMNS: Final = 150
"""A window this wide has room for what the states mean."""
PADDING_COLUMNS: Final = 2
"""Of a window, left and right of the sums."""
GAP_COLUMNS: Final = 4
BEHIND_SECONDS: Final = 25 * 60
"""The account is up to twelve minutes late; a node that fell silent is accounted after 25."""
WORTH_A_LOOK: Final = 0.05
"""From this share of idle time on it is shown in yellow."""
EMPTY: Final = "No GPU has been heard of yet."
NOTHING: Final = (
    "Nothing is accounted yet: the collector adds up each ten minutes about two minutes after they are over\n"
    "(unless [collector.energy] account is false)."
)


def sentences(power: Power) -> Iterator[Text]:
    if power.error is not None:
        yield Text(f"Power cannot be asked for: {power.error}", "bold red")
    yield _live(power.live, power.now_ns)
    if power.end_ns is None:
        if power.error is None:
            yield Text(NOTHING, "dim")
        return
    yield _hour(power)
    yield _idle(power)
    if power.of("low_unknown").seconds > 0:
        yield Text("Residency unknown: if a program held these GPUs, they were execution-idle.", "dim")
    unmeasured = sum(each.unmeasured_seconds for each in power.states)
    if unmeasured >= 1:
        yield Text(
            f"Not measured: {unmeasured:,.0f} GPU-seconds had neither counter nor power and are in no sum.", "dim"
        )


def _live(live: Live | None, now_ns: int) -> Text:
    if live is None:
        return Text(EMPTY, "dim")
    fresh = now_ns - live.newest_ns <= STALE_SECONDS * 10**9
    said = Text("Now: " if fresh else f"Last heard {age(live.newest_ns, now_ns)}: ", "bold")
    said.append(f"{live.watts:,.0f} W" if live.watts is not None else "power not told", "bold")
    said.append(
        f" by {live.metered} of {live.gpus} GPUs. " if live.metered < live.gpus else f" by {live.gpus} GPUs. ",
        "not bold",
    )
    if live.idle:
        drawn = "" if live.idle_watts is None else f": {live.idle_watts:,.0f} W"
        said.append(f"{live.idle} held by a program and idle{drawn}. ", "not bold yellow")
    elif not live.unknown:
        said.append("None is held by a program and idle. ", "not bold")
    if live.unknown:
        said.append(f"{live.unknown} idle; whether a program holds them is unknown.", "not bold dim")
    return said


def _hour(power: Power) -> Text:
    assert power.start_ns is not None and power.end_ns is not None
    now_ns = power.now_ns
    said = Text.assemble(
        (f"{_span(power.end_ns - power.start_ns)} accounted to {clock(power.end_ns, now_ns)}", "bold"),
        f" ({age(power.end_ns, now_ns)}): ",
        (energy(power.joules), "bold"),
        f", {money(power.cost)} {power.currency}" if power.currency else "",
    )
    said.append(".")
    late_seconds = ((power.live.newest_ns if power.live else power.end_ns) - power.end_ns) / 1e9
    if late_seconds > BEHIND_SECONDS:
        said.append(f" The account is {late_seconds / 60:.0f} min behind the readings.", "yellow")
    if not power.currency:
        said.append(" No price is set.", "dim")
    return said


def _idle(power: Power) -> Text:
    idle, unknown, told = power.of("execution_idle"), power.of("low_unknown"), power.idle_share
    if told is None:
        return Text("No program held a GPU in this time.", "dim")
    drawn = _energies(idle.joules, unknown.joules, unknown.seconds)
    cost = f", {_costs(power.idle_cost, power.unknown_cost)} {power.currency}" if power.currency else ""
    return Text.assemble(
        ("Held by a program for nothing (execution-idle): ", "bold"),
        (f"{_range(told)} of the time programs ran, {drawn}{cost}", "yellow" if told[1] >= WORTH_A_LOOK else ""),
        ".",
    )


def sums(power: Power, window_columns: int) -> Text:
    """States to the left, causes to the right, as far apart as there is room for."""
    states = [("state", "time", "energy", ""), *_state_rows(power)]
    causes = [("execution-idle", "time", ""), *_cause_rows(power)] if power.causes else []
    left = grid(states, [False, True, True, True])
    right = grid(causes, [False, True, True])
    styles = ["bold dim", *(STYLES.get(each.state, "") for each in power.states)]
    meanings = ["", *(STATES.get(each.state, ("", ""))[1] for each in power.states)]
    width = max(map(len, left))
    right_width = max(map(len, right), default=0)
    gap = " " * max(min(window_columns - PADDING_COLUMNS - width - right_width, GAP_COLUMNS), 1)
    lines = []
    for at, (one, other) in enumerate(zip_longest(left, right, fillvalue="")):
        line = Text(one.ljust(width), styles[at] if at < len(styles) else "").append(gap)
        line.append(other.ljust(right_width), "bold dim" if at == 0 else "not bold")
        if window_columns >= MEANINGS_COLUMNS and at < len(meanings):
            line.append(f"    {meanings[at]}", "dim")
        lines.append(line)
    return Text("\n").join(lines)


def _state_rows(power: Power) -> Iterator[tuple[str, str, str, str]]:
    for each in power.states:
        name = STATES.get(each.state, (each.state, ""))[0]
        yield name, _percent(each.seconds, power.seconds), _percent(each.joules, power.joules), energy(each.joules)


def _cause_rows(power: Power) -> Iterator[tuple[str, str, str]]:
    whole = sum(each.seconds for each in power.causes)
    for each in power.causes:
        yield CAUSES.get(each.cause, each.cause or UNKNOWN), _percent(each.seconds, whole), energy(each.joules)


def _percent(part: float | None, whole: float | None) -> str:
    return UNKNOWN if part is None or not whole else f"{part / whole:.1%}"


def order(power: Power) -> Text:
    after = BY[(BY.index(power.by) + 1) % len(BY)]
    more = power.groups - len(power.drawers)
    rest = f"; {more:,} more: `warpline power report --by {power.by}`" if more > 0 else ""
    return Text.assemble(
        (f"By {_named(power.by)}", "bold"), f", most idle energy first{rest}", (f"   b: by {_named(after)}", "dim")
    )


def columns(power: Power) -> tuple[str, ...]:
    priced = (f"idle {power.currency}",) if power.currency else ()
    return (
        _named(power.by),
        "idle energy",
        "idle time",
        *priced,
        "energy",
        "GPUs",
        "busy-wait",
        "spinning",
        "not measured",
    )


def row(drawer: Drawer, power: Power) -> list[Cell]:
    told = bounds(drawer.idle_seconds, drawer.unknown_seconds, drawer.running_seconds)
    return [
        Text(f"(no {power.by} known)", "dim") if drawer.key is None else _shown(drawer.key, power.by),
        _energies(drawer.idle_joules, drawer.unknown_joules, drawer.unknown_seconds),
        UNKNOWN if told is None else _range(told),
        *([_costs(drawer.idle_cost, drawer.unknown_cost)] if power.currency else []),
        energy(drawer.joules),
        number(drawer.gpus),
        share(drawer.busy_wait_seconds, drawer.seconds),
        share(drawer.spinning_seconds, drawer.seconds),
        share(drawer.unmeasured_seconds, drawer.seconds),
    ]


def _shown(key: str, by: str) -> str:
    """A GPU by node, index and the first of its UUID."""
    if by != "gpu":
        return key
    place, _, uuid = key.rpartition(" ")
    return f"{place} {uuid[:UUID_CHARS]}".strip()


def _energies(idle: float | None, unknown: float | None, unknown_seconds: float) -> str:
    """At least, and at most if a program held every GPU of which that is unknown."""
    if unknown_seconds <= 0:
        return energy(idle)
    return f"{energy(idle or 0.0)} to {energy((idle or 0.0) + (unknown or 0.0))}"


def _costs(idle: float | None, unknown: float | None) -> str:
    return f"{money(idle)} to {money((idle or 0.0) + unknown)}" if unknown else money(idle)


def _range(told: tuple[float, float]) -> str:
    lower, upper = told
    return f"{lower:.1%}" if upper - lower < 0.001 else f"{lower:.1%} to {upper:.1%}"


def _span(nanoseconds: int) -> str:
    minutes = round(nanoseconds / 6e10)
    return "Hour" if minutes >= 55 else f"{max(minutes, 1)} min"


def _named(by: str) -> str:
    return "GPU" if by == "gpu" else by
