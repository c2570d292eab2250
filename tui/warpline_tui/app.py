"""The app: screens and keys, and the one worker that takes snapshots off the screen's thread."""

from __future__ import annotations

from textual import on, work
from textual.app import App
from textual.binding import Binding
from textual.worker import get_current_worker

from .feed import Feed
from .screens import SCREENS
from .screens.kernels import KernelsScreen
from .screens.page import Page
from .snapshot import RankKey, Snapshot

REFRESH_SECONDS = 1.0
FIRST_SCREEN = "fleet"


class WarplineApp(App[None]):
    """Shows what `feed` gives, once a second; a slow answer makes the data older, never the keys slower."""

    TITLE = "warpline"
    CSS_PATH = "app.tcss"
    MODES = dict(SCREENS)
    BINDINGS = [
        *(
            Binding(str(place), f"show('{name}')", name, id=f"show.{name}", tooltip=f"Go to {name}")
            for place, name in enumerate(SCREENS, start=1)
        ),
        Binding("question_mark", "show_help_panel", "help", id="help", tooltip="Every key"),
        Binding("q", "quit", "quit", id="quit", tooltip="Leave"),
    ]

    def __init__(self, feed: Feed, first: str = FIRST_SCREEN) -> None:
        super().__init__()
        self._feed = feed
        self._first = first
        self._selected: RankKey | None = None
        self._latest = Snapshot()
        self._asking = False

    def on_mount(self) -> None:
        """Go to the first screen and start asking."""
        self.switch_mode(self._first)
        self.set_interval(REFRESH_SECONDS, self.ask)
        self.ask()

    async def action_show(self, name: str) -> None:
        """Go to a screen and draw what is known already."""
        await self.switch_mode(name)
        self._draw()

    @on(KernelsScreen.Selected)
    def selected(self, message: KernelsScreen.Selected) -> None:
        """Another rank's kernels are wanted."""
        self._selected = message.key
        self.ask()

    def ask(self) -> None:
        """Take a snapshot unless one is on its way."""
        if not self._asking:
            self._asking = True
            self._take()

    @work(thread=True)
    def _take(self) -> None:
        snapshot = self._feed.take(self._selected)
        if not get_current_worker().is_cancelled:
            self.call_from_thread(self._arrived, snapshot)

    def _arrived(self, snapshot: Snapshot) -> None:
        self._asking = False
        self._latest = snapshot
        self._draw()
        if self._selected is not None and snapshot.selected != self._selected and snapshot.error is None:
            self.ask()

    def _draw(self) -> None:
        if isinstance(self.screen, Page) and self.screen.is_mounted:
            self.screen.snapshot = self._latest
