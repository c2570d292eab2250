"""The words of the parts of the walk through an incident; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from warpline_proto.finding import ENDED, OPEN, REPLACED, RESOLVED, Evidence

from ..beside.durations import OPERATIONS
from ..beside.steps import WHOLE, Line, Steps
from ..incident_text import FOLDED
from ..spark import spark
from ..views.incident import WALK, Walk
from ..views.incidents import Listed
from ..widgets.table import Cell
from ..widgets.timed import times
from ..words import UNKNOWN, accused, age, cost, duration, moment, since
from ..words import who as briefly

NAMES: Final = {
    "verdict": "verdict", "evidence": "evidence", "steps": "steps against peers", "kernels": "kernels", "sql": "SQL",
    "next": "what to do",
}  # fmt: skip
LINE_COLUMNS: Final = ("part of the step", "accused", "peers", "ratio", "difference", "the accused over its steps")
QUERY_COLUMNS: Final = ("", "rows kept", "query")
LOOK_COLUMNS: Final = ("command", "what it brings")
SQL_SAID: Final = "The queries behind the evidence run on this store as they are. e: change one and run it, y: copy it."
ASKING: Final = "Asking for it ..."
SPARK_COLUMNS: Final = 24
ROWS_SHOWN: Final = 40
CELL_CHARS: Final = 40
STATES: Final = {
    RESOLVED: "RESOLVED: the question was asked again and answered without the accusation",
    ENDED: "CANNOT TELL any more: its job or node fell silent while it stood; it is not called mended",
    REPLACED: "REPLACED: what it accuses is not there any more",
}
STYLES: Final = {"critical": "bold white on red", "warning": "bold black on yellow", "info": "bold"}
NO_STEPS: Final = (
    "No step of the accused is kept from that time.",
    "Steps come from the hook (`warpline run`), NCCL's profiler plugin or trace files; raw ones are let go after a while; view "
    "`step_history` has ten minutes each.",
)
NO_KERNELS: Final = (
    "Neither kernels nor operations of the accused are kept from that time.",
    "Kernels come from trace files or from capture in the training process (`warpline run`); the end of this walk asks for those "
    "that a node still holds.",
)
"""Why there is nothing, and what would give it."""


def way(part: str) -> Text:
    """Where one is in the walk."""
    text = Text(" ")
    for at, name in enumerate(WALK):
        text.append(f"[{NAMES[name]}]" if name == part else NAMES[name], "bold reverse" if name == part else "dim")
        text.append(" › " if at < len(WALK) - 1 else "", "dim")
    return text.append(f"   {WALK.index(part) + 1}/{len(WALK)}", "dim")


def whom(listed: Listed) -> Text:
    """Which incident this is, in a line."""
    finding = listed.incident.finding
    state = str(finding.severity) if listed.incident.state == OPEN else listed.incident.state
    text = Text.assemble(
        (f" {state} ", STYLES.get(state, "reverse")), (f" {finding.kind}: ", "bold"), briefly(finding.subject)
    )
    return text.append(f" of {finding.subject.job}" if finding.subject.job else "")


def verdict(listed: Listed) -> RenderableType:
    """What is wrong, how sure that is, since when, what it costs, and what to do."""
    incident, finding = listed.incident, listed.incident.finding
    facts = Table.grid(padding=(0, 2))
    lost = "" if listed.lost is None else f"; {listed.lost}"
    for name, words in (
        ("who", accused(finding.subject)),
        ("since", since(finding, "not known: there is no clock in the data")),
        ("cost", cost(finding, "not known") + lost),
        ("sure", f"{finding.confidence:.0%}"),
        ("first seen", f"{moment(incident.opened_ns)}, last written {moment(incident.updated_ns)}"),
        ("id", finding.id),
    ):
        facts.add_row(Text(name, "bold"), Text(words))
    head = (
        f"{finding.severity.upper()}: it stands"
        if incident.state == OPEN
        else STATES.get(incident.state, incident.state.upper())
    )
    told: list[RenderableType] = [
        Text(head, "bold reverse"),
        Text(""),
        Text(finding.summary, "bold"),
        Text(""),
        facts,
        Text(""),
    ]
    folded = [Text.assemble(("└ explains ", "bold"), f"{kind}: {summary}") for kind, summary in listed.folded]
    return Group(*told, *folded, Text(f"→ {finding.next_step}", "bold green"))


def evidence(listed: Listed) -> RenderableType:
    """What was measured, what else was considered, and what was not there."""
    finding = listed.incident.finding
    told: list[RenderableType] = []
    for number, each in enumerate(finding.evidence, 1):
        told += [Text(f"Evidence {number} of {len(finding.evidence)}", "bold underline"), rows(each.rows)]
    if not told:
        told.append(Text("No evidence is kept with it.", "dim"))
    tried = [words for words in finding.ruled_out if not FOLDED.fullmatch(words)]
    told += listed_texts("Considered and ruled out", tried, "nothing is told")
    told += listed_texts("Not known, for want of", finding.missing, "nothing: every input was there")
    return Group(*told)


def listed_texts(title: str, texts: Sequence[str], none: str) -> list[RenderableType]:
    """A title and what stands under it."""
    return [Text(""), Text(title, "bold underline"), *(Text(f"· {words}") for words in texts or (none,))]


def rows(kept: Sequence[Any]) -> RenderableType:
    """Rows of evidence as a table."""
    listed = [row for row in kept if isinstance(row, dict)]
    if not listed:
        return Text("(no rows are kept: the query behind it, two keys on, can be run anew)", "dim")
    table = Table(box=None, header_style="bold dim", padding=(0, 2, 0, 0))
    for name in listed[0]:
        table.add_column(Text(str(name)))
    for row in listed[:ROWS_SHOWN]:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    return (
        table
        if len(listed) <= ROWS_SHOWN
        else Group(table, Text(f"... and {len(listed) - ROWS_SHOWN} more rows", "dim"))
    )


def compared_said(shown: Walk, charted: str | None) -> Text:
    """Whose steps are compared with whose, and which part of them is drawn; or why none are."""
    if not shown.steps.lines:
        return _missing(shown, NO_STEPS)
    return _sides(shown).append(f": {charted}" if charted else "", "bold")


def telling(steps: Steps) -> Line | None:
    """The part that is charted at first: the one in which the accused is above its peers most, else the step."""
    above = [line for line in steps.lines if line.name != WHOLE and line.excess_ns > 0]
    return above[0] if above else next(iter(steps.lines), None)


def line_row(line: Line) -> list[Cell]:
    """One part of the steps."""
    ratio = None if line.mine_ns is None or not line.peers_ns else line.mine_ns / line.peers_ns
    return [
        line.name,
        duration(line.mine_ns),
        duration(line.peers_ns),
        times(ratio),
        UNKNOWN if line.peers_ns is None else _signed(line.excess_ns),
        spark([point[1] for point in line.points], SPARK_COLUMNS),
    ]


def durations_said(shown: Walk) -> Text:
    """Whose kernels these are, or why there are none."""
    found = shown.durations
    if not found.items:
        return _missing(shown, NO_KERNELS)
    text = _sides(shown)
    if found.steps is not None:
        text.append(f"; steps {found.steps[0]} to {found.steps[1]}", "dim")
    if found.what == OPERATIONS:
        text.append("\nNo kernel of it is kept: these are the operations that the framework names.", "yellow")
    if found.shapeless > 0:
        text.append(f"\n{found.shapeless:.0%} of these are told by sums alone and stand at their mean.", "yellow")
    return text


def query_row(each: Evidence) -> list[Cell]:
    """One query in a line."""
    return ["", str(len(each.rows)), " ".join(each.sql.split())[:200]]


def query(sql: str | None) -> RenderableType:
    """A query in full."""
    if sql is None:
        return Text("No query is kept with this incident.", "dim")
    return Syntax(sql.strip(), "sql", word_wrap=True, background_color="default")


def next_step(shown: Walk) -> Text:
    """What to do now, and how far requests for a closer look got."""
    assert shown.listed is not None
    text = Text.assemble(
        ("Do now", "bold underline"), "\n", (f"→ {shown.listed.incident.finding.next_step}", "bold green"), "\n\n"
    )
    text.append("Closer looks so far\n", "bold underline")
    if not shown.captures:
        text.append("None was asked for of these ranks.\n", "dim")
    for each in shown.captures:
        rank = "" if each.rank is None else f" of rank {each.rank}"
        asked = age(each.requested_ns, shown.now_ns)
        text.append(f"{each.state:<10}", "bold").append(
            f"{each.what}{rank}, asked {asked}: {each.detail or 'no answer yet'} ({each.id})\n", "not bold"
        )
    text.append("\nAsk for a closer look", "bold underline")
    if not shown.looks:
        return text.append(f"\nNo rank is known by number to ask of. {shown.who.why}", "dim")
    return text.append("  c sends the one under the cursor, if the screen was started with --operator", "dim")


def _missing(shown: Walk, words: tuple[str, str]) -> Text:
    why = shown.who.why if not shown.who.accused and shown.who.why else words[0]
    return Text.assemble((why, "bold"), "\n", words[1])


def _sides(shown: Walk) -> Text:
    who = shown.who
    text = Text.assemble((who.accused_said, "bold"))
    return text.append(f" against {who.peers_said}" if who.peers else f". {who.why}", "not bold")


def _signed(nanoseconds: float) -> str:
    return f"{'+' if nanoseconds > 0 else '-' if nanoseconds < 0 else ''}{duration(abs(nanoseconds))}"


def _cell(value: Any) -> str:
    text = UNKNOWN if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= CELL_CHARS else text[: CELL_CHARS - 1] + "…"
