"""Rows of `guard_actions` as the guard and those who restore after it write them."""

from __future__ import annotations

from typing import Any

from .record import Entry

Row = dict[str, Any]
LOWER = "lower"
RESTORE = "restore"
REFUSE = "refuse"
BACK_OFF = "back_off"


def restored_after(entry: Entry, now_ns: int, reason: str, call_ns: int) -> Row:
    """A restore by another than the guard that lowered: what was saved and paid is not known."""
    return {
        "gpu_uuid": entry.gpu_uuid,
        "gpu_index": entry.gpu_index,
        "time_ns": now_ns,
        "action": RESTORE,
        "dry_run": False,
        "reason": reason,
        "call_ns": call_ns,
        "lowered_seconds": max(0.0, (now_ns - entry.since_ns) / 1e9),
    }
