"""Collectives carry one name, one size and one bandwidth, whoever speaks of them."""

from __future__ import annotations

import pytest

from warpline_agent.parsers import nccl


@pytest.mark.parametrize(
    ("spelling", "operation"),
    [
        ("AllReduce", "all_reduce"),
        ("allreduce", "all_reduce"),
        ("nccl:all_reduce", "all_reduce"),
        ("nccl:all_reduce_barrier", "all_reduce"),
        ("allreduce_coalesced", "all_reduce"),
        ("c10d::allreduce_", "all_reduce"),
        ("_allgather_base", "all_gather"),
        ("nccl:_all_gather_base", "all_gather"),
        ("all_gather_into_tensor_coalesced", "all_gather"),
        ("allgather_into_tensor_coalesced", "all_gather"),
        ("_reduce_scatter_base", "reduce_scatter"),
        ("reduce_scatter_tensor", "reduce_scatter"),
        ("ReduceScatter", "reduce_scatter"),
        ("all_to_allv", "all_to_all"),
        ("nccl:all_to_all", "all_to_all"),
        ("AlltoAll", "all_to_all"),
        ("alltoall_base", "all_to_all"),
        ("Broadcast", "broadcast"),
        ("_broadcast_oop", "broadcast"),
        ("Bcast", "broadcast"),
        ("Reduce", "reduce"),
        ("Gather", "gather"),
        ("Scatter", "scatter"),
        ("nccl:send 3->4", "send"),
        ("nccl:recv 4<-3", "recv"),
        ("SendRecv", "send_recv"),
        ("barrier", "barrier"),
        ("all_reduce_perf", "all_reduce"),
        ("wait", None),
        ("reduce_kernel", None),
        ("", None),
        ("ncclAllReduce", "all_reduce"),
        ("ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "all_gather"),
        ("ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(ncclDevComm*, unsigned long, ncclWork*)", "send_recv"),
    ],
)
def test_an_operation_has_one_name_in_every_spelling(spelling: str, operation: str | None) -> None:
    assert nccl.operation(spelling) == operation


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
            ("all_reduce", "ring", "ll", "sum", "float32"),
        ),
        (
            "ncclKernel_AllReduce_TREE_LL128_Sum_half(ncclDevComm*, unsigned long, ncclWork*)",
            ("all_reduce", "tree", "ll128", "sum", "float16"),
        ),
        (
            "ncclKernel_ReduceScatter_RING_SIMPLE_Sum___nv_bfloat16(ncclWorkElem)",
            ("reduce_scatter", "ring", "simple", "sum", "bfloat16"),
        ),
        ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", ("send_recv", None, None, None, None)),
        ("void ncclAllReduceRingLLKernel_sum_f32(ncclColl)", ("all_reduce", None, None, "sum", "float32")),
        ("ncclDevKernel_Generic_4(ncclDevKernelArgsStorage<4096ul>)", (None, None, None, None, None)),
        (
            "ncclSymkDevKernel_AllReduce_AGxLL_R_Sum_bf16(ncclSymkDevWorkArgs)",
            ("all_reduce", None, None, "sum", "bfloat16"),
        ),
        (
            "ncclDevKernel_AllReduce_Sum_f8e4m3_NVLS_TREE_SIMPLE()",
            ("all_reduce", "nvls_tree", "simple", "sum", "float8e4m3"),
        ),
    ],
)
def test_a_kernel_name_tells_what_it_serves(name: str, parts: tuple[str | None, ...]) -> None:
    assert nccl.is_kernel(name)
    assert tuple(nccl.kernel(name)) == parts


@pytest.mark.parametrize(
    "name", ["void at::native::reduce_kernel<512, 1>()", "ncclGroupEnd", "gather_kernel", "Memcpy DtoD"]
)
def test_other_kernels_are_not_taken_for_communication(name: str) -> None:
    assert not nccl.is_kernel(name)


def test_types_and_reductions_are_known_by_code_and_by_name() -> None:
    assert [nccl.datatype(code) for code in (0, 7, 9, 11, 12, -1)] == [
        "int8",
        "float32",
        "bfloat16",
        "float8e5m2",
        None,
        None,
    ]
    names = ("ncclFloat16", "BFloat16", "half", "torch.float32", "Float8_e4m3fn", "Long", "f8e5m2", "complex")
    assert [nccl.datatype(name) for name in names] == [
        "float16",
        "bfloat16",
        "float16",
        "float32",
        "float8e4m3",
        "int64",
        "float8e5m2",
        None,
    ]
    assert [nccl.reduction(value) for value in (0, 4, 5, "ncclSum", "RedOpType.AVG", "PRODUCT", "none")] == [
        "sum",
        "avg",
        None,
        "sum",
        "avg",
        "prod",
        None,
    ]


def test_sizes_and_bus_bandwidth_follow_nccl_tests() -> None:
    assert nccl.message_bytes("all_reduce", 347146, "float32", 2) == 347146 * 4
    assert nccl.message_bytes("all_gather", 1000, "bfloat16", 8) == 16000
    assert nccl.message_bytes("all_gather", 1000, "bfloat16", None) is None
    assert nccl.message_bytes("send", 10, None, 8) is None
    assert nccl.bus_factor("all_reduce", 16) == pytest.approx(1.875)
    assert nccl.bus_factor("reduce_scatter", 16) == pytest.approx(0.9375)
    assert nccl.bus_factor("broadcast", None) == 1.0
    assert nccl.bus_factor("all_reduce", None) is None
    algorithm, bus = nccl.bandwidths("all_reduce", 2_000_000, 1000.0, 16)
    assert algorithm == pytest.approx(2e12)
    assert bus == pytest.approx(3.75e12)
    assert nccl.bandwidths("all_reduce", 2_000_000, None, 16) == (None, None)
