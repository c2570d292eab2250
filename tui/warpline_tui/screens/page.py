"""What every screen has: a status line on top, its own content, and the keys below; it says what it wants, and draws it."""

from __future__ import annotations

from typing import Generic, TypeVar

from textual.app import ComposeResult
from textual.message import Message
from textual.screen import Screen

from ..place import Place
from ..view import View
from ..widgets.keys import Keys
from ..widgets.status import Status

Shown = TypeVar("Shown")


class Wants(Message):
    """A page wants something else than before, or came to the front; whoever feeds it should ask soon."""


class Page(Screen[None], Generic[Shown]):
    """A screen at a place. It asks nobody for anything: the app asks `wanted()` and hands the answer to `show`.

    Write `wanted` and `draw`, and call `want` when what the user chose changes. `shown` is the last answer, None before any.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.shown: Shown | None = None
        self.failure: Exception | None = None
        """What the last answer could not be drawn for, None where it was."""

    def compose(self) -> ComposeResult:
        """Status above, content between, keys below."""
        yield Status()
        yield from self.content()
        yield Keys()

    def content(self) -> ComposeResult:
        """The widgets of this screen."""
        yield from ()

    def wanted(self) -> View[Shown]:
        """What is to be asked for now; frozen, compared by its fields."""
        raise NotImplementedError

    def draw(self, shown: Shown) -> None:
        """Bring the widgets up to an answer."""
        raise NotImplementedError

    def want(self) -> None:
        """Say that something else is wanted now."""
        self.post_message(Wants())

    @property
    def is_whole(self) -> bool:
        """Whether its widgets are there: they are made after it, and while the app ends they go before it."""
        return self.is_mounted and bool(self.query(Status))

    def show(self, shown: Shown) -> None:
        """An answer arrived."""
        self.shown = shown
        if self.is_whole:
            self._drawn(shown)

    def on_mount(self) -> None:
        """Draw what arrived before there were widgets."""
        if self.shown is not None:
            self._drawn(self.shown)

    def _drawn(self, shown: Shown) -> None:
        self.failure = None
        try:
            self.draw(shown)
        except Exception as failure:  # the rim: one page must not end a screen left open for days
            self.failure = failure

    def on_screen_resume(self) -> None:
        """It came to the front."""
        self.want()
