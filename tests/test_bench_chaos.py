"""The chaos bench keeps its promises: its verifier reads the wire, finds what it is there to find, and a short run passes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

from chaos_agent import ROWS, batches
from chaos_verdict import Journal, Verdict, judge, read_journals, read_store
from chaos_wire import PREFACE, Messages, ack, frame

from warpline_collector.stores.duckdb import Config, DuckDBStore
from warpline_proto import service_pb2
from warpline_proto.batch import Batch, Frame
from warpline_proto.tables import TABLES
from warpline_proto.wire import to_message

BENCH = Path(__file__).parent / "bench"


def data_frame(payload: bytes, padding: int = 0) -> bytes:
    """One HTTP/2 DATA frame of stream 1."""
    body = bytes([padding]) + payload + bytes(padding) if padding else payload
    return len(body).to_bytes(3, "big") + bytes([0, 0x8 if padding else 0]) + (1).to_bytes(4, "big") + body


def numbered(sequence: int) -> Frame:
    return Frame("node", "boot", sequence, sequence, tuple(batches("boot", sequence)))


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
def test_frames_are_seen_on_the_wire_however_they_are_cut(piece_bytes: int) -> None:
    """Pieces of TCP, frames of HTTP/2 and messages of gRPC have nothing to do with one another."""
    messages = [to_message(numbered(sequence)).SerializeToString() for sequence in (1, 2, 3)]
    stream = b"".join(b"\0" + len(each).to_bytes(4, "big") + each for each in messages)
    settings = bytes([0, 0, 0, 4, 0]) + bytes(4)
    cut = [stream[at : at + 100] for at in range(0, len(stream), 100)]
    wire = PREFACE + settings + b"".join(data_frame(each, at % 3) for at, each in enumerate(cut))
    reader = Messages(of_client=True)
    pieces = [wire[at : at + piece_bytes] for at in range(0, len(wire), piece_bytes)]
    seen = [frame(message) for piece in pieces for message in reader.feed(piece)]
    assert seen == [("node", "boot", 1), ("node", "boot", 2), ("node", "boot", 3)]


def test_an_acknowledgement_is_read_as_it_was_written() -> None:
    """Every field that others put into it is passed over."""
    told = service_pb2.Ack(boot="b", sequence=2**40, refused="no", collector_ns=2**62, credit_bytes=5, packing=1)
    assert ack(told.SerializeToString()) == ("b", 2**40, "no")
    assert ack(service_pb2.Ack(boot="b", sequence=1).SerializeToString()) == ("b", 1, "")


def stored(folder: Path, *frames: Frame) -> Path:
    """A store with these frames, partly sealed."""
    store = DuckDBStore(folder, Config(seal_rows=50, grace_seconds=0.0))
    for each in frames:
        store.append([each])
        store.maintain()
    store.close()
    return folder


def verdict(folder: Path, *frames: Frame) -> Verdict:
    """Of frames 1 to 6, all acknowledged and spooled."""
    all_six = {("boot", sequence) for sequence in range(1, 7)}
    journal = Journal(sent=all_six, newest={"boot": 6}, spooled=all_six)
    return judge(journal, read_store(stored(folder, *frames), ROWS), ROWS)


SIX = [numbered(sequence) for sequence in range(1, 7)]


def short(each: Frame) -> Frame:
    """Without the last row of its first table."""
    first = each.batches[0]
    return replace(each, batches=(Batch(first.table, first.source, first.rows[:-1]), *each.batches[1:]))


def altered(each: Frame) -> Frame:
    """With another value in one row of its first table."""
    first, rest = each.batches[0], each.batches[1:]
    rows = first.rows.to_pylist()
    rows[3]["duration_ns"] += 1
    return replace(each, batches=(Batch(first.table, first.source, TABLES[first.table].from_rows(rows)), *rest))


def doubled(each: Frame) -> Frame:
    """With all rows of its last table twice."""
    return replace(each, batches=(*each.batches, each.batches[-1]))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda frames: frames, {}),
        (lambda frames: [*frames[:3], *frames[4:]], {"acked_lost": 1, "spooled_lost": 1}),
        (lambda frames: [*frames[:5], short(frames[5])], {"acked_lost": 1, "partial": 1}),
        (lambda frames: [*frames[:5], altered(frames[5])], {"acked_lost": 1, "partial": 1}),
        (lambda frames: [doubled(frames[0]), *frames[1:]], {"duplicates": ROWS["log_events"]}),
    ],
    ids=["sound", "lost", "partial", "altered", "doubled"],
)
def test_the_verifier_finds_each_harm(
    tmp_path: Path, change: Callable[[list[Frame]], list[Frame]], found: dict[str, int]
) -> None:
    """A bench that cannot find a loss proves nothing by finding none."""
    names = ("acked_lost", "duplicates", "partial", "spooled_lost")
    told = verdict(tmp_path, *change(SIX))
    assert {name: getattr(told, name) for name in names} == dict.fromkeys(names, 0) | found


def test_what_was_not_acknowledged_may_be_missing_and_what_was_refused_too(tmp_path: Path) -> None:
    """An acknowledgement covers all frames of its boot up to its number, but those that were refused and never sent."""
    wire, spool = tmp_path / "wire", tmp_path / "spool"
    wire.write_text("S node boot 1\nS node boot 2\nS node boot 4\nR boot 2\nA boot 3\n")
    spool.write_text("boot 1 disk\nboot 2 disk\nboot 3 memory\nboot 4 di")
    journal = read_journals(wire, [spool])
    assert journal.acked == {("boot", 1), ("boot", 2)}
    told = judge(journal, {name: {("boot", 1): (rows, rows, rows)} for name, rows in ROWS.items()}, ROWS)
    assert (told.acked, told.acked_lost, told.spooled_lost, told.refused) == (1, 0, 0, 1)


def test_a_short_run_loses_nothing_and_tells_its_keys(tmp_path: Path) -> None:
    """The bench as a user starts it."""
    command = [sys.executable, str(BENCH / "chaos.py"), "--json", "--loops", "1", "--seed", "3"]
    ended = subprocess.run([*command, "--folder", str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = json.loads(ended.stdout)
    assert (told["loops"], told["acked_lost"], told["duplicates"], told["partial"]) == (1, 0, 0, 0)
    assert told["in_flight_min"] >= 3
    assert {"kill_points", "variants", "queries_killed", "seed"} <= set(told)
