"""Renews what README and guide show of the running program: the table of keys, and pictures over a store of the demo.

warpline demo --keep DIR && python tests/bench/guide.py DIR/store
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from textual.keys import format_key
from textual.pilot import Pilot

from warpline_cli import consoles
from warpline_tui.app import WarplineApp
from warpline_tui.bindings import declared
from warpline_tui.screens.page import Page

TUI: Final = Path(__file__).parents[2] / "tui"
GUIDE: Final = TUI / "GUIDE.md"
KEYS: Final = re.compile(r"(?<=<!-- keys -->\n).*?(?=<!-- end -->)", re.DOTALL)
"""Where the table stands in the guide."""
SIZE: Final = (120, 32)
TRIES: Final = 400
PICTURES: Final = {
    "fleet": ("1",),
    "incidents": ("2",),
    "steps": ("2", "enter", "enter", "enter"),
    "kernels": ("2", "enter", "enter", "enter", "enter"),
    "node": ("7",),
    "timeline": ("2", "enter", "t"),
}
"""Keys that lead to each."""


def keys() -> str:
    """Every key of the program as a table, from the bindings."""
    lines = ["| where | keys |", "| --- | --- |"]
    for group in declared(WarplineApp.BINDINGS):
        written = (
            f"`{' '.join(format_key(key) for key in each.key.split(','))}` {each.description}"
            for each in group.bindings
        )
        lines.append(f"| {group.name} | {', '.join(written)} |")
    return "\n".join(lines) + "\n"


def pictures(store: Path, folder: Path) -> None:
    """Save what the screen shows over the store after the keys of each."""
    folder.mkdir(exist_ok=True)
    for name, pressed in PICTURES.items():
        with consoles.opened(argparse.Namespace(store=str(store))) as (query, console):
            # The loop ends when no question is under way any more; the store is closed after that.
            shown = asyncio.run(_picture(WarplineApp(query, recorded=True, console=console), name, pressed))
        (folder / f"{name}.svg").write_text(shown, encoding="utf-8")


async def _picture(app: WarplineApp, name: str, pressed: Sequence[str]) -> str:
    async with app.run_test(size=SIZE) as pilot:
        await _drawn(pilot)
        for key in pressed:
            await pilot.press(key)
            await _drawn(pilot)
        return app.export_screenshot(title=f"warpline top: {name}")


async def _drawn(pilot: Pilot[None]) -> None:
    """Until the page in front has its answer."""
    for _ in range(TRIES):
        await pilot.pause(0.05)
        if isinstance(pilot.app.screen, Page) and pilot.app.screen.shown is not None and not list(pilot.app.workers):
            return


if __name__ == "__main__":
    told = GUIDE.read_text(encoding="utf-8")
    GUIDE.write_text(KEYS.sub(lambda _: keys(), told), encoding="utf-8")
    for given in sys.argv[1:]:
        pictures(Path(given), TUI / "pictures")
