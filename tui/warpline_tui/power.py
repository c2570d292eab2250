"""What the power page shows of one moment: frozen, plain; energy in joules, None where it is not known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

BY: Final = ("job", "user", "node", "gpu")
"""What energy may be told by, in the order in which a key goes through them."""
RUNNING: Final = frozenset(("active", "execution_idle", "busy_wait", "spinning"))
"""States in which a program is known to hold the GPU."""


class Prices(Protocol):
    """What energy and GPU time cost; there are none where no price is set."""

    @property
    def price_per_kwh(self) -> float:
        """A kilowatt-hour where no tariff holds; 0 where no price of energy is set."""
        ...

    @property
    def price_per_gpu_hour(self) -> float | None:
        """An hour of a GPU, None where no price of it is set."""
        ...

    @property
    def currency(self) -> str:
        """Its name, for people."""
        ...

    def price_at(self, time_ns: int) -> float:
        """A kilowatt-hour at a moment."""
        ...

    def cost(self, joules: float, price_per_kwh: float) -> float:
        """Money for what GPUs drew at one price."""
        ...


@dataclass(frozen=True)
class Live:
    """The newest readings, over GPUs, the last of them at `newest_ns`. `idle` hold a program and do nothing; `unknown` do nothing
    and may hold one."""

    gpus: int
    metered: int
    watts: float | None
    idle: int
    idle_watts: float | None
    unknown: int
    newest_ns: int


@dataclass(frozen=True)
class StateSum:
    """One state over the hour, all GPUs together."""

    state: str
    seconds: float
    joules: float | None
    unmeasured_seconds: float


@dataclass(frozen=True)
class CauseSum:
    """What execution-idle followed, in the word of the account."""

    cause: str | None
    seconds: float
    joules: float | None


@dataclass(frozen=True)
class Drawer:
    """Who drew: `key` is None for what belongs to none. `unknown` is idle of GPUs that may or may not hold a program."""

    key: str | None
    gpus: int
    joules: float | None
    running_seconds: float
    idle_seconds: float
    idle_joules: float | None
    unknown_seconds: float
    unknown_joules: float | None
    busy_wait_seconds: float
    spinning_seconds: float
    unmeasured_seconds: float
    seconds: float
    idle_cost: float | None
    unknown_cost: float | None


@dataclass(frozen=True)
class Power:
    """The live readings, and the last hour of the account; `error` says why these are not newer, `groups` how many
    there are, `now_ns` is what ages are told against, `first_ns` the first window of the hour."""

    by: str = BY[0]
    live: Live | None = None
    first_ns: int | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    states: tuple[StateSum, ...] = ()
    causes: tuple[CauseSum, ...] = ()
    drawers: tuple[Drawer, ...] = ()
    groups: int = 0
    currency: str | None = None
    cost: float | None = None
    idle_cost: float | None = None
    unknown_cost: float | None = None
    error: str | None = None
    now_ns: int = 0

    def of(self, state: str) -> StateSum:
        """One state, zero where it did not occur."""
        return next((each for each in self.states if each.state == state), StateSum(state, 0.0, 0.0, 0.0))

    @property
    def seconds(self) -> float:
        """GPU-seconds of all states."""
        return sum(each.seconds for each in self.states)

    @property
    def joules(self) -> float | None:
        """Over all states; None where nothing is known of any."""
        known = [each.joules for each in self.states if each.joules is not None]
        return sum(known) if known else None

    @property
    def idle_share(self) -> tuple[float, float] | None:
        """Execution-idle over the time in which a program ran: at least, and at most if one held every GPU of which that is
        unknown; None where no program ran."""
        running = sum(each.seconds for each in self.states if each.state in RUNNING)
        return bounds(self.of("execution_idle").seconds, self.of("low_unknown").seconds, running)


def bounds(idle: float, unknown: float, running: float) -> tuple[float, float] | None:
    """Shares without and with the unknown; None of nothing."""
    if running + unknown <= 0:
        return None
    return idle / running if running else 0.0, (idle + unknown) / (running + unknown)
