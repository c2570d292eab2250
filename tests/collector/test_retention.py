"""The store keeps itself bounded: what is old or too much goes whole, is counted and told, and nothing else goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from warpline_collector import catalog, retention
from warpline_collector.grace import Grace
from warpline_collector.history import History
from warpline_collector.reader import CatalogReader
from warpline_collector.steady import passed
from warpline_collector.stores.duckdb import Config
from warpline_collector.stores.tended import TendedStore
from warpline_proto.batch import Batch, Frame
from warpline_proto.tables import DEVICE_SAMPLES, FINDINGS, KERNEL_NAMES, LOG_EVENTS, TABLES

MakeFrame = Callable[..., Frame]
NS = 10**9
DAY = 86_400
COUNT = "SELECT count(*) AS rows, min(step) AS oldest, max(step) AS newest FROM steps"
TOLD = "SELECT subject, state, dropped FROM source_health WHERE subject LIKE 'retention %' ORDER BY subject, dropped"


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 1_800_000_000 * NS
        self.set_by_ns = 0
        """How far somebody set it, while no time passed."""

    def __call__(self) -> int:
        return self.now_ns

    def seconds(self) -> float:
        """As a clock that nobody sets."""
        return (self.now_ns - self.set_by_ns) / NS

    def set(self, seconds: float) -> None:
        self.set_by_ns += int(seconds * NS)
        self.now_ns += int(seconds * NS)

    def pass_seconds(self, seconds: float) -> None:
        self.now_ns += int(seconds * NS)


@pytest.fixture
def clock() -> Clock:
    return Clock()


Open = Callable[..., TendedStore]


@pytest.fixture
def open_store(tmp_path: Path, clock: Clock) -> Iterator[Open]:
    """Opens the same directory again and again; a segment a frame."""
    opened: list[TendedStore] = []

    def open_one(**kept: Any) -> TendedStore:
        for store in opened:
            store.close()
        opened.append(TendedStore(tmp_path, Config(seal_rows=3), clock, retention.Config(**kept), clock.seconds))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def on_disk(directory: Path, table: str) -> int:
    return len(list((directory / "segments" / table).glob("*")))


def batch(table: str, rows: Sequence[Mapping[str, Any]]) -> Batch:
    return Batch(table, "test", TABLES[table].from_rows(rows))


def phases(day: int) -> Batch:
    return batch("phases", [{"job": "a", "rank": rank, "step": day, "start_ns": day + 1} for rank in range(3)])


def test_every_setting_is_a_table_or_says_what_it_is() -> None:
    named = {field.name for field in fields(retention.Config)}
    assert named - set(TABLES) == {"other", "account_merge_days", "history_days", "agent_days"}
    assert retention.Config().rule("nothing of its own") == retention.Rule(14 * DAY * NS, 10 * 10**9)


@pytest.mark.parametrize("words", ["", "7", "7 weeks", "-1 days", "7 days 1 GB", "0 days", "1 day, 0 MB"])
def test_a_rule_that_is_none_is_told(words: str) -> None:
    with pytest.raises(ValueError, match="steps"):
        retention.Config(steps=words)


def test_what_is_kept_for_minutes_is_merged_within_minutes_and_goes_within_them(
    open_store: Open, clock: Clock, tmp_path: Path
) -> None:
    """Small segments that are merged again and again would else stay as young as the newest of them."""
    kept = retention.Config(phases="10 minutes", findings="20 minutes")
    assert (kept.span_ns("phases"), kept.span_ns("steps")) == (600 * NS, 28 * DAY * NS // 10)
    assert kept.rows_look_ns == 1_200 * NS < retention.Config().rows_look_ns
    store = open_store(phases="10 minutes")
    for minute in range(60):
        store.write([phases(minute)])
        clock.pass_seconds(60)
        store.maintain()
    oldest = store.query("SELECT min(step) AS step FROM phases").to_pylist()[0]["step"]
    assert 38 <= oldest <= 50
    assert {row["dropped"] for row in store.query(TOLD).to_pylist()} and on_disk(tmp_path, "phases") < 20


def test_what_is_older_than_its_table_is_kept_goes_and_is_told(open_store: Open, clock: Clock, tmp_path: Path) -> None:
    """Ten days of phases, kept for four: by the clock of the collector, whatever date the rows bear."""
    store = open_store(phases="4 days")
    for day in range(10):
        store.write([phases(day)])
        store.maintain()
        clock.pass_seconds(DAY)
    store.maintain()
    found = store.query("SELECT min(step) AS oldest, max(step) AS newest, count(*) AS rows FROM phases").to_pylist()
    assert found == [{"oldest": 6, "newest": 9, "rows": 12}]
    assert sum(row["dropped"] for row in store.query(TOLD).to_pylist()) == 18
    clock.pass_seconds(61)
    store.maintain()
    assert on_disk(tmp_path, "phases") == 4
    assert len(catalog.read(tmp_path).tables["phases"].segments) == 3


def test_a_clock_that_jumps_takes_nothing_before_it_has_stood_by_it_for_a_day(open_store: Open, clock: Clock) -> None:
    """Also where the collector is started anew meanwhile; and one that was set back keeps nothing from being tended."""
    store = open_store(phases="4 days")
    store.append([Frame("n", "b", 1, 1, (phases(1),))])
    store.maintain()
    clock.set(400 * DAY)
    for sequence in (2, 3, 4):
        clock.pass_seconds(3_600)
        store.append([Frame("n", "b", sequence, 1, (phases(sequence),))])
        store.maintain()
        store = open_store(phases="4 days")
        store.maintain()
    assert store.query("SELECT * FROM phases").num_rows == 12
    clock.set(-400 * DAY)
    store.maintain()
    assert store.query("SELECT * FROM phases").num_rows == 12
    clock.pass_seconds(5 * DAY)
    store.maintain()
    assert store.query("SELECT * FROM phases").num_rows == 0


def test_a_clock_that_was_set_right_is_believed_after_a_day(open_store: Open, clock: Clock) -> None:
    store = open_store(phases="4 days")
    store.append([Frame("n", "b", 1, 1, (phases(1),))])
    store.maintain()
    clock.set(400 * DAY)
    left = []
    for _ in range(3):
        store.maintain()
        left.append(store.query("SELECT * FROM phases").num_rows)
        clock.pass_seconds(DAY / 2)
    store.maintain()
    assert (left, store.query("SELECT * FROM phases").num_rows) == ([3, 3, 0], 0)


@pytest.mark.parametrize(("seconds", "is_passed"), [(0, False), (59, False), (60, True), (-1, True), (-90 * DAY, True)])
def test_what_is_done_once_a_minute_is_done_at_once_where_the_clock_was_set_back(seconds: int, is_passed: bool) -> None:
    assert passed(1_800_000_000 * NS, (1_800_000_000 + seconds) * NS, 60 * NS) == is_passed


def test_files_wait_no_longer_because_the_clock_was_set_back(tmp_path: Path, clock: Clock) -> None:
    grace = Grace(tmp_path, 60 * NS, clock)
    (tmp_path / "gone").touch()
    grace.retire("gone")
    clock.set(-400 * DAY)
    assert grace.sweep() == 0
    clock.pass_seconds(60)
    assert grace.sweep() == 1


def test_readers_keep_the_files_of_a_catalog_that_they_hold(open_store: Open, clock: Clock, tmp_path: Path) -> None:
    store = open_store(phases="1 day")
    store.write([phases(0)])
    store.maintain()
    [held] = catalog.read(tmp_path).tables["phases"].segments
    clock.pass_seconds(2 * DAY)
    store.maintain()
    assert catalog.read(tmp_path).tables["phases"].segments == ()
    assert (tmp_path / held).exists()
    clock.pass_seconds(61)
    store.maintain()
    assert not (tmp_path / held).exists()


def test_a_table_stays_within_its_bytes(open_store: Open, clock: Clock, tmp_path: Path) -> None:
    """The oldest segments go first; the newest stays however it is."""
    store = open_store(raw_kernels="forever, 1 MB")
    for number in range(40):
        rows = [{"job": "a", "start_ns": (each * 7919 + number) ** 3 % 2**60} for each in range(8_000)]
        store.write([batch("raw_kernels", rows)])
        clock.pass_seconds(61)
        store.maintain()
    clock.pass_seconds(61)
    store.maintain()
    size = sum(path.stat().st_size for path in (tmp_path / "segments" / "raw_kernels").glob("*"))
    assert 500_000 < size <= 1_000_000 + 80_000
    kept = store.query("SELECT count(*) AS rows FROM raw_kernels").to_pylist()[0]["rows"]
    told = store.query("SELECT CAST(sum(dropped) AS BIGINT) AS dropped FROM source_health").to_pylist()[0]["dropped"]
    assert kept + told == 40 * 8_000
    store = open_store(raw_kernels="forever, 1 MB")
    assert store.query("SELECT count(*) AS rows FROM raw_kernels").to_pylist() == [{"rows": kept}]


def finding(name: str, state: str, at: int) -> dict[str, Any]:
    return {"id": name, "state": state, "updated_ns": at}


def test_a_finding_keeps_its_newest_state_and_the_ones_of_late(open_store: Open, clock: Clock) -> None:
    """Open findings stay for ever, resolved ones for years, states between for months and not without bound."""
    store = open_store(findings="1000 days", history_days=90)
    old = clock.now_ns - 1_500 * DAY * NS
    late = clock.now_ns - 200 * DAY * NS
    rows = [
        finding("long open", "open", old),
        finding("long gone", "open", old),
        finding("long gone", "resolved", old + 1),
    ]
    rows += [finding("mended", "open", late), finding("mended", "resolved", late + 1)]
    rows += [finding("flapping", "open" if each % 2 else "resolved", clock.now_ns - each) for each in range(200)]
    store.write([Batch(FINDINGS.name, "analysis", FINDINGS.from_rows(rows))])
    clock.pass_seconds(3_601)
    store.maintain()
    kept = store.query(
        "SELECT id, state, count(*) AS rows FROM findings GROUP BY id, state ORDER BY id, state"
    ).to_pylist()
    assert kept == [
        {"id": "flapping", "state": "open", "rows": 25},
        {"id": "flapping", "state": "resolved", "rows": 25},
        {"id": "long open", "state": "open", "rows": 1},
        {"id": "mended", "state": "resolved", "rows": 1},
    ]


def test_small_tables_are_bounded_by_age_and_bytes_and_names_are_kept_once(
    open_store: Open, clock: Clock, tmp_path: Path
) -> None:
    store = open_store(log_events="10 days", kernel_names="forever, 1 MB")
    days = [{"message": f"line {day}", "time_ns": clock.now_ns - day * DAY * NS} for day in range(20)]
    days += [{"message": "of tomorrow", "time_ns": clock.now_ns + 9_000 * DAY * NS}, {"message": "without a time"}]
    store.write([Batch(LOG_EVENTS.name, "test", LOG_EVENTS.from_rows(days))])
    names = [{"kernel_id": each % 7, "name": f"kernel {each % 7}", "time_ns": each} for each in range(100)]
    store.write([Batch(KERNEL_NAMES.name, "test", KERNEL_NAMES.from_rows(names))])
    clock.pass_seconds(3_601)
    store.maintain()
    lines = {row["message"] for row in store.query("SELECT message FROM log_events").to_pylist()}
    assert lines == {*(f"line {day}" for day in range(10)), "of tomorrow", "without a time"}
    assert store.query("SELECT count(*) AS rows FROM kernel_names").to_pylist() == [{"rows": 7}]
    store = open_store()
    assert {row["message"] for row in store.query("SELECT message FROM log_events").to_pylist()} == lines
    dropped = {row["subject"]: row["dropped"] for row in store.query(TOLD).to_pylist()}
    assert dropped == {"retention of log_events": 10, "retention of kernel_names": 93}


def test_boots_that_sent_nothing_for_long_become_one_line_an_agent(
    open_store: Open, clock: Clock, make_frame: MakeFrame
) -> None:
    """What was counted stays counted, and an agent whose clock is years behind is not forgotten while it sends."""
    store = open_store(agent_days=90)
    for boot in range(50):
        store.append([make_frame(1, boot=f"boot-{boot}"), make_frame(3, boot=f"boot-{boot}")])
    clock.pass_seconds(100 * DAY)
    store.append([make_frame(4, boot="boot-49")])
    store.maintain()
    assert store.acknowledged("node-1", "boot-49") == 4
    assert (store.acknowledged("node-1", "boot-0"), store.acknowledged("node-1", "(earlier)")) == (0, 0)
    store = open_store(agent_days=90)
    assert list(store.append([make_frame(4, boot="boot-49")])) == [False]
    with_clock_behind = store.query("SELECT count(*) AS rows FROM steps").to_pylist()
    assert with_clock_behind == [{"rows": 3 * 101}]


def readings(clock: Clock, minutes: int) -> Batch:
    rows = [
        {"node": "a", "gpu_uuid": "G", "time_ns": clock.now_ns + second * NS, "energy_joules": 100.0 * second}
        for second in range(minutes * 60)
    ]  # fmt: skip
    return Batch(DEVICE_SAMPLES.name, "test", DEVICE_SAMPLES.from_rows(rows))


def test_readings_stay_until_their_history_is_made(open_store: Open, clock: Clock, tmp_path: Path) -> None:
    """However old they are, up to twice their age; then the bound holds."""
    store = open_store(device_samples="2 days")
    store.write([readings(clock, 30)])
    store.maintain()
    clock.pass_seconds(3 * DAY)
    store.maintain()
    assert store.query("SELECT count(*) AS rows FROM device_samples").to_pylist() == [{"rows": 1800}]
    with CatalogReader(tmp_path) as reader:
        history = History(store, reader, clock)
        assert (history.one_pass(), history.one_pass(), history.one_pass()) == (0, 3, 0)
        clock.pass_seconds(61)
        store.maintain()
        assert store.query("SELECT count(*) AS rows FROM device_samples").to_pylist() == [{"rows": 0}]
        assert (history.one_pass(), history.one_pass()) == (0, 0)
    kept = store.query("SELECT sum(samples) AS samples, sum(energy_joules) AS joules FROM gpu_history").to_pylist()
    assert kept == [{"samples": 1800, "joules": 179_900.0}]
    store.write([readings(clock, 30)])
    store.maintain()
    clock.pass_seconds(5 * DAY)
    store.maintain()
    assert store.query("SELECT count(*) AS rows FROM device_samples").to_pylist() == [{"rows": 0}]
