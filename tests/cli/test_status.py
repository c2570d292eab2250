"""`warpline status` as somebody reads it who was called in the night, and what a service supervisor hears of the verbs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from warpline_cli.main import main
from warpline_cli.processes import free_address
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.tables import AGENTS

WELL = {
    "troubles": [],
    "detail": "",
    "version": "1.0",
    "clock_offset_ns": 2_000_000,
    "cpu_percent": 1.5,
    "rss_bytes": 1 << 27,
}


def judged(folder: Path, *agents: dict[str, Any], age_seconds: float = 5.0) -> str:
    """A store in which the collector judged these agents so long ago."""
    now_ns = time.time_ns() - int(age_seconds * 1e9)
    rows = [{**WELL, "time_ns": now_ns, "heard_ns": now_ns - 10**9, **agent} for agent in agents]
    store = DuckDBStore(folder)
    store.write([Batch("agents", "collector", AGENTS.from_rows(rows))])
    store.close()
    return str(folder)


def test_what_is_wrong_comes_first_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late = {"agent": "node-7", "troubles": ["late"], "detail": "nothing came of it for 4 min", "version": "0.9"}
    where = judged(tmp_path, {"agent": "node-1"}, {"agent": "node-2"}, late)
    assert main(["status", "--store", where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 of 3 agents late: node-7"
    assert "systemctl status warpline-agent" in lines[1]
    assert lines[2].startswith("2 of 3 agents are well")
    assert lines[3] == "Versions of agents: 1.0 (2), 0.9 (1)"
    assert lines[-1].startswith("node-7  ") and lines[-1].endswith("nothing came of it for 4 min")
    assert not any(line.startswith("node-1 ") for line in lines)
    assert main(["status", "--store", where, "--all"]) == 0
    assert "node-1 " in capsys.readouterr().out


def test_a_fleet_of_which_much_is_wrong_fits_a_screen_gravest_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1,250 agents, all with some trouble; --all tells of each."""
    wrong = [["reduced"], ["late"], ["skewed", "over_budget"], ["dropping"]]
    where = judged(tmp_path, *({"agent": f"node-{at:04d}", "troubles": wrong[at % 4]} for at in range(1_250)))
    assert main(["status", "--store", where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 70 and lines[-1] == "and 1210 more: `warpline status --all`"
    shown = [line.split()[0] for line in lines if line.startswith("node-")]
    assert shown == [f"node-{at:04d}" for at in range(1, 161, 4)]
    assert any("is the collector short of CPU or disk?" in line for line in lines)
    assert main(["status", "--store", where, "--all"]) == 0
    every = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("node-")]
    assert len(every) == 1_250 and every[-1] == "node-1248"


def test_the_newest_judgement_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dropping = {"agent": "node-1", "troubles": ["dropping"], "detail": "7 rows fell off", "dropped": 7}
    judged(tmp_path, dropping, age_seconds=60)
    assert main(["status", "--store", judged(tmp_path, {"agent": "node-1"}), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["troubled"] == {}
    assert told["versions"] == {"1.0": 1}
    assert [agent["agent"] for agent in told["agents"]] == ["node-1"]
    assert told["collector"] is None


def test_a_store_that_nobody_writes_is_said_to_be_old(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Well three hours ago is not well."""
    assert main(["status", "--store", judged(tmp_path, {"agent": "node-1"}, age_seconds=3 * 3_600)]) == 0
    assert capsys.readouterr().out.startswith("THIS IS HOW IT STOOD 3 h ago: no collector has written since.\n")


def test_an_empty_store_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DuckDBStore(tmp_path).close()
    assert main(["status", "--store", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("No agent has sent anything yet")


def read_all(link: socket.socket) -> None:
    """What waits in a socket, away."""
    with contextlib.suppress(BlockingIOError):
        while link.recv(1_000, socket.MSG_DONTWAIT):
            pass


def test_agent_and_collector_tell_their_supervisor_when_they_work_and_that_they_live(tmp_path: Path) -> None:
    """READY only once frames are taken, signs of life while the loop turns, and the end."""
    address = free_address()
    settings = tmp_path / "warpline.toml"
    settings.write_text(
        f'[agent]\nnode = "node0"\ncollector = "{address}"\nspool_directory = "{tmp_path}/spool"\ndrain_seconds = 2\n'
        f'sources = ["synthetic"]\n[collector]\nlisten = "{address}"\ndirectory = "{tmp_path}/store"\n'
    )
    for verb in ("collector", "agent"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.bind(str(tmp_path / verb))
            link.settimeout(60)
            environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / verb), "WATCHDOG_USEC": "400000"}
            command = [sys.executable, "-m", "warpline_cli.main", verb, "--config", str(settings)]
            with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as child:
                heard = [link.recv(1_000).decode() for _ in range(3)]
                if verb == "collector":
                    assert main(["status", "--collector", address]) == 0
                child.send_signal(signal.SIGTERM)
                while heard[-1] != "STOPPING=1":
                    heard.append(link.recv(1_000).decode())
                assert child.wait(60) == 0
        ready = [each for each in heard if each.startswith("READY=1\nSTATUS=")]
        assert len(ready) == 1 and address in ready[0]
        assert heard.count("WATCHDOG=1") >= 2
