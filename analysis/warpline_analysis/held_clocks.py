"""Which GPUs run their SMs slower than their peers because something holds the clock, and what holds it.

A power cap by itself is how a GPU at full load is meant to run: it counts only where peers with the same load and limit are
not slowed by it. Heat, the external power brake and hardware slowdown count wherever the clock is low.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np

from .devices import CELL_SECONDS, Grid, held, share_of_time, typical, typical_gap
from .robust import Array, Flags, longest_run, median, peers_median

CLOCK_GATE: Final = 0.10
"""A clock is low from this deficit to its peers' median on ..."""
HARD_GATE: Final = 0.05
"""... and from this one on while the driver says that heat or the power supply holds it."""
TIME_GATE: Final = 0.10
"""A limit holds the clock where its counter grew by this share of the time."""
READINGS_MIN: Final = 5
"""Cells with a reading, ten seconds at least, for which the clock has to be held."""
SLIGHT_GATE: Final = 0.04
"""Half a minute of heat or power supply is told from here on: 5 % more time for work that the clock binds ..."""
SLIGHT_READINGS: Final = 15
SLOW_GATE: Final = 0.02
"""... and where the GPU's rank computes longer than its peers, whatever is given as the reason, from here on ..."""
EXPLAINED: Final = 0.5
"""... if the clock makes up for this part of the excess."""
SAME: Final = 0.75
"""A hold is the same one where its deficit is this part of the other's."""
HELD_SHARE: Final = 0.8
"""Share of these in which it is."""
SAME_LOAD: Final = 0.9
"""Peers draw at least this part of the GPU's power, or its limit is at most this part of theirs: then the loads are alike
and a power cap is a fault."""
ACTIVE_UTILIZATION: Final = 50.0
ACTIVE_SM: Final = 20.0
"""A GPU works from this utilisation, or this share of active SMs, on; the clock of an idle one means nothing."""
CAP: Final = 4
HARD: Final = {
    8: "hardware slowdown",
    32: "the software thermal limit",
    64: "the hardware thermal limit",
    128: "the external power brake",
}
"""Bits of the clock-event reasons that no healthy GPU shows for long."""
COUNTERS: Final = {"thermal_ns": 32, "hardware_thermal_ns": 64, "power_brake_ns": 128, "power_cap_ns": CAP}


@dataclass(frozen=True)
class HeldClock:
    """One GPU (by its column) whose clock is held over cells `start` to before `end`.

    `reference_mhz` is its peers' median, or its own highest clock where `own` says so. `bits` are the reasons, `lasting`
    whether it still is so. `watts` and `peers_watts`, `celsius` and `peers_celsius` are NaN where not known.
    """

    column: int
    start: int
    end: int
    readings: int
    clock_mhz: float
    reference_mhz: float
    own: bool
    bits: int
    lasting: bool
    watts: float
    peers_watts: float
    celsius: float
    peers_celsius: float
    excess: float | None = None
    """By how much longer than its peers its rank computes, where that is what made the deficit count."""

    @property
    def deficit(self) -> float:
        """Part of the clock that is missing, 0 to 1."""
        return 1 - self.clock_mhz / self.reference_mhz

    @property
    def seconds(self) -> float:
        """How long it was held."""
        return float((self.end - self.start) * CELL_SECONDS)


@dataclass(frozen=True)
class Clocks:
    """Peers of one model: who is held; the largest typical deficit of anyone and its column; who is low for no reason given.

    `why` says in words why they could not be judged, or nothing.
    """

    held: tuple[HeldClock, ...]
    largest: float
    column: int
    unexplained: tuple[int, ...]
    why: str = ""


@dataclass(frozen=True)
class Gates:
    """From which deficits on a clock is held: by a `hard` limit, or by the power cap; `cell` is the part of it that one cell has
    to show, `own` whether a GPU may be held against its own highest clock."""

    hard: float
    cap: float
    cell: float
    own: bool
    readings: int


PLAIN: Final = Gates(HARD_GATE, CLOCK_GATE, 1.0, True, READINGS_MIN)
SLIGHT: Final = Gates(SLIGHT_GATE, 1.0, 0.5, False, SLIGHT_READINGS)
OF_SLOW_RANK: Final = Gates(SLOW_GATE, SLOW_GATE, 0.5, False, READINGS_MIN)
DATING: Final = Gates(HARD_GATE, CLOCK_GATE, 0.5, True, READINGS_MIN)
"""Since when a clock is held that lies near the gate: its single readings fall on both sides of it."""


def judge(grid: Grid, columns: list[int], slow_ranks: Callable[[], Mapping[int, float]] = dict) -> Clocks:
    """Judge the GPUs in `columns` of a grid, all of one model, against each other.

    `slow_ranks` gives the ranks that compute longer than their peers, and by how much; it is asked only if that may matter.
    """
    view = _View(grid, columns)
    if np.isnan(view.clock).all():
        return _nothing("no SM clocks were sampled")
    if not view.active.any():
        return _nothing(
            "none of them was seen at work" if view.activity_known else "whether they were at work is not known"
        )
    readings = int(np.sum(view.read & view.active, axis=0).max())
    if readings < READINGS_MIN:
        return _nothing(f"{readings} reading{'s' * (readings > 1)} at work; {READINGS_MIN} needed")
    deficit = np.where(view.active, 1 - view.clock / view.peers, np.nan)
    usual = median(deficit, axis=0)
    if np.isnan(usual).all() and not view.limits_known:
        return _nothing("no peer to compare with, and no clock-event reasons")
    found = [_dated(view, each) for column in range(len(columns)) if (each := _held(view, column, PLAIN))]
    found += _slightly(view, [grid.gpus[column].rank for column in columns], found, slow_ranks)
    low = [column for column in np.flatnonzero(usual >= CLOCK_GATE) if column not in {each.column for each in found}]
    worst = int(np.nanargmax(usual)) if not np.isnan(usual).all() else 0
    largest = 0.0 if np.isnan(usual).all() else float(usual[worst])
    return Clocks(tuple(found), largest, worst, tuple(int(column) for column in low))


def _dated(view: _View, found: HeldClock) -> HeldClock:
    """From the first reading on from which the clock was as low, or nearly so."""
    longer = _held(view, found.column, DATING)
    same = longer is not None and longer.start < found.start < longer.end and longer.deficit >= SAME * found.deficit
    return replace(found, start=longer.start) if longer and same else found


def _slightly(
    view: _View, ranks: Sequence[int | None], found: Sequence[HeldClock], slow_ranks: Callable[[], Mapping[int, float]]
) -> list[HeldClock]:
    """Clocks held by less than the plain gates: long enough by a hard limit, or enough to explain a slow rank."""
    rest = [column for column in range(len(ranks)) if column not in {each.column for each in found}]
    slight = {column: each for column in rest if (each := _held(view, column, SLIGHT))}
    held_back = [each for column in rest if (each := _held(view, column, OF_SLOW_RANK)) and each.lasting]
    excess = slow_ranks() if held_back else {}
    for each in held_back:
        rank = ranks[each.column]
        longer = excess.get(rank) if rank is not None else None
        if longer is not None and each.deficit / (1 - each.deficit) >= EXPLAINED * longer:
            slight[each.column] = replace(each, excess=longer)
    return [slight[column] for column in sorted(slight)]


def _nothing(why: str) -> Clocks:
    return Clocks((), 0.0, 0, (), why)


class _View:
    """The matrices of one judgement."""

    def __init__(self, grid: Grid, columns: list[int]) -> None:
        self.read: Flags = ~np.isnan(grid.raw("sm_clock_mhz")[:, columns])
        self.clock = grid.sampled("sm_clock_mhz")[:, columns]
        self.power = grid.sampled("power_watts")[:, columns]
        self.limit = grid.settled("power_limit_watts")[:, columns]
        self.heat = grid.settled("temperature_celsius")[:, columns]
        self.highest = grid.settled("sm_clock_max_mhz")[:, columns]
        utilization = grid.sampled("gpu_utilization_percent")[:, columns]
        sm_active = grid.settled("sm_active_percent")[:, columns]
        self.activity_known = not (np.isnan(utilization).all() and np.isnan(sm_active).all())
        self.active: Flags = ((utilization >= ACTIVE_UTILIZATION) | (sm_active >= ACTIVE_SM)) & ~np.isnan(self.clock)
        self.bits, self.limits_known = _bits(grid, columns)
        self.peers = _others(np.where(self.active, self.clock, np.nan))
        hard = (self.bits & sum(HARD)) != 0
        self.mostly_hard: Flags = 2 * np.sum(hard & self.active, axis=1) > np.sum(self.active, axis=1)

    @cached_property
    def limited(self) -> Flags:
        """GPUs with a limit in force at any time at work: no other can be held."""
        some = (self.bits & (sum(HARD) | CAP)) != 0
        found: Flags = (some & self.active).any(axis=0)
        return found

    def held(self, column: int, gates: Gates) -> tuple[Flags, Array]:
        """Where a GPU is held below its reference, and that reference."""
        bits, clock = self.bits[:, column], self.clock[:, column]
        hard = (bits & sum(HARD)) != 0
        alone = np.isnan(self.peers[:, column])
        # Where most peers are held as well, only the GPU's own highest clock shows it.
        itself = hard & (alone | self.mostly_hard) & gates.own
        reference = np.where(itself, self.highest[:, column], self.peers[:, column])
        low = clock <= (1 - gates.cell * gates.hard) * reference
        by_power = ((bits & CAP) != 0) & (clock <= (1 - gates.cell * gates.cap) * self.peers[:, column])
        if by_power.any() and not self.same_load(column, by_power):
            by_power[:] = False
        return self.active[:, column] & ((low & hard) | by_power), reference

    def same_load(self, column: int, where: Flags) -> bool:
        """Whether the peers do as much: by power, or because the GPU's own limit is lower."""
        if typical(self.limit[:, column] / self.peers_limit[:, column], where) <= SAME_LOAD:
            return True
        return typical(self.peers_power[:, column] / self.power[:, column], where) >= SAME_LOAD

    @cached_property
    def peers_limit(self) -> Array:
        """Median power limit of the others."""
        return _others(self.limit)

    @cached_property
    def peers_power(self) -> Array:
        """Median power of the others."""
        return _others(self.power)

    @cached_property
    def peers_heat(self) -> Array:
        """Median temperature of the others."""
        return _others(self.heat)


def _others(values: Array) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return peers_median(values)


def _bits(grid: Grid, columns: list[int]) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], bool]:
    """Reasons by cell: as read, and those whose time counter grew; whether any of them were known."""
    reasons = grid.sampled("clock_event_reasons")[:, columns]
    known = not np.isnan(reasons).all()
    bits = np.nan_to_num(reasons).astype(np.int64)
    for name, bit in COUNTERS.items():
        counter = grid.raw(name)[:, columns]
        if np.isnan(counter).all():
            continue
        known = True
        share = share_of_time(counter)
        bits |= np.where(held(share, typical_gap(share)) >= TIME_GATE, bit, 0)
    return bits, known


def _held(view: _View, column: int, gates: Gates) -> HeldClock | None:
    if not view.limited[column]:
        return None
    low, reference = view.held(column, gates)
    if np.sum(low & view.read[:, column]) < gates.readings:
        return None
    active = view.active[:, column]
    start, end = longest_run(np.where(low, 1.0, np.where(active, -1.0, 0.0)))
    span = np.zeros(len(low), dtype=bool)
    span[start:end] = True
    known, inside = span & active, span & low
    readings = int(np.sum(inside & view.read[:, column]))
    if readings < gates.readings or inside.sum() < HELD_SHARE * known.sum():
        return None
    newest = np.flatnonzero(active)[-READINGS_MIN:]
    peers, bits = view.peers[:, column], _common_bits(view.bits[inside, column])
    gate = gates.hard if bits & sum(HARD) else gates.cap
    against_peers = bool(typical(view.clock[:, column] / peers, inside) <= 1 - gate)
    if not against_peers and not gates.own:
        return None
    return HeldClock(
        column=column,
        start=start,
        end=end,
        readings=readings,
        clock_mhz=typical(view.clock[:, column], inside),
        reference_mhz=typical(peers if against_peers else reference, inside),
        own=not against_peers,
        bits=bits,
        lasting=bool(low[newest].mean() >= 0.5),
        watts=typical(view.power[:, column], inside),
        peers_watts=typical(view.peers_power[:, column], inside),
        celsius=typical(view.heat[:, column], inside),
        peers_celsius=typical(view.peers_heat[:, column], inside),
    )


def _common_bits(bits: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> int:
    """Reasons that were there at least a third of the time."""
    return sum(bit for bit in (*HARD, CAP) if np.mean((bits & bit) != 0) >= 1 / 3)
