"""What every screen has: a title line with verdict and age of the data, its own content, and the keys below."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.reactive import reactive
from textual.screen import Screen
from textual.widgets import Footer

from ..snapshot import Snapshot
from ..widgets.status import Status


class Page(Screen[None]):
    """A screen that is redrawn whenever `snapshot` is set; it asks nobody for anything."""

    snapshot: reactive[Snapshot] = reactive(Snapshot, init=False)

    def compose(self) -> ComposeResult:
        """Status above, content between, keys below."""
        yield Status()
        yield from self.content()
        yield Footer()

    def content(self) -> ComposeResult:
        """The widgets of this screen."""
        yield from ()

    def draw(self, snapshot: Snapshot) -> None:
        """Bring the widgets up to `snapshot`."""

    def watch_snapshot(self, snapshot: Snapshot) -> None:
        """A new snapshot arrived."""
        self.query_one(Status).snapshot = snapshot
        self.draw(snapshot)
