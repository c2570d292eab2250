"""The energy account that never stops: each window of ten minutes of each node, again where samples of it came late."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from warpline_analysis.energy.account import AROUND_SECONDS, SOURCE, account
from warpline_analysis.energy.floors import Floor, stored_floors, watts
from warpline_analysis.parts import by_part
from warpline_proto.batch import Batch
from warpline_proto.errors import QueryError, WarplineError
from warpline_proto.power_tables import ENERGY_INTERVALS, WINDOW_NS

from .merging import HOUR_NS
from .passes import Passes
from .reader import CatalogReader
from .store import Store

PERIOD_SECONDS: Final = 60.0
NODES_MAX: Final = 64
"""Nodes of one question: 512 GPUs, 0.4 GB at most."""
WINDOWS_MAX: Final = 64
"""(Window, nodes) accounted in one pass; what is left follows in the next, the oldest first."""
LATE_SECONDS: Final = 900.0
"""A window whose node went silent in it is accounted once it has been over for so long."""
AGAIN_WINDOWS: Final = 12
"""So many of the newest windows are accounted anew after a start: samples may have come before the last account was written."""
TOLD_NS: Final = 3 * WINDOW_NS
"""A node whose newest window is so much older than that of others is no part of what the fleet draws now."""
_COUNTS: Final = (
    f"SELECT node, time_ns // {WINDOW_NS} * {WINDOW_NS} AS window_ns, count(*) AS samples, max(time_ns) AS newest_ns "
    "FROM device_samples WHERE node IS NOT NULL AND time_ns > 0 GROUP BY ALL"
)
_FAR_NS: Final = 1 << 62
_LOG = logging.getLogger(__name__)
Key = tuple[str, int]
"""Node and start of the window."""


@dataclass(frozen=True)
class Config:
    """Settings of the energy account; without `account` nothing of it is stored, and reports reckon from samples."""

    account: bool = True


class Accounting:
    """`start` and `close`, or `one_pass` by itself; `clock` gives nanoseconds since the epoch."""

    def __init__(
        self, store: Store, reader: CatalogReader, config: Config = Config(), clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._store = store
        self._reader = reader
        self._config = config
        self._clock = clock
        self._accounted: dict[Key, int] | None = None
        self._updated_ns = 0
        self._drawn: dict[str, tuple[int, dict[str, float]]] = {}
        self.newest: Mapping[str, float] = {}
        """Watts in each state in the newest window of each node, for any thread to read."""
        self._passes = Passes("energy", self._turn, reader.interrupt, lambda took: max(PERIOD_SECONDS, took))

    def start(self) -> None:
        """Begin with the passes, in a thread of their own."""
        if self._config.account:
            self._passes.start()

    def close(self) -> None:
        """Stop the pass that runs, and let the thread end."""
        self._passes.close()

    def one_pass(self) -> int:
        """Account what is ripe; how many (window, nodes) were. Durable when it returns."""
        counts, newest = self._counted()
        if self._accounted is None:
            self._accounted = self._remembered(counts)
        due = [key for key, count in counts.items() if self._accounted.get(key, 0) < count and self._ripe(key, newest)]
        floors = stored_floors(self._reader) if due else {}
        done = failed = 0
        for window_ns, nodes in _together(due):
            if done + failed >= WINDOWS_MAX or self._passes.stop.is_set():
                break
            if self._done(window_ns, nodes, counts, floors):
                self._accounted |= {(node, window_ns): counts[node, window_ns] for node in nodes}
                done += 1
            else:
                failed += 1
        self._accounted = {key: count for key, count in self._accounted.items() if key in counts}
        return done

    def _done(
        self, window_ns: int, nodes: Sequence[str], counts: Mapping[Key, int], floors: Mapping[str | None, Floor]
    ) -> bool:
        """Whether the window could be accounted: one whose question fails is tried again, and holds no other up."""
        try:
            if fuller := self._fuller(window_ns, nodes, counts):
                self._account(window_ns, fuller, floors)
        except QueryError as error:
            if not self._passes.stop.is_set():
                _LOG.error(
                    "the energy account of %s failed and is tried again: %s",
                    f"{len(nodes)} nodes at {window_ns}",
                    error,
                )
            return False
        return True

    def _account(self, window_ns: int, nodes: Sequence[str], floors: Mapping[str | None, Floor]) -> None:
        self._updated_ns = max(self._clock(), self._updated_ns + 1)  # the clock may stand still, or be set back
        rows = account(self._reader, window_ns, watts(floors), self._updated_ns, nodes)
        if rows.num_rows:
            self._store.write([Batch(ENERGY_INTERVALS.name, SOURCE, rows)])
            self._tell(window_ns, rows)

    def _tell(self, window_ns: int, rows: pa.RecordBatch) -> None:
        drawn = pa.Table.from_batches([rows]).group_by(["node", "state"]).aggregate([("joules", "sum")])
        told: dict[str, dict[str, float]] = defaultdict(dict)
        for row in drawn.to_pylist():
            if row["joules_sum"] is not None:
                told[row["node"]][row["state"]] = row["joules_sum"] / (WINDOW_NS / 1e9)
        for node, watts_of in told.items():
            if self._drawn.get(node, (0, {}))[0] <= window_ns:
                self._drawn[node] = (window_ns, watts_of)
        newest_ns = max((each for each, _ in self._drawn.values()), default=0)
        self._drawn = {node: each for node, each in self._drawn.items() if newest_ns - each[0] < TOLD_NS}
        totals: dict[str, float] = defaultdict(float)
        for _, watts_of in self._drawn.values():
            for state, drawn_watts in watts_of.items():
                totals[state] += drawn_watts
        self.newest = dict(totals)

    def _fuller(self, window_ns: int, nodes: Sequence[str], counts: Mapping[Key, int]) -> list[str]:
        """Nodes of whose window no account was made of more samples than are left of it, nor one of its whole hour."""
        hour_ns = window_ns // HOUR_NS * HOUR_NS
        told = self._reader.query(
            "SELECT node, CAST(coalesce(sum(samples) FILTER (merged IS NULL), 0) AS BIGINT) AS samples, "
            "count(merged) AS hours FROM energy_states "
            f"WHERE (window_ns = {window_ns} OR (window_ns = {hour_ns} AND merged IS NOT NULL)) GROUP BY node"
        ).to_pylist()
        closed = {
            row["node"] for row in told if row["hours"] or row["samples"] > counts.get((row["node"], window_ns), 0)
        }
        return [node for node in nodes if node not in closed]

    def _counted(self) -> tuple[dict[Key, int], dict[str, int]]:
        """Samples by node and window, and the newest of each node."""
        counts: dict[Key, int] = defaultdict(int)
        newest: dict[str, int] = defaultdict(int)
        for part in by_part(self._reader, "device_samples", _COUNTS).values():
            for row in part.to_pylist():
                counts[row["node"], row["window_ns"]] += row["samples"]
                newest[row["node"]] = max(newest[row["node"]], row["newest_ns"])
        return dict(counts), dict(newest)

    def _remembered(self, counts: Mapping[Key, int]) -> dict[Key, int]:
        """What was accounted before the collector was started, but for the newest windows."""
        rows = self._reader.query(
            "SELECT node, window_ns, max(updated_ns) AS updated_ns FROM energy_intervals GROUP BY ALL"
        ).to_pylist()
        self._updated_ns = max((row["updated_ns"] for row in rows), default=0)
        known = {(row["node"], row["window_ns"]) for row in rows}
        last = max((window_ns for _, window_ns in known), default=0) - AGAIN_WINDOWS * WINDOW_NS
        return {key: count for key, count in counts.items() if key in known and key[1] <= last}

    def _ripe(self, key: Key, newest: Mapping[str, int]) -> bool:
        """Whether nothing more is to be expected of the window: its node has gone on, or has been silent since for long."""
        node, window_ns = key
        end_ns = window_ns + WINDOW_NS
        later_ns = int(AROUND_SECONDS * 1e9)
        return newest[node] >= end_ns + later_ns or self._clock() >= end_ns + int(LATE_SECONDS * 1e9)

    def _turn(self) -> None:
        try:
            self.one_pass()
        except WarplineError as error:
            if not self._passes.stop.is_set():
                _LOG.error("the energy account failed and is tried again: %s", error)


def account_all(store: Store, reader: CatalogReader) -> None:
    """Account everything there is, once: nothing more will come."""
    accounting = Accounting(store, reader, clock=lambda: _FAR_NS)
    while accounting.one_pass():
        pass


def _together(due: Sequence[Key]) -> Iterator[tuple[int, list[str]]]:
    """Windows with the nodes to be accounted in them, the oldest first, NODES_MAX nodes at once."""
    nodes: dict[int, list[str]] = defaultdict(list)
    for node, window_ns in due:
        nodes[window_ns].append(node)
    for window_ns, named in sorted(nodes.items()):
        named.sort()
        for at in range(0, len(named), NODES_MAX):
            yield window_ns, named[at : at + NODES_MAX]
