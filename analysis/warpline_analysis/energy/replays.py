"""What was recorded, replayed with lower clocks, with fewer active GPUs, and under a cap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import packing, plan_rows
from .headroom import WATTS_STEP, Capped, Powers, capped
from .lowering import EMPTY_WATTS, IDLE_WATTS, MEMORY_SHARE, SM_LOW_WATTS, SM_SHARE, Lowered, low_watts, lowered, saved
from .plan_rows import Ask, paged, real
from .proposal import Bounds, Prices, Proposal, Settings, Wake
from .signals import Numbers, Reals

CAPS: Final = (0.9, 0.8, 0.7, 0.6)
"""Shares of the limit that are tried as caps."""
_CLOCKS: Final = (
    ("guard_sm", "lower the SM clock of idle GPUs", SM_SHARE, SM_LOW_WATTS),
    ("guard_sm_memory", "lower the SM and memory clocks of idle GPUs", MEMORY_SHARE, EMPTY_WATTS),
)


def guards(ask: Ask, start_ns: int, end_ns: int, prices: Prices, settings: Settings, wake: Wake) -> Iterator[Proposal]:
    """The down-clock controller, of the SM clock alone and of both."""
    idle = _Idle(paged(ask, plan_rows.idle, start_ns, end_ns), settings)
    for name, meaning, share, example in _CLOCKS:
        low, model = idle.low(share, example)
        known = ~np.isnan(low)
        least, most = (saved(idle.watts, low, each.seconds) for each in (idle.surely, idle.maybe))
        count = float((idle.surely.wakes & known).sum()), float((idle.maybe.wakes & known).sum())
        told = bool(known.any()) or not len(low)
        yield Proposal(
            name,
            meaning,
            saved_joules=(float(np.nansum(least)), float(np.nansum(most))) if told else None,
            saved_cost=prices.both(least, most, idle.start_ns) if told else None,
            wakes=count if told else None,
            wait_seconds=wake.waits(count) if told else None,
            unknown_joules=idle.left_out_joules + float(np.nansum(idle.joules[~known])),
            assumptions=(model, *_guard_words(settings), wake.words),
            details={"lowered_seconds": [float(each.seconds[known].sum()) for each in (idle.surely, idle.maybe)]},
        )


def _guard_words(settings: Settings) -> tuple[str, ...]:
    rule = settings.rule
    return (
        f"clocks go down after {rule.trigger_seconds:g} s of low activity and stay up for {rule.cooldown_seconds:g} s after "
        "work; low activity of less than 5 s is not in the account and left out, and so are old intervals that are kept as sums",
        "at least: GPUs on which a program was known to run; at most: also those of unknown residency",
        "work that has come is slow until a sample shows it, up to a sampling period: that is not in the wait",
    )


class _Idle:
    """Pieces of low activity, and when clocks would have been low in them."""

    def __init__(self, found: pa.Table, settings: Settings) -> None:
        self._low_watts = settings.low_watts
        alone = found.column("alone")
        self.left_out_joules = float(np.nansum(real(found.filter(pc.invert(alone)), "joules")))
        found = found.filter(alone)
        gpu, start_ns = _codes(found, "gpu"), found.column("start_ns").to_numpy()
        order = np.lexsort((start_ns, gpu))
        known = found.column("known").to_numpy()[order].astype(bool)
        gpu, end_ns = gpu[order], found.column("end_ns").to_numpy()[order]
        self.start_ns: Numbers = start_ns[order]
        self.joules, self.watts, self._floors = (
            real(found, name)[order] for name in ("joules", "watts", "floor_watts")
        )
        self.maybe = lowered(gpu, self.start_ns, end_ns, settings.rule)
        sure = lowered(gpu[known], self.start_ns[known], end_ns[known], settings.rule)
        self.surely = Lowered(np.zeros(len(gpu)), np.zeros(len(gpu), dtype=bool))
        self.surely.seconds[known] = sure.seconds
        self.surely.wakes[known] = sure.wakes

    def low(self, share: float, example: float) -> tuple[Reals, str]:
        """Watts with low clocks by piece, and the model in words."""
        if self._low_watts is not None:
            words = f"a GPU draws {self._low_watts:g} W with low clocks, as was asked for"
            return np.where(np.isnan(self.watts), np.nan, self._low_watts), words
        words = (
            f"with low clocks {share:.0%} is left of what a GPU draws above an empty one of its model, as on the paper's L40S "
            f"({IDLE_WATTS:g} to {example:g} W, empty {EMPTY_WATTS:g} W); models of which none was seen empty are left out"
        )
        return low_watts(self.watts, self._floors, share), words


def consolidation(ask: Ask, start_ns: int, end_ns: int, prices: Prices, settings: Settings, wake: Wake) -> Proposal:
    """Work of each pool on fewer GPUs."""
    found = paged(ask, plan_rows.pools(settings.pool), start_ns, end_ns)
    idle_watts = real(found, "idle_watts")
    low = low_watts(idle_watts, real(found, "floor_watts"), SM_SHARE)
    if settings.low_watts is not None:
        low = np.where(np.isnan(idle_watts), np.nan, settings.low_watts)
    gpus, seconds, busy, together = (real(found, name) for name in ("gpus", "seconds", "busy_seconds", "together"))
    pools = packing.Pools(gpus, seconds, busy, together, idle_watts, low)
    least, most = packing.parked_at_least(pools), packing.parked_at_most(pools)
    known = ~np.isnan(low)
    told = bool(known.any()) or not (seconds > busy).any()
    count = _woken(found, np.where(known, least.gpus, 0.0)), _woken(found, np.where(known, most.gpus, 0.0))
    return Proposal(
        "consolidation",
        f"put the work of each {settings.pool} on fewer GPUs and park the others with a low SM clock",
        saved_joules=(float(np.nansum(least.joules)), float(np.nansum(most.joules))) if told else None,
        saved_cost=prices.both(least.joules, most.joules, found.column("window_ns").to_numpy()) if told else None,
        wakes=count if told else None,
        wait_seconds=wake.waits(count) if told else None,
        unknown_joules=float(np.nansum(real(found, "idle_joules")[~known])),
        assumptions=(
            "work may go to any GPU of its pool, as requests to equal replicas may; that of the ranks of a training job may not",
            "at least: no fewer GPUs stay active than ever worked at once; at most: as few as the work of ten minutes fits on, "
            f"each busy for {packing.BUSY_SHARE_MAX:.0%} of it (in the paper p95 latency rose by 80 to 93 %)",
            "mean utilisation and the energy of the work itself stay as they are; power of parked GPUs as with a low SM clock; "
            "old intervals that are kept as sums are left out",
            wake.words,
        ),
        details={"parked_gpu_hours": [float(each.seconds[known].sum()) / 3600 for each in (least, most)]},
    )


def _woken(found: pa.Table, parked: Reals) -> float:
    """GPUs that are parked in one window of a pool and not in its next."""
    pool = _codes(found, "pool")
    order = np.lexsort((found.column("window_ns").to_numpy(), pool))
    fewer = -np.diff(parked[order])
    return float(np.maximum(fewer[np.diff(pool[order]) == 0], 0.0).sum())


def caps(ask: Ask, start_ns: int, end_ns: int, prices: Prices) -> Iterator[Proposal]:
    """Each of CAPS on all GPUs."""
    kinds = kinds_of(paged(ask, plan_rows.powers, start_ns, end_ns))
    unlimited = sum(powers.joules for powers in kinds if powers.limit_watts is None)
    begin = np.array([start_ns], dtype=np.int64)
    for share in CAPS:
        found = [capped(each, share * each.limit_watts) for each in kinds if each.limit_watts is not None]
        saves = _both(found)
        yield Proposal(
            f"cap_{share * 100:.0f}",
            f"limit every GPU to {share:.0%} of its power limit",
            saved_joules=saves,
            saved_cost=prices.both(np.array(saves[:1]), np.array(saves[1:]), begin) if saves else None,
            wakes=None,
            wait_seconds=(0.0, sum(each.added_seconds_at_most or 0.0 for each in found)) if saves else None,
            unknown_joules=unlimited,
            assumptions=(
                "at most: power above the cap is cut and no work is slower; at least: work slows as power above an idle GPU's "
                "does, and the added time costs energy (below 0: more than the cap saves); the wait is that added time",
                f"power is taken as even within a sample, in steps of {WATTS_STEP:g} W; money by the price at the beginning",
                "runs of a workload at several limits tell more than these bounds (--curves)",
            ),
            details={
                "over_seconds": sum(each.over_seconds for each in found),
                "saved_joules_at_most": sum(each.saved_at_most for each in found),
            },
        )


def _both(found: Sequence[Capped]) -> Bounds | None:
    """None where one of them has no lower bound."""
    least = [each.saved_at_least for each in found if each.saved_at_least is not None]
    return (sum(least), sum(each.saved_at_most for each in found)) if found and len(least) == len(found) else None


def kinds_of(found: pa.Table) -> Sequence[Powers]:
    """Power by GPU model and limit, of the rows of `plan_rows.powers`."""
    rows: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for row in found.to_pylist():
        key = row["gpu_name"], row["limit_watts"], row["floor_watts"]
        rows.setdefault(key, []).append((row["bin"] * WATTS_STEP, row["seconds"]))
    return [
        Powers(np.array([watts for watts, _ in each]), np.array([seconds for _, seconds in each]), limit, floor)
        for (_, limit, floor), each in rows.items()
    ]


def _codes(found: pa.Table, name: str) -> Numbers:
    """A number for each text."""
    codes: Numbers = found.column(name).combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return codes
