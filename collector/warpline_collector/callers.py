"""Who calls the collector: a role, a name, and for an agent the one node that it speaks for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """What a caller may do; each stands in the caller's certificate."""

    AGENT = "agent"
    """Pushes rows of its own node, and hears what is asked of it."""
    VIEWER = "viewer"
    """Reads: questions and status."""
    OPERATOR = "operator"
    """Reads, and asks agents to look closer."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller. `node` is the node an agent speaks for, None for people; `name` is empty where nobody was asked for it."""

    name: str
    role: Role
    node: str | None = None


LOCAL: Final = Caller("", Role.OPERATOR)
"""Whoever comes without a certificate where none is asked for: over loopback or a unix socket."""
