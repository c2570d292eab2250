"""What the power screen shows: the newest readings each time, the energy account rarely, for it changes rarely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from warpline_proto.errors import WarplineError
from warpline_proto.power_tables import FORGOTTEN_SECONDS, WINDOW_NS

from ..literal import same
from ..power import BY, CauseSum, Drawer, Live, Power, Prices, StateSum
from ..view import Ask
from . import headline

WINDOWS: Final = 6
"""An hour is shown."""
WINDOWS_BEFORE: Final = 3
"""An idle time that began before these lasts for more than half an hour: longer ones are sessions that were forgotten."""
ACCOUNT_SECONDS: Final = 60.0
"""The account is asked again after so long: it grows each ten minutes, and of 10,000 GPUs an answer takes seconds."""
LIVE_NS: Final = 120 * 10**9
"""A GPU that was not heard of for so long before the newest reading does not count; some sources tell programs every 30 s."""
LOW_PERCENT: Final = 5
"""A GPU does nothing below this utilisation."""
DRAWERS_MAX: Final = 200
CAUSES_MAX: Final = 12

_KEYS: Final[Mapping[str, str]] = {
    "job": "job",
    "user": '"user"',
    "node": "node",
    "gpu": "coalesce(node, '?') || ' ' || coalesce(CAST(any_value(gpu_index) AS VARCHAR) || ' ', '') || coalesce(gpu_uuid, '')",
}
_GROUPS: Final[Mapping[str, str]] = {**_KEYS, "gpu": "node, coalesce(gpu_uuid, CAST(gpu_index AS VARCHAR)), gpu_uuid"}


def within(first_ns: int) -> str:
    """SQL: the window belongs to the hour."""
    return f"window_ns BETWEEN {first_ns} AND {first_ns + (WINDOWS - 1) * WINDOW_NS}"


def states(first_ns: int, prices: str, of: str = "TRUE") -> str:
    """SQL: seconds, joules and priced joules by state, of windows from `first_ns` on."""
    return f"""
WITH prices(window_ns, price) AS (VALUES {prices})
SELECT state, sum(seconds) AS seconds, sum(joules) AS joules, sum(unmeasured_seconds) AS unmeasured_seconds,
       sum(joules * price) AS priced, min(start_ns) AS start_ns, max(end_ns) AS end_ns
FROM energy_states LEFT JOIN prices USING (window_ns)
WHERE {within(first_ns)} AND {of} AND state IS NOT NULL GROUP BY state
HAVING sum(seconds) IS NOT NULL AND min(start_ns) IS NOT NULL AND max(end_ns) IS NOT NULL ORDER BY seconds DESC
"""


def causes(first_ns: int, of: str = "TRUE") -> str:
    """SQL: what execution-idle followed, as the view `energy_causes` tells it, from the few windows that this takes."""
    return f"""
WITH numbered AS (
    SELECT *, coalesce(gpu_uuid, CAST(gpu_index AS VARCHAR)) AS gpu, sum(CAST(NOT continued AS INTEGER)) OVER (
        PARTITION BY node, coalesce(gpu_uuid, CAST(gpu_index AS VARCHAR)) ORDER BY start_ns
    ) AS run
    FROM energy_states
    WHERE window_ns BETWEEN {first_ns - WINDOWS_BEFORE * WINDOW_NS} AND {first_ns + (WINDOWS - 1) * WINDOW_NS}
      AND state = 'execution_idle'
), told AS (
    SELECT window_ns, job, seconds, joules, CASE WHEN sum(seconds) OVER whole >= {FORGOTTEN_SECONDS} THEN 'forgotten_session'
        ELSE max(cause) OVER whole END AS cause
    FROM numbered WINDOW whole AS (PARTITION BY node, gpu, run)
)
SELECT cause, sum(seconds) AS seconds, sum(joules) AS joules FROM told
WHERE {within(first_ns)} AND {of} GROUP BY cause HAVING sum(seconds) IS NOT NULL ORDER BY seconds DESC LIMIT {CAUSES_MAX}
"""


def drawers(by: str, first_ns: int, prices: str) -> str:
    """SQL: who drew, those first that drew most while nothing was done."""
    return f"""
WITH prices(window_ns, price) AS (VALUES {prices})
SELECT {_KEYS[by]} AS key, count(DISTINCT coalesce(node, '?') || coalesce(gpu_uuid, CAST(gpu_index AS VARCHAR))) AS gpus,
       sum(joules) AS joules, sum(seconds) AS seconds, count(*) OVER () AS groups,
       coalesce(sum(seconds) FILTER (state IN ('active', 'execution_idle', 'busy_wait', 'spinning')), 0) AS running_seconds,
       coalesce(sum(seconds) FILTER (state = 'execution_idle'), 0) AS idle_seconds,
       sum(joules) FILTER (state = 'execution_idle') AS idle_joules,
       coalesce(sum(seconds) FILTER (state = 'low_unknown'), 0) AS unknown_seconds,
       sum(joules) FILTER (state = 'low_unknown') AS unknown_joules,
       coalesce(sum(seconds) FILTER (state = 'busy_wait'), 0) AS busy_wait_seconds,
       coalesce(sum(seconds) FILTER (state = 'spinning'), 0) AS spinning_seconds,
       coalesce(sum(seconds) FILTER (state IN ('blind', 'unobserved')), 0) AS unmeasured_seconds,
       sum(joules * price) FILTER (state = 'execution_idle') AS idle_priced,
       sum(joules * price) FILTER (state = 'low_unknown') AS unknown_priced
FROM energy_states LEFT JOIN prices USING (window_ns)
WHERE {within(first_ns)} GROUP BY {_GROUPS[by]}
ORDER BY sum(joules) FILTER (state IN ('execution_idle', 'low_unknown', 'spinning')) DESC NULLS LAST,
         joules DESC NULLS LAST, key LIMIT {DRAWERS_MAX}
"""


def live(ask: Ask, newest_ns: int) -> str:
    """SQL: the newest readings, over GPUs."""
    return f"""
WITH newest AS (
    SELECT arg_max(power_watts, time_ns) AS watts, arg_max(resident_processes, time_ns) AS programs,
           arg_max(coalesce(sm_active_percent, gpu_utilization_percent), time_ns) < {LOW_PERCENT} AS low
    FROM device_samples
    WHERE {ask.until()} AND time_ns >= {newest_ns - LIVE_NS}
    GROUP BY node, coalesce(gpu_uuid, bus_id, gpu_index::VARCHAR)
)
SELECT count(*) AS gpus, count(watts) AS metered, sum(watts) AS watts, count(*) FILTER (low AND programs > 0) AS idle,
       sum(watts) FILTER (low AND programs > 0) AS idle_watts, count(*) FILTER (low AND programs IS NULL) AS unknown
FROM newest
"""


def last(ask: Ask, of: str = "TRUE") -> str:
    """SQL: the last window that is accounted, and was over by then."""
    over = ask.until(f"window_ns + {WINDOW_NS}")
    return f"SELECT max(window_ns) AS window_ns FROM energy_intervals WHERE {over} AND {of}"


@dataclass(frozen=True)
class PowerView:
    """Power, told by job, user, node or gpu."""

    by: str = BY[0]

    def take(self, ask: Ask) -> Power:
        """The newest there is; an account that cannot be had keeps nobody from what is drawn now."""
        newest_ns = headline.newest(ask)
        readings = None
        if newest_ns is not None:
            readings = Live(**ask.rows(live(ask, newest_ns)).to_pylist()[0], newest_ns=newest_ns)
        try:
            account = _account(ask, self.by)
        except WarplineError as error:
            account = Power(by=self.by, error=str(error))
        return replace(account, live=readings, now_ns=ask.now_ns)


def accounted(ask: Ask, job: str) -> Power:
    """The last hour of the account that has something of one job, without who drew; an account that cannot be had says why."""
    try:
        return _summed(ask, same("job", job))
    except WarplineError as error:
        return Power(error=str(error))


def _account(ask: Ask, by: str) -> Power:
    summed = replace(_summed(ask), by=by)
    if summed.first_ns is None:
        return summed
    rows = ask.rows(drawers(by, summed.first_ns, _prices(ask, summed.first_ns)), ACCOUNT_SECONDS).to_pylist()
    return replace(
        summed, drawers=tuple(_drawer(row, _per_kwh(ask)) for row in rows), groups=rows[0]["groups"] if rows else 0
    )


def _summed(ask: Ask, of: str = "TRUE") -> Power:
    last_ns = ask.rows(last(ask, of), ACCOUNT_SECONDS)["window_ns"][0].as_py()
    if last_ns is None:
        return Power()
    priced = _per_kwh(ask)
    first_ns = last_ns - (WINDOWS - 1) * WINDOW_NS
    by_state = ask.rows(states(first_ns, _prices(ask, first_ns), of), ACCOUNT_SECONDS).to_pylist()
    if not by_state:  # what was charged to it then was charged to another when it was accounted anew
        return Power()
    followed = ask.rows(causes(first_ns, of), ACCOUNT_SECONDS).to_pylist()
    return Power(
        first_ns=first_ns,
        start_ns=min(row["start_ns"] for row in by_state),
        end_ns=max(row["end_ns"] for row in by_state),
        states=tuple(_state(row) for row in by_state),
        causes=tuple(CauseSum(**row) for row in followed),
        currency=None if priced is None else priced.currency,
        cost=_cost(priced, sum(row["priced"] or 0.0 for row in by_state)),
        idle_cost=_cost(priced, _priced(by_state, "execution_idle")),
        unknown_cost=_cost(priced, _priced(by_state, "low_unknown")),
    )


def _prices(ask: Ask, first_ns: int) -> str:
    """SQL: windows of the hour with the price of each."""
    windows = range(first_ns, first_ns + WINDOWS * WINDOW_NS, WINDOW_NS)
    return ", ".join(f"({window_ns}, {_price(_per_kwh(ask), window_ns)!r}::DOUBLE)" for window_ns in windows)


def _per_kwh(ask: Ask) -> Prices | None:
    """Prices, where one of energy is set."""
    return ask.prices if ask.prices is not None and ask.prices.price_per_kwh else None


def _price(prices: Prices | None, time_ns: int) -> float:
    return 0.0 if prices is None else float(prices.price_at(time_ns))


def _cost(prices: Prices | None, priced: float | None) -> float | None:
    """Money of joules that were multiplied by their price."""
    return None if prices is None else prices.cost(priced or 0.0, 1.0)


def _drawer(row: dict[str, Any], prices: Prices | None) -> Drawer:
    told = {name: value for name, value in row.items() if name != "groups" and not name.endswith("priced")}
    return Drawer(
        **told, idle_cost=_cost(prices, row["idle_priced"]), unknown_cost=_cost(prices, row["unknown_priced"])
    )


def _priced(rows: list[dict[str, Any]], state: str) -> float:
    return sum(row["priced"] or 0.0 for row in rows if row["state"] == state)


def _state(row: dict[str, Any]) -> StateSum:
    return StateSum(row["state"], row["seconds"], row["joules"], row["unmeasured_seconds"] or 0.0)
