"""The seam: an Exporter takes frames from the spool and brings them to where they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .source import Health


@dataclass(frozen=True)
class Sent:
    """What was sent since the start. `refused` frames the collector will never take; they are gone from the spool.

    `starved_seconds` is the time in which a frame could have gone and the collector gave no credit for it.
    """

    frames: int = 0
    bytes: int = 0
    acknowledged: int = 0
    refused: int = 0
    starved_seconds: float = 0.0


class Exporter(Protocol):
    """Works in a thread of its own between `start` and `close`; the agent's loop never waits for it except in `drain`.

    `alive` is False once that thread has ended. `drain` waits at most so many seconds for everything to be acknowledged and
    says whether it was; `close` may be called twice or without `start`.
    """

    @property
    def alive(self) -> bool: ...

    def start(self) -> None: ...

    def drain(self, seconds: float) -> bool: ...

    def close(self) -> None: ...

    def sent(self) -> Sent: ...

    def health(self) -> Sequence[Health]: ...
