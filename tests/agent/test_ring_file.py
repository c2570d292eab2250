"""The ring between a training process and the agent: one layout, nothing lost over a restart, everything else counted."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ring_programs import Writer, numbers, ring_in

from warpline_agent.ring_file import STUCK_READS
from warpline_hook import ring
from warpline_hook.process import start_ticks

KERNELS, NCCL, EVENTS = range(3)


def test_python_and_c_know_the_same_layout(compile_program: Callable[..., Path]) -> None:
    program = compile_program("ring_layout")
    c = json.loads(subprocess.run([program], capture_output=True, check=True, text=True).stdout)
    assert c["WARPLINE_MAGIC"].to_bytes(8, "little") == ring.MAGIC
    assert [c["WARPLINE_VERSION"], c["WARPLINE_HEADER_BYTES"], c["WARPLINE_RECORD_BYTES"]] == [
        ring.VERSION,
        ring.HEADER_BYTES,
        ring.RECORD_BYTES,
    ]
    assert c["WARPLINE_TEXT_BYTES_MAX"] == ring.TEXT_BYTES_MAX
    assert {name: (at, size) for key, (at, size) in records(c).items() if (name := key.split(".")[1])} == {
        name: (at, int(kind[-1])) for name, kind, at in ring.RECORD
    }
    identity = "magic version header_bytes file_bytes texts_offset texts_bytes record_bytes lanes pid uid start_ticks"
    fields = [*identity.split(), "pid_namespace", "created_ns"]
    assert [c[name] for name in fields] == offsets(ring.IDENTITY)
    assert [c["control"], c["nccl_control"], c["reader_seen_ns"]] == [
        ring.CONTROL_AT,
        ring.NCCL_CONTROL_AT,
        ring.READER_SEEN_AT,
    ]
    pulse = ["heartbeat_ns", "capturing", "step", "last_record_ns", "cupti_version", "nccl_version"]
    assert [c[name] - ring.PULSE_AT for name in pulse] == offsets(ring.PULSE)
    assert [c["channel"], c["counter"], c["lane"], c["texts_head"]] == [
        ring.CHANNELS_AT,
        ring.COUNTERS_AT,
        ring.LANES_AT,
        ring.TEXTS_HEAD_AT,
    ]
    assert [c["mark"], c["settled"], c["sizeof(struct warpline_mark)"]] == [
        ring.MARKS_AT,
        ring.SETTLED_AT,
        ring.MARK.size,
    ]
    assert [c[f"mark.{name}"] for name in ("number", "frame", "told_ns", "whole_ns", "lane")] == offsets(ring.MARK)[:5]
    lane = ["offset", "capacity", "head", "dropped", "tail"]
    assert [c[f"lane.{name}"] for name in lane] == offsets(ring.LANE)
    assert c["lane.tail"] == ring.TAIL_AT
    assert c["sizeof(struct warpline_lane)"] == ring.LANE_BYTES
    assert c["sizeof(struct warpline_communicator)"] == ring.COMMUNICATOR_HEAD.size
    known = ["hash", "rank", "ranks", "nodes", "api"]
    assert [c[f"communicator.{name}"] for name in known] == offsets(ring.COMMUNICATOR_HEAD)


def test_python_and_c_know_the_same_numbers(compile_program: Callable[..., Path]) -> None:
    program = compile_program("ring_layout")
    c = json.loads(subprocess.run([program], capture_output=True, check=True, text=True).stdout)
    kinds = [
        "KERNEL",
        "MEMCPY",
        "MEMSET",
        "GRAPH",
        "COLLECTIVE",
        "POINT_TO_POINT",
        "NCCL_KERNEL",
        "STATE",
        "GAP",
        "CLOCK",
        "CAPTURE",
    ]
    assert [c[f"KIND_{kind}"] for kind in kinds] == [getattr(ring, kind) for kind in kinds]
    assert [c[f"TEXT_{kind}"] for kind in ("NAME", "COMMUNICATOR", "ENVIRONMENT")] == [1, 2, 3]
    assert [c[f"LANE_{name.upper()}"] for name in ring.LANES] == list(range(c["LANES"]))
    assert [c[f"CHANNEL_{name.upper()}"] for name in ring.CHANNELS] == list(range(c["CHANNELS"]))
    assert [c[f"STATE_{name.upper()}"] for name in ring.STATES] == list(range(len(ring.STATES)))
    assert [c[f"COUNT_{name.upper()}"] for name in ring.COUNTERS] == list(range(c["COUNTERS"]))
    assert [c["GAP_RING_FULL"], c["GAP_CUPTI_DROPPED"]] == list(range(1, len(ring.GAP_CAUSES)))
    assert [c[f"MODE_{mode}"] for mode in ("OFF", "FULL", "STEPS", "TIME", "AWAY")] == [0, 1, 2, 3, 4]
    captured = [c[f"CAPTURE_{what}"] for what in ("KERNELS", "MEMCPY", "MEMSET", "GRAPHS")]
    assert captured == [ring.KERNELS, ring.COPIES, ring.SETS, ring.GRAPHS]
    assert ring.control(0, 0, unread=True) == c["WARPLINE_UNREAD"]
    assert c["WARPLINE_READER_SILENT_SECONDS"] == ring.READER_SILENT_SECONDS


def records(c: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {key: tuple(value) for key, value in c.items() if key.startswith("record.")}


def offsets(layout: struct.Struct) -> list[int]:
    """Where each field of a Struct begins: a field that alone is set shows by the first byte that is not zero."""
    count = len(layout.unpack(bytes(layout.size)))
    found = []
    for each in range(count):
        values: list[Any] = [b"\xff" if isinstance(v, bytes) else 0 for v in layout.unpack(bytes(layout.size))]
        values = [b"\xff" * 8 if index == each and isinstance(v, bytes) else v for index, v in enumerate(values)]
        values = [b"" if isinstance(v, bytes) and index != each else v for index, v in enumerate(values)]
        if not isinstance(values[each], bytes):
            values[each] = 1
        found.append(next(at for at, byte in enumerate(layout.pack(*values)) if byte))
    return found


def test_what_is_written_is_read_in_order_and_once(writer: Writer, tmp_path: Path) -> None:
    process = writer()
    assert process.ask("open") == "1"
    reader = ring_in(tmp_path)
    assert reader.process.pid == process.pid
    assert reader.process.start_ticks == start_ticks(process.pid)
    assert reader.owner == os.getuid()
    assert process.ask("put 1 100 0") == "100"
    assert process.ask("kernels 50 7") == "50"
    assert numbers(reader) == list(range(100))
    assert numbers(reader, "kernels") == list(range(7, 57))
    assert numbers(reader) == []


def test_rank_and_job_are_taken_from_the_environment_and_nothing_else(writer: Writer, tmp_path: Path) -> None:
    process = writer(RANK="3", WORLD_SIZE="8", SECRET_TOKEN="x")
    process.ask("open")
    reader = ring_in(tmp_path)
    (text,) = reader.read_texts().values()
    assert (text.kind, text.content) == (ring.ENVIRONMENT, b"RANK=3\nWORLD_SIZE=8\n")


def test_a_full_ring_drops_the_newest_and_says_how_many_and_when(writer: Writer, tmp_path: Path) -> None:
    process = writer()
    process.ask("open")
    reader = ring_in(tmp_path)
    assert process.ask("put 1 5000 0") == "4096"
    assert process.ask("kernels 4100 1000") == "4096"
    assert numbers(reader) == list(range(4096))
    assert len(numbers(reader, "kernels")) == 4096
    assert reader.standing().dropped == {"kernels": 4, "nccl": 904, "events": 0}
    reader.release()
    assert process.ask("kernels 1 9000") == "1"
    gap, kernel = reader.read("kernels")
    assert (gap["kind"], gap["value"], gap["start_ns"], gap["duration_ns"]) == (ring.GAP, 4, 1000 + 4096, 4)
    assert ring.GAP_CAUSES[gap["extra"]] == "the ring was full"
    assert (kernel["kind"], kernel["number"]) == (ring.KERNEL, 9000)


def test_nothing_is_lost_when_the_agent_is_started_again(writer: Writer, tmp_path: Path) -> None:
    """What was read but not yet safe is read again, what was released is not."""
    process = writer()
    process.ask("open")
    first = ring_in(tmp_path)
    process.ask("put 1 3000 0")
    assert numbers(first) == list(range(3000))
    first.release()
    process.ask("put 1 1000 3000")
    assert numbers(first) == list(range(3000, 4000))
    first.close()
    process.ask("put 1 2000 4000")
    assert numbers(ring_in(tmp_path)) == list(range(3000, 6000))


def test_nothing_is_lost_when_the_process_is_killed(writer: Writer, tmp_path: Path) -> None:
    process = writer()
    process.ask("open")
    process.ask("put 1 500 0")
    process.ask("claim")
    process.ask("put 1 20 500")
    process.kill()
    reader = ring_in(tmp_path)
    assert numbers(reader) == list(range(500))
    assert numbers(reader) == []
    assert list(reader.read("nccl", final=True)["number"]) == list(range(500, 520))
    assert reader.lost == 1


def test_a_record_that_is_never_finished_does_not_stop_those_behind_it(writer: Writer, tmp_path: Path) -> None:
    process = writer()
    process.ask("open")
    reader = ring_in(tmp_path)
    process.ask("claim")
    process.ask("put 1 5 0")
    seen = [numbers(reader) for _ in range(STUCK_READS + 1)]
    assert [found for found in seen if found] == [[0, 1, 2, 3, 4]]
    assert reader.lost == 1


def test_threads_that_write_at_once_lose_nothing(writer: Writer, tmp_path: Path) -> None:
    process = writer()
    process.ask("open")
    reader = ring_in(tmp_path)
    taken = int(process.ask("threads 8 1000"))
    found = reader.read("nccl")["number"]
    assert taken == len(found) == 4096
    assert reader.standing().dropped["nccl"] == 8 * 1000 - taken
    for thread in range(8):
        own = found[found >> np.uint64(32) == thread]
        assert np.all(np.diff(own.astype(np.int64)) > 0)


def test_records_go_round_many_times(writer: Writer, tmp_path: Path) -> None:
    process = writer()
    process.ask("open")
    reader = ring_in(tmp_path)
    for turn in range(20):
        assert process.ask(f"put 1 1500 {turn * 1500}") == "1500"
        assert process.ask(f"kernels 1500 {turn * 1500}") == "1500"
        assert numbers(reader) == list(range(turn * 1500, (turn + 1) * 1500))
        assert numbers(reader, "kernels") == list(range(turn * 1500, (turn + 1) * 1500))
        reader.release()


def test_texts_keep_their_number_and_are_cut_and_bounded(writer: Writer, tmp_path: Path) -> None:
    process = writer()
    process.ask("open")
    reader = ring_in(tmp_path)
    short, long = int(process.ask("text 1 ncclDevKernel")), int(process.ask(f"text 1 {'x' * 8000}"))
    reader.read_texts()
    assert reader.text(short) == "ncclDevKernel"
    assert reader.text(long) == "x" * ring.TEXT_BYTES_MAX
    assert reader.text(short + 1) is None
    for _ in range(300):
        process.ask(f"text 1 {'y' * 4096}")
    assert process.ask("text 1 " + "z" * 4096) == "0"
    while reader.read_texts():
        pass
    assert reader.standing().counters["dropped_texts"] > 0
    again = ring_in(tmp_path)
    while again.read_texts():
        pass
    assert again.texts == reader.texts


def test_a_state_has_its_reason_and_its_time(writer: Writer, tmp_path: Path) -> None:
    process = writer()
    process.ask("open")
    process.ask("state 0 2 held by nsys")
    process.ask("state 0 2 held by nsys")
    reader = ring_in(tmp_path)
    reader.read_texts()
    state, reason = reader.standing().channels["kernels"]
    assert (state, reader.text(reason)) == ("busy", "held by nsys")
    (told,) = reader.read("events")
    assert (told["kind"], told["flags"], ring.STATES[told["extra"]]) == (ring.STATE, KERNELS, "busy")
    assert reader.standing().channels["nccl"] == ("none", 0)


def test_a_child_of_the_process_writes_nothing(writer: Writer, tmp_path: Path) -> None:
    process = writer()
    process.ask("open")
    assert process.ask("fork") == "0"
    assert process.ask("put 2 1 0") == "1"
    assert len(list(tmp_path.glob("*.ring"))) == 1


def test_where_nobody_has_ever_read_nothing_stays_behind(writer: Writer, tmp_path: Path) -> None:
    process = writer()
    process.ask("open")
    process.ask("exit")
    assert process.end() == 0
    assert list(tmp_path.glob("*.ring")) == []


def test_what_programs_that_are_gone_left_behind_is_taken_away_in_time(writer: Writer, tmp_path: Path) -> None:
    """Where no agent runs; one that reads is given ten minutes."""
    namespace = os.stat("/proc/self/ns/pid").st_ino
    old = time.time() - 3600

    def left(pid: int, seen_ns: int, age: float) -> Path:
        path = tmp_path / f"warpline-{namespace}-{pid}-{start_ticks('self')}.ring"
        header = bytearray(ring.HEADER_BYTES)
        struct.pack_into("<Q", header, ring.READER_SEEN_AT, seen_ns)
        path.write_bytes(header)
        os.utime(path, (age, age))
        return path

    never_read, fresh = left(4_000_001, 0, old), left(4_000_002, 0, time.time())
    just_read, lives = left(4_000_003, time.monotonic_ns(), old), left(os.getpid(), 0, old)
    other = tmp_path / f"warpline-{namespace + 1}-4000004-5.ring"
    other.write_bytes(bytes(ring.HEADER_BYTES))
    os.utime(other, (old, old))
    writer().ask("open")
    assert not never_read.exists()
    assert all(each.exists() for each in (fresh, just_read, lives, other))


def test_what_was_read_stays_until_the_agent_takes_it_away(writer: Writer, tmp_path: Path) -> None:
    process = writer()
    process.ask("open")
    ring_in(tmp_path).say(1)
    process.ask("exit")
    assert process.end() == 0
    assert len(list(tmp_path.glob("*.ring"))) == 1


def test_without_a_folder_there_is_no_ring_and_no_harm(writer: Writer, tmp_path: Path) -> None:
    process = writer(WARPLINE_DIRECTORY=str(tmp_path / "absent"))
    assert process.ask("open") == "0"
    assert process.ask("put 1 1 0") == "0"
    assert process.end() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system of its own")
@pytest.mark.parametrize(("size", "made", "says"), [("40k", "0", True), ("16m", "0", True), ("128m", "1", False)])
def test_a_small_file_system_gets_a_smaller_ring_or_a_page_that_says_why(
    writer: Writer, tmp_path: Path, size: str, made: str, says: bool
) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        process = writer(WARPLINE_RING_RECORDS="1048576")
        assert process.ask("open") == made
        reader = ring_in(tmp_path)
        assert reader.standing().channels["kernels"][0] == ("denied" if says else "none")
        assert process.ask("kernels 10 0") == ("0" if says else "10") if made == "1" else True
        assert sum(file.stat().st_blocks * 512 for file in tmp_path.iterdir()) <= max(4096, (128 << 20) // 16)
        reader.close()
        process.end()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_the_control_word_holds_what_it_is_given() -> None:
    word = ring.control(ring.STEPS, ring.KERNELS | ring.GRAPHS, flush_ms=200, window=3, period=50, unread=True)
    assert word == 1 << 63 | 50 << 48 | 3 << 32 | 200 << 16 | 9 << 8 | 2
    with pytest.raises(ValueError, match="does not fit"):
        ring.control(ring.FULL, 256)
    assert ring.nccl_control(ring.NCCL_KERNEL_CHANNELS, 5) == 5 << 16 | 64
