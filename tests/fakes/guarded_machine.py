"""A made-up machine on which power guards are started and killed, with clocks that outlive those who set them."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

PATIENCE_SECONDS = 60.0
KILLED = Path(__file__).parent / "guard_killed.py"
IDLE = "gpus 1\ngpu * power 105\ngpu * low_power 61 35\ngpu * processes 1\n"
WORK = f"{IDLE}gpu 0 util 83\n"


class Clocks(NamedTuple):
    """What the machine knows of one GPU: locked ranges (0: unlocked), and how often it was locked and unlocked."""

    sm_low: int
    sm_high: int
    memory_low: int
    memory_high: int
    locked: int
    unlocked: int

    @property
    def low(self) -> bool:
        return bool(self.sm_high or self.memory_high)


class Machine:
    """A node with GPUs, on which guards are started and killed."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.clocks_file = folder / "clocks"
        self.script = folder / "node.txt"
        self.settings = folder / "config.toml"
        self.library = library
        self.started: list[subprocess.Popen[str]] = []
        self.configure()
        self.say(IDLE)

    def configure(self, nodes: str = '"node1"', **settings: Any) -> None:
        given = {"period_seconds": 0.05, "trigger_seconds": 0.2, "cooldown_seconds": 0.2, **settings}
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in given.items())
        self.settings.write_text(
            f'[agent]\nnode = "node1"\n[agent.guard]\nnodes = [{nodes}]\nstate_directory = "{self.state}"\n{lines}'
            f'[sources.nvml]\nlibrary_directory = "{self.library.parent}"\nopen_seconds = {PATIENCE_SECONDS}\n'
        )

    def say(self, text: str) -> None:
        """Change the script of the running node, in one step."""
        fresh = self.script.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.script)

    def guard(self, *flags: str) -> subprocess.Popen[str]:
        return self.start("-m", "warpline_cli.main", "power", "guard", "--config", str(self.settings), *flags)

    def killed_at(self, point: str, watchdog_too: bool) -> subprocess.Popen[str]:
        words = ("power", "guard", "--config", str(self.settings), "--live", "--memory")
        return self.start(str(KILLED), point, "yes" if watchdog_too else "no", *words)

    def start(self, *words: str) -> subprocess.Popen[str]:
        child = subprocess.Popen([sys.executable, *words], env=self.environment(), stderr=subprocess.PIPE, text=True)
        self.started.append(child)
        return child

    def restore(self, *flags: str) -> subprocess.CompletedProcess[str]:
        words = ("power", "restore", "--config", str(self.settings), *flags)
        command = [sys.executable, "-m", "warpline_cli.main", *words]
        return subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=60, check=False)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "FAKE_NVML_SCRIPT": str(self.script), "FAKE_NVML_CLOCKS": str(self.clocks_file)}

    def clocks(self, index: int = 0) -> Clocks:
        content = self.clocks_file.read_bytes() if self.clocks_file.exists() else b""
        return Clocks(*struct.unpack_from("6i", content, 24 * index)) if content else Clocks(0, 0, 0, 0, 0, 0)

    def set_clocks(self, index: int, *values: int) -> None:
        """As if somebody else had locked them."""
        content = bytearray(16 * 24)
        struct.pack_into("4i", content, 24 * index, *values)
        self.clocks_file.write_bytes(content)

    def rows(self, action: str = "") -> list[dict[str, Any]]:
        journal = self.state / "actions.jsonl"
        lines = journal.read_text().splitlines() if journal.exists() else []
        return [row for row in map(json.loads, lines) if action in ("", row["action"])]

    def recorded(self) -> list[dict[str, Any]]:
        record = self.state / "lowered.json"
        return json.loads(record.read_text())["gpus"] if record.exists() else []

    def processes(self, module: str = "") -> list[psutil.Process]:
        """Everything that runs on this machine, or what runs one module."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("FAKE_NVML_CLOCKS") == str(self.clocks_file)
                if ours and process.status() != psutil.STATUS_ZOMBIE and module in " ".join(process.cmdline()):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    def until(self, reached: Callable[[], bool], meaning: str) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            told = self.rows()
            assert time.monotonic() < end, f"never {meaning}: {told}, {self.clocks()}, {self.recorded()}"
            threading.Event().wait(0.02)

    def low(self, index: int = 0) -> None:
        self.until(lambda: self.clocks(index).low, "lowered")

    def up(self, index: int = 0) -> None:
        self.until(lambda: not self.clocks(index).low, "restored")

    def ends(self, guard: subprocess.Popen[str]) -> str:
        """What it said, once it has ended."""
        return guard.communicate(timeout=PATIENCE_SECONDS)[1]

    def quiet(self) -> None:
        """Nothing of a guard runs any more, so that nothing changes any more."""
        self.until(lambda: not self.processes(), "quiet")

    def restored(self) -> None:
        """All is quiet, unlocked, and nothing is left in the record."""
        self.quiet()
        assert not self.clocks().low
        assert self.recorded() == []

    def close(self) -> None:
        for process in self.processes():
            process.kill()
        for child in self.started:
            child.communicate(timeout=PATIENCE_SECONDS)
