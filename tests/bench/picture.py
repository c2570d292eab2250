"""Takes the README's picture of the terminal from the running program over a store that `warpline demo --keep` left.

warpline demo --keep DIR && python tests/bench/picture.py DIR/store tui/picture.svg
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from warpline_collector.reader import CatalogReader
from warpline_tui.app import WarplineApp
from warpline_tui.screens.page import Page

SIZE = (132, 34)
TRIES = 200


async def picture(store: Path, target: Path) -> None:
    """Open the program on the store, go to the findings, save what the screen shows."""
    app = WarplineApp(CatalogReader(store).query, recorded=True)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("2")
        for _ in range(TRIES):
            await pilot.pause(0.05)
            if isinstance(app.screen, Page) and app.screen.shown is not None:
                break
        await pilot.pause(0.2)
        target.write_text(app.export_screenshot(title="warpline top"))


if __name__ == "__main__":
    asyncio.run(picture(Path(sys.argv[1]), Path(sys.argv[2])))
