"""The command's edge: streams that are closed, full or narrow, signals, names that are none, libraries that are absent."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import warpline_cli.verbs.doctor
from warpline_cli.main import EXIT_BROKEN, EXIT_OUTPUT, EXIT_USAGE, main

COMMAND = [sys.executable, "-m", "warpline_cli.main"]
SECONDS_MAX = 180.0


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Under nohup SIGHUP would be ignored by all that a test starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of sh in `folder`; $W is the command."""
    told = {**os.environ, "W": " ".join(COMMAND), **environment}
    return subprocess.run(
        ["sh", "-c", line], cwd=folder, env=told, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    """A folder with one small input that is read and judges nothing, so that `analyze` ends with 3."""
    (tmp_path / "meta-X.yaml").write_text("trial_name: X\npp_size: 1\nworld_size: 8\n")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$W analyze . >&-", 3),
        ("$W analyze . <&- >/dev/null", 3),
        ("$W analyze . >/dev/full", EXIT_OUTPUT),
        ("$W --help >/dev/full", EXIT_OUTPUT),
        ("$W config path <&- >&- 2>&-", 0),
        ("$W no-such-verb 2>/dev/full", EXIT_USAGE),
        ("$W analyze /nonexistent 2>/dev/full", 65),
        ("$W sql - --store . <&-", EXIT_USAGE),
    ],
)
def test_a_stream_that_is_closed_or_full_is_no_traceback_and_no_verdict(meta: Path, line: str, code: int) -> None:
    done = shell(line, meta)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_leaves_early_is_not_told_about_it(meta: Path) -> None:
    """`warpline ... | head -1`, also where everything fits into one write."""
    done = shell("{ $W analyze --json .; echo $? >&2; } | true", meta)
    assert done.stderr.split()[-1] in ("3", "141")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_terminal_without_umlauts_gets_escapes_and_json_stays_json(meta: Path) -> None:
    named = "größe\udcff.log"
    (meta / named).write_bytes(b"hello\n")
    text = shell("$W analyze .", meta, PYTHONIOENCODING="ascii")
    assert text.returncode == 3
    assert r"gr\xf6\xdfe" in text.stdout
    told = shell("$W analyze --json .", meta, PYTHONIOENCODING="ascii")
    assert json.loads(told.stdout)["inputs"][0]["path"].startswith("größe")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_temporary_folder(tmp_path: Path, number: signal.Signals) -> None:
    """The store is open when the signal comes."""
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    script = (
        "import sys, warpline_collector.stores.duckdb as home\n"
        "real = home.DuckDBStore\n"
        "def opened(folder):\n"
        "    store = real(folder)\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.read()\n"
        "    return store\n"
        "home.DuckDBStore = opened\n"
        "from warpline_cli.main import main\n"
        "raise SystemExit(main(['analyze', '/dev/null']))\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(rooms)},
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    child.send_signal(number)
    assert child.communicate(timeout=SECONDS_MAX)[1] == ""
    assert child.returncode == 128 + number
    assert list(rooms.iterdir()) == []


@pytest.mark.parametrize("named", ["", "loop", "x" * 300, "file/below", "fifo"])
def test_a_path_that_is_no_file_is_refused_with_a_reason(
    tmp_path: Path, named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty name, as an unset variable gives, does not mean the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    assert main(["analyze", "--json", named]) == 65
    [item] = json.loads(capsys.readouterr().out)["inputs"]
    assert (item["path"], item["status"]) == (named, "refused")
    assert item["reason"]


def test_a_fault_of_warpline_is_never_a_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exit code of 1 would say `warning` to whoever runs `analyze` in a script."""

    def broken(options: Any) -> int:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(warpline_cli.verbs.doctor, "run", broken)
    assert main(["doctor"]) == EXIT_BROKEN
    told = capsys.readouterr().err
    assert "ZeroDivisionError" in told
    assert told.splitlines()[-1].startswith("warpline doctor: this is a fault of warpline")


@pytest.mark.parametrize("closed", ["2>/dev/full", "2>&-"])
def test_a_log_that_cannot_be_written_stops_no_daemon(tmp_path: Path, closed: str) -> None:
    """The disk of the journal is full: collector and agent go on, and end as told."""
    where = f"--listen unix:{tmp_path}/c --store {tmp_path}/store"
    script = (
        f"WARPLINE_ALIVE_FILE=c-works $W collector {where} {closed} & C=$!; "
        f"WARPLINE_ALIVE_FILE=a-works $W agent --collector unix:{tmp_path}/c --spool-directory {tmp_path}/spool --source host "
        f"{closed} & A=$!; until [ -e c-works ] && [ -e a-works ]; do sleep 0.1; done; "
        f"$W top --once --collector unix:{tmp_path}/c >/dev/null 2>&1; echo $?; "
        "kill $A; wait $A; echo $?; kill $C; wait $C; echo $?"
    )
    done = shell(script, tmp_path)
    assert done.stdout.split() == ["0", "0", "0"]


@pytest.mark.parametrize("columns", [10, 40, 200])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_closes_the_screen_cleanly(columns: int, number: signal.Signals) -> None:
    """However narrow the terminal is; it is given back as it was found."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (12, columns))
    child = subprocess.Popen(
        [*COMMAND, "top", "--collector", "127.0.0.1:1"],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    drawn = b""
    while b"\x1b[?1049h" not in drawn:  # the other screen of the terminal
        drawn += os.read(ours, 65_536)
    child.send_signal(number)
    with contextlib.suppress(OSError):  # the terminal is gone with its last user
        while piece := os.read(ours, 65_536):
            drawn += piece
    assert child.wait(SECONDS_MAX) == 128 + number
    assert b"Traceback" not in drawn
    assert drawn.rindex(b"\x1b[?1049l") > drawn.rindex(b"\x1b[?1049h")
    os.close(ours)


@pytest.mark.parametrize("words", ["top", "demo --tui"])
def test_a_screen_needs_a_terminal(tmp_path: Path, words: str) -> None:
    """Into a pipe it would write nothing but control characters."""
    done = shell(f"$W {words}", tmp_path)
    assert done.stdout == ""
    assert "this is no terminal to draw on (`warpline top --once` prints the fleet as text)" in done.stderr


NEEDS = [
    (["findings"], "pyarrow", "warpline findings needs pyarrow: pip install 'warpline[collector]'"),
    (["top"], "textual", "warpline top needs textual: pip install 'warpline[tui]'"),
    (["top", "--store", "."], "duckdb", "warpline top needs duckdb: pip install 'warpline[collector]'"),
    (["analyze", "."], "duckdb", "warpline analyze needs duckdb: pip install 'warpline[analyze]'"),
    (["demo"], "duckdb", "warpline demo needs duckdb: pip install 'warpline[all]'"),
    (["demo", "--tui"], "textual", "warpline demo needs textual: pip install 'warpline[all]'"),
]


@pytest.mark.parametrize(("words", "library", "sentence"), NEEDS)
def test_a_library_that_is_absent_is_one_sentence(meta: Path, words: list[str], library: str, sentence: str) -> None:
    assert without(library, words, meta) == (EXIT_USAGE, "", f"{sentence}\n")


def test_an_agents_machine_checks_its_own_half_of_the_file(meta: Path) -> None:
    """The database is not installed where only an agent runs."""
    (meta / "config.toml").write_text('[agent]\nnode = "n"\n[collector]\nlisten = "[::]:1"\n')
    code, told, aside = without("duckdb", ["config", "validate", "--config", "config.toml"], meta)
    assert (code, told) == (0, "valid: config.toml\n")
    assert aside == "section [collector] is left out without duckdb\n"


def test_doctor_runs_where_nothing_is_installed(meta: Path) -> None:
    code, told, aside = without("pyarrow", ["doctor", "--collector", "127.0.0.1:1"], meta)
    assert (code in (0, 1), aside) == (True, "")
    assert "pip install 'warpline[agent]'" in told


def without(library: str, words: list[str], folder: Path) -> tuple[int, str, str]:
    """Exit code and output of the command in an interpreter that cannot find `library`."""
    script = (
        "import importlib.abc, sys\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name.partition('.')[0] == {library!r}:\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import importlib.util as finder\n"
        "real = finder.find_spec\n"
        f"finder.find_spec = lambda name, package=None: None if name == {library!r} else real(name, package)\n"
        "from warpline_cli.main import main\n"
        "raise SystemExit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=folder, capture_output=True, text=True, timeout=SECONDS_MAX, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr
