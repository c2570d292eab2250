"""What everything that is drawn beside the slices shares: whom to ask, where to draw, on which clock, from when to when."""

from __future__ import annotations

from dataclasses import dataclass

from warpline_cli.asking import Query

from .clock import Clocks
from .file import TraceFile
from .ranks import Ranks


@dataclass(frozen=True)
class Scene:
    """From `start_ns` to `end_ns` on the common clock."""

    query: Query
    trace: TraceFile
    ranks: Ranks
    clocks: Clocks
    start_ns: int
    end_ns: int

    def holds(self, time_ns: int) -> bool:
        """A time on the common clock is of it."""
        return self.start_ns <= time_ns < self.end_ns

    def within(self, begin: str, end: str) -> str:
        """The condition that rows meet whose times, in these columns and on the clocks of their nodes, may be of it."""
        least, most = self.clocks.least_ahead_ns, self.clocks.most_ahead_ns
        return f"{begin} < {self.end_ns + most} AND {end} >= {self.start_ns + least}"
