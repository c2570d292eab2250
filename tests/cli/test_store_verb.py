"""`warpline store`: what an operator types when a disk has failed, before an upgrade, and at night."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from warpline_cli.main import main
from warpline_collector.stores.duckdb import Config, DuckDBStore
from warpline_proto.batch import Frame

MakeFrame = Callable[..., Frame]


@pytest.fixture
def place(tmp_path: Path, make_frame: MakeFrame) -> Path:
    """Three segments of 12 rows."""
    directory = tmp_path / "store"
    store = DuckDBStore(directory, Config(seal_rows=12))
    for sequence in range(1, 13):
        store.append([make_frame(sequence)])
        store.maintain()
    store.close()
    return directory


def test_check_repair_compact_and_backup_as_they_are_typed(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "check", "--store", str(place)]) == 0
    assert "3 segments, 36 rows" in capsys.readouterr().out
    assert main(["store", "backup", "--json", "--store", str(place), str(tmp_path / "copy")]) == 0
    assert json.loads(capsys.readouterr().out)["linked"] == 3
    broken = sorted((place / "segments" / "steps").glob("*"))[0]
    broken.unlink()
    assert main(["store", "check", "--store", str(place)]) == 1
    told = capsys.readouterr()
    assert f"missing   segments/steps/{broken.name}" in told.out
    assert "warpline store repair" in told.err
    assert main(["store", "repair", "--json", "--store", str(place)]) == 1
    assert json.loads(capsys.readouterr().out)["rows"] == 12
    assert main(["store", "repair", "--store", str(place)]) == 0
    assert "nothing to repair" in capsys.readouterr().out
    assert main(["store", "compact", "--json", "--store", str(place)]) == 0
    assert json.loads(capsys.readouterr().out) == {"fewer": 1}
    assert main(["store", "check", "--json", "--store", str(tmp_path / "copy")]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 36


def test_mistakes_are_one_sentence(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory that is no store is not made one, and a store with a collector on it is not repaired."""
    for subverb in ("check", "repair", "compact"):
        assert main(["store", subverb, "--store", str(tmp_path / "nowhere")]) == 64
        assert "no store at" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
    store = DuckDBStore(place)
    assert main(["store", "repair", "--store", str(place)]) == 64
    assert "another collector writes to" in capsys.readouterr().err
    store.close()
    config = tmp_path / "warpline.toml"
    config.write_text('[collector.retention]\nsteps = "two weeks"\n')
    assert main(["store", "check", "--config", str(config), "--store", str(place)]) == 64
    assert "steps 'two weeks' is neither" in capsys.readouterr().err
