"""What an incident cost in money, as far as prices are set."""

from __future__ import annotations

from dataclasses import dataclass

from warpline_proto.finding import Cost

from .power import Prices
from .words import money


@dataclass(frozen=True)
class Lost:
    """An amount in a currency, and what was paid for: GPU time or energy."""

    amount: float
    currency: str
    of: str

    def __str__(self) -> str:
        return f"{money(self.amount)} {self.currency} of {self.of}"


def lost(cost: Cost, prices: Prices | None, dated_ns: int | None) -> Lost | None:
    """GPU-hours at their price; where none is set, energy at the price of the time when it began. None where neither is known.

    The two are not added: what is paid for a GPU-hour mostly holds its energy.
    """
    if prices is None:
        return None
    if prices.price_per_gpu_hour and cost.gpu_hours is not None:
        return Lost(cost.gpu_hours * prices.price_per_gpu_hour, prices.currency, "GPU time")
    if prices.price_per_kwh and cost.joules is not None:
        return Lost(prices.cost(cost.joules, prices.price_at(dated_ns or 0)), prices.currency, "energy")
    return None
