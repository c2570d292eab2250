"""What was drawn, by job, user, node, GPU or cause: joules, money and carbon by state, from the energy account.

Every joule is in one line: what belongs to no job is a line of its own, and the lines add up to the growth of the counters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa

from .floors import STORED_FLOORS
from .money import JOULES_PER_KWH, Money
from .states import STATES, State

BY: Final[Mapping[str, str]] = {
    "job": "job",
    "user": '"user"',
    "account": "account",
    "pod": "pod",
    "node": "node",
    "gpu": "coalesce(node, '?') || ' ' || coalesce(gpu_uuid, CAST(gpu_index AS VARCHAR))",
    "model": "gpu_name",
    "cause": "CASE WHEN state = 'execution_idle' THEN coalesce(cause, 'unknown') ELSE 'not idle' END",
    "all": "'all'",
}
"""What may be asked by -> the expression that groups."""
LINES_MAX: Final = 10_000
EXECUTION: Final = (State.EXECUTION_IDLE, State.BUSY_WAIT, State.SPINNING, State.ACTIVE)
"""States in which a program is known to run; deep idle is none, and unknown residency is a bound."""
Ask = Callable[[str], pa.Table]


@dataclass(frozen=True)
class Line:
    """One group. `key` is None for what belongs to none. Joules and seconds by state; unknown money is None.

    `avoidable_joules` is what execution-idle drew above an empty GPU of its model: the most that can be saved; None where
    no such GPU was ever seen. `longer` are the seconds idle from 1, 5 and 10 s on; `maybe` the same of unknown residency.
    """

    key: str | None
    gpus: int
    seconds: Mapping[str, float]
    joules: Mapping[str, float]
    counted_joules: float
    error_joules: float
    unmeasured_seconds: float
    longer: tuple[float, float, float]
    maybe: tuple[float, float, float]
    avoidable_joules: float | None
    cost: float | None
    idle_cost: float | None
    carbon_grams: float | None

    @property
    def total_joules(self) -> float:
        """Over all states."""
        return sum(self.joules.values())

    @property
    def total_seconds(self) -> float:
        """Over all states."""
        return sum(self.seconds.values())

    def idle_shares(self, upper: bool = False) -> tuple[float, ...]:
        """Execution-idle over execution, by threshold; `upper` takes unknown residency for a program."""
        unknown = self.seconds.get("low_unknown", 0.0) if upper else 0.0
        running = sum(self.seconds.get(STATES[state], 0.0) for state in EXECUTION) + unknown
        longer = [low + (more if upper else 0.0) for low, more in zip(self.longer, self.maybe, strict=True)]
        return tuple(each / running if running else 0.0 for each in longer)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with units in their names."""
        plain = asdict(self)
        plain["kwh"] = self.total_joules / JOULES_PER_KWH
        plain["gpu_hours"] = self.total_seconds / 3600
        plain["execution_idle_share"] = dict(zip(("1s", "5s", "10s"), self.idle_shares(), strict=True))
        plain["execution_idle_share_upper"] = dict(zip(("1s", "5s", "10s"), self.idle_shares(upper=True), strict=True))
        return plain


def report(ask: Ask, by: str, start_ns: int, end_ns: int, money: Money, lines_max: int = LINES_MAX) -> Sequence[Line]:
    """Lines of windows that begin from `start_ns` to before `end_ns`, the costliest first.

    `by` is one of BY. What is beyond `lines_max` is one line of key `(others)`, so that lines add up.
    """
    rows = ask(_sql(by, start_ns, end_ns, money)).to_pylist()
    lines = [_line(row, money) for row in rows]
    return lines if len(lines) <= lines_max else [*lines[: lines_max - 1], _others(lines[lines_max - 1 :])]


def accounted(ask: Ask) -> tuple[int | None, int | None]:
    """Start and end of what the account knows, ns."""
    [row] = ask("SELECT min(start_ns) AS start_ns, max(end_ns) AS end_ns FROM energy_intervals").to_pylist()
    return row["start_ns"], row["end_ns"]


def _sql(by: str, start_ns: int, end_ns: int, money: Money) -> str:
    spans = money.spans(start_ns, end_ns) or money.spans(start_ns, start_ns + 1)
    prices = ", ".join(f"({span.start_ns}, {span.price_per_kwh!r}::DOUBLE)" for span in spans)
    by_state = ", ".join(
        f"coalesce(sum(seconds) FILTER (state = '{state}'), 0) AS {state}_seconds, "
        f"coalesce(sum(joules) FILTER (state = '{state}'), 0) AS {state}_joules" for state in STATES
    )  # fmt: skip
    known = f"'{STATES[State.EXECUTION_IDLE]}'"
    unknown = f"'{STATES[State.LOW_UNKNOWN]}'"
    longer = ", ".join(
        f"coalesce(sum(seconds) FILTER (state = {state} AND run_seconds >= {least}), 0) AS {name}_{least}"
        for name, state in (("longer", known), ("maybe", unknown))
        for least in (5, 10)
    )
    told = "NOT list_contains(missing, 'program residency')"
    source = "energy_causes" if by == "cause" else "energy_states"
    return f"""
WITH prices(from_ns, price) AS (VALUES {prices}), floors AS ({STORED_FLOORS}),
priced AS (
  SELECT states.*, price, floors.watts AS floor_watts
  FROM (SELECT * FROM {source} WHERE window_ns >= {start_ns} AND window_ns < {end_ns}) AS states
  ASOF JOIN prices ON greatest(states.window_ns, {spans[0].start_ns}) >= prices.from_ns
  LEFT JOIN floors ON floors.gpu_name IS NOT DISTINCT FROM states.gpu_name
)
SELECT {BY[by]} AS key, count(DISTINCT coalesce(node, '?') || coalesce(gpu_uuid, CAST(gpu_index AS VARCHAR))) AS gpus,
  {by_state}, {longer},
  coalesce(sum(short_seconds) FILTER ({told}), 0) AS short_known, coalesce(sum(short_seconds) FILTER (NOT {told}), 0) AS
  short_unknown, coalesce(sum(joules) FILTER (joules_method = 'counter'), 0) AS counted_joules,
  coalesce(sum(error_joules), 0) AS error_joules, coalesce(sum(unmeasured_seconds), 0) AS unmeasured_seconds,
  CASE WHEN count(*) FILTER (state = {known} AND floor_watts IS NULL) = 0 THEN coalesce(sum(greatest(
    joules - floor_watts * (seconds - unmeasured_seconds), 0)) FILTER (state = {known}), 0) END AS avoidable_joules,
  coalesce(sum(joules * price), 0) AS priced, coalesce(sum(joules * price) FILTER (state = {known}), 0) AS idle_priced
FROM priced GROUP BY key ORDER BY sum(joules) DESC NULLS LAST, key"""


def _line(row: Mapping[str, Any], money: Money) -> Line:
    joules = {state: row[f"{state}_joules"] for state in STATES}
    priced = money.price_per_kwh > 0
    return Line(
        key=row["key"],
        gpus=row["gpus"],
        seconds={state: row[f"{state}_seconds"] for state in STATES},
        joules=joules,
        counted_joules=row["counted_joules"],
        error_joules=row["error_joules"],
        unmeasured_seconds=row["unmeasured_seconds"],
        longer=(row["execution_idle_seconds"] + row["short_known"], row["longer_5"], row["longer_10"]),
        maybe=(row["low_unknown_seconds"] + row["short_unknown"], row["maybe_5"], row["maybe_10"]),
        avoidable_joules=row["avoidable_joules"],
        cost=money.cost(row["priced"], 1.0) if priced else None,
        idle_cost=money.cost(row["idle_priced"], 1.0) if priced else None,
        carbon_grams=money.carbon_grams(sum(joules.values())) if money.carbon_grams_per_kwh else None,
    )


def _others(lines: Sequence[Line], key: str = "(others)") -> Line:
    def summed(name: str) -> float | None:
        values = [getattr(line, name) for line in lines]
        return None if None in values else sum(values)

    def threefold(name: str) -> tuple[float, float, float]:
        one, five, ten = (sum(getattr(line, name)[at] for line in lines) for at in range(3))
        return one, five, ten

    return Line(
        key=key,
        gpus=sum(line.gpus for line in lines),
        seconds={state: sum(line.seconds[state] for line in lines) for state in STATES},
        joules={state: sum(line.joules[state] for line in lines) for state in STATES},
        counted_joules=summed("counted_joules") or 0.0,
        error_joules=summed("error_joules") or 0.0,
        unmeasured_seconds=summed("unmeasured_seconds") or 0.0,
        longer=threefold("longer"),
        maybe=threefold("maybe"),
        avoidable_joules=summed("avoidable_joules"),
        cost=summed("cost"),
        idle_cost=summed("idle_cost"),
        carbon_grams=summed("carbon_grams"),
    )
