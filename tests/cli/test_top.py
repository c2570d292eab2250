"""`warpline top` as a command: the fleet as text and as JSON, now and at a past moment, and how it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from warpline_cli.json_keys import KEYS
from warpline_cli.main import EXIT_USAGE, main
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.tables import TABLES

NOW = 1_800_000_000 * 10**9


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two readings of one GPU, an hour apart."""
    made = DuckDBStore(tmp_path / "store")
    rows = [
        {"node": "node-a", "gpu_uuid": "GPU-1", "gpu_index": 0, "time_ns": NOW - ago * 10**9, "power_watts": watts}
        for ago, watts in ((3600, 111.0), (0, 555.0))
    ]
    made.write([Batch("device_samples", "test", TABLES["device_samples"].from_rows(rows))])
    made.close()
    return tmp_path / "store"


def test_once_prints_the_newest_and_at_a_past_moment(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once", "--store", str(store)]) == 0
    assert "555" in capsys.readouterr().out
    assert main(["top", "--once", "--store", str(store), "--at", "30m"]) == 0
    said = capsys.readouterr().out
    assert "111" in said and "555" not in said, "half an hour before the newest reading, not before now"


def test_a_name_moves_nothing_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = DuckDBStore(tmp_path / "store")
    row = {
        "node": "a\x1b[2J\nb",
        "gpu_uuid": "G1",
        "gpu_index": 0,
        "time_ns": 1_800_000_000 * 10**9,
        "power_watts": 1.0,
    }
    made.write([Batch("device_samples", "test", TABLES["device_samples"].from_rows([row]))])
    made.close()
    assert main(["top", "--once", "--store", str(tmp_path / "store")]) == 0
    assert "\na?[2J?b " in capsys.readouterr().out


def test_json_has_the_keys_of_the_manual(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--json", "--store", str(store)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == set(KEYS["top"])
    assert document["gpus"][0]["power_watts"] == 555.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--screen", "flet"], "did you mean 'fleet'"),
        (["--once", "--at", "yesterday"], "is no time"),
        (["--operator"], "a directory takes no requests"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    store: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["top", "--store", str(store), *words]) == EXIT_USAGE
    assert said in capsys.readouterr().err


def test_a_screen_whose_terminal_is_gone_ends(store: Path, open_terminal: object) -> None:
    """Whoever's ssh breaks off leaves no program behind that waits for a terminal."""
    terminal = open_terminal(80, 24, "top", "--store", str(store))  # type: ignore[operator]
    terminal.shows("node-a")
    [program] = psutil.Process(terminal.pid()).children()
    terminal.close()
    program.wait(60)
