"""What an operator relies on of times: what nodes measured arrives, skew and jumps are told, and rows can be put on one clock."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from served import served

from warpline_agent.agent import new_boot
from warpline_agent.clock_offset import ClockOffset
from warpline_agent.exporters.collector import CollectorExporter
from warpline_agent.spool import Spool
from warpline_analysis.detector import Reader
from warpline_collector import config, continuous, pool, standing
from warpline_collector.fleet import CLOCK_NS, Fleet, Seen
from warpline_collector.pulse import Pulse
from warpline_collector.standing import Config, judge
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch, Frame
from warpline_proto.client import QueryClient
from warpline_proto.finding import Subject
from warpline_proto.tables import METRICS, NODE_CLOCKS, TABLES

SECOND = 10**9
HOUR = 3_600 * SECOND
BEGIN_NS = 1_700_000_000 * SECOND
WAIT_SECONDS = 60.0


def frame(sequence: int, at_ns: int, *rows: Mapping[str, Any], sent_ns: int | None = None) -> Frame:
    """A frame of one agent, made at `at_ns` of its clock, with what it says of that clock."""
    told = NODE_CLOCKS.from_rows([{"node": "node-1", "time_ns": at_ns, "jumps": 0, **row} for row in rows])
    return Frame("node-1", "boot-1", sequence, at_ns, (Batch("node_clocks", "clock", told),), sent_ns=sent_ns)


def heard(*frames: tuple[Frame, int]) -> Seen:
    """The agent after these frames, each with when it came."""
    fleet = Fleet()
    for each, heard_ns in frames:
        fleet.hear(each, 1_000, heard_ns)
    (seen,) = fleet.seen(frames[-1][1])
    return seen


def wrong(seen: Seen, after_seconds: float = 0.0) -> dict[str, str]:
    return judge(seen, Config(), seen.heard_ns + int(after_seconds * SECOND)).troubles


@pytest.mark.parametrize(("hours", "words"), [(1, "60 min ahead of"), (-1, "60 min behind")])
def test_a_measured_clock_is_believed_with_its_error(hours: int, words: str) -> None:
    at_ns = BEGIN_NS + hours * HOUR
    seen = heard((frame(1, at_ns, {"offset_ns": hours * HOUR, "error_ns": 700_000}), BEGIN_NS))
    assert (seen.clock_offset_ns, seen.clock_error_ns) == (hours * HOUR, 700_000)
    assert wrong(seen) == {"skewed": f"its clock is {words} the collector's, give or take 0.7 ms"}
    unsure = heard((frame(1, at_ns, {"offset_ns": hours * HOUR, "error_ns": HOUR}), BEGIN_NS))
    assert wrong(unsure) == {}, "within the error it may be right"


def test_a_jump_is_told_for_ten_minutes() -> None:
    row = {
        "offset_ns": -3,
        "error_ns": 9,
        "jump_ns": -HOUR,
        "before_ns": BEGIN_NS + HOUR,
        "detail": "the clock was set",
    }
    seen = heard((frame(1, BEGIN_NS, row | {"jumps": 1}), BEGIN_NS))
    assert wrong(seen, 20) == {"skewed": "its clock jumped 60 min back 20 s ago (the clock was set)"}
    assert seen.clock_jumps == 1
    later = heard((frame(1, BEGIN_NS, row), BEGIN_NS), (frame(2, BEGIN_NS + 660 * SECOND), BEGIN_NS + 660 * SECOND))
    assert wrong(later) == {}


def test_what_waited_in_a_spool_says_nothing_of_now() -> None:
    old = frame(1, BEGIN_NS, {"offset_ns": HOUR, "error_ns": 1})
    seen = heard((old, BEGIN_NS - HOUR + CLOCK_NS + SECOND))
    assert seen.measured is None
    once = heard(
        (frame(1, BEGIN_NS, {"offset_ns": 5, "error_ns": 1}), BEGIN_NS), (frame(2, 1), BEGIN_NS + 2 * CLOCK_NS)
    )
    assert once.clock_error_ns is None, "and what was measured long ago does not hold for ever"


def test_a_backlog_shows_the_clock_by_when_frames_were_written() -> None:
    seen = heard((frame(1, BEGIN_NS - HOUR, sent_ns=BEGIN_NS), BEGIN_NS + SECOND // 10))
    assert wrong(seen) == {}
    assert seen.clock_offset_ns == -SECOND // 10


class Node:
    """A node by one true time, whose clock is set now and then; what its agent says of it, with the truth of each moment."""

    def __init__(self, name: str, ahead_ns: int) -> None:
        self.name = name
        self.true_ns = BEGIN_NS
        self.ahead_ns = ahead_ns
        self.rows: list[dict[str, Any]] = []
        self.moments: list[tuple[int, int]] = []
        self._jumps = 0
        self._chance = random.Random(name)

    def run(self, seconds: int) -> None:
        """One event a second, one measurement a minute."""
        for second in range(seconds):
            if second % 60 == 0:
                self.measure()
            self.true_ns += SECOND
            self.moments.append((self.true_ns + self.ahead_ns, self.true_ns))

    def measure(self, **more: Any) -> None:
        """A measurement that is off by less than it says."""
        off = self._chance.randint(-400_000, 400_000)
        place = {"node": self.name, "boot": "boot", "jumps": self._jumps, "error_ns": 500_000}
        times = {"time_ns": self.true_ns + self.ahead_ns, "steady_ns": self.true_ns - BEGIN_NS}
        self.rows.append({**place, **times, "offset_ns": self.ahead_ns + off, **more})

    def set(self, by_ns: int) -> None:
        before_ns = self.true_ns + self.ahead_ns
        self.ahead_ns += by_ns
        self._jumps += 1
        self.measure(jump_ns=by_ns, before_ns=before_ns)


def test_events_on_one_clock_hold_the_truth_within_their_error(tmp_path: Path) -> None:
    """Ahead, behind, right; set forward and back in the midst: every event, also of the time that a clock went through twice."""
    nodes = [
        Node("ahead", HOUR),
        Node("behind", -HOUR),
        Node("right", 0),
        Node("forward", -HOUR),
        Node("back", 600 * SECOND),
    ]
    for node in nodes:
        node.run(900)
        if node.name in ("forward", "back"):
            node.set(-node.ahead_ns)
        node.run(900)
    store = DuckDBStore(tmp_path)
    events = [
        {"node": node.name, "time_ns": time_ns, "code": (true_ns - BEGIN_NS) // SECOND, "kind": "xid"}
        for node in nodes
        for time_ns, true_ns in node.moments
    ]
    early = {"node": "right", "time_ns": BEGIN_NS - SECOND, "kind": "xid"}
    store.write(
        [
            Batch("node_clocks", "clock", NODE_CLOCKS.from_rows(row for node in nodes for row in node.rows)),
            Batch("log_events", "test", TABLES["log_events"].from_rows([*events, early])),
        ]
    )
    found = store.query(
        f"SELECT node, code, abs(collector_ns - ({BEGIN_NS} + code * {SECOND})) AS off, collector_error_ns AS error "
        "FROM log_events_on_one_clock WHERE code IS NOT NULL"
    ).to_pylist()
    assert len(found) == len(events)
    assert [row for row in found if row["off"] > row["error"]] == []
    sure = {row["node"] for row in found if row["error"] > 10_000_000}
    assert sure == {"back"}, "only where a clock went through a time twice"
    twice = [row for row in found if row["error"] > 10_000_000]
    assert 1_150 <= len(twice) <= 1_450, "the ten minutes before and after, and a minute at each end"
    unknown = store.query("SELECT collector_ns FROM log_events_on_one_clock WHERE code IS NULL").to_pylist()
    assert unknown == [{"collector_ns": None}]
    store.close()


def test_a_node_or_job_whose_clock_is_set_back_is_not_silent(reader_of: Callable[[Mapping[str, Any]], Reader]) -> None:
    """Its newest row stays an old one for an hour. Frames that come, and steps that go on, show that it lives."""
    node, job, minute = Subject(node="node-1"), Subject(job="j"), 60 * SECOND
    old = {"node": "node-1", "source": "own", "time_ns": BEGIN_NS + HOUR}
    step = {"job": "j", "rank": 0, "scope": "step"}

    def after(minutes: int) -> Reader:
        heard = [{"node": "node-1", "time_ns": 1, "heard_ns": BEGIN_NS + minutes * minute}]
        steps = [step | {"step": 1, "start_ns": BEGIN_NS + HOUR}, step | {"step": 2 + minutes, "start_ns": BEGIN_NS}]
        return reader_of({"source_health": [old], "agents": heard, "steps": steps})

    pulse = Pulse()
    for minutes in (0, 15, 29):
        pulse.listen(after(minutes), [node, job], BEGIN_NS + minutes * minute)
    now_ns = BEGIN_NS + 29 * minute
    assert (pulse.silence_ns(node, now_ns), pulse.silence_ns(job, now_ns)) == (0, 0)


@contextmanager
def collector(directory: Path, clock: Callable[[], int]) -> Iterator[str]:
    """A collector by this clock; gives its address."""
    settings = config.Settings(
        collector=config.Config(listen="127.0.0.1:0", directory=str(directory)),
        sql=pool.Config(workers=1),
        analysis=continuous.Config(period_seconds=600.0),
    )
    with served(settings, {}, clock) as told:
        yield told[0]


@pytest.mark.parametrize("hours", [1, -1])
def test_over_real_streams_an_hour_is_found_to_milliseconds(
    tmp_path: Path, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node an hour off; then its clock is set right. All rows are there, and what the collector writes of the agent says so."""
    monkeypatch.setattr(standing, "LOOK_SECONDS", 0.05)
    ahead_ns = [hours * HOUR]
    clocks = ClockOffset(lambda: time.time_ns() + ahead_ns[0])
    spool = Spool(tmp_path / "spool", "node-1", new_boot(), lambda: time.time_ns() + ahead_ns[0])
    place, rows_put = {"node": "node-1"}, 0

    def put() -> None:
        nonlocal rows_put
        rows_put += 1
        row = {"time_ns": time.time_ns() + ahead_ns[0], "metric": "m", "value": 1.0}
        spool.put([Batch("metrics", "test", METRICS.from_rows([row])), *clocks.rows(place, spool.boot)])

    with collector(tmp_path / "store", time.time_ns) as address:
        exporter = CollectorExporter(spool, address, clocks=clocks)
        exporter.start()
        end = time.monotonic() + WAIT_SECONDS
        while (told := clocks.offset()) is None or told.error_ns >= SECOND // 5:  # of the quickest exchange so far
            assert time.monotonic() < end
            put()
            assert exporter.drain(WAIT_SECONDS)
        assert abs(told.offset_ns - hours * HOUR) <= told.error_ns
        put()
        ahead_ns[0] = 0
        clocks.look()
        put()
        assert exporter.drain(WAIT_SECONDS)
        exporter.close()
        with QueryClient(address) as client:
            assert client.query("SELECT count(*) AS rows FROM metrics").to_pylist() == [{"rows": rows_put}]
            rows = client.query("SELECT * FROM node_clocks ORDER BY steady_ns").to_pylist()
            [jump] = [row for row in rows if row["jump_ns"] is not None]
            assert rows[0]["jump_ns"] is None, "an offset was told before"
            assert abs(jump["jump_ns"] + hours * HOUR) < SECOND // 100
            assert abs(jump["before_ns"] - jump["time_ns"] - hours * HOUR) < SECOND // 100
            assert abs(jump["offset_ns"]) <= jump["error_ns"] + SECOND // 100
            pause, end = threading.Event(), time.monotonic() + WAIT_SECONDS
            sql = "SELECT detail FROM agents WHERE list_contains(troubles, 'skewed') AND clock_jumps = 1"
            while not (judged := client.query(sql).to_pylist()):
                assert time.monotonic() < end
                pause.wait(0.1)
            assert "its clock jumped 60 min" in judged[-1]["detail"]
