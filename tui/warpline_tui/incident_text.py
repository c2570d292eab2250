"""A finding with its life as Markdown: what somebody pastes into a ticket, the verdict first; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.controls import CONTROLS_CLASS
from warpline_proto.finding import OPEN, Evidence, FindingState

from .words import UNKNOWN, accused, duration, energy, moment, since

ROWS_SHOWN: Final = 12
"""Of one table; how many more there are is said."""
COLUMNS_SHOWN: Final = 12
CELL_CHARS: Final = 60
RELATED_SHOWN: Final = 20
FOLDED: Final = re.compile(r"(?P<kind>[a-z_]+) by itself: (?P<summary>.*)", re.DOTALL)
"""A finding that was folded under this one, as `ruled_out` tells of it."""
_SPECIAL: Final = re.compile(
    r"""\\(?=[!-/:-@\[-`{-~])   # would escape what follows
    | [`*\[\]]                  # code, emphasis, links
    | (?<!\w)_ | _(?!\w)        # emphasis; within a word it is none
    | <(?=[A-Za-z/!?])          # a tag
    | &(?=\#?\w+;)              # a named character
    | ~(?=~)""",
    re.VERBOSE,
)
_LINE_BEGIN: Final = re.compile(r"^(\d*)([#>+.)-]|=(?==))(?=[#>=-]|\s|$)")
"""A heading, a quotation, an entry of a list, a rule."""


@dataclass(frozen=True)
class Beside:
    """Facts that stand beside a finding: a title, and rows that were asked for when the text was written."""

    title: str
    sql: str
    rows: tuple[Mapping[str, Any], ...]


def markdown(
    state: FindingState,
    related: Sequence[FindingState] = (),
    beside: Sequence[Beside] = (),
    money: str | None = None,
) -> str:
    """One finding, worth reading by somebody who has nothing else.

    `related` are other findings of the same job, node or GPU; `money` is what its energy cost, in words, None where no price
    is set or no energy known.
    """
    finding = state.finding
    blocks = [
        f"## [{finding.severity}] {escaped(finding.kind)}: {escaped(accused(finding.subject))}",
        escaped(finding.summary),
        _table(("", ""), _facts(state, money)),
        "### What to do",
        escaped(finding.next_step),
        *_section("It explains", _bullets(_folded(finding.ruled_out))),
    ]
    for number, evidence in enumerate(finding.evidence, 1):
        blocks += [f"### Evidence {number}", *_evidence(evidence)]
    tried = [words for words in finding.ruled_out if not FOLDED.fullmatch(words)]
    blocks += _section("Ruled out", _bullets(map(escaped, tried)))
    blocks += _section("Not known, for want of", _bullets(map(escaped, finding.missing)))
    for fact in beside:
        blocks += [f"### {escaped(fact.title)}", *_evidence(Evidence(fact.sql, fact.rows))]
    blocks += _section("Other findings of the same job, node or GPU", _bullets(_related(related)))
    return "\n\n".join(blocks) + "\n"


def escaped(text: str) -> str:
    """Text in which Markdown finds nothing of its own: no markup, no tags, no line ends; it reads as it was."""
    line = re.sub(f"[{CONTROLS_CLASS}]+", " ", text).strip()
    line = _SPECIAL.sub(lambda found: f"\\{found[0]}", line)
    return _LINE_BEGIN.sub(r"\1\\\2", line)


def fenced(text: str, language: str = "") -> str:
    """A block of code that holds whatever `text` holds."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def _facts(state: FindingState, money: str | None) -> Iterator[tuple[str, str]]:
    finding = state.finding
    yield "who", accused(finding.subject)
    yield "since", _since(state)
    yield "cost", _cost(state, money)
    yield "confidence", f"{finding.confidence:.0%}"
    yield "state", _life(state)
    if state.alarms is not None:
        yield "stands for", alarms(state.alarms)
    yield "id", finding.id


def _since(state: FindingState) -> str:
    onset = state.finding.onset
    words = [since(state.finding, "not known: no clock in the data")]
    if onset.earliest_step is not None and onset.latest_step is not None and onset.earliest_step != onset.latest_step:
        words.append(f"between steps {onset.earliest_step} and {onset.latest_step}")
    if onset.watched_step is not None:
        words.append(f"ranks were watched from step {onset.watched_step} on")
    return ", ".join(words)


def _cost(state: FindingState, money: str | None) -> str:
    cost = state.finding.cost
    words = [] if cost.seconds_per_step is None else [f"{duration(cost.seconds_per_step * 1e9)} a step"]
    words += [] if cost.gpu_hours is None else [f"{cost.gpu_hours:.3g} GPU-hours"]
    words += [] if cost.joules is None else [energy(cost.joules)]
    words += [] if money is None else [money]
    return ", ".join(words) or "not known"


def alarms(count: int) -> str:
    """How many accusations an incident stands for, in words."""
    return f"{count:,} alarm{'s' if count != 1 else ''}, each pass counted"


def _life(state: FindingState) -> str:
    opened = f"opened {moment(state.opened_ns)}" if state.opened_ns else "opened at a time that is not known"
    if state.state == OPEN:
        return f"open, {opened}"
    return f"{state.state} {moment(state.updated_ns or None)}, {opened}"


def _folded(ruled_out: Sequence[str]) -> Iterator[str]:
    """Findings that follow from this one, each with its kind in front."""
    for words in ruled_out:
        if found := FOLDED.fullmatch(words):
            yield f"{escaped(found['kind'])}: {escaped(found['summary'])}"


def _related(related: Sequence[FindingState]) -> Iterator[str]:
    for other in related[:RELATED_SHOWN]:
        who = escaped(accused(other.finding.subject))
        kind = escaped(f"{other.finding.id}, {other.finding.severity}")
        yield f"{kind}, {other.state}: {who}, since {escaped(since(other.finding, 'a time that is not known'))}"
    if len(related) > RELATED_SHOWN:
        yield f"and {len(related) - RELATED_SHOWN} more: `warpline findings --all`"


def _evidence(evidence: Evidence) -> Iterator[str]:
    """The rows first, as they are what one looks at; the SQL below, for whoever doubts them."""
    yield from _rows(evidence.rows)
    yield fenced(evidence.sql, "sql")


def _rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        yield "(no rows kept)"
        return
    names = list(rows[0])[:COLUMNS_SHOWN]
    yield _table(names, ([_cell(row.get(name)) for name in names] for row in rows[:ROWS_SHOWN]))
    beyond = ((len(rows) - ROWS_SHOWN, "rows"), (len(rows[0]) - COLUMNS_SHOWN, "columns"))
    left = [f"{count} more {what}" for count, what in beyond if count > 0]
    if left:
        yield f"({' and '.join(left)}: run the query)"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(map(_in_table, names)), ["---"] * len(names), *(list(map(_in_table, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _in_table(text: str) -> str:
    return escaped(text).replace("|", "\\|")


def _cell(value: Any) -> str:
    text = UNKNOWN if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= CELL_CHARS else text[: CELL_CHARS - 1] + "…"


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _section(title: str, body: str) -> list[str]:
    return [f"### {title}", body] if body else []
