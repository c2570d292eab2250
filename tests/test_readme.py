"""The README names what exists: every source, format and detector, and commands that are real."""

from __future__ import annotations

import re
from pathlib import Path

from warpline_agent.sources import FORMATS, SOURCES, TREE_FORMATS
from warpline_analysis.detectors import DETECTORS

README = (Path(__file__).parents[1] / "README.md").read_text()


def section(name: str) -> str:
    """The text between `<!-- name -->` and `<!-- end -->`."""
    return README.split(f"<!-- {name} -->")[1].split("<!-- end -->")[0]


def first_cells(text: str) -> set[str]:
    """Names in code marks in the first cell of every table row."""
    return {
        name
        for line in text.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }


def test_the_table_of_sources_names_every_source_and_format() -> None:
    formats = {each.name for each in FORMATS} | {each.name for each in TREE_FORMATS}
    assert first_cells(section("sources")) == set(SOURCES) | formats


def test_the_table_of_diagnoses_names_every_detector() -> None:
    assert first_cells(section("diagnoses")) == set(DETECTORS)


def test_the_two_commands_are_one_line_each() -> None:
    for name, word in (("run", "warpline demo"), ("test", "pytest")):
        lines = [line for line in section(name).splitlines() if line and not line.startswith("```")]
        assert len(lines) == 1
        assert word in lines[0]


def test_the_picture_is_there() -> None:
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert shown
    for path in shown:
        assert (Path(__file__).parents[1] / path).is_file()
