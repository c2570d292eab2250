"""What `warpline top --operator` lets somebody send, and where it is refused."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from warpline_cli.aside import commands
from warpline_cli.main import main


def test_a_store_directory_takes_no_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--operator", "--store", str(tmp_path)]) == 64
    assert "takes no requests" in capsys.readouterr().err


def test_what_a_command_says_comes_back_in_a_few_lines() -> None:
    """Of the collector that the screen asks; nobody answers at this one."""
    run = commands(argparse.Namespace(collector="127.0.0.1:1", tls=None))
    said = run(("capture", "kernels", "--job", "train", "--rank", "0"))
    assert "127.0.0.1:1" in said and len(said.splitlines()) <= 4
