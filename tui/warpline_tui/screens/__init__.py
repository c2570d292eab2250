"""Every screen by name, one line each; its module is loaded when somebody first goes there."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ..place import Place
    from .page import Page


@dataclass(frozen=True)
class Entry:
    """`screens/MODULE.py` has the page; `about` is what the help says.

    Where there are `keys`, they lead to it from everywhere; else it is of one thing (a node, a job), and a `Go` leads there.
    """

    module: str
    page: str
    about: str
    keys: str = ""

    def open(self, place: Place) -> Page[Any]:
        """A new page at `place`."""
        made: Page[Any] = getattr(import_module(f".{self.module}", __package__), self.page)(place)
        return made


SCREENS: Final = {
    "fleet": Entry("fleet", "FleetPage", "Every GPU and every rank", "1,F"),
    "incidents": Entry("incidents", "IncidentsPage", "What was found, with evidence and what to do", "2,I"),
    "incident": Entry("incident", "IncidentPage", "One incident as a walk, from the verdict to what to do"),
    "kernels": Entry("kernels", "KernelsPage", "Where the GPU time of a rank goes", "3,K"),
    "sources": Entry("sources", "SourcesPage", "What is read, and what is missing", "4,S"),
    "timeline": Entry("timeline", "TimelinePage", "What a rank did when: steps, kernels, collectives", "6,T"),
    "job": Entry("job", "JobPage", "One job: iteration times, ranks, groups, collectives, energy", "8,J"),
    "node": Entry("node", "NodePage", "One node: GPUs, programs, links, log, agent", "7,N"),
    "sql": Entry("sql", "SqlPage", "Ask the store in SQL", "9,colon"),
    "power": Entry("power", "PowerPage", "What is drawn, what for, and by whom", "5,P"),
}
