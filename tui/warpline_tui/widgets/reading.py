"""A text that is longer than the window, scrolled by the keys that move in tables too."""

from __future__ import annotations

from textual.binding import Binding
from textual.containers import VerticalScroll


class Reading(VerticalScroll):
    """Takes the keys while it is in front."""

    BINDINGS = [
        Binding("j", "scroll_down", "down", show=False, id="reading.down", tooltip="The line below"),
        Binding("k", "scroll_up", "up", show=False, id="reading.up", tooltip="The line above"),
        Binding("g", "scroll_home", "top", show=False, id="reading.top", tooltip="The first line"),
        Binding("G", "scroll_end", "end", show=False, id="reading.end", tooltip="The last line"),
    ]
