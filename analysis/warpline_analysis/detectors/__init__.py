"""Every detector, cheap first. One line each."""

from __future__ import annotations

from ..detector import Detector
from . import straggler

DETECTORS: dict[str, Detector] = {
    "straggler": straggler.detect,
}
