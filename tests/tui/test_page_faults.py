"""A screen that is left open for days outlives what one page cannot ask for or draw: it says so, and goes on."""

from __future__ import annotations

from typing import Any

import pytest
from seen import Database, app_over, settle, words

from warpline_tui.faults import FAULTS_MAX, Faults
from warpline_tui.screens.incidents import IncidentsPage
from warpline_tui.views.headline import HeadlineView
from warpline_tui.views.incidents import IncidentsView
from warpline_tui.views.names import NamesView

NOW = 1_800_000_000 * 10**9


def stumble(*given: Any) -> None:
    raise KeyError("a column\nnobody thought of")


@pytest.fixture
def database() -> Database:
    made = Database()
    made.add("device_samples", [{"node": "node-a", "gpu_uuid": "GPU-0", "time_ns": NOW, "power_watts": 5.0}])
    return made


@pytest.mark.parametrize(
    ("broken", "said"),
    [((IncidentsView, "take"), "cannot be asked for"), ((IncidentsPage, "draw"), "cannot be drawn")],
)
async def test_what_one_page_stumbles_over_ends_no_other(
    broken: tuple[type, str], said: str, database: Database, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """It is logged once with its traceback, however often it comes, and is over with the first answer that is drawn."""
    with monkeypatch.context() as patch:
        patch.setattr(*broken, stumble)
        app = app_over(database, NOW)
        async with app.run_test(size=(200, 60)) as pilot:
            await pilot.press("2")
            await settle(pilot)
            assert f"incidents {said}: KeyError: 'a column\\nnobody thought of' (a fault of warpline" in _line(pilot)
            app.ask(again=True)
            await settle(pilot)
            await pilot.press("1")
            await settle(pilot)
            assert "node-a" in words(pilot, "#grid") and "fault" not in _line(pilot)
            patch.undo()
            await pilot.press("2")
            app.ask(again=True)
            await settle(pilot)
            assert app.return_code is None and "fault" not in _line(pilot)
    [record] = [each for each in caplog.records if each.name == "warpline_tui.faults"]
    assert record.exc_info is not None and "in stumble" in next(iter(app.faults.kept.values()))


async def test_the_line_on_top_and_the_list_of_names_may_stumble_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for view in (HeadlineView, NamesView):
        monkeypatch.setattr(view, "take", stumble)
    app = app_over(database, NOW)
    async with app.run_test(size=(200, 60)) as pilot:
        await settle(pilot)
        assert "the line on top cannot be asked for: KeyError" in _line(pilot)
        assert "node-a" in words(pilot, "#grid")
        assert (await app.names()).nodes == ()
        assert len(app.faults.kept) == 2


def test_ever_new_faults_are_shown_and_only_so_many_kept(caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults()
    lines = [faults.line("fleet cannot be drawn", ValueError(f"{number} {'x' * 10_000}")) for number in range(50)]
    assert len(faults.kept) == len(caplog.records) == FAULTS_MAX
    assert lines[-1].startswith("fleet cannot be drawn: ValueError: 49 x") and len(lines[-1]) < 300


def _line(pilot: Any) -> str:
    return " ".join(words(pilot, "Status").split())
