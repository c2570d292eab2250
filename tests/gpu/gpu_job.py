"""One training process that is measured, the ring it writes, and the thread that reads the ring as the agent does."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from gpu_setup import DRY, HOOK_FOLDER, Missing, Setup

try:
    from warpline_agent.ring_file import Records, RingFile, Standing, open_ring
except ImportError as error:
    raise SystemExit(f"reading the ring needs numpy: {error}") from None
from warpline_hook import ring

ANSWER_SECONDS: Final = 180.0
"""The first use of a GPU takes long where kernels are loaded from a slow disk."""
READ_SECONDS: Final = 0.1
FLUSH_MS: Final = 100
"""As often as that the library asks CUPTI for records; the agent's own default is 500."""
CHANGE_SECONDS: Final = 20.0
KERNELS: Final = ring.KERNELS
COPIES: Final = ring.KERNELS | ring.COPIES | ring.SETS
GRAPHS: Final = ring.GRAPHS


class Job:
    """Starts it; `injected` loads the native library, `hook` the marks in Python."""

    def __init__(
        self, setup: Setup, name: str, *, injected: bool = True, hook: bool = True, **environment: str
    ) -> None:
        self.name = name
        self.folder = setup.folder / name
        self.folder.mkdir()
        self.taken: Counter[int] = Counter()
        self.kept: list[Records] = []
        self.keep = False
        self.flush_ms = FLUSH_MS
        self._silent = False
        self._reader: RingFile | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()
        told = {
            **os.environ,
            "WARPLINE_DIRECTORY": str(self.folder),
            "WARPLINE_HOOK": "1" if hook else "0",
            **environment,
        }
        told["PYTHONPATH"] = os.pathsep.join(filter(None, (HOOK_FOLDER, os.environ.get("PYTHONPATH"))))
        if injected:
            told |= {"CUDA_INJECTION64_PATH": str(setup.library), "TEARDOWN_CUPTI": "0"}
        if setup.fake_cupti:
            told |= {DRY: str(setup.fake_cupti), "WARPLINE_CUPTI": str(setup.fake_cupti), "OMP_NUM_THREADS": "1"}
        self._errors = (self.folder / "errors").open("wb")
        self._process = subprocess.Popen(
            [setup.python, str(Path(__file__).with_name("gpu_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=told,
        )

    def send(self, do: str, **how: Any) -> None:
        """Ask without waiting."""
        assert self._process.stdin
        if self._silent:
            raise Missing(f"the process {self.name} has not answered before")
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **how}).encode() + b"\n")
            self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """To what was asked; Missing where the process cannot do it or has ended."""
        assert self._process.stdout
        ready = select.select([self._process.stdout], [], [], ANSWER_SECONDS)[0]
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self._silent = True
            said = (self.folder / "errors").read_text(errors="replace").strip().splitlines()
            raise Missing(f"the process {self.name} {'ended' if ready else 'hangs'}: {said[-1] if said else 'no word'}")
        found: dict[str, Any] = json.loads(line)
        if "missing" in found:
            raise Missing(f"{self.name}: {found['missing']}")
        return found

    def ask(self, do: str, **how: Any) -> dict[str, Any]:
        """Ask and wait."""
        self.send(do, **how)
        return self.answer()

    def watch(self) -> None:
        """Read its ring from now on, all the time."""
        found = next(self.folder.glob("*.ring"), None)
        self._reader = open_ring(found) if found else None
        if self._reader is None:
            raise Missing(f"{self.name}: there is no ring: the driver has not loaded the native library")
        self._reader.say(time.monotonic_ns(), ring.control(ring.OFF, 0, flush_ms=FLUSH_MS))
        threading.Thread(target=self._follow, daemon=True).start()

    def standing(self) -> Standing:
        """What its ring says now."""
        assert self._reader is not None
        with self._lock:
            return self._reader.standing()

    def text(self, number: int) -> str | None:
        """A name of a record."""
        assert self._reader is not None
        return self._reader.text(number)

    def read(self, lane: str) -> Records:
        """New records of a lane beside the kernels."""
        assert self._reader is not None
        with self._lock:
            found = self._reader.read(lane)
            self._reader.release()
            self._reader.read_texts()
        return found

    def control(self, word: int) -> None:
        """Say what is wanted."""
        assert self._reader is not None
        with self._lock:
            self._reader.say(time.monotonic_ns(), word)

    def capture(self, what: int) -> float:
        """Have just this captured, 0 nothing; seconds until it was so."""
        begun = time.monotonic()
        self.control(ring.control(ring.FULL if what else ring.OFF, what, flush_ms=self.flush_ms))
        until(lambda: self.standing().capturing == what or self.refused(), CHANGE_SECONDS)
        if self.standing().capturing != what:
            raise Missing(f"{self.name}: capture does not become {what}: {self.why()}")
        return time.monotonic() - begun

    def why(self) -> str:
        """What the ring says of the kernels' channel."""
        assert self._reader is not None
        with self._lock:
            self._reader.read_texts()
        state, number = self.standing().channels["kernels"]
        return f"{state} {self.text(number) or ''}".strip()

    def refused(self) -> bool:
        """Whether there will be no kernels, however long one waits."""
        return self.standing().channels["kernels"][0] in ("busy", "denied", "dead")

    def records(self) -> int:
        """That CUPTI has handed over so far."""
        return self.standing().counters["records"]

    def end(self) -> None:
        """Let it end in order; its figures stay."""
        self._over.set()
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _follow(self) -> None:
        assert self._reader is not None
        while not self._over.wait(READ_SECONDS):
            with self._lock:
                self._reader.say(time.monotonic_ns())
                while len(found := self._reader.read("kernels")):
                    self.taken.update(dict(zip(*map(list, _counted(found)), strict=True)))
                    if self.keep:
                        self.kept.append(found)
                    self._reader.release()
                self._reader.read_texts()


def _counted(records: Records) -> tuple[list[int], list[int]]:
    kinds = records["kind"].tolist()
    counts = Counter(kinds)
    return list(counts), list(counts.values())


def until(reached: Callable[[], bool], seconds: float) -> bool:
    """Wait until it is so; whether it became so in time."""
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


@contextlib.contextmanager
def jobs(setup: Setup, **wanted: dict[str, Any]) -> Iterator[dict[str, Job]]:
    """Several at once, started together; the injected ones are watched. All end with the block."""
    started: dict[str, Job] = {}
    try:
        for name, how in wanted.items():
            started[name] = Job(setup, name, **how)
        for job in started.values():
            job.send("start")
        for name, job in started.items():
            about = job.answer()
            setup.say(f"{name} runs: {about['gpu']}, torch {about['torch']}")
            if wanted[name].get("injected", True):
                job.watch()
        yield started
    finally:
        for job in started.values():
            job.end()


def machine(setup: Setup) -> dict[str, Any]:
    """What there is, for the reader of the figures."""
    job = Job(setup, "look", injected=False, hook=False)
    try:
        return job.ask("start")
    finally:
        job.end()


if __name__ == "__main__":
    sys.exit("this is no script: see run.py")
