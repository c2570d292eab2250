"""Where things stand in a store: its findings with their life, and why there are none, where there are none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.finding import GRAVITY, OPEN, Verdict
from warpline_tui.words import age

from .asking import Query
from .findings_text import finding_lines, one_line
from .json_keys import LIFE

FINDINGS_MAX: Final = 1_000
"""Findings asked for at once."""
CHECK_AGE_NS: Final = 10 * 60 * 10**9
"""Answers older than this before the newest pass speak of jobs that are gone."""
STALE_NS: Final = 120 * 10**9
_OPEN: Final = f"SELECT document, state, opened_ns, updated_ns, alarms FROM current_findings LIMIT {FINDINGS_MAX}"
_ALL: Final = f"""
SELECT document, state, opened_ns, updated_ns, alarms FROM findings
QUALIFY row_number() OVER (PARTITION BY id ORDER BY updated_ns DESC) = 1
ORDER BY updated_ns DESC LIMIT {FINDINGS_MAX}
"""
_ANSWERS: Final = "SELECT subject, state, reason, time_ns FROM source_state WHERE source = 'analysis' ORDER BY subject"
_LOOKS: Final = f"""
SELECT reason, what, rank, node, state, detail FROM current_captures ORDER BY requested_ns DESC, rank LIMIT {FINDINGS_MAX}
"""
_ARRIVED: Final = {"requested": "requested", "sent": "requested, its agent is at it", "done": "arrived"}
_PASS: Final = "pass"


@dataclass(frozen=True)
class Known:
    """What the store says: finding documents with their life, answers without an accusation, the newest pass."""

    findings: Sequence[Mapping[str, Any]]
    healthy: Sequence[Mapping[str, Any]]
    unknown: Sequence[Mapping[str, Any]]
    pass_ns: int | None
    pass_failed: str | None

    @property
    def verdict(self) -> Verdict:
        """Worst open finding; healthy if the last pass judged something and found nothing; else unknown."""
        severities = {finding["severity"] for finding in self.findings if finding["state"] == OPEN}
        if severities & {"critical", "warning"}:
            return Verdict.CRITICAL if "critical" in severities else Verdict.WARNING
        judged = bool(self.healthy) and self.pass_failed is None
        return Verdict.HEALTHY if severities or judged else Verdict.UNKNOWN

    def to_json(self) -> dict[str, Any]:
        """The published form."""
        return {
            "verdict": str(self.verdict),
            "analysed_ns": self.pass_ns,
            "findings": list(self.findings),
            "healthy": [{"question": item["subject"], "answer": item["reason"]} for item in self.healthy],
            "unknown": [{"question": item["subject"], "answer": item["reason"]} for item in self.unknown],
        }


def take(query: Query, *, resolved: bool = False) -> Known:
    """Ask the store; findings gravest first, then the oldest."""
    findings = [
        json.loads(row["document"]) | {key: row[key] for key in LIFE}
        for row in query(_ALL if resolved else _OPEN).to_pylist()
    ]
    looks = query(_LOOKS).to_pylist()
    for finding in findings:
        found = [look for look in looks if look["reason"] == finding["id"]]
        if found:
            finding["closer_look"] = [{key: look[key] for key in look if key != "reason"} for look in found]
    findings.sort(key=lambda item: (item["state"] != OPEN, GRAVITY[item["severity"]], item["opened_ns"]))
    answers: list[dict[str, Any]] = query(_ANSWERS).to_pylist()
    passes = [item for item in answers if item["subject"] == _PASS]
    pass_ns = passes[0]["time_ns"] if passes else None
    recent = [item for item in answers if item["subject"] != _PASS and item["time_ns"] >= (pass_ns or 0) - CHECK_AGE_NS]
    return Known(
        findings=findings,
        healthy=[item for item in recent if item["state"] == "fresh"],
        unknown=[item for item in recent if item["state"] != "fresh"],
        pass_ns=pass_ns,
        pass_failed=passes[0]["reason"] if passes and passes[0]["state"] != "fresh" else None,
    )


def text(known: Known, now_ns: int) -> str:
    """What an operator reads."""
    blocks = [_block(finding, now_ns) for finding in known.findings]
    if not any(finding["state"] == OPEN for finding in known.findings):
        blocks.append(_nothing(known))
    if known.pass_failed is not None:
        blocks.append(one_line(f"The last analysis pass failed: {known.pass_failed}"))
    elif known.pass_ns is not None and now_ns - known.pass_ns > STALE_NS:
        blocks.append(f"The last analysis pass was {age(known.pass_ns, now_ns)}.")
    return "\n\n".join(blocks) + "\n"


def _block(finding: Mapping[str, Any], now_ns: int) -> str:
    lines = list(finding_lines(finding))
    life = f"opened {age(finding['opened_ns'], now_ns)}"
    if finding["state"] != OPEN:
        life += f", {finding['state'].upper()} {age(finding['updated_ns'], now_ns)}"
    lines.insert(2, f"  state     {life}")
    lines.insert(2, f"  id        {one_line(finding['id'])}")
    lines += map(one_line, _looks(finding.get("closer_look", ())))
    return "\n".join(lines)


def _looks(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What became of each request to look closer."""
    for look in found:
        detail = f": {look['detail']}" if look["detail"] else ""
        state = _ARRIVED.get(look["state"], look["state"])
        yield f"  closer    {look['what']} of rank {look['rank']} on {look['node']}: {state}{detail}"


def _nothing(known: Known) -> str:
    missing = [one_line(f"  {item['subject']}: {item['reason']}") for item in known.unknown]
    if known.healthy and known.pass_failed is None:
        lines = [f"Nothing is wrong: {len(known.healthy)} questions asked, nobody accused."]
        lines += [one_line(f"  {item['subject']}: {item['reason']}") for item in known.healthy]
        return "\n".join(lines + (["Could not be told:", *missing] if missing else []))
    if missing:
        return "\n".join(["Nobody could tell whether something is wrong:", *missing])
    if known.pass_failed is not None:
        return "Nobody could tell whether something is wrong."
    if known.pass_ns is None:
        return "Nobody could tell: no analysis has run over this store yet."
    return "Nobody could tell: the analysis ran, and found no rows it could judge."
