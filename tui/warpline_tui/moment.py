"""The prompt that asks which moment to go to."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from warpline_proto.errors import ConfigError

from .travel import moment_ns
from .words import moment

HINT = "-15m, -2h, 14:05 or 2026-01-31T12:00:00, in UTC. Enter goes there, escape leaves it."


class MomentPrompt(ModalScreen[int | None]):
    """Gives the moment, ns since the epoch, or None."""

    BINDINGS = [Binding("escape", "dismiss(None)", "leave it", id="moment.leave", tooltip="Go nowhere")]

    def __init__(self, now_ns: int) -> None:
        super().__init__()
        self._now_ns = now_ns

    def compose(self) -> ComposeResult:
        """A line to write on, and a hint."""
        with Vertical(id="prompt"):
            yield Static(f"Go to which moment? It is {moment(self._now_ns)}.")
            yield Input(placeholder="-15m", id="moment")
            yield Static(HINT, id="hint")

    @on(Input.Submitted, "#moment")
    def submitted(self, event: Input.Submitted) -> None:
        """Go there, or say what is wrong."""
        try:
            self.dismiss(moment_ns(event.value, self._now_ns))
        except ConfigError as error:
            self.query_one("#hint", Static).update(str(error))
