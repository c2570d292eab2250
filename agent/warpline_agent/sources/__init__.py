"""Every source by name: SOURCES are read live, FORMATS and TREE_FORMATS from files. One line each."""

from __future__ import annotations

from ..source import Format, Source, TreeFormat
from .bytedance import OperationTimeline, OperationTrace, RunMeta
from .flight_recorder import FlightRecorder
from .prometheus import Prometheus

SOURCES: dict[str, type[Source]] = {}

FORMATS: tuple[Format, ...] = (
    FlightRecorder(),
    Prometheus(),
    OperationTrace(),
    OperationTimeline(),
    RunMeta(),
)
"""Recorded formats, most specific first: the first that recognises a file reads it."""

TREE_FORMATS: tuple[TreeFormat, ...] = ()
