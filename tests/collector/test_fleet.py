"""What an operator relies on when agents are called late, dropping, skewed or over budget, and when they are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warpline_collector import fleet as fleets
from warpline_collector.fleet import FORGET_NS, Fleet, Seen, readings
from warpline_collector.standing import Config, Keeper, judge
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch, Frame
from warpline_proto.capture import BY_HAND
from warpline_proto.errors import StoreError
from warpline_proto.tables import DEVICE_SAMPLES, METRICS, SOURCE_HEALTH

MakeFrame = Callable[..., Frame]
SECOND = 10**9
BEGIN_NS = 1_700_000_000 * SECOND


def own(
    sequence: int, at_ns: int, cpu_ns: int | None = None, rss: int | None = None, waiting: int = 0, **more: Any
) -> Frame:
    """A frame with what an agent says of itself."""
    health = {"node": "node-1", "source": "own", "time_ns": at_ns, "subject": "agent", "state": "fresh"}
    health |= {"cpu_ns": cpu_ns, "rss_bytes": rss, "version": "1.2.3"}
    metric = {"time_ns": at_ns, "metric": "agent_waiting_bytes", "value": float(waiting)}
    batches = (
        Batch("source_health", "own", SOURCE_HEALTH.from_rows([{"subject": "spool"}, health])),
        Batch("metrics", "own", METRICS.from_rows([metric])),
    )
    return Frame("node-1", more.pop("boot", "boot-1"), sequence, at_ns, batches, **more)


def heard(*frames: Frame, delay_ns: int = 0) -> Seen:
    """The agent after these frames, each of which came `delay_ns` after it was made."""
    fleet = Fleet()
    for frame in frames:
        fleet.hear(frame, 1_000, frame.created_ns + delay_ns)
    (seen,) = fleet.seen(frames[-1].created_ns)
    return seen


def wrong(seen: Seen, after_seconds: float = 0.0) -> dict[str, str]:
    return judge(seen, Config(), seen.heard_ns + int(after_seconds * SECOND)).troubles


def test_an_agent_that_sends_is_well() -> None:
    seen = heard(*(own(each, BEGIN_NS + 10 * each * SECOND, each * SECOND // 10, 100 << 20) for each in range(1, 5)))
    assert wrong(seen, 20) == {}
    assert (seen.version, seen.rss_bytes, seen.waiting_bytes, seen.frames) == ("1.2.3", 100 << 20, 0, 4)
    assert seen.cpu_percent == pytest.approx(1.0)


def test_silence_is_told_with_its_length() -> None:
    assert wrong(heard(own(1, BEGIN_NS)), 240) == {"late": "nothing came of it for 4 min"}


def test_an_agent_that_tells_less_is_told_of_until_it_tells_all_again() -> None:
    def at_level(sequence: int, level: float) -> Frame:
        told = {"agent_detail_level": level, "agent_left_out_kernels": 9_000.0, "agent_waiting_bytes": 7.0}
        rows = METRICS.from_rows([{"metric": name, "value": value} for name, value in told.items()])
        return Frame("node-1", "boot-1", sequence, BEGIN_NS, (Batch("metrics", "own", rows),))

    seen = heard(at_level(1, 2.0))
    assert wrong(seen) == {
        "reduced": "it tells less, level 2 of 3, as too little of it was taken: 9000 kernels left out"
    }
    assert (seen.waiting_bytes, judge(seen, Config(), BEGIN_NS).row(1)["detail_level"]) == (7, 2)
    assert wrong(heard(at_level(1, 2.0), at_level(2, 0.0))) == {}


def test_a_frame_sent_again_counts_once_and_shows_that_the_agent_lives() -> None:
    fleet = Fleet()
    for at in (0, 50):
        fleet.hear(own(1, BEGIN_NS), 1_000, BEGIN_NS + at * SECOND)
    (seen,) = fleet.seen(BEGIN_NS)
    assert (seen.frames, seen.heard_ns) == (1, BEGIN_NS + 50 * SECOND)


def test_losses_are_told_until_they_are_long_ago(make_frame: MakeFrame) -> None:
    """Rows that fell off a source, and frames that fell off the spool; a new start of the agent counts anew."""
    assert "7 rows and 0 frames" in wrong(heard(make_frame(1), make_frame(2, dropped=7)))["dropping"]
    lost = heard(make_frame(1, lost=2), make_frame(2, lost=5))
    assert "5 frames fell off there" in wrong(lost)["dropping"]
    assert "dropping" not in wrong(lost, 601)
    fleet = Fleet()
    for at, frame in enumerate((make_frame(1, lost=5), make_frame(1, boot="boot-2", lost=0))):
        fleet.hear(frame, 1, at * 601 * SECOND)
    (seen,) = fleet.seen(0)
    assert "dropping" not in judge(seen, Config(), 601 * SECOND).troubles
    assert seen.lost == 0


def test_the_start_heard_of_last_is_the_newest_whatever_the_clock_said_when_it_began() -> None:
    """A node came back with its clock a year ago: what the start before had left comes first, and once more after a break."""
    fleet = Fleet()
    of_late, long_ago = f"{BEGIN_NS:016x}", f"{BEGIN_NS - 365 * 86_400 * SECOND:016x}"
    told = []
    for frame in (
        own(1, BEGIN_NS, rss=1 << 20, boot=of_late),
        own(2, BEGIN_NS, lost=4, boot=of_late),
        own(1, BEGIN_NS, rss=2 << 20, lost=1, boot=long_ago),
        own(2, BEGIN_NS, lost=4, boot=of_late),
        own(1, BEGIN_NS, rss=2 << 20, lost=1, boot=long_ago),
        own(2, BEGIN_NS, rss=3 << 20, lost=1, boot=long_ago),
        own(3, BEGIN_NS, lost=4, boot=of_late),
        own(3, BEGIN_NS, rss=3 << 20, lost=1, boot=long_ago),
    ):
        fleet.hear(frame, 1, BEGIN_NS)
        (seen,) = fleet.seen(BEGIN_NS)
        told.append((seen.boot == long_ago, seen.sequence, seen.lost, seen.frames))
    assert told == [
        (False, 1, 0, 1),
        (False, 2, 4, 2),
        (True, 1, 1, 3),
        (True, 1, 1, 3),
        (True, 1, 1, 3),
        (True, 2, 1, 4),
        (False, 3, 4, 5),
        (True, 3, 1, 6),
    ]
    assert (seen.rss_bytes, judge(seen, Config(), BEGIN_NS).row(1)["boot"]) == (3 << 20, long_ago)


def test_how_many_starts_of_an_agent_are_remembered_is_bounded() -> None:
    seen = heard(*(own(1, BEGIN_NS, boot=f"boot-{each}") for each in range(50, 0, -1)))
    assert (seen.boot, len(seen.starts), seen.frames) == ("boot-1", fleets.STARTS_MAX, 50)


@pytest.mark.parametrize(("delay", "words"), [(-90, "90 s ahead of"), (40, "40 s behind")])
def test_a_clock_that_is_off_is_told_with_its_side(delay: int, words: str) -> None:
    seen = heard(own(1, BEGIN_NS), delay_ns=delay * SECOND)
    assert words in wrong(seen)["skewed"]
    assert seen.clock_offset_ns == -delay * SECOND


def test_old_frames_out_of_a_spool_are_no_clock_that_is_behind() -> None:
    """While the backlog of an outage is sent, and once one quick frame has shown what the clock says."""
    assert "skewed" not in wrong(heard(own(1, BEGIN_NS, waiting=50 << 20), delay_ns=3_600 * SECOND))
    fleet = Fleet()
    for sequence, delay in ((1, 3_600), (2, 0), (3, 1_800)):
        fleet.hear(own(sequence, BEGIN_NS - delay * SECOND), 1, BEGIN_NS + sequence)
    (seen,) = fleet.seen(BEGIN_NS)
    assert wrong(seen) == {}


def test_cost_is_held_against_the_budget() -> None:
    busy = heard(own(1, BEGIN_NS, 0), own(2, BEGIN_NS + 10 * SECOND, 5 * SECOND))
    assert wrong(busy)["over_budget"] == "it uses 50 % of a core, over 25 %"
    large = heard(own(1, BEGIN_NS, 0, 500 << 20))
    assert wrong(large)["over_budget"] == "it uses 500 MiB of memory, over 384 MiB"
    restarted = heard(own(1, BEGIN_NS, 9 * SECOND), own(1, BEGIN_NS + 10 * SECOND, 0, boot="boot-2"))
    assert restarted.cpu_percent is None


def test_the_newest_reading_of_each_gpu_is_told() -> None:
    """From whatever source it comes; a GPU of which the source no longer speaks is gone; long batches are cut."""
    rows = [{"gpu_uuid": f"GPU-{each % 2}", "time_ns": each, "power_watts": float(each)} for each in range(1, 2_001)]
    fleet = Fleet()
    for sequence, listed in enumerate((rows, rows[:1]), 1):
        batch = Batch("device_samples", "nvml" if sequence == 1 else "smi", DEVICE_SAMPLES.from_rows(listed))
        fleet.hear(Frame("n", "b", sequence, 1, (batch,)), 1, 1)
    (seen,) = fleet.seen(1)
    assert {row["gpu_uuid"]: row["power_watts"] for row in readings(seen)} == {"GPU-0": 2_000.0, "GPU-1": 1_999.0}
    assert seen.readings["nvml"].num_rows == fleets.READINGS_MAX
    fleet.hear(Frame("n", "b", 3, 1, (Batch("device_samples", "nvml", DEVICE_SAMPLES.from_rows(rows[1:2])),)), 1, 1)
    assert {row["gpu_uuid"]: row["power_watts"] for row in readings(seen)} == {"GPU-0": 2.0, "GPU-1": 1.0}


def test_the_number_of_agents_is_bounded(monkeypatch: pytest.MonkeyPatch, make_frame: MakeFrame) -> None:
    monkeypatch.setattr(fleets, "AGENTS_MAX", 2)
    fleet = Fleet()
    for name in ("a", "b", "c", "c"):
        fleet.hear(make_frame(1, agent=name), 1, BEGIN_NS)
    assert ([seen.agent for seen in fleet.seen(BEGIN_NS)], fleet.left_out) == (["a", "b"], 2)
    assert fleet.seen(BEGIN_NS + FORGET_NS + 1) == []


def test_who_asks_for_a_closer_look_is_no_agent_that_is_late_afterwards(make_frame: MakeFrame) -> None:
    """Neither when it is heard nor when an earlier collector took it for one."""
    fleet = Fleet()
    fleet.hear(make_frame(1, agent=BY_HAND), 100, BEGIN_NS)
    kept = {
        "agent": BY_HAND,
        "boot": "b",
        "heard_ns": BEGIN_NS,
        "node": BY_HAND,
        "cluster": None,
        "version": None,
        "lost": 0,
    }
    fleet.remember([kept], BEGIN_NS)
    assert fleet.seen(BEGIN_NS) == []


def test_what_was_judged_is_kept_and_a_new_collector_goes_on_with_it(tmp_path: Path) -> None:
    """Once a minute, and at once when something changes. An agent that is gone is late for the next collector too."""
    now = [BEGIN_NS]
    fleet = Fleet()
    store = DuckDBStore(tmp_path, clock=lambda: now[0])
    keeper = Keeper(fleet, store, Config(), lambda: now[0])
    fleet.hear(own(1, BEGIN_NS, lost=4), 1_000, BEGIN_NS)
    written = []
    for seconds in (5, 10, 31, 36, 70):
        now[0] = BEGIN_NS + seconds * SECOND
        written.append(keeper.keep())
    assert written == [1, 0, 1, 0, 0]
    told = store.query("SELECT node, version, troubles, detail FROM agents ORDER BY time_ns").to_pylist()
    assert [row["troubles"] for row in told] == [["dropping"], ["late", "dropping"]]
    assert (told[1]["node"], told[1]["version"]) == ("node-1", "1.2.3")
    now[0] += 3_600 * SECOND
    following = Keeper(Fleet(), store, Config(), lambda: now[0])
    assert [dict(each.troubles) for each in following.standings()] == [{}]
    now[0] += 31 * SECOND
    assert [dict(each.troubles) for each in following.standings()] == [{"late": "nothing came of it for 62 min"}]
    store.close()
    with pytest.raises(StoreError):
        following.keep()
