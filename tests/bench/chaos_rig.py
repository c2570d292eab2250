"""What the chaos bench runs: a collector, agents and the verifier as processes, on small disks that can be filled."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
from chaos_probe import Page

BENCH: Final = Path(__file__).parent
START_SECONDS: Final = 60.0
DISK_BYTES: Final = 768 * 1024 * 1024
LEFT_BYTES_MAX: Final = 96 * 1024
_CONFIG: Final = """
[collector]
directory = "{store}"
listen = "127.0.0.1:{port}"
[collector.store]
seal_rows = 6000
direct_rows = 300
merge_rows = 12000
seal_seconds = 4.0
compact_files = 3
chunks_max = 6
grace_seconds = 10.0
[collector.sql]
workers = 1
[collector.analysis]
period_seconds = 30.0
"""


class Disk:
    """A tmpfs of DISK_BYTES, or a plain folder where none may be mounted: then the shim says that the disk is full."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "chaos", str(path)]
        try:
            self.mounted = subprocess.run(command, capture_output=True).returncode == 0
        except FileNotFoundError:
            self.mounted = False
        self._ballast = path / "ballast"

    def fill(self, left_bytes: int, pages: Iterator[Page]) -> None:
        """Leave hardly any room."""
        if not self.mounted:
            for page in pages:
                page.put("full", 1)
            return
        with self._ballast.open("wb") as stream:
            while (room := _room(self.path) - left_bytes) > 0:
                with contextlib.suppress(OSError):  # somebody else was quicker: less is left than there was
                    os.posix_fallocate(stream.fileno(), stream.seek(0, os.SEEK_END), room)

    def free(self, pages: Iterator[Page]) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)
        for page in pages:
            page.put("full", 0)

    def close(self) -> None:
        """Let it go."""
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.path)], check=True)


class Program:
    """A process that is killed and started again, watched by the shim, with its output in a file."""

    def __init__(self, name: str, folder: Path, shim: Path, command: list[str], ready: str = "") -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._folder = folder
        self._shim = shim
        self._command = command
        self._ready = ready
        self._count = 0
        self.start()

    def start(self) -> None:
        """Begin anew, with a new page."""
        self._count += 1
        self.page = Page(self._folder / f"{self.name}-{self._count}.page")
        self._begun = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.page.environment(self._shim)},
            )

    @property
    def ready(self) -> bool:
        """Whether this start of it said so."""
        return self._ready.encode() in self.log.read_bytes()[self._begun :]

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def until_ready(self, seconds: float) -> bool:
        """Whether it became ready in that time; False at once if it ended."""
        return until(lambda: self.ready or not self.alive, seconds) and self.ready

    def said(self) -> str:
        """Its last words."""
        return self.log.read_text(errors="replace")[-2_000:]

    def workers(self) -> list[psutil.Process]:
        """Its SQL workers."""
        children = psutil.Process(self.process.pid).children()
        return [each for each in children if "warpline_collector.worker" in each.cmdline()]

    def end(self, number: int, seconds: float) -> int:
        """Its exit status after a signal; SIGKILL if it takes longer."""
        self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Verifier:
    """The other end of `chaos_verifier.py`."""

    def __init__(self, collector_port: int) -> None:
        command = [sys.executable, str(BENCH / "chaos_verifier.py"), str(collector_port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = self._read()

    def ask(self, ask: str, **request: Any) -> Any:
        """The answer to one request."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"ask": ask, **request}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=30)

    def _read(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the verifier ended")
        return json.loads(line)


class Rig:
    """Everything of one epoch, in a folder of its own."""

    def __init__(self, folder: Path, shim: Path, agents: int) -> None:
        self.folder = folder
        self.agents: list[Program] = []
        folder.mkdir(parents=True)
        self.disks = {name: Disk(folder / name) for name in ("collector", "agent")}
        self.store = folder / "collector" / "store"
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        config = folder / "warpline.toml"
        config.write_text(_CONFIG.format(store=self.store, port=port))
        self.verifier = Verifier(port)
        self.verifier.ask("journal", path=str(folder / "acks.journal"))
        command = ["-m", "warpline_cli.main", "collector", "--config", str(config)]
        self.collector = Program("collector", folder, shim, command, "collector ready")
        self.agents += [self._agent(f"node-{number}", shim) for number in range(agents)]

    @property
    def spool_journals(self) -> list[str]:
        """What the agents say they kept."""
        return [str(self.folder / f"{each.name}.journal") for each in self.agents]

    def pages(self, of: str) -> Iterator[Page]:
        """Pages of the collector, or of the agents."""
        yield from (each.page for each in ([self.collector] if of == "collector" else self.agents))

    def close(self) -> None:
        """End what runs."""
        for program in (*self.agents, self.collector):
            if program.alive:
                program.end(signal.SIGKILL, 10.0)
        self.verifier.close()
        for disk in self.disks.values():
            disk.close()

    def _agent(self, name: str, shim: Path) -> Program:
        spool, journal = self.folder / "agent" / "spool" / name, self.folder / f"{name}.journal"
        journal.touch()
        proxy = f"127.0.0.1:{self.verifier.port}"
        command = [str(BENCH / "chaos_agent.py"), name, proxy, str(spool), str(journal)]
        return Program(name, self.folder, shim, command)


@contextmanager
def running(folder: Path, shim: Path, agents: int) -> Iterator[Rig]:
    """A rig that is ended whatever happens."""
    rig = Rig(folder, shim, agents)
    try:
        if not rig.collector.until_ready(START_SECONDS):
            raise RuntimeError(f"no collector: {rig.collector.said()}")
        yield rig
    finally:
        rig.close()


def _room(path: Path) -> int:
    state = os.statvfs(path)
    return state.f_bavail * state.f_frsize


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in that time."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return met
