"""Findings, checks and inputs as plain text for somebody who was just woken up: the verdict first, then what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

EVIDENCE_ROWS_SHOWN: Final = 6
MEMBERS_SHOWN: Final = 12
CELL_CHARS: Final = 28
REASON_CHARS: Final = 200
_ORDER: Final = {"critical": 0, "warning": 1, "info": 2}
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
    return sorted(findings, key=lambda finding: (_ORDER[finding["severity"]], -finding["confidence"], finding["id"]))


def finding_lines(finding: Mapping[str, Any]) -> Iterator[str]:
    """One finding in its published form."""
    return map(one_line, _finding_lines(finding))


def _finding_lines(finding: Mapping[str, Any]) -> Iterator[str]:
    yield f"[{finding['severity']}] {finding['kind']}: {subject(finding['subject'])}   confidence {finding['confidence']:.2f}"
    yield f"  {finding['summary']}"
    yield f"  since     {since(finding['onset'])}"
    yield f"  cost      {cost(finding['cost'])}"
    yield f"  do now    {finding['next_step']}"
    for words in finding["ruled_out"]:
        yield f"  not       {words}"
    for words in finding["missing"]:
        yield f"  missing   {words}"
    for item in finding["evidence"]:
        yield f"  evidence  {item['sql']}"
        yield from (f"            {line}" for line in grid(item["rows"], EVIDENCE_ROWS_SHOWN))


def subject(named: Mapping[str, Any]) -> str:
    """Who: `rank 3, stage 0 of job AR-2759`."""
    parts = [str(named["group"])] if "group" in named else []
    parts += [f"{key} {value}" for key, value in named.items() if key not in ("job", "group")]
    whole = ", ".join(parts) or "the whole job"
    return f"{whole} of job {named['job']}" if "job" in named else whole


def since(onset: Mapping[str, Any]) -> str:
    """Since when, as far as it is known."""
    step = f"step {onset['step']}" if onset["step"] is not None else None
    moment = onset["time_ns"]
    when = datetime.fromtimestamp(moment / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if moment is not None else None
    return ", ".join(word for word in (when, step) if word) or "not known: no clock in the data"


def cost(lost: Mapping[str, Any]) -> str:
    """What it costs, as far as it is known."""
    units = (("seconds_per_step", "s each step"), ("gpu_hours", "GPU-hours so far"), ("joules", "J so far"))
    known = [f"{lost[key]:,.3g} {unit}" for key, unit in units if lost[key] is not None]
    return ", ".join(known) or "not known"


def grid(rows: Sequence[Mapping[str, Any]], most: int) -> Iterator[str]:
    """Rows as aligned columns, cut at `most`."""
    if not rows:
        return
    columns = list(rows[0])
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows[:most])]
    widths = [max(len(row[position]) for row in cells) for position in range(len(columns))]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if len(rows) > most:
        yield f"... {len(rows) - most} more rows"


def one_line(text: str) -> str:
    """Text without line ends and control characters: what a foreign file is called or holds moves nothing on the terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "?", text)


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


def _cell(value: Any) -> str:
    text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= CELL_CHARS else text[: CELL_CHARS - 3] + "..."


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
