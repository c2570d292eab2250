"""What an operator relies on in the agent's loop: no source holds up another, every failure is a row, no loss is silent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_alone import Inline, Nowhere

from warpline_agent import gathering
from warpline_agent.agent import Agent, Clock
from warpline_agent.config import AgentConfig, build_sources, sections
from warpline_agent.own import cost, parse_stat
from warpline_agent.slot import BACKOFF_SECONDS_MAX, HANG_SECONDS_MIN, HEALTH_SECONDS
from warpline_agent.source import Health, Rows
from warpline_agent.spool import Spool
from warpline_agent.waiting import Key
from warpline_proto import wire
from warpline_proto.batch import Frame
from warpline_proto.config import load
from warpline_proto.errors import Busy, ConfigError, Denied, Unsupported
from warpline_proto.tables import HOST_SAMPLES, LOG_EVENTS


class Time:
    """Both clocks of the agent, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def clock(self) -> Clock:
        return Clock(lambda: int(self.seconds * 1e9), lambda: self.seconds)


class Fake:
    """A source that does what the test says: `act` is called at each read."""

    def __init__(self, act: Callable[[], Iterable[Rows]], period_seconds: float = 1.0, name: str = "fake") -> None:
        self.name = name
        self.period_seconds = period_seconds
        self.act = act
        self.opened = self.closed = self.reads = 0
        self.parts: list[Health] = []

    def open(self) -> None:
        self.opened += 1

    def read(self) -> Iterable[Rows]:
        self.reads += 1
        return self.act()

    def health(self) -> Iterable[Health]:
        return self.parts

    def close(self) -> None:
        self.closed += 1


class Bench:
    """An agent with fake sources, on a clock moved by hand; what it gave is read back from its spool."""

    def __init__(self, folder: Path, **sources: Fake) -> None:
        self.time = Time()
        self.workers: dict[str, Inline] = {}
        clock = self.time.clock()
        self.spool = Spool(folder, "node-a", "boot", clock.wall_ns)
        config = AgentConfig(cluster="c", node="node-a", drain_seconds=0.0)
        self.agent = Agent(config, sources, self.spool, Nowhere(), clock, self._worker)

    def _worker(self, name: str) -> Inline:
        return self.workers.setdefault(name, Inline(name))

    def run(self, seconds: float, tick_seconds: float = 0.1) -> None:
        for _ in range(round(seconds / tick_seconds)):
            self.agent.tick()
            self.time.seconds += tick_seconds

    def frames(self) -> Iterator[Frame]:
        key: Key | None = None
        while (item := self.spool.after(key)) is not None:
            key, message = item
            yield wire.from_message(message)

    def rows(self, table: str, source: str) -> list[dict[str, Any]]:
        return [
            row
            for frame in self.frames()
            for batch in frame.batches
            if batch.table == table and batch.source == source
            for row in batch.rows.to_pylist()
        ]

    def states(self, source: str) -> list[tuple[str, str | None]]:
        return [(row["state"], row["reason"]) for row in self.rows("source_health", source)]


def sample(count: int = 1, dropped: int = 0) -> Iterable[Rows]:
    yield Rows("host_samples", HOST_SAMPLES.from_rows([{"time_ns": 1, "load_1m": 0.5}] * count), dropped)


def fail(error: Exception) -> Callable[[], Iterable[Rows]]:
    def act() -> Iterable[Rows]:
        raise error

    return act


def test_rows_carry_cluster_node_and_source_and_leave_once_a_second(tmp_path: Path) -> None:
    bench = Bench(tmp_path, host=Fake(sample))
    bench.run(5.0)
    rows = bench.rows("host_samples", "host")
    assert len(rows) in (4, 5)
    assert {(row["cluster"], row["node"], row["source"]) for row in rows} == {("c", "node-a", "host")}
    assert [frame.sequence for frame in bench.frames()] == [1, 2, 3, 4]


def test_secrets_in_rows_and_reasons_do_not_leave_the_node(tmp_path: Path) -> None:
    secret = "hf_" + "Qw3rTy" * 5
    batch = LOG_EVENTS.from_rows([{"message": f"started with {secret}"}])
    source = Fake(lambda: [Rows("log_events", batch)])
    source.parts = [Health("file", "denied", f"cannot open https://user:{secret}@host/")]
    bench = Bench(tmp_path, log=source)
    bench.run(5.0)
    assert {row["message"] for row in bench.rows("log_events", "log")} == {"started with [secret]"}
    assert ("denied", "cannot open https://[secret]@host/") in bench.states("log")


def test_sources_are_staggered_within_their_period(tmp_path: Path) -> None:
    moments: dict[str, float] = {}
    bench: Bench

    def note(name: str) -> Callable[[], Iterable[Rows]]:
        def act() -> Iterable[Rows]:
            moments.setdefault(name, bench.time.seconds)
            return ()

        return act

    bench = Bench(tmp_path, **{name: Fake(note(name)) for name in ("a", "b", "c", "d")})
    bench.run(1.0, tick_seconds=0.05)
    assert len(set(moments.values())) == 4


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Unsupported("no driver"), "unsupported"),
        (Denied("not root"), "denied"),
        (Busy("nsys runs"), "busy"),
        (OSError("gone"), "stale"),
        (ZeroDivisionError("a mistake"), "stale"),
    ],
)
def test_a_source_that_fails_becomes_a_row_and_the_others_go_on(tmp_path: Path, error: Exception, state: str) -> None:
    good, bad = Fake(sample), Fake(fail(error))
    bench = Bench(tmp_path, good=good, bad=bad)
    bench.run(5.0)
    found, reason = bench.states("bad")[0]
    assert found == state
    assert str(error) in (reason or "")
    assert good.reads == 5
    assert bench.states("good")[0] == ("fresh", None)
    assert bad.closed == bad.opened == bad.reads


def test_a_failing_source_is_tried_less_and_less_often_but_never_given_up(tmp_path: Path) -> None:
    bad = Fake(fail(RuntimeError("no")))
    bench = Bench(tmp_path, bad=bad)
    bench.run(60.0, tick_seconds=1.0)
    assert 4 <= bad.reads <= 6
    before = bad.reads
    bench.run(10 * BACKOFF_SECONDS_MAX, tick_seconds=10.0)
    assert bad.reads - before >= 9
    assert bench.states("bad")[-1][0] == "dead"


def test_a_source_that_recovers_is_fresh_again(tmp_path: Path) -> None:
    source = Fake(fail(Denied("not yet")))
    bench = Bench(tmp_path, late=source)
    bench.run(2.0)
    source.act = sample
    bench.run(10.0)
    assert [state for state, _ in bench.states("late")] == ["denied", "fresh"]
    assert bench.rows("host_samples", "late")


def test_nothing_to_read_is_not_an_error(tmp_path: Path) -> None:
    source = Fake(list)
    bench = Bench(tmp_path, quiet=source)
    bench.run(4.0)
    assert {state for state, _ in bench.states("quiet")} == {"fresh"}
    assert (source.opened, source.closed) == (1, 0)


def test_a_source_that_hangs_is_told_and_holds_up_nobody(tmp_path: Path) -> None:
    good = Fake(sample)
    bench = Bench(tmp_path, good=good, stuck=Fake(sample))
    bench.workers["stuck"].hangs = True
    bench.run(HANG_SECONDS_MIN + 5.0)
    assert bench.states("stuck")[0] == ("stale", "hangs: no answer within 10 s")
    assert good.reads == HANG_SECONDS_MIN + 5


def test_what_a_source_drops_travels_and_is_added_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lossy=Fake(lambda: sample(2, dropped=3)))
    bench.run(HEALTH_SECONDS + 3.0)
    told = bench.rows("source_health", "lossy")
    assert len(told) == 2
    assert (told[0]["rows"], told[0]["dropped"]) == (2, 3)
    assert (told[1]["rows"], told[1]["dropped"]) == (20, 30)
    batches = [batch for frame in bench.frames() for batch in frame.batches if batch.table == "host_samples"]
    assert sum(batch.dropped for batch in batches) == 3 * sum(batch.rows.num_rows for batch in batches) / 2


def test_rows_read_before_a_failure_are_kept(tmp_path: Path) -> None:
    def act() -> Iterable[Rows]:
        yield from sample()
        raise OSError("half way")

    bench = Bench(tmp_path, half=Fake(act))
    bench.run(2.0)
    assert len(bench.rows("host_samples", "half")) == 1


def test_parts_of_a_source_are_told_when_they_change(tmp_path: Path) -> None:
    source = Fake(sample)
    source.parts = [Health("GPU 3", "stale", "lost")]
    bench = Bench(tmp_path, nvml=source)
    bench.run(3.0)
    source.parts = []
    bench.run(3.0)
    told = [row for row in bench.rows("source_health", "nvml") if row["subject"] == "GPU 3"]
    assert [(row["state"], row["reason"]) for row in told] == [("stale", "lost"), ("fresh", None)]


def test_a_part_whose_name_no_text_can_hold_does_not_end_the_agent(tmp_path: Path) -> None:
    """A file may be named by any bytes."""
    source = Fake(sample)
    source.parts = [Health("/dev/shm/warpline-\udcff", "refused", "\udcff is no ring file")]
    bench = Bench(tmp_path, kernels=source)
    bench.run(3.0)
    assert ("refused", "? is no ring file") in bench.states("kernels")
    assert source.reads > 1


def test_many_rows_make_several_frames_and_none_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "FRAME_ROWS_MAX", 1_000)
    bench = Bench(tmp_path, burst=Fake(lambda: sample(4_500), period_seconds=100.0))
    bench.run(3.0)
    sizes = [sum(batch.rows.num_rows for batch in frame.batches) for frame in bench.frames()]
    assert max(sizes) <= 1_000
    assert len(bench.rows("host_samples", "burst")) == 4_500


def test_a_frame_too_large_for_the_wire_is_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FRAME_BYTES_MAX", 1_500)
    bench = Bench(tmp_path, burst=Fake(lambda: sample(64)))
    bench.agent.tick()
    bench.run(3.0)
    assert len(bench.rows("host_samples", "burst")) % 64 == 0


def test_the_agent_reports_its_own_cost(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(3.0)
    own = bench.rows("source_health", "own")
    agent = next(row for row in own if row["subject"] == "agent")
    assert agent["cpu_ns"] > 0
    assert agent["rss_bytes"] > 1_000_000
    assert ("stale", "away") in [(row["state"], row["reason"]) for row in own if row["subject"] == "collector"]
    metrics = {row["metric"]: row["value"] for row in bench.rows("metrics", "own")}
    assert metrics["agent_sent_bytes"] == 700
    assert metrics["agent_lost_frames"] == 0


def test_the_end_keeps_what_was_read(tmp_path: Path) -> None:
    source = Fake(sample)
    bench = Bench(tmp_path, host=source)
    bench.agent.tick()
    bench.agent.close()
    assert source.closed == 1
    reopened = Spool(tmp_path, "node-a", "next", bench.time.clock().wall_ns)
    item = reopened.after(None)
    assert item is not None
    assert any(part.table == "host_samples" and part.rows == 1 for part in item[1].parts)


def test_the_cost_of_a_process_is_read_from_its_stat_line() -> None:
    fields = ["S", *["0"] * 10, "150", "50", "7", "3", *["0"] * 6, "2048", "0"]
    line = "17 (a (strange) name) " + " ".join(fields)
    assert parse_stat(line).cpu_ns == 210 * 10**9 // os.sysconf("SC_CLK_TCK")
    assert parse_stat(line).rss_bytes == 2048 * os.sysconf("SC_PAGE_SIZE")
    with pytest.raises(ValueError):
        parse_stat("17 (short) S 0")
    assert cost(Path("/nowhere")) is None


def test_settings_name_the_nearest_source_and_section(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('[agent]\nsources = ["synthetik"]\n')
    with pytest.raises(ConfigError, match="did you mean 'synthetic'"):
        build_sources(load(sections(), [path], environment={}))
    path.write_text('[sources.synthetic]\nfault = "unknown"\n')
    with pytest.raises(ConfigError, match=r"\[sources.synthetic\]: fault 'unknown' is none of"):
        load(sections(), [path], environment={})
    path.write_text("[agent]\nspool_bytes_max = 5\n")
    with pytest.raises(ConfigError, match="must hold one frame"):
        load(sections(), [path], environment={})


def test_made_up_sources_run_only_when_named() -> None:
    settings = load(sections(), environment={})
    assert "synthetic" not in build_sources(settings)


class Away(Nowhere):
    """A collector that is away until the test says otherwise."""

    def __init__(self) -> None:
        self.parts = [Health("collector", "stale", "no answer")]

    def health(self) -> list[Health]:
        return self.parts


def test_whoever_runs_the_agent_hears_of_a_collector_that_stays_away(tmp_path: Path) -> None:
    """Not of one that restarts, seldom of one that stays away, and once that it is back."""
    said: list[str] = []
    time, exporter = Time(), Away()
    spool = Spool(tmp_path, "node-a", "boot", time.clock().wall_ns)
    agent = Agent(AgentConfig(node="node-a", drain_seconds=0.0), {}, spool, exporter, time.clock(), say=said.append)

    def run(seconds: int) -> None:
        for _ in range(seconds):
            agent.tick()
            time.seconds += 1.0

    run(4)
    assert said == []
    run(300)
    assert said == ["collector: no answer"]
    run(600)
    assert said == ["collector: no answer"] * 2
    exporter.parts = [Health("collector", "fresh", "")]
    run(2)
    assert said[2:] == ["collector: well again after 903 s"]
    agent.close()
    assert said[3].startswith(f"frames that wait in {tmp_path} for the next start: ")


def test_frames_that_die_with_the_agent_are_told(tmp_path: Path) -> None:
    """No directory to write: what memory held is gone at the end, and that is said."""
    said: list[str] = []
    time = Time()
    (tmp_path / "file").write_text("")
    spool = Spool(tmp_path / "file" / "spool", "node-a", "boot", time.clock().wall_ns)
    agent = Agent(AgentConfig(node="node-a", drain_seconds=0.0), {}, spool, Nowhere(), time.clock(), say=said.append)
    agent.tick()
    agent.close()
    [words] = said
    assert words.startswith("frames lost: 1, cannot write ")
