"""A line to write on, with a question above it and a hint below."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static


class LinePrompt(ModalScreen[str | None]):
    """Gives what was written, None where it was left."""

    BINDINGS = [Binding("escape", "dismiss(None)", "leave it", id="prompt.leave", tooltip="Change nothing")]

    def __init__(self, question: str, hint: str, written: str = "") -> None:
        super().__init__()
        self._question = question
        self._hint = hint
        self._written = written

    def compose(self) -> ComposeResult:
        """A line to write on, and a hint."""
        with Vertical(id="prompt"):
            yield Static(self._question, markup=False)
            yield Input(self._written, id="line")
            yield Static(self._hint, id="hint", markup=False)

    @on(Input.Submitted, "#line")
    def submitted(self, event: Input.Submitted) -> None:
        """That is it."""
        self.dismiss(event.value.strip())
