"""What comes from outside moves nothing on the terminal: names and messages are drawn without their control characters."""

from __future__ import annotations

from typing import Final

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_CONTROLS: Final = (
    (0x00, 0x1F),  # escape sequences begin with one of these
    (0x7F, 0x9F),  # ... or with one of these
    (0x200E, 0x200F),
    (0x2028, 0x202E),  # lines, and from here on the direction of what follows
    (0x2066, 0x2069),
)
"""From and to; none of them takes room, so that a line without them is as long as before."""
_NO_CHARACTERS: Final = range(0xD800, 0xE000)
"""Halves of characters, which cannot be written to a terminal."""
_HARMLESS: Final[dict[int, str | None]] = {
    **{code: None for first, last in _CONTROLS for code in range(first, last + 1)},
    **dict.fromkeys(_NO_CHARACTERS, "?"),
}


class Harmless(LineFilter):
    """Goes over every line before it is written."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same segments, but of texts that are not all printable only what can do no harm."""
        if all(text.isprintable() for text, _, _ in segments):
            return segments
        return [Segment(text.translate(_HARMLESS), style, control) for text, style, control in segments]
