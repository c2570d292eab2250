"""What an operator relies on who asks for the kernels of a rank and a time: exact records, and a word on what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warpline_agent import raw_block, raw_ring
from warpline_agent.capturing import AHEAD_SECONDS_MAX, Desk
from warpline_agent.kernels import Kernels, kernel_id
from warpline_agent.raw_block import Process
from warpline_agent.raw_capture import deliver
from warpline_agent.raw_ring import RawRing, RawRingConfig
from warpline_agent.source import Delivered, Rows
from warpline_agent.sources.kineto import KinetoConfig, KinetoFolder
from warpline_agent.sources.synthetic import Synthetic, SyntheticConfig
from warpline_proto.capture import Capture
from warpline_proto.errors import Denied

BEGIN_NS = 1_700_000_000_000_000_001
TOOK_NS = 700
EVERY_NS = 1_000
NAMES = ("gemm", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "Memcpy HtoD")


def made_up(count: int, first: int = 0) -> Kernels:
    """Record i starts i microseconds after BEGIN_NS and takes 700 ns; every tenth is outside any step."""
    index = np.arange(first, first + count)
    return Kernels(
        start_ns=BEGIN_NS + EVERY_NS * index,
        duration_ns=np.full(count, TOOK_NS),
        name_id=(index % 3).astype(np.int32),
        category=(index % 3).astype(np.uint8),
        device=np.full(count, -1, dtype=np.int32),
        stream=np.where(index % 2 == 0, 7, -1),
        step=np.where(index % 10 == 0, -1, index // 100),
        names=NAMES,
    )


def filled(folder: Path, *parts: Kernels, **how: Any) -> RawRing:
    ring = RawRing(RawRingConfig(**how), folder)
    ring.open()
    for part in parts:
        ring.append(Process.of("realtime@n", job="train", rank=3, gpu_uuid="GPU-1", device=2), part)
        ring.flush(everything=True)
    return ring


def asked(first: int, last: int, rank: int = 3, job: str = "train") -> Capture:
    """The time from the start of record `first` to that of record `last`."""
    return Capture("c1", job, rank, "kernels", BEGIN_NS + EVERY_NS * first, EVERY_NS * (last - first), "by hand")


def taken(parts: Iterable[Rows | Delivered]) -> tuple[dict[str, list[dict[str, Any]]], Delivered, int]:
    tables: dict[str, list[dict[str, Any]]] = {}
    delivered: Delivered | None = None
    dropped = 0
    for each in parts:
        if isinstance(each, Delivered):
            delivered = each
        else:
            tables.setdefault(each.table, []).extend(each.batch.to_pylist())
            dropped += each.dropped
    assert delivered is not None
    return tables, delivered, dropped


def test_records_of_the_range_come_exact_and_whole(tmp_path: Path) -> None:
    """Over several blocks; a record of which the last nanosecond lies in the range is one of it, one that ended before is not."""
    ring = filled(tmp_path, made_up(500), made_up(500, 500))
    begin = asked(490, 510)
    tables, told, dropped = taken(deliver(ring, begin))
    rows = tables["raw_kernels"]
    assert [row["start_ns"] for row in rows] == [BEGIN_NS + EVERY_NS * index for index in range(490, 510)]
    (row,) = [row for row in rows if row["start_ns"] == BEGIN_NS + EVERY_NS * 502]
    assert {key: value for key, value in row.items() if value is not None} == {
        "capture_id": "c1", "job": "train", "rank": 3, "gpu_uuid": "GPU-1", "device": 2, "clock": "realtime@n", "step": 5,
        "start_ns": BEGIN_NS + 502_000, "duration_ns": TOOK_NS, "stream": 7, "kernel_id": kernel_id(NAMES[1]),
        "category": "communication",
    }  # fmt: skip
    assert [row["step"] for row in rows if row["start_ns"] == BEGIN_NS + EVERY_NS * 500] == [None]
    assert {row["stream"] for row in rows} == {7, None}
    assert {row["name"] for row in tables["kernel_names"]} == set(NAMES)
    assert told == Delivered(20, begin.start_ns, begin.start_ns + begin.duration_ns, 0, "all of the time asked for")
    assert dropped == 0
    late = Capture("c1", "train", 3, "kernels", BEGIN_NS + EVERY_NS * 490 + TOOK_NS - 1, 1, "")
    assert len(taken(deliver(ring, late))[0]["raw_kernels"]) == 1
    ring.close()


def test_a_range_that_is_partly_gone_or_yet_to_come_says_so(tmp_path: Path) -> None:
    ring = filled(tmp_path, made_up(100, 100))
    end_ns = BEGIN_NS + EVERY_NS * 199 + TOOK_NS
    tables, told, _ = taken(deliver(ring, asked(50, 250)))
    assert len(tables["raw_kernels"]) == told.records == 100
    assert (told.start_ns, told.end_ns) == (BEGIN_NS + EVERY_NS * 100, end_ns)
    assert told.missing_ns == EVERY_NS * 100 + EVERY_NS - TOOK_NS
    assert told.note == "the first 5e-05 s are not held; the last 5.03e-05 s are not recorded"
    ring.close()


def test_more_records_than_one_capture_may_send_keep_the_earliest_and_count_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_block, "RECORDS_MAX", 50)
    ring = filled(tmp_path, made_up(1_000), capture_records_max=120)
    tables, told, dropped = taken(deliver(ring, asked(0, 1_000)))
    assert [row["start_ns"] for row in tables["raw_kernels"]] == made_up(120).start_ns.tolist()
    assert (told.records, dropped) == (120, 880)
    assert told.end_ns == BEGIN_NS + EVERY_NS * 120
    assert told.missing_ns == EVERY_NS * 880
    assert "880 records beyond capture_records_max left out" in told.note
    ring.close()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (asked(0, 50), "that time is not held: the oldest record is 5e-05 s later"),
        (asked(300, 350), "nothing is recorded of that time: the newest record is 0.0001"),
        (asked(100, 150, rank=4), r"no raw kernels of rank 4 of job train are held \(held are ranks of train: 3\)"),
        (asked(100, 150, job="other"), "no raw kernels of rank 3 of job other are held"),
    ],
)
def test_a_range_of_which_nothing_is_held_is_denied_with_the_reason(
    tmp_path: Path, request_: Capture, words: str
) -> None:
    ring = filled(tmp_path, made_up(100, 100))
    with pytest.raises(Denied, match=words):
        list(deliver(ring, request_))
    ring.close()


def test_what_fell_off_is_told_in_the_denial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_ring, "BYTES_MIN", 1)
    ring = filled(tmp_path, *(made_up(1_000, 1_000 * part) for part in range(40)), bytes_max=6_000)
    assert ring.dropped >= 1_000
    with pytest.raises(Denied, match=rf"\({ring.dropped} older records fell off\)"):
        list(deliver(ring, asked(0, 500)))
    ring.close()


def test_blocks_that_are_gone_since_are_counted(tmp_path: Path) -> None:
    ring = filled(tmp_path, made_up(100))
    for path in tmp_path.glob("*.raw"):
        path.unlink()
    tables, told, dropped = taken(deliver(ring, asked(0, 100)))
    assert (tables["raw_kernels"], told.records, dropped) == ([], 0, 100)
    assert "100 records could not be read" in told.note
    ring.close()


def test_kernels_of_a_time_that_is_not_over_are_asked_for_when_it_is(tmp_path: Path) -> None:
    """Not for ever: a range that ends long from now is answered as far as it goes."""
    source = Synthetic(SyntheticConfig(job="train"))
    request = asked(0, 100)
    end_ns = request.start_ns + request.duration_ns
    desk = Desk({"synthetic": source})
    assert list(desk.put(request)) == []
    assert desk.next_for("synthetic", end_ns - 1) is None
    assert desk.next_for("synthetic", end_ns) is not None
    assert list(desk.put(request)) == []
    assert desk.next_for("synthetic", end_ns - int(AHEAD_SECONDS_MAX * 1e9) - 1) is not None


def test_the_made_up_node_keeps_and_gives_what_its_clusters_count(tmp_path: Path) -> None:
    """Records of a whole step are as many and take as long as the clusters of the step say."""
    ns = [BEGIN_NS]
    source = Synthetic(SyntheticConfig(job="train", start_ns=BEGIN_NS), lambda: ns[0])
    source.keep_raw_in(RawRing(RawRingConfig(), tmp_path, lambda: ns[0]))
    source.open()
    ns[0] += 10 * 10**9
    rows = [row for each in source.read() if each.table == "kernel_clusters" for row in each.batch.to_pylist()]
    tables, told, _ = taken(source.capture(Capture("c", "train", 2, "kernels", BEGIN_NS, 10**10, "")))
    clusters = [row for row in rows if row["rank"] == 2]
    assert told.records == sum(row["count"] for row in clusters) > 100
    assert sum(row["duration_ns"] for row in tables["raw_kernels"]) == sum(row["sum_ns"] for row in clusters)
    assert {row["clock"] for row in tables["raw_kernels"]} == {row["clock"] for row in clusters}
    source.close()


def trace(path: Path, count: int) -> list[tuple[int, int, str]]:
    """A Kineto trace of rank 3 with kernels to the nanosecond; what it holds."""
    events, held = [], []
    for index in range(count):
        start, took, name = 1_000_000 + index * 12_345, 1_001 + index, NAMES[index % 2]
        held.append((BEGIN_NS + start, took, name))
        events.append(
            f'{{"ph":"X","cat":"kernel","name":"{name}","pid":0,"tid":7,"ts":{start // 1000}.{start % 1000:03d},'
            f'"dur":{took // 1000}.{took % 1000:03d},"args":{{"device":0,"stream":7,"correlation":{index}}}}}'
        )
    head = {"schemaVersion": 1, "baseTimeNanoseconds": BEGIN_NS, "distributedInfo": {"rank": 3, "world_size": 8}}
    path.write_text(json.dumps(head)[:-1] + ', "traceEvents": [' + ",\n".join(events) + "]}")
    return held


def folder_source(traces: Path, ring: Path) -> KinetoFolder:
    source = KinetoFolder(KinetoConfig(directory=str(traces), job="train"))
    source.keep_raw_in(RawRing(RawRingConfig(), ring))
    source.open()
    return source


def test_kernels_of_a_trace_folder_are_given_to_the_nanosecond_also_after_a_restart(tmp_path: Path) -> None:
    traces = tmp_path / "traces"
    traces.mkdir()
    held = trace(traces / "rank3.json", 400)
    request = Capture("c9", "train", 3, "kernels", BEGIN_NS, 10**9, "")
    source = folder_source(traces, tmp_path / "ring")
    with pytest.raises(Denied, match="profiler of rank 3"):
        list(source.capture(request))
    for _ in range(2):
        list(source.read())
    first, told, _ = taken(source.capture(request))
    source.close()
    again = folder_source(traces, tmp_path / "ring")
    for _ in range(2):
        list(again.read())
    second, _, _ = taken(again.capture(request))
    names = {row["kernel_id"]: row["name"] for row in first["kernel_names"]}
    found = [(row["start_ns"], row["duration_ns"], names[row["kernel_id"]]) for row in first["raw_kernels"]]
    assert found == held
    assert (told.records, second["raw_kernels"]) == (400, first["raw_kernels"])
    again.close()
