"""Ports of the fabric and what their counters did: growth, resets, ceilings, states and rates, and who is a port's sibling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from .detector import Reader
from .node_clocks import on_one_clock
from .robust import Array

WINDOW_SECONDS: Final = 900
"""Newest part of each node's counters that is looked at."""
RATED_SECONDS: Final = 24 * 3600
"""A port is rated at the highest speed that it showed in so long."""
ACTIVE: Final = 4
STATES: Final = {1: "DOWN", 2: "INIT", 3: "ARMED", 4: "ACTIVE", 5: "ACTIVE_DEFER"}
"""Codes of `state` (ib_port_state)."""
UNPLUGGED: Final = (1, 2, 3)
"""Codes of `phys_state` of a port that nobody uses: Sleep, Polling, Disabled."""
SIMILAR_TRAFFIC: Final = 0.1
READINGS: Final = ("state", "phys_state", "rate")
DOWNED: Final = "link_downed"
CABLE: Final = (
    "symbol_error", "link_error_recovery", "local_link_integrity_errors", "excessive_buffer_overrun_errors",
    "port_rcv_errors", "port_rcv_remote_physical_errors",
)  # fmt: skip
"""Errors of the wire: cable, optics, connector."""
LOSS: Final = (
    "port_xmit_discards", "out_of_sequence", "packet_seq_err", "local_ack_timeout_err", "rnr_nak_retry_err",
    "roce_adp_retrans", "roce_adp_retrans_to", "roce_slow_restart",
)  # fmt: skip
"""Packets that were lost, came too late or had to be sent again."""
CONGESTION: Final = {
    "port_xmit_wait": "port_xmit_data",
    "np_cnp_sent": "port_rcv_data",
    "np_ecn_marked_roce_packets": "port_rcv_data",
    "rp_cnp_handled": "port_xmit_data",
}
"""Signs of congestion, each with the traffic it is measured by."""
COUNTERS: Final = (*READINGS, DOWNED, *CABLE, *LOSS, *CONGESTION, "port_xmit_data", "port_rcv_data")
PORTS: Final = (
    "FROM link_counters WHERE link_kind IN ('infiniband', 'ethernet') AND port IS NOT NULL AND device IS NOT NULL "
    "AND value IS NOT NULL"
)
"""Ports of adapters. Network cards (without a port number) carry management traffic and come and go with containers."""


@dataclass(frozen=True)
class Counter:
    """One counter of one port over the window; `values` is how many different ones were read."""

    first: int
    last: int
    values: int
    full_at_first: bool
    full: bool

    @property
    def growth(self) -> int | None:
        """What it grew by; after a reset from zero. None where it stood at its ceiling from the first reading."""
        if self.full_at_first:
            return None
        return self.last - self.first if self.last >= self.first else self.last


@dataclass(frozen=True)
class Port:
    """One port; `readings` at different times over `seconds`."""

    node: str | None
    kind: str
    device: str
    number: int
    readings: int
    seconds: float
    counters: Mapping[str, Counter]
    highest_rate: int | None = None
    """Bits a second within RATED_SECONDS."""

    @property
    def name(self) -> str:
        """As NCCL writes it: mlx5_0:1."""
        return f"{self.device}:{self.number}"

    @property
    def label(self) -> str:
        """Port mlx5_0:1 of node3."""
        return f"Port {self.name}{f' of {self.node}' if self.node else ''}"

    def last(self, counter: str) -> int | None:
        """Newest value."""
        return self.counters[counter].last if counter in self.counters else None

    def first(self, counter: str) -> int | None:
        """Oldest value of the window."""
        return self.counters[counter].first if counter in self.counters else None

    def growth(self, counter: str) -> int | None:
        """What the counter grew by, where it can be told."""
        found = self.counters.get(counter)
        return found.growth if found and self.readings > 1 else None

    @property
    def traffic(self) -> float:
        """Bytes sent and received; NaN where not known."""
        sent, received = self.growth("port_xmit_data"), self.growth("port_rcv_data")
        return float(sent + received) if sent is not None and received is not None else np.nan

    def per_unit(self, counter: str) -> float | None:
        """Growth for each second; of a sign of congestion, for each byte of its traffic."""
        growth = self.growth(counter)
        base = self.growth(CONGESTION[counter]) if counter in CONGESTION else self.seconds
        return growth / base if growth is not None and base else None


@dataclass(frozen=True)
class Fabric:
    """All ports, with an index of who is whose sibling."""

    ports: tuple[Port, ...]

    @cached_property
    def _rails(self) -> dict[tuple[str, str, int], list[Port]]:
        return _by(self.ports, lambda port: (port.kind, port.device, port.number))

    @cached_property
    def _nodes(self) -> dict[tuple[str | None, str], list[Port]]:
        return _by(self.ports, lambda port: (port.node, port.kind))

    @cached_property
    def _levels(self) -> dict[tuple[Any, str], Array]:
        return {}

    def rail(self, port: Port) -> list[Port]:
        """The same port of other nodes."""
        return [each for each in self._rails[port.kind, port.device, port.number] if each is not port]

    def neighbours(self, port: Port) -> list[Port]:
        """Other ports of the node, of the same kind."""
        return [each for each in self._nodes[port.node, port.kind] if each is not port]

    def siblings_level(self, port: Port, counter: str, whole_node: bool) -> tuple[float, float, int]:
        """What siblings show of a counter: their median, the share of them at a tenth of the port's or more, how many.

        Siblings are the same port of other nodes and, with `whole_node`, the node's other ports. What comes with traffic is
        compared only with siblings that carry some: SIMILAR_TRAFFIC of the port's at least.
        """
        own = port.per_unit(counter)
        if own is None:
            return np.nan, np.nan, 0
        shown = [self._level(("rail", port.kind, port.device, port.number), self._rails, counter)]
        if whole_node:
            shown.append(self._level(("node", port.node, port.kind), self._nodes, counter))
        values, traffic = np.hstack([_without(table, own, port.traffic) for table in shown])
        if counter not in CABLE:
            values = values[~(traffic < SIMILAR_TRAFFIC * port.traffic)]
        if not len(values):
            return np.nan, np.nan, 0
        return float(np.median(values)), float(np.mean(values >= own / 10)), len(values)

    def _level(self, key: tuple[Any, ...], groups: Mapping[Any, list[Port]], counter: str) -> Array:
        """(2, ports) of a group: what they show of the counter, and their traffic."""
        if (key, counter) not in self._levels:
            shown = [(value, port.traffic) for port in groups[key[1:]] if (value := port.per_unit(counter)) is not None]
            self._levels[key, counter] = np.array(shown, dtype=np.float64).reshape(-1, 2).T
        return self._levels[key, counter]


def _by(ports: Iterable[Port], key: Any) -> dict[Any, list[Port]]:
    groups: dict[Any, list[Port]] = {}
    for port in ports:
        groups.setdefault(key(port), []).append(port)
    return groups


def _without(table: Array, own: float, traffic: float) -> Array:
    """The table less one column that is the port's own."""
    mine = (table[0] == own) & ((table[1] == traffic) | np.isnan(traffic))
    place = np.flatnonzero(mine)
    result: Array = np.delete(table, place[:1], axis=1)
    return result


def load_fabric(reader: Reader) -> Fabric:
    """Every port that was read, over the newest WINDOW_SECONDS of its node; rows without a time are one reading."""
    names = ", ".join(f"'{name}'" for name in COUNTERS)
    rows = reader.query(
        f"WITH newest AS (SELECT coalesce(node, '') AS place, source, max(coalesce(time_ns, 0)) AS newest_ns {PORTS} "
        "GROUP BY ALL) SELECT node, source, link_kind, device, port, counter, count(DISTINCT at_ns) AS readings, "
        "min(at_ns) AS first_ns, max(at_ns) AS last_ns, arg_min(value, at_ns) AS first, arg_max(value, at_ns) AS last, "
        "count(DISTINCT value) AS values, arg_min(coalesce(saturated, false), at_ns) AS full_at_first, "
        "arg_max(coalesce(saturated, false), at_ns) AS full "
        f"FROM (SELECT *, coalesce(time_ns, 0) AS at_ns, coalesce(node, '') AS place {PORTS} AND counter IN ({names})) "
        "AS readings JOIN newest USING (place, source) "
        f"WHERE at_ns >= newest_ns - {WINDOW_SECONDS * 10**9} GROUP BY ALL ORDER BY node, source, device, port, counter"
    ).to_pylist()
    rated = _rated(reader)
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["node"], row["link_kind"], row["device"], row["port"], row["source"]), []).append(row)
    chosen: dict[tuple[Any, ...], Port] = {}
    for key, members in groups.items():
        port = _port(key, members, rated.get(key))
        if key[:4] not in chosen or chosen[key[:4]].readings < port.readings:
            chosen[key[:4]] = port
    return Fabric(tuple(chosen.values()))


def _rated(reader: Reader) -> dict[tuple[Any, ...], int]:
    """The highest rate of each port, as `load_fabric` keys them."""
    time = on_one_clock(reader)
    rows = reader.query(
        f"SELECT node, link_kind, device, port, source, max(value) AS rate {PORTS} AND counter = 'rate' AND coalesce({time}, 0) "
        f">= (SELECT coalesce(max({time}), 0) FROM link_counters) - {RATED_SECONDS * 10**9} GROUP BY ALL"
    ).to_pylist()
    return {(row["node"], row["link_kind"], row["device"], row["port"], row["source"]): row["rate"] for row in rows}


def _port(key: tuple[Any, ...], rows: Sequence[Mapping[str, Any]], highest_rate: int | None) -> Port:
    names = ("first", "last", "values", "full_at_first", "full")
    node, kind, device, number, _ = key
    return Port(
        node,
        kind,
        device,
        number,
        readings=max(row["readings"] for row in rows),
        seconds=(max(row["last_ns"] for row in rows) - min(row["first_ns"] for row in rows)) / 1e9,
        counters={row["counter"]: Counter(**{name: row[name] for name in names}) for row in rows},
        highest_rate=highest_rate,
    )
