"""How soon a screen is there: what it shows is asked for while it is made, and nothing is made twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from seen import Database, app_over, settle, words

from warpline_tui.ahead import FIRST, Ahead
from warpline_tui.place import Place
from warpline_tui.screens import SCREENS
from warpline_tui.sheet import Sheet
from warpline_tui.view import LIVE, Moment
from warpline_tui.views.headline import HeadlineView

NOW = 1_800_000_000 * 10**9


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    made.add("device_samples", [{"node": "node-a", "gpu_uuid": "GPU-0", "time_ns": NOW, "power_watts": 5.0}])
    yield made
    made.connection.close()


def ahead(database: Database, moment: Moment = LIVE) -> Ahead:
    return Ahead(database.query, "fleet", moment, lambda: NOW)


@pytest.mark.parametrize("name", FIRST)
def test_what_is_asked_ahead_is_what_the_screen_wants(name: str) -> None:
    assert SCREENS[name].open(Place(name)).wanted() == FIRST[name]()


async def test_what_was_asked_before_the_screen_was_there_is_shown_and_not_asked_again(database: Database) -> None:
    """Of a past moment, where nothing is asked again as time goes by."""
    then, first = Moment(NOW), ahead(database, Moment(NOW))
    for view in (FIRST["fleet"](), HeadlineView()):
        answer = first.taken(view, then)
        assert answer is not None and answer.result() is not None
        assert first.taken(view, then) is None, "whoever asks again wants a newer answer"
    asked = len(database.asked)
    app = app_over(database, NOW, ahead=ahead(database, then), at_ns=NOW)
    async with app.run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        assert "node-a" in words(pilot, "#grid") and "1 GPU" in words(pilot, "Status")
        assert len(database.asked) == 2 * asked
        app.ask(again=True)
        await settle(pilot)
        assert len(database.asked) > 2 * asked


async def test_another_moment_than_was_asked_ahead_is_asked_for(database: Database) -> None:
    app = app_over(database, NOW, ahead=ahead(database), at_ns=NOW - 10**9)
    async with app.run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        assert "At this moment no GPU had been heard of" in words(pilot, "#empty")


async def test_a_question_ahead_that_fails_is_told_of_as_any_other(database: Database) -> None:
    database.down = True
    app = app_over(database, NOW, ahead=ahead(database))
    async with app.run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        assert "no collector answers" in words(pilot, "Status")
        database.down = False
        app.ask(again=True)
        await settle(pilot)
        assert "node-a" in words(pilot, "#grid") and "answers" not in words(pilot, "Status")


async def test_a_theme_colours_screens_that_were_open_and_those_that_open_later(database: Database) -> None:
    app = app_over(database, NOW)
    async with app.run_test(size=(120, 30)) as pilot:
        for key in ("2", "1"):
            await pilot.press(key)
            await settle(pilot)
        before = app.screen.query_one("Status").styles.background
        app.theme = "warpline-light"
        for key in ("1", "2", "5"):
            await pilot.press(key)
            await settle(pilot)
            assert app.screen.query_one("Status").styles.background.hex == app.theme_variables["panel"] != before.hex


def test_rules_are_parsed_again_only_for_other_variables() -> None:
    sheet = Sheet({"colour": "red"})
    sheet.add_source("Static { color: $colour; }", read_from=("here", ""))
    [first] = sheet.rules
    sheet.set_variables({"colour": "red"})
    sheet.reparse()
    assert sheet.rules[0] is first
    sheet.set_variables({"colour": "blue"})
    sheet.reparse()
    assert sheet.rules[0].styles.color != first.styles.color
