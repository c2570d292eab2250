"""The line in which one types what is to be left in a table: open with `/`, narrowing with each letter."""

from __future__ import annotations

from typing import Final

from textual.binding import Binding
from textual.widgets import Input

CHARACTERS_MAX: Final = 200
HINT: Final = "only what has these words; enter keeps it, escape shows everything"


class Filter(Input):
    """Hidden until `open`. Enter leaves it in force and goes back to the table, escape takes it away.

    Listen to its `Input.Changed`; `Input.Submitted` says that the table should have the keys again.
    """

    BINDINGS = [Binding("escape", "drop", "all again", show=False, id="filter.drop", tooltip="Show everything again")]

    DEFAULT_CSS = """
    Filter {
        display: none;
        height: 1;
        border: none;
        padding: 0 1;
    }
    Filter.open {
        display: block;
    }
    Filter:focus {
        border: none;
        height: 1;
    }
    """

    def __init__(self, hint: str = HINT, *, id: str = "filter") -> None:
        super().__init__(placeholder=hint, id=id, compact=True)
        self.max_length = CHARACTERS_MAX

    def open(self) -> None:
        """Show it and type into it."""
        self.add_class("open")
        self.focus()

    def action_drop(self) -> None:
        """Empty, hidden, and done with."""
        self.value = ""
        self.remove_class("open")
        self.post_message(self.Submitted(self, ""))

    def on_input_submitted(self) -> None:
        """Hidden where nothing was typed."""
        self.set_class(bool(self.value), "open")


def has(words: str, *texts: str | None) -> bool:
    """Whether each of the words is in one of the texts, whatever the case; everything has no words."""
    there = "\n".join(text for text in texts if text).lower()
    return all(word in there for word in words.lower().split())
