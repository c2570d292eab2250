"""Recorded PyTorch traces: every fact of the catalogue, the publishers' own timelines, and the eight ranks of one job."""

from __future__ import annotations

import csv
import functools
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warpline_agent.kernels import COMPUTE, MEMCPY, MEMSET, union_ns
from warpline_agent.parsers.kineto import read_trace
from warpline_agent.recordings.archive import Limits, file_input
from warpline_agent.source import Reading, memory_input
from warpline_agent.sources.kineto import Kineto

pytestmark = pytest.mark.data

TRACES = (
    "hta/amd_mi250_minitoy.json.gz",
    "hta/critical_path_alexnet.json.gz",
    "hta/critical_path_simple_add.json.gz",
    "hta/cuda_event_sync.json.gz",
    "hta/df_index_resolver_2rank_v100_rank1.json.gz",
    "hta/nccl_data_2rank_a100_rank0.json.gz",
    "hta/ns_resolution_rank-0.pt.trace.json.gz",
    "hta/rank_non_gpu.json.gz",
    "hta/step_based_gpu_user_annotation.json.gz",
    "hta/trace_diff_control_rank3of8_a100.json.gz",
    "kineto/resnet50_num_workers_0.pt.trace.json.gz",
    "kineto/resnet50_num_workers_0_later.pt.trace.json.gz",
    "kineto/resnet50_num_workers_4.pt.trace.json.gz",
    "kineto/resnet50_num_workers_4_later.pt.trace.json.gz",
    "param/resnet_rtx2080ti.json.gz",
    "tracelens/b200_vllm_eager_rank0of8.json.gz",
    "tracelens/h100_Qwen_Qwen1_5-0_5B-Chat__1016005.json.gz",
    "tracelens/h100_facebook_timesformer-base-finetuned-k400__1016002.json.gz",
    "tracelens/h100_gaunernst_bert-small-uncased__1016001.json.gz",
    "tracelens/h100_google_owlv2-large-patch14-ensemble__1016001.json.gz",
    "tracelens/mi300_Qwen_Qwen1_5-0_5B-Chat__1016005.json.gz",
    "tracelens/mi300_facebook_timesformer-base-finetuned-k400__1016002.json.gz",
    "tracelens/mi300_google_owlv2-large-patch14-ensemble__1016001.json.gz",
    "tracelens/mi300_resnet_act_checkpoint_rank0of8.json.gz",
    "tracelens/sglang_Qwen3-8B_prefilldecode.json.gz",
)
TIMELINES = (
    "tracelens/h100_facebook_timesformer-base-finetuned-k400__1016002.json.gz",
    "tracelens/h100_gaunernst_bert-small-uncased__1016001.json.gz",
    "tracelens/h100_google_owlv2-large-patch14-ensemble__1016001.json.gz",
    "tracelens/mi300_facebook_timesformer-base-finetuned-k400__1016002.json.gz",
    "tracelens/mi300_google_owlv2-large-patch14-ensemble__1016001.json.gz",
    "tracelens/sglang_Qwen3-8B_prefilldecode.json.gz",
)
DLRM = "param/dlrm_8rank_v100.tar.gz"
FLOAT_STEPS_US = {"hta/ns_resolution_rank-0.pt.trace.json.gz": 10.0}
"""The catalogue was counted in floats: times since the epoch come in quarters of a microsecond there, and add up."""


@functools.cache
def reading(data: Path, name: str) -> Reading:
    """One trace, read once for all tests; cached because the large ones take most of a second."""
    file = data / "A-kineto" / name
    candidate = file_input(file, str(file), Limits())
    assert Kineto().recognises(candidate)
    return Kineto().read(candidate)


@functools.cache
def catalogue(data: Path) -> dict[str, Any]:
    """The catalogue's facts by file, below A-kineto."""
    entries = json.loads((data / "MANIFEST.json").read_text())
    prefix = "A-kineto/"
    return {e["file"].removeprefix(prefix): e.get("facts") for e in entries if e["file"].startswith(prefix)}


@functools.cache
def workers(data: Path) -> dict[str, Reading]:
    """The eight ranks of the DLRM job by file name."""
    with tarfile.open(data / "A-kineto" / DLRM) as archive:
        members = [(each.name, archive.extractfile(each)) for each in archive.getmembers() if each.isfile()]
        return {
            name.rsplit("/", 1)[-1]: Kineto().read(memory_input(name, stream.read()))
            for name, stream in members
            if stream
        }


def rows(read: Reading, table: str) -> list[dict[str, Any]]:
    """All rows of one table."""
    return [row for each in read.rows if each.table == table for row in each.batch.to_pylist()]


def agree(read: Reading, expected: dict[str, Any], tolerance_us: float) -> None:
    """Counts are equal; times agree to the printed precision."""
    facts = read.facts
    assert facts["events"] == expected["n_events"]
    assert facts["kernels"] == expected.get("n_kernels", 0)
    if not facts["kernels"]:
        return
    assert facts["kernel_sum_ns"] / 1000 == pytest.approx(expected["sum_kernel_dur_us"], abs=0.001)
    assert facts["span_ns"] / 1000 == pytest.approx(expected["gpu_span_us"], abs=tolerance_us)
    assert facts["busy_ns"] / 1000 == pytest.approx(expected["gpu_busy_union_us"], abs=tolerance_us)
    assert 100 * facts["idle_ns"] / facts["span_ns"] == pytest.approx(expected["gpu_idle_pct"], abs=0.0025)
    assert facts["nccl_kernels"] == expected["n_nccl_kernels"]
    assert facts["nccl_sum_ns"] / 1000 == pytest.approx(expected["sum_nccl_dur_us"], abs=0.001)
    if "exposed_comm_us" in expected:
        assert facts["nccl_exposed_ns"] / 1000 == pytest.approx(expected["exposed_comm_us"], abs=tolerance_us)


@pytest.mark.parametrize("name", TRACES)
def test_counts_and_times_are_those_of_the_catalogue(name: str, data: Path) -> None:
    """Events, kernels, sums, spans, busy and idle time, NCCL kernels and their exposed time, devices, ranks."""
    read, expected = reading(data, name), catalogue(data)[name]
    agree(read, expected, FLOAT_STEPS_US.get(name, 0.1))
    if read.facts["kernels"]:
        assert read.facts["gpu_activities"] == expected["n_gpu"]
        assert read.facts["activities_without_duration"] == expected["neg_or_zero_dur_gpu"]
    assert read.facts["gpu_names"] == expected.get("devices", {})
    info = expected.get("distributedInfo") or {}
    assert (read.origin.rank, read.origin.world_size) == (info.get("rank"), info.get("world_size"))


@pytest.mark.parametrize("name", TRACES)
def test_steps_last_as_long_as_the_catalogue_says(name: str, data: Path) -> None:
    """One row for each ProfilerStep, exact; and one row for the whole trace."""
    read = reading(data, name)
    steps = [row for row in rows(read, "steps") if row["scope"] == "step"]
    expected = catalogue(data)[name].get("step_dur_us", [])
    assert [row["duration_ns"] for row in steps] == [round(each * 1000) for each in expected]
    assert len([row for row in rows(read, "steps") if row["scope"] == "trace"]) == 1


@pytest.mark.parametrize("name", TRACES)
def test_clusters_lose_no_kernel_and_no_nanosecond(name: str, data: Path) -> None:
    """Counts and sums over all clusters are those of the trace; each cluster's kernel has a name."""
    read = reading(data, name)
    clusters = rows(read, "kernel_clusters")
    kernels = [row for row in clusters if row["category"] in ("compute", "communication")]
    assert sum(row["count"] for row in kernels) == read.facts["kernels"]
    assert sum(row["sum_ns"] for row in kernels) == read.facts.get("kernel_sum_ns", 0)
    assert {row["kernel_id"] for row in clusters} == {row["kernel_id"] for row in rows(read, "kernel_names")}


@pytest.mark.parametrize("name", TIMELINES)
def test_the_publishers_own_timeline_is_matched(name: str, data: Path) -> None:
    """Busy, idle, total, communication and copies of their report. They count memory sets as computation; we do not."""
    report = data / "A-kineto" / name.replace(".json.gz", ".gpu_timeline.csv")
    published = {row["type"]: float(row["time ms"]) * 1e6 for row in csv.DictReader(report.read_text().splitlines())}
    file = data / "A-kineto" / name
    with file_input(file, str(file), Limits()).open() as stream:
        kernels = read_trace(stream).kernels
    start, end = kernels.start_ns, kernels.end_ns
    computed = (kernels.category == COMPUTE) | (kernels.category == MEMSET)
    copied = kernels.category == MEMCPY
    facts, near = reading(data, name).facts, functools.partial(pytest.approx, abs=300)
    assert facts["busy_ns"] == near(published["busy_time"])
    assert facts["idle_ns"] == near(published["idle_time"])
    assert facts["span_ns"] == near(published["total_time"])
    assert facts["communication_ns"] == near(published["total_comm_time"])
    assert union_ns(start[computed], end[computed]) == near(published["computation_time"])
    assert union_ns(start[copied], end[copied]) == near(published["total_memcpy_time"])


def test_eight_ranks_of_one_step_agree_with_the_catalogue(data: Path) -> None:
    """Each worker's totals, rank and world size; written together."""
    facts = catalogue(data)[DLRM]
    read = workers(data)
    assert len(read) == 8
    for name, each in read.items():
        agree(each, facts[name], 0.001)
        assert (each.origin.rank, each.origin.world_size) == (int(name[6]), 8)
        step = next(row for row in rows(each, "steps") if row["scope"] == "step")
        assert (step["step"], [step["duration_ns"] / 1000]) == (10, facts[name]["step_dur_us"])
        assert step["exposed_communication_ns"] == each.facts["nccl_exposed_ns"]
    assert {each.origin.sibling for each in read.values()} == {"worker*_step_12.pt.trace.json"}
    assert len({each.origin.content for each in read.values()}) == 8


# operation, start after rank 0's and duration by rank, µs; and the last to arrive (catalogue, "DLRM, 8 ranks")
ARRIVALS = (
    ("send_recv", (0, -5489, 1627, -3987, -2737, -2534, 1630, 2135), (2146, 7635, 518, 6132, 4882, 4679, 514, 10), 7),
    ("send_recv", (0, 7, 515, 9, -77, -29, 512, 1024), (1032, 1025, 517, 1021, 1108, 1060, 520, 8), 7),
    ("send_recv", (0, 6, 3, 1, 5, 0, 0, 168), (176, 169, 173, 174, 170, 175, 175, 7), 7),
    ("send_recv", (0, 0, 0, -1, 0, -1, -1, 124), (131, 132, 131, 133, 132, 132, 131, 7), 7),
    ("all_reduce", (0, -64, 43, -49, 150, 147, 32, 159), (246, 307, 198, 291, 95, 96, 213, 86), 7),
    ("send_recv", (0, -31, 45, -30, 451, 503, 28, 155), (514, 545, 468, 542, 61, 10, 483, 357), 5),
    ("all_reduce", (0, -1, 28, -2, 533, 582, 3, 134), (601, 601, 572, 602, 70, 20, 602, 468), 5),
    ("all_reduce", (0, 27, 39, 68, 885, 871, 34, 147), (952, 922, 915, 879, 69, 79, 920, 803), 4),
)


def test_collectives_line_up_across_ranks(data: Path) -> None:
    """The same number is the same operation on every rank: starts, durations and the last to arrive as catalogued."""
    by_rank = {read.origin.rank: rows(read, "collectives") for read in workers(data).values()}
    assert sorted(rank for rank in by_rank if rank is not None) == list(range(8))
    for sequence, (operation, offsets, durations, last) in enumerate(ARRIVALS):
        same = [by_rank[rank][sequence] for rank in range(8)]
        assert {row["sequence"] for row in same} == {sequence}
        assert {row["operation"] for row in same} == {operation}
        assert {row["step"] for row in same} == {10}
        assert tuple((row["start_ns"] - same[0]["start_ns"]) // 1000 for row in same) == offsets
        assert tuple(row["duration_ns"] // 1000 for row in same) == durations
        assert int(np.argmin([row["duration_ns"] for row in same])) == last


def test_collectives_carry_their_process_group(data: Path) -> None:
    """21 NCCL kernels, the first launched an all-reduce of 2,049,000 floats on the default group of ranks 0 and 1."""
    read = reading(data, "hta/nccl_data_2rank_a100_rank0.json.gz")
    collectives = rows(read, "collectives")
    assert len(collectives) == 21
    first = next(row for row in collectives if row["operation"] == "all_reduce")
    assert (first["elements"], first["datatype"], first["message_bytes"]) == (2_049_000, "float32", 8_196_000)
    assert (first["communicator"], first["group_name"], first["nranks"]) == ("0[0-1]", "default_pg", 2)
    group = rows(read, "communicators")[0]
    assert (group["ranks"], group["group_kind"], group["communicator_rank"]) == ([0, 1], "world", 0)
    assert group["library_version"] == "2.17.1"


def test_the_optimizer_is_a_phase_and_the_host_names_the_clock(data: Path) -> None:
    """Annotations of the optimizer are the host's: its kernels run later. A trace that names its host has that host's clock."""
    read = reading(data, "hta/ns_resolution_rank-0.pt.trace.json.gz")
    phases = rows(read, "phases")
    assert {row["phase"] for row in phases if row["kind"] == "host" and "Optimizer" in row["phase"]} == {
        "Optimizer.step#SGD.step",
        "Optimizer.zero_grad#SGD.zero_grad",
    }
    assert read.origin.node == "twshared39868.02.pnb3.facebook.com"
    assert {row["clock"] for row in rows(read, "steps")} == {"trace@twshared39868.02.pnb3.facebook.com"}


def test_a_starved_gpu_is_seen_in_idle_time_and_in_waits_for_data(data: Path) -> None:
    """Without loader workers the GPU idles more and steps wait for data."""
    starved = reading(data, "kineto/resnet50_num_workers_0.pt.trace.json.gz")
    fed = reading(data, "kineto/resnet50_num_workers_4.pt.trace.json.gz")
    waits = [sum(row["data_wait_ns"] or 0 for row in rows(read, "steps")) for read in (starved, fed)]
    assert waits[0] > 3 * waits[1] > 0
    assert starved.facts["idle_ns"] > fed.facts["idle_ns"]


def test_custom_all_reduces_of_serving_engines_are_communication(data: Path) -> None:
    """73 multimem all-reduces beside the one NCCL kernel."""
    facts = reading(data, "tracelens/b200_vllm_eager_rank0of8.json.gz").facts
    assert (facts["communication_kernels"], facts["nccl_kernels"]) == (74, 1)


def test_added_counters_do_not_change_what_was_measured(data: Path) -> None:
    """Two files of one trace, the second with efficiency counters, are the same data."""
    first, second = (reading(data, f"kineto/gpu_metrics_{name}.json.gz") for name in ("input", "expected"))
    assert first.origin.content == second.origin.content is not None
    assert (first.facts["kernels"], first.facts["events"], second.facts["events"]) == (30, 340, 418)


@pytest.mark.parametrize("name", [name for name in TRACES if name.startswith("tracelens/")])
def test_tokens_in_recorded_metadata_do_not_leave(name: str, data: Path) -> None:
    """The published traces carry an access token beside the events."""
    read = reading(data, name)
    said = json.dumps([read.facts, read.notes, repr(read.origin)]) + str([each.batch.to_pylist() for each in read.rows])
    assert "hf_" not in said and "XXXXXXXX" not in said and "TOKEN" not in said


def test_the_first_all_reduce_of_two_ranks_is_that_of_the_publisher(data: Path) -> None:
    """2,049,000 elements of four bytes on group 0 of ranks 0 and 1; 21 operations of NCCL in all."""
    found = rows(reading(data, "hta/nccl_data_2rank_a100_rank0.json.gz"), "collectives")
    assert len(found) == 21
    first = min((row for row in found if row["operation"] == "all_reduce"), key=lambda row: row["start_ns"])
    assert (first["operation"], first["elements"], first["nranks"]) == ("all_reduce", 2_049_000, 2)
    assert (first["communicator"], first["group_name"], first["communicator_rank"]) == ("0[0-1]", "default_pg", 0)
    assert first["message_bytes"] == 2_049_000 * 4


@pytest.mark.parametrize("name", ["tracelens/b200_vllm_eager_rank0of8.json.gz", "hta/critical_path_alexnet.json.gz"])
def test_launch_gaps_are_those_of_the_events_themselves(data: Path, name: str) -> None:
    """Counted here from launch and kernel events with one correlation number."""
    path = data / "A-kineto" / name
    events = json.load(file_input(path, name, Limits()).open())["traceEvents"]
    done = [event for event in events if event.get("ph") == "X" and "correlation" in (event.get("args") or {})]
    returned = {
        event["args"]["correlation"]: event["ts"] + event["dur"]
        for event in done
        if event["cat"] in ("cuda_runtime", "cuda_driver", "Runtime")
    }
    waits = [
        max(event["ts"] - returned[event["args"]["correlation"]], 0)
        for event in done
        if event["cat"] in ("kernel", "Kernel") and event["args"]["correlation"] in returned
    ]
    with file_input(path, name, Limits()).open() as stream:
        reading = Kineto().read(memory_input(name, stream.read()))
    (whole,) = (
        row
        for each in reading.rows
        if each.table == "steps"
        for row in each.batch.to_pylist()
        if row["scope"] == "trace"
    )
    assert whole["launch_gaps"] == len(waits) > 50
    assert whole["launch_gap_sum_ns"] == pytest.approx(sum(waits) * 1e3, rel=1e-6)
    assert whole["launch_gap_max_ns"] == pytest.approx(max(waits) * 1e3, abs=1)
