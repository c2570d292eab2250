"""The SQL console: an editor that knows what can be asked for, and the rows of what was asked."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import Static

from ..console import history
from ..console.catalogue import described, listed
from ..console.completion import relations
from ..console.texts import COPY_BYTES_MAX, plain, written
from ..place import Place, Stop
from ..prompt import LinePrompt
from ..views.sql import Answered, Result, SqlView
from ..widgets.result_grid import ResultGrid
from ..widgets.sql_editor import Completion, SqlEditor
from .page import Page

FILE_NAME: Final = "result.csv"
TELL_SECONDS: Final = 0.5
"""Between two words on how long it takes."""
VALUE_CHARS_MAX: Final = 1_000
WELCOME: Final = "What can be asked for. F2 tells the columns of the name under the cursor, F5 runs a SELECT."


class SqlPage(Page[Answered]):
    """Statement above, rows below. A statement runs once, when it is told to; nothing here runs again by itself."""

    BINDINGS = [
        Binding("f5,ctrl+enter", "run", "run", key_display="F5", id="sql.run", tooltip="Run the statement (ctrl+enter too)"),
        Binding("f2", "describe", "columns", key_display="F2", id="sql.describe", tooltip="Columns of the name under the cursor"),
        Binding("f4", "stop", "stop", key_display="F4", id="sql.stop", tooltip="End the statement that runs"),
        Binding("f3", "copy('sql')", "copy SQL", key_display="F3", id="sql.copy", tooltip="Copy the statement"),
        Binding("y", "copy('sql')", "copy SQL", show=False, id="sql.copy_short", tooltip="Copy the statement"),
        Binding("t", "copy('tsv')", "TSV", id="sql.copy_tsv", tooltip="Copy the rows as TSV, once the cursor is in them"),
        Binding("c", "copy('csv')", "CSV", id="sql.copy_csv", tooltip="Copy the rows as CSV, once the cursor is in them"),
        Binding("escape", "app.back", "back", key_display="esc", id="sql.back", tooltip="Go back to where you came from"),
        Binding("e", "edit", "edit", show=False, id="sql.edit", tooltip="Back to the statement"),
        Binding("f9", "save", "save", key_display="F9", id="sql.save", tooltip="Save the rows as CSV or TSV"),
    ]  # fmt: skip
    CSS = """
    #statement { height: 30%; min-height: 4; border: none; padding: 0 1; }
    #said { height: auto; max-height: 5; padding: 0 1; background: $panel; }
    #value { height: auto; max-height: 6; padding: 0 1; }
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._number = 0
        self._asked: str | None = None
        self._waited = 0.0
        self._result: Result | None = None
        self._history: list[str] = []
        self._at = 0
        self._file = history.file_in(os.environ)

    def content(self) -> ComposeResult:
        """Editor, what could come next, what happened, rows, and the value under the cursor."""
        completion = Completion(markup=False)
        yield SqlEditor(self.place.sql or "", completion, id="statement")
        yield completion
        yield Static(WELCOME, id="said", markup=False)
        yield ResultGrid(id="rows")
        yield Static("", id="value", markup=False)

    def on_mount(self) -> None:
        """Write, or run what was brought here."""
        super().on_mount()
        if not self.app.is_web:  # who looks from afar neither reads nor leaves what the serving account ran
            self._history = history.read(self._file)
        self._at = len(self._history)
        editor = self.query_one(SqlEditor)
        editor.move_cursor(editor.document.end)
        editor.focus()
        self.set_interval(TELL_SECONDS, self._tell_waiting)
        if self.place.sql:
            self.action_run()

    def wanted(self) -> SqlView:
        """The statement that runs, else only what there is to ask for."""
        return SqlView(self._asked, self._number) if self._asked is not None else SqlView()

    def draw(self, shown: Answered) -> None:
        """Rows or the reason why there are none; the answer to a run that is waited for no longer is passed over."""
        self.query_one(SqlEditor).catalogue = shown.catalogue
        result = shown.result
        if result is None:
            if self._number == 0:
                self.query_one(ResultGrid).show(listed(shown.catalogue))
        elif result.number == self._number and self._asked is not None:
            self._asked, self._result = None, result
            self._say(_told(result))
            if result.error is None:
                self.query_one(ResultGrid).show(result.rows)
                if not self.place.sql:
                    self.query_one(ResultGrid).focus()

    def action_run(self) -> None:
        """Run what is written, or the part of it that is marked."""
        editor = self.query_one(SqlEditor)
        editor.close()
        sql = (editor.selected_text or editor.text).strip()
        if not sql:
            self._say(Text("There is nothing to run: write a SELECT."))
            return
        if self._asked is not None:
            self.post_message(Stop())
        self._number += 1
        self._asked, self._waited = sql, 0.0
        self._say(Text("running …"))
        self._remember(sql)
        self.want()

    def action_stop(self) -> None:
        """Wait no longer, and have it ended where it runs."""
        if self._asked is not None:
            self._asked = None
            self.post_message(Stop())
            self._say(Text("Stopped."))

    def action_describe(self) -> None:
        """Columns of the table that the cursor's word names, or of the first that the statement does."""
        editor = self.query_one(SqlEditor)
        named = [editor.word.lower(), *relations(editor.text, editor.catalogue).values()]
        grid = self.query_one(ResultGrid)
        if grid.has_focus and grid.value is not None:
            named.insert(0, str(grid.value[1]))
        found = next((each for each in named if each in editor.catalogue), None)
        if found is None:
            grid.show(listed(editor.catalogue))
            self._say(Text("There is no table or view of that name. These are there:"))
            return
        grid.show(described(editor.catalogue[found]))
        self._say(Text(f"{found}: {editor.catalogue[found].sentence}"))

    def action_edit(self) -> None:
        """Write on."""
        self.query_one(SqlEditor).focus()

    def action_copy(self, what: str) -> None:
        """Give the statement or the rows to the clipboard of the terminal."""
        if what == "sql":
            self.app.copy_to_clipboard(self.query_one(SqlEditor).text)
            self.notify("the statement is copied")
            return
        rows = self.query_one(ResultGrid).rows
        said, count = written(rows, tabs=what == "tsv", bytes_max=COPY_BYTES_MAX)
        self.app.copy_to_clipboard(said)
        left = (
            f" of {rows.num_rows:,}: a clipboard takes {COPY_BYTES_MAX // 1024} kB; F9 saves all"
            if count < rows.num_rows
            else ""
        )
        self.notify(f"{count:,} rows{left} copied as {what.upper()}")

    def action_save(self) -> None:
        """Ask for a name, and write the rows."""
        hint = "A name that ends in .tsv or .csv. Enter saves, escape leaves it."
        self.app.push_screen(LinePrompt("Save the rows as which file?", hint, FILE_NAME), self._save)

    def _save(self, name: str | None) -> None:
        if not name:
            return
        path = Path(name).expanduser()
        rows = self.query_one(ResultGrid).rows
        if not self.app.is_web and path.exists():
            self.notify(f"{path} is there already: nothing is written", severity="error")
            return
        said, count = written(rows, tabs=path.suffix == ".tsv")
        folder = None if self.app.is_web else path.parent
        self.app.deliver_text(io.StringIO(said), save_directory=folder, save_filename=path.name)
        self.notify(f"{count:,} rows go to {path.name if self.app.is_web else path}")

    @on(SqlEditor.Older)
    def older(self, message: SqlEditor.Older) -> None:
        """Another statement of the history; past the newest, an empty one."""
        self._at = max(min(self._at + message.by, len(self._history)), 0)
        self.query_one(SqlEditor).write(self._history[self._at] if self._at < len(self._history) else "")

    @on(ResultGrid.Moved)
    def moved(self) -> None:
        """Tell the value under the cursor whole."""
        value = self.query_one(ResultGrid).value
        said = "" if value is None else f"{value[0]}: {plain(value[1])[:VALUE_CHARS_MAX] or 'NULL'}"
        self.query_one("#value", Static).update(said)

    def _remember(self, sql: str) -> None:
        self._history = history.add(self._history, sql)
        self._at = len(self._history)
        if not self.app.is_web:
            self.run_worker(self._write_history, thread=True, group="history", exit_on_error=False)

    def _write_history(self) -> None:
        history.write(self._file, self._history)

    def _tell_waiting(self) -> None:
        if self._asked is not None:
            self._waited += TELL_SECONDS
            self._say(Text(f"running for {self._waited:.0f} s; F4 stops it"))

    def _say(self, words: Text) -> None:
        self.query_one("#said", Static).update(words)


def _told(result: Result) -> Text:
    if result.error is not None:
        return Text.assemble(("error: ", "bold red"), result.error)
    text = Text(f"{result.rows.num_rows:,} row{'' if result.rows.num_rows == 1 else 's'} in {result.seconds:.2f} s")
    if result.cut:
        text.append(f"; cut: only the first {result.rows.num_rows:,}, there are more", "bold yellow")
    if result.damaged:
        text.append(f"; left out, cannot be read: {result.damaged}", "bold red")
    return text
