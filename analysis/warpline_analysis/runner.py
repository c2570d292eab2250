"""Runs every detector over a Reader: the same pass live in the collector and offline over files."""

from __future__ import annotations

from collections.abc import Mapping

from warpline_proto.finding import Report

from .detector import Detector, Reader
from .detectors import DETECTORS


def run(reader: Reader, detectors: Mapping[str, Detector] = DETECTORS) -> Report:
    """One pass of all detectors, in their order."""
    report = Report()
    for detector in detectors.values():
        report += detector(reader)
    return report
