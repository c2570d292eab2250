"""Layout of the ring file in which the native library leaves what it captures; native/ring.h says it in full.

A test compares every number here with the compiled header.
"""

from __future__ import annotations

import struct
from typing import Final

from .process import Process

MAGIC: Final = b"WARPRING"
VERSION: Final = 1
SUFFIX: Final = ".ring"
PREFIX: Final = "warpline-"

HEADER_BYTES: Final = 4096
RECORD_BYTES: Final = 64
TEXT_BYTES_MAX: Final = 4096
LANES: Final = ("kernels", "nccl", "events")
CHANNELS: Final = ("kernels", "nccl")

IDENTITY: Final = struct.Struct("<8sIIQQQIIIIQQQ")
"""magic, version, header bytes, file bytes, texts offset, texts bytes, record bytes, lanes, pid, uid, start ticks, pid
namespace, creation (CLOCK_REALTIME ns)."""
CONTROL_AT: Final = 128
NCCL_CONTROL_AT: Final = 136
READER_SEEN_AT: Final = 144
PULSE_AT: Final = 192
PULSE: Final = struct.Struct("<6Q")
"""heartbeat (CLOCK_MONOTONIC ns), what is captured, step plus one, end of the newest record, CUPTI version, NCCL version."""
CHANNELS_AT: Final = 256
COUNTERS_AT: Final = 512
COUNTERS: Final = (
    "records",
    "invalid",
    "unfinished",
    "unknown",
    "buffers",
    "dropped_pool",
    "dropped_cupti",
    "dropped_texts",
    "zeroed_late",
    "spilled",
    "flushes",
    "nccl_operations",
)
LANES_AT: Final = 1024
LANE_BYTES: Final = 256
LANE: Final = struct.Struct("<QQ48xQQ48xQ")
"""offset, capacity, head, dropped, tail."""
TAIL_AT: Final = 128
"""Within a lane."""
MARKS_AT: Final = 1792
MARK: Final = struct.Struct("<Q16s2Q9Q")
"""number, frame, told ns, whole ns, and for each lane read, safe and dropped; two of them, in turn."""
SETTLED_AT: Final = MARKS_AT + 2 * MARK.size
TEXTS_HEAD_AT: Final = 2048

RECORD: Final = (
    ("commit", "<u4", 0),
    ("kind", "<u2", 4),
    ("flags", "<u2", 6),
    ("start_ns", "<u8", 8),
    ("duration_ns", "<u8", 16),
    ("value", "<u8", 24),
    ("number", "<u8", 32),
    ("device", "<u4", 40),
    ("context", "<u4", 44),
    ("stream", "<u4", 48),
    ("correlation", "<u4", 52),
    ("name", "<u4", 56),
    ("extra", "<u4", 60),
)
"""Fields of a record: name, type as numpy writes it, offset."""

KERNEL, MEMCPY, MEMSET, GRAPH, COLLECTIVE, POINT_TO_POINT, NCCL_KERNEL, STATE, GAP, CLOCK, CAPTURE = range(1, 12)
"""Kinds of record."""
NAME, COMMUNICATOR, ENVIRONMENT = range(1, 4)
"""Kinds of text."""
COMMUNICATOR_HEAD: Final = struct.Struct("<QiiiI")
"""hash, rank, ranks, nodes (-1 unknown), version of the plugin interface; the communicator's name follows."""
STATES: Final = ("none", "ok", "busy", "denied", "dead", "paused", "ended")
GAP_CAUSES: Final = ("", "the ring was full", "CUPTI dropped them")

OFF, FULL, STEPS, TIME, AWAY = range(5)
"""Modes of capture: never, always, in windows of steps, in windows of time; AWAY leaves CUPTI to a trace that was asked for."""
KERNELS, COPIES, SETS, GRAPHS = 1, 2, 4, 8
"""What is captured; with GRAPHS whole graph launches in place of their kernels."""
WINDOW_UNIT_SECONDS: Final = 0.1
"""Windows of time are counted in this."""
NCCL_KERNEL_CHANNELS: Final = 64
"""The only event beyond collectives and point-to-point that NCCL may be asked for."""
READER_SILENT_SECONDS: Final = 30
"""Without word from a reader for so long nothing is captured."""


def control(mode: int, what: int, *, flush_ms: int = 0, window: int = 0, period: int = 0, unread: bool = False) -> int:
    """The control word; window and period in steps or in WINDOW_UNIT_SECONDS, `unread` captures where no agent reads."""
    fields = ((mode, 8, 0), (what, 8, 8), (flush_ms, 16, 16), (window, 16, 32), (period, 15, 48), (unread, 1, 63))
    if any(not 0 <= value < 1 << bits for value, bits, _ in fields):
        raise ValueError(f"a field of the control word does not fit: {fields}")
    return sum(int(value) << at for value, _, at in fields)


def nccl_control(mask: int, until_ms: int) -> int:
    """The NCCL control word: events beyond the usual ones until `until_ms` (CLOCK_REALTIME)."""
    return (mask & 0xFFFF) | (until_ms & (1 << 48) - 1) << 16


def file_name(process: Process) -> str:
    """Name of the ring file of one process."""
    return f"{PREFIX}{process.namespace}-{process.pid}-{process.start_ticks}{SUFFIX}"
