"""What the command palette finds: screens, nodes, jobs, ranks and incidents."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final, Protocol, runtime_checkable

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.markup import escape
from textual.style import Style

from .place import Go, Place
from .screens import SCREENS
from .views.names import Names

HITS_MAX: Final = 40
Found = tuple[str, str, Place]
"""What it is called, what it is, and where it leads."""


@runtime_checkable
class Named(Protocol):
    """An app that knows what there is."""

    async def names(self) -> Names:
        """Asked off the screen's thread; empty where they cannot be had."""
        ...


class Places(Provider):
    """Searches names for all the words that are typed, in any order."""

    async def startup(self) -> None:
        """Ask for the names once, when the palette opens."""
        self._names = await self.app.names() if isinstance(self.app, Named) else Names()

    async def discover(self) -> Hits:
        """Screens, before anything is typed."""
        for name, about, place in _screens():
            yield DiscoveryHit(name, partial(self._go, place), help=about)

    async def search(self, query: str) -> Hits:
        """The first that have all the words."""
        words = query.lower().split()
        style = self.matcher(query).match_style
        found = 0
        for name, about, place in self._all():
            lowered = name.lower()
            if all(word in lowered for word in words):
                shown = _marked(name, words, style)
                yield Hit(1.0 / (1 + len(name)), shown, partial(self._go, place), text=name, help=escape(about))
                found += 1
                if found == HITS_MAX:
                    return

    def _all(self) -> Iterator[Found]:
        names = self._names
        yield from _screens()
        for finding, state, summary in names.incidents:
            yield f"incident {finding} {summary}", state, Place("incident", incident=finding)
        for job in names.jobs:
            yield f"job {job}", "Its iteration time, phases and communicators", Place("job", job=job)
        for node in names.nodes:
            yield f"node {node}", "Its GPUs, links and agent", Place("node", node=node)
        for job, rank in names.ranks:
            yield f"rank {rank} of {job}", "Where its time goes", Place("kernels", job=job, rank=rank)

    def _go(self, place: Place) -> None:
        self.app.post_message(Go(place))


def _marked(name: str, words: list[str], style: Style) -> Content:
    """A name with what was typed of it; its brackets are no markup."""
    shown, lowered = Content(name), name.lower()
    for word in words:
        shown = shown.stylize(style, lowered.index(word), lowered.index(word) + len(word))
    return shown


def _screens() -> Iterator[Found]:
    for name, entry in SCREENS.items():
        if entry.keys:
            yield name, entry.about, Place(name)
