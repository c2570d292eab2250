"""Two distributions of durations side by side on one logarithmic scale: the accused to the left, its peers to the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text
from textual import events
from textual.widgets import Static

from ..beside.durations import Bin, Timed, edges_ns
from ..words import UNKNOWN, duration

SCALE_COLUMNS: Final = 19
"""From and to of a row of bars."""
SHARE_COLUMNS: Final = 4
BAR_COLUMNS_MAX: Final = 60


class Mirror(Static):
    """The bins of one kernel, drawn to the room that there is."""

    def __init__(self, *, id: str, classes: str | None = None) -> None:
        super().__init__("", id=id, classes=classes)
        self._drawn: tuple[Timed, tuple[Bin, ...], str, str] | None = None

    def show(self, item: Timed | None, bins: tuple[Bin, ...], mine: str = "accused", peers: str = "peers") -> None:
        """Draw these; nothing where there are none. `mine` and `peers` are the names of the sides."""
        self._drawn = None if item is None else (item, bins, mine, peers)
        self._draw()

    def on_resize(self, event: events.Resize) -> None:
        """There is another room."""
        self._draw()

    def _draw(self) -> None:
        room = self.size
        self.update(
            Text("") if self._drawn is None or not room.width else mirrored(*self._drawn, room.width, room.height)
        )


def mirrored(item: Timed, bins: Sequence[Bin], mine: str, peers: str, width: int, height: int) -> Text:
    """Heads with count, median and 99th percentile of both sides, and below a row of bars for each span of durations."""
    bar = min(max((width - SCALE_COLUMNS - 2 * SHARE_COLUMNS - 6) // 2, 4), BAR_COLUMNS_MAX)
    side = bar + SHARE_COLUMNS + 1
    heads = [
        _pair(mine, peers, side, "bold"),
        _pair(_count(item.mine.count), _count(item.peers.count), side, ""),
        _pair(_median(item.mine.p50_ns, item.mine.p99_ns), _median(item.peers.p50_ns, item.peers.p99_ns), side, ""),
    ]
    joined = join(bins, max(height - len(heads), 1))
    most = max((max(each[2:]) for each in joined), default=0.0) or 1.0
    rows = [_bars(each, most, bar) for each in joined]
    return Text("\n").join([*heads, *rows])


def join(bins: Sequence[Bin], rows: int) -> list[tuple[float, float, float, float]]:
    """Bins -> at most `rows` spans of equal length on the scale: from and to in ns, and the share of each side."""
    if not bins:
        return []
    first, last = bins[0][0], bins[-1][0]
    width = -(-(last - first + 1) // rows)
    spans = []
    for begin in range(first, last + 1, width):
        inside = [each for each in bins if begin <= each[0] < begin + width]
        shares = sum(each[1] for each in inside), sum(each[2] for each in inside)
        spans.append((edges_ns(begin)[0], edges_ns(begin + width - 1)[1], *shares))
    return spans


def _pair(mine: str, peers: str, side: int, style: str) -> Text:
    return Text(f"{mine[:side]:>{side}}{'':^{SCALE_COLUMNS + 4}}{peers[:side]}", style)


def _bars(span: tuple[float, float, float, float], most: float, bar: int) -> Text:
    low, high, mine, peers = span
    scale = f"{duration(low)} - {duration(high)}"
    left, right = _bar(mine / most, bar), _bar(peers / most, bar)
    return Text.assemble(
        (f"{_share(mine):>{SHARE_COLUMNS}} {'█' * left:>{bar}}", "bold"),
        (f" {scale:^{SCALE_COLUMNS + 2}} ", "dim"),
        f"{'█' * right:<{bar}} {_share(peers)}",
    )


def _bar(share: float, columns: int) -> int:
    """Cells; what is there at all has one."""
    return max(round(share * columns), 1) if share > 0 else 0


def _share(share: float) -> str:
    return "" if share <= 0 else "<1%" if share < 0.005 else f"{share:.0%}"


def _count(count: float | None) -> str:
    return UNKNOWN if count is None else f"{count:,.0f} times a rank"


def _median(p50: float | None, p99: float | None) -> str:
    return f"median {duration(p50)}, p99 {duration(p99)}"
