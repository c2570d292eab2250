"""New certificates without a restart, a dropped stream, or a moment in which the fleet mistrusts its collector."""

from __future__ import annotations

import logging
import queue
import shutil
import ssl
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import certified
import grpc
import pytest
from certified import Authority
from patience import until

from warpline_agent.exporters.collector import CollectorExporter
from warpline_agent.spool import Spool
from warpline_collector.certificates import Certificates
from warpline_proto import service_pb2, service_pb2_grpc, wire
from warpline_proto.batch import Batch, Frame
from warpline_proto.client import QueryClient
from warpline_proto.dialing import channel
from warpline_proto.errors import ConfigError, QueryError
from warpline_proto.tables import STEPS
from warpline_proto.tls import NONE, Tls, context, read

MakeFrame = Callable[..., Frame]


def frame(sequence: int) -> Frame:
    rows = STEPS.from_rows([{"node": "node-1", "job": "j", "rank": 0, "start_ns": sequence}])
    return Frame("node-1", "boot", sequence, 1, (Batch("steps", "test", rows),))


def copy(tls: Tls, folder: Path) -> Tls:
    """What a machine has that was not brought anything new."""
    shutil.copytree(Path(tls.certificate).parent, folder)
    return Tls.within(str(folder))


def answers(address: str, tls: Tls) -> str:
    """Empty if the collector answers, else why not."""
    try:
        with QueryClient(address, tls) as client:
            client.status()
    except QueryError as error:
        return str(error)
    return ""


def test_the_authority_changes_under_a_running_fleet(tmp_path: Path) -> None:
    """Certificates are renewed in any order while both are trusted; once that is over, those of the old one are refused."""
    authority = Authority(tmp_path / "pki")
    collector, agent, viewer = authority.collector(), authority.of("agent", "node-1"), authority.of("viewer", "anna")
    behind = copy(viewer, tmp_path / "behind")
    waiting: queue.Queue[service_pb2.Frame | None] = queue.Queue()
    with certified.running(tmp_path / "store", collector) as [address], channel(address, agent, ()) as opened:
        acks = service_pb2_grpc.WarplineStub(opened).Push(iter(waiting.get, None))
        waiting.put(wire.to_message(frame(1)))
        assert next(acks).sequence == 1
        authority.kept.succeed(100)
        authority.kept.renew()
        assert answers(address, behind) == ""
        assert answers(address, viewer) == ""
        authority.kept.finish()
        assert answers(address, viewer) == ""
        assert "is of an authority that [tls] authority does not hold" in answers(address, behind)
        trusting = replace(behind, authority=viewer.authority)
        assert "does not know the authority of our certificate" in answers(address, trusting)
        waiting.put(wire.to_message(frame(2)))
        assert next(acks).sequence == 2, "the stream that was there before all of this"
        waiting.put(None)
        assert list(acks) == []


def test_machines_that_are_renewed_first_are_believed_by_a_collector_that_is_renewed_last(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    collector, viewer = copy(authority.collector(), tmp_path / "collector"), authority.of("viewer", "anna")
    with certified.running(tmp_path / "store", collector) as [address]:
        authority.kept.succeed(100)
        authority.kept.renew()
        assert answers(address, viewer) == ""


def test_a_certificate_that_is_half_written_is_not_taken_and_the_one_before_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path / "pki")
    collector, viewer = copy(authority.collector(), tmp_path / "collector"), authority.of("viewer", "anna")
    before = Path(collector.certificate).read_bytes()
    with certified.running(tmp_path / "store", collector) as [address], caplog.at_level(logging.ERROR):
        Path(collector.certificate).write_bytes(before[:100])
        assert answers(address, viewer) == answers(address, viewer) == ""
        assert caplog.text.count("the certificate on disk is not taken") == 1
        renewed = authority.of("collector", "other.test", ["other.test"])
        shutil.copy(renewed.certificate, collector.certificate)
        assert answers(address, viewer) == ""
        assert "the key is not that of the certificate" in caplog.text
        shutil.copy(renewed.key, collector.key)
        assert answers(address, viewer) == ""
    held = Certificates(collector)
    assert held.failure == ""


def test_an_agent_whose_certificate_was_refused_sends_what_waited_once_it_is_renewed(tmp_path: Path) -> None:
    """It reads its files for each connection: nobody has to start it anew."""
    authority, other = Authority(tmp_path / "pki"), Authority(tmp_path / "other")
    folder = tmp_path / "agent"
    agent = copy(other.of("agent", "node-1"), folder)
    shutil.copy(authority.of("agent", "node-1").authority, agent.authority)
    spool = Spool(tmp_path / "spool", "node-1", "boot", time.time_ns)
    with certified.running(tmp_path / "store", authority.collector()) as [address]:
        exporter = CollectorExporter(spool, address, seed=1, tls=agent)
        spool.put(frame(1).batches)
        exporter.start()
        until(lambda: "does not know the authority of our certificate" in exporter.health()[0].reason)
        assert spool.waiting_frames == 1
        shutil.rmtree(folder)
        copy(authority.of("agent", "node-1"), folder)
        assert exporter.drain(60.0)
        exporter.close()
        assert exporter.sent().refused == 0


def test_who_does_not_get_through_the_handshake_is_counted_and_told_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority, now = Authority(tmp_path / "pki"), 100.0
    held = Certificates(authority.collector(), lambda: now)
    server = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', held.for_grpc())}"
    server.start()
    without = grpc.ssl_channel_credentials(Path(authority.collector().authority).read_bytes())

    def knock() -> None:
        with grpc.secure_channel(address, without) as opened, pytest.raises(grpc.RpcError):
            service_pb2_grpc.WarplineStub(opened).Status(service_pb2.StatusRequest(), timeout=60)

    knock()
    knocked = held.connections
    assert knocked >= 1
    now += 61.0
    knock()
    assert not caplog.records, "these may still be at it"
    now += 61.0
    knock()
    knock()
    server.stop(0).wait()
    assert held.entered == 0
    assert len(caplog.records) == 1
    assert "connections did not get through TLS" in caplog.text


def page(address: str, tls: Tls | None) -> tuple[int, str]:
    within = None if tls is None else context(read(tls), ssl.PROTOCOL_TLS_CLIENT)
    asked = f"{'http' if tls is None else 'https'}://{address}/metrics"
    try:
        with urllib.request.urlopen(asked, timeout=60, context=within) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_for_other_machines_are_read_with_a_viewers_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    collector, viewer = authority.collector(), authority.of("viewer", "prometheus")
    with certified.running(tmp_path / "store", collector, metrics="0.0.0.0:0") as [address, metrics]:
        served = f"127.0.0.1:{metrics.rpartition(':')[2]}"
        assert answers(address, authority.of("agent", "node-1")) == ""
        status, text = page(served, viewer)
        assert status == 200
        assert "warpline_collector_tls_connections_total 1.0" in text
        assert 'warpline_collector_refused_total{reason="role"} 0.0' in text
        assert "warpline_collector_certificate_end_timestamp_seconds" in text
        assert page(served, authority.of("agent", "node-1"))[0] == 403
        with pytest.raises(OSError):
            page(served, None)
        authority.kept.succeed(100)
        authority.kept.renew()
        authority.kept.finish()
        assert page(served, authority.of("viewer", "prometheus"))[0] == 200


def test_metrics_for_other_machines_want_a_certificate_or_a_word_that_they_do_not(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="takes in other machines"),
        certified.running(tmp_path / "store", NONE, metrics="0.0.0.0:0"),
    ):
        pass
    with certified.running(tmp_path / "store", NONE, metrics="0.0.0.0:0", insecure=True) as [_, metrics]:
        assert page(f"127.0.0.1:{metrics.rpartition(':')[2]}", None)[0] == 200


def test_only_what_ends_soon_is_renewed_where_that_is_asked(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    long = authority.of("agent", "long", days=300)
    authority.of("agent", "short", days=3)
    before = Path(long.key).read_bytes()
    assert [each.name for each in authority.kept.renew(timedelta(days=30))] == ["short"]
    assert Path(long.key).read_bytes() == before
