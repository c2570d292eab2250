"""What energy costs: price by time of day and day of the week, grams of CO2, and what the building adds.

A tariff is one line: days, hours of the local clock and a price a kilowatt-hour, `mon-fri 08:00-20:00 0.31`; the last line that
fits a moment holds, and where none does, the plain price.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

JOULES_PER_KWH: Final = 3.6e6
TARIFFS_MAX: Final = 32
SPAN_DAYS_MAX: Final = 800
"""Longest time whose prices are told apart: two years and the weeks around them."""
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LINE: Final = re.compile(r"(?:([a-z]{3})(?:-([a-z]{3}))? +)?(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2}) +(\d+(?:\.\d+)?)")
_STEP: Final = timedelta(minutes=10)


class Tariff(NamedTuple):
    """A price on some days of the week between two minutes of the day; one that ends before it begins goes over midnight."""

    days: frozenset[int]
    from_minute: int
    to_minute: int
    price_per_kwh: float

    def holds(self, moment: datetime) -> bool:
        """Whether it holds at a moment of the local clock; the hours after midnight belong to the day before."""
        minute = moment.hour * 60 + moment.minute
        if self.from_minute < self.to_minute:
            return moment.weekday() in self.days and self.from_minute <= minute < self.to_minute
        if minute >= self.from_minute:
            return moment.weekday() in self.days
        return minute < self.to_minute and (moment.weekday() - 1) % 7 in self.days


class Span(NamedTuple):
    """From and to before, nanoseconds since the epoch, in which one price holds."""

    start_ns: int
    end_ns: int
    price_per_kwh: float


@dataclass(frozen=True)
class Money:
    """Settings of section [power]. `pue` multiplies what GPUs draw by what the building draws for it.

    `price_per_gpu_hour` is what an hour of a GPU costs, whatever it draws; None leaves it out.

    Without a price (0) nothing is said of money, without an intensity (0) nothing of carbon. `time_zone` is that of the tariffs.
    """

    price_per_kwh: float = 0.0
    price_per_gpu_hour: float | None = None
    currency: str = "USD"
    carbon_grams_per_kwh: float = 0.0
    pue: float = 1.0
    tariffs: tuple[str, ...] = ()
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        if min(self.price_per_kwh, self.carbon_grams_per_kwh, self.price_per_gpu_hour or 0.0) < 0:
            raise ValueError("price_per_kwh, price_per_gpu_hour and carbon_grams_per_kwh are not negative")
        if not 1.0 <= self.pue <= 10.0:
            raise ValueError("pue lies between 1 and 10")
        if len(self.tariffs) > TARIFFS_MAX:
            raise ValueError(f"at most {TARIFFS_MAX} tariffs")
        if self.tariffs and not self.price_per_kwh:
            raise ValueError("tariffs want a price_per_kwh for the hours that they leave")
        _ = self.parsed, self.zone

    @cached_property
    def parsed(self) -> tuple[Tariff, ...]:
        """Tariffs as they were given, in order; ValueError with an example for one that cannot be read."""
        return tuple(map(_tariff, self.tariffs))

    @cached_property
    def zone(self) -> tzinfo:
        """The clock of the tariffs."""
        if self.time_zone == "UTC":
            return UTC
        try:
            return ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"time_zone {self.time_zone!r} is not known: name one such as Europe/Berlin") from error

    def price_at(self, time_ns: int) -> float:
        """Price a kilowatt-hour at a moment."""
        moment = datetime.fromtimestamp(time_ns // 10**9, UTC).astimezone(self.zone)
        fitting = [each.price_per_kwh for each in self.parsed if each.holds(moment)]
        return fitting[-1] if fitting else self.price_per_kwh

    def spans(self, start_ns: int, end_ns: int) -> Sequence[Span]:
        """The time as spans of one price each, cut at whole ten minutes; ValueError beyond SPAN_DAYS_MAX days."""
        if not self.tariffs:
            return [Span(start_ns, end_ns, self.price_per_kwh)]
        if end_ns - start_ns > SPAN_DAYS_MAX * 86_400 * 10**9:
            raise ValueError(f"prices by time of day are told apart over {SPAN_DAYS_MAX} days at most")
        step_ns = int(_STEP.total_seconds()) * 10**9
        found: list[Span] = []
        for at_ns in range(start_ns - start_ns % step_ns, end_ns, step_ns):
            price = self.price_at(at_ns)
            begun = found[-1] if found and found[-1].price_per_kwh == price else None
            if begun:
                found[-1] = begun._replace(end_ns=at_ns + step_ns)
            else:
                found.append(Span(at_ns, at_ns + step_ns, price))
        return found

    def cost(self, joules: float, price_per_kwh: float) -> float:
        """Money for what GPUs drew at one price, the building's share with it."""
        return joules / JOULES_PER_KWH * price_per_kwh * self.pue

    def carbon_grams(self, joules: float) -> float:
        """Grams of CO2 for what GPUs drew, the building's share with it."""
        return joules / JOULES_PER_KWH * self.carbon_grams_per_kwh * self.pue


def _tariff(line: str) -> Tariff:
    found = _LINE.fullmatch(line.strip().lower())
    example = "write it as 'mon-fri 08:00-20:00 0.31'"
    if found is None:
        raise ValueError(f"tariff {line!r} cannot be read: {example}")
    first, last, *clock, price = found.groups()
    if any(day is not None and day not in DAYS for day in (first, last)):
        raise ValueError(f"tariff {line!r}: days are {', '.join(DAYS)}")
    from_hour, from_minute, to_hour, to_minute = map(int, clock)
    if max(from_minute, to_minute) > 59 or from_hour * 60 + from_minute >= 1440 or to_hour * 60 + to_minute > 1440:
        raise ValueError(f"tariff {line!r}: hours lie between 00:00 and 24:00")
    begin = DAYS.index(first) if first else 0
    length = (DAYS.index(last) - begin) % 7 + 1 if last else 1 if first else 7
    days = frozenset((begin + step) % 7 for step in range(length))
    return Tariff(days, from_hour * 60 + from_minute, to_hour * 60 + to_minute, float(price))
