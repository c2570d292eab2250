"""The energy account that never stops: each window of ten minutes of each node, again where samples of it came late."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa

from warpline_analysis.energy.account import AROUND_SECONDS, SOURCE, account
from warpline_analysis.energy.floors import Floor, stored_floors, watts
from warpline_analysis.parts import Numbers, by_part
from warpline_proto.batch import Batch
from warpline_proto.errors import QueryError, WarplineError
from warpline_proto.power_tables import ENERGY_INTERVALS, WINDOW_NS

from .merging import HOUR_NS
from .passes import Passes
from .reader import CatalogReader, Query
from .schema import text
from .segments import Segment
from .store import Store
from .windows import Nodes, Windows, counted

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
        self._nodes = Nodes()
        self._accounted: Windows | None = None
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
        counts, newest_ns = counted(by_part(self._reader, "device_samples", _COUNTS), self._nodes)
        accounted = self._remembered(counts) if self._accounted is None else self._accounted.at(counts.keys)
        due = self._due(counts, accounted, newest_ns)
        floors = stored_floors(self._reader) if due else {}
        done = failed = 0
        for window_ns, nodes in _together(list(due)):
            if done + failed >= WINDOWS_MAX or self._passes.stop.is_set():
                break
            samples = {node: int(counts.counts[due[node, window_ns]]) for node in nodes}
            if self._done(window_ns, samples, floors):
                accounted[[due[node, window_ns] for node in nodes]] = list(samples.values())
                done += 1
            else:
                failed += 1
        self._accounted = Windows(counts.keys, accounted)
        return done

    def _due(self, counts: Windows, accounted: Numbers, newest_ns: Numbers) -> dict[Key, int]:
        """Windows with more samples than were accounted of which nothing more is to be expected, as many as one pass takes.

        Their node has gone on, or has been silent since for long. With the place of each in `counts`, the oldest first.
        """
        ends_ns = counts.starts_ns + WINDOW_NS
        gone_on = newest_ns[counts.nodes] >= ends_ns + int(AROUND_SECONDS * 1e9)
        silent = ends_ns <= self._clock() - int(LATE_SECONDS * 1e9)
        places = np.flatnonzero((counts.counts > accounted) & (gone_on | silent))
        oldest = places[np.argsort(ends_ns[places], kind="stable")][: WINDOWS_MAX * NODES_MAX].tolist()
        return {(self._nodes.name(int(counts.keys[place])), int(ends_ns[place]) - WINDOW_NS): place for place in oldest}

    def _done(self, window_ns: int, samples: Mapping[str, int], floors: Mapping[str | None, Floor]) -> bool:
        """Whether the window could be accounted: one whose question fails is tried again, and holds no other up."""
        try:
            if fuller := self._fuller(window_ns, samples):
                self._account(window_ns, fuller, floors)
        except QueryError as error:
            if not self._passes.stop.is_set():
                told = "the energy account of %d nodes at %d failed and is tried again: %s"
                _LOG.error(told, len(samples), window_ns, error)
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

    def _fuller(self, window_ns: int, samples: Mapping[str, int]) -> list[str]:
        """Nodes of whose window no account was made of more samples than are left of it, nor one of its whole hour."""
        hour_ns = window_ns // HOUR_NS * HOUR_NS
        told = self._reader.query(
            "SELECT node, CAST(coalesce(sum(samples) FILTER (merged IS NULL), 0) AS BIGINT) AS samples, "
            "count(merged) AS hours FROM energy_states "
            f"WHERE (window_ns = {window_ns} OR (window_ns = {hour_ns} AND merged IS NOT NULL)) GROUP BY node"
        ).to_pylist()
        closed = {row["node"] for row in told if row["hours"] or row["samples"] > samples.get(row["node"], 0)}
        return [node for node in samples if node not in closed]

    def _remembered(self, counts: Windows) -> Numbers:
        """What was accounted before the collector was started, but for the newest windows."""
        [newest] = self._reader.query("SELECT max(updated_ns) AS updated_ns FROM energy_intervals").to_pylist()
        self._updated_ns = newest["updated_ns"] or 0
        starts_ns = counts.starts_ns
        known = self._reader.query(
            "SELECT DISTINCT node, window_ns FROM energy_intervals WHERE node IS NOT NULL AND window_ns >= ?",
            [int(starts_ns.min(initial=_FAR_NS))],
        )
        if not known.num_rows:
            return np.zeros(len(counts.keys), np.int64)
        windows_ns = known.column("window_ns").to_numpy()
        keys = self._nodes.keys(known.column("node").combine_chunks(), windows_ns)
        last_ns = windows_ns.max() - AGAIN_WINDOWS * WINDOW_NS
        return np.where(np.isin(counts.keys, keys) & (starts_ns <= last_ns), counts.counts, 0)

    def _turn(self) -> None:
        try:
            self.one_pass()
        except WarplineError as error:
            if not self._passes.stop.is_set():
                _LOG.error("the energy account failed and is tried again: %s", error)


def unaccounted(connection: duckdb.DuckDBPyConnection, query: Query, segment: Segment, path: Path) -> int:
    """Readings in `path`, the file of a segment of device_samples, of whose window their node has no account yet."""
    first_ns, last_ns = segment.time_min_ns or 0, segment.time_max_ns or _FAR_NS
    told = query(
        "SELECT DISTINCT node, window_ns, merged IS NOT NULL AS whole_hour FROM energy_intervals "
        f"WHERE node IS NOT NULL AND window_ns BETWEEN {max(first_ns, 0) // HOUR_NS * HOUR_NS} AND {last_ns}"
    )
    accounts = "SELECT 1 FROM told_rows WHERE told_rows.node = readings.node AND {which} AND window_ns = {start}"
    window = accounts.format(which="NOT whole_hour", start=f"time_ns // {WINDOW_NS} * {WINDOW_NS}")
    hour = accounts.format(which="whole_hour", start=f"time_ns // {HOUR_NS} * {HOUR_NS}")
    connection.register("told_rows", told)
    try:
        [[readings]] = connection.sql(
            f"SELECT count(*) FROM read_parquet({text(str(path))}) AS readings WHERE node IS NOT NULL AND time_ns > 0 "
            f"AND (gpu_uuid IS NOT NULL OR gpu_index IS NOT NULL) AND NOT EXISTS ({window}) AND NOT EXISTS ({hour})"
        ).fetchall()
    finally:
        connection.unregister("told_rows")
    return int(readings)


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
