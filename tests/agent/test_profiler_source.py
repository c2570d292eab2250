"""Traces on request, against a client that speaks as Kineto does: this process is the one that trains, its datagrams are real."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from warpline_agent.kineto_daemon import DATAGRAMS_A_SECOND_MAX, KinetoDaemon
from warpline_agent.kineto_wire import ANCESTORS_MAX, Ask, read, reply
from warpline_agent.sources.profiler import LEAD_SECONDS, Profiler, ProfilerConfig
from warpline_agent.traced import Traced
from warpline_hook import layout
from warpline_hook.step_ring import StepRing, create
from warpline_proto.capture import TRACE, Capture
from warpline_proto.errors import Busy, Denied, Refused

PATIENCE_SECONDS = 60.0
SECOND = 1_000_000_000
UNKNOWN = [layout.UNKNOWN] * (len(layout.TIMES) - 2 + len(layout.STARTS))
ACTIVITIES, EVENTS = 2, 1
MINE = os.getpid()


def request(pid: int = MINE, wants: int = ACTIVITIES | EVENTS, pids: int = 3) -> bytes:
    """As libkineto's client sends it."""
    payload = struct.pack(f"<iiq{pids}i", wants, pids, 0, pid, *range(2, pids + 1))
    return struct.pack("<Q32s", len(payload), b"req") + payload


class Client:
    """One socket at which answers are awaited."""

    def __init__(self, name: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0dynoconfigclient{uuid.uuid4()}\0")
        self.socket.settimeout(PATIENCE_SECONDS)
        self._name = name

    def say(self, datagram: bytes) -> None:
        self.socket.sendto(datagram, self._name)

    def ask(self, datagram: bytes) -> str:
        """The configuration that is given, empty where there is nothing to do."""
        self.say(datagram)
        answer = self.socket.recv(65_536)
        size, kind = struct.unpack_from("<Q32s", answer)
        assert size == len(answer) - 40
        assert kind.rstrip(b"\0") in (b"req", b"ctxt")
        return answer[40:].decode("latin-1")


class Node:
    """The source, this process as rank 3 of a job, and a clock that stands still until it is moved on."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.ahead_ns = 0
        self._begun_ns = time.time_ns()
        self.name = f"\0warpline-test-{uuid.uuid4()}\0"
        self.traces, memory = folder / "traces", folder / "memory"
        self.traces.mkdir()
        memory.mkdir()
        config = ProfilerConfig(directory=str(self.traces), directories=(str(memory),), containers=False, **settings)
        self.daemon = KinetoDaemon(self.name, self.now_ns, self.now_seconds)
        self.source = Profiler(config, self.daemon, self.now_ns, self.now_seconds)
        self.traced = Traced()
        self.source.tell_traced(self.traced)
        self.source.open()
        self.client = Client(self.name)
        self.steps: StepRing = create(str(memory), None, time.time_ns())
        self.steps.identify({"job": "night", "evidence": "a test", "rank": 3, "world_size": 8})
        self.tables: dict[str, list[dict[str, Any]]] = {}

    def now_ns(self) -> int:
        return self._begun_ns + self.ahead_ns

    def now_seconds(self) -> float:
        return 1_000.0 + self.ahead_ns / 1e9

    def look(self, rank: int = 3, ahead: float = 12.0, seconds: float = 2.0) -> Capture:
        """Ask for a trace; what was asked for."""
        start_ns = self.now_ns() + int(ahead * SECOND)
        asked = Capture("look1", "night", rank, TRACE, start_ns, int(seconds * SECOND), "by hand")
        list(self.source.capture(asked))
        return asked

    def told(self) -> str:
        """The file that the process is to write, with its pid, as it hears when it asks."""
        given = dict(line.split("=", 1) for line in self.client.ask(request()).splitlines())
        path = given["ACTIVITIES_LOG_FILE"]
        return path.removesuffix(".json") + f"_{MINE}.json"

    def round(self) -> None:
        for table, batch, _ in self.source.read():
            self.tables.setdefault(table, []).extend(batch.to_pylist())

    def answer(self) -> dict[str, Any]:
        self.round()
        (found,) = self.tables["captures"]
        return found


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    started: list[Node] = []

    def start(**settings: Any) -> Node:
        started.append(Node(tmp_path, **settings))
        return started[-1]

    yield start
    for each in started:
        each.source.close()
        each.client.socket.close()


def trace(start_ns: int) -> str:
    """What Kineto writes of two kernels."""
    base = start_ns // SECOND * SECOND
    events = [
        {"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": 7, "ts": (start_ns - base) / 1e3 + at, "dur": 50.0,
         "args": {"device": 0, "stream": 7, "correlation": at}}
        for at, name in ((100, "gemm"), (300, "relu"))
    ]  # fmt: skip
    return json.dumps({"schemaVersion": 1, "baseTimeNanoseconds": base, "deviceProperties": [], "traceEvents": events})


def test_a_process_that_asks_is_given_the_time_once_and_its_file_becomes_rows(node: Callable[..., Node]) -> None:
    """The rows bear the identifier of the closer look; the answer says which steps are in it, and where the file is."""
    here = node()
    assert here.client.ask(request()) == ""
    asked = here.look()
    assert here.traced.now(MINE, here.now_ns()), "capture of kernels gives way"
    given = here.client.ask(request())
    assert f"PROFILE_START_TIME={-(-asked.start_ns // 1_000_000)}\n" in given
    assert "ACTIVITIES_DURATION_MSECS=2000\n" in given
    assert here.client.ask(request()) == "", "it is handed over once"
    (stem,) = re.findall(r"ACTIVITIES_LOG_FILE=(\S+)\.json", given)
    here.ahead_ns = 16 * SECOND
    for step in range(5):
        here.steps.step(step, 0, (asked.start_ns + (step - 1) * SECOND // 2, SECOND // 2, *UNKNOWN))
    path = Path(f"{stem}_{MINE}.json")
    path.with_suffix(".json.tmp").write_text("")
    here.round()
    assert "captures" not in here.tables, "it is still being written"
    path.with_suffix(".json.tmp").unlink()
    path.write_text(trace(asked.start_ns))
    told = here.answer()
    assert (told["state"], told["id"], told["rank"], told["records"]) == ("done", "look1", 3, 2)
    assert f"steps 1 to 4 are whole in it; 2 events, kept in {path}" in told["detail"]
    assert [(row["capture_id"], row["job"], row["rank"]) for row in here.tables["raw_kernels"]] == [
        ("look1", "night", 3)
    ] * 2
    assert path.exists()
    assert not here.traced.now(MINE, here.now_ns())


def test_where_another_daemon_answers_it_says_who_and_stays_away(node: Callable[..., Node]) -> None:
    here = node()
    with pytest.raises(Busy, match=rf"pid {MINE}\) answers the profilers of this node"):
        Profiler(daemon=KinetoDaemon(here.name)).open()
    assert here.client.ask(request()) == ""


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"req",
        request()[:-1],
        request() + b"\0" * 5_000,
        struct.pack("<Q32s", 2**63, b"req"),
        struct.pack("<Q32siiq", 16, b"req", 2, 2**31 - 1, 0),
        struct.pack("<Q32siiq", 16, b"req", 2, -1, 0),
        struct.pack("<Q32siiq", 16, b"ctxt", 0, -7, 0),
        struct.pack("<Q32siiq", 16, b"unheard_of", 0, 1, 0),
        struct.pack("<Q32sii", 8, b"ctxt", 0, 1),
        request(pid=0),
        request(pids=ANCESTORS_MAX + 1),
    ],
)
def test_what_no_profiler_sends_is_counted_and_does_no_harm(node: Callable[..., Node], datagram: bytes) -> None:
    here = node()
    here.client.say(datagram)
    assert here.client.ask(request()) == ""
    (told,) = here.source.health()
    assert told.state == "refused" and told.reason.startswith("1 datagrams so far")


def test_what_is_said_is_said_back_in_kind() -> None:
    """A context is answered with a count, a request with a text."""
    assert read(struct.pack("<Q32siiq", 16, b"ctxt", 0, 77, 5)) == Ask(b"ctxt", 77, True)
    assert reply(Ask(b"ctxt", 77, True)) == struct.pack("<Q32si", 4, b"ctxt", 1)
    assert read(request(wants=EVENTS)).idle is False
    with pytest.raises(Refused):
        read(request(pids=ANCESTORS_MAX + 1))


def test_a_flood_is_left_in_the_queue_and_told(node: Callable[..., Node]) -> None:
    here = node()
    end = time.monotonic() + PATIENCE_SECONDS
    here.client.socket.setblocking(False)
    sent = 0
    while not any(told.state == "dropped" for told in here.source.health()):
        assert time.monotonic() < end
        try:
            here.client.say(request())
            sent += 1
        except BlockingIOError:
            threading.Event().wait(0.001)
    assert sent >= DATAGRAMS_A_SECOND_MAX


def test_a_process_in_which_the_user_profiles_is_not_asked(node: Callable[..., Node]) -> None:
    """Neither when it is known before, nor when it begins between the request and the process's next question."""
    here = node()
    here.client.ask(request(wants=EVENTS))
    with pytest.raises(Denied, match="a profiler of its own runs in the process, and it wins"):
        here.look()
    here.client.ask(request())
    here.look()
    assert here.client.ask(request(wants=EVENTS)) == ""
    told = here.answer()
    assert told["state"] == "denied" and "profiler of its own runs" in told["detail"]
    assert here.client.ask(request()) == "", "nothing is left behind for later"


def test_a_process_that_does_not_ask_is_denied_with_what_to_do(node: Callable[..., Node]) -> None:
    here = node()
    here.look()
    here.ahead_ns = 12 * SECOND
    told = here.answer()
    assert told["state"] == "denied" and "KINETO_USE_DAEMON=1" in told["detail"]
    with pytest.raises(Denied, match="does not ask this agent"):
        here.look()


def test_a_trace_that_does_not_come_is_given_up_and_what_is_left_of_it_taken_away(node: Callable[..., Node]) -> None:
    """As when the user's own profiler begins in the midst of it: Kineto then leaves an empty file."""
    here = node()
    here.client.ask(request())
    here.look()
    left = Path(here.told() + ".tmp")
    left.write_text("")
    here.ahead_ns = 60 * SECOND
    here.round()
    assert "captures" not in here.tables
    here.ahead_ns = 80 * SECOND
    told = here.answer()
    assert told["state"] == "denied" and "no trace was to be seen" in told["detail"]
    assert not left.exists()
    assert not here.traced.now(MINE, here.now_ns())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.symlink_to("/etc/passwd"), "cannot be read"),
        (lambda path: path.mkdir(), "no file of the process"),
        (lambda path: os.mkfifo(path), "no file of the process"),
        (lambda path: path.write_text("not a trace"), "profiler: "),
        (lambda path: path.write_text(trace(0) + " " * 2_000_000), "more than 1,000,000"),
    ],
)
def test_what_is_no_trace_of_the_process_is_refused(
    node: Callable[..., Node], make: Callable[[Path], Any], words: str
) -> None:
    here = node(file_bytes_max=1_000_000)
    here.client.ask(request())
    here.look()
    make(Path(here.told()))
    told = here.answer()
    assert told["state"] == "denied" and words in told["detail"]


def test_one_trace_at_a_time_and_a_rest_after_each(node: Callable[..., Node]) -> None:
    here = node(rest_seconds=60.0)
    here.client.ask(request())
    asked = here.look()
    with pytest.raises(Denied, match="another trace of this process is under way"):
        here.look()
    Path(here.told()).write_text(trace(asked.start_ns))
    here.round()
    with pytest.raises(Denied, match="it rests for"):
        here.look()
    here.ahead_ns = 61 * SECOND
    here.client.ask(request())
    here.round()
    here.look()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"rank": 4}, "no process on this node records steps as rank 4"),
        ({"seconds": 31.0}, "30 s at most"),
        ({"seconds": 0.0}, "30 s at most"),
        ({"ahead": LEAD_SECONDS - 0.1}, "to be asked for"),
        ({"ahead": 121.0}, "to be asked for"),
    ],
)
def test_what_cannot_be_traced_is_denied_at_once(node: Callable[..., Node], how: dict[str, Any], words: str) -> None:
    here = node()
    here.client.ask(request())
    with pytest.raises(Denied, match=words):
        here.look(**how)


def test_the_newest_traces_are_kept_up_to_a_bound(node: Callable[..., Node]) -> None:
    """Files of other names are never touched."""
    here = node(kept_files_max=2)
    for number in range(4):
        old = here.traces / f"warpline-trace-{number}_1.json"
        old.write_text("old")
        os.utime(old, ns=(number, number))
    (here.traces / "mine.json").write_text("not yours")
    here.client.ask(request())
    asked = here.look()
    path = Path(here.told())
    path.write_text(trace(asked.start_ns))
    assert here.answer()["state"] == "done"
    assert {each.name for each in here.traces.iterdir()} == {path.name, "warpline-trace-3_1.json", "mine.json"}
