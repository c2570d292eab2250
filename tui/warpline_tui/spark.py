"""Lines of characters: a spark line one character high, and a plot of any height in braille dots; unknown is left blank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

BARS: Final = "▁▂▃▄▅▆▇█"
DOTS: Final = (0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08)
"""Bits of a braille character from the bottom up: left column, right column."""

Values = Sequence[float | None]


def spark(values: Values, width: int, low: float | None = None, high: float | None = None) -> str:
    """The newest at the right; from `low` to `high`, or what the values span. Several in one mark: the highest."""
    known = [value for value in values if value is not None]
    if not known or width < 1:
        return " " * max(width, 0)
    bottom = min(known) if low is None else low
    top = max(known) if high is None else high
    return "".join(_bar(value, bottom, top) for value in fitted(values, width))


def fitted(values: Values, width: int) -> list[float | None]:
    """As many as `width`: where there are more the highest of each few, where there are fewer blank before them."""
    count = len(values)
    if count <= width:
        return [None] * (width - count) + list(values)
    pieces = (values[at * count // width : (at + 1) * count // width] for at in range(width))
    return [max((value for value in piece if value is not None), default=None) for piece in pieces]


def _bar(value: float | None, low: float, high: float) -> str:
    if value is None:
        return " "
    part = (value - low) / (high - low) if high > low else 0.0
    return BARS[min(max(int(part * len(BARS)), 0), len(BARS) - 1)]


def plot(bands: Sequence[tuple[float, float] | None], rows: int, low: float, high: float) -> list[str]:
    """Two bands (from, to) a character, four dots a row, the top row first; None is blank."""
    dots = rows * 4
    cells = [[0] * -(-len(bands) // 2) for _ in range(rows)]
    for at, band in enumerate(bands):
        if band is None:
            continue
        first, last = (_dot(value, low, high, dots) for value in band)
        for dot in range(first, last + 1):
            cells[rows - 1 - dot // 4][at // 2] |= DOTS[at % 2][dot % 4]
    return ["".join(chr(0x2800 + cell) if cell else " " for cell in row) for row in cells]


def _dot(value: float, low: float, high: float, dots: int) -> int:
    part = (value - low) / (high - low) if high > low else 0.0
    return min(max(int(part * dots), 0), dots - 1)
