"""Kineto traces made by hand: steps, launches, collectives, secrets, damage, and the folder that is watched."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from warpline_agent.source import Reading, memory_input
from warpline_agent.sources.kineto import FILES_A_ROUND_MAX, Kineto, KinetoConfig, KinetoFolder
from warpline_proto.errors import Refused, Unsupported
from warpline_proto.wire import to_ipc

Event = dict[str, Any]
SECRET = "hf_" + "Zx9k" * 8


def event(category: str, name: str, start: object, duration: object, **args: Any) -> Event:
    return {"ph": "X", "cat": category, "name": name, "pid": 0, "tid": 7, "ts": start, "dur": duration, "args": args}


def kernel(name: str, start: object, duration: object, correlation: int, stream: int = 7, /, **args: Any) -> Event:
    return event("kernel", name, start, duration, device=0, stream=stream, correlation=correlation, **args)


def launch(start: object, correlation: int) -> Event:
    return event("cuda_runtime", "cudaLaunchKernel", start, 1, correlation=correlation)


def read(events: list[Event], name: str = "trace.json", **members: Any) -> Reading:
    """One reading of a trace with these events."""
    document = {"schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "H100"}], **members, "traceEvents": events}
    candidate = memory_input(name, json.dumps(document).encode())
    assert Kineto().recognises(candidate)
    return Kineto().read(candidate)


def rows(reading: Reading, table: str) -> list[Event]:
    """All rows of one table."""
    return [row for each in reading.rows if each.table == table for row in each.batch.to_pylist()]


def test_a_kernel_belongs_to_the_step_that_launched_it() -> None:
    """The GPU runs behind the CPU: a kernel that runs during step 2 but was launched in step 1 counts for step 1."""
    reading = read(
        [
            event("user_annotation", "ProfilerStep#1", 0, 100),
            event("user_annotation", "ProfilerStep#2", 100, 100),
            launch(50, 1),
            launch(150, 2),
            kernel("late", 120, 10, 1),
            kernel("prompt", 160, 10, 2),
            kernel("unknown launch", 190, 5, 99),
            kernel("outside", 300, 5, 98),
        ]
    )
    clusters = {row["step"]: row["count"] for row in rows(reading, "kernel_clusters")}
    assert sorted((row["step"] or -1) for row in rows(reading, "kernel_clusters")) == [-1, 1, 2, 2]
    assert clusters[1] == 1
    steps = {row["step"]: (row["duration_ns"], row["busy_ns"], row["kernels"]) for row in rows(reading, "steps")}
    assert steps == {None: (305_000, 30_000, 4), 1: (100_000, 10_000, 1), 2: (100_000, 15_000, 2)}


def test_how_long_kernels_waited_since_their_launch_is_told_of_each_step() -> None:
    """From the end of the launching call; a step none of whose launches is known says nothing, and copies do not count."""
    reading = read(
        [
            event("user_annotation", "ProfilerStep#1", 0, 100),
            event("user_annotation", "ProfilerStep#2", 100, 100),
            *(launch(start, number) for number, start in enumerate((10, 20, 30))),
            kernel("a", 21, 1, 0),
            kernel("b", 61, 1, 1),
            event("gpu_memcpy", "Memcpy HtoD", 90, 1, device=0, stream=7, correlation=2),
            kernel("unknown launch", 190, 5, 99),
        ],
        baseTimeNanoseconds=10**18,
    )
    columns = ("launch_gaps", "launch_gap_sum_ns", "launch_gap_p50_ns", "launch_gap_max_ns")
    told = {row["step"]: tuple(row[name] for name in columns) for row in rows(reading, "steps")}
    assert told == {None: (2, 50_000, 40_000, 40_000), 1: (2, 50_000, 40_000, 40_000), 2: (None,) * 4}


def test_steps_marked_on_the_gpu_alone_serve_where_the_cpu_has_none() -> None:
    """Kernels are then placed by their own start."""
    reading = read(
        [event("gpu_user_annotation", "ProfilerStep#6", 10, 50), kernel("a", 20, 5, 1), kernel("b", 90, 5, 2)]
    )
    assert [(row["step"], row["kernels"]) for row in rows(reading, "steps")] == [(None, 2), (6, 1)]


def test_waiting_for_the_data_loader_is_told_of_each_step() -> None:
    """A step without a wait is a measured zero; a trace that marks no loader at all says nothing."""
    steps = [event("user_annotation", f"ProfilerStep#{index}", index * 100, 100) for index in range(3)]
    loads = [
        event("user_annotation", "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 10, 30),
        event("user_annotation", "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 180, 40),
    ]
    waits = [row["data_wait_ns"] for row in rows(read(steps + loads), "steps") if row["scope"] == "step"]
    assert waits == [30_000, 20_000, 20_000]
    assert [row["data_wait_ns"] for row in rows(read(steps), "steps") if row["scope"] == "step"] == [None] * 3
    assert {row["kind"] for row in rows(read(steps + loads), "phases")} == {"data"}


def test_times_are_exact_and_count_from_the_base() -> None:
    """Three decimals on top of a base in nanoseconds give the nanosecond."""
    document = json.dumps(
        {"deviceProperties": [], "traceEvents": [kernel("a", 0, 0, 1)], "baseTimeNanoseconds": 10**18}
    )
    text = document.replace('"ts": 0, "dur": 0', '"ts": 4458676983543.183, "dur": 41.407')
    row = rows(Kineto().read(memory_input("t.json", text.encode())), "kernel_clusters")[0]
    assert (row["start_ns"], row["sum_ns"]) == (10**18 + 4458676983543183, 41407)


def test_collectives_carry_what_pytorch_wrote_and_their_order_of_launch() -> None:
    """Groups of one name but other ranks are other communicators; the count is NCCL's, the size that of nccl-tests."""
    told = {"dtype": "BFloat16", "Group size": 4, "Process Group Name": "5", "Process Group Ranks": "[0, 2, 4, 6]"}
    info = {
        "rank": 2,
        "world_size": 8,
        "pg_config": [
            {
                "pg_name": "5",
                "pg_desc": "TENSOR_MODEL_PARALLEL_GROUP",
                "backend_config": "cuda:nccl",
                "pg_size": 4,
                "ranks": [0, 2, 4, 6],
            },
            {
                "pg_name": "6",
                "pg_desc": "undefined",
                "backend_config": "cpu:gloo",
                "pg_size": 8,
                "ranks": list(range(8)),
            },
        ],
    }
    gather = {"Collective name": "_allgather_base", "In msg nelems": 10, "Out msg nelems": 40, **told}
    scatter = {"Collective name": "_reduce_scatter_base", "In msg nelems": 40, "Out msg nelems": 10, **told}
    reading = read(
        [
            launch(1, 1),
            launch(2, 2),
            launch(3, 3),
            kernel("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(x)", 50, 5, 2, 8, **scatter),
            kernel("ncclDevKernel_AllGather_RING_SIMPLE(x)", 60, 5, 1, 9, **gather),
            kernel("ncclDevKernel_SendRecv(x)", 70, 5, 3, 10),
        ],
        distributedInfo=info,
    )
    found = rows(reading, "collectives")
    assert [(row["operation"], row["sequence"], row["communicator"]) for row in found] == [
        ("all_gather", 0, "5[0,2,4,6]"),
        ("reduce_scatter", 1, "5[0,2,4,6]"),
        ("send_recv", 0, None),
    ]
    assert [(row["elements"], row["message_bytes"], row["datatype"]) for row in found[:2]] == [(10, 80, "bfloat16")] * 2
    assert {(row["rank"], row["communicator_rank"], row["nranks"]) for row in found[:2]} == {(2, 1, 4)}
    assert (found[0]["algorithm"], found[0]["protocol"], found[1]["reduction"]) == ("ring", "simple", "sum")
    groups = rows(reading, "communicators")
    assert [(row["communicator"], row["group_kind"], row["communicator_rank"]) for row in groups] == [
        ("5[0,2,4,6]", "tp", 1)
    ]
    assert reading.origin.communicators == (("5[0,2,4,6]", (0, 2, 4, 6)),)
    assert (reading.origin.rank, reading.origin.world_size) == (2, 8)


def test_ranks_shortened_by_the_profiler_still_tell_groups_apart() -> None:
    """A long list of ranks is written with dots: the ranks are not known, two groups of one name stay two."""

    def gather(first: int) -> Event:
        ranks = f"[{first}, {first + 1}, ..., {first + 63}]"
        told: Event = {
            "Collective name": "all_gather",
            "Process Group Name": "7",
            "Process Group Ranks": ranks,
            "Group size": 64,
        }
        return kernel("ncclDevKernel_AllGather_RING_LL(x)", first, 5, first, **told)

    found = rows(read([gather(1), gather(100)]), "collectives")
    assert len({row["communicator"] for row in found}) == 2
    assert [(row["sequence"], row["nranks"]) for row in found] == [(0, 64)] * 2


def test_the_same_data_with_another_rank_or_wrapping_has_one_digest() -> None:
    """The digest is of what was measured, so that a copy is recognised."""
    events = [kernel(f"k{index}", index * 10, 3, index) for index in range(20)]
    first = read(events, "worker1_step_12.1694128201556.pt.trace.json", distributedInfo={"rank": 1, "world_size": 2})
    second = read(
        events[::-1], "worker2_step_12.1694128201600.pt.trace.json", distributedInfo={"rank": 2, "world_size": 2}
    )
    assert first.origin.content == second.origin.content
    assert first.origin.sibling == second.origin.sibling == "worker*_step_12.pt.trace.json"


def test_hosts_name_their_clock_and_nothing_else_does() -> None:
    """Times of two traces are comparable only where both name one host."""
    events = [kernel("a", 1, 2, 1)]
    on_host = {row["clock"] for row in rows(read(events, host_name="node7"), "steps")}
    assert on_host == {"trace@node7"}
    assert read(events, host_name="node7").origin.node == "node7"
    alone = {row["clock"] for row in rows(read(events), "steps")} | {
        row["clock"] for row in rows(read(events[:1]), "steps")
    }
    assert len(alone) == 1 and alone != on_host


def test_no_secret_leaves_the_reader() -> None:
    """Neither from members nobody asked for, nor from names, annotations, arguments or hosts."""
    reading = read(
        [
            kernel(f"load<{SECRET}>", 1, 2, 1, note=SECRET),
            event("user_annotation", f"HF_TOKEN={SECRET}", 0, 5),
            event("user_annotation", f"Authorization: Bearer {SECRET}", 0, 5),
            kernel(
                "ncclDevKernel_AllGather_RING_LL", 3, 1, 2, **{"Collective name": "x", "Process Group Name": SECRET}
            ),
        ],
        metadata={"env": {"HF_TOKEN": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET}},
        host_name=f"host-{SECRET}",
        run_id=f"token={SECRET}",
        distributedInfo={"rank": 0, "nccl_version": SECRET, "pg_config": [{"pg_name": SECRET, "pg_desc": SECRET}]},
    )
    said = json.dumps([reading.facts, reading.notes, repr(reading.origin)])
    said += "".join(str(each.batch.to_pylist()) for each in reading.rows)
    assert SECRET not in said
    assert SECRET.encode() not in b"".join(to_ipc(each.batch.schema, [each.batch]) for each in reading.rows)


def test_events_that_make_no_sense_are_counted_and_passed_over() -> None:
    """Identifiers beyond 64 bits, names that are no text, times from nowhere: the rest of the trace is read."""
    reading = read(
        [
            kernel("sound", 1, 2, 2**80, 2**70),
            {"ph": "X", "cat": "kernel", "name": 5, "ts": 1, "dur": 1},
            {"ph": "X", "cat": "kernel", "name": "no time"},
            kernel("late", 2**70, 1, 1),
            kernel("args are a list", 5, 1, 1) | {"args": [1]},
            {"ph": "X", "cat": ["kernel"], "name": "odd", "ts": 1, "dur": 1},
            launch(1, 2**90),
            event("user_annotation", "ProfilerStep#99999999999999999999999", 0, 10),
        ],
        baseTimeNanoseconds=2**70,
        distributedInfo={"rank": 2**40, "world_size": "many", "pg_config": [5, {"pg_name": None, "ranks": ["a"]}]},
    )
    assert reading.facts["kernels"] == 1
    assert reading.facts["malformed_events"] == 4
    assert rows(reading, "kernel_clusters")[0]["stream"] is None
    assert (reading.origin.rank, reading.origin.world_size) == (None, None)
    assert any("left out" in note for note in reading.notes)


def test_a_trace_without_gpu_activity_loads_and_says_why_times_are_unknown() -> None:
    """CPU-only ranks are not idle GPUs."""
    reading = read([event("user_annotation", "ProfilerStep#3", 5, 10), event("cpu_op", "aten::add", 6, 2)])
    assert (reading.facts["kernels"], "busy_ns" in reading.facts) == (0, False)
    assert [row["busy_ns"] for row in rows(reading, "steps")] == [None, None]
    assert "no GPU activity was recorded (only cpu_op, user_annotation)" in reading.notes[0]


@pytest.mark.parametrize(
    "head",
    [
        {"traceEvents": [{"ph": "X", "cat": "backward-compute", "args": {"step": 1, "mb_id": 2}}]},
        {"traceEvents": [{"ph": "X", "cat": "sched", "name": "swapper"}]},
        {"pg_config": {}, "entries": []},
        [1, 2, 3],
    ],
)
def test_other_json_is_left_to_others(head: object) -> None:
    """Chrome traces of other tools, operation timelines and dumps are not claimed."""
    assert not Kineto().recognises(memory_input("timeline.json", json.dumps(head).encode()))


def test_a_damaged_trace_is_refused() -> None:
    """One sentence."""
    whole = json.dumps({"deviceProperties": [], "traceEvents": [kernel("a", 1, 2, 3)]}).encode()
    with pytest.raises(Refused, match="ends, or is damaged"):
        Kineto().read(memory_input("trace.json", whole[:-30]))


def write(path: Path, name: str = "a") -> None:
    """A small complete trace."""
    document = {"deviceProperties": [], "traceEvents": [kernel(name, 1, 2, 3)], "distributedInfo": {"rank": 4}}
    path.write_bytes(gzip.compress(json.dumps(document).encode()))


def test_a_watched_folder_gives_each_finished_file_once(tmp_path: Path) -> None:
    """A file that still grows waits; one that was read is not read again; one that was written anew is."""
    source = KinetoFolder(KinetoConfig(directory=str(tmp_path)))
    source.open()
    assert list(source.read()) == []
    trace = tmp_path / "rank4.pt.trace.json.gz"
    write(trace)
    assert list(source.read()) == []
    assert {"steps", "kernel_clusters", "kernel_names"} <= {each.table for each in source.read()}
    assert list(source.read()) == []
    write(trace, "longer name")
    assert list(source.read()) == []
    assert {row["rank"] for each in source.read() if each.table == "steps" for row in each.batch.to_pylist()} == {4}
    source.close()
    source.close()


def test_a_file_that_cannot_be_read_is_told_and_does_not_stop_the_others(tmp_path: Path) -> None:
    """Health names it with the reason; foreign files do not match the pattern or are refused."""
    write(tmp_path / "good.json.gz")
    (tmp_path / "broken.json").write_text('{"deviceProperties": [], "traceEvents": [')
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("hello")
    source = KinetoFolder(KinetoConfig(directory=str(tmp_path)))
    assert list(source.read()) == []
    assert len([each for each in source.read() if each.table == "steps"]) == 1
    assert {Path(each.subject).name: each.state for each in source.health()} == {
        "broken.json": "refused",
        "other.json": "refused",
    }


def test_a_round_reads_a_bounded_number_of_files(tmp_path: Path) -> None:
    """The rest follows in the next round."""
    for index in range(FILES_A_ROUND_MAX + 2):
        write(tmp_path / f"trace{index}.json.gz")
        os.utime(tmp_path / f"trace{index}.json.gz", ns=(index, index))
    source = KinetoFolder(KinetoConfig(directory=str(tmp_path)))
    assert list(source.read()) == []
    counts = [len([each for each in source.read() if each.table == "steps"]) for _ in range(2)]
    assert counts == [FILES_A_ROUND_MAX, 2]


def test_a_source_without_a_folder_says_what_to_do(tmp_path: Path) -> None:
    """Off by default; a missing folder is a state, not an error."""
    for directory in ("", str(tmp_path / "missing")):
        with pytest.raises(Unsupported, match="directory"):
            KinetoFolder(KinetoConfig(directory=directory)).open()
    with pytest.raises(ValueError, match="period_seconds"):
        KinetoConfig(period_seconds=0)


def test_a_watched_folder_gives_its_traces_to_one_job(tmp_path: Path) -> None:
    """The configured name, else the folder's: without a job nothing could be compared between ranks."""
    for job, expected in (("", "run-7"), ("llama", "llama")):
        folder = tmp_path / "run-7"
        folder.mkdir(exist_ok=True)
        write(folder / f"{job}rank4.json.gz", job)
        source = KinetoFolder(KinetoConfig(directory=str(folder), job=job))
        source.open()
        list(source.read())
        rows = [row for each in source.read() if each.table == "steps" for row in each.batch.to_pylist()]
        assert {(row["job"], row["rank"]) for row in rows} == {(expected, 4)}


def test_records_beyond_the_bound_are_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace made to fill the memory is read as far as the bound."""
    monkeypatch.setattr("warpline_agent.parsers.kineto.RECORDS_MAX", 2)
    reading = read([kernel(f"k{index}", index, 1, index) for index in range(5)])
    assert reading.facts["kernels"] == 2
    assert any(note.startswith("3 records") for note in reading.notes)


def test_collectives_beyond_the_bound_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that fell off travel with the rest."""
    monkeypatch.setattr("warpline_agent.timeline.COLLECTIVES_MAX", 2)
    reading = read([kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL()", index, 1, index) for index in range(5)])
    (found,) = [each for each in reading.rows if each.table == "collectives"]
    assert (found.batch.num_rows, found.dropped) == (2, 3)


def test_a_launch_without_a_number_launches_nothing() -> None:
    """-1 beside a launch and no number beside a kernel do not make the one the other's."""
    steps = [event("user_annotation", f"ProfilerStep#{step}", 100 * step, 100) for step in (0, 1)]
    lonely = event("kernel", "k", 150, 10, device=0, stream=7)
    (cluster,) = rows(read([*steps, launch(50, -1), lonely]), "kernel_clusters")
    assert cluster["step"] == 1
