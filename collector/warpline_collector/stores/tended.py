"""The DuckDB store that looks after itself: it lets go of what is old, sets aside what is damaged, and is copied as it works."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from warpline_proto.batch import Frame
from warpline_proto.errors import QueryError
from warpline_proto.tables import DEVICE_SAMPLES, ENERGY_INTERVALS, SOURCE_HEALTH, TABLES

from .. import backup, joining, ledger, merging, parquet, retention
from ..accounting import unaccounted
from ..engine import refusals
from ..history import HISTORY_OF, windows_missing
from ..schema import quoted
from ..segments import Segment
from ..steady import Steady, passed
from .duckdb import Config, DuckDBStore

SEGMENTS_NS: Final = 60 * 10**9
"""How often segments are held against what is to be kept."""
ASIDE: Final = "aside"
"""Folder of files that were taken out because they are damaged; nothing reads or removes them."""
UNTOLD_AGES: Final = 2
"""Readings without their history or their energy account wait for it this many times their age or bytes, then they go without."""
ASKED_MAX: Final = 64
"""Files of one table that are held against history and account in a turn, in which nobody stores; others follow in the next."""
_LOG = logging.getLogger(__name__)


class TendedStore(DuckDBStore):
    """See `DuckDBStore`; `kept` says for how long, `accounted` whether the energy of the readings in it is accounted."""

    def __init__(
        self,
        directory: Path,
        config: Config | None = None,
        clock: Callable[[], int] = time.time_ns,
        kept: retention.Config | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        accounted: bool = False,
    ) -> None:
        self._kept = kept or retention.Config()
        longest = self._kept.rule(DEVICE_SAMPLES.name).times(UNTOLD_AGES)
        self._accounted = accounted and self._kept.rule(ENERGY_INTERVALS.name).outlasts(longest)
        self._segments_seen_ns = 0
        self._rows_seen_ns = clock()  # agents are heard before they are looked at
        self._merged: set[int] = set()
        self._asked_ns: dict[int, int] = {}
        self._heard: dict[ledger.Key, int] = {}
        self._aging: Callable[[], int] = clock  # until it is known what was sealed before
        super().__init__(directory, config or Config(), clock)
        self._aging = Steady(clock, self.newest_ns or None, monotonic)

    @property
    def newest_ns(self) -> int:
        """When the newest segment was sealed, by the clock of then; 0 where there is none."""
        return max((each.sealed_ns for each in self._manifest.segments), default=0)

    def append(self, frames: Sequence[Frame]) -> Sequence[bool]:
        """As `DuckDBStore.append`; remembers by the collector's own clock who sends."""
        stored = super().append(frames)
        self._heard |= dict.fromkeys(((frame.agent, frame.boot) for frame in frames), self._clock())
        return stored

    def maintain(self) -> None:
        """As `DuckDBStore.maintain`; then small hot files become one and full segments large ones, while nobody waits."""
        super().maintain()
        with refusals():
            self._thin_hot()
            self._join_full()
            backup.serve(self.directory, self._copied)

    def _copied(self, destination: Path) -> backup.Copied:
        """A copy: rows and links while nobody writes, bytes for another disk while others do."""
        with self._mutex:
            self._make_ready()
            begun = backup.begin(self.directory, destination, self._connection)
        return begun.finish()

    def compact(self) -> int:
        """Merge all segments that can be, now; how many files became fewer. StoreError if the disk refuses."""
        with self._mutex, refusals():
            self._make_ready()
            before = len(self._manifest.segments)
            for name, table in TABLES.items():
                while table.large and (small := self._small(name, all_days=True)):
                    self._compact(name, small)
            self._publish()
            return before - len(self._manifest.segments)

    def set_aside(self) -> list[tuple[Segment, str]]:
        """Take out every segment that is damaged, each page looked at, or missing; its file stays in `aside`."""
        with self._mutex, refusals():
            self._make_ready()
            found = []
            for segment in self._manifest.segments:
                reason = segment.damaged or parquet.damage(self.directory / segment.path, segment.bytes, deep=True)
                if reason is not None:
                    self._take_out(segment, reason)
                    found.append((segment, reason))
            return found

    def _full(self) -> Sequence[Segment]:
        """Full segments of one table that come to a large one; none where there are none."""
        for name in TABLES:
            listed = [each for each in self._manifest.readable(name) if each.current]
            chosen = joining.full(listed, self._span_ns(name), self._full_rows, self._config.merge_rows)
            if chosen:
                return chosen
        return ()

    def _thin_hot(self) -> None:
        """Merge small hot files beside the commits: within one it would hold up acknowledgements for tenths of a second."""
        with self._mutex:
            self._make_ready()
            tail = self._hot
            crowds = tail.crowds()
        for crowd in crowds:
            try:
                merged = tail.merged(crowd)
            except FileNotFoundError:  # sealed, or opened anew, meanwhile
                continue
            except (OSError, pa.ArrowException) as error:
                _LOG.warning("hot files of %s could not be merged, all are written anew: %s", crowd.table, error)
                with self._mutex:
                    self._stale.add(crowd.table)
                continue
            with self._mutex:
                self._make_ready()
                if self._hot is not tail:
                    (self.directory / merged.path).unlink(missing_ok=True)
                    return
                if tail.adopt(crowd, merged):
                    self._publish()

    def _join_full(self) -> None:
        """Make one large segment, where there is enough for it: written while others store, listed if nothing came between."""
        with self._mutex:
            self._make_ready()
            chosen = self._full()
            if not chosen:
                return
            manifest = self._manifest
            place = manifest.place(chosen[0].table_name)
        try:
            segment = joining.joined(self.directory, place, chosen)
        except (OSError, pa.ArrowException):
            if self._left_out(chosen):
                return
            raise
        with self._mutex:
            self._make_ready()
            if self._manifest is not manifest or not manifest.lists(chosen):
                # Opened anew meanwhile, the number may be another's; or what was to be merged is no longer listed.
                (self.directory / segment.path).unlink(missing_ok=True)
                return
            self._replace(segment, chosen)
            self._publish()

    def _left_out(self, chosen: Sequence[Segment]) -> bool:
        """Leave out what is damaged among these; whether something was."""
        before = self._generation
        with self._mutex:
            for segment in chosen:
                reason = parquet.damage(self.directory / segment.path, segment.bytes, deep=True)
                if reason is not None:
                    self._manifest.mark(segment, reason)
                    self._generation += 1
            found = self._generation != before
            self._publish()
        return found

    def _sealing_ns(self) -> int:
        return self._aging()

    def _span_ns(self, name: str) -> int:
        return self._kept.span_ns(name)

    def _tend(self) -> None:
        now_ns = self._aging()
        if passed(self._segments_seen_ns, now_ns, SEGMENTS_NS):
            self._segments_seen_ns = now_ns
            for name, table in TABLES.items():
                if table.large:
                    self._retain_segments(name, now_ns)
        self._merge_account(now_ns - self._kept.account_merge_days * retention.DAY_NS)
        if passed(self._rows_seen_ns, now_ns, self._kept.rows_look_ns):
            self._rows_seen_ns = now_ns
            for name, table in TABLES.items():
                if not table.large:
                    self._retain_rows(name, now_ns)
            self._fold_ledger(now_ns - self._kept.agent_days * retention.DAY_NS)

    def _retain_segments(self, name: str, now_ns: int) -> None:
        rule = self._kept.rule(name)
        for going in retention.going(self._manifest.readable(name), rule, now_ns):
            segments, unaccounted = going.segments, 0
            if name in HISTORY_OF:
                late = {
                    each.ordinal
                    for more in retention.going(self._manifest.readable(name), rule.times(UNTOLD_AGES), now_ns)
                    for each in more.segments
                }
                asked = self._next_to_ask(segments, late, now_ns)
                segments = [each for each in asked if each.ordinal in late or not self._untold(each)]
                unaccounted = sum(self._unaccounted(each) for each in segments if each.ordinal in late)
            if segments:
                self._let_go(retention.Going(segments, going.reason), name, now_ns, unaccounted)

    def _next_to_ask(self, segments: Sequence[Segment], late: Container[int], now_ns: int) -> Sequence[Segment]:
        """Those that go in any case, then those that were not asked for the longest time: one that waits holds up no other."""
        listed = {each.ordinal for each in self._manifest.segments}
        self._asked_ns = {ordinal: at_ns for ordinal, at_ns in self._asked_ns.items() if ordinal in listed}
        order = sorted(segments, key=lambda each: (each.ordinal not in late, self._asked_ns.get(each.ordinal, 0)))
        self._asked_ns |= dict.fromkeys((each.ordinal for each in order[:ASKED_MAX]), now_ns)
        return order[:ASKED_MAX]

    def _merge_account(self, edge_ns: int) -> None:
        """Merge the hours of the oldest segment of the account that is due, if one is; one a turn."""
        name = ENERGY_INTERVALS.name
        listed = self._manifest.readable(name)
        oldest = [each for each in listed if each.sealed_ns < edge_ns and each.ordinal not in self._merged]
        due = next((each for each in oldest if not self._is_merged(each)), None)
        if due is None:
            return
        if self._hot_rows[name]:
            self._seal(name)  # a later account of one of the hours may be among them
        start_ns, end_ns = merging.hours(self._manifest.read(due))
        rows, taken = self._read_all(merging.touching(self._manifest.readable(name), start_ns, end_ns))
        merged = merging.merged(self._connection, rows, start_ns, end_ns)
        self._replace(self._manifest.store(name, merged, max(each.sealed_ns for each in taken)), taken)

    def _is_merged(self, segment: Segment) -> bool:
        """Whether nothing is left to merge in it, asked of each file once; a damaged one is left as it is."""
        try:
            if not merging.is_merged(self.directory / segment.path):
                return False
        except (OSError, pa.ArrowException) as error:
            self._manifest.mark(segment, f"cannot be read: {error}")
        self._merged.add(segment.ordinal)
        return True

    def _untold(self, segment: Segment) -> bool:
        """Whether the ten-minute history or the energy account of its rows is still to be made."""
        path = self.directory / segment.path
        try:
            untold = windows_missing(self._connection, self.query, path, segment.table_name)
        except (duckdb.Error, QueryError) as error:
            _LOG.warning("%s cannot be held against its history: %s", segment.path, error)
            return False
        return untold or self._unaccounted(segment) > 0

    def _unaccounted(self, segment: Segment) -> int:
        """Readings in it whose energy is still to be accounted."""
        if not self._accounted or segment.table_name != DEVICE_SAMPLES.name:
            return 0
        try:
            return unaccounted(self._connection, self.query, segment, self.directory / segment.path)
        except (duckdb.Error, QueryError) as error:
            _LOG.warning("%s cannot be held against the energy account: %s", segment.path, error)
            return 0

    def _let_go(self, going: retention.Going, name: str, now_ns: int, unaccounted: int) -> None:
        told = f"{going.reason}: {going.rows} rows, {going.bytes} bytes, {len(going.segments)} segments removed"
        if unaccounted:
            told += f", {unaccounted} readings before their energy was accounted"
            _LOG.warning("retention of %s: %s", name, told)
        self._strike(going.segments, _row(f"retention of {name}", "fresh", told, now_ns, going.rows))
        for segment in going.segments:
            self._grace.retire(segment.path)

    def _strike(self, segments: Sequence[Segment], told: Mapping[str, Any]) -> None:
        with self._enlisting():
            self._commit(_health(told), {}, lambda: self._manifest.strike(segments))

    def _retain_rows(self, name: str, now_ns: int) -> None:
        held = self._count(name)
        size = sum((self.directory / path).stat().st_size for path in self._hot.paths(name))
        for condition, reason in retention.surplus(TABLES[name], self._kept, now_ns, size, held):
            select = f"SELECT count(*) FROM {quoted(name)} WHERE {condition}"
            rows = int(self._connection.sql(select).fetchall()[0][0])
            if rows:
                self._delete(
                    name,
                    condition,
                    _row(f"retention of {name}", "fresh", f"{reason}: {rows} rows removed", now_ns, rows),
                )

    def _delete(self, name: str, condition: str, told: Mapping[str, Any]) -> None:
        def within() -> None:
            self._connection.execute(f"DELETE FROM {quoted(name)} WHERE {condition}")
            self._stale.add(name)

        self._commit(_health(told), {}, within)
        self._hot_rows[name] = self._count(name)

    def _fold_ledger(self, edge_ns: int) -> None:
        gone = [
            key
            for key, entry in self._ledger.items()
            if key[1] != ledger.EARLIER and entry.last_ns < edge_ns and self._heard.get(key, 0) < edge_ns
        ]
        if not gone:
            return

        def within() -> None:
            for key in gone:
                self._connection.execute(ledger.REMOVE, key)

        self._commit({}, ledger.fold(self._ledger, gone), within)
        for key in gone:
            del self._ledger[key]
            self._heard.pop(key, None)

    def _take_out(self, segment: Segment, reason: str) -> None:
        path = self.directory / segment.path
        if path.exists():
            place = self.directory / ASIDE / segment.table_name
            place.mkdir(parents=True, exist_ok=True)
            path.rename(place / path.name)
            parquet.sync_directory(place)
        told = f"segment of table {segment.table_name} {reason}; set aside with {segment.rows} rows"
        self._strike([segment], _row(segment.path, "refused", told, self._clock(), segment.rows))


def _row(subject: str, state: str, reason: str, now_ns: int, dropped: int) -> dict[str, Any]:
    return {
        "source": "store",
        "time_ns": now_ns,
        "subject": subject,
        "state": state,
        "reason": reason,
        "dropped": dropped,
    }


def _health(row: Mapping[str, Any]) -> dict[str, pa.Table]:
    return {SOURCE_HEALTH.name: pa.Table.from_batches([SOURCE_HEALTH.from_rows([row])])}
