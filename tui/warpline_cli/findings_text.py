"""Findings, checks and inputs as plain text for somebody who was just woken up: the verdict first, then what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from warpline_proto.controls import CONTROLS_CLASS
from warpline_proto.finding import GRAVITY, from_json
from warpline_tui.grid import grid
from warpline_tui.words import UNKNOWN, accused, cost, since

EVIDENCE_ROWS_SHOWN: Final = 6
MEMBERS_SHOWN: Final = 12
CELL_CHARS: Final = 28
REASON_CHARS: Final = 200
_ENDINGS: Final = {
    "healthy": "HEALTHY: nothing found, and at least one question could be judged",
    "unknown": "CANNOT TELL: nothing here could be judged",
}


def answer(document: Mapping[str, Any]) -> str:
    """The JSON answer of `warpline analyze` as text."""
    parts = [verdict_line(document)]
    parts += ["\n".join(finding_lines(finding)) for finding in by_severity(document["findings"])]
    checks = document["checks"]
    parts += _section("Inputs", _input_lines(document["inputs"]))
    parts += _section("Judged healthy", _check_lines(check for check in checks if check["verdict"] == "healthy"))
    parts += _section("Could not be judged", _check_lines(check for check in checks if check["verdict"] != "healthy"))
    return "\n\n".join(parts) + "\n"


def verdict_line(document: Mapping[str, Any]) -> str:
    """One line: the verdict, and how many findings of how many inputs it rests on."""
    findings, inputs = document["findings"], document["inputs"]
    counts = {
        status: sum(1 for item in inputs if item["status"] == status) for status in ("read", "refused", "reference")
    }
    said = _ENDINGS.get(document["verdict"]) or f"{document['verdict'].upper()}: {_count(len(findings), 'finding')}"
    aside = f", {_count(counts['reference'], 'reference answer')} set aside" if counts["reference"] else ""
    return f"{said}   ({_count(counts['read'], 'input')} read, {counts['refused']} refused{aside})"


def by_severity(findings: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Worst and surest first."""
    return sorted(findings, key=lambda finding: (GRAVITY[finding["severity"]], -finding["confidence"], finding["id"]))


def finding_lines(finding: Mapping[str, Any]) -> Iterator[str]:
    """One finding in its published form."""
    return map(one_line, _finding_lines(finding))


def _finding_lines(finding: Mapping[str, Any]) -> Iterator[str]:
    told = from_json(finding)
    yield f"[{told.severity}] {told.kind}: {accused(told.subject)}   confidence {told.confidence:.2f}"
    yield f"  {told.summary}"
    yield f"  since     {since(told, 'not known: no clock in the data')}"
    yield f"  cost      {cost(told, 'not known')}"
    yield f"  do now    {finding['next_step']}"
    for words in finding["ruled_out"]:
        yield f"  not       {words}"
    for words in finding["missing"]:
        yield f"  missing   {words}"
    for item in finding["evidence"]:
        yield f"  evidence  {item['sql']}"
        yield from (f"            {line}" for line in _evidence(item["rows"]))


def one_line(text: str) -> str:
    """Text without line ends, control characters and what is no character: what a foreign file is called or holds moves nothing
    on the terminal, and fits into any document."""
    return re.sub(rf"[{CONTROLS_CLASS}\ud800-\udfff\ufffe\uffff]", "?", text)


def _input_lines(inputs: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for item in inputs:
        yield f"  {item['status']:<9} {item['kind'] or '-':<18} {item['path']}{_why(item)}"
        members = item["facts"].get("members", [])
        unread = [member for member in members if member["status"] != "read"]
        yield from (f"    {line['status']:<9} {line['path']}{_why(line)}" for line in unread[:MEMBERS_SHOWN])
        if len(unread) > MEMBERS_SHOWN:
            yield f"    ... {len(unread) - MEMBERS_SHOWN} more members not read"


def _check_lines(checks: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for check in checks:
        job = f" job {check['job']}:" if check["job"] else ""
        untold = [each for each in check["missing"] if each not in check["detail"]]
        missing = f"   missing: {', '.join(untold)}" if untold else ""
        yield f"  {check['detector']}:{job} {check['detail']}{missing}"


def _section(title: str, lines: Iterable[str]) -> list[str]:
    listed = list(map(one_line, lines))
    return ["\n".join([title, *listed])] if listed else []


def _why(item: Mapping[str, Any]) -> str:
    reason = item["reason"]
    if not reason:
        return ""
    return f": {reason[: REASON_CHARS - 3]}..." if len(reason) > REASON_CHARS else f": {reason}"


def _evidence(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if rows:
        columns = list(rows[0])
        yield from grid([columns, *([_cell(row.get(name)) for name in columns] for row in rows[:EVIDENCE_ROWS_SHOWN])])
    if len(rows) > EVIDENCE_ROWS_SHOWN:
        yield f"... {len(rows) - EVIDENCE_ROWS_SHOWN} more rows"


def _cell(value: Any) -> str:
    text = UNKNOWN if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= CELL_CHARS else text[: CELL_CHARS - 3] + "..."


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
