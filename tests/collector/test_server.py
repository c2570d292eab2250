"""The collector over real gRPC: frames in, acknowledgements after the commit, SQL out, bad input refused."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import psutil
import pytest
from patience import until
from served import served

from warpline_analysis.detector import Detector, Reader
from warpline_collector import config, continuous, pool
from warpline_collector.reader import CatalogReader
from warpline_collector.service import serve
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto import service_pb2, service_pb2_grpc, wire
from warpline_proto.batch import Batch, Frame
from warpline_proto.client import QueryClient
from warpline_proto.defaults import FRAME_BYTES_MAX
from warpline_proto.errors import ConfigError, QueryError
from warpline_proto.finding import Finding, FindingKind, FindingState, Report, Severity, Subject, to_rows
from warpline_proto.stream import PACKING, Packer
from warpline_proto.tables import CAPTURES, FINDINGS

MakeFrame = Callable[..., Frame]
ENDLESS = "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))"
"""One call that runs for minutes."""
ACCUSED = Finding(
    FindingKind.COMPUTE_STRAGGLER, Severity.WARNING, 0.9, Subject(job="j", rank=3), "rank 3 is slow", "look at it"
)


def nothing(reader: Reader) -> Report:
    """An analysis that finds nothing."""
    return Report()


def settings(directory: Path, listen: str = "127.0.0.1:0") -> config.Settings:
    """Quick to analyse, one SQL worker."""
    return config.Settings(
        collector=config.Config(listen=listen, directory=str(directory)),
        sql=pool.Config(workers=1, seconds_max=60.0),
        analysis=continuous.Config(period_seconds=0.05),
    )


@contextmanager
def running(directory: Path, detector: Detector = nothing) -> Iterator[str]:
    """A collector in a thread of its own; gives its address."""
    with served(settings(directory), {"test": detector}) as told:
        yield told[0]


def push(address: str, messages: Sequence[service_pb2.Frame]) -> list[service_pb2.Ack]:
    """Send all, close the sending side, take every acknowledgement."""
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.WarplineStub(channel)
        return list(stub.Push(iter(messages), timeout=60))


def test_an_acknowledged_frame_can_be_asked_for(tmp_path: Path, make_frame: MakeFrame) -> None:
    """The last acknowledgement names the last frame; by then every row answers SQL, here and in another reader."""
    with running(tmp_path) as address:
        acks = push(address, [wire.to_message(make_frame(sequence)) for sequence in range(1, 51)])
        assert (acks[-1].boot, acks[-1].sequence, acks[-1].refused) == ("boot-1", 50, "")
        assert acks[-1].credit_bytes >= 64 * 1024
        with QueryClient(address) as client:
            assert client.query("SELECT count(*) AS rows FROM steps").to_pylist() == [{"rows": 150}]
            status = client.status()
            assert (status.frames, status.rows, status.agents) == (50, 150, 1)
        with CatalogReader(tmp_path) as reader:
            assert reader.query("SELECT max(step) AS newest FROM steps").to_pylist() == [{"newest": 50}]


def test_packed_frames_are_stored_as_they_were(tmp_path: Path, make_frame: MakeFrame) -> None:
    """The first acknowledgement says that they are read. One that needs what never came breaks the stream, to be sent again."""
    packer = Packer()
    messages = [packer.pack(wire.to_message(make_frame(sequence))) for sequence in range(1, 21)]
    assert messages[-1].ByteSize() < messages[0].ByteSize() / 2
    with running(tmp_path) as address:
        with pytest.raises(grpc.RpcError) as broken:
            push(address, messages[1:])
        assert broken.value.code() == grpc.StatusCode.UNAVAILABLE
        assert push(address, messages)[0].packing == PACKING
        with QueryClient(address) as client:
            told = client.query("SELECT count(*) AS rows, min(step) AS first, max(step) AS last FROM steps")
            assert told.to_pylist() == [{"rows": 60, "first": 1, "last": 20}]


def test_an_acknowledgement_does_not_wait_for_the_next_frame(tmp_path: Path, make_frame: MakeFrame) -> None:
    """An agent that sends one frame and then nothing hears of it."""
    never = threading.Event()

    def one_then_silence() -> Iterator[service_pb2.Frame]:
        yield wire.to_message(make_frame(1))
        never.wait(60)

    with running(tmp_path) as address, grpc.insecure_channel(address) as channel:
        call = service_pb2_grpc.WarplineStub(channel).Push(one_then_silence(), timeout=60)
        assert next(call).sequence == 1
        never.set()
        call.cancel()


def test_a_frame_sent_again_after_a_restart_is_stored_once(tmp_path: Path, make_frame: MakeFrame) -> None:
    """The collector went away before the agent heard: the agent sends again, nothing doubles."""
    messages = [wire.to_message(make_frame(sequence)) for sequence in range(1, 4)]
    with running(tmp_path) as address:
        push(address, messages)
    with running(tmp_path) as address:
        assert push(address, messages)[-1].sequence == 3
        with QueryClient(address) as client:
            assert client.query("SELECT count(*) AS rows FROM steps").to_pylist() == [{"rows": 9}]


def test_a_malformed_frame_is_refused_and_the_rest_is_kept(tmp_path: Path, make_frame: MakeFrame) -> None:
    """The agent is told which frame will never be taken and why; its neighbours are stored, in order."""
    good = [wire.to_message(make_frame(sequence)) for sequence in range(1, 6)]
    good[1].parts[0].payload = b"garbage"
    good[2].version = 99
    good[3].parts[0].rows += 1
    with running(tmp_path) as address:
        acks = push(address, good)
        refused = {ack.sequence: ack.refused for ack in acks if ack.refused}
        assert sorted(refused) == [2, 3, 4]
        assert "does not unpack" in refused[2]
        assert "version 99" in refused[3]
        assert "rows, not" in refused[4]
        assert [ack.sequence for ack in acks] == sorted(ack.sequence for ack in acks)
        assert acks[-1].sequence == 5
        with QueryClient(address) as client:
            found = client.query("SELECT DISTINCT step FROM steps ORDER BY step").to_pylist()
            assert [row["step"] for row in found] == [1, 5]


def test_an_agent_cannot_make_findings(tmp_path: Path, make_frame: MakeFrame) -> None:
    """Who is accused is the analysis' to say; the rest of what the agent sends is taken."""
    forged = to_rows([FindingState(ACCUSED, "open", 1, 1)])
    frame = replace(make_frame(1), batches=(Batch(FINDINGS.name, "synthetic", forged),))
    with running(tmp_path) as address:
        acks = push(address, [wire.to_message(frame), wire.to_message(make_frame(2))])
        assert [(ack.sequence, "collector's own" in ack.refused) for ack in acks] == [(1, True), (2, False)]
        with QueryClient(address) as client:
            assert client.query("SELECT id FROM findings").to_pylist() == []


def test_a_refused_question_is_a_sentence_and_a_hostile_one_costs_nothing(tmp_path: Path) -> None:
    """Over the wire too: the reason arrives, the next question is answered, the collector lives."""
    with running(tmp_path) as address, QueryClient(address) as client:
        with pytest.raises(QueryError, match="COPY is not allowed"):
            client.query("COPY (SELECT 1) TO '/tmp/x'")
        with pytest.raises(QueryError, match=r"stopped|memory|Memory"):
            client.query("SELECT length(lpad('x', 2000000000, 'y'))", seconds_max=0.5)
        cut = client.query("SELECT * FROM range(100)", rows_max=10)
        assert (cut.num_rows, cut.schema.metadata) == (10, {b"truncated": b"true"})
        assert client.query("SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_fifty_slow_questions_at_once_are_answered_or_told_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker, fifty askers: each hears something, bounded in time, and afterwards the door is open."""

    def ask(client: QueryClient) -> str:
        try:
            client.query(ENDLESS, seconds_max=1.0)
        except QueryError as error:
            return error.message
        raise AssertionError("it never ends")

    monkeypatch.setattr(pool, "QUERY_WAIT_SECONDS_MAX", 3.0)
    with running(tmp_path) as address, QueryClient(address) as client:
        with ThreadPoolExecutor(50) as askers:
            said = Counter(askers.map(ask, [client] * 50))
        assert set(said) <= {
            "the query ran longer than 1 s and was stopped (ask for less)",
            "all 1 SQL workers are busy (ask again in a moment)",
            "16 of your questions wait, are answered or are not read to their end: more is not your share (wait for one of them)",
        }
        assert len(said) == 3
        assert client.query("SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_a_question_whose_asker_went_away_does_not_run_on(tmp_path: Path) -> None:
    """The only worker is free again long before the bound of the query that nobody waits for."""
    request = service_pb2.QueryRequest(sql=ENDLESS, seconds_max=1e9)
    with running(tmp_path) as address, QueryClient(address) as client:
        assert client.query("SELECT 1 AS one").num_rows == 1
        [worker] = workers()
        with grpc.insecure_channel(address) as channel:
            call = service_pb2_grpc.WarplineStub(channel).Query(request)
            started = worker.cpu_times().user
            until(lambda: worker.cpu_times().user > started + 0.2)
            call.cancel()
        until(lambda: worker not in workers())
        assert client.query("SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_ctrl_c_in_the_midst_of_a_question_leaves_at_once(tmp_path: Path) -> None:
    """Wherever within a call the signal comes, the client can be closed."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with running(tmp_path) as address:
            for after_ms in range(1, 31):
                with pytest.raises(KeyboardInterrupt), QueryClient(address) as client:
                    signal.setitimer(signal.ITIMER_REAL, after_ms / 1e3)
                    while True:
                        client.query("SELECT 1")
    finally:
        signal.signal(signal.SIGALRM, before)


def workers() -> list[psutil.Process]:
    """The SQL workers of the collector in this process."""
    return [child for child in psutil.Process().children() if child.is_running()]


def test_a_large_answer_comes_in_pieces(tmp_path: Path) -> None:
    """More than one message may hold; what was left out of it is not forgotten on the way."""
    with running(tmp_path) as address, QueryClient(address) as client:
        rows = client.query("SELECT range AS n, repeat('x', 400) AS wide FROM range(200000)", rows_max=100_000)
        assert (rows.num_rows, rows.column("n")[-1].as_py()) == (100_000, 99_999)
        assert rows.nbytes > 2 * FRAME_BYTES_MAX
        assert rows.schema.metadata == {b"truncated": b"true"}


def test_a_request_to_look_closer_reaches_the_node_it_names(tmp_path: Path) -> None:
    """Captures asked for in the table go out once, to the right node; those already sent do not."""
    store = DuckDBStore(tmp_path)
    wanted = {"id": "c1", "node": "node-1", "rank": 2, "what": "stacks", "state": "requested", "requested_ns": 1}
    taken = {**wanted, "id": "c2"}
    rows = [wanted, {**wanted, "id": "c3", "node": "node-2"}, taken, {**taken, "state": "sent"}]
    store.write([Batch(CAPTURES.name, "analysis", CAPTURES.from_rows(rows))])
    store.close()
    with running(tmp_path) as address, grpc.insecure_channel(address) as channel:
        call = service_pb2_grpc.WarplineStub(channel).Captures(service_pb2.CaptureWatch(node="node-1"), timeout=60)
        found = next(call)
        call.cancel()
    assert (found.id, found.rank, found.what) == ("c1", 2, "stacks")


def test_findings_open_and_outlive_a_restart(tmp_path: Path) -> None:
    """What the analysis finds is asked for like anything else, and keeps the moment it was opened."""
    seen = threading.Event()

    def accuse(reader: Reader) -> Report:
        if reader.query("SELECT id FROM current_findings").num_rows:
            seen.set()
        return Report((ACCUSED,))

    opened = []
    for _ in range(2):
        seen.clear()
        with running(tmp_path, accuse) as address, QueryClient(address) as client:
            assert seen.wait(60)
            opened.append(client.query("SELECT id, rank, opened_ns FROM current_findings").to_pylist())
    assert opened[0] == opened[1]
    assert [(row["id"], row["rank"]) for row in opened[0]] == [(ACCUSED.id, 3)]


def test_a_broken_detector_is_told_and_ends_nothing(tmp_path: Path) -> None:
    """Its question stays open, source_health says so, frames and questions go on, and the next pass asks again."""
    passes = []
    twice = threading.Event()

    def broken(reader: Reader) -> Report:
        passes.append(1)
        if len(passes) > 1:
            twice.set()
        raise ZeroDivisionError("of its own making")

    with running(tmp_path, broken) as address, QueryClient(address) as client:
        assert twice.wait(60)
        told = client.query("SELECT state, reason FROM source_state WHERE source = 'analysis' AND subject = 'test'")
    assert told.to_pylist() == [
        {"state": "unsupported", "reason": "the detector failed: ZeroDivisionError: of its own making"}
    ]


def test_an_address_that_is_taken_is_a_sentence(tmp_path: Path) -> None:
    """A second collector on the same port says which address, and leaves its store closed."""
    with running(tmp_path / "first") as address, pytest.raises(ConfigError, match="cannot listen on"):
        asyncio.run(_serve_once(tmp_path / "second", address))
    DuckDBStore(tmp_path / "second").close()


async def _serve_once(directory: Path, address: str) -> None:
    chosen = settings(directory)
    taken = replace(chosen, collector=replace(chosen.collector, listen=address))
    await serve(taken, lambda _: None, asyncio.Event(), detectors={"test": nothing})


def test_stopping_in_the_middle_of_a_pass_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a detector's failure in the log, nor a check or a pass in the rows, nor a question after the end."""
    asking = threading.Event()
    asked: list[str] = []

    def endless(reader: Reader) -> Report:
        asking.set()
        try:
            reader.query("SELECT count(*) FROM range(100000000000) a, range(1000) b")
        except QueryError:
            asked.append("told as an error")
        asked.append("asked on")
        return Report()

    with running(tmp_path, endless):
        assert asking.wait(60)
    assert asked == []
    assert [record.message for record in caplog.records] == []
    with CatalogReader(tmp_path) as reader:
        assert reader.query("SELECT * FROM source_health").num_rows == 0
