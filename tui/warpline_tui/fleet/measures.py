"""What a GPU's cell may tell: power, activity, temperature, clock, link, state or finding, each as a level and a sign."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from ..views.fleet import IDLE_PERCENT, SILENT_NS, Fleet, Numbers

LEVELS: Final = 9
"""Steps of a scale. Fewer than the eye tells apart: a cell whose level stays the same costs no bytes on a slow line."""
RAMP: Final = "▁▁▂▃▄▅▆▇█"
"""What a level looks like without colour."""
UNKNOWN_LEVEL: Final = -1
SLACK: Final = 0.5
"""A cell keeps its level until its value is so much of a level beyond it."""
COLDEST_CELSIUS: Final = 25.0
HOTTEST_CELSIUS: Final = 90.0
LINK_BYTES_MIN: Final = 1e6
"""The scale of a link's traffic is told by its powers of ten, from here on."""

Levels = npt.NDArray[np.int8]
Signs = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Picture:
    """One cell a GPU. `levels` is 0 to LEVELS - 1, or -1 for not known; `signs` is one character each; `values` orders them.

    `exact` is where on a scale each stands, 0 to LEVELS; None where levels are not those of a scale.
    """

    levels: Levels
    signs: Signs
    values: Numbers
    low: str
    high: str
    exact: Numbers | None = None

    def steadied(self, before: Picture | None) -> Picture:
        """The same, but a cell that hardly left the level that it had before keeps it: noise costs no bytes, and no flicker."""
        if before is None or before.exact is None or self.exact is None or len(before.levels) != len(self.levels):
            return self
        away = np.abs(self.exact - (before.levels + 0.5))
        kept = (before.levels >= 0) & (self.levels >= 0) & (away < 0.5 + SLACK)
        levels = np.where(kept, before.levels, self.levels).astype(np.int8)
        return replace(self, levels=levels, signs=_ramp(levels))


@dataclass(frozen=True)
class Measure:
    """A way to look at the fleet. `words` is what a legend says of its signs, empty where they are a scale."""

    name: str
    picture: Callable[[Fleet], Picture]
    words: str = ""


def _scaled(values: Numbers, low: float, high: float, low_words: str, high_words: str) -> Picture:
    """A linear scale; what is not known has no level."""
    known = np.isfinite(values)
    span = max(high - low, 1e-9)
    part = np.clip((np.where(known, values, low) - low) / span, 0.0, 1.0)
    levels = np.where(known, np.minimum((part * LEVELS).astype(np.int8), LEVELS - 1), UNKNOWN_LEVEL).astype(np.int8)
    return Picture(levels, _ramp(levels), values, low_words, high_words, part * LEVELS)


def _ramp(levels: Levels) -> Signs:
    made: Signs = np.where(levels >= 0, np.array(list(RAMP))[np.maximum(levels, 0)], "·")
    return made


def power(fleet: Fleet) -> Picture:
    """From nothing to the highest limit of any GPU here."""
    limits = fleet.gpus.numbers("limit_watts")
    watts = fleet.gpus.numbers("power_watts")
    full = _most(limits) or _most(watts) or 1.0
    return _scaled(watts, 0.0, full, "0 W", f"{full:,.0f} W")


def activity(fleet: Fleet) -> Picture:
    """SM activity, or utilisation where that is all there is."""
    return _scaled(fleet.gpus.numbers("busy_percent"), 0.0, 100.0, "0 %", "100 %")


def temperature(fleet: Fleet) -> Picture:
    """From an idle GPU's to where they throttle."""
    celsius = fleet.gpus.numbers("temperature_celsius")
    return _scaled(celsius, COLDEST_CELSIUS, HOTTEST_CELSIUS, f"{COLDEST_CELSIUS:.0f} °C", f"{HOTTEST_CELSIUS:.0f} °C")


def clock(fleet: Fleet) -> Picture:
    """SM clock, to the highest there is here."""
    hertz = fleet.gpus.numbers("clock_mhz")
    full = _most(fleet.gpus.numbers("clock_max_mhz")) or _most(hertz) or 1.0
    return _scaled(hertz, 0.0, full, "0 MHz", f"{full:,.0f} MHz")


def link(fleet: Fleet) -> Picture:
    """NVLink traffic, or PCIe where that is all there is, by powers of ten."""
    traffic = fleet.gpus.numbers("link_bytes")
    full = max(_most(traffic) or 0.0, 10 * LINK_BYTES_MIN)
    tens, low, high = np.log10(np.maximum(traffic, LINK_BYTES_MIN)), np.log10(LINK_BYTES_MIN), np.log10(full)
    scaled = _scaled(tens, low, high, "1 MB/s", f"{full / 1e9:.3g} GB/s")
    return replace(scaled, values=traffic)


STATES: Final = ("silent", "unknown", "no program", "idle", "held idle", "active")
_STATE_SIGNS: Final = np.array(list("?·-iH█"))
_STATE_LEVELS: Final = np.array([-1, -1, 0, 2, 4, 7], np.int8)


def states(fleet: Fleet) -> npt.NDArray[np.int8]:
    """Number of each GPU's state in STATES."""
    busy, programs = fleet.gpus.numbers("busy_percent"), fleet.gpus.numbers("programs")
    low = busy < IDLE_PERCENT
    found = np.select(
        [silent(fleet), programs == 0, low & (programs > 0), low, np.isfinite(busy)], [0, 2, 4, 3, 5], default=1
    )
    return found.astype(np.int8)


def silent(fleet: Fleet) -> npt.NDArray[np.bool_]:
    """Those that were not heard of lately, though others were."""
    newest = fleet.newest_ns
    times = fleet.gpus.numbers("time_ns")
    return np.zeros(len(times), np.bool_) if newest is None else times < newest - SILENT_NS


def state(fleet: Fleet) -> Picture:
    """What each GPU does."""
    found = states(fleet)
    return Picture(_STATE_LEVELS[found], _STATE_SIGNS[found], found.astype(np.float64), "", "")


_SEVERITIES: Final = {"critical": (8, "!"), "warning": (6, "w"), "info": (3, "i")}


def finding(fleet: Fleet) -> Picture:
    """What is found against it."""
    told = [_SEVERITIES.get(each.severity, _SEVERITIES["info"]) for each in fleet.gpus.accusations]
    levels = np.array([level for level, _ in told] + [0], np.int8)[fleet.gpus.accused]
    signs = np.array([sign for _, sign in told] + ["·"])[fleet.gpus.accused]
    return Picture(levels, signs, levels.astype(np.float64), "", "")


MEASURES: Final = (
    Measure("power", power),
    Measure("activity", activity),
    Measure("temperature", temperature),
    Measure("clock", clock),
    Measure("link", link),
    Measure("state", state, "█ active  H held by a program, idle  i idle  - no program  ? silent  · not known"),
    Measure("finding", finding, "! critical  w warning  i info  · nothing is found against it"),
)
"""In the order in which a key goes through them."""


def _most(values: Numbers) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.max()) if known.size else None
