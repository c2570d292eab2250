"""What could have been saved over a time that was recorded, and at which price: lower clocks, fewer active GPUs, a cap.

Nothing is tried on a GPU; every figure is a replay of what was measured, with bounds where something is not known.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .money import Money
from .plan_rows import Ask, totals
from .proposal import Prices, Proposal, Settings, wake
from .replays import caps, consolidation, guards


@dataclass(frozen=True)
class Plan:
    """What `gpus` drew from `start_ns` to before `end_ns`, and what could have been saved of it."""

    start_ns: int
    end_ns: int
    total_joules: float
    gpus: int
    proposals: tuple[Proposal, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with units in their names; bounds are [at least, at most]."""
        plain = asdict(self)
        for each, proposal in zip(plain["proposals"], self.proposals, strict=True):
            each["saved_share"] = proposal.share(self.total_joules)
        return plain


def plan(ask: Ask, start_ns: int, end_ns: int, money: Money, settings: Settings) -> Plan:
    """Of windows that begin from `start_ns` to before `end_ns`; ValueError where they hold too much for one plan."""
    [total] = ask(totals(start_ns, end_ns)).to_pylist()
    prices, delay = Prices(money, start_ns, end_ns), wake(ask, settings)
    proposals = (
        *guards(ask, start_ns, end_ns, prices, settings, delay),
        consolidation(ask, start_ns, end_ns, prices, settings, delay),
        *caps(ask, start_ns, end_ns, prices),
    )
    return Plan(start_ns, end_ns, total["joules"], total["gpus"], proposals)
