"""The rule of execution-idle, as everybody reads it: what is low activity, by which columns of `device_samples`.

After "The Energy Cost of Execution-Idle in GPU Clusters" (Lei et al., 2026): every signal that a GPU offers is low, and a program
is resident.
"""

from __future__ import annotations

from typing import Final

PERCENT_MAX: Final = 5.0
"""Compute and device memory are low below this."""
BYTES_PER_SECOND_MAX: Final = 1e9
"""PCIe and NVLink are low below this, each direction by itself."""
PIPES: Final = ("tensor_active_percent", "fp64_active_percent", "fp32_active_percent", "fp16_active_percent")
COMPUTE: Final = ("sm_active_percent", *PIPES)
MEMORY: Final = "dram_active_percent"
LINKS: Final = ("pcie_tx", "pcie_rx", "nvlink_tx", "nvlink_rx")
"""Each is a counter `_bytes`, or a rate `_bytes_per_second`."""
