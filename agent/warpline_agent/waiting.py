"""What waits in a spool: its place in the order of sending, and the bounds on all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

BYTES_MAX: Final = 256 * 1024 * 1024
"""Default bound on everything that waits."""
MEMORY_BYTES_MAX: Final = 16 * 1024 * 1024
"""Default bound on what waits in memory while the directory cannot be written."""
AGE_SECONDS_MAX: Final = 24 * 3600.0
"""Default age at which a frame falls off."""
FRAMES_MAX: Final = 100_000
"""Bound on the number of files: a day of one frame a second fits."""


class Key(NamedTuple):
    """Place of a frame in the order of sending: frames of earlier starts first, whatever the clock said then."""

    current: bool
    boot: str
    sequence: int


@dataclass(frozen=True)
class Limits:
    """How much may wait, and how long."""

    bytes_max: int = BYTES_MAX
    memory_bytes_max: int = MEMORY_BYTES_MAX
    age_seconds_max: float = AGE_SECONDS_MAX
    frames_max: int = FRAMES_MAX


LIMITS: Final = Limits()


@dataclass(frozen=True)
class Waiting:
    """One frame that waits: `data` is None where it lies on disk."""

    created_ns: int
    size: int
    data: bytes | None
