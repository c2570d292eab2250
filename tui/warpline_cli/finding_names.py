"""Which finding is meant by what somebody typed: the beginning of an identifier is enough where one has it."""

from __future__ import annotations

import difflib
from typing import Final

from warpline_proto.errors import ConfigError
from warpline_proto.finding import GRAVITY, OPEN
from warpline_tui.words import accused

from . import states
from .asking import Query, text

COUNTED_MAX: Final = 50
"""Findings that begin with what was typed are counted up to so many."""
NAMED_MAX: Final = 4
LIKENESS: Final = 0.4
"""An identifier at least so much like what was typed is named (0 to 1)."""


def identifier(query: Query, wanted: str) -> str:
    """The identifier that is `wanted`, or alone begins so; ConfigError with the nearest where there is none, or more than one."""
    beginning = (
        f"SELECT DISTINCT id FROM findings WHERE starts_with(id, {text(wanted)}) ORDER BY id LIMIT {COUNTED_MAX}"
    )
    found: list[str] = query(beginning)["id"].to_pylist()
    if wanted in found:
        return wanted
    if len(found) > 1:
        names = ", ".join(found[:NAMED_MAX])
        many = f"{len(found)}{' or more' * (len(found) == COUNTED_MAX)}"
        raise ConfigError(f"{many} findings begin with {wanted!r}", f"{names}{', ...' * (len(found) > NAMED_MAX)}")
    if not found:
        raise ConfigError(f"there is no finding {wanted!r}", _nearest(query, wanted))
    return found[0]


def _nearest(query: Query, wanted: str) -> str:
    """Open findings whose identifiers are like what was typed, else the gravest ones; in words."""
    asked = f"SELECT {states.COLUMNS} FROM findings {states.NEWEST} AND state = '{OPEN}' ORDER BY updated_ns DESC LIMIT 1000"
    known = states.read(query(asked).to_pylist())
    if not known:
        return "none is open: `warpline findings --all` lists those that are over"
    known.sort(key=lambda state: GRAVITY[state.finding.severity])
    named = {state.finding.id: accused(state.finding.subject) for state in known}
    like = difflib.get_close_matches(wanted, list(named), NAMED_MAX, LIKENESS) or list(named)[:NAMED_MAX]
    return "open now: " + "; ".join(f"{name} ({named[name]})" for name in like)
