"""Agents and collectors of different versions understand each other: rows arrive, and what cannot be understood is told.

The recordings are what a real agent and a real collector of commit 591ed58 said to each other, and what that agent left in its
spool; `recordings/record_agent.py` says how they were made.
"""

from __future__ import annotations

import shutil
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
import zstandard
from served import served

from warpline_agent.agent import new_boot
from warpline_agent.clock_offset import ClockOffset
from warpline_agent.exporters.collector import CollectorExporter
from warpline_agent.frame_file import unpack
from warpline_agent.spool import Spool
from warpline_collector import config, continuous, pool
from warpline_proto import service_pb2, service_pb2_grpc, wire
from warpline_proto.batch import Batch, Frame
from warpline_proto.client import QueryClient
from warpline_proto.tables import STEPS

RECORDED = Path(__file__).parent / "recordings" / "agent_591ed58"
METHOD = "/warpline.v1.Warpline/Push"
WAIT_SECONDS = 60.0
SECOND = 10**9


def messages(name: str) -> list[bytes]:
    """The messages of one recorded stream."""
    data, found = (RECORDED / name).read_bytes(), []
    while data:
        (size,) = struct.unpack_from("<I", data)
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def rows_in(frames: Iterable[service_pb2.Frame]) -> Counter[str]:
    """Rows by table, as the frames say."""
    counts: Counter[str] = Counter()
    for frame in frames:
        for part in frame.parts:
            counts[part.table] += part.rows
    return counts


@contextmanager
def collector(directory: Path) -> Iterator[str]:
    """A collector in a thread of its own; gives its address."""
    settings = config.Settings(
        collector=config.Config(listen="127.0.0.1:0", directory=str(directory)),
        sql=pool.Config(workers=1),
        analysis=continuous.Config(period_seconds=600.0),
    )
    with served(settings, {}) as told:
        yield told[0]


def stored(client: QueryClient, node: str, tables: Iterable[str]) -> Counter[str]:
    """Rows by table of what sources of one node gave."""
    return Counter(
        {
            table: client.query(
                f"SELECT count(*) AS rows FROM {table} WHERE node = '{node}' AND source NOT IN ('collector', 'analysis')"
            ).to_pylist()[0]["rows"]
            for table in tables
        }
    )


def test_an_agent_of_the_version_before_is_understood(tmp_path: Path) -> None:
    """Byte for byte as it went over the wire, packed: every row arrives."""
    recorded = messages("frames.bin")
    frames = [service_pb2.Frame.FromString(each) for each in recorded]
    wanted = rows_in(frames)
    assert wanted["steps"] and wanted["kernel_clusters"] and wanted["device_samples"]
    parts = [part for frame in frames for part in frame.parts]
    assert any(part.dictionary for part in parts) and any(part.keyframe for part in parts), "it was packed"
    with collector(tmp_path) as address, QueryClient(address) as client:
        with grpc.insecure_channel(address) as channel:
            acks = [service_pb2.Ack.FromString(each) for each in channel.stream_stream(METHOD)(iter(recorded))]
        assert [ack.refused for ack in acks if ack.refused] == []
        assert acks[-1].sequence == frames[-1].sequence
        assert stored(client, "node-old", wanted) == wanted
        assert client.query("SELECT 1 FROM source_health WHERE state = 'dropped'").num_rows == 0


def test_a_spool_of_the_version_before_is_sent_by_this_one(tmp_path: Path) -> None:
    """An agent that was upgraded while its frames waited: they come first, under the start that they were made in."""
    folder = tmp_path / "spool"
    shutil.copytree(RECORDED / "spool", folder)
    files = [unpack(path.read_bytes()) for path in sorted(folder.glob("*.frame"))]
    frames = [each for each in files if each is not None]
    assert len(frames) == len(files) > 1
    wanted = rows_in(frames)
    spool = Spool(folder, "node-old", new_boot(), time.time_ns)
    with collector(tmp_path / "store") as address, QueryClient(address) as client:
        exporter = CollectorExporter(spool, address)
        exporter.start()
        assert exporter.drain(WAIT_SECONDS)
        exporter.close()
        assert exporter.sent().acknowledged == len(frames)
        assert stored(client, "node-old", wanted) == wanted
    assert list(folder.glob("*.frame")) == []


class EarlierCollector(service_pb2_grpc.WarplineServicer):
    """Answers as the recorded collector did: what it said, for the frames that come."""

    def __init__(self) -> None:
        self.said = [service_pb2.Ack.FromString(each) for each in messages("acks.bin")]
        self.frames: list[service_pb2.Frame] = []

    def Push(self, request_iterator: Iterator[service_pb2.Frame], context: Any) -> Iterator[service_pb2.Ack]:
        for frame in request_iterator:
            self.frames.append(frame)
            ack = service_pb2.Ack()
            ack.CopyFrom(self.said[min(len(self.frames), len(self.said)) - 1])
            ack.boot, ack.sequence = frame.boot, frame.sequence
            yield ack


def test_a_collector_of_the_version_before_is_understood(tmp_path: Path) -> None:
    """It says nothing of its clock: frames go, packed, and no table that it does not know is sent, whatever the clock does."""
    spool = Spool(tmp_path, "node-1", new_boot(), time.time_ns)
    ahead_ns = [0]
    clocks = ClockOffset(lambda: time.time_ns() + ahead_ns[0])
    earlier = EarlierCollector()
    assert all(ack.collector_ns and not ack.received_ns for ack in earlier.said)
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_WarplineServicer_to_server(earlier, server)
    exporter = CollectorExporter(spool, f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", clocks=clocks)
    server.start()
    exporter.start()
    rows = STEPS.from_rows([{"job": "j", "rank": 0, "step": 1, "scope": "step"}])
    for _ in range(4):
        spool.put([Batch("steps", "test", rows), *clocks.rows({"node": "node-1"}, spool.boot)])
        assert exporter.drain(WAIT_SECONDS)
        ahead_ns[0] += 3_600 * SECOND
        clocks.look()
    exporter.close()
    server.stop(None).wait()
    assert [frame.sequence for frame in earlier.frames] == [1, 2, 3, 4]
    assert {part.table for frame in earlier.frames for part in frame.parts} == {"steps"}
    assert any(part.dictionary for frame in earlier.frames for part in frame.parts), (
        "packed once it said that it reads that"
    )
    assert clocks.offset() is None


FIELDS = {
    "Part": "table source dropped rows unpacked_bytes payload encoding dictionary remember keyframe new_book",
    "Frame": "version agent boot sequence created_ns lost parts sent_ns",
    "Ack": "boot sequence refused collector_ns credit_bytes packing received_ns",
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_keep_their_numbers(name: str) -> None:
    """New ones come behind, and none is used for something else: that is what another version goes by."""
    fields = getattr(service_pb2, name).DESCRIPTOR.fields
    known = FIELDS[name].split()
    assert [(field.number, field.name) for field in fields][: len(known)] == list(enumerate(known, 1))


def test_an_agent_of_a_later_version_is_understood_as_far_as_can_be(tmp_path: Path) -> None:
    """A table and a column that are not known: what is known is stored, and what is left out is told with its rows."""
    schema = pa.schema([*STEPS.schema, pa.field("invented_later", pa.int64())])
    row = {"node": "node-1", "source": "test", "job": "j", "rank": 0, "scope": "step", "invented_later": 7}
    with collector(tmp_path) as address, QueryClient(address) as client:
        sent = []
        for step in range(1, 4):
            message = wire.to_message(Frame("node-1", "boot", step, time.time_ns(), ()))
            for table, rows in (("steps", 1), ("table_of_later", 5)):
                batch = pa.RecordBatch.from_pylist([{**row, "step": step}] * rows, schema=schema)
                plain = wire.to_ipc(schema, [batch])
                payload = zstandard.ZstdCompressor().compress(plain)
                message.parts.add(table=table, source="test", rows=rows, unpacked_bytes=len(plain), payload=payload)
            sent.append(message)
        with grpc.insecure_channel(address) as channel:
            acks = list(service_pb2_grpc.WarplineStub(channel).Push(iter(sent), timeout=WAIT_SECONDS))
        assert (acks[-1].sequence, [ack.refused for ack in acks if ack.refused]) == (3, [])
        assert client.query("SELECT step FROM steps ORDER BY step").to_pydict() == {"step": [1, 2, 3]}
        told = client.query(
            "SELECT subject, node, dropped, reason FROM source_health WHERE state = 'dropped'"
        ).to_pylist()
        assert [(row["subject"], row["node"], row["dropped"]) for row in told] == [("table_of_later", "node-1", 5)] * 3
        assert "earlier version" in told[0]["reason"]
