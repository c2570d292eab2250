"""What a user of the configuration relies on: precedence, and errors that name the place and the nearest known key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from warpline_proto.config import check_address, load, render
from warpline_proto.errors import ConfigError


@dataclass(frozen=True)
class Agent:
    collector: str = "127.0.0.1:1"
    period_seconds: float = 1.0
    sources: tuple[str, ...] = ("nvml",)
    node: str | None = None
    verbose: bool = False


@dataclass(frozen=True)
class Nvml:
    deadline_seconds: float = 3.0


SECTIONS = {"agent": Agent, "sources.nvml": Nvml}


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_defaults_hold_where_nothing_is_set() -> None:
    assert load(SECTIONS, environment={}) == {"agent": Agent(), "sources.nvml": Nvml()}


def test_environment_beats_file_beats_default(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'schema_version = 1\n[agent]\ncollector = "a:1"\nperiod_seconds = 2\n[sources.nvml]\ndeadline_seconds = 5\n',
    )
    environment = {"WARPLINE_AGENT_COLLECTOR": "b:2", "WARPLINE_SOURCES_NVML_DEADLINE_SECONDS": "7.5"}
    settings = load(SECTIONS, [path], environment)
    assert settings["agent"] == Agent(collector="b:2", period_seconds=2)
    assert settings["sources.nvml"].deadline_seconds == 7.5


def test_lists_and_flags_come_from_the_environment() -> None:
    environment = {"WARPLINE_AGENT_SOURCES": '["host", "nvml"]', "WARPLINE_AGENT_VERBOSE": "true"}
    assert load(SECTIONS, environment=environment)["agent"] == Agent(sources=("host", "nvml"), verbose=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[agent]\ncolector = 'x'\n", "did you mean 'collector'"),
        ("[agnet]\n", "did you mean 'agent'"),
        ("[sources.nvlm]\n", "did you mean 'sources.nvml'"),
        ("[agent]\nperiod_seconds = 'fast'\n", "a finite number"),
        ("[agent]\nperiod_seconds = nan\n", "nan is not a finite number"),
        ("[agent]\nperiod_seconds = -inf\n", "-inf is not a finite number"),
        ("[agent]\nperiod_seconds = 'fast'\n", r"config.toml: \[agent\] period_seconds"),
        ("#" * 2_000_000, "no settings file"),
        ("[agent]\nverbose = 1\n", "true or false"),
        ("[agent]\nsources = 'nvml'\n", "a list of text"),
        ("schema_version = 9\n", "schema_version"),
        ("[agent\n", "not TOML"),
        ("collector = 'x'\n", "there is no section"),
    ],
)
def test_a_bad_file_is_refused_with_what_to_do(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(SECTIONS, [write(tmp_path, text)], {})


def test_a_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(SECTIONS, [Path("/nonexistent/warpline.toml")], {})


def test_what_is_printed_can_be_read_back(tmp_path: Path) -> None:
    settings = {"agent": Agent(node='no"de', sources=("a", "b")), "sources.nvml": Nvml(4.0)}
    assert load(SECTIONS, [write(tmp_path, render(settings))], {}) == settings


def test_agent_and_collector_share_one_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[agent]\nperiod_seconds = 2\n[collector]\nlisten = 'x'\n")
    assert load(SECTIONS, [path], {})["agent"].period_seconds == 2


@pytest.mark.parametrize("address", ["h:0", "127.0.0.1:14716", "node-1.example:65535", "[::1]:1", "unix:/run/x.sock"])
def test_an_address_may_be(address: str) -> None:
    check_address(address, "listen")


@pytest.mark.parametrize(
    "address", ["", "h", ":1", "h:", "h:x", "a:b:1", "::1:1", "h:65536", "h:1 ", "h:1/path", "unix:"]
)
def test_an_address_may_not_be(address: str) -> None:
    """Port 99999 would otherwise be taken for port 34463."""
    with pytest.raises(ValueError, match=r"^listen "):
        check_address(address, "listen")


def test_a_file_from_an_editor_that_marks_utf_8_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[agent]\nverbose = true\n", encoding="utf-8-sig")
    assert load(SECTIONS, [path], {})["agent"].verbose
