"""The help: every key, those that work here first, with what it does and the id by which it is given another key."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from .bindings import Group

REMAP = 'Another key: `"ID" = "KEY"` under [tui.keys] of the settings file, e.g. "fleet.search" = "s".'


class Help(ModalScreen[None]):
    """Groups of bindings; `shown` gives the keys of one as they are written on keyboards."""

    BINDINGS = [
        Binding("escape,question_mark,q", "dismiss", "close", id="help.close", tooltip="Close the help"),
        Binding("j,down", "scroll(1)", "down", show=False, id="help.down", tooltip="Further down"),
        Binding("k,up", "scroll(-1)", "up", show=False, id="help.up", tooltip="Further up"),
    ]

    def __init__(self, groups: Iterable[Group], shown: Callable[[Binding], str]) -> None:
        super().__init__()
        self._groups = tuple(groups)
        self._shown = shown

    def compose(self) -> ComposeResult:
        """One text that scrolls."""
        with VerticalScroll(id="help"):
            yield Static(self._table())

    def action_scroll(self, by: int) -> None:
        """So many lines."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(ratio=1)
        table.add_column(style="dim", no_wrap=True, overflow="ellipsis")
        table.add_row("", Text("escape closes the help, j and k scroll", "dim"), "")
        for group in self._groups:
            table.add_row("", "", "")
            table.add_row("", Text(group.name.upper(), "bold"), "")
            for binding in group.bindings:
                about = Text(binding.tooltip or binding.description)
                table.add_row(Text(self._shown(binding), "bold"), about, binding.id or "")
        table.add_row("", "", "")
        table.add_row("", Text(REMAP, "dim"), "")
        return table
