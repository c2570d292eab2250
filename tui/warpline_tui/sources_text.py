"""What is said of sources: how many agents are well, what each state means and what to do about it, what capture costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.text import Text

from .views.sources import CaptureCost, Group, Sources, SourceState, Troubled
from .widgets.table import Cell
from .words import UNKNOWN, age

MEANINGS: Final = {
    "dead": (
        "it failed again and again and is tried rarely",
        "read its reason, then the agent's log: `journalctl -u warpline-agent`",
    ),
    "denied": ("the agent may not read it", "give the agent the right that the reason names; there: `warpline doctor`"),
    "busy": ("somebody else holds it", "stop the other profiler or exporter, or leave this source to it"),
    "stale": (
        "nothing new came for too long",
        "is the driver or the device hanging? there: `warpline doctor`, `dmesg`",
    ),
    "dropped": (
        "rows fell off before they could be sent",
        "is the collector short of CPU or disk, or the network down? `warpline status`",
    ),
    "refused": ("what came could not be taken", "is the agent of this version? bounds: [collector.limits]"),
    "unsupported": (
        "this machine or job does not have it",
        "nothing, unless you expect it here: the reason says what is missing",
    ),
    "fresh": ("it is read as it should be", "nothing"),
}
"""State -> what it means, and what to do."""
TROUBLES: Final = {
    "late": "is the node up? there: `systemctl status warpline-agent`",
    "dropping": "what fell off is gone: is the collector short of CPU or disk?",
    "skewed": "its times cannot be compared with others: there: `chronyc tracking`",
    "over_budget": "which source costs? choose its node below; bounds: [collector.agents]",
    "reduced": "it tells less, because its frames wait: is the collector short of CPU or disk?",
    "refused": "is it of this version? bounds: [collector.limits]",
}
"""What is wrong with an agent -> what to do."""
STYLES: Final = {"fresh": "green", "unsupported": "dim", "stale": "yellow", "busy": "yellow", "denied": "yellow"}
COST_STYLES: Final = {"within": "green", "over": "bold red"}
GROUP_STATES: Final = ("fresh", "dead", "denied", "busy", "stale", "dropped", "refused", "unsupported")
NAMED: Final = 5
EMPTY: Final = (
    "No source has told how it fares yet. Is `warpline agent` running? `warpline doctor` tells what works here."
)


def headline(shown: Sources) -> Text:
    """How the agents are, the gravest first, and what capture costs."""
    if not shown.groups and not shown.agents:
        return Text(EMPTY, "dim")
    lines = [*_agents(shown.agents, shown.troubled), *map(cost, shown.costs)]
    return Text("\n").join(lines)


def _agents(count: int, troubled: tuple[Troubled, ...]) -> Iterator[Text]:
    if not count:
        yield Text("No collector judged an agent: a recording, or none is at work.", "dim")
        return
    well = count - len(troubled)
    yield Text(f"{well:,} of {count:,} agents are well.", "green" if well == count else "bold")
    for trouble in dict.fromkeys(name for each in troubled for name in each.troubles):
        who = [each for each in troubled if trouble in each.troubles]
        named = ", ".join(each.agent for each in who[:NAMED]) + (
            f" and {len(who) - NAMED} more" if len(who) > NAMED else ""
        )
        detail = f": {who[0].detail}" if len(who) == 1 and who[0].detail else ""
        said = Text(f"{trouble.replace('_', ' ')}: ", "bold yellow").append(f"{named}{detail}", "not bold")
        yield said.append(f" → {TROUBLES.get(trouble, 'see `warpline status`')}", "not bold green")


def cost(cost: CaptureCost) -> Text:
    """What capture costs a job, against what it may."""
    told = Text.assemble("capture of ", (cost.job, "bold"), f" ({cost.mode.replace('_', ' ')}) makes it slower by ")
    if cost.overhead_percent is None:
        return told.append("what cannot be told yet", "dim")
    told.append(f"{cost.overhead_percent:.1f} %", COST_STYLES.get(cost.verdict, ""))
    if cost.low_percent is not None and cost.high_percent is not None:
        told.append(f" ({cost.low_percent:.1f} to {cost.high_percent:.1f})")
    if cost.budget_percent is not None:
        told.append(f"; budget {cost.budget_percent:g} %")
    return told.append(f"; {cost.action}" if cost.action else "")


def group_columns(by: str) -> tuple[str, ...]:
    """Heading of the counts."""
    return (by, "worst", *GROUP_STATES, "rows dropped", "last told")


def group_row(group: Group, now_ns: int) -> list[Cell]:
    """One source, or one node."""
    counts = [f"{group.states[state]:,}" if state in group.states else "" for state in GROUP_STATES]
    return [
        group.key, Text(group.worst, STYLES.get(group.worst, "bold red")), *counts, f"{group.dropped:,}" if group.dropped else "",
        age(group.told_ns, now_ns),
    ]  # fmt: skip


def part_row(part: SourceState, now_ns: int) -> list[Cell]:
    """A part of a source, on one node or on many that say the same."""
    return [
        Text(part.state, STYLES.get(part.state, "bold red")),
        part.node if part.nodes == 1 else f"{part.node} + {part.nodes - 1:,}",
        part.source,
        part.subject or UNKNOWN,
        part.reason,
        age(part.time_ns, now_ns),
        f"{part.dropped:,}" if part.dropped else "",
    ]


def what_to_do(part: SourceState | None) -> Text:
    """What the state under the cursor means, why it is so, and what to do."""
    if part is None:
        return Text("")
    meaning, action = MEANINGS.get(part.state, ("", "read its reason"))
    said = Text(f"{part.source} ({part.subject}): {part.state}: {meaning}. ", "bold").append(part.reason, "not bold")
    return said if action == "nothing" else said.append(f"\n→ {action}", "not bold green")
