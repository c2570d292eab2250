"""Settings of the screen: section [tui] of the settings file, its keys, and what the environment says of colour."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from warpline_proto.config import load, nearest
from warpline_proto.errors import ConfigError

from .themes import DARK, MONOCHROME, NAMES

REFRESH_SECONDS_MIN: Final = 0.2
REFRESH_SECONDS_MAX: Final = 3600.0
SECTION: Final = "tui"


@dataclass(frozen=True)
class Tui:
    """Section [tui]."""

    theme: str = ""
    """warpline-dark, warpline-light, colour-blind or monochrome; empty for the dark one, or monochrome where NO_COLOR is set."""
    refresh_seconds: float = 1.0
    """How often the newest is asked for; a slow line is spared by more."""
    keys: dict[str, str] = field(default_factory=dict)
    """[tui.keys]: id of a binding, as the help says it -> its keys, with commas between them: "fleet.search" = "slash,s"."""

    def __post_init__(self) -> None:
        if self.theme and self.theme not in NAMES:
            raise ValueError(f"there is no theme {self.theme!r}; {nearest(self.theme, NAMES)}")
        if not REFRESH_SECONDS_MIN <= self.refresh_seconds <= REFRESH_SECONDS_MAX:
            raise ValueError(f"refresh_seconds is {REFRESH_SECONDS_MIN} to {REFRESH_SECONDS_MAX:.0f}")


def read(paths: Iterable[Path], theme: str | None = None, environment: Mapping[str, str] | None = None) -> Tui:
    """Settings of these files, weakest first, with the name of a theme in any case; `theme` outranks them.

    ConfigError names what cannot be used. Whether there are such keys is checked by `bindings.keymap`.
    """
    known = os.environ if environment is None else environment
    found: Tui = load({SECTION: Tui}, paths, known)[SECTION]
    chosen = theme or found.theme or (MONOCHROME if known.get("NO_COLOR") else DARK)
    if chosen not in NAMES:
        raise ConfigError(f"there is no theme {chosen!r}", nearest(chosen, NAMES))
    return replace(found, theme=chosen)
