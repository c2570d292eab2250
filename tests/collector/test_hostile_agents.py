"""Agents that mean harm, or are badly broken, at the collector's own door: refused, slowed and told of, the others kept."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
import zstandard
from served import served

from warpline_collector import config, continuous, limits, pool, standing
from warpline_collector.fleet import Fleet
from warpline_collector.ingest import Stream
from warpline_collector.limits import Budget, Limits
from warpline_proto import service_pb2, service_pb2_grpc, wire
from warpline_proto.batch import Batch, Frame
from warpline_proto.client import QueryClient
from warpline_proto.errors import StoreError, WireError
from warpline_proto.tables import DEVICE_SAMPLES, METRICS, SOURCE_HEALTH, STEPS

MakeFrame = Callable[..., Frame]
DAY_NS = 86_400 * 10**9
FRAMES = 12


@contextmanager
def running(directory: Path, bounds: limits.Config = limits.Config()) -> Iterator[str]:  # noqa: B008
    """A collector in a thread of its own; gives its address."""
    settings = config.Settings(
        collector=config.Config(listen="127.0.0.1:0", directory=str(directory)),
        sql=pool.Config(workers=1, seconds_max=60.0),
        analysis=continuous.Config(period_seconds=0.2),
        limits=bounds,
    )
    with served(settings) as told:
        yield told[0]


def push(address: str, messages: Sequence[service_pb2.Frame]) -> list[service_pb2.Ack]:
    with grpc.insecure_channel(address) as channel:
        return list(service_pb2_grpc.WarplineStub(channel).Push(iter(messages), timeout=180))


def steps(sequence: int, rows: Sequence[dict[str, Any]], agent: str = "node-1", boot: str = "boot-1") -> Frame:
    told = [{"node": agent, "source": "hook", "rank": 0, "step": sequence} | row for row in rows]
    return Frame(agent, boot, sequence, time.time_ns(), (Batch("steps", "hook", STEPS.from_rows(told)),))


def step(start_ns: int, **columns: Any) -> dict[str, Any]:
    return {"start_ns": start_ns, "duration_ns": 10**6, "job": "train"} | columns


def ask(address: str, sql: str) -> list[dict[str, Any]]:
    with QueryClient(address) as client:
        rows: list[dict[str, Any]] = client.query(sql).to_pylist()
        return rows


def bomb() -> service_pb2.Frame:
    """A kilobyte that claims to be all that a frame may unpack to, and is."""
    plain = bytes(64 * 1024 * 1024)
    message = service_pb2.Frame(version=1, agent="evil", boot="b", sequence=1)
    payload = zstandard.ZstdCompressor().compress(plain)
    message.parts.add(table="steps", rows=1, unpacked_bytes=len(plain), payload=payload)
    return message


def evil(sequence: int) -> service_pb2.Frame:
    """One of the things that a hostile agent sends."""
    now = time.time_ns()
    kind = sequence % 8
    message = wire.to_message(steps(sequence, [step(now)] * 200, "evil", f"boot-{sequence % 50}"))
    if kind == 0:
        message = bomb()
    elif kind == 1:
        message.parts[0].payload = b"\xff" * 100_000
    elif kind == 2:
        message.parts[0].rows = 2**63
    elif kind == 3:
        message.sequence = 2**64 - 1
    elif kind == 4:
        message = wire.to_message(steps(sequence, [step(2**63 - 1), step(-(2**63))] * 100, "evil"))
    elif kind == 5:
        message.parts.extend([service_pb2.Part()] * 60_000)
    elif kind == 6:
        jobs = [step(now, job=f"job {sequence} {number}") for number in range(500)]
        message = wire.to_message(steps(sequence, jobs, "evil"))
    return message


def test_an_honest_agent_is_acknowledged_while_a_hostile_one_does_what_it_can(tmp_path: Path) -> None:
    """Bombs, garbage, impossible counts, boots and jobs without end, on several streams whose answers nobody reads."""
    over = threading.Event()

    def endless(first: int) -> Iterator[service_pb2.Frame]:
        number = first
        while not over.is_set():
            yield evil(number)
            number += 1

    bounds = limits.Config(bytes_per_second=16 * 1024 * 1024)
    with running(tmp_path, bounds) as address, grpc.insecure_channel(address) as hostile:
        stub = service_pb2_grpc.WarplineStub(hostile)
        calls = [stub.Push(endless(first)) for first in (1, 3, 5, 6)]
        try:
            for sequence in range(1, FRAMES + 1):
                (*_, ack) = push(address, [wire.to_message(steps(sequence, [step(time.time_ns())]))])
                assert (ack.sequence, ack.refused) == (sequence, "")
        finally:
            over.set()
            for call in calls:
                call.cancel()
        counted = ask(
            address, "SELECT count(*) AS rows, max(start_ns) - min(start_ns) AS span FROM steps WHERE node = 'node-1'"
        )
        assert counted[0]["rows"] == FRAMES
        [about] = ask(address, "SELECT count(DISTINCT job) AS jobs, max(start_ns) AS newest FROM steps")
        assert about["jobs"] <= bounds.jobs_per_hour + 2
        assert about["newest"] < time.time_ns() + DAY_NS


def test_rows_of_a_time_to_come_are_set_aside_and_the_rest_of_the_frame_is_kept(tmp_path: Path) -> None:
    """The year 2262 breaks neither sums of times nor analysis; a clock that is hours ahead is nothing strange."""
    now = time.time_ns()
    rows = [
        step(now),
        step(now + 3_600 * 10**9),
        step(2**63 - 1),
        step(now + 2 * DAY_NS),
        step(now, duration_ns=2**63 - 1),
        step(-(2**63)),
        step(0),
    ]
    with running(tmp_path) as address:
        assert push(address, [wire.to_message(steps(1, rows))])[-1].refused == ""
        told = "SELECT count(*) AS rows, max(start_ns + duration_ns) AS newest FROM steps"
        assert ask(address, told) == [{"rows": 3, "newest": now + 3_600 * 10**9 + 10**6}]
        assert ask(address, "SELECT min(start_ns) AS oldest FROM steps") == [{"oldest": 0}]


def test_a_collector_whose_clock_was_set_back_takes_no_row_for_one_of_a_time_to_come() -> None:
    """Else all that the fleet sends meanwhile would be set aside for good. After a start it is told by what was sealed."""
    now = [10 * DAY_NS]
    bounds, again = Limits(limits.Config(), lambda: now[0]), Limits(limits.Config(), lambda: 0, newest_ns=10 * DAY_NS)
    fresh = [steps(1, [step(10 * DAY_NS)])]
    assert bounds.sift(fresh) is not None
    now[0] = 0
    for each in (bounds, again):
        assert each.sift(fresh)[0].batches[0].rows.num_rows == 1


def test_numbers_that_are_none_are_not_known(tmp_path: Path) -> None:
    """NaN would be the largest of all, and no whole number can be made of it."""
    values = [float("nan"), float("inf"), -float("inf"), 7.5, None]
    rows = DEVICE_SAMPLES.from_rows(
        [{"node": "node-1", "gpu_uuid": "GPU-1", "time_ns": time.time_ns(), "power_watts": value} for value in values]
    )
    with running(tmp_path) as address:
        push(
            address,
            [wire.to_message(Frame("node-1", "b", 1, time.time_ns(), (Batch("device_samples", "nvml", rows),)))],
        )
        told = "SELECT count(*) AS rows, max(power_watts) AS most, count(power_watts) AS known FROM device_samples"
        assert ask(address, told) == [{"rows": 5, "most": 7.5, "known": 1}]


def test_what_is_not_taken_is_counted_and_told_of_that_agent_alone() -> None:
    fleet = Fleet()
    bounds = Limits(limits.Config(jobs_per_hour=2), time.time_ns, fleet.refuse)
    honest, strange = steps(1, [step(time.time_ns())]), steps(1, [step(2**62)] * 5, "evil")
    for frame in (honest, strange):
        fleet.hear(frame, 100, time.time_ns())
    kept = bounds.sift([honest, strange])
    assert [frame.batches[0].rows.num_rows for frame in kept] == [1, 0]
    assert kept[0] is honest or kept[0].batches[0].rows.equals(honest.batches[0].rows)
    many = steps(2, [step(time.time_ns(), job=f"j{number}") for number in range(9)], "evil")
    [left] = bounds.sift([many])
    assert left.batches[0].rows.column("job").to_pylist() == ["j0", "j1"]
    assert bounds.refused_rows == 12
    judged = {
        each.agent: standing.judge(each, standing.Config(), time.time_ns()) for each in fleet.seen(time.time_ns())
    }
    assert standing.REFUSED not in judged["node-1"].troubles
    assert "12 rows of it were not taken" in judged["evil"].troubles[standing.REFUSED]
    assert judged["evil"].row(1)["refused_rows"] == 12


def test_frames_without_anything_strange_are_passed_on_as_they_are() -> None:
    bounds = Limits(limits.Config(), time.time_ns)
    frames = [steps(number, [step(time.time_ns(), job="")]) for number in range(1, 9)]
    assert bounds.sift(frames) is frames


def test_a_text_of_megabytes_costs_its_row() -> None:
    bounds = Limits(limits.Config(), time.time_ns)
    [kept] = bounds.sift([steps(1, [step(0), step(0, clock="x" * 10**6)])])
    assert kept.batches[0].rows.num_rows == 1


def test_an_agent_beyond_its_budget_waits_and_others_do_not() -> None:
    budget = Budget(100.0, 1_000.0, now=0.0)
    assert budget.take(1_000.0, 0.0) == 0.0
    assert budget.take(50.0, 0.0) == 0.5
    assert budget.take(0.0, 0.5) == 0.0
    now = [0.0]
    bounds = Limits(limits.Config(bytes_per_second=1024 * 1024), time.time_ns, monotonic=lambda: now[0])
    message = wire.to_message(steps(1, [step(0)]))

    async def waits() -> list[float]:
        stream = Stream()
        return [bounds.seconds("node-1", message, stream, 10 * 1024 * 1024) for _ in range(2)] + [
            bounds.seconds("other", wire.to_message(steps(1, [step(0)], "other")), Stream(), 1_000)
        ]

    assert asyncio.run(waits()) == [0.0, 10.0, 0.0]


def test_an_agent_that_begins_anew_without_end_is_slowed_and_loses_nothing() -> None:
    bounds = Limits(limits.Config(starts_per_hour=3), time.time_ns, monotonic=lambda: 0.0)

    async def waits() -> list[float]:
        stream = Stream()
        messages = [wire.to_message(steps(1, [], boot=f"b{number}")) for number in range(5)]
        return [bounds.seconds("node-1", message, stream, 1) for message in messages]

    assert asyncio.run(waits()) == [0.0, 0.0, 0.0, 30.0, 30.0]


def test_the_oldest_of_too_many_streams_gives_way_and_one_more_agent_than_the_bound_is_refused() -> None:
    bounds = Limits(limits.Config(streams_max=2, agents_max=1), time.time_ns)

    async def check() -> None:
        streams = [Stream() for _ in range(3)]
        guests = [bounds.guest("here", each) for each in streams]
        for guest in guests:
            assert guest is not None
            await guest.turn(wire.to_message(steps(1, [step(0)])), 10)
        assert [each.broken.done() for each in streams] == [True, False, False]
        for guest in guests:
            assert guest is not None
            guest.close()
        assert bounds.guest("here", Stream()) is not None
        with pytest.raises(StoreError, match="knows 1 agents"):
            bounds.check("another")

    asyncio.run(check())


def test_who_sends_in_the_name_of_others_spends_its_own_budget_and_place() -> None:
    """With a certificate of its own an agent neither ends another's streams nor fills the table of agents with made-up ones."""
    bounds = Limits(limits.Config(streams_max=1, agents_max=2), time.time_ns)

    async def check() -> None:
        honest, evil = Stream(), Stream()
        guests = (bounds.guest("there", honest, "node-1"), bounds.guest("elsewhere", evil, "evil"))
        assert guests[0] is not None and guests[1] is not None
        await guests[0].turn(wire.to_message(steps(1, [step(0)])), 10)
        for agent in ("node-1", *(f"made-up-{number}" for number in range(10))):
            await guests[1].turn(wire.to_message(steps(1, [step(0)], agent)), 10)
        assert (honest.broken.done(), evil.broken.done()) == (False, False)
        bounds.check("node-1")
        bounds.check("evil")

    asyncio.run(check())


def test_frames_of_an_agent_beyond_the_bound_wait_with_it_until_there_is_room(tmp_path: Path) -> None:
    """They are neither taken nor refused: an acknowledgement of any kind would let the agent drop them."""
    first, second = (wire.to_message(steps(1, [step(time.time_ns())], agent)) for agent in ("a", "b"))
    with running(tmp_path, limits.Config(agents_max=1)) as address:
        assert push(address, [first])[-1].refused == ""
        with pytest.raises(grpc.RpcError, match="takes no further one"):
            push(address, [second])


def test_an_agent_of_which_nothing_came_for_an_hour_makes_room_for_another() -> None:
    now = [0.0]
    bounds = Limits(limits.Config(agents_max=2), time.time_ns, monotonic=lambda: now[0])

    async def check() -> None:
        there, gone = (bounds.guest("here", Stream()) for _ in range(2))
        assert there is not None and gone is not None
        await there.turn(wire.to_message(steps(1, [], "there")), 10)
        await gone.turn(wire.to_message(steps(1, [], "gone")), 10)
        gone.close()
        with pytest.raises(StoreError):
            bounds.check("another")
        now[0] = limits.FORGET_SECONDS + 1
        bounds.check("another")
        with pytest.raises(StoreError):
            bounds.check("one more")

    asyncio.run(check())


def test_streams_that_never_say_whose_they_are_are_bounded_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HOST_STREAMS_MAX", 2)
    bounds = Limits(limits.Config(), time.time_ns)

    async def check() -> None:
        silent = [bounds.guest("there", Stream()) for _ in range(3)]
        assert [each is None for each in silent] == [False, False, True]
        assert bounds.guest("elsewhere", Stream()) is not None
        of_one = [bounds.guest("behind one address", Stream(), "evil") for _ in range(limits.SILENT_STREAMS_MAX + 1)]
        assert [each is None for each in of_one] == [*[False] * limits.SILENT_STREAMS_MAX, True]
        assert bounds.guest("behind one address", Stream(), "node-1") is not None
        assert silent[0] is not None
        silent[0].close()
        assert bounds.guest("there", Stream()) is not None

    asyncio.run(check())


def test_a_report_that_cannot_be_read_ends_neither_the_fleet_nor_the_queue(tmp_path: Path) -> None:
    """What an agent says of itself is looked at before it is stored, and may be anything."""
    now = time.time_ns()
    waiting = [{"metric": "agent_waiting_bytes", "value": value} for value in (float("nan"), 1e300)]
    own = [
        Batch("metrics", "own", METRICS.from_rows(waiting)),
        Batch(
            "source_health",
            "own",
            SOURCE_HEALTH.from_rows(
                [{"subject": "agent", "time_ns": -(2**63), "cpu_ns": 2**63 - 1, "rss_bytes": 2**63 - 1}]
            ),
        ),
    ]
    with running(tmp_path) as address:
        frames = [Frame("evil", "b", number, now, tuple(own)) for number in range(1, 4)]
        assert push(address, [wire.to_message(each) for each in frames])[-1].sequence == 3
        assert push(address, [wire.to_message(steps(1, [step(now)]))])[-1].sequence == 1


@pytest.mark.parametrize("sequence", [2**63 - 1, 2**64 - 1, 2**49])
def test_a_sequence_that_nobody_reaches_is_refused(tmp_path: Path, sequence: int) -> None:
    message = wire.to_message(steps(1, [step(0)]))
    message.sequence = sequence
    with pytest.raises(WireError, match="counts to"):
        wire.from_message(message)


def test_gaps_and_repeats_are_told_and_two_boots_in_turn_are_both_kept(tmp_path: Path) -> None:
    now = time.time_ns()
    order = [("a", 5), ("b", 1), ("a", 5), ("a", 4), ("b", 2), ("a", 2**40), ("b", 3)]
    frames = [replace(steps(number, [step(now, step=number)]), boot=boot) for boot, number in order]
    with running(tmp_path) as address:
        acks = push(address, [wire.to_message(each) for each in frames])
        assert {(ack.boot, ack.refused) for ack in acks} == {("a", ""), ("b", "")}
        told = "SELECT count(*) AS rows FROM steps"
        assert ask(address, told) == [{"rows": 5}]
        gaps = ask(address, "SELECT reason FROM source_health WHERE subject = 'agent node-1' ORDER BY reason")
        assert len(gaps) == 2
        assert f"{2**40 - 6} frames never arrived" in gaps[0]["reason"] + gaps[1]["reason"]


def test_a_message_of_very_many_parts_is_not_even_parsed() -> None:
    """Each part of two bytes takes more than a hundred once it is."""
    assert wire.parse(b"\x3a\x00" * 1_000_000) == service_pb2.Frame()
    sound = wire.to_message(steps(1, [step(number) for number in range(5_000)]))
    assert wire.parse(sound.SerializeToString()) == sound
    long = service_pb2.Frame(version=1, agent="a" * 100_000, boot="b", created_ns=-1, lost=2**63)
    assert wire.parse(long.SerializeToString()) == long


def test_an_agent_that_reads_no_acknowledgements_loses_its_stream_alone(tmp_path: Path) -> None:
    with running(tmp_path) as address, grpc.insecure_channel(address) as channel:
        never = service_pb2_grpc.WarplineStub(channel).Push(
            wire.to_message(steps(number, [step(0)], "evil")) for number in range(1, 3_000)
        )
        assert push(address, [wire.to_message(steps(1, [step(0)]))])[-1].sequence == 1
        never.cancel()
    assert pa.total_allocated_bytes() < 512 * 1024 * 1024
