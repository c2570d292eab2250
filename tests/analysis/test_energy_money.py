"""Prices by time of day, in the local clock, over midnight and over the changes of summer time."""

from __future__ import annotations

import itertools
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from warpline_analysis.energy.money import Money

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()) * 10**9


def berlin(*tariffs: str) -> Money:
    return Money(price_per_kwh=0.2, tariffs=tariffs, time_zone="Europe/Berlin")


def test_the_last_tariff_that_fits_holds_and_else_the_plain_price() -> None:
    money = berlin("mon-fri 08:00-20:00 0.3", "fri 18:00-20:00 0.5")
    prices = {
        "2026-11-20 07:59": 0.2,  # a Friday
        "2026-11-20 08:00": 0.3,
        "2026-11-20 18:00": 0.5,
        "2026-11-20 20:00": 0.2,
        "2026-11-21 12:00": 0.2,
    }
    assert {moment: money.price_at(at(moment)) for moment in prices} == prices


def test_hours_over_midnight_belong_to_the_day_on_which_they_begin() -> None:
    money = berlin("fri 22:00-06:00 0.1")
    assert [money.price_at(at(f"2026-11-{day}")) for day in ("20 21:59", "20 22:00", "21 05:59", "21 06:00", "21 23:00")] == [
        0.2, 0.1, 0.1, 0.2, 0.2,
    ]  # fmt: skip


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_a_day_of_23_or_25_hours_has_its_prices_by_the_local_clock(day: str) -> None:
    money = berlin("00:00-06:00 0.1")
    spans = money.spans(at(f"{day} 00:00"), at(f"{day} 12:00"))
    assert [span.price_per_kwh for span in spans] == [0.1, 0.2]
    assert spans[0].end_ns == at(f"{day} 06:00")


def test_spans_are_seamless_and_each_moment_has_its_price() -> None:
    money = berlin("mon-fri 08:00-20:00 0.3", "sat-sun 10:00-12:30 0.25")
    start, end = at("2026-11-16 00:00"), at("2026-11-23 00:00")
    spans = money.spans(start, end)
    assert spans[0].start_ns == start and spans[-1].end_ns == end
    assert all(one.end_ns == other.start_ns for one, other in itertools.pairwise(spans))
    assert len(spans) == 5 * 2 + 2 * 2 + 1
    for span in spans:
        middle = (span.start_ns + span.end_ns) // 2
        assert money.price_at(middle) == span.price_per_kwh


def test_the_building_is_charged_with_the_gpus() -> None:
    money = Money(price_per_kwh=0.136, carbon_grams_per_kwh=400.0, pue=1.25)
    assert money.cost(7.2e6, 0.136) == pytest.approx(2 * 0.136 * 1.25)
    assert money.carbon_grams(3.6e6) == 500.0


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"tariffs": ("whenever 3",)}, "write it as"),
        ({"tariffs": ("mon-xyz 08:00-20:00 1",)}, "days are"),
        ({"tariffs": ("08:00-25:00 1",)}, "between 00:00 and 24:00"),
        ({"time_zone": "Mars/Olympus"}, "Europe/Berlin"),
        ({"pue": 0.5}, "between 1 and 10"),
        ({"price_per_kwh": -1.0}, "not negative"),
        ({"price_per_gpu_hour": -0.01}, "not negative"),
        ({"price_per_kwh": 0.0, "tariffs": ("08:00-20:00 1",)}, "price_per_kwh"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_with_a_hint(settings: dict[str, object], hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        Money(**({"price_per_kwh": 0.2} | settings))  # type: ignore[arg-type]
