"""The sources page: what is not read, where, why, and what to do; which agents are not well; what capture costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from seen import Database, app_over, settle, take, words

from warpline_tui.screens.page import Page
from warpline_tui.sources_text import GROUP_STATES, MEANINGS, TROUBLES
from warpline_tui.views.sources import STATES, SourcesView

NS = 10**9
NOW = 1_800_000_000 * NS
SIZES = [(80, 24), (200, 60)]


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    yield made
    made.connection.close()


def told(node: str, source: str, state: str, seconds_ago: int = 1, **more: Any) -> dict[str, Any]:
    row = {"node": node, "source": source, "subject": source, "state": state, "time_ns": NOW - seconds_ago * NS}
    return row | more


def fill(database: Database, nodes: int = 40) -> None:
    rows = []
    for at in range(nodes):
        rows.append(told(f"node-{at}", "nvml", "fresh"))
        rows.append(told(f"node-{at}", "kernel_log", "denied", reason="dmesg_restrict=1"))
    rows.append(told("node-3", "nvml", "stale", 60, subject="GPU 2", reason="hangs: no answer within 10 s"))
    rows.append(told("node-4", "nvml", "busy", 900, reason="a profiler holds the counters"))
    rows.append(told("node-5", "own", "dropped", 30, subject="spool", reason="7 frames fell off", dropped=7))
    database.add("source_health", rows)
    agent = {"time_ns": NOW - 10 * NS, "heard_ns": NOW - NS, "troubles": [], "detail": ""}
    agents = [agent | {"agent": f"node-{at}", "node": f"node-{at}"} for at in range(nodes)]
    agents[5] |= {"troubles": ["dropping"], "detail": "7 frames fell off"}
    agents[6] |= {"troubles": ["skewed"], "detail": "its clock is 3 s ahead"}
    database.add("agents", agents)


@pytest.mark.parametrize(("columns", "lines"), SIZES)
async def test_what_is_not_read_is_counted_named_and_told_what_to_do_about(
    database: Database, columns: int, lines: int
) -> None:
    fill(database)
    async with app_over(database, NOW).run_test(size=(columns, lines)) as pilot:
        await settle(pilot)
        await pilot.press("4")
        await settle(pilot)
        said = words(pilot, "#costs")
        assert "38 of 40 agents are well." in said
        assert "dropping: node-5: 7 frames fell off → " in said and "skewed: node-6: its clock is 3 s ahead → " in said
        groups = words(pilot, "#groups").splitlines()
        assert groups[0].startswith("kernel_log | denied |  |  | 40 |")
        assert groups[1].startswith("nvml | stale | 40 |  |  |  | 1 |"), "what was busy is fresh again"
        assert groups[2].startswith("own | dropped |") and " | 7 | " in groups[2]
        parts = words(pilot, "#sources").splitlines()
        assert parts[0] == "denied | node-0 + 39 | kernel_log | kernel_log | dmesg_restrict=1 | 1 s ago | "
        assert "denied: the agent may not read it" in words(pilot, "#what")
        assert "→ give the agent the right that the reason names" in words(pilot, "#what")
        assert pilot.app.screen.query_one("#sources").size.height >= 4, "there is room for them"


async def test_keys_count_by_node_and_list_one_alone(database: Database) -> None:
    fill(database)
    async with app_over(database, NOW).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("4")
        await settle(pilot)
        await pilot.press("b")
        await settle(pilot)
        assert words(pilot, "#groups").startswith("node-5 | denied | 1 |"), "the one that lost rows before the others"
        pilot.app.screen.query_one("#groups").focus()
        await pilot.press("enter")
        await settle(pilot)
        assert "of node node-5" in words(pilot, "#of")
        assert [row.split(" | ")[1] for row in words(pilot, "#sources").splitlines()] == ["node-5"] * 3
        await pilot.press("enter")
        await settle(pilot)
        assert "of all" in words(pilot, "#of")
        pilot.app.screen.query_one("#sources").focus()
        await pilot.press("enter")
        await settle(pilot)
        page = pilot.app.screen
        assert isinstance(page, Page) and (page.place.screen, page.place.node) == ("node", "node-0")


async def test_an_empty_store_says_what_to_do(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        await pilot.press("4")
        await settle(pilot)
        assert "No source has told how it fares yet" in words(pilot, "#costs")


def test_a_past_moment_tells_what_was_so_then(database: Database) -> None:
    fill(database)
    shown = take(database, SourcesView(), NOW, NOW - 100 * NS)
    assert [(each.node, each.state) for each in shown.parts] == [("node-4", "busy")] and shown.agents == 0


def test_every_state_has_words() -> None:
    assert set(MEANINGS) == set(STATES) == set(GROUP_STATES)
    assert set(TROUBLES) == {"late", "dropping", "skewed", "over_budget", "reduced", "refused"}


def test_of_a_thousand_nodes_few_rows_come(database: Database) -> None:
    fill(database, 1_500)
    shown = take(database, SourcesView("node"), NOW)
    assert len(shown.groups) == 500 and shown.agents == 1_500 and len(shown.parts) < 10
