"""The power page: what somebody sees who asks where the energy goes, with a price and without, and where little is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from seen import SIZES, Database, app_over, settle, take, words

from warpline_analysis.energy.money import Money
from warpline_proto.errors import QueryError
from warpline_tui.answers import Answers
from warpline_tui.app import WarplineApp
from warpline_tui.power import Power
from warpline_tui.view import Ask
from warpline_tui.views.power import PowerView
from warpline_tui.words import clock, energy

NS = 10**9
WINDOW_NS = 600 * NS
NOW = 3_000_000 * WINDOW_NS
"""A window begins just now."""
PRICE = Money(price_per_kwh=0.36, currency="EUR", pue=1.5)


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    yield made
    made.connection.close()


def piece(
    gpu: int, window: int, state: str, second: int, seconds: float, watts: float | None, **more: Any
) -> dict[str, Any]:
    """A row of the account: `window` counts back from the last, `second` is where in it the piece begins."""
    window_ns = NOW - (window + 2) * WINDOW_NS
    start_ns = window_ns + second * NS
    row = {
        "node": f"node-{gpu // 2}", "gpu_uuid": f"GPU-{gpu}-0123456789abcdef", "gpu_index": gpu % 2, "gpu_name": "H100",
        "window_ns": window_ns, "start_ns": start_ns, "end_ns": start_ns + int(seconds * NS), "state": state, "seconds": seconds,
        "joules": None if watts is None else seconds * watts, "unmeasured_seconds": seconds if watts is None else 0.0,
        "continued": False, "missing": [], "updated_ns": NOW,
    }  # fmt: skip
    return row | more


def hour() -> list[dict[str, Any]]:
    """Two GPUs of `train`, idle a sixth of the time; one that nobody owns, held all the time by a session that does nothing."""
    rows = []
    for window in range(6):
        for gpu in (0, 1):
            rows.append(piece(gpu, window, "active", 0, 500, 600.0, job="train", user="ada"))
            idle = {"job": "train", "user": "ada", "cause": "disk", "run_seconds": 60.0}
            rows.append(piece(gpu, window, "execution_idle", 500, 100, 120.0, **idle))
        rows.append(piece(2, window, "execution_idle", 0, 600, 110.0, continued=window < 5, run_seconds=60.0))
    return rows


def sample(gpu: int, seconds_ago: int, **more: Any) -> dict[str, Any]:
    row = {
        "node": f"node-{gpu // 2}",
        "gpu_uuid": f"GPU-{gpu}-0123456789abcdef",
        "gpu_index": gpu % 2,
        "source": "nvml",
    }
    return row | {"time_ns": NOW - seconds_ago * NS, "power_watts": 500.0, "gpu_utilization_percent": 97.0} | more


def power_of(database: Database, by: str = "job", prices: Money | None = None) -> Power:
    return take(database, PowerView(by), NOW, prices=prices)


def causes_by_view(database: Database, first_ns: int) -> dict[str | None, float]:
    rows = database.query(
        "SELECT cause, sum(seconds) AS seconds FROM energy_causes "
        f"WHERE state = 'execution_idle' AND window_ns >= {first_ns} GROUP BY cause"
    ).to_pylist()
    return {row["cause"]: row["seconds"] for row in rows}


@pytest.mark.parametrize(("columns", "lines"), SIZES)
async def test_the_page_says_what_is_drawn_what_is_wasted_why_and_by_whom(
    database: Database, columns: int, lines: int
) -> None:
    database.add("energy_intervals", hour())
    database.add("device_samples", [sample(0, 2, resident_processes=1), sample(1, 2, resident_processes=1)])
    idle = {"power_watts": 110.0, "gpu_utilization_percent": 0.0}
    database.add("device_samples", [sample(2, 40, resident_processes=1, **idle), sample(2, 2, **idle)])
    async with app_over(database, NOW, prices=PRICE).run_test(size=(columns, lines)) as pilot:
        await settle(pilot)
        await pilot.press("5")
        await settle(pilot)
        said = " ".join(words(pilot, "#power").split())
        assert "Now: 1,110 W by 3 GPUs. 1 held by a program and idle: 110 W." in said, "programs are told rarely"
        kwh = 6 * (2 * 500 * 600 + 2 * 100 * 120 + 600 * 110) / 3.6e6
        idle_kwh = 6 * (2 * 100 * 120 + 600 * 110) / 3.6e6
        assert f"(10 min ago): {kwh:.2f} kWh, {kwh * 0.36 * 1.5:.2f} EUR." in said
        assert f"(execution-idle): {800 / 1800:.1%} of the time programs ran, {idle_kwh * 1e3:.1f} Wh" in said
        assert f"{idle_kwh * 0.36 * 1.5:.2f} EUR." in said
        sums = words(pilot, "#sums")
        assert "execution-idle  44.4%   13.0%  150.0 Wh" in sums
        assert "for 30 min or more  75.0%  110.0 Wh" in sums and "after disk traffic" in sums
        assert ("nothing was done for 5 s" in sums) == (columns == 200)
        assert words(pilot, "#drawers").splitlines() == [
            "(no job known) | 110.0 Wh | 100.0% | 0.06 | 110.0 Wh | 1 | 0% | 0% | 0%",
            "train | 40.0 Wh | 16.7% | 0.02 | 1.04 kWh | 2 | 0% | 0% | 0%",
        ]
        assert pilot.app.screen.query_one("#drawers").size.height >= 4, "there is room for them"


async def test_a_key_goes_through_job_user_node_and_gpu(database: Database) -> None:
    database.add("energy_intervals", hour())
    async with app_over(database, NOW, first="power").run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        assert "No price is set." in words(pilot, "#power") and "EUR" not in words(pilot, "#power")
        for by, first in (
            ("user", "(no user known) | 110.0 Wh | 100.0% | 110.0 Wh"),
            ("node", "node-1 | 110.0 Wh"),
            ("GPU", "node-1 0 GPU-2-012345 | 110.0 Wh"),
            ("job", "(no job known) | 110.0 Wh"),
        ):
            await pilot.press("b")
            await settle(pilot)
            assert words(pilot, "#by").startswith(f"By {by}, ")
            assert words(pilot, "#drawers").startswith(first)


@pytest.mark.parametrize(("columns", "lines"), SIZES)
async def test_an_empty_store_says_what_is_missing_and_why(database: Database, columns: int, lines: int) -> None:
    async with app_over(database, NOW).run_test(size=(columns, lines)) as pilot:
        await settle(pilot)
        await pilot.press("5")
        await settle(pilot)
        said = words(pilot, "#power")
        assert "No GPU has been heard of yet." in said
        assert "Nothing is accounted yet" in said
        assert not pilot.app.screen.query_one("#drawers").display


async def test_where_residency_is_unknown_both_bounds_are_said(database: Database) -> None:
    """Neither a zero nor a verdict; what has neither counter nor power is told apart."""
    rows = [piece(0, 0, "active", 0, 400, 300.0), piece(0, 0, "low_unknown", 400, 100, 60.0)]
    database.add("energy_intervals", [*rows, piece(0, 0, "unobserved", 500, 100, None)])
    database.add("device_samples", [sample(0, 2, gpu_utilization_percent=0.0)])
    async with app_over(database, NOW, prices=PRICE).run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        await pilot.press("5")
        await settle(pilot)
        said = " ".join(words(pilot, "#power").split())
        assert "1 idle; whether a program holds them is unknown." in said
        assert "(execution-idle): 0.0% to 20.0% of the time programs ran, 0 Wh to 1.7 Wh, 0.00 to <0.01 EUR." in said
        assert "Residency unknown: if a program held these GPUs, they were execution-idle." in said
        assert "100 GPU-seconds had neither counter nor power" in said
        assert "not measured       16.7%       -        -" in words(pilot, "#sums")
        assert words(pilot, "#drawers").startswith("(no job known) | 0 Wh to 1.7 Wh | 0.0% to 20.0% | 0.00 to <0.01")


async def test_an_account_that_cannot_be_asked_takes_no_other_page_with_it(database: Database) -> None:
    """A collector of an older version has none: the page says so, the fleet goes on."""
    database.add("device_samples", [sample(0, 2)])
    database.connection.execute("DROP VIEW energy_states")
    database.add("energy_intervals", hour())
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        await pilot.press("5")
        await settle(pilot)
        assert "energy_states" in words(pilot, "#power") and "Nothing is accounted" not in words(pilot, "#power")
        await pilot.press("1")
        await settle(pilot)
        assert "node-0" in words(pilot, "#chosen") and "energy_states" not in words(pilot, "Status")


def test_causes_are_those_of_the_view(database: Database) -> None:
    """However an idle time lies in the windows: begun in the hour, before it, long before it, and cut by work."""
    rows = hour()
    for gpu, first, last, length in ((3, 7, 0, 600), (4, 8, 4, 600), (5, 40, 5, 600), (6, 6, 5, 450), (7, 20, 6, 600)):
        for window in range(first, last - 1, -1):
            begins = window == first
            second = 600 - length if begins else 0
            cause = {"cause": "pcie"} if begins else {}
            rows.append(piece(gpu, window, "execution_idle", second, length, 90.0, continued=not begins, **cause))
    database.add("energy_intervals", rows)
    power = power_of(database)
    told = {each.cause: each.seconds for each in power.causes}
    assert told == causes_by_view(database, NOW - 7 * WINDOW_NS)
    assert told["pcie"] == 450.0, "900 s in all, of which the half lies in the hour"


def test_each_ten_minutes_have_the_price_of_their_time(database: Database) -> None:
    """Against a sum row by row; and everything told by job, node or GPU adds up to the states."""
    database.add("energy_intervals", hour())
    prices = Money(price_per_kwh=0.2, tariffs=("00:00-07:20 0.9",), pue=1.25)
    assert {prices.price_at(row["window_ns"]) for row in hour()} == {0.2, 0.9}
    plain = sum(row["joules"] / 3.6e6 * prices.price_at(row["window_ns"]) * 1.25 for row in hour())
    for by in ("job", "user", "node", "gpu"):
        power = power_of(database, by, prices)
        assert power.cost == pytest.approx(plain, rel=1e-9)
        assert sum(each.idle_cost or 0.0 for each in power.drawers) == pytest.approx(power.idle_cost, rel=1e-9)
        assert sum(each.joules or 0.0 for each in power.drawers) == pytest.approx(power.joules, rel=1e-9)
        assert sum(each.seconds for each in power.drawers) == pytest.approx(power.seconds)


def test_a_newer_account_of_a_window_replaces_the_older(database: Database) -> None:
    database.add("energy_intervals", [piece(0, 0, "active", 0, 600, 999.0, updated_ns=NOW - 1)])
    database.add("energy_intervals", [piece(0, 0, "active", 0, 600, 100.0)])
    assert power_of(database).joules == 60_000.0


def test_rows_are_bounded_and_what_is_left_out_is_counted(database: Database) -> None:
    database.add("energy_intervals", [piece(gpu, 0, "active", 0, 600, 100.0) for gpu in range(300)])
    power = power_of(database, "gpu")
    assert len(power.drawers) == 200
    assert power.groups == 300


def test_the_account_is_asked_rarely_and_the_readings_each_time(database: Database) -> None:
    """It changes each ten minutes and is large."""
    database.add("energy_intervals", hour())
    database.add("device_samples", [sample(0, 2)])
    now = [NOW]
    answers = Answers(database.query, lambda: now[0])
    asked: dict[int, int] = defaultdict(int)
    for second in range(0, 100, 5):
        now[0] = NOW + second * NS
        database.asked.clear()
        PowerView().take(Ask(answers, now[0]))
        asked[sum("energy_" in sql for sql in database.asked)] += 1
        assert any("arg_max(power_watts" in sql for sql in database.asked)
    assert asked == {0: 18, 4: 2}


async def test_when_it_cannot_be_had_any_more_the_last_sums_stay(database: Database) -> None:
    database.add("energy_intervals", hour())
    now, fails = [NOW], [False]

    def query(sql: str) -> Any:
        if fails[0] and "energy_" in sql:
            raise QueryError("the question took more than 10 s")
        return database.query(sql)

    async with WarplineApp(query, clock=lambda: now[0], first="power").run_test(size=(80, 24)) as pilot:
        assert isinstance(pilot.app, WarplineApp)
        await settle(pilot)
        for failing in (True, False):
            fails[0] = failing
            now[0] += 61 * NS
            pilot.app.ask(again=True)
            await settle(pilot)
            assert ("the question took more than 10 s" in words(pilot, "#power")) == failing
            assert len(words(pilot, "#drawers").splitlines()) == 2


@pytest.mark.parametrize(
    ("joules", "said"),
    [(None, "-"), (0.0, "0 Wh"), (180.0, "0.1 Wh"), (3.59e6, "997.2 Wh"), (3.6e6, "1.00 kWh"), (7.2e9, "2.00 MWh")],
)
def test_energy_is_said_in_the_unit_of_bills(joules: float | None, said: str) -> None:
    assert energy(joules) == said


def test_a_time_of_another_day_bears_its_date() -> None:
    assert clock(NOW - 600 * NS, NOW) == "07:50 UTC"
    assert clock(NOW - 86_400 * NS, NOW) == "2027-01-14 08:00 UTC"


def test_in_the_past_only_what_was_over_is_accounted() -> None:
    database = Database()
    window = NOW // WINDOW_NS * WINDOW_NS
    gpu = {"node": "node-1", "gpu_uuid": "GPU-1", "state": "active", "seconds": 600.0, "joules": 600.0}
    for start_ns in (window - 2 * WINDOW_NS, window - WINDOW_NS):
        span = {"window_ns": start_ns, "start_ns": start_ns, "end_ns": start_ns + WINDOW_NS, "updated_ns": NOW}
        database.add("energy_intervals", [gpu | span])
    assert take(database, PowerView(), NOW).end_ns == window
    assert take(database, PowerView(), NOW, window - WINDOW_NS // 2).end_ns == window - WINDOW_NS
