"""Every detector, cheap first. One line each."""

from __future__ import annotations

from ..detector import Detector
from . import execution_idle, faults, hang, idle_spin, link, network, straggler, throttling

DETECTORS: dict[str, Detector] = {
    "faults": faults.detect,
    "hang": hang.detect,
    "straggler": straggler.detect,
    "link": link.detect,
    "network": network.detect,
    "throttling": throttling.detect,
    "idle_spin": idle_spin.detect,
    "execution_idle": execution_idle.detect,
}
