"""What a kernel tracer's event of a process means: waiting for the GPU, giving it work, off the CPU, at the disk."""

from __future__ import annotations

from typing import Final

GPU_WAIT: Final = "gpu_wait"
GPU_SUBMIT: Final = "gpu_submit"
GPU_MEMORY: Final = "gpu_memory"
OTHER: Final = "other"

_KINDS: Final = (
    (GPU_WAIT, ("Synchronize", "StreamSync", "DeviceSync", "EventSync")),
    # A copy may return at once or wait for all that was given to the GPU before: it counts as waiting, which excuses.
    (GPU_WAIT, ("cudaMemcpy", "cuMemcpy")),
    (GPU_SUBMIT, ("LaunchKernel", "GraphLaunch", "Memset")),
    (GPU_MEMORY, ("cudaMalloc", "cudaFree", "cuMemAlloc", "cuMemFree")),
    ("off_cpu", ("sched_switch",)),
    ("wakeup", ("sched_wakeup",)),
    ("disk", ("block_",)),
    ("network", ("net_", "tcp_")),
    ("memory", ("mm_page_alloc", "oom_kill")),
    ("process", ("process_", "pod_")),
)


def kind(event: str) -> str:
    """The kind of `process_events` for the name of a CUDA call, a tracepoint or a tracer's word for it."""
    return next((found for found, parts in _KINDS if any(part in event for part in parts)), OTHER)
