"""Every detector, cheap first. One line each."""

from __future__ import annotations

from ..detector import Detector
from . import (
    execution_idle,
    faults,
    hang,
    host_straggler,
    idle_spin,
    kernel_divergence,
    link,
    masked,
    network,
    pipeline_bubble,
    probes,
    process_waits,
    regression,
    sporadic_stall,
    straggler,
    throttling,
)

DETECTORS: dict[str, Detector] = {
    "faults": faults.detect,
    "hang": hang.detect,
    "regression": regression.detect,
    "probes": probes.detect,
    "straggler": straggler.detect,
    "pipeline_bubble": pipeline_bubble.detect,
    "masked": masked.detect,
    "kernel_divergence": kernel_divergence.detect,
    "host_straggler": host_straggler.detect,
    "process_waits": process_waits.detect,
    "sporadic_stall": sporadic_stall.detect,
    "link": link.detect,
    "network": network.detect,
    "throttling": throttling.detect,
    "idle_spin": idle_spin.detect,
    "execution_idle": execution_idle.detect,
}
