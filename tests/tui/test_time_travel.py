"""Time travel: what somebody sees who stops time, steps through it, goes to a moment and comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from seen import Database, app_over, settle, words
from textual.pilot import Pilot

from warpline_proto.errors import ConfigError
from warpline_tui.app import WarplineApp
from warpline_tui.settings import Tui
from warpline_tui.travel import Travel, moment_ns
from warpline_tui.view import LIVE, Moment

NS = 10**9
NOW = 1_800_000_000 * NS
"""2027-01-15 08:00:00 UTC."""


@pytest.fixture
def database() -> Iterator[Database]:
    """A GPU whose power is the number of seconds before now, for an hour."""
    made = Database()
    made.connection.execute(f"""
INSERT INTO device_samples BY NAME SELECT 'node-a' AS node, 'GPU-0' AS gpu_uuid, 0 AS gpu_index, 4000.0 AS power_limit_watts,
    {NOW} - s * 10 * {NS}::BIGINT AS time_ns, s * 10.0 AS power_watts FROM range(360) seconds(s)
""")
    yield made
    made.connection.close()


def ask_again(pilot: Pilot[None]) -> None:
    assert isinstance(pilot.app, WarplineApp)
    pilot.app.ask(again=True)


async def power_after(pilot: Pilot[None], *keys: str) -> str:
    await pilot.press(*keys)
    await settle(pilot)
    return str(words(pilot, "#chosen")).split(" of 4000 W")[0].split()[-1]


async def test_time_stops_is_stepped_through_and_goes_on(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        assert "LIVE" in words(pilot, "Status")
        assert await power_after(pilot, "<") == "10"
        assert "PAUSED AT 07:59:50, 10 s ago" in words(pilot, "Status")
        assert await power_after(pilot, "{") == "610"
        assert await power_after(pilot, ">", ">") == "590"
        assert await power_after(pilot, "}") == "0", "never beyond the newest"
        assert await power_after(pilot, "L") == "0"
        assert "LIVE" in words(pilot, "Status") and "PAUSED" not in words(pilot, "Status")


async def test_a_stopped_time_is_stopped_on_every_page_and_not_asked_for_again(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        await pilot.press("p")
        await settle(pilot)
        database.asked.clear()
        assert isinstance(pilot.app, WarplineApp)
        for _ in range(3):
            pilot.app.ask()
            await settle(pilot)
        assert database.asked == []
        await pilot.press("4")
        await settle(pilot)
        assert "PAUSED AT 08:00:00" in words(pilot, "Status")
        assert database.asked, "the other page is asked once"


async def test_a_past_moment_plays_on(database: Database) -> None:
    async with app_over(database, NOW, settings=Tui(refresh_seconds=3600.0)).run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        await pilot.press("{", "p")
        await settle(pilot)
        assert "PLAYING AT 07:50:00" in words(pilot, "Status")


@pytest.mark.parametrize(
    ("typed", "power"), [("-15m", "900"), ("07:30", "1800"), ("2027-01-15T07:59:00", "60"), ("-1h", "3590")]
)
async def test_a_moment_is_typed(database: Database, typed: str, power: str) -> None:
    async with app_over(database, NOW).run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        shown = await power_after(pilot, "@", *typed, "enter")
        assert shown == power or typed == "-1h"


async def test_a_moment_that_cannot_be_understood_is_asked_for_again(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        await pilot.press("@", *"noon", "enter")
        await settle(pilot)
        assert "'noon' is no time" in words(pilot, "#hint")
        await pilot.press("escape")
        await settle(pilot)
        assert "LIVE" in words(pilot, "Status")


@pytest.mark.parametrize("typed", ["-999999d", "0001-01-01", "9999-12-31T23:59:59-12:00", "23:00", "2100-01-01"])
async def test_a_moment_that_cannot_be_is_asked_for_again(database: Database, typed: str) -> None:
    async with app_over(database, NOW).run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        await pilot.press("@", *typed, "enter")
        await settle(pilot)
        assert "no clock tells" in words(pilot, "#hint") or "after all there is" in words(pilot, "#hint")


async def test_before_anything_was_recorded_the_page_says_so(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        await pilot.press("@", *"-2d", "enter")
        await settle(pilot)
        assert "At this moment no GPU had been heard of" in words(pilot, "#empty")


async def test_over_a_recording_the_newest_there_is_is_now(database: Database) -> None:
    """A store from last year is looked at as it was then; nothing in it is late."""
    async with app_over(database, NOW + 365 * 86_400 * NS, recorded=True).run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        assert "RECORDED to 2027-01-15 08:00:00" in words(pilot, "Status")
        assert await power_after(pilot, "<") == "10"
        assert "PAUSED AT 07:59:50, 10 s ago" in words(pilot, "Status")


async def test_a_collector_that_is_slow_or_gone_makes_the_data_older_and_not_the_keys_slower(
    database: Database,
) -> None:
    now = [NOW]
    async with WarplineApp(database.query, clock=lambda: now[0]).run_test(size=(160, 30)) as pilot:
        await settle(pilot)
        database.down = True
        now[0] += 40 * NS
        ask_again(pilot)
        await settle(pilot)
        assert "no collector answers" in words(pilot, "Status")
        assert "LIVE, data 40 s ago" in words(pilot, "Status")
        await pilot.press("c")
        await settle(pilot)
        assert words(pilot, "#legend").strip().startswith("activity")
        database.down = False
        ask_again(pilot)
        await settle(pilot)
        assert "no collector answers" not in words(pilot, "Status")


def test_what_plays_comes_to_the_newest_and_is_live_again() -> None:
    playing = Travel(Moment(NOW - 3 * NS), playing=True)
    assert playing.ticked(2 * NS, NOW) == Travel(Moment(NOW - NS), playing=True)
    assert playing.ticked(2 * NS, NOW).ticked(2 * NS, NOW).moment is LIVE
    assert Travel(Moment(NOW - 3 * NS)).ticked(NS, NOW) == Travel(Moment(NOW - 3 * NS))
    assert Travel().stepped(10, NOW) == Travel(), "there is nothing after the newest"


@pytest.mark.parametrize(
    ("typed", "seconds_ago"),
    [("-90s", 90), ("-2h", 7200), ("7:59", 60), ("2027-01-15 08:59+01:00", 60), ("-1d", 86_400)],
)
def test_moments_as_people_write_them(typed: str, seconds_ago: int) -> None:
    assert moment_ns(typed, NOW) == NOW - seconds_ago * NS


def test_what_is_no_moment_says_what_is() -> None:
    with pytest.raises(ConfigError, match="-15m, 14:05"):
        moment_ns("yesterday", NOW)


def test_an_answer_that_comes_late_is_not_shown_at_another_time() -> None:
    playing = Travel(Moment(NOW - 3600 * NS), playing=True)
    assert playing.shows(Moment(NOW - 3601 * NS)), "it was played over just now"
    assert not playing.shows(LIVE) and not playing.shows(Moment(NOW - 7200 * NS))
    assert not playing.shows(Moment(NOW - 60 * NS)), "it has yet to be played"
    assert Travel().shows(LIVE) and not Travel().shows(Moment(NOW))
