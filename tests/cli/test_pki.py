"""`warpline pki`: what an operator without an authority relies on."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from warpline_cli.main import main
from warpline_cli.pki.keeping import Keeping
from warpline_proto.errors import ConfigError
from warpline_proto.tls import Tls, read


@pytest.fixture
def directory(tmp_path: Path) -> str:
    assert main(["pki", "init", "--directory", str(tmp_path / "pki")]) == 0
    return str(tmp_path / "pki")


def issue(directory: str, *words: str) -> int:
    return main(["pki", "issue", *words, "--directory", directory])


def test_a_certificate_says_whose_it_is_and_only_its_owner_can_read_the_key(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert issue(directory, "--agent", "node-1", "gpu/2") == 0
    assert issue(directory, "--collector", "c.test,10.0.0.7") == 0
    folders = capsys.readouterr().out.split()
    held = [read(Tls.within(folder)).told for folder in folders]
    assert [each.identity() for each in held] == [("agent", "node-1"), ("agent", "gpu/2"), ("collector", "c.test")]
    assert 396 < (held[0].end_ns / 1e9 - datetime.now(UTC).timestamp()) / 86_400 <= 397
    for folder in (*map(Path, folders), Path(directory, "authority")):
        assert stat.S_IMODE(os.stat(folder / "key.pem").st_mode) == 0o600
        assert stat.S_IMODE(os.stat(folder.resolve()).st_mode) == 0o700


def test_nothing_is_ever_written_over(directory: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert issue(directory, "--viewer", "anna") == 0
    key = Path(directory, "issued", "viewer-anna", "key.pem")
    before = key.read_bytes()
    assert issue(directory, "--viewer", "anna") == 64
    assert main(["pki", "init", "--directory", directory]) == 64
    assert key.read_bytes() == before
    assert "is there already" in capsys.readouterr().err


def test_what_is_renewed_leaves_the_one_before_where_it_was(directory: str, capsys: pytest.CaptureFixture[str]) -> None:
    issue(directory, "--viewer", "anna")
    old = Path(directory, "issued", "viewer-anna").resolve()
    before = (old / "key.pem").read_bytes()
    assert main(["pki", "rotate", "--directory", directory]) == 0
    new = Path(directory, "issued", "viewer-anna").resolve()
    assert (old / "key.pem").read_bytes() == before != (new / "key.pem").read_bytes()


def test_the_steps_of_a_change_of_authority_are_taken_in_order(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    issue(directory, "--viewer", "anna")
    assert main(["pki", "rotate", "--finish", "--directory", directory]) == 64
    assert "there is no older authority" in capsys.readouterr().err
    assert main(["pki", "rotate", "--authority", "--directory", directory]) == 0
    assert main(["pki", "rotate", "--authority", "--directory", directory]) == 64
    assert "not finished" in capsys.readouterr().err
    assert main(["pki", "show", "--directory", directory, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["certificates"]
    assert [row["role"] for row in shown] == ["authority", "authority", "viewer"]
    assert main(["pki", "rotate", "--finish", "--directory", directory]) == 0
    assert main(["pki", "show", "--directory", directory]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if " in " in line] == ["authority", "viewer"]


def test_a_change_that_was_cut_off_is_gone_on_with_before_it_is_finished(tmp_path: Path) -> None:
    kept = Keeping(tmp_path)
    kept.start(100)
    kept.issue("viewer", "anna")
    kept.succeed(100)
    with pytest.raises(ConfigError, match="1 certificates are of the older authority"):
        kept.finish()
    assert [each.name for each in kept.renew(timedelta(0))] == ["anna"]
    kept.finish()


def test_keys_that_nobody_uses_any_more_go_when_their_time_is_over(tmp_path: Path) -> None:
    early = Keeping(tmp_path, lambda: datetime.now(UTC) - timedelta(days=10))
    early.start(100)
    early.issue("viewer", "anna", days=2)
    kept = Keeping(tmp_path)
    kept.renew()
    assert len(list((tmp_path / "generations").iterdir())) == 2, "the authority and the new one"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["issue", "--viewer", "a\nb"], "is no name"),
        (["issue", "--collector", "ü.test"], "cannot stand in a certificate"),
        (["issue", "--viewer", "anna", "--days", "0"], "1 to 3650"),
        (["issue", "--viewer", "anna", "--days", "9999"], "1 to 3650"),
    ],
)
def test_what_cannot_be_issued_is_said(
    directory: str, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["pki", *words, "--directory", directory]) == 64
    assert said in capsys.readouterr().err
    assert not list(Path(directory, "issued").iterdir())


def test_without_an_authority_it_is_said_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pki", "show", "--directory", str(tmp_path)]) == 64
    assert "warpline pki init" in capsys.readouterr().err
