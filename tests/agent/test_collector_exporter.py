"""What an agent relies on when it sends: order, credit, resending after a cut, and no frame acknowledged that is not stored."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from warpline_agent.agent import new_boot
from warpline_agent.exporters import collector
from warpline_agent.exporters.collector import CollectorExporter
from warpline_agent.spool import Spool
from warpline_proto import service_pb2, service_pb2_grpc
from warpline_proto.batch import Batch
from warpline_proto.stream import PACKING, Unpacker
from warpline_proto.tables import METRICS

WAIT_SECONDS = 60.0
ROWS = [Batch("metrics", "test", METRICS.from_rows([{"time_ns": 1, "metric": "m", "value": 1.0}]))]


class Collector(service_pb2_grpc.WarplineServicer):
    """A real server whose answers the test decides: `answer` gives an Ack, None (say nothing) or "cut"."""

    def __init__(self, answer: Callable[[service_pb2.Frame], Any], address: str = "127.0.0.1:0") -> None:
        self.answer = answer
        self.received: list[tuple[str, int]] = []
        self.streams = 0
        self._server = grpc.server(ThreadPoolExecutor(4))
        service_pb2_grpc.add_WarplineServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(address)}"

    def __enter__(self) -> Collector:
        self._server.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stop(None).wait()

    def Push(self, request_iterator: Iterator[service_pb2.Frame], context: Any) -> Iterator[service_pb2.Ack]:
        """Acknowledge as told."""
        self.streams += 1
        for frame in request_iterator:
            self.received.append((frame.boot, frame.sequence))
            said = self.answer(frame)
            if said == "cut":
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            elif said is not None:
                yield said


def accept(frame: service_pb2.Frame, credit_bytes: int = 1_000_000, refused: str = "") -> service_pb2.Ack:
    return service_pb2.Ack(boot=frame.boot, sequence=frame.sequence, credit_bytes=credit_bytes, refused=refused)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "BACKOFF_SECONDS_MIN", 0.01)
    monkeypatch.setattr(collector, "WAKE_SECONDS", 0.05)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, "node-a", new_boot(), time.time_ns)


@pytest.fixture
def export(spool: Spool) -> Iterator[Callable[[str], CollectorExporter]]:
    """Starts an exporter for the spool, and closes it at the end."""
    started: list[CollectorExporter] = []

    def start(address: str) -> CollectorExporter:
        started.append(CollectorExporter(spool, address, seed=1))
        started[-1].start()
        return started[-1]

    yield start
    for each in started:
        each.close()


Export = Callable[[str], CollectorExporter]


def test_everything_arrives_in_order_and_leaves_the_spool(spool: Spool, export: Export) -> None:
    for _ in range(50):
        spool.put(ROWS)
    with Collector(accept) as server:
        exporter = export(server.address)
        assert exporter.drain(WAIT_SECONDS)
        assert server.received == [(spool.boot, sequence) for sequence in range(1, 51)]
        assert exporter.health()[0].state == "fresh"
    assert list(spool.directory.glob("*.frame")) == []
    assert exporter.sent().acknowledged == 50
    assert exporter.sent().bytes > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_cut_at_random_points_loses_nothing(spool: Spool, export: Export, seed: int) -> None:
    chance = random.Random(seed)
    stored: list[int] = []

    def answer(frame: service_pb2.Frame) -> Any:
        if frame.sequence > (stored[-1] if stored else 0) and chance.random() < 0.8:
            assert frame.sequence == (stored[-1] if stored else 0) + 1, "the ledger would see a gap"
            stored.append(frame.sequence)
        if chance.random() < 0.2:
            return "cut"
        if frame.sequence > (stored[-1] if stored else 0):
            return "cut"
        return accept(frame)

    for _ in range(40):
        spool.put(ROWS)
    with Collector(answer) as server:
        assert export(server.address).drain(WAIT_SECONDS)
        assert server.streams > 1
    assert stored == list(range(1, 41))


def test_no_more_is_in_flight_than_the_collector_gives_credit_for(spool: Spool, export: Export) -> None:
    size = []
    released = threading.Event()

    def answer(frame: service_pb2.Frame) -> Any:
        size.append(frame.ByteSize())
        if frame.sequence == 1:
            return accept(frame, credit_bytes=3 * frame.ByteSize() + 10)
        if not released.is_set():
            return None
        return accept(frame)

    with Collector(answer) as server:
        exporter = export(server.address)
        spool.put(ROWS)
        assert exporter.drain(WAIT_SECONDS)
        for _ in range(30):
            spool.put(ROWS)
        assert until(lambda: len(server.received) == 4)
        with spool.changed:
            spool.changed.wait_for(lambda: False, 0.3)
        assert len(server.received) == 4
        released.set()


def test_one_frame_may_fly_even_without_credit(spool: Spool, export: Export) -> None:
    for _ in range(5):
        spool.put(ROWS)
    with Collector(lambda frame: accept(frame, credit_bytes=0)) as server:
        assert export(server.address).drain(WAIT_SECONDS)


@pytest.mark.parametrize("packing", [0, PACKING])
def test_frames_are_packed_once_the_collector_says_that_it_reads_them(
    spool: Spool, export: Export, packing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older collector gets what it can read; a refused frame is nothing that a later one refers to."""
    monkeypatch.setattr(collector, "CREDIT_BYTES_START", 0)
    frames: list[service_pb2.Frame] = []

    def answer(frame: service_pb2.Frame) -> service_pb2.Ack:
        frames.append(frame)
        ack = accept(frame, credit_bytes=0, refused="bad rows" if frame.sequence == 3 else "")
        ack.packing = packing
        return ack

    for _ in range(6):
        spool.put(ROWS)
    with Collector(answer) as server:
        assert export(server.address).drain(WAIT_SECONDS)
    unpacker = Unpacker()
    read = [unpacker.unpack(frame).batches[0].rows for frame in frames if frame.sequence != 3]
    assert read == [ROWS[0].rows] * 5
    assert [bool(frame.parts[0].dictionary) for frame in frames] == [
        False,
        False,
        *([packing > 0, False] + [packing > 0] * 2),
    ]


def test_a_refused_frame_is_gone_and_told(spool: Spool, export: Export) -> None:
    for _ in range(3):
        spool.put(ROWS)
    with Collector(lambda frame: accept(frame, refused="bad rows" if frame.sequence == 2 else "")) as server:
        exporter = export(server.address)
        assert exporter.drain(WAIT_SECONDS)
    assert (exporter.sent().acknowledged, exporter.sent().refused) == (2, 1)
    assert next(part for part in exporter.health() if part.state == "refused").reason == "1 frames so far: bad rows"


def test_a_collector_that_never_acknowledges_is_given_up(
    spool: Spool, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "ACKNOWLEDGEMENT_SECONDS_MAX", 0.1)
    silent = [True]

    def answer(frame: service_pb2.Frame) -> Any:
        if silent[0]:
            silent[0] = server.streams < 2
            return None
        return accept(frame)

    spool.put(ROWS)
    with Collector(answer) as server:
        assert export(server.address).drain(WAIT_SECONDS)
        assert server.streams >= 2


def test_a_collector_that_is_away_is_told_and_found_when_it_comes(spool: Spool, export: Export) -> None:
    server = Collector(accept)
    spool.put(ROWS)
    exporter = export("127.0.0.1:1")
    assert until(lambda: "unavailable" in exporter.health()[0].reason)
    assert exporter.alive and spool.waiting_frames == 1
    exporter.close()
    with server:
        assert export(server.address).drain(WAIT_SECONDS)


def test_close_ends_the_thread_whatever_it_does(spool: Spool, export: Export) -> None:
    spool.put(ROWS)
    with Collector(lambda frame: None) as server:
        exporter = export(server.address)
        assert until(lambda: bool(server.received))
        exporter.close()
        exporter.close()
    assert not exporter.alive
    assert spool.waiting_frames == 1


def until(condition: Callable[[], bool]) -> bool:
    """Wait for something another thread does, WAIT_SECONDS at most."""
    end = time.monotonic() + WAIT_SECONDS
    pause = threading.Event()
    while not condition() and time.monotonic() < end:
        pause.wait(0.01)
    return condition()


def test_the_end_does_not_sleep_through_a_long_pause(
    spool: Spool, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector came back while the exporter pauses: `drain` tries at once."""
    with Collector(accept) as server:
        address = server.address
    monkeypatch.setattr(CollectorExporter, "_pause", lambda self: 3_600.0)
    spool.put(ROWS)
    exporter = export(address)
    assert until(lambda: "takes no frames" in exporter.health()[0].reason)
    back = Collector(accept, address)
    with back:
        assert exporter.drain(WAIT_SECONDS)
    assert back.received == [(spool.boot, 1)]
