"""Themes: a dark and a light one, one whose scale the colour-blind can read, and one without colour."""

from __future__ import annotations

from typing import Final

from rich.style import Style
from textual.theme import Theme

from .fleet.measures import LEVELS

DARK: Final = "warpline-dark"
LIGHT: Final = "warpline-light"
COLOUR_BLIND: Final = "colour-blind"
MONOCHROME: Final = "monochrome"

THEMES: Final = (
    Theme(
        name=DARK, primary="#5fa8d3", secondary="#62b6cb", accent="#ffb703", warning="#ffb703", error="#ef476f",
        success="#52b788", foreground="#d7dbe0", background="#0f1419", surface="#151b22", panel="#1f2730", dark=True,
    ),
    Theme(
        name=LIGHT, primary="#1d5c87", secondary="#2a7f92", accent="#9a5b00", warning="#9a5b00", error="#b3123b",
        success="#1b7340", foreground="#1b1f24", background="#fafafa", surface="#f0f2f4", panel="#e1e5ea", dark=False,
    ),
    Theme(
        name=COLOUR_BLIND, primary="#7c9fd6", secondary="#a8b0c0", accent="#fde737", warning="#fde737", error="#ffffff",
        success="#7c9fd6", foreground="#dcdfe4", background="#0b1020", surface="#121830", panel="#1c2440", dark=True,
    ),
    Theme(
        name=MONOCHROME, primary="#c0c0c0", secondary="#a0a0a0", accent="#ffffff", warning="#ffffff", error="#ffffff",
        success="#e0e0e0", foreground="#e0e0e0", background="#000000", surface="#101010", panel="#282828", dark=True,
    ),
)  # fmt: skip

NAMES: Final = tuple(theme.name for theme in THEMES)
_SCALES: Final = {
    DARK: "#4a6fb5 #35a0a6 #5fb56b #e0b83c #ee5f3b",
    LIGHT: "#5f87b8 #2d7f8f #3d7a3a #946d00 #b02a2a",
    COLOUR_BLIND: "#35517f #66686f #918c76 #c4b56c #ffea46",
}
"""Of each theme the colours of a scale, lowest first; the colour-blind's is cividis (Nuñez et al., PLOS ONE 2018).

Two levels share a colour, and differ by their sign: neighbours of one colour are sent to the terminal as one.
"""


def scale(theme: str) -> tuple[Style, ...]:
    """A style a level, the last for what is not known; a theme that has none is drawn without colour."""
    colours = _SCALES.get(theme, "").split()
    levels = [Style(color=colours[level // 2]) if colours else Style() for level in range(LEVELS)]
    return (*levels, Style(dim=True))
