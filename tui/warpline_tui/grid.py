"""Text in columns that line up, in whatever alphabet."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def grid(rows: Sequence[Sequence[str]], right: Sequence[bool] = ()) -> list[str]:
    """Rows of equally many cells -> lines, each column as wide as its widest cell; `right` says which stand to the right."""
    if not rows:
        return []
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    to_right = list(right) or [False] * len(widths)
    return ["  ".join(_placed(*cell) for cell in zip(row, widths, to_right, strict=True)).rstrip() for row in rows]


def width(text: str) -> int:
    """Columns of a terminal that `text` takes."""
    return len(text) if text.isascii() else sum(_columns(each) for each in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _placed(cell: str, columns: int, to_right: bool) -> str:
    room = " " * (columns - width(cell))
    return room + cell if to_right else cell + room
