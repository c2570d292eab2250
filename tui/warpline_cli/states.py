"""Findings with their life, out of rows of table `findings`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from warpline_proto.finding import FindingState, from_json

COLUMNS: Final = "document, state, opened_ns, updated_ns, detector, alarms"
NEWEST: Final = "QUALIFY row_number() OVER (PARTITION BY id ORDER BY updated_ns DESC) = 1"
"""SQL: of each finding its newest state."""


def read(rows: list[dict[str, Any]]) -> list[FindingState]:
    """Those that this version can read: another one may have written them in a form of its own."""
    return [state for row in rows if (state := _read(row)) is not None]


def _read(row: Mapping[str, Any]) -> FindingState | None:
    try:
        finding = from_json(json.loads(row["document"]))
    except (KeyError, TypeError, ValueError):
        return None
    life = (row["state"], row["opened_ns"], row["updated_ns"], row["detector"], row["alarms"])
    return FindingState(finding, *life)
