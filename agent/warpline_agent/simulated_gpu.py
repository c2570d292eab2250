"""What GPUs of a made-up job would show: the kernels of one rank's step, and readings as NVML gives them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from .kernels import COMPUTE, KernelLog, Kernels
from .simulation import Step

LAYERS: Final = 8
COMPUTE_STREAM: Final = 7
COMMUNICATION_STREAM: Final = 20
EXCHANGE_STREAM: Final = 24
OCCUPIED: Final = 0.97
"""Share of a compute phase that its kernels fill; the rest are gaps between launches."""
_MATMUL: Final = (
    "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel"
)
_ATTENTION: Final = "flash_{}_kernel<Flash_{}_kernel_traits<128, 128, 64, 8>>"
_NORM: Final = "void rmsnorm_{}_kernel<__nv_bfloat16, float>(long, float, __nv_bfloat16 const*)"
_ADAM: Final = "void multi_tensor_apply_kernel<TensorListMetadata<4>, AdamFunctor<float>>(long, int volatile*)"
_REDUCE: Final = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL128(ncclDevKernelArgsStorage<4096ul>)"
_EXCHANGE: Final = "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)"
_MIX: Final = {
    "forward": ((_MATMUL, 0.72), (_ATTENTION.format("fwd", "fwd"), 0.22), (_NORM.format("fwd"), 0.06)),
    "backward": ((_MATMUL, 0.68), (_ATTENTION.format("bwd", "bwd"), 0.26), (_NORM.format("bwd"), 0.06)),
    "optimizer": ((_ADAM, 1.0),),
}
"""Kernels of one layer of each phase and their shares of its time."""
KERNEL_NOISE: Final = 0.01

POWER_LIMIT_WATTS: Final = 700.0
RESIDENT_WATTS: Final = 128.0
"""A GPU with a program resident, clocks up and nothing running; without a program it would draw some 70 W."""
COMPUTE_WATTS: Final = 510.0
SPIN_WATTS: Final = 90.0
"""What full computing and full waiting in a communication kernel add to it."""
SERVING_WATTS: Final = 290.0
IDLE_SECONDS: Final = 50
BUSY_SECONDS: Final = 6
"""An idle serving GPU: so long without a request, then so long with some."""
CLOCK_MHZ: Final = 1980.0
MEMORY_CLOCK_MHZ: Final = 2619.0
MEMORY_BYTES: Final = 80 * 1024**3


def kernels(step: Step, rank: int, offset_ns: int, random: np.random.Generator) -> Kernels:
    """Everything that ran on one rank's GPU in one step, times on a clock that is `offset_ns` ahead."""
    log = KernelLog()
    spans = {
        "forward": (step.forward_start_ns[rank], step.forward_ns[rank]),
        "backward": (step.backward_start_ns[rank], step.backward_ns[rank]),
        "optimizer": (step.optimizer_start_ns[rank], step.optimizer_ns[rank]),
    }
    for phase, (start_ns, duration_ns) in spans.items():
        _fill(log, phase, int(start_ns), int(duration_ns), random)
    if step.stages > 1:
        _wait_for_pipeline(log, step, rank)
    name = log.name_id(_REDUCE, COMPUTE)
    for collective in step.collectives:
        if rank in collective.ranks:
            place = collective.ranks.index(rank)
            log.append(
                int(collective.start_ns[place]), int(collective.duration_ns[place]), name, -1, COMMUNICATION_STREAM
            )
    found = log.finish(offset_ns)
    return found.with_steps(np.full(len(found), step.number, dtype=np.int64))


def training_reading(computing: float, random: np.random.Generator) -> dict[str, Any]:
    """One reading of a training GPU that spends this share of its time computing and the rest waiting for others."""
    waiting = 1.0 - computing
    return {
        "power_watts": RESIDENT_WATTS + COMPUTE_WATTS * computing + SPIN_WATTS * waiting + random.normal(0.0, 4.0),
        "gpu_utilization_percent": 100.0,
        "memory_utilization_percent": round(62.0 * computing, 1),
        "sm_active_percent": round(86.0 * computing + 12.0 * waiting, 1),
        "tensor_active_percent": round(48.0 * computing, 1),
        "dram_active_percent": round(44.0 * computing + 3.0 * waiting, 1),
        "pcie_tx_bytes_per_second": 1.1e9 * float(random.uniform(0.9, 1.1)),
        "pcie_rx_bytes_per_second": 1.6e9 * float(random.uniform(0.9, 1.1)),
        "nvlink_tx_bytes_per_second": 6.0e9 * float(random.uniform(0.9, 1.1)),
        "nvlink_rx_bytes_per_second": 6.0e9 * float(random.uniform(0.9, 1.1)),
        "temperature_celsius": round(44.0 + 24.0 * computing, 1),
        "memory_used_bytes": 71 * 1024**3,
    } | _BOARD


def serving_reading(second: int, idle_from: int | None, random: np.random.Generator) -> dict[str, Any]:
    """One reading of a GPU that serves requests; from `idle_from` on it mostly waits for them with everything resident."""
    idle = (
        idle_from is not None
        and second >= idle_from
        and (second - idle_from) % (IDLE_SECONDS + BUSY_SECONDS) < IDLE_SECONDS
    )
    busy = 0.0 if idle else float(random.uniform(0.75, 1.0))
    return {
        "power_watts": RESIDENT_WATTS + SERVING_WATTS * busy + random.normal(0.0, 1.5),
        "gpu_utilization_percent": round(96.0 * busy, 1),
        "memory_utilization_percent": round(55.0 * busy, 1),
        "sm_active_percent": round(52.0 * busy, 1),
        "tensor_active_percent": round(21.0 * busy, 1),
        "dram_active_percent": round(58.0 * busy, 1),
        "pcie_tx_bytes_per_second": 2e5 + 1.5e9 * busy,
        "pcie_rx_bytes_per_second": 2e5 + 1.5e9 * busy,
        "nvlink_tx_bytes_per_second": 0.0,
        "nvlink_rx_bytes_per_second": 0.0,
        "temperature_celsius": round(38.0 + 14.0 * busy, 1),
        "memory_used_bytes": 66 * 1024**3,
    } | _BOARD


_BOARD: Final[dict[str, Any]] = {
    "gpu_name": "NVIDIA H100 80GB HBM3",
    "power_method": "instant",
    "power_limit_watts": POWER_LIMIT_WATTS,
    "sm_clock_mhz": CLOCK_MHZ,
    "sm_clock_max_mhz": CLOCK_MHZ,
    "memory_clock_mhz": MEMORY_CLOCK_MHZ,
    "clock_event_reasons": 0,
    "memory_total_bytes": MEMORY_BYTES,
    "performance_state": 0,
    "resident_processes": 1,
    "ecc_corrected": 0,
    "ecc_uncorrected": 0,
    "nvlink_errors": 0,
    "pcie_replays": 0,
}


def _wait_for_pipeline(log: KernelLog, step: Step, rank: int) -> None:
    """The receives that spin from the end of a pass until the other stages of the replica let the rank go on."""
    exchange = log.name_id(_EXCHANGE, COMPUTE)
    forward_end_ns = int(step.forward_start_ns[rank] + step.forward_ns[rank])
    backward_end_ns = int(step.backward_start_ns[rank] + step.backward_ns[rank])
    reduced = [each for each in step.collectives if each.group != "world" and rank in each.ranks][-1]
    goes_on_ns = int(reduced.start_ns[reduced.ranks.index(rank)])
    for start_ns, end_ns in ((forward_end_ns, int(step.backward_start_ns[rank])), (backward_end_ns, goes_on_ns)):
        log.append(start_ns, max(end_ns - start_ns, 0), exchange, -1, EXCHANGE_STREAM)


def _fill(log: KernelLog, phase: str, start_ns: int, duration_ns: int, random: np.random.Generator) -> None:
    """Kernels of every layer one behind the other within the phase."""
    slot_ns = duration_ns / LAYERS
    for layer in range(LAYERS):
        at_ns = start_ns + int(layer * slot_ns)
        for kernel, share in _MIX[phase]:
            noise = min(float(random.lognormal(0.0, KERNEL_NOISE)), 1.0 / OCCUPIED)
            took_ns = int(slot_ns * share * OCCUPIED * noise)
            log.append(at_ns, took_ns, log.name_id(kernel, COMPUTE), -1, COMPUTE_STREAM)
            at_ns += took_ns
