"""Pictures of screens as files: kept, compared by what is to be read, renewed on demand, pinned to the versions that drew them.

    WARPLINE_SNAPSHOTS=renew pytest tests/tui/test_snapshots.py

draws them anew, after which `git diff` tells what changed. Other versions of Textual and Rich draw a little differently, so under
them nothing is compared.
"""

from __future__ import annotations

import difflib
import html
import os
import re
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from textual.app import App

FOLDER: Final = Path(__file__).parents[1] / "tui" / "snapshots"
VERSIONS_FILE: Final = FOLDER / "versions"
RENEW: Final = os.environ.get("WARPLINE_SNAPSHOTS") == "renew"
LINES_TOLD_MAX: Final = 40
CELL_WIDTH: Final = 12.2
"""Of a picture."""
_IDENTIFIER: Final = re.compile(r"terminal-\d+")
_TEXT: Final = re.compile(r'<text class="[^"]*" x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>')


def versions() -> str:
    """What draws here."""
    return f"textual {version('textual')}, rich {version('rich')}"


def why_not() -> str:
    """Why nothing can be compared here; empty where it can be."""
    if RENEW:
        return ""
    if not VERSIONS_FILE.exists():
        return "there are no pictures yet: WARPLINE_SNAPSHOTS=renew draws them"
    drawn = VERSIONS_FILE.read_text(encoding="utf-8").strip()
    return "" if drawn == versions() else f"pictures are of {drawn}, here is {versions()}"


def picture(app: App[Any]) -> str:
    """The screen as SVG, the same for the same screen."""
    return _IDENTIFIER.sub("terminal", app.export_screenshot(title="warpline", simplify=True))


def difference(name: str, drawn: str) -> str:
    """What is not as in the picture of that name, in words; empty if nothing. Draws it anew where that is wanted."""
    file = FOLDER / f"{name}.svg"
    if RENEW:
        FOLDER.mkdir(exist_ok=True)
        VERSIONS_FILE.write_text(versions() + "\n", encoding="utf-8")
        file.write_text(drawn, encoding="utf-8")
        return ""
    if not file.exists():
        return f"there is no picture {file.name}"
    kept = file.read_text(encoding="utf-8")
    if kept == drawn:
        return ""
    told = list(difflib.unified_diff(lines(kept), lines(drawn), "as it was", "as it is", lineterm="", n=0))
    if told:
        return "\n".join([f"{file.name} reads differently:", *told[:LINES_TOLD_MAX]])
    return f"{file.name} reads the same, in other colours or weights"


def lines(svg: str) -> list[str]:
    """The lines that a picture shows, as text."""
    found: dict[float, list[str]] = defaultdict(list)
    for x, y, words in _TEXT.findall(svg):
        line = found[float(y)]
        line.extend(" " * (round(float(x) / CELL_WIDTH) - len(line)))
        line.extend(html.unescape(words).replace("\xa0", " "))
    return ["".join(line).rstrip() for _, line in sorted(found.items())]
