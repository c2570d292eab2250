"""What became of one recorded file: read, refused or set aside, and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from warpline_proto.errors import Reference, Refused

from ..scrub import scrub

READ: Final = "read"
REFUSED: Final = "refused"
REFERENCE: Final = "reference"
REFERENCE_REASON: Final = "reference answer, set aside unread"


@dataclass
class InputReport:
    """What became of one file: `status` is read, refused or reference; `kind` the format that took it or what it looks like.

    `facts` are counts, times and versions worth showing, JSON throughout. An archive is one report, with `facts["members"]`
    listing path, kind, status and reason of each member; so is a folder that a tree format reads as a whole.
    """

    path: str
    kind: str | None
    status: str
    reason: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The published form."""
        return {
            "path": self.path, "kind": self.kind, "status": self.status, "reason": self.reason, "facts": self.facts,
        }  # fmt: skip


def refuse(report: InputReport, error: Refused) -> None:
    """Write into the report why its file was not read."""
    report.status = REFERENCE if isinstance(error, Reference) else REFUSED
    report.reason = scrub(str(error))


def member_line(name: str, inner: InputReport) -> dict[str, Any]:
    """The line for one member in the report of its archive."""
    return {"path": name, "kind": inner.kind, "status": inner.status, "reason": inner.reason}


def sum_up(report: InputReport, lines: Sequence[dict[str, Any]]) -> None:
    """An archive is read if one member is; else it is refused for what its members were refused for."""
    counts = Counter(line["status"] for line in lines)
    if counts[READ]:
        kinds = sorted({line["kind"] for line in lines if line["status"] == READ})
        report.kind = kinds[0] if len(kinds) == 1 else report.kind
        if len(lines) > counts[READ]:
            report.reason = f"{counts[READ]} of {len(lines)} members read"
        return
    report.status = REFERENCE if lines and counts[REFERENCE] == len(lines) else REFUSED
    reasons = list(dict.fromkeys(line["reason"] for line in lines))
    report.reason = f"no member is read: {'; '.join(reasons[:3])}" if reasons else "empty archive"


def say(report: InputReport, line: dict[str, Any] | None, words: str) -> None:
    """Add words to the reason, of the member's line where there is one."""
    words = scrub(words)
    if line is not None:
        line["reason"] = f"{line['reason']}; {words}" if line["reason"] else words
    else:
        report.reason = f"{report.reason}; {words}" if report.reason else words


def plain(value: Any) -> Any:
    """Facts as plain JSON without secrets: whatever has no JSON form becomes text."""
    if isinstance(value, dict):
        return {scrub(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value, key=str) if isinstance(value, (set, frozenset)) else value)]
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return scrub(str(value))
