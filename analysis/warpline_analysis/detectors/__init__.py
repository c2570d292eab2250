"""Every detector, cheap first. One line each."""

from __future__ import annotations

from ..detector import Detector
from . import execution_idle, faults, hang, link, straggler

DETECTORS: dict[str, Detector] = {
    "faults": faults.detect,
    "hang": hang.detect,
    "straggler": straggler.detect,
    "link": link.detect,
    "execution_idle": execution_idle.detect,
}
