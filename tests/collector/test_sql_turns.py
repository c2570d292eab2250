"""Many who ask and few workers: nobody keeps the others from being answered, and what is taken back takes no place."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from certified import Authority, running
from patience import until
from postgres_door import ONE_WORKER, Door, begun, exactly, heard, opened, startup, told
from served import served

from warpline_collector import config, continuous, pool, turns
from warpline_collector.callers import Caller, Role
from warpline_collector.pool import QUESTIONS, WorkerPool
from warpline_collector.postgres import messages
from warpline_collector.question import Question
from warpline_collector.shares import Bounds, Full, Shares
from warpline_collector.turns import Turns
from warpline_proto import service_pb2, service_pb2_grpc
from warpline_proto.client import QueryClient
from warpline_proto.dialing import channel
from warpline_proto.errors import QueryError
from warpline_proto.tls import NONE, Tls

ENDLESS = "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))"
"""One call that runs for minutes."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine nobody is forgotten, nor sent away."""
    monkeypatch.setattr(turns, "AROUND_SECONDS", 600.0)
    monkeypatch.setattr(pool, "QUERY_WAIT_SECONDS_MAX", 100.0)


@contextlib.contextmanager
def collecting(directory: Path, listen: str = "127.0.0.1:0", workers: int = 2) -> Iterator[str]:
    """A collector that lets a question run for minutes; gives its address."""
    settings = config.Settings(
        collector=config.Config(listen=listen, directory=str(directory)),
        sql=pool.Config(workers=workers, seconds_max=600.0),
        analysis=continuous.Config(period_seconds=600.0),
    )
    with served(settings, {}) as addresses:
        yield addresses[0]


@contextlib.contextmanager
def greedy(address: str, tls: Tls = NONE, seconds: float = 600.0) -> Iterator[Callable[[], grpc.StatusCode | None]]:
    """Somebody who holds all the questions that one caller may; gives what asks one more, over another connection, and how that
    ended."""
    request = service_pb2.QueryRequest(sql=ENDLESS, seconds_max=seconds)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    metadata = (("warpline-asker", "greedy"),)
    with channel(address, tls, options) as first:
        asking = [
            service_pb2_grpc.WarplineStub(first).Query(request, metadata=metadata) for _ in range(QUESTIONS.of_one + 1)
        ]
        until(lambda: any(call.done() for call in asking))
        refused = next(call for call in asking if call.done())
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "more is not your share (wait for one of them)" in refused.details()

        def more() -> grpc.StatusCode | None:
            with channel(address, tls, options) as second:
                try:
                    next(service_pb2_grpc.WarplineStub(second).Query(request, metadata=metadata, timeout=2.0))
                except grpc.RpcError as error:
                    return error.code()
            return None

        yield more
        for call in asking:
            call.cancel()


@pytest.mark.parametrize("socket", [False, True], ids=["loopback", "socket"])
def test_a_greedy_program_on_this_machine_keeps_nobody_else_waiting(tmp_path: Path, socket: bool) -> None:
    """Programs are told apart by their connection, and over a socket by what they say: one holds all it may, another is
    answered at once."""
    listen = f"unix:{tmp_path}/s" if socket else "127.0.0.1:0"
    with collecting(tmp_path / "store", listen) as address, QueryClient(address) as screen:
        assert screen.query("SELECT 1 AS one").num_rows == 1
        with greedy(address):
            for _ in range(3):
                assert screen.query("SELECT 1 AS one", seconds_max=60.0).to_pylist() == [{"one": 1}]
        assert screen.query("SELECT 1 AS one").num_rows == 1


def test_one_certificate_has_one_share_over_however_many_connections(tmp_path: Path) -> None:
    """A viewer who holds all of it is refused by another connection too; the operator has his own, and is next."""
    authority = Authority(tmp_path / "authority")
    with (
        running(tmp_path / "store", authority.collector()) as [address],
        QueryClient(address, authority.of("operator", "anna")) as operator,
    ):
        assert operator.query("SELECT 1 AS one").num_rows == 1
        with greedy(address, authority.of("viewer", "eve"), seconds=3.0) as more:
            assert more() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert operator.query("SELECT 1 AS one", seconds_max=100.0).to_pylist() == [{"one": 1}]


def test_turns_go_round_among_callers() -> None:
    """One waits with many, one with a few, one comes last with one: each has a turn before anybody has a second."""
    line: Turns[str] = Turns(lambda: 0.0)
    order: list[str] = []
    line.add("worker")
    busy = Question(whence="busy")
    assert line.take(busy, 1.0) == "worker"
    threads = []
    for name in ("many", "many", "many", "few", "few", "last"):
        threads.append(threading.Thread(target=_one_turn, args=(line, Question(whence=name), order)))
        threads[-1].start()
        until(lambda: line.waiting == len(threads))
    line.give(busy.who, "worker")
    for thread in threads:
        thread.join(60)
    assert sorted(order[:3]) == ["few", "last", "many"]
    assert sorted(order[3:5]) == ["few", "many"]


def _one_turn(line: Turns[str], question: Question, order: list[str]) -> None:
    worker = line.take(question, 60.0)
    order.append(question.who[1])
    line.give(question.who, worker)


def test_whoever_had_much_of_the_workers_waits_for_whoever_had_little() -> None:
    """And is forgiven with time."""
    now = [0.0]
    line: Turns[str] = Turns(lambda: now[0])
    line.add("worker")
    slow, quick, other = (Question(whence=name) for name in ("slow", "quick", "other"))
    for question, seconds in ((slow, 10.0), (quick, 0.1), (other, 1.0)):
        line.take(question, 1.0)
        if question is not other:
            now[0] += seconds
            line.give(question.who, "worker")
    order: list[str] = []
    threads = []
    for question in (slow, quick):
        threads.append(threading.Thread(target=_one_turn, args=(line, question, order)))
        threads[-1].start()
        until(lambda: line.waiting == len(threads))
    line.give(other.who, "worker")
    for thread in threads:
        thread.join(60)
    assert order == ["quick", "slow"]


def test_the_last_worker_is_kept_for_others_only_while_there_are_any() -> None:
    """Who is alone has all of them."""
    now = [0.0]
    line: Turns[int] = Turns(lambda: now[0])
    for worker in range(2):
        line.add(worker)
    dashboard, screen = Question(whence="dashboard"), Question(whence="screen")
    line.give(screen.who, line.take(screen, 1.0))
    first = line.take(dashboard, 1.0)
    with pytest.raises(TimeoutError):
        line.take(dashboard, 0.01)
    line.give(screen.who, line.take(screen, 1.0))
    now[0] += turns.AROUND_SECONDS + 1.0
    assert line.take(dashboard, 1.0) != first
    assert line.idle == 0


def test_shares_are_bounded_and_the_last_are_for_those_who_have_little() -> None:
    """Two take all that they may and find the rest kept; many others still find something."""
    shares = Shares(Bounds(most=10, of_one=4, kept=3, few=1))
    for name in ("a", "b"):
        for _ in range(3):
            shares.take(name)
    shares.take("a")
    with pytest.raises(Full) as own:
        shares.take("a")
    with pytest.raises(Full) as all_taken:
        shares.take("b")
    assert (own.value.own, all_taken.value.own) == (True, False)
    for name in ("c", "d", "e"):
        shares.take(name)
    with pytest.raises(Full):
        shares.take("f")
    shares.give("c")
    shares.take("f")
    assert shares.total == 10


def test_answers_that_nobody_reads_are_bounded_for_each_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves answers of many megabytes unread is told so; another one gets his."""
    monkeypatch.setattr(pool, "ANSWER_BYTES", Bounds(60 * 2**20, 30 * 2**20, 10 * 2**20, 2**20))
    request = service_pb2.QueryRequest(sql="SELECT repeat('x', 400) AS wide FROM range(60000)")
    with (
        collecting(tmp_path) as address,
        QueryClient(address) as other,
        channel(address, NONE, [("grpc.use_local_subchannel_pool", 1)]) as unread,
    ):
        stub = service_pb2_grpc.WarplineStub(unread)
        held = stub.Query(request, timeout=100)
        next(held)
        with pytest.raises(grpc.RpcError) as refused:
            next(stub.Query(request, timeout=100))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "too many answers of yours are not read yet" in str(refused.value.details())
        assert other.query("SELECT repeat('x', 400) AS wide FROM range(60000)").num_rows == 60_000
        held.cancel()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """PostgreSQL's door before one worker."""
    with opened(tmp_path, sql=pool.Config(workers=1, seconds_max=600.0)) as each:
        yield each


def test_whoever_leaves_while_he_waits_takes_no_place(door: Door) -> None:
    """His question is not asked at all, and the one that is answered meanwhile goes on."""
    first, second = begun(door), begun(door, b"other")
    first.sendall(told(b"Q", ENDLESS.encode() + b"\0"))
    until(lambda: door.pool.busy == 1 and door.pool.places == 1)
    second.sendall(told(b"Q", b"SELECT 1\0"))
    until(lambda: door.pool.waiting == 1)
    second.close()
    until(lambda: door.pool.waiting == 0 and door.pool.places == 1)
    assert (door.pool.busy, door.pool.tallies["postgres"].failures["cancelled"]) == (1, 1)
    first.close()
    until(lambda: door.pool.busy == 0 and door.pool.places == 0)
    with begun(door) as third:
        third.sendall(told(b"Q", b"SELECT 42\0"))
        assert (b"D", b"\0\1\0\0\0\x0242") in heard(third, b"Z")


def test_a_question_that_waits_is_cancelled_at_once(door: Door) -> None:
    """psql's Ctrl-C before there was a worker: it is told, and the question that is answered meanwhile goes on."""
    with begun(door) as first, door.connect() as second:
        first.sendall(told(b"Q", ENDLESS.encode() + b"\0"))
        until(lambda: door.pool.busy == 1 and door.pool.places == 1)
        second.sendall(startup(b"other"))
        key = dict(heard(second, b"Z"))[b"K"]
        second.sendall(told(b"Q", b"SELECT 1\0"))
        until(lambda: door.pool.waiting == 1)
        with door.connect() as other:
            other.sendall(struct.pack("!II", 16, messages.CANCEL_REQUEST) + key)
            assert exactly(other, 1) == b""
        assert b"C57014" in dict(heard(second, b"Z"))[b"E"]
        assert (door.pool.waiting, door.pool.busy) == (0, 1)


def test_a_dashboard_of_postgres_leaves_turns_to_a_screen(tmp_path: Path) -> None:
    """Many connections of one user are one caller: with two workers somebody else is answered while they wait."""
    with opened(tmp_path, sql=pool.Config(workers=2, seconds_max=600.0)) as door, begun(door, b"me") as screen:
        screen.sendall(told(b"Q", b"SELECT 42\0"))
        heard(screen, b"Z")
        panels = [begun(door, b"grafana") for _ in range(4)]
        for each in panels:
            each.sendall(told(b"Q", ENDLESS.encode() + b"\0"))
        until(lambda: door.pool.waiting == 3)
        screen.sendall(told(b"Q", b"SELECT 42\0"))
        assert (b"D", b"\0\1\0\0\0\x0242") in heard(screen, b"Z")
        for each in panels:
            each.close()
        until(lambda: door.pool.places == 0)


def test_ctrl_c_ends_the_question_at_the_collector_too(tmp_path: Path) -> None:
    """`warpline sql` is left, and the only worker is free long before its bound."""
    with collecting(tmp_path, workers=1) as address, QueryClient(address) as client:
        assert client.query("SELECT 1 AS one").num_rows == 1
        [worker] = psutil.Process().children()
        command = [sys.executable, "-m", "warpline_cli.main", "sql", "--collector", address, ENDLESS]
        asking = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started = worker.cpu_times().user
        until(lambda: worker.cpu_times().user > started + 0.2)
        os.kill(asking.pid, signal.SIGINT)
        asking.communicate(timeout=60)
        until(lambda: taken_back(client) == 1)
        assert not worker.is_running()


def test_a_screen_stops_its_users_statement_where_it_runs(tmp_path: Path) -> None:
    """F4 of the console: what it runs ends at once, here and at the collector."""
    from argparse import Namespace

    from warpline_cli import consoles

    with collecting(tmp_path, workers=1) as address:
        options = Namespace(collector=address, store=None, tls=None, config=None)
        with consoles.opened(options) as (query, console):
            assert query("SELECT 1 AS one").num_rows == 1
            [worker] = psutil.Process().children()
            said: list[str] = []
            asking = threading.Thread(target=_asked, args=(console.query, said))
            started = worker.cpu_times().user
            asking.start()
            until(lambda: worker.cpu_times().user > started + 0.2)
            console.stop()
            asking.join(60)
            assert said == ["the question was taken back"]
            with QueryClient(address) as client:
                until(lambda: taken_back(client) == 1)
            assert not worker.is_running()


def taken_back(client: QueryClient) -> int:
    """How many questions the collector itself knows to have been taken back, and not stopped at their bound."""
    rows = client.query(
        "SELECT count(*) AS rows FROM audit WHERE reason = 'the question was taken back'", seconds_max=60.0
    )
    return int(rows.column("rows")[0].as_py())


def _asked(query: Callable[[str], object], said: list[str]) -> None:
    try:
        query(ENDLESS)
    except QueryError as error:
        said.append(error.message)


def test_who_asks_is_a_name_with_its_role_by_whichever_door() -> None:
    """And without a name a place."""
    viewer = Caller("eve", Role.VIEWER)
    assert Question(viewer, "grpc", "here").who == Question(viewer, "postgres", "there").who
    assert Question(viewer).who != Question(Caller("eve", Role.OPERATOR)).who
    assert Question(whence="here").who != Question(whence="there").who


def test_a_pool_that_ends_lets_nobody_wait(tmp_path: Path) -> None:
    """Who waits for a worker hears so at once."""
    with opened(tmp_path, sql=ONE_WORKER) as door:
        waiting = WorkerPool(door.folder, ONE_WORKER)
        said: list[str] = []
        threads = [threading.Thread(target=_asked, args=(waiting.query, said)) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: waiting.waiting == 2)
        waiting.close()
        for thread in threads:
            thread.join(60)
        assert len(said) == 3
