"""What an operator relies on when an agent is asked to look closer: an answer with a reason, and reading goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from agent_alone import Inline, Nowhere

from warpline_agent import capture_watch
from warpline_agent.agent import Agent, Clock
from warpline_agent.capture_watch import CaptureWatch
from warpline_agent.capturing import PENDING_MAX, Desk, answer
from warpline_agent.clock_offset import ClockOffset
from warpline_agent.config import AgentConfig
from warpline_agent.source import LATER, Delivered, Health, Rows, Source
from warpline_agent.sources.kineto import KinetoConfig, KinetoFolder
from warpline_agent.sources.synthetic import Synthetic, SyntheticConfig
from warpline_agent.spool import Spool
from warpline_proto import service_pb2, service_pb2_grpc, wire
from warpline_proto.capture import Capture
from warpline_proto.errors import Denied, Unsupported
from warpline_proto.tables import HOST_SAMPLES, STACKS

REQUEST = Capture("c1", "train", 3, "stacks", 1_000, 5_000, "host_straggler-1")
WAIT_SECONDS = 60.0


class Plain:
    """A source that cannot look closer."""

    name = "host"
    period_seconds = 1.0

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.reads = refuses, 0

    def open(self) -> None:
        if self.refuses:
            raise Unsupported("no such thing here")

    def read(self) -> Iterable[Rows]:
        self.reads += 1
        return [Rows("host_samples", HOST_SAMPLES.from_rows([{"time_ns": self.reads}]))]

    def health(self) -> Iterable[Health]:
        return ()

    def close(self) -> None: ...


class Able(Plain):
    """One that can, and does what the test says."""

    captures = frozenset({"stacks"})

    def __init__(self, act: Callable[[Capture], Iterable[Rows]], refuses: bool = False) -> None:
        super().__init__(refuses)
        self.act = act

    def capture(self, request: Capture) -> Iterable[Rows]:
        return self.act(request)


class Handed:
    """Requests that the test hands over."""

    def __init__(self) -> None:
        self.waiting: list[Capture] = []

    def start(self) -> None: ...

    def take(self) -> Sequence[Capture]:
        taken, self.waiting = self.waiting, []
        return taken

    def close(self) -> None: ...


class Bench:
    """An agent on a clock moved by hand, and the rows it gave."""

    def __init__(self, folder: Path, clocks: ClockOffset | None = None, **sources: Source) -> None:
        self.seconds = 1_000.0
        clock = Clock(lambda: int(self.seconds * 1e9), lambda: self.seconds)
        self.spool = Spool(folder, "node-a", "boot", clock.wall_ns)
        self.requests = Handed()
        config = AgentConfig(node="node-a", drain_seconds=0.0)
        self.agent = Agent(config, sources, self.spool, Nowhere(), clock, Inline, requests=self.requests, clocks=clocks)

    def run(self, *requests: Capture, ticks: int = 6) -> dict[str, list[dict[str, Any]]]:
        """Rows by table; the requests come once everything was read a first time."""
        for tick in range(ticks):
            if tick == 2:
                self.requests.waiting += requests
            self.agent.tick()
            self.seconds += 1.0
        found: dict[str, list[dict[str, Any]]] = {}
        cursor = None
        while (item := self.spool.after(cursor)) is not None:
            cursor, message = item
            for batch in wire.from_message(message).batches:
                found.setdefault(batch.table, []).extend(batch.rows.to_pylist())
        return found


def stacks(request: Capture) -> Iterable[Rows]:
    yield Rows("stacks", STACKS.from_rows([{"job": request.job, "rank": request.rank, "frames": ["f (a.py:1)"]}] * 2))


def denied(request: Capture) -> Iterable[Rows]:
    raise Denied("ptrace is not allowed", "give the agent CAP_SYS_PTRACE")


def broken(request: Capture) -> Iterable[Rows]:
    raise RuntimeError("boom")


def the_answer(tables: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    (row,) = tables["captures"]
    assert (row["id"], row["rank"], row["what"], row["reason"]) == ("c1", 3, "stacks", "host_straggler-1")
    assert (row["node"], row["requested_ns"]) == ("node-a", 1_000)
    return row


def test_a_closer_look_is_taken_by_the_clock_of_the_node(tmp_path: Path) -> None:
    """Requests are dated by the collector's clock: a node that is an hour ahead looks at its own time, and answers by theirs."""
    hour, looked = 3_600 * 10**9, []
    clocks = ClockOffset(lambda: hour, lambda: 0)
    clocks.sent("boot", 1)
    clocks.acknowledged(service_pb2.Ack(boot="boot", sequence=1, received_ns=1, collector_ns=1))

    def look(request: Capture) -> Iterable[Rows]:
        looked.append(request.start_ns - REQUEST.start_ns)
        return stacks(request)

    tables = Bench(tmp_path, clocks, able=Able(look)).run(REQUEST)
    assert the_answer(tables)["state"] == "done"
    assert looked == [hour - 1]


def test_rows_of_a_closer_look_are_sent_and_the_request_is_done(tmp_path: Path) -> None:
    source = Able(stacks)
    tables = Bench(tmp_path, able=source).run(REQUEST)
    row = the_answer(tables)
    assert (row["state"], row["detail"], row["source"]) == ("done", "able: 2 rows", "able")
    assert [each["node"] for each in tables["stacks"]] == ["node-a", "node-a"]
    assert source.reads >= 4, "it was read all the while"


@pytest.mark.parametrize(
    ("act", "words"),
    [(denied, "able: ptrace is not allowed (give the agent CAP_SYS_PTRACE)"), (broken, "able: RuntimeError: boom")],
)
def test_a_source_that_cannot_denies_with_its_reason(tmp_path: Path, act: Any, words: str) -> None:
    row = the_answer(Bench(tmp_path, able=Able(act)).run(REQUEST))
    assert (row["state"], row["detail"]) == ("denied", words)


class Slow(Plain):
    """One that takes a request on, and has its answer in one of its next rounds."""

    captures = frozenset({"stacks"})

    def read(self) -> Iterable[Rows]:
        self.reads += 1
        return [answer(REQUEST, "done", "slow: it came")] if self.reads == 4 else []

    def capture(self, request: Capture) -> Iterable[Rows | Delivered]:
        return [LATER]


def test_an_answer_that_takes_longer_comes_with_a_later_round(tmp_path: Path) -> None:
    """Meanwhile the source is read on, and nothing is said of the request."""
    found = the_answer(Bench(tmp_path, slow=Slow()).run(REQUEST))
    assert (found["state"], found["detail"], found["source"]) == ("done", "slow: it came", "slow")


def test_the_next_source_is_asked_where_the_first_cannot(tmp_path: Path) -> None:
    row = the_answer(Bench(tmp_path, first=Able(denied), second=Able(stacks)).run(REQUEST))
    assert (row["state"], row["source"]) == ("done", "second")


def test_a_source_that_never_opened_denies_with_what_it_lacks(tmp_path: Path) -> None:
    row = the_answer(Bench(tmp_path, able=Able(stacks, refuses=True)).run(REQUEST))
    assert (row["state"], row["detail"]) == ("denied", "able: unsupported: no such thing here")


def test_where_no_source_can_it_is_said_at_once(tmp_path: Path) -> None:
    row = the_answer(Bench(tmp_path, host=Plain()).run(REQUEST))
    assert (row["state"], row["detail"]) == ("denied", "no source of this node can take stacks (it reads: host)")


def test_too_many_requests_are_denied(tmp_path: Path) -> None:
    desk = Desk({"able": Able(stacks)})
    answers = [list(desk.put(REQUEST)) for _ in range(PENDING_MAX + 1)]
    assert [len(each) for each in answers] == [0] * PENDING_MAX + [1]


def test_the_made_up_node_gives_stacks_of_its_own_ranks() -> None:
    source = Synthetic(SyntheticConfig(node="node1", node_index=1, replicas=8, job="train"), lambda: 10**18)
    source.open()
    (rows,) = source.capture(Capture("c", "train", 5, "stacks", 0, 10**9, ""))
    assert isinstance(rows, Rows)
    assert rows.batch.to_pylist()[0]["rank"] == 5
    assert rows.batch.to_pylist()[0]["count"] == 10
    with pytest.raises(Denied, match="does not run on node1"):
        list(source.capture(Capture("c", "train", 2, "stacks", 0, 10**9, "")))


def test_traces_are_the_training_process_to_write(tmp_path: Path) -> None:
    source = KinetoFolder(KinetoConfig(directory=str(tmp_path)))
    with pytest.raises(Denied, match="profiler of rank 3"):
        source.capture(Capture("c", "train", 3, "kernels", 0, 1, ""))


# --- the stream ---------------------------------------------------------------------------------------------------------------


class Board(service_pb2_grpc.WarplineServicer):
    """A server that hands every watcher the same requests, then cuts or waits."""

    def __init__(self, cut: bool) -> None:
        self.cut, self.nodes, self.ended = cut, list[str](), threading.Event()

    def Captures(self, request: service_pb2.CaptureWatch, context: Any) -> Iterator[service_pb2.CaptureRequest]:
        self.nodes.append(request.node)
        yield service_pb2.CaptureRequest(id=f"c{len(self.nodes)}", rank=1)
        yield service_pb2.CaptureRequest(id="same", rank=2)
        if self.cut:
            context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        self.ended.wait(WAIT_SECONDS)


@contextmanager
def serving(board: Board) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_WarplineServicer_to_server(board, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield address
    finally:
        board.ended.set()
        server.stop(None).wait()


def test_requests_come_once_each_also_over_a_stream_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_watch, "BACKOFF_SECONDS_MIN", 0.01)
    board = Board(cut=True)
    with serving(board) as address:
        watch = CaptureWatch("node-a", address, seed=1)
        watch.start()
        found: list[str] = []
        pause, end = threading.Event(), time.monotonic() + WAIT_SECONDS
        while len(found) < 4 and time.monotonic() < end:
            found += [capture.id for capture in watch.take()]
            pause.wait(0.01)
        watch.close()
    assert found[:4] == ["c1", "same", "c2", "c3"]
    assert set(board.nodes) == {"node-a"}


def test_closing_ends_a_stream_that_waits() -> None:
    board = Board(cut=False)
    with serving(board) as address:
        watch = CaptureWatch("node-a", address, seed=1)
        watch.start()
        pause, end = threading.Event(), time.monotonic() + WAIT_SECONDS
        while not board.nodes and time.monotonic() < end:
            pause.wait(0.01)
        watch.close()
        watch.close()
        assert "captures" not in {thread.name for thread in threading.enumerate()}


def test_nobody_listening_is_no_failure() -> None:
    """The collector is away: the agent works on, and the end is quick."""
    watch = CaptureWatch("node-a", "127.0.0.1:1", seed=1)
    watch.start()
    assert watch.take() == []
    watch.close()
