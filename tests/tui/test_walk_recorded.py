"""From the fleet to what the accused does slower than its peers, over a recorded job with a worker slowed on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from seen import settle, words

from warpline_cli.verbs.analyze import analyze
from warpline_collector.reader import CatalogReader
from warpline_tui.app import WarplineApp

KEYS_MAX = 8


@pytest.fixture(scope="module")
def store(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CatalogReader]:
    """The store that `warpline analyze --store` makes of the trace."""
    folder = tmp_path_factory.mktemp("walk") / "store"
    analyze([data / "G-stragglers" / "bytedance" / "trace-AR.parquet"], folder)
    with CatalogReader(folder) as reader:
        yield reader


@pytest.mark.data
@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_eight_keys_lead_from_the_fleet_to_what_the_accused_does_slower(
    store: CatalogReader, size: tuple[int, int]
) -> None:
    """The publisher's own finding: one worker computes twice as long, forward and backward alike, and waits for nobody."""
    pressed = 0
    async with WarplineApp(store.query, recorded=True).run_test(size=size) as pilot:

        async def press(key: str) -> None:
            nonlocal pressed
            await pilot.press(key)
            await settle(pilot)
            pressed += 1

        await settle(pilot)
        assert "1 open: critical" in words(pilot, "Status")

        await press("2")
        assert "compute_straggler" in words(pilot, "#incidents")
        assert "1 open, 0 over" in words(pilot, "#said")

        await press("enter")
        said = words(pilot, "#said")
        assert "CRITICAL: it stands" in said and "stage 0, dp 0" in said and "26.1 s a step" in said
        assert "→ On each GPU of group of 4 ranks" in said

        await press("enter")
        shown = words(pilot, "#shown")
        assert "45.3375" in shown and "19.2011" in shown
        assert "network: 83% of the others' time" in shown

        await press("enter")
        assert "rank 0 against 3 peers doing the same work: computing phases" in words(pilot, "#compared")
        lines = {row.split(" | ")[0]: row.split(" | ")[1:4] for row in words(pilot, "#lines").splitlines()}
        assert lines["step time"] == ["46.6 s", "46.6 s", "  1.00×"], "everybody waits for it"
        assert lines["computing phases"] == ["45.4 s", "19.3 s", "▲ 2.35×"]
        chart = words(pilot, "#chart")
        assert "●" in chart and "─" in chart and "since 16" in chart

        await press("enter")
        assert "No kernel of it is kept: these are the operations" in words(pilot, "#durations")
        rows = [row.split(" | ")[:4] for row in words(pilot, "#timed").splitlines()[:2]]
        assert rows == [
            ["backward-compute", "869 ms", "383 ms", "▲ 2.27×"],
            ["forward-compute", "546 ms", "218 ms", "▲ 2.50×"],
        ]
        bars = words(pilot, "#mirror")
        assert "1,408 times a rank" in bars and "█" in bars
        assert "median 869 ms, p99 912 ms" in bars and "median 383 ms, p99 401 ms" in bars

        assert pressed <= KEYS_MAX
