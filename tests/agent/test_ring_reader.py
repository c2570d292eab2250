"""The reader of rings beside files that anybody may have made up: refused or read within bounds, and it always returns."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ring_programs import Writer

from warpline_agent.ring_file import FILE_BYTES_MAX, RECORD, STUCK_READS, open_ring
from warpline_hook import ring
from warpline_proto.errors import Refused


def made_up(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "warpline-1-2-3.ring"
    path.write_bytes(content)
    return path


def valid(tmp_path: Path, writer: Writer) -> bytearray:
    process = writer()
    process.ask("open")
    process.ask("put 1 100 0")
    process.ask("text 1 some name")
    (path,) = tmp_path.glob("*.ring")
    content = bytearray(path.read_bytes())
    path.unlink()
    return content


def test_a_file_that_is_still_being_made_is_looked_at_later(tmp_path: Path) -> None:
    assert open_ring(made_up(tmp_path, b"")) is None
    assert open_ring(made_up(tmp_path, bytes(4096))) is None
    assert open_ring(tmp_path / "gone.ring") is None


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"NOTARING"),
        (8, struct.pack("<I", 2)),
        (24, struct.pack("<Q", 1 << 62)),
        (32, struct.pack("<Q", 1 << 62)),
        (40, struct.pack("<I", 65)),
        (44, struct.pack("<I", 2**32 - 1)),
        (ring.LANES_AT, struct.pack("<Q", 1 << 63)),
        (ring.LANES_AT + 8, struct.pack("<Q", 1 << 40)),
        (ring.LANES_AT + 8, struct.pack("<Q", 3)),
    ],
)
def test_a_header_that_claims_what_is_not_there_is_refused(
    writer: Writer, tmp_path: Path, at: int, value: bytes
) -> None:
    content = valid(tmp_path, writer)
    content[at : at + len(value)] = value
    with pytest.raises(Refused):
        open_ring(made_up(tmp_path, bytes(content)))


def test_a_pipe_a_link_and_a_giant_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.ring")
    with pytest.raises(Refused):
        open_ring(tmp_path / "a.ring")
    (tmp_path / "b.ring").symlink_to("/etc/passwd")
    with pytest.raises(Exception, match="cannot be opened"):
        open_ring(tmp_path / "b.ring")
    with (tmp_path / "c.ring").open("wb") as giant:
        giant.write(ring.MAGIC)
        giant.truncate(FILE_BYTES_MAX + 1)
    with pytest.raises(Refused):
        open_ring(tmp_path / "c.ring")


def test_a_file_that_is_cut_short_while_it_is_read_ends_nobody(writer: Writer, tmp_path: Path) -> None:
    path = made_up(tmp_path, bytes(valid(tmp_path, writer)))
    reader = open_ring(path)
    assert reader is not None
    os.truncate(path, 0)
    for lane in ring.LANES:
        assert len(reader.read(lane)) == 0
    assert reader.read_texts() == {}
    assert reader.standing().channels["kernels"][0] == "none"


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.data())
def test_whatever_a_file_holds_the_reader_returns(tmp_path: Path, data: st.DataObject) -> None:
    """Random words over the header, the records and the texts: refused or read, within bounds, never anything else."""
    content = bytearray(DRAWN_FROM)
    for _ in range(data.draw(st.integers(1, 12))):
        at = data.draw(
            st.one_of(st.integers(0, 300), st.integers(512, 513), st.integers(128, 232), st.integers(256, 700))
        )
        word = data.draw(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 9000), st.just(2**64 - 1)))
        content[at * 8 : at * 8 + 8] = struct.pack("<Q", word)
    path = made_up(tmp_path, bytes(content))
    try:
        reader = open_ring(path)
    except Refused:
        return
    if reader is None:
        return
    for _ in range(STUCK_READS + 2):
        for lane in ring.LANES:
            found = reader.read(lane)
            assert found.dtype == RECORD
            assert len(found) <= 4096
    reader.read("nccl", final=True)
    reader.read_texts()
    reader.release()
    reader.say(2**64, control=2**64 + 1)
    reader.standing()
    reader.close()
    reader.close()


def _drawn_from() -> bytes:
    """A small ring as a process would make it, of eight records a lane."""
    header = bytearray(ring.HEADER_BYTES)
    size = ring.HEADER_BYTES + 24 * ring.RECORD_BYTES + 256
    ring.IDENTITY.pack_into(header, 0, ring.MAGIC, 1, 4096, size, size - 256, 256, 64, 3, 1, 0, 2, 3, 4)
    for lane in range(3):
        at = ring.LANES_AT + lane * ring.LANE_BYTES
        ring.LANE.pack_into(header, at, ring.HEADER_BYTES + lane * 8 * ring.RECORD_BYTES, 8, 5, 0, 0)
    struct.pack_into("<Q", header, ring.TEXTS_HEAD_AT, 40)
    cells = np.zeros(24, RECORD)
    cells["commit"] = np.tile(np.arange(1, 9), 3)
    texts = bytes(8) + struct.pack("<Q", 1 << 32 | 9) + b"some nam" + struct.pack("<Q", 1 << 32 | 4) + b"abc\0\0\0\0\0"
    return bytes(header) + cells.tobytes() + texts.ljust(256, b"\0")


DRAWN_FROM = _drawn_from()
