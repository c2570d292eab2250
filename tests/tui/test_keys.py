"""Keys, help, palette, themes and settings of the screen: what somebody finds, changes and is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from seen import Database, app_over, settle, words
from textual.widgets import Static

from warpline_proto.errors import ConfigError
from warpline_tui.app import WarplineApp
from warpline_tui.bindings import declared
from warpline_tui.screens import SCREENS
from warpline_tui.settings import Tui, read
from warpline_tui.themes import NAMES, scale

NS = 10**9
NOW = 1_800_000_000 * NS
KEYS = """
[tui]
refresh_seconds = 5
theme = "colour-blind"
[tui.keys]
"fleet.search" = "s"
help = "f1"
"""


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    made.connection.execute(f"""
INSERT INTO device_samples BY NAME SELECT 'node-' || n AS node, 'GPU-' || n AS gpu_uuid, 0 AS gpu_index, {NOW} AS time_ns,
    400.0 AS power_watts, 700.0 AS power_limit_watts FROM range(20) nodes(n)
""")
    yield made
    made.connection.close()


def test_every_key_has_an_id_words_and_a_tooltip() -> None:
    """Help and settings are built from them; an id means one thing."""
    groups = declared(WarplineApp.BINDINGS)
    assert {"everywhere", *SCREENS} >= {group.name for group in groups if group.name in SCREENS}
    lacking = [
        (group.name, binding.key, binding.action)
        for group in groups
        for binding in group.bindings
        if not (binding.id and binding.description and binding.tooltip)
    ]
    assert lacking == []
    ids = [(binding.id, binding.action) for group in groups for binding in group.bindings]
    assert len({name for name, _ in ids}) == len(set(ids))


async def test_the_help_shows_every_key_those_that_work_here_first(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(120, 200)) as pilot:
        await settle(pilot)
        await pilot.press("question_mark")
        await settle(pilot)
        said = "\n".join(
            widget.render_line(line).text
            for widget in pilot.app.screen.query(Static)
            for line in range(widget.size.height)
        )
        first = said.index("EVERYWHERE")
        assert 0 < said.index("Group by node, rack, job") < first
        for group in declared(WarplineApp.BINDINGS):
            for binding in group.bindings:
                assert str(binding.id) in said
        await pilot.press("escape")
        await settle(pilot)
        assert "GPU" in words(pilot, "#chosen")


async def test_keys_are_changed_by_the_settings_and_the_help_and_the_bottom_line_say_so(
    database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "warpline.toml"
    file.write_text(KEYS)
    settings = read([file], environment={})
    assert (settings.refresh_seconds, settings.theme) == (5, "colour-blind")
    async with app_over(database, NOW, settings=settings).run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        assert " s search" in words(pilot, "Keys") and " f1 help" in words(pilot, "Keys")
        await pilot.press("slash")
        await settle(pilot)
        assert not pilot.app.screen.query_one("#search").has_focus
        await pilot.press("s")
        await settle(pilot)
        assert pilot.app.screen.query_one("#search").has_focus
        await pilot.press("escape", "f1")
        await settle(pilot)
        assert pilot.app.screen.query("#help")


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        ({"fleet.serch": "s"}, "there is no key 'fleet.serch' (did you mean 'fleet.search'?)"),
        ({"fleet.search": "q"}, "'q' would be fleet.search and quit"),
    ],
)
def test_keys_that_cannot_be_are_refused_with_what_to_do(database: Database, keys: dict[str, str], answer: str) -> None:
    with pytest.raises(ConfigError) as refused:
        WarplineApp(database.query, settings=Tui(keys=keys))
    assert answer in str(refused.value)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('[tui]\ntheme = "warpline-drak"', "did you mean 'warpline-dark'?"),
        ("[tui]\nrefresh_seconds = 0", "refresh_seconds is 0.2 to 3600"),
        ("[tui]\nrefresh = 1", "did you mean 'refresh_seconds'?"),
        ("[tui.keys]\nhelp = 1", "is not a table of text"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_what_to_do(tmp_path: Path, text: str, answer: str) -> None:
    file = tmp_path / "warpline.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read([file], environment={})
    assert answer in str(refused.value)


def test_a_terminal_without_colour_gets_the_theme_without() -> None:
    assert read([], environment={"NO_COLOR": "1"}).theme == "monochrome"
    assert read([], "warpline-light", {"NO_COLOR": "1"}).theme == "warpline-light"
    assert read([], environment={"WARPLINE_TUI_THEME": "colour-blind"}).theme == "colour-blind"


@pytest.mark.parametrize("theme", NAMES)
async def test_every_theme_draws_the_same_signs(database: Database, theme: str) -> None:
    async with app_over(database, NOW, settings=Tui(theme=theme)).run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        assert pilot.app.theme == theme
        assert "▅" in words(pilot, "#grid")
        styles = {str(style.color) for style in scale(theme)[:-1]}
        assert (styles == {"None"}) == (theme == "monochrome")


async def test_the_palette_finds_a_node_by_its_name_and_goes_there(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        assert isinstance(pilot.app, WarplineApp)
        assert (await pilot.app.names()).nodes == tuple(sorted(f"node-{at}" for at in range(20)))
        await pilot.press("ctrl+p")
        await settle(pilot)
        await pilot.press(*"node-17")
        await settle(pilot)
        await pilot.press("enter", "enter")
        await settle(pilot)
        page = pilot.app.page
        assert page is not None and (page.place.screen, page.place.node) == ("node", "node-17")


async def test_screens_are_one_key_away_and_the_way_back_is_too(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        assert isinstance(pilot.app, WarplineApp)
        await pilot.app.action_show("power")
        for place, (name, entry) in enumerate(each for each in SCREENS.items() if each[1].keys):
            await pilot.press(entry.keys.split(",")[place % 2])
            await settle(pilot)
            assert pilot.app.page is not None and pilot.app.page.place.screen == name
            await pilot.app.action_show("fleet" if name != "fleet" else "power")
        await pilot.app.action_show("fleet")
        for key in ("4", "escape"):
            await pilot.press(key)
            await settle(pilot)
        assert pilot.app.page is not None and pilot.app.page.place.screen == "fleet"


async def test_nothing_can_be_changed_without_being_asked_for(database: Database) -> None:
    assert not WarplineApp(database.query).operator
