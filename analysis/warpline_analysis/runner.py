"""Runs every detector over a Reader: the same pass live in the collector and offline over files."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from warpline_proto.finding import Check, Report, Verdict

from .detector import Detector, Reader
from .detectors import DETECTORS
from .grouping import group
from .ongoing import Ongoing
from .remembered import Pass

_LOG = logging.getLogger(__name__)


def run(reader: Reader, detectors: Mapping[str, Detector] = DETECTORS) -> Report:
    """One pass of all detectors, in their order, explained findings folded into their roots."""
    return sum(group(ask(reader, detectors)).values(), Report())


def ask(reader: Reader, detectors: Mapping[str, Detector] = DETECTORS) -> dict[str, Report]:
    """What each detector says by itself. One that fails answers `unknown` and blinds no other.

    Of a job that was started again under its name they are asked about the run that goes on.
    """
    shared = Pass(Ongoing(reader))
    return {name: _ask(name, detector, shared) for name, detector in detectors.items()}


def _ask(name: str, detector: Detector, reader: Reader) -> Report:
    """The analysis' rim: whatever a detector raises (a query past its bound, an unforeseen row) becomes a check."""
    try:
        return detector(reader)
    except Exception as error:
        _LOG.exception("detector %s failed", name)
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Report(checks=(Check(name, Verdict.UNKNOWN, None, f"the detector failed: {words}"),))
