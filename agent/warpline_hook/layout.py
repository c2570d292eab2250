"""Layout of the file through which the agent learns of the steps of one process; both sides take it from here.

    header (4096 bytes) | identity (JSON) | names of phases | records

The process alone writes; the agent only reads, with `pread`, and remembers by itself how far it has read. Records go round:
the one with number n (from 1 on) lies in slot (n - 1) % CAPACITY and bears its number at both ends, so that a reader sees when
it was overtaken, and counts what it missed. `magic` is written last. Little endian; -1 stands for a time that is not known.
"""

from __future__ import annotations

import struct
from typing import Final

MAGIC: Final = b"WARPSTEP"
VERSION: Final = 1
SUFFIX: Final = ".steps"
PREFIX: Final = "warpline-"

HEADER: Final = struct.Struct("<8sIIIIQQQq")
"""magic, version, record bytes, capacity, nothing, pid, start of the process in ticks, its pid namespace, creation ns."""
COUNTERS_AT: Final = 64
COUNTERS: Final = struct.Struct("<QQIIII")
"""records written ever, records refused, state, generation of the identity (odd while it is written), its bytes, names."""
WRITTEN: Final = struct.Struct("<Q")
"""The first of them alone, which changes with each record."""
REASON_AT: Final = 128
REASON_BYTES: Final = 256
"""Why recording was given up, UTF-8 padded with zeros."""
IDENTITY_AT: Final = 4096
IDENTITY_BYTES: Final = 16 * 1024
NAMES_AT: Final = IDENTITY_AT + IDENTITY_BYTES
NAMES_MAX: Final = 64
NAME: Final = struct.Struct("<B63s")
"""kind (place in KINDS), name in UTF-8 padded with zeros."""
RECORDS_AT: Final = NAMES_AT + NAMES_MAX * NAME.size
CAPACITY: Final = 2048
"""Minutes of steps even where a step takes a tenth of a second."""
RECORD: Final = struct.Struct("<QHHIq9q4qQ")
"""number, kind of record, flags, name, step, TIMES, STARTS, number once more."""
FILE_BYTES: Final = RECORDS_AT + CAPACITY * RECORD.size

STEP: Final = 1
PHASE: Final = 2
"""Kinds of record; of a phase only the first two TIMES are known."""
ON_CPU: Final = 1
"""Flag of a step: its model computes on the CPU, so that the thread's CPU time is its compute time."""
TIMES: Final = ("start", "duration", "data", "forward", "backward", "optimizer", "gc", "cpu", "waited")
"""start since the Unix epoch on CLOCK_REALTIME; durations, of them `cpu` the CPU time of the thread without that in the data
loader, and `waited` the time in backward passes in which it was not on a CPU; all ns."""
STARTS: Final = ("data", "forward", "backward", "optimizer")
"""When each first began, ns since the start of the step."""

RUNNING: Final = 1
ENDED: Final = 2
GIVEN_UP: Final = 3
"""States."""
KINDS: Final = ("host", "compute", "communication", "optimizer", "data")
UNKNOWN: Final = -1


def file_name(pid_namespace: int, pid: int, start_ticks: int, attempt: int = 0) -> str:
    """Name of the file of one process; `attempt` tells several of one process apart."""
    return f"{PREFIX}{pid_namespace}-{pid}-{start_ticks}{f'.{attempt}' if attempt else ''}{SUFFIX}"
