"""Every detector, cheap first. One line each."""

from __future__ import annotations

from ..detector import Detector

DETECTORS: dict[str, Detector] = {}
