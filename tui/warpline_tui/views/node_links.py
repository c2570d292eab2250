"""Ports of one node: state, rate, traffic and errors of each, held against the other rails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from ..literal import literal
from ..spans import RECENT
from ..view import Ask

COUNTERS_MAX: Final = 8_000
"""Rows: a port has up to forty counters, a node up to 128 ports."""
ASKED_SECONDS: Final = 5.0
RATED_NS: Final = 30 * 10**9
"""Traffic is told over so long."""
QUIET_BYTES_PER_SECOND: Final = 1e6
"""Rails that carry less are not compared."""
LIGHT: Final = 0.5
"""A rail that carries less than this part of what the others carry is told of."""
STATES: Final = {1: "DOWN", 2: "INIT", 3: "ARMED", 4: "ACTIVE", 5: "ACTIVE (deferred)"}
"""Codes of `state` of an InfiniBand port."""
OPERATIONAL: Final = {1: "UP", 2: "DOWN", 3: "TESTING", 5: "DORMANT", 6: "NOT PRESENT", 7: "LOWER LAYER DOWN"}
"""Codes of `operstate` of a network card (RFC 2863)."""
CARRYING: Final = frozenset(("ACTIVE", "ACTIVE (deferred)", "UP"))
_SENT: Final = ("port_xmit_data", "tx_bytes")
_RECEIVED: Final = ("port_rcv_data", "rx_bytes")


@dataclass(frozen=True)
class Port:
    """One port; None where it does not tell. `errors` grew within the last ten minutes, `full` stand at their ceiling."""

    kind: str
    device: str
    number: int | None
    state: str | None
    bits_per_second: float | None
    sent_bytes_per_second: float | None
    received_bytes_per_second: float | None
    errors: tuple[tuple[str, int], ...]
    total_errors: int
    waited_ticks: int | None
    full: tuple[str, ...]
    odd: tuple[str, ...] = ()
    """What is not as with the other rails, in words."""

    @property
    def name(self) -> str:
        """As NCCL writes it: mlx5_0:1."""
        return self.device if self.number is None else f"{self.device}:{self.number}"


def ports(ask: Ask, node: str, end_ns: int) -> tuple[Port, ...]:
    """Those with something odd first."""
    rows = ask.rows(
        f"""
SELECT link_kind, device, port, counter, any_value(unit) AS unit, arg_max(value, time_ns) AS last,
       arg_min(value, time_ns) AS first, count(DISTINCT time_ns) AS readings,
       coalesce(arg_max(saturated, time_ns), false) AS full,
       (arg_max(value, time_ns) FILTER (time_ns >= {end_ns - RATED_NS}))::DOUBLE
           - (arg_min(value, time_ns) FILTER (time_ns >= {end_ns - RATED_NS}))::DOUBLE AS grown,
       (max(time_ns) - min(time_ns) FILTER (time_ns >= {end_ns - RATED_NS})) / 1e9 AS seconds
FROM link_counters
WHERE node = {literal(node)} AND time_ns BETWEEN {RECENT.start_ns(end_ns)} AND {end_ns} AND {ask.until()} AND value IS NOT NULL
GROUP BY link_kind, device, port, counter ORDER BY ALL LIMIT {COUNTERS_MAX}
""",
        ASKED_SECONDS,
    ).to_pylist()
    by_port: dict[tuple[str, str, int | None], dict[str, dict[str, Any]]] = {}
    for row in rows:
        place = (str(row["link_kind"]), str(row["device"]), row["port"])
        by_port.setdefault(place, {})[str(row["counter"])] = row
    return compared([_port(*place, counters) for place, counters in by_port.items()])


def _port(kind: str, device: str, number: int | None, counters: Mapping[str, dict[str, Any]]) -> Port:
    errors = [(name, row) for name, row in counters.items() if row["unit"] == "errors"]
    grown = {name: _growth(row) for name, row in errors if row["readings"] > 1}
    waited = counters.get("port_xmit_wait")
    return Port(
        kind=kind,
        device=device,
        number=number,
        state=_state(counters),
        bits_per_second=next((row["last"] for name in ("rate", "speed") if (row := counters.get(name))), None),
        sent_bytes_per_second=_rate(counters, _SENT),
        received_bytes_per_second=_rate(counters, _RECEIVED),
        errors=tuple(sorted((name, count) for name, count in grown.items() if count)),
        total_errors=sum(int(row["last"]) for _, row in errors),
        waited_ticks=None if waited is None or waited["readings"] < 2 else _growth(waited),
        full=tuple(name for name, row in counters.items() if row["full"]),
    )


def _state(counters: Mapping[str, dict[str, Any]]) -> str | None:
    for name, words in (("state", STATES), ("operstate", OPERATIONAL)):
        if name in counters:
            code = int(counters[name]["last"])
            return words.get(code, f"state {code}")
    return None


def _growth(row: Mapping[str, Any]) -> int:
    """A counter that was set back counts from there on."""
    last, first = int(row["last"]), int(row["first"])
    return last - first if last >= first else last


def _rate(counters: Mapping[str, dict[str, Any]], names: Iterable[str]) -> float | None:
    found = next((counters[name] for name in names if name in counters), None)
    if found is None or found["grown"] is None or found["grown"] < 0 or not found["seconds"]:
        return None
    return float(found["grown"] / found["seconds"])


def compared(found: Iterable[Port]) -> tuple[Port, ...]:
    """Each with what is odd about it, the odd ones first."""
    listed = list(found)
    told = [Port(**{**port.__dict__, "odd": tuple(_odd(port, _rails(port, listed)))}) for port in listed]
    return tuple(sorted(told, key=lambda each: (not each.odd, each.kind != "infiniband", each.kind, each.name)))


def _rails(port: Port, among: Iterable[Port]) -> list[Port]:
    """Others of its kind that carry traffic."""
    return [each for each in among if each is not port and each.kind == port.kind and each.state in CARRYING]


def _odd(port: Port, rails: list[Port]) -> Iterable[str]:
    if rails and port.state is not None and port.state not in CARRYING:
        yield f"{port.state}, {len(rails)} others carry traffic"
    fastest = max((each.bits_per_second for each in rails if each.bits_per_second), default=None)
    if fastest and port.bits_per_second and port.bits_per_second < fastest:
        yield f"{port.bits_per_second / 1e9:g} Gbit/s, others have {fastest / 1e9:g}"
    carried = [each.sent_bytes_per_second for each in rails if each.sent_bytes_per_second is not None]
    usual = median(carried) if carried else 0.0
    if port.state in CARRYING and port.sent_bytes_per_second is not None and usual >= QUIET_BYTES_PER_SECOND:
        part = port.sent_bytes_per_second / usual
        if part < LIGHT:
            yield f"sends {part:.0%} of what the other rails send"
    yield from (f"{count:,} {name} in 10 min" for name, count in port.errors)
    yield from (f"{name} is at its ceiling: the true count is higher" for name in port.full)
