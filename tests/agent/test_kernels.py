"""Kernels: intervals, shares of time, names, steps, digests, and clusters that lose no count and no sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpline_agent import compressor
from warpline_agent.compressor import compress, reconstruction_error
from warpline_agent.kernels import (
    COMMUNICATION,
    COMPUTE,
    MEMCPY,
    MEMSET,
    NAME_CHARS_MAX,
    NO_STEP,
    KernelLog,
    Kernels,
    StepSpan,
    activity,
    by_device,
    categorise,
    digest,
    gaps_ns,
    kernel_id,
    kernel_operation,
    name_rows,
    step_rows,
    steps_at,
    union_ns,
)
from warpline_proto.clusters import Cluster, cluster

Record = tuple[int, int, str, int, int]
"""start, duration, name, device, stream"""


def log(records: Sequence[Record], steps: Sequence[int] | None = None, category: int = COMPUTE) -> Kernels:
    """Kernels from plain records."""
    taken = KernelLog()
    for start, duration, name, device, stream in records:
        taken.append(start, duration, taken.name_id(name, category), device, stream)
    kernels = taken.finish()
    return kernels if steps is None else kernels.with_steps(np.array(steps, dtype=np.int64))


records = st.lists(
    st.tuples(st.integers(0, 300), st.integers(-2, 60), st.sampled_from("abc"), st.integers(0, 1), st.integers(7, 8)),
    max_size=60,
)


@given(records)
def test_a_union_is_what_counting_every_nanosecond_gives(given_records: list[Record]) -> None:
    """Overlaps count once, gaps not at all, records that end before they start cover nothing."""
    kernels = log(given_records)
    covered = {moment for start, duration, *_ in given_records for moment in range(start, start + duration)}
    assert union_ns(kernels.start_ns, kernels.end_ns) == len(covered)


@given(records)
def test_idle_gaps_and_busy_time_add_up_to_the_span(given_records: list[Record]) -> None:
    forward = [(start, max(length, 0), name, device, stream) for start, length, name, device, stream in given_records]
    kernels = log(forward)
    gaps = gaps_ns(kernels.start_ns, kernels.end_ns)
    seen = activity(kernels)
    assert int(gaps.sum()) == (seen.idle_ns or 0)
    assert (gaps > 0).all()
    rows = step_rows(
        kernels.with_steps(np.zeros(len(kernels), np.int64)), [StepSpan(0, 0, 1)], rank=0, clock=None, whole=None
    )
    for row, (_, part) in zip(rows.to_pylist(), by_device(kernels), strict=False):
        assert row["idle_gaps"] == gaps_ns(part.start_ns, part.end_ns).size


def test_launch_gaps_are_of_kernels_whose_launch_is_known_and_null_where_none_is() -> None:
    """One began before its launch returned, which is no wait; copies are left out; nothing is made up."""
    kernels = log([(100, 5, "a", 0, 7), (200, 5, "b", 0, 7), (300, 5, "c", 0, 7), (400, 5, "d", 1, 7)])
    launched = replace(kernels, launched_ns=np.array([60, 203, 0, -1]), category=np.array([0, 1, MEMCPY, 0], np.uint8))
    columns = ("launch_gaps", "launch_gap_sum_ns", "launch_gap_p50_ns", "launch_gap_max_ns")
    for records_of, wanted in ((kernels, [(None,) * 4] * 2), (launched, [(2, 40, 40, 40), (None,) * 4])):
        whole = step_rows(records_of, [], rank=0, clock=None, whole=(0, 500))
        assert [tuple(row[name] for name in columns) for row in whole.to_pylist()] == wanted


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 2**33)), min_size=1, max_size=300),
    st.sampled_from([0, 2**20]),
)
def test_large_groups_are_sorted_as_small_ones_are(pairs: list[tuple[int, int]], far: int) -> None:
    """Whatever way the records are brought in order, groups and their durations are the same."""
    code = np.array([each + far * (each > 1) for each, _ in pairs], dtype=np.int64).repeat(64)
    duration = np.array([duration for _, duration in pairs], dtype=np.int64).repeat(64)
    used, ordered, first, size = compressor._sorted(code, duration)
    assert used.tolist() == sorted(set(code.tolist()))
    for name, start, count in zip(used.tolist(), first.tolist(), size.tolist(), strict=True):
        assert ordered[start : start + count].tolist() == sorted(duration[code == name].tolist())


def test_records_keep_their_launch_when_they_are_moved_or_chosen() -> None:
    kernels = replace(log([(100, 5, "a", 0, 7), (200, 5, "b", 0, 7)]), launched_ns=np.array([60, -1]))
    moved = kernels.moved(1_000).select(np.array([1, 0]))
    assert moved.launched_ns is not None
    assert (moved.start_ns.tolist(), moved.launched_ns.tolist()) == ([1_200, 1_100], [-1, 1_060])


@given(records, st.data())
def test_clusters_keep_count_sum_and_extremes_however_records_are_spread(
    given_records: list[Record], draw: st.DataObject
) -> None:
    """For any partition into steps, streams and names, each group's clusters add up to it exactly."""
    steps = draw.draw(st.lists(st.integers(NO_STEP, 2), min_size=len(given_records), max_size=len(given_records)))
    kernels = log(given_records, steps)
    rows = compress(kernels, rank=3).rows.to_pylist()
    groups: dict[tuple[object, ...], list[int]] = {}
    for (_, duration, name, device, stream), step in zip(given_records, steps, strict=True):
        key = (device, None if step == NO_STEP else step, stream, kernel_id(name))
        groups.setdefault(key, []).append(duration)
    found: dict[tuple[object, ...], list[Cluster]] = {}
    for row in rows:
        piece = Cluster.of(row)
        found.setdefault((row["device"], row["step"], row["stream"], row["kernel_id"]), []).append(piece)
    assert found == {key: cluster(np.array(durations, dtype=np.int64)) for key, durations in groups.items()}
    assert sum(row["sum_ns"] for row in rows) == sum(duration for _, duration, *_ in given_records)


def test_two_modes_of_one_kernel_stay_two_clusters() -> None:
    """Small and large all-gathers of one name are told apart; what the code loses is small and stated."""
    generator = np.random.default_rng(1)
    durations = np.concatenate([generator.normal(10_000, 300, 400), generator.normal(900_000, 9_000, 100)]).astype(int)
    kernels = log(
        [(index * 10, int(each), "ncclDevKernel_AllGather_RING_LL", 0, 7) for index, each in enumerate(durations)]
    )
    rows = compress(kernels).rows
    assert rows.num_rows == 2
    assert rows.column("count").to_pylist() == [400, 100]
    assert rows.column("category").to_pylist() == ["communication"] * 2
    assert reconstruction_error(durations, cluster(durations)) < 0.01


def test_detail_falls_before_anything_is_dropped_and_says_so() -> None:
    """Two modes of one kernel are two rows, or under pressure one, with the same count, sum and distance."""
    durations = [1_000 + index for index in range(20)] + [9_000 + index for index in range(20)]
    kernels = log([(index * 10_000, each, "gemm", 0, 7) for index, each in enumerate(durations)])
    assert compress(kernels).rows.column("grade").to_pylist() == ["clusters"] * 2
    (row,) = compress(kernels, step_rows_max=1).rows.to_pylist()
    assert (row["grade"], row["count"], row["sum_ns"]) == ("kernels", 40, sum(durations))
    assert reconstruction_error(np.array(durations), [Cluster.of(row)]) < 0.02


def test_rows_beyond_the_bound_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of distinct kernels costs a bounded number of rows, and says what it lost."""
    monkeypatch.setattr("warpline_agent.compressor.ROWS_MAX", 3)
    done = compress(log([(index, 5, f"kernel{index}", 0, 7) for index in range(10)]))
    assert (done.rows.num_rows, done.dropped, done.records) == (3, 7, 10)


def test_rows_of_a_step_share_its_window() -> None:
    """The window is that of all activity of the step, not of one kernel."""
    kernels = log([(0, 5, "a", 0, 7), (20, 5, "b", 0, 8), (50, 5, "a", 0, 7)], [1, 1, 2])
    rows = compress(kernels).rows.to_pylist()
    assert {(row["step"], row["start_ns"], row["end_ns"]) for row in rows} == {(1, 0, 25), (2, 50, 55)}


def test_time_is_shared_out_as_the_steps_table_says() -> None:
    """Exposed communication is covered by no other kernel; copies do not hide it."""
    compute = log([(0, 10, "gemm", 0, 7)])
    taken = KernelLog()
    for start, duration, name, category in [
        (0, 10, "gemm", COMPUTE),
        (5, 15, "ncclDevKernel_AllReduce_Sum_f32_RING_LL", COMPUTE),
        (18, 6, "Memcpy DtoD", MEMCPY),
        (30, 2, "Memset", MEMSET),
    ]:
        taken.append(start, duration, taken.name_id(name, category), 0, 7)
    seen = activity(taken.finish())
    assert (seen.span_ns, seen.busy_ns, seen.idle_ns) == (32, 26, 6)
    assert (seen.compute_ns, seen.communication_ns, seen.exposed_communication_ns, seen.memcpy_ns) == (10, 15, 10, 8)
    assert activity(compute).exposed_communication_ns == 0
    nothing = activity(KernelLog().finish())
    assert (nothing.span_ns, nothing.idle_ns, nothing.busy_ns) == (None, None, 0)


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm*, unsigned long, ncclWork*)", "all_reduce"),
        ("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "reduce_scatter"),
        ("ncclDevKernel_Generic(ncclDevKernelArgsStorage<4096ul>)", None),
        ("mscclKernel_Sum_half_Simple_false(ncclDevComm*, mscclAlgo*)", None),
        ("void vllm::cross_device_reduce_1stage<__nv_bfloat16, 8>(vllm::RankData*, int)", "all_reduce"),
        ("void sglang::one_shot_all_reduce_kernel<c10::BFloat16>(...)", "all_reduce"),
        ("void (anonymous namespace)::multimem_all_reduce_kernel<c10::BFloat16, 16>(...)", "all_reduce"),
        ("void flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_oneshot_lamport<1>(...)", "all_reduce"),
        ("nvshmemi_barrier_on_stream_kernel(int)", None),
    ],
)
def test_communication_is_known_by_its_kernel_name(name: str, operation: str | None) -> None:
    """NCCL, RCCL, MSCCL, NVSHMEM and the custom all-reduces of serving engines."""
    assert categorise(name) == COMMUNICATION
    assert kernel_operation(name) == operation


@pytest.mark.parametrize(
    "name",
    [
        "void at::native::reduce_kernel<512, 1>(at::native::ReduceOp<float>)",
        "void oneflow::softmax_block<BlockAllReduce<float>>(float*)",
        "void at::native::_scatter_gather_elementwise_kernel<128, 8>(int)",
        "void cub::DeviceReduceKernel<int>()",
        "ampere_sgemm_32x32_sliced1x4_tn",
    ],
)
def test_reductions_within_a_gpu_are_computation(name: str) -> None:
    """A kernel that reduces or gathers on its own GPU does not communicate."""
    assert categorise(name) == COMPUTE


def test_a_moment_belongs_to_the_step_that_holds_it() -> None:
    """Before, between and after steps there is no step; the end is no part of a step."""
    spans = [StepSpan(4, 10, 10), StepSpan(5, 25, 5)]
    times = np.array([0, 10, 19, 20, 24, 25, 30], dtype=np.int64)
    assert steps_at(times, spans).tolist() == [-1, 4, 4, -1, -1, 5, -1]
    assert steps_at(times, []).tolist() == [-1] * 7


def test_a_step_in_which_nothing_ran_is_a_zero_but_an_unwatched_gpu_is_unknown() -> None:
    """A zero is measured; without GPU activity in the trace the columns are NULL."""
    spans = [StepSpan(1, 0, 10), StepSpan(2, 10, 10, data_wait_ns=3)]
    rows = step_rows(log([(2, 5, "a", 0, 7)], [1]), spans, rank=6, clock="c", whole=(0, 20)).to_pylist()
    assert [(row["scope"], row["step"], row["busy_ns"], row["span_ns"], row["kernels"]) for row in rows] == [
        ("trace", None, 5, 5, 1),
        ("step", 1, 5, 5, 1),
        ("step", 2, 0, None, 0),
    ]
    assert rows[2]["data_wait_ns"] == 3 and rows[1]["data_wait_ns"] is None
    unknown = step_rows(KernelLog().finish(), spans, rank=None, clock=None, whole=None).to_pylist()
    assert [(row["duration_ns"], row["busy_ns"], row["kernels"]) for row in unknown] == [(10, None, None)] * 2


def test_names_are_scrubbed_cut_and_named_once() -> None:
    """A secret in a kernel name does not leave, a name of any length does not fill memory, nor does a broken one break."""
    secret = "hf_" + "a" * 30
    kernels = log([(5, 1, f"load<{secret}>()", 0, 7), (3, 1, "x" * 9000, 0, 7), (4, 1, "bad\ud800name", 0, 7)])
    rows = name_rows(kernels).to_pylist()
    assert not any(secret in row["name"] for row in rows)
    assert [len(row["name"]) <= NAME_CHARS_MAX for row in rows] == [True] * 3
    assert {row["name"]: row["time_ns"] for row in rows}["x" * NAME_CHARS_MAX] == 3
    assert all(row["kernel_id"] == kernel_id(row["name"]) >= 0 for row in rows)


def test_a_value_that_does_not_fit_leaves_no_half_record() -> None:
    """OverflowError, and the records before stay whole."""
    taken = KernelLog()
    taken.append(1, 1, taken.name_id("a", COMPUTE), 0, 7)
    with pytest.raises(OverflowError):
        taken.append(2, 1, 0, 0, 2**70)
    assert len(taken) == 1 and len(taken.finish()) == 1


def test_one_run_has_one_digest_whatever_names_a_tool_writes() -> None:
    """Shifted in time and renamed it is the same data; another duration is not; few kernels prove nothing by themselves."""
    long = [(index * 7, 3 + index % 5, f"a{index}", 0, 7) for index in range(20)]
    renamed = [(start + 1000, duration, "b", 1, 0) for start, duration, *_ in long]
    changed = [*long[:-1], (133, 99, "a19", 0, 7)]
    assert digest(log(long)) == digest(log(renamed)) != digest(log(changed))
    assert digest(log(long[:3])) != digest(log(renamed[:3]))
    assert digest(log([])) is None


def test_names_beyond_the_bound_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording in which every kernel has a name of its own does not fill the memory; times stay exact."""
    monkeypatch.setattr("warpline_agent.kernels.NAMES_MAX", 2)
    kernels = log([(index, 1, f"kernel {index}" + "x" * 10_000, 0, 7) for index in range(5)])
    assert len(kernels.names) == 3
    assert max(map(len, kernels.names)) <= NAME_CHARS_MAX
    assert [len(kernels.select(kernels.name_id == each)) for each in range(3)] == [1, 1, 3]
