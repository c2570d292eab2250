"""What waits in a spool: its place in the order of sending, and the bounds on all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

BYTES_MAX: Final = 256 * 1024 * 1024
"""Default bound on everything that waits."""
MEMORY_BYTES_MAX: Final = 16 * 1024 * 1024
"""Default bound on what waits in memory while the directory cannot be written."""
AGE_SECONDS_MAX: Final = 24 * 3600.0
"""Default age at which a frame falls off."""
FRAMES_MAX: Final = 100_000
"""Bound on the number of files: a day of one frame a second fits."""
PAUSE_NS_MAX: Final = 3_600 * 10**9
"""No more time than this is believed to have passed between two frames of earlier starts that follow one another."""


class Key(NamedTuple):
    """Place of a frame in the order of sending: frames of earlier starts first, whatever the clock said then."""

    current: bool
    boot: str
    sequence: int


class Standing(NamedTuple):
    """`fill` is the largest share of any bound that is taken: at 1 the oldest frame falls off. `oldest_seconds` is its age."""

    fill: float
    bytes: int
    oldest_seconds: float


@dataclass(frozen=True)
class Limits:
    """How much may wait, and how long."""

    bytes_max: int = BYTES_MAX
    memory_bytes_max: int = MEMORY_BYTES_MAX
    age_seconds_max: float = AGE_SECONDS_MAX
    frames_max: int = FRAMES_MAX

    def standing(self, size: int, memory_bytes: int, frames: int, oldest_ns: int | None, now_ns: int) -> Standing:
        """How near what waits is to these bounds; `oldest_ns` is since when the next frame waits, None where none does."""
        oldest_seconds = 0.0 if oldest_ns is None else max(now_ns - oldest_ns, 0) / 1e9
        shares = (
            size / self.bytes_max,
            memory_bytes / self.memory_bytes_max,
            frames / self.frames_max,
            oldest_seconds / self.age_seconds_max,
        )
        return Standing(max(shares), size, oldest_seconds)


LIMITS: Final = Limits()


@dataclass(frozen=True)
class Waiting:
    """One frame that waits since this time of the steady clock: `data` is None where it lies on disk."""

    since_ns: int
    size: int
    data: bytes | None


def on_disk(found: Mapping[Key, tuple[int | None, int]], wall_ns: int, steady_ns: int) -> Sequence[tuple[Key, Waiting]]:
    """Frames of earlier starts, in the order of sending; `found` is when each was made by the wall clock, and its size.

    An agent makes one every few seconds. Where the wall clock tells of more than PAUSE_NS_MAX between two, none ran or the clock
    was set, and nobody knows which: a node that comes back after days sends what it saw before it went.
    """
    loaded: list[tuple[Key, Waiting]] = []
    for key in sorted(found, reverse=True):
        made_ns, size = found[key]
        if made_ns is not None:
            steady_ns -= min(max(wall_ns - made_ns, 0), PAUSE_NS_MAX)
            wall_ns = made_ns
        loaded.append((key, Waiting(steady_ns, size, None)))
    return loaded[::-1]


def words(directory: Path, error: OSError) -> str:
    """Why a spool cannot write."""
    return f"cannot write {directory}: {error.strerror or error}"
