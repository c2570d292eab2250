"""The page: one HTML file without scripts that needs nothing besides itself, the verdict in words on top."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from warpline_analysis.energy.money import Money
from warpline_proto.finding import OPEN, FindingState
from warpline_tui.money import lost
from warpline_tui.words import UNKNOWN, accused, cost, energy, moment, since
from warpline_tui.words import money as amount

from . import measures, plots
from .markup import Html, folded, joined, table, tag
from .told import FINDINGS_MAX, Told

EVIDENCE_ROWS_SHOWN: Final = 12
CELL_CHARS: Final = 120
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What the browser may load and run: nothing, besides the styles that stand in the page."""
STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; margin: 0 auto; padding: 1.5rem; max-width: 75rem }
h1 { font-size: 1.4rem; margin: 0 0 .2rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid #ccc }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem } p { margin: .4rem 0; max-width: 60rem } .quiet { color: #555 }
.finding { font-weight: 600 } .finding td { border-bottom: 0 } .finding td:first-child { padding-left: .5rem }
.finding.critical td:first-child { border-left: .4rem solid #d55e00 }
.finding.info td:first-child { border-left: .4rem solid #999 }
.finding.warning td:first-child { border-left: .4rem solid #e69f00 }
.verdict { font-size: 1.15rem; padding: .7rem 1rem; border-left: .5rem solid #999; background: #f5f5f5; margin: .8rem 0 }
.critical { border-color: #d55e00 } .warning { border-color: #e69f00 } .healthy { border-color: #009e73 }
table { border-collapse: collapse; font-size: .85rem; margin: .4rem 0 } .wide { overflow-x: auto }
th, td { text-align: left; padding: .2rem .7rem .2rem 0; vertical-align: top; border-bottom: 1px solid #eee }
th { color: #555; font-weight: 600 } .number { text-align: right; font-variant-numeric: tabular-nums }
pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; font-size: .78rem; white-space: pre-wrap; overflow-wrap: anywhere }
summary { cursor: pointer; color: #0072b2 } figure { margin: .4rem 0 } svg { max-width: 100%; height: auto }
figcaption { color: #555; font-size: .85rem }
@media print { details > * { display: block } }
"""
_SAID: Final = {
    "critical": "Critical",
    "warning": "Warning",
    "healthy": "Healthy",
    "unknown": "Cannot tell",
}


def page(told: Told, made: Sequence[tuple[str, str]]) -> str:
    """The whole document; `made` says how: pairs of a name and words."""
    whose = "all jobs" if told.range.job is None else f"job {told.range.job}"
    title = f"warpline report: {whose}, {moment(told.range.start_ns)} to {moment(told.range.end_ns)}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    body = tag(
        "body",
        tag("h1", f"Report of {whose}"),
        tag("p", f"{moment(told.range.start_ns)} to {moment(told.range.end_ns)}", class_="quiet"),
        _verdict(told),
        *_section("Findings", _findings(told)),
        *_section("Iteration time", measures.iterations(told)),
        *_section("Parts of a step", measures.stages(told)),
        *_section("Power and energy", measures.energies(told)),
        *_section("Bandwidth", measures.bandwidth(told)),
        *_section("Nodes with most against them", measures.nodes(told)),
        *_section("What was not seen", measures.quality(told)),
        *_section("How this was made", _made(told, made)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def verdict(told: Told) -> str:
    """critical, warning, healthy or unknown, as `warpline findings` judges."""
    for each in ("critical", "warning"):
        if told.counts.get(each):
            return each
    judged = any(answer["state"] == "fresh" for answer in told.answers)
    return "healthy" if told.counts.get("info") or judged else "unknown"


def _section(title: str, parts: Iterator[str]) -> Iterator[Html]:
    yield tag("h2", title)
    yield joined(parts)


def _verdict(told: Told) -> Html:
    said = verdict(told)
    words = [f"{told.counts[each]} {each}" for each in ("critical", "warning", "info") if told.counts.get(each)]
    over = told.counts.get("over", 0)
    parts = [f"{_SAID[said]}: " + (f"open at the end: {', '.join(words)}" if words else "nobody is accused at the end")]
    parts += [f"of this time {over} more {'is' if over == 1 else 'are'} over"] if over else []
    if said == "unknown":
        parts += ["no question could be judged: see what was not seen, below"]
    lead = [
        part
        for state in told.open[:1]
        for part in (tag("p", state.finding.summary), tag("p", tag("b", "Do now: "), state.finding.next_step))
    ]
    spent = _spent(told)
    return tag("div", f"{'; '.join(parts)}. ", *([spent] if spent else []), *lead, class_=f"verdict {said}")


def _spent(told: Told) -> str:
    whole = told.energy.whole
    if whole is None:
        return ""
    price = "" if whole.cost is None else f" ({amount(whole.cost)} {told.energy.currency})"
    idle = whole.joules["execution_idle"]
    idly = "" if whole.idle_cost is None else f" ({amount(whole.idle_cost)} {told.energy.currency})"
    drew = f"{whole.gpus} GPUs drew {energy(whole.total_joules)}{price}"
    return f"{drew}, of it {energy(idle)}{idly} under programs that did nothing."


def _findings(told: Told) -> Iterator[str]:
    if not told.findings:
        yield tag("p", "No finding stood in this time.")
        return
    yield tag("figure", plots.lives("lives", told.findings, told.range.start_ns, told.range.end_ns))
    heading = ("severity", "kind", "who", "since", "cost", "sure", "state")
    head = tag("thead", tag("tr", *(tag("th", each) for each in heading)))
    yield tag(
        "div",
        tag("table", head, tag("tbody", *(_finding(state, told.money) for state in told.findings)), id="findings"),
        class_="wide",
    )
    if len(told.findings) == FINDINGS_MAX:
        known = f"Only the first {FINDINGS_MAX} of {sum(told.counts.values())}; `warpline findings --all` has more."
        yield tag("p", known, class_="quiet")


def _finding(state: FindingState, money: Money) -> Html:
    """Two rows of the table: what one looks for, and below it, folded, everything else."""
    finding = state.finding
    life = OPEN if state.state == OPEN else f"{state.state} {moment(state.updated_ns)}"
    paid = lost(finding.cost, money, finding.onset.time_ns or state.opened_ns)
    costs = cost(finding) if paid is None else f"{cost(finding)}, {paid}"
    cells = (str(finding.severity), str(finding.kind), accused(finding.subject), since(finding), costs,
             f"{finding.confidence:.0%}", life)  # fmt: skip
    rows = [
        ("do now", finding.next_step),
        ("ruled out", "; ".join(finding.ruled_out) or UNKNOWN),
        ("missing", "; ".join(finding.missing) or "nothing"),
        ("opened", moment(state.opened_ns)),
        ("id", finding.id),
    ]
    evidence = [part for item in finding.evidence for part in (_rows(item.rows), tag("pre", item.sql.strip()))]
    more = folded("what to do, evidence, what was ruled out", table(("", ""), rows), *evidence)
    first = tag("tr", *(tag("td", cell) for cell in cells), class_=f"finding {finding.severity}")
    return joined([first, tag("tr", tag("td", tag("p", finding.summary), more, colspan=str(len(cells))))])


def _rows(rows: Sequence[Any]) -> Html:
    if not rows:
        return tag("p", "(no rows kept)", class_="quiet")
    names = list(rows[0])
    cells = [[_cell(row.get(name)) for name in names] for row in rows[:EVIDENCE_ROWS_SHOWN]]
    left = len(rows) - EVIDENCE_ROWS_SHOWN
    return joined([table(names, cells), tag("p", f"{left} more rows", class_="quiet") if left > 0 else None])


def _cell(value: Any) -> str:
    text = UNKNOWN if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= CELL_CHARS else text[: CELL_CHARS - 1] + "…"


def _made(told: Told, made: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield table(("", ""), made)
    asked = [
        part
        for each in told.asked
        for part in (
            tag("h3", f"{each.title}: {each.trouble or f'{each.rows} rows, {each.milliseconds:.0f} ms'}"),
            tag("pre", each.sql),
        )
    ]
    yield folded(f"{len(told.asked)} questions that were asked, as SQL", *asked)
