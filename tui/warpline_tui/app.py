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
from .screens.power import PowerScreen
from .snapshot import RankKey, Snapshot, Wanted

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
        self._rank: RankKey | None = None
        self._latest = Snapshot()
        self._asked: Wanted | None = None

    def on_mount(self) -> None:
        """Go to the first screen and start asking."""
        self.switch_mode(self._first)
        self.set_interval(REFRESH_SECONDS, self.ask)
        self.ask()

    async def action_show(self, name: str) -> None:
        """Go to a screen, draw what is known already, and ask for what it wants."""
        await self.switch_mode(name)
        self._draw()
        self.ask()

    @on(KernelsScreen.Selected)
    def selected(self, message: KernelsScreen.Selected) -> None:
        """Another rank's kernels are wanted."""
        self._rank = message.key
        self.ask()

    @on(PowerScreen.Grouped)
    def grouped(self) -> None:
        """Power is to be told by something else."""
        self.ask()

    def ask(self) -> None:
        """Take a snapshot unless one is on its way."""
        if self._asked is None:
            self._asked = self._wanted()
            self._take(self._asked)

    def _wanted(self) -> Wanted:
        """What is looked at now."""
        return Wanted(self._rank, self.screen.by if isinstance(self.screen, PowerScreen) else None)

    @work(thread=True)
    def _take(self, wanted: Wanted) -> None:
        snapshot = self._feed.take(wanted)
        if not get_current_worker().is_cancelled:
            self.call_from_thread(self._arrived, snapshot)

    def _arrived(self, snapshot: Snapshot) -> None:
        asked, self._asked = self._asked, None
        self._latest = snapshot
        self._draw()
        if asked != self._wanted():
            self.ask()

    def _draw(self) -> None:
        if isinstance(self.screen, Page) and self.screen.is_mounted:
            self.screen.snapshot = self._latest
