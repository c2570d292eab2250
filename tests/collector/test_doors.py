"""Who gets in at the collector's gRPC door, over real TLS with real certificates, and what those are told who do not."""

from __future__ import annotations

import queue
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import certified
import grpc
import pytest
from certified import Authority

from warpline_agent.capture_watch import CaptureWatch
from warpline_cli.pki.keeping import Keeping
from warpline_proto import service_pb2, service_pb2_grpc, wire
from warpline_proto.batch import Batch, Frame
from warpline_proto.capture import BY_HAND, DONE, REQUESTED, Capture, to_rows
from warpline_proto.client import QueryClient
from warpline_proto.dialing import channel
from warpline_proto.errors import ConfigError, QueryError
from warpline_proto.tables import AGENTS, CAPTURES, STEPS
from warpline_proto.tls import NONE, Tls, read


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[str]:
    """A collector that demands certificates."""
    with certified.running(tmp_path_factory.mktemp("store"), authority.collector()) as [told]:
        yield told


def frame(agent: str, nodes: list[str | None], boot: str = "boot", sequence: int = 1) -> Frame:
    rows = STEPS.from_rows([{"node": node, "job": "j", "rank": 0, "start_ns": sequence} for node in nodes])
    return Frame(agent, boot, sequence, 1, (Batch("steps", "test", rows),))


def asking(state: str, node: str, agent: str, identifier: str = "c1") -> Frame:
    capture = Capture(identifier, "night", 3, "kernels", 1, 2, "by hand")
    row = capture.row(state, node=node, source=agent, requested_ns=1, updated_ns=1)
    return Frame(agent, f"ask {identifier} {state}", 1, 1, (Batch(CAPTURES.name, agent, to_rows([row])),))


def send(address: str, tls: Tls, *frames: Frame) -> list[service_pb2.Ack]:
    with channel(address, tls, ()) as opened:
        messages = [wire.to_message(each) for each in frames]
        return list(service_pb2_grpc.WarplineStub(opened).Push(iter(messages), timeout=60))


def ask(address: str, tls: Tls, sql: str) -> list[dict[str, Any]]:
    with QueryClient(address, tls) as client:
        rows: list[dict[str, Any]] = client.query(sql).to_pylist()
    return rows


def status(address: str, tls: Tls) -> None:
    with QueryClient(address, tls) as client:
        client.status()


def test_an_agent_sends_rows_of_its_own_node_and_people_ask_for_them(address: str, authority: Authority) -> None:
    [ack] = send(address, authority.of("agent", "node-1"), frame("node-1", ["node-1", None], "own"))
    assert (ack.sequence, ack.refused) == (1, "")
    sql = "SELECT count(*) AS rows FROM steps WHERE node = 'node-1'"
    assert ask(address, authority.of("viewer", "anna"), sql) == [{"rows": 1}]
    assert ask(address, authority.of("operator", "otto"), sql) == [{"rows": 1}]


def test_a_frame_as_another_node_is_refused_for_ever_and_what_follows_is_taken(
    address: str, authority: Authority
) -> None:
    acks = send(
        address,
        authority.of("agent", "node-1"),
        frame("node-2", ["node-2"], "posing", 1),
        frame("node-1", ["node-1"], "posing", 2),
    )
    assert [bool(ack.refused) for ack in acks] == [True, False]
    assert "agent node-1 may not send as node-2" in acks[0].refused
    viewer = authority.of("viewer", "anna")
    assert ask(address, viewer, "SELECT count(*) AS rows FROM steps WHERE node = 'node-2'") == [{"rows": 0}]


def test_rows_of_other_nodes_are_left_out_of_an_agents_frame(address: str, authority: Authority) -> None:
    """A log in a shared folder speaks of other nodes: the rest of the frame is not lost for that."""
    [ack] = send(address, authority.of("agent", "node-3"), frame("node-3", ["node-3", "node-4", None], "shared"))
    assert not ack.refused
    viewer = authority.of("viewer", "anna")
    assert ask(address, viewer, "SELECT node FROM steps WHERE node IN ('node-3', 'node-4')") == [{"node": "node-3"}]


def test_what_the_collector_alone_may_say_is_refused_from_an_agent(address: str, authority: Authority) -> None:
    rows = AGENTS.from_rows([{"agent": "node-1", "node": "node-1"}])
    posed = Frame("node-1", "posed", 1, 1, (Batch("agents", "collector", rows),))
    [ack] = send(address, authority.of("agent", "node-1"), posed)
    assert "collector's own" in ack.refused


def test_a_viewer_asks_and_does_nothing_else(address: str, authority: Authority) -> None:
    viewer = authority.of("viewer", "anna")
    status(address, viewer)
    with pytest.raises(QueryError, match="viewer anna may not push"), QueryClient(address, viewer) as client:
        client.push(asking(REQUESTED, "node-1", BY_HAND))
    with channel(address, viewer, ()) as opened, pytest.raises(grpc.RpcError) as error:
        stub = service_pb2_grpc.WarplineStub(opened)
        list(stub.Captures(service_pb2.CaptureWatch(node="node-1"), timeout=60))
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_an_operator_asks_for_captures_and_sends_no_rows(address: str, authority: Authority) -> None:
    operator = authority.of("operator", "otto")
    with QueryClient(address, operator) as client:
        client.push(asking(REQUESTED, "node-1", BY_HAND))
        with pytest.raises(QueryError, match="requests for captures alone"):
            client.push(replace(frame("node-1", ["node-1"], "poison"), agent=BY_HAND))
        with pytest.raises(QueryError, match="do not send as node-1"):
            client.push(asking(REQUESTED, "node-1", "node-1"))
    assert ask(address, operator, "SELECT state FROM captures WHERE id = 'c1'")[0] == {"state": "requested"}


def test_an_agent_hears_its_own_requests_and_asks_for_none(address: str, authority: Authority) -> None:
    agent = authority.of("agent", "node-1")
    [ack] = send(address, agent, asking(REQUESTED, "node-1", "node-1"))
    assert "agents ask for no captures" in ack.refused
    [ack] = send(address, agent, asking(DONE, "node-1", "node-1"))
    assert not ack.refused
    with channel(address, agent, ()) as opened, pytest.raises(grpc.RpcError) as error:
        stub = service_pb2_grpc.WarplineStub(opened)
        list(stub.Captures(service_pb2.CaptureWatch(node="node-2"), timeout=60))
    assert "agent node-1 may not watch captures of node node-2" in error.value.details()
    with pytest.raises(QueryError, match="agent node-1 may not ask: viewer or operator may"):
        ask(address, agent, "SELECT 1")


def test_a_request_of_an_operator_reaches_the_agent_of_its_node(address: str, authority: Authority) -> None:
    with QueryClient(address, authority.of("operator", "otto")) as client:
        client.push(asking(REQUESTED, "node-8", BY_HAND, "c8"))
    watch = CaptureWatch("node-8", address, seed=1, tls=authority.of("agent", "node-8"))
    watch.start()
    heard: list[Capture] = []
    end, pause = time.monotonic() + 60, threading.Event()
    while not heard and time.monotonic() < end:
        heard = list(watch.take())
        pause.wait(0.05)
    watch.close()
    assert [(each.id, each.job, each.rank) for each in heard] == [("c8", "night", 3)]


def test_a_viewer_does_not_see_who_asked_what(address: str, authority: Authority) -> None:
    with pytest.raises(QueryError, match="operator"):
        ask(address, authority.of("viewer", "anna"), "SELECT * FROM audit")
    ask(address, authority.of("operator", "otto"), "SELECT * FROM audit")


def test_until_when_the_certificates_of_agents_hold_is_a_metric(authority: Authority, tmp_path: Path) -> None:
    agent = authority.of("agent", "node-1")
    with certified.running(tmp_path, authority.collector(), metrics="127.0.0.1:0") as [address, metrics]:
        send(address, agent, frame("node-1", ["node-1"]))
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=60) as reply:
            page = reply.read().decode()
        with urllib.request.urlopen(f"http://{metrics}/healthz", timeout=60) as reply:
            health = reply.read().decode()
    [line] = [
        each for each in page.splitlines() if each.startswith("warpline_agent_certificate_end_timestamp_seconds{")
    ]
    assert line.startswith('warpline_agent_certificate_end_timestamp_seconds{node="node-1"}')
    assert float(line.split()[1]) == read(agent).told.end_ns / 1e9
    assert "certificates of 1 agents end within 30 days: node-1" in health


def test_each_refusal_is_in_the_audit(tmp_path: Path, authority: Authority) -> None:
    viewer, operator = authority.of("viewer", "anna"), authority.of("operator", "otto")
    with certified.running(tmp_path, authority.collector()) as [address]:
        with QueryClient(address, viewer) as client, pytest.raises(QueryError):
            client.push(asking(REQUESTED, "node-1", BY_HAND))
        with QueryClient(address, operator) as client:
            client.push(asking(REQUESTED, "node-1", BY_HAND))
    with certified.running(tmp_path, NONE) as [address]:
        sql = "SELECT caller, role, door, act, outcome, subject FROM audit WHERE act IN ('push', 'capture') ORDER BY caller"
        rows = ask(address, NONE, sql)
    assert [(row["caller"], row["role"], row["act"], row["outcome"]) for row in rows] == [
        ("anna", "viewer", "push", "denied"),
        ("otto", "operator", "capture", "done"),
    ]
    assert rows[1]["subject"] == "kernels of rank 3 of job night"


def told(address: str, tls: Tls) -> str:
    with pytest.raises(QueryError) as error:
        status(address, tls)
    return str(error.value)


def test_who_is_not_of_this_authority_is_refused_and_told_so(
    address: str, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    mine = authority.of("viewer", "anna")
    stranger = replace(other.of("viewer", "anna"), authority=mine.authority)
    assert "does not know the authority of our certificate" in told(address, stranger)
    mistrusting = replace(mine, authority=other.of("viewer", "anna").authority)
    assert "is of an authority that [tls] authority does not hold" in told(address, mistrusting)


def test_a_collectors_certificate_calls_nobody_and_an_agents_answers_nobody(
    address: str, authority: Authority, tmp_path: Path
) -> None:
    assert "is one of a collector, not of one who calls" in told(address, authority.collector())
    with certified.running(tmp_path, authority.of("agent", "node-1")) as [posing]:
        assert "is not believed" in told(posing, authority.of("viewer", "anna"))


def test_a_certificate_whose_time_is_over_is_refused_and_told_so(
    address: str, authority: Authority, tmp_path: Path
) -> None:
    """By both sides: who calls, and who answers."""
    late = Keeping(authority.folder, lambda: datetime.now(UTC) - timedelta(days=3))
    over = Tls.within(str(late.issue("viewer", "late", days=1)))
    assert "our certificate has expired" in told(address, over)
    old = Tls.within(str(late.issue("collector", "old.test", ["old.test"], days=1)))
    with certified.running(tmp_path, old) as [expired]:
        assert "its certificate has expired" in told(expired, authority.of("viewer", "anna"))


def test_a_stream_ends_with_the_certificate_it_came_with(authority: Authority, tmp_path: Path) -> None:
    """The handshake is long over by then: every new call is looked at, and a stream is cut in time."""
    agent = authority.of("agent", "node-9")
    end_ns = read(agent).told.end_ns
    ahead_ns = 0
    never: queue.Queue[service_pb2.Frame | None] = queue.Queue()
    with (
        certified.running(tmp_path, authority.collector(), clock=lambda: time.time_ns() + ahead_ns) as [address],
        channel(address, agent, ()) as opened,
    ):
        stub = service_pb2_grpc.WarplineStub(opened)
        assert stub.Status(service_pb2.StatusRequest(), timeout=60).version
        ahead_ns = end_ns - time.time_ns() - 300_000_000
        with pytest.raises(grpc.RpcError) as error:
            list(stub.Push(iter(never.get, None), timeout=60))
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        ahead_ns = end_ns - time.time_ns()
        with pytest.raises(grpc.RpcError, match="has expired"):
            stub.Status(service_pb2.StatusRequest(), timeout=60)
        never.put(None)


def test_plain_to_tls_and_tls_to_plain_are_told_apart(address: str, authority: Authority, tmp_path: Path) -> None:
    assert "speaks TLS" in told(address, NONE)
    with certified.running(tmp_path, NONE) as [plain]:
        assert "speaks no TLS" in told(plain, authority.of("viewer", "anna"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "no collector answers" in told(nobody, authority.of("viewer", "anna"))
        assert "no collector answers" in told(nobody, NONE)


def test_no_certificate_gets_nobody_past_the_handshake(address: str, authority: Authority) -> None:
    held = Path(authority.of("viewer", "anna").authority).read_bytes()
    with (
        grpc.secure_channel(address, grpc.ssl_channel_credentials(held)) as opened,
        pytest.raises(grpc.RpcError) as error,
    ):
        service_pb2_grpc.WarplineStub(opened).Status(service_pb2.StatusRequest(), timeout=60)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_another_machine_is_never_called_without_a_certificate() -> None:
    with pytest.raises(ConfigError, match="there is no certificate to show it"):
        QueryClient("collector.test:14716")


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.1.2.3:0", "collector.test:0"])
def test_a_collector_for_other_machines_does_not_start_without_a_certificate(tmp_path: Path, listen: str) -> None:
    with (
        pytest.raises(ConfigError, match=r"takes in other machines.*warpline pki"),
        certified.running(tmp_path, NONE, listen),
    ):
        pass


def test_a_host_name_is_checked_against_the_certificate(authority: Authority, tmp_path: Path) -> None:
    with certified.running(tmp_path, authority.collector(), "0.0.0.0:0") as [address]:
        port = address.rpartition(":")[2]
        status(f"127.0.0.1:{port}", authority.of("viewer", "anna"))
        assert "does not name 127.0.0.2" in told(f"127.0.0.2:{port}", authority.of("viewer", "anna"))
