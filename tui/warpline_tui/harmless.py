"""What comes from outside moves nothing on the terminal: names and messages are drawn without their control characters."""

from __future__ import annotations

from typing import Final

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from warpline_proto.controls import CONTROLS

_MARKS: Final = (0x200E, 0x200F)
"""Of direction. Neither these nor CONTROLS take room, so that a line without them is as long as before."""
_NO_CHARACTERS: Final = range(0xD800, 0xE000)
"""Halves of characters, which cannot be written to a terminal."""
_HARMLESS: Final[dict[int, str | None]] = {
    **{code: None for first, last in (*CONTROLS, _MARKS) for code in range(first, last + 1)},
    **dict.fromkeys(_NO_CHARACTERS, "?"),
}


class Harmless(LineFilter):
    """Goes over every line before it is written."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same segments, but of texts that are not all printable only what can do no harm."""
        if all(text.isprintable() for text, _, _ in segments):
            return segments
        return [Segment(text.translate(_HARMLESS), style, control) for text, style, control in segments]
