"""A table that keeps cursor and scroll where they are while its rows are replaced at each refresh."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.binding import Binding
from textual.widgets import DataTable

Cell = str | Text


class LiveTable(DataTable[Text]):
    """Rows by key. Cells are rewritten in place when keys and order are unchanged, which does not move the cursor."""

    BINDINGS = [
        Binding("down,j", "cursor_down", "down", show=False, id="table.down", tooltip="The row below"),
        Binding("up,k", "cursor_up", "up", show=False, id="table.up", tooltip="The row above"),
        Binding("g", "scroll_top", "first", show=False, id="table.first", tooltip="The first row"),
        Binding("G", "scroll_bottom", "last", show=False, id="table.last", tooltip="The last row"),
    ]

    def __init__(self, columns: Sequence[str], *, id: str) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=True)
        self._names = tuple(columns)

    def on_mount(self) -> None:
        """Put up the heading."""
        for name in self._names:
            self.add_column(Text(name), key=name)

    def head(self, columns: Sequence[str]) -> None:
        """Put up another heading; rows go where it differs."""
        if tuple(columns) != self._names:
            self._names = tuple(columns)
            self.clear(columns=True)
            self.on_mount()

    def show(self, rows: Sequence[tuple[str, Sequence[Cell]]]) -> None:
        """Draw (key, cells) rows, of those of one key the last; brackets in a cell are brackets, no markup."""
        self._show(list({key: list(map(_text, cells)) for key, cells in rows}.items()))

    def _show(self, rows: Sequence[tuple[str, Sequence[Text]]]) -> None:
        if [key for key, _ in rows] == [str(key.value) for key in self.rows]:
            for key, cells in rows:
                for name, cell in zip(self._names, cells, strict=True):
                    if self.get_cell(key, name) != cell:
                        self.update_cell(key, name, cell, update_width=True)
            return
        selected = self.selected_key
        self.clear()
        for key, cells in rows:
            self.add_row(*cells, key=key)
        if selected is not None and selected in {key for key, _ in rows}:
            self.move_cursor(row=self.get_row_index(selected), animate=False)

    def watch_virtual_size(self) -> None:
        """Draw anew when the columns were measured: a DataTable measures when it is idle, and keeps lines drawn before that."""
        self.notify_style_update()

    @property
    def selected_key(self) -> str | None:
        """Key of the row under the cursor."""
        if not self.is_valid_coordinate(self.cursor_coordinate):
            return None
        value = self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value
        return None if value is None else str(value)


def _text(cell: Cell) -> Text:
    return Text(cell, no_wrap=True, end="") if isinstance(cell, str) else cell
