"""The seam: where frames are kept.

A store lives in one directory. `append` returns only when the frames are durable, and stores each (agent, boot, sequence)
once however often it is given. What `append` took is visible to `query` at once, and to any other process that opens the
directory through `warpline_collector.reader` within two seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa

from warpline_proto.batch import Batch, Frame


class Store(Protocol):
    """Frames in, rows out. One process at a time may write."""

    def append(self, frames: Sequence[Frame]) -> Sequence[bool]:
        """Make frames durable; True for each that was new, False for each already stored."""
        ...

    def write(self, batches: Sequence[Batch]) -> None:
        """Make rows of the collector's own (findings, captures) durable."""
        ...

    def acknowledged(self, agent: str, boot: str) -> int:
        """Newest sequence stored of this boot, 0 if none."""
        ...

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """Rows of one trusted SELECT (the collector's own: users' SQL runs in a worker process)."""
        ...

    def maintain(self) -> None:
        """Seal what is ready, sweep what is not listed. Cheap when there is nothing to do."""
        ...

    def close(self) -> None:
        """Give everything back; safe to call twice."""
        ...
