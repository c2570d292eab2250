"""What a user of `warpline export trace` relies on: a valid trace in which every number is the one that was recorded."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.identity import stamp
from warpline_agent.kernels import CATEGORIES, Kernels, kernel_id, name_rows
from warpline_agent.parsers.kineto import read_trace
from warpline_agent.raw_rows import raw_rows
from warpline_agent.recordings.archive import Limits, file_input
from warpline_cli.main import EXIT_USAGE, main
from warpline_cli.trace import export as trace_export
from warpline_cli.trace import tables as trace_tables
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.tables import CAPTURES, COLLECTIVES, PHASES, STEPS

BEGIN_NS = 1_700_000_000_123_456_789
NAMES = ('void gemm<float, "bf16">(int)', "ncclDevKernel_AllReduce", "ядро\u0001")
Exact = tuple[int, int, int, str]


def kernels(rank: int, count: int = 300) -> Kernels:
    """Streams 7 and 20; on the latter each record overlaps with the next."""
    random = np.random.default_rng(rank)
    took = random.integers(1, 900, count)
    on_20 = np.arange(count) % 3 == 0
    return Kernels(
        start_ns=BEGIN_NS + 1_000 * np.arange(count) + rank,
        duration_ns=np.where(on_20, 3_500, took),
        name_id=random.integers(0, 3, count).astype(np.int32),
        category=np.zeros(count, dtype=np.uint8),
        device=np.zeros(count, dtype=np.int32),
        stream=np.where(on_20, 20, 7),
        step=np.arange(count) // 100,
        names=NAMES,
    )


def exact(rank: int, found: Kernels) -> list[Exact]:
    named = [found.names[index] for index in found.name_id]
    return sorted(zip([rank] * len(found), found.start_ns.tolist(), found.duration_ns.tolist(), named, strict=True))


def raw(rank: int, found: Kernels, capture: str | None) -> list[Batch]:
    place = {"job": "train", "rank": rank, "node": f"node{rank}", "capture_id": capture}
    rows = stamp(raw_rows(found, f"realtime@node{rank}"), **place)
    return [Batch("raw_kernels", "ring", rows), Batch("kernel_names", "ring", name_rows(found))]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two ranks: rank 0 sent twice, the second time a part; steps, phases and a collective of both."""
    folder = tmp_path / "store"
    held = DuckDBStore(folder)
    batches = [*raw(0, kernels(0), "c0"), *raw(1, kernels(1), "c1")]
    batches += raw(0, kernels(0).select(np.arange(50)), "c2")
    place = [{"job": "train", "rank": rank, "node": f"node{rank}", "clock": f"realtime@node{rank}"} for rank in (0, 1)]
    step = {"scope": "step", "step": 0, "start_ns": BEGIN_NS, "duration_ns": 100_001}
    phase = {"step": 0, "phase": "forward-compute", "start_ns": BEGIN_NS + 1, "duration_ns": 7}
    reduce = {
        "communicator": "0xabc", "sequence": 4, "operation": "all_reduce", "start_ns": BEGIN_NS + 9, "duration_ns": 50,
        "group_name": "dp", "message_bytes": 1024,
    }  # fmt: skip
    batches.append(Batch("steps", "ring", STEPS.from_rows([each | step for each in place])))
    elsewhere = {**phase, **place[0], "start_ns": 5, "clock": "step@x"}
    batches.append(Batch("phases", "ring", PHASES.from_rows([each | phase for each in place] + [elsewhere])))
    batches.append(Batch("collectives", "ring", COLLECTIVES.from_rows([each | reduce for each in place])))
    done = {
        "job": "train", "what": "kernels", "state": "done", "requested_ns": 1, "delivered_start_ns": BEGIN_NS,
        "delivered_end_ns": BEGIN_NS + 50_000,
    }  # fmt: skip
    captures = [done | {"id": "c0", "rank": 0}, done | {"id": "c2", "rank": 0}]
    captures.append({"id": "no", "what": "kernels", "state": "denied", "detail": "ring: gone", "requested_ns": 1})
    batches.append(Batch("captures", "ring", CAPTURES.from_rows(captures)))
    held.write(batches)
    held.close()
    return folder


def export(store: Path, *words: str, name: str = "out.json.gz") -> dict[str, Any]:
    """The trace that was written; numbers as they stand in the file."""
    path = store.parent / name
    assert main(["export", "trace", "--store", str(store), "-o", str(path), *words]) == 0
    assert [each.name for each in store.parent.iterdir() if each.name.startswith(".")] == []
    text = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    document: dict[str, Any] = json.loads(text, parse_float=Decimal)
    check(document)
    return document


def check(document: dict[str, Any]) -> None:
    """The rules of the format: phases and their keys, every track named, slices behind or within one another, whole arrows."""
    assert "displayTimeUnit" not in document, "an old Perfetto takes it for the unit of times"
    named: set[tuple[str, int, int]] = set()
    open_: dict[tuple[int, int], list[int]] = {}
    arrows: dict[str, list[tuple[int, int, bool, bool]]] = {}
    for number, event in enumerate(document["traceEvents"]):
        track = event["pid"], event["tid"]
        assert all(type(each) is int for each in track)
        if event["ph"] == "M":
            named.add((event["name"], event["pid"], event["tid"]))
            continue
        assert ("process_name", event["pid"], 0) in named
        start = nanoseconds(event["ts"])
        assert start >= 0
        if event["ph"] == "C":
            assert [type(each) for each in event["args"].values()] in ([int], [Decimal])
            continue
        assert ("thread_name", *track) in named
        assert isinstance(event["name"], str) and isinstance(event["cat"], str) and isinstance(event["args"], dict)
        if event["ph"] == "i":
            assert event["s"] in ("g", "t")
            continue
        assert event["ph"] == "X"
        took = nanoseconds(event["dur"])
        assert took >= 0
        around = open_.setdefault(track, [])
        while around and around[-1] <= start:
            around.pop()
        assert not around or start + took <= around[-1]
        around.append(start + took)
        if "bind_id" in event:
            way = bool(event.get("flow_in")), bool(event.get("flow_out"))
            arrows.setdefault(event["bind_id"], []).append((start, number, *way))
    for key, bound in arrows.items():
        assert int(key, 16) > 0
        ways = [each[2:] for each in sorted(bound)]
        assert ways == [(False, True), *[(True, True)] * (len(bound) - 2), (True, False)]


def nanoseconds(microseconds: Decimal) -> int:
    whole = microseconds * 1_000
    assert whole == int(whole)
    return int(whole)


def slices(document: dict[str, Any], category: str) -> list[Exact]:
    ranks = {
        event["pid"]: int(event["args"]["name"].replace(",", "").split()[1])
        for event in document["traceEvents"]
        if event["name"] == "process_name" and event["args"]["name"].startswith("rank")
    }
    base = document["baseTimeNanoseconds"]
    return sorted(
        (ranks[event["pid"]], base + nanoseconds(event["ts"]), nanoseconds(event["dur"]), event["name"])
        for event in document["traceEvents"]
        if event["ph"] == "X" and event["cat"] == category
    )


def test_a_capture_is_drawn_to_the_nanosecond(store: Path) -> None:
    assert slices(export(store, "--capture", "c0"), "compute") == exact(0, kernels(0))
    part = export(store, "--capture", "c2", name="part.json")
    assert slices(part, "compute") == exact(0, kernels(0).select(np.arange(50)))


def test_a_job_is_drawn_with_ranks_streams_steps_phases_and_arrows_and_each_record_once(store: Path) -> None:
    document = export(store, "--job", "train")
    assert slices(document, "compute") == exact(0, kernels(0)) + exact(1, kernels(1))
    assert slices(document, "step") == [(rank, BEGIN_NS, 100_001, "step 0") for rank in (0, 1)]
    assert slices(document, "phase") == [(rank, BEGIN_NS + 1, 7, "forward-compute") for rank in (0, 1)]
    assert slices(document, "collective") == [(rank, BEGIN_NS + 9, 50, "all_reduce") for rank in (0, 1)]
    events = document["traceEvents"]
    tracks = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert {"steps", "phases", "collectives of dp", "stream 7 of device 0", "stream 20 of device 0 (2)"} <= tracks
    begun, ended = ([each for each in events if each.get(way)] for way in ("flow_out", "flow_in"))
    assert [each["bind_id"] for each in begun] == [each["bind_id"] for each in ended]
    assert begun[0]["pid"] != ended[0]["pid"]


def test_what_was_written_is_told_as_json(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = export(store, "--job", "train", "--rank", "1", "--json")
    told = json.loads(capsys.readouterr().out)
    drawn = [event["ph"] for event in document["traceEvents"]]
    assert told["file"] == str(store.parent / "out.json.gz")
    assert told["bytes"] == (store.parent / "out.json.gz").stat().st_size
    assert (told["selection"]["job"], told["selection"]["ranks"]) == ("train", [1])
    assert (told["drawn"]["slices"], told["drawn"]["kernels"]) == (drawn.count("X"), 300)
    assert (told["drawn"]["marks"], told["drawn"]["left_out"]) == (drawn.count("i"), {})


def test_ranks_and_a_time_choose(store: Path) -> None:
    start, end = BEGIN_NS + 100_000, BEGIN_NS + 110_000
    found = slices(export(store, "--job", "train", "--rank", "1", "--from", str(start), "--to", str(end)), "compute")
    assert found == [each for each in exact(1, kernels(1)) if each[1] < end and each[1] + each[2] > start]
    assert 0 < len(found) < 20
    none = ("export", "trace", "--store", str(store), "-o", str(store.parent / "n.json"), "--job", "train")
    assert main([*none, "--to", "2001-01-01T00:00:00"]) == EXIT_USAGE


def test_our_own_reader_of_traces_reads_it_back(store: Path) -> None:
    """What a Kineto reader takes for a GPU's work comes back with the times that went in."""
    export(store, "--capture", "c0", name="back.json")
    text = (store.parent / "back.json").read_text().replace('"cat":"compute"', '"cat":"kernel"')
    (store.parent / "back.json").write_text(text)
    with (store.parent / "back.json").open("rb") as stream:
        found = read_trace(stream).kernels
    times = sorted(zip(found.start_ns.tolist(), found.duration_ns.tolist(), strict=True))
    assert times == [each[1:3] for each in exact(0, kernels(0))]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--finding", "nobody"], "there is no finding 'nobody'"),
        (["--finding", "x", "--job", "train"], "name one of --finding, --capture and --job"),
        (["--finding", "x", "--rank", "1"], "--finding says by itself which ranks"),
        (["--capture", "nobody"], "there is no capture 'nobody'"),
        (["--capture", "no"], "capture 'no' of kernels is denied: ring: gone"),
        (["--job", "other"], "nothing is kept of that"),
        (["--job", "it's"], "nothing is kept of that"),
        ([], "name one of --finding, --capture and --job"),
        (["--job", "train", "--from", "yesterday"], "--from 'yesterday' is no time"),
        (["--job", "train", "--from", "2", "--to", "1"], "--from is not before --to"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence_and_no_file(
    store: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = store.parent / "none.json"
    assert main(["export", "trace", "--store", str(store), "-o", str(out), *words]) == EXIT_USAGE
    assert said in capsys.readouterr().err
    assert [each.name for each in store.parent.iterdir()] == ["store"]


def test_a_file_with_too_many_slices_ends_and_says_what_it_left_out(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trace_export, "SLICES_MAX", 100)
    document = export(store, "--job", "train")
    assert sum(event["ph"] == "X" for event in document["traceEvents"]) == 100
    assert "left out: 508 kernels" in capsys.readouterr().err


@settings(max_examples=40, deadline=None)
@given(starts=st.lists(st.integers(0, 6), max_size=40), page=st.integers(1, 5))
def test_rows_of_one_start_are_neither_lost_nor_doubled_where_a_page_ends(starts: list[int], page: int) -> None:
    """Whatever the page, whatever starts together: the pages are the whole."""
    rows = sorted((start, index) for index, start in enumerate(starts))

    def query(sql: str) -> pa.Table:
        least = int(sql.split("start_ns >= ")[1].split()[0]) if "start_ns >= " in sql else 0
        skip = int(sql.rsplit(" ", 1)[1])
        found = [each for each in rows if each[0] >= least][skip : skip + page]
        return pa.table({"start_ns": [each[0] for each in found], "n": [each[1] for each in found]})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_tables, "PAGE_ROWS", page)
        found = [(row["start_ns"], row["n"]) for row in trace_tables.pages(query, ("start_ns", "n"), "t")]
    assert found == rows


def test_names_are_those_of_the_kernels(store: Path) -> None:
    document = export(store, "--capture", "c0")
    told = {
        event["name"]: event["args"]["kernel_id"] for event in document["traceEvents"] if event.get("cat") == "compute"
    }
    assert told == {name: str(kernel_id(name)) for name in NAMES}


def test_an_imported_trace_is_exported_as_it_was_recorded(tmp_path: Path, data: Path) -> None:
    """A real trace of one rank: analyzed with a store, exported, every kernel with name, start and duration."""
    path = next((data / "A-kineto").rglob("trace_diff_control_rank3of8_a100.json.gz"))
    with file_input(path, str(path), Limits()).open() as stream:
        recorded = read_trace(stream).kernels
    store = tmp_path / "store"
    main(["analyze", str(path), "--store", str(store)])
    held = DuckDBStore(store)
    (job,) = held.query("SELECT DISTINCT job FROM raw_kernels").column("job").to_pylist()
    held.close()
    document = export(store, "--job", job)
    found = [each for category in CATEGORIES for each in slices(document, category)]
    assert sorted(found) == exact(3, recorded)
    assert len(found) == 9_450
    assert slices(document, "step")
