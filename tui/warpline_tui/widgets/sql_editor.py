"""The editor of the SQL console, with what could come next below the cursor's word."""

from __future__ import annotations

from typing import Final

from rich.text import Text
from textual import events
from textual.binding import Binding
from textual.message import Message
from textual.reactive import reactive
from textual.widgets import Static, TextArea

from ..console.catalogue import Catalogue
from ..console.completion import Candidates, candidates, name_at

LISTED_MAX: Final = 6
"""Candidates in sight at once."""


class Completion(Static):
    """Candidates, the chosen one marked; gone where there are none."""

    DEFAULT_CSS = "Completion { height: auto; max-height: 8; padding: 0 1; background: $panel; }"
    found: reactive[Candidates] = reactive(Candidates)
    chosen: reactive[int] = reactive(0)

    def watch_found(self, found: Candidates) -> None:
        """Begin with the first."""
        self.chosen = 0
        self.display = bool(found.listed)
        self._write()

    def watch_chosen(self) -> None:
        """Mark it."""
        self._write()

    def _write(self) -> None:
        listed = self.found.listed
        first = max(min(self.chosen - LISTED_MAX // 2, len(listed) - LISTED_MAX), 0)
        shown = listed[first : first + LISTED_MAX]
        width = max((len(each.text) for each in shown), default=0)
        text = Text(no_wrap=True, overflow="ellipsis")
        for at, each in enumerate(shown, start=first):
            chosen = at == self.chosen
            text.append(f"{'▶' if chosen else ' '} {each.text:<{width}}", "bold reverse" if chosen else "bold")
            text.append(f"  {each.meaning}\n", "dim")
        text.append(f"tab takes it, ↑↓ choose, escape closes; {self.chosen + 1} of {len(listed)}", "italic dim")
        self.update(text)


class SqlEditor(TextArea):
    """Lines of SQL. Tells when completion has something else to say; `tab` without any goes on to the result."""

    BINDINGS = [
        Binding("ctrl+@,ctrl+space", "complete", "complete", show=False, id="sql.complete",
                tooltip="What could come here"),
        Binding("ctrl+up", "older", "older", show=False, id="sql.older", tooltip="The statement before"),
        Binding("ctrl+down", "newer", "newer", show=False, id="sql.newer", tooltip="The statement after"),
    ]  # fmt: skip

    class Older(Message):
        """Another statement of the history is wanted: by so many newer."""

        def __init__(self, by: int) -> None:
            super().__init__()
            self.by = by

    def __init__(self, text: str, completion: Completion, *, id: str) -> None:
        super().__init__(text, id=id, tab_behavior="focus", soft_wrap=True, show_line_numbers=False, compact=True)
        self.catalogue: Catalogue = {}
        self._completion = completion
        self._typing = False

    def action_complete(self) -> None:
        """Tell what could come here."""
        self._look(asked=True)

    def action_older(self) -> None:
        """The statement before."""
        self.post_message(self.Older(-1))

    def action_newer(self) -> None:
        """The statement after."""
        self.post_message(self.Older(1))

    def write(self, sql: str) -> None:
        """Other words, the cursor at their end."""
        self.text = sql
        self.move_cursor(self.document.end)
        self.close()

    def close(self) -> None:
        """No candidates."""
        self._completion.found = Candidates()

    @property
    def cursor(self) -> int:
        """Characters before the cursor."""
        return len(self.get_text_range((0, 0), self.cursor_location))

    @property
    def word(self) -> str:
        """The name that the cursor is in."""
        return name_at(self.text, self.cursor)

    async def _on_key(self, event: events.Key) -> None:
        if self._completion.found.listed and await self._completing(event):
            event.stop()
            event.prevent_default()
            return
        self._typing = event.is_printable or event.key == "backspace"
        await super()._on_key(event)

    async def _completing(self, event: events.Key) -> bool:
        if event.key in ("up", "down"):
            step = 1 if event.key == "down" else -1
            self._completion.chosen = (self._completion.chosen + step) % len(self._completion.found.listed)
        elif event.key == "tab":
            self._accept()
        elif event.key == "escape":
            self.close()
        else:
            return False
        return True

    def _accept(self) -> None:
        found = self._completion.found
        row, column = self.cursor_location
        self.close()
        self._typing = False
        self.replace(found.listed[self._completion.chosen].text, (row, column - found.typed), (row, column))
        self.move_cursor(self.cursor_location)

    def on_text_area_changed(self) -> None:
        """Letters were typed, or the text is another."""
        if self._typing:
            self._look(asked=False)
        else:
            self.close()

    def _look(self, asked: bool) -> None:
        self._completion.found = candidates(self.text, self.cursor, self.catalogue, asked=asked)
