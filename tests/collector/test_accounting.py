"""The energy account in the store: it adds up to the counters, whatever comes late and whenever the collector is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from warpline_collector.accounting import Accounting
from warpline_collector.history import History
from warpline_collector.reader import CatalogReader
from warpline_collector.retention import Config as Kept
from warpline_collector.stores import tended
from warpline_collector.stores.duckdb import Config as StoreConfig
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_collector.stores.tended import TendedStore
from warpline_collector.windows import Nodes, counted
from warpline_proto.batch import Batch
from warpline_proto.tables import DEVICE_SAMPLES, ENERGY_INTERVALS

WINDOW = 600
BEGIN = 1_700_000_400 // WINDOW * WINDOW
NS = 10**9
PLACE = {"source": "nvml", "gpu_index": 0, "gpu_name": "H100"}


def samples(node: str, seconds: range) -> Batch:
    """One reading a second: a minute of work, a minute with the program idle, and so on; 600 and 120 W."""
    rows: list[dict[str, Any]] = []
    for second in seconds:
        busy = second // 60 % 2 == 0
        joules = (second // 120) * 60 * 720.0 + min(second % 120, 60) * 600.0 + max(second % 120 - 60, 0) * 120.0
        rows.append(
            {
                **PLACE,
                "node": node,
                "gpu_uuid": f"GPU-{node}",
                "time_ns": (BEGIN + second) * NS,
                "power_watts": 600.0 if busy else 120.0,
                "energy_joules": 1e6 + joules,
                "gpu_utilization_percent": 97.0 if busy else 0.0,
                "resident_processes": 1,
            }
        )
    return Batch(DEVICE_SAMPLES.name, "nvml", DEVICE_SAMPLES.from_rows(rows))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckDBStore]:
    made = DuckDBStore(tmp_path)
    yield made
    made.close()


@pytest.fixture
def reader(store: DuckDBStore) -> Iterator[CatalogReader]:
    with CatalogReader(store.directory) as made:
        yield made


def totals(reader: CatalogReader, node: str = "a") -> dict[str, tuple[float, float]]:
    """Seconds and joules by state."""
    rows = reader.query(
        "SELECT state, sum(seconds) AS seconds, sum(joules) AS joules FROM energy_states WHERE node = ? GROUP BY state",
        [node],
    ).to_pylist()
    return {row["state"]: (round(row["seconds"], 6), round(row["joules"], 3)) for row in rows}


def at(second: int) -> int:
    return (BEGIN + second) * NS


def test_windows_that_are_over_are_accounted_once_and_add_up(store: DuckDBStore, reader: CatalogReader) -> None:
    store.write([samples("a", range(1300))])
    accounting = Accounting(store, reader, clock=lambda: at(1300))
    assert accounting.one_pass() == 2
    assert totals(reader) == {"active": (600.0, 360_000.0), "execution_idle": (600.0, 72_000.0)}
    assert accounting.one_pass() == 0
    assert accounting.newest == {"active": pytest.approx(300.0), "execution_idle": pytest.approx(60.0)}


def test_what_the_fleet_draws_now_is_the_newest_window_of_each_node(store: DuckDBStore, reader: CatalogReader) -> None:
    """But for nodes that were last heard of long before."""
    store.write([samples("gone", range(600)), samples("a", range(4_800, 5_400)), samples("b", range(4_200, 4_800))])
    accounting = Accounting(store, reader, clock=lambda: at(9_000))
    accounting.one_pass()
    assert sum(accounting.newest.values()) == pytest.approx(2 * 360.0, rel=0.01)


def test_a_window_whose_samples_come_late_is_accounted_again(store: DuckDBStore, reader: CatalogReader) -> None:
    store.write([samples("a", range(300)), samples("a", range(420, 700))])
    accounting = Accounting(store, reader, clock=lambda: at(700))
    accounting.one_pass()
    assert totals(reader)["unobserved"] == (121.0, 600.0 * 61 + 120.0 * 60)
    store.write([samples("a", range(300, 420))])
    assert accounting.one_pass() == 1
    assert totals(reader) == {"active": (300.0, 180_000.0), "execution_idle": (300.0, 36_000.0)}


def test_a_node_that_went_silent_is_accounted_in_the_end(store: DuckDBStore, reader: CatalogReader) -> None:
    store.write([samples("a", range(300)), samples("b", range(700))])
    now = at(700)
    accounting = Accounting(store, reader, clock=lambda: now)
    accounting.one_pass()
    assert (totals(reader), totals(reader, "b") != {}) == ({}, True)
    now = at(2000)
    accounting.one_pass()
    assert sum(seconds for seconds, _ in totals(reader).values()) == 299.0


def test_a_collector_that_is_started_again_goes_on(store: DuckDBStore, reader: CatalogReader) -> None:
    store.write([samples("a", range(1300))])
    Accounting(store, reader, clock=lambda: at(1300)).one_pass()
    store.write([samples("a", range(1300, 2600))])
    Accounting(store, reader, clock=lambda: at(2600)).one_pass()
    assert totals(reader) == {"active": (1200.0, 720_000.0), "execution_idle": (1200.0, 144_000.0)}


def test_what_an_empty_gpu_draws_is_learned_from_the_account(store: DuckDBStore, reader: CatalogReader) -> None:
    from warpline_analysis.energy.floors import stored_floors

    empty = samples("a", range(700)).rows.to_pylist()
    for row in empty:
        row |= {"resident_processes": 0, "gpu_utilization_percent": 0.0, "power_watts": 71.0, "energy_joules": None}
    store.write([Batch(DEVICE_SAMPLES.name, "nvml", DEVICE_SAMPLES.from_rows(empty))])
    Accounting(store, reader, clock=lambda: at(700)).one_pass()
    [(name, floor)] = stored_floors(reader).items()
    assert (name, round(floor.watts, 6), floor.gpus) == ("H100", 71.0, 1)


def test_samples_that_were_let_go_take_nothing_from_the_account(tmp_path: Path) -> None:
    """A window of which a part is left, or to which a straggler comes when all are gone, keeps its account."""
    now = at(1300)
    store = TendedStore(
        tmp_path, StoreConfig(seal_rows=100), lambda: now, Kept(device_samples="1 day"), lambda: now / NS
    )
    store.write([samples("a", range(900))])
    store.maintain()
    now = at(1300 + 40_000)
    store.write([samples("a", range(900, 1300))])
    store.maintain()
    with CatalogReader(tmp_path) as reader:
        accounting = Accounting(store, reader, clock=lambda: now)
        assert accounting.one_pass() == 3
        before = totals(reader)
        now = at(1300 + 2 * 86_400 + 20_000)
        store.maintain()
        assert reader.query("SELECT count(*) AS rows FROM device_samples").to_pylist() == [{"rows": 400}]
        assert accounting.one_pass() == 0
        Accounting(store, reader, clock=lambda: now).one_pass()
        assert totals(reader) == before
        now += 3 * 86_400 * NS
        store.maintain()
        accounting.one_pass()
        store.write([samples("a", range(10, 20))])
        accounting.one_pass()
        Accounting(store, reader, clock=lambda: now).one_pass()
        assert totals(reader) == before
    store.close()


class Readings:
    """A store that keeps readings for a day, with their history made; `seconds` of them have passed."""

    def __init__(self, directory: Path, **kept: Any) -> None:
        self.seconds = 0
        told = {"device_samples": "1 day", **kept}
        self.store = TendedStore(
            directory,
            StoreConfig(seal_rows=100),
            self.clock,
            Kept(**told),
            lambda: float(self.seconds),
            accounted=True,
        )
        self.reader = CatalogReader(directory)
        self.accounting = Accounting(self.store, self.reader, clock=self.clock)

    def clock(self) -> int:
        return at(self.seconds)

    def stored(self, node: str, seconds: range) -> None:
        """One segment."""
        self.store.write([samples(node, seconds)])
        self.seconds = max(self.seconds, seconds.stop)
        self.store.maintain()

    def history(self) -> None:
        self.seconds += 7_200
        history = History(self.store, self.reader, self.clock)
        while not history.one_pass():
            pass

    def left(self, days: float) -> int:
        """Readings that are left when so much more time has passed."""
        self.seconds += int(days * 86_400)
        self.store.maintain()
        return len(self.reader.query("SELECT time_ns FROM device_samples").to_pylist())

    def told(self) -> list[str]:
        told = "SELECT reason FROM source_health WHERE subject = 'retention of device_samples' ORDER BY time_ns"
        return [row["reason"].partition("segments removed")[2] for row in self.reader.query(told).to_pylist()]

    def close(self) -> None:
        self.reader.close()
        self.store.close()


@pytest.fixture
def readings(tmp_path: Path) -> Iterator[Callable[..., Readings]]:
    made: list[Readings] = []

    def begin(**kept: Any) -> Readings:
        made.append(Readings(tmp_path, **kept))
        return made[-1]

    yield begin
    for each in made:
        each.close()


def test_readings_wait_until_their_energy_is_accounted(readings: Callable[..., Readings]) -> None:
    kept = readings()
    kept.stored("a", range(900))
    kept.history()
    assert (kept.left(days=1.5), kept.told()) == (900, [])
    while kept.accounting.one_pass():
        pass
    assert kept.reader.query("SELECT count(*) AS windows FROM energy_states").to_pylist()[0]["windows"] > 0
    assert (kept.left(days=0.01), kept.told()) == (0, [""])


def test_readings_wait_for_the_account_of_each_node_within_twice_their_time(readings: Callable[..., Readings]) -> None:
    """Then they go, and it is counted and said: nothing grows without bound because an account is not made."""
    kept = readings()
    kept.stored("a", range(900))
    kept.seconds += 7_200
    while kept.accounting.one_pass():
        pass
    kept.store.write([samples("a", range(900, 1_000)), samples("b", range(700))])
    kept.store.maintain()
    kept.history()
    assert kept.left(days=1.5) == 800
    assert (kept.left(days=1), kept.told()) == (0, ["", ", 700 readings before their energy was accounted"])


def test_files_that_wait_hold_up_no_others(readings: Callable[..., Readings], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: a few are asked about in each turn, those first that were not for the longest time."""
    monkeypatch.setattr(tended, "ASKED_MAX", 2)
    kept = readings()
    for begin in range(0, 2_000, 400):
        kept.stored("a", range(begin, begin + 400))
    kept.history()
    kept.store.write([Batch("energy_intervals", "test", ENERGY_INTERVALS.from_rows(
        {"node": "a", "window_ns": at(window)} for window in (1_200, 1_800)
    ))])  # fmt: skip
    kept.store.maintain()
    assert [kept.left(days=days) for days in (1.2, 0.01, 0.01, 0.01)] == [2_000, 1_600, 1_200, 1_200]
    assert [kept.left(days=days) for days in (1, 0.01, 0.01)] == [400, 0, 0]
    assert kept.told() == ["", "", *(f", {each} readings before their energy was accounted" for each in (800, 400))]


def test_an_hour_that_was_merged_is_accounted(readings: Callable[..., Readings]) -> None:
    kept = readings(account_merge_days=1, device_samples="3 days")
    kept.stored("a", range(900))
    kept.history()
    while kept.accounting.one_pass():
        pass
    assert (kept.left(days=0.01), kept.left(days=2)) == (900, 900)
    [rows] = kept.reader.query("SELECT count(*) AS rows, count(merged) AS merged FROM energy_intervals").to_pylist()
    assert rows["rows"] == rows["merged"] > 0
    assert (kept.left(days=2), kept.told()) == (0, [""])


def test_readings_wait_for_no_account_that_is_not_kept_as_long(readings: Callable[..., Readings]) -> None:
    kept = readings(energy_intervals="1 day")
    kept.stored("a", range(900))
    kept.history()
    assert (kept.left(days=1.5), kept.told()) == (0, [""])


def test_old_accounts_are_merged_by_the_hour_and_add_up(tmp_path: Path) -> None:
    """Joules, seconds and samples by state, job and cause are what they were; superseded accounts are gone; once is enough."""
    now = at(10_000)
    kept = Kept(account_merge_days=30, device_samples="forever")
    store = TendedStore(tmp_path, StoreConfig(seal_rows=5), lambda: now, kept, lambda: now / NS)
    store.write([samples("a", range(9_000)), samples("b", range(100, 5_000))])
    store.maintain()
    with CatalogReader(tmp_path) as reader:
        accounting = Accounting(store, reader, clock=lambda: now)
        while accounting.one_pass():
            store.maintain()
        store.write([samples("b", range(5_000, 5_300))])
        now = at(20_000)
        accounting.one_pass()
        store.maintain()
        by_cause = (
            "SELECT node, state, cause, CAST(round(sum(joules), 3) AS DOUBLE) AS joules, round(sum(seconds), 6) AS seconds, "
            "CAST(sum(samples) AS BIGINT) AS samples FROM energy_causes GROUP BY ALL ORDER BY ALL"
        )
        before, rows = reader.query(by_cause).to_pylist(), reader.query("SELECT * FROM energy_intervals").num_rows
        now += 40 * 86_400 * NS
        for _ in range(8):
            store.maintain()
        assert reader.query(by_cause).to_pylist() == before
        [left] = reader.query(
            "SELECT count(*) AS rows, count(merged) AS merged, count(DISTINCT window_ns) AS hours FROM energy_intervals"
        ).to_pylist()
        assert left["rows"] == left["merged"] < rows / 3
        assert left["hours"] == 3
        files = sorted((tmp_path / "segments" / "energy_intervals").iterdir())
        store.maintain()
        assert sorted((tmp_path / "segments" / "energy_intervals").iterdir()) == files
        store.write([samples("b", range(5_300, 5_310))])
        Accounting(store, reader, clock=lambda: now).one_pass()
        assert reader.query(by_cause).to_pylist() == before
    store.close()


def test_samples_of_all_parts_add_up_by_node_and_window() -> None:
    """Parts without rows and nodes that one part alone knows included; what was never counted is none."""

    def part(*rows: tuple[str, int, int, int]) -> pa.Table:
        names = ("node", "window_ns", "samples", "newest_ns")
        types = (pa.string(), pa.int64(), pa.int64(), pa.int64())
        return pa.table({name: pa.array([row[at] for row in rows], types[at]) for at, name in enumerate(names)})

    first, second = WINDOW * NS, 2 * WINDOW * NS
    nodes = Nodes()
    parts = {"1": part(("b", first, 3, 700), ("a", second, 1, 900)), "2": part(), "3": part(("b", first, 4, 600))}
    windows, newest_ns = counted(parts, nodes)
    told = {
        (nodes.name(int(key)), int(at)): int(n)
        for key, at, n in zip(windows.keys, windows.starts_ns, windows.counts, strict=True)
    }
    assert told == {("b", first): 7, ("a", second): 1}
    assert [newest_ns[node] for node in windows.nodes] == [700, 900]
    assert windows.at(windows.keys + 1).tolist() == [0, 0]
    empty, _ = counted({}, nodes)
    assert (len(empty.keys), empty.at(windows.keys).tolist()) == (0, [0, 0])
