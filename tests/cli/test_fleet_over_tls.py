"""Two hosts, as the README has them: real processes, certificates by `warpline pki`, nothing in plain text."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from warpline_cli.main import main
from warpline_cli.processes import free_address

WAIT_SECONDS = 90.0
ANYWHERE = "0.0.0.0"
"""Not loopback, so that nobody speaks in plain text; and reached from here as well as anywhere."""


class Fleet:
    """A collector for other machines and one agent, with the settings of each in a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"{ANYWHERE}:{free_address().rpartition(':')[2]}"
        self.children: list[subprocess.Popen[str]] = []
        assert self.run("pki", "init", "--directory", str(folder / "pki"))[0] == 0
        self.issue("--collector", ANYWHERE)
        self.issue("--agent", "node-1", "node-2")
        self.issue("--viewer", "anna")

    def issue(self, *words: str) -> None:
        assert self.run("pki", "issue", *words, "--directory", str(self.folder / "pki"))[0] == 0

    def certificate(self, name: str) -> str:
        return str(self.folder / "pki" / "issued" / name)

    def settings(self, name: str, text: str, certificate: str = "") -> str:
        path = self.folder / f"{name}.toml"
        if certificate:
            files = ("certificate", "key", "authority")
            text += "\n[tls]\n" + "".join(f'{each} = "{self.certificate(certificate)}/{each}.pem"\n' for each in files)
        path.write_text(text)
        return str(path)

    def agent(self, name: str, certificate: str) -> str:
        return self.settings(
            name,
            f'[agent]\nnode = "node-1"\ncollector = "{self.address}"\nspool_directory = "{self.folder}/spool-{name}"\n'
            'sources = ["synthetic"]\n',
            certificate,
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        """A command that ends: its exit code, what it printed, what it told."""
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as told:
            code = main(words)
        return code, out.getvalue(), told.getvalue()

    def start(self, *words: str) -> subprocess.Popen[str]:
        child = subprocess.Popen([sys.executable, "-m", "warpline_cli.main", *words], stderr=subprocess.PIPE, text=True)
        self.children.append(child)
        assert child.stderr is not None
        assert "ready" in child.stderr.readline()
        return child

    def ask(self, sql: str, who: str) -> tuple[int, Any]:
        where = ("--collector", self.address, "--tls", self.certificate(who))
        code, out, told = self.run("sql", sql, "--format", "json", *where)
        return code, json.loads(out) if code == 0 else told


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    for child in made.children:
        child.terminate()
        assert child.wait(WAIT_SECONDS) == 0
        assert child.stderr is not None
        child.stderr.close()


def until(condition: Callable[[], bool]) -> bool:
    """Wait for what another process does, WAIT_SECONDS at most."""
    end = time.monotonic() + WAIT_SECONDS
    pause = threading.Event()
    while not condition() and time.monotonic() < end:
        pause.wait(0.2)
    return condition()


def test_an_agent_a_collector_and_a_viewer_on_three_hosts(fleet: Fleet) -> None:
    collector = f'[collector]\nlisten = "{fleet.address}"\ndirectory = "{fleet.folder}/store"\n'
    code, _, told = fleet.run("collector", "--config", fleet.settings("bare", collector))
    assert code == 64
    assert "takes in other machines" in told and "warpline pki" in told
    fleet.start("collector", "--config", fleet.settings("collector", collector, f"collector-{ANYWHERE}"))

    code, _, told = fleet.run("agent", "--config", fleet.agent("bare", ""))
    assert (code, "there is no certificate to show it" in told) == (64, True)
    code, _, told = fleet.run("agent", "--config", fleet.agent("posing", "agent-node-2"))
    assert (code, "is the certificate of agent node-2, and this is node node-1" in told) == (64, True)
    fleet.start("agent", "--config", fleet.agent("agent", "agent-node-1"))

    sql = "SELECT DISTINCT node FROM device_samples"
    assert until(lambda: fleet.ask(sql, "viewer-anna") == (0, [{"node": "node-1"}]))
    code, told = fleet.ask(sql, "agent-node-1")
    assert (code, "agent node-1 may not ask" in told) == (64, True)
    code, _, told = fleet.run("sql", sql, "--collector", fleet.address)
    assert (code, "there is no certificate to show it" in told) == (64, True)
    code, _, told = fleet.run("status", "--collector", fleet.address.replace(ANYWHERE, "127.0.0.1"))
    assert (code, "speaks TLS: call it by its host name" in told) == (64, True)
    wanted = ("--job", "j", "--rank", "0", "--node", "node-1", "--from", "1")
    where = ("--collector", fleet.address, "--tls", fleet.certificate("viewer-anna"))
    code, _, told = fleet.run("capture", *wanted, *where)
    assert (code, "viewer anna may not push" in told) == (64, True)
    checks = json.loads(fleet.run("doctor", "--json", *where)[1])["checks"]
    by_id = {check["id"]: check for check in checks}
    assert by_id["certificates"]["detail"].startswith("viewer anna, ends in 39")
    assert by_id["collector"]["state"] == "ok"
