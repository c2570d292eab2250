"""How far back a line goes, and of which grain it is: readings as they came while there are some, else means of ten minutes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from warpline_proto.history_tables import HISTORY_SECONDS


@dataclass(frozen=True)
class Span:
    """`bins` marks over `seconds`; `raw` says that it is made of readings, not of histories."""

    name: str
    seconds: int
    bins: int
    raw: bool = False

    @property
    def bin_ns(self) -> int:
        """Time of one mark."""
        return self.seconds * 10**9 // self.bins

    def start_ns(self, end_ns: int) -> int:
        """Start of the first mark, where the last one ends with `end_ns`."""
        return end_ns - self.seconds * 10**9

    def bin_of(self, column: str, end_ns: int) -> str:
        """SQL: which mark a time belongs to, 0 is the oldest."""
        return f"least(({column} - {self.start_ns(end_ns)}) // {self.bin_ns}, {self.bins - 1})::INTEGER"

    @property
    def grain(self) -> str:
        """What one mark is, in words."""
        seconds = self.seconds // self.bins
        each = f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
        made = "readings" if self.raw else f"{HISTORY_SECONDS // 60}-minute means"
        return f"{self.name}, of {made}, a mark is {each}"


def settled(time_ns: int, seconds: int) -> int:
    """The next multiple of so many seconds: questions that end there have the same words for a while, and answers are kept."""
    step_ns = seconds * 10**9
    return -(-time_ns // step_ns) * step_ns


RECENT: Final = Span("last 10 min", 600, 60, raw=True)
DAY: Final = Span("last 24 h", 86_400, 144)
MONTH: Final = Span("last 30 days", 30 * 86_400, 180)
SPANS: Final = (RECENT, DAY, MONTH)
"""In the order in which a key goes through them."""


def following(span: Span) -> Span:
    """The next longer one, and after the longest the shortest."""
    return SPANS[(SPANS.index(span) + 1) % len(SPANS)]
