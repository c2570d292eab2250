"""What a reader of the operator's guide relies on: its keys, screens, commands, links and pictures are those of the program."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import guide

from warpline_cli.main import VERBS
from warpline_tui.screens import SCREENS

TEXT = guide.GUIDE.read_text(encoding="utf-8")


def test_the_keys_are_those_of_the_program() -> None:
    found = guide.KEYS.search(TEXT)
    assert found is not None
    assert found[0] == guide.keys(), "python tests/bench/guide.py renews the table"


@pytest.mark.parametrize("name", [name for name, entry in SCREENS.items() if entry.keys])
def test_every_screen_is_told_with_its_key(name: str) -> None:
    key = SCREENS[name].keys.split(",")[0]
    assert re.search(rf"^\| `{key}` \| {name} \|", TEXT, re.MULTILINE | re.IGNORECASE)


def test_what_is_to_be_typed_is_a_verb() -> None:
    typed = re.findall(r"(?:`|^)warpline ([a-z]+)", TEXT, re.MULTILINE)
    assert len(typed) > 10
    assert set(typed) <= set(VERBS)


def test_links_and_pictures_are_there() -> None:
    linked = {each.split("#")[0] for each in re.findall(r"\]\(([^)]+)\)", TEXT)} - {""}
    assert {f"pictures/{name}.svg" for name in guide.PICTURES} <= linked
    assert [each for each in linked if not (guide.TUI / each).exists()] == []


def test_it_is_short_enough_for_the_night() -> None:
    assert len(TEXT.splitlines()) < 200
