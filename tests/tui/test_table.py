"""Tables of the screen: what stands in a row is to be read whole, whenever it was drawn."""

from __future__ import annotations

from textual.app import App, ComposeResult

from warpline_tui.widgets.table import LiveTable


class _Shown(App[None]):
    def compose(self) -> ComposeResult:
        yield LiveTable(("GPU", "MHz"), id="gpus")


def _read(table: LiveTable) -> str:
    return "\n".join(table.render_line(line).text.rstrip() for line in range(3))


async def test_rows_drawn_before_their_columns_are_measured_are_drawn_again() -> None:
    async with _Shown().run_test(size=(40, 10)) as pilot:
        table = pilot.app.query_one(LiveTable)
        table.show([("0", ("0", "1980")), ("1", ("1", "345"))])
        early = _read(table)
        await pilot.pause()
        assert "1980" not in early
        assert "1980" in _read(table)


async def test_cells_drawn_before_their_columns_are_measured_are_drawn_again() -> None:
    async with _Shown().run_test(size=(40, 10)) as pilot:
        table = pilot.app.query_one(LiveTable)
        table.show([("0", ("0", "345"))])
        await pilot.pause()
        table.show([("0", ("0", "waiting for NVML"))])
        early = _read(table)
        await pilot.pause()
        assert "waiting for NVML" not in early
        assert "waiting for NVML" in _read(table)


async def test_two_rows_of_one_key_are_one_row() -> None:
    """Findings of two versions may say the same of the same GPU."""
    async with _Shown().run_test(size=(40, 10)) as pilot:
        table = pilot.app.query_one(LiveTable)
        table.show([("0", ("0", "345")), ("0", ("0", "1980"))])
        await pilot.pause()
        assert "1980" in _read(table) and table.row_count == 1


async def test_brackets_are_no_markup() -> None:
    async with _Shown().run_test(size=(40, 10)) as pilot:
        table = pilot.app.query_one(LiveTable)
        table.show([("0", ("[/]", "f[abi:cxx11]"))])
        await pilot.pause()
        assert "[/]" in _read(table) and "f[abi:cxx11]" in _read(table)
