"""What the findings screen shows: the newest state of each finding."""

from __future__ import annotations

from dataclasses import dataclass

from ..incident import Incident, newest
from ..view import Ask


@dataclass(frozen=True)
class Findings:
    """The last changed first."""

    incidents: tuple[Incident, ...] = ()


@dataclass(frozen=True)
class FindingsView:
    """All that are kept, to a bound."""

    def take(self, ask: Ask) -> Findings:
        """Ask for them."""
        return Findings(newest(ask))
