"""Programs that write rings, for tests of several files: one uses CUDA with the injection in it, one writes what it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from warpline_agent.ring_file import Records, RingFile, Standing, open_ring
from warpline_hook import ring

PATIENCE_SECONDS: Final = 60.0
ALL: Final = ring.KERNELS | ring.COPIES | ring.SETS
AT_ONCE: Final = str(ring.control(ring.FULL, ALL, flush_ms=20, unread=True))
"""For WARPLINE_CONTROL: capture from the first kernel on, also where nobody reads."""


class Trainer:
    """A training process with the injection loaded, and the agent's end of its ring."""

    def __init__(self, process: Any, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.taken: list[Records] = []
        self._reader: RingFile | None = None

    def ask(self, line: str) -> int:
        answer = self.process.ask(line)
        assert answer, f"the process ended at {line!r}"
        return int(answer)

    @property
    def reader(self) -> RingFile:
        if self._reader is None:
            (path,) = self.folder.glob("*.ring")
            self._reader = open_ring(path)
            assert self._reader is not None
        return self._reader

    def capture(self, mode: int = ring.FULL, what: int = ALL, **how: Any) -> None:
        """Ask for capture and wait until it is as asked."""
        self.say(ring.control(mode, what, **{"flush_ms": 20, **how}))
        if mode == ring.FULL:
            self.until(lambda: self.standing().capturing == what)

    def say(self, control: int) -> None:
        self.reader.say(time.monotonic_ns(), control)

    def standing(self) -> Standing:
        return self.reader.standing()

    def until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert time.monotonic() < end, f"did not happen: {self.standing()}"
            threading.Event().wait(0.005)

    def counted(self, name: str, value: int) -> None:
        """Wait until a counter has reached a value."""
        self.until(lambda: self.standing().counters[name] >= value)

    def take(self, *kinds: int) -> Records:
        """All records of the kernel lane since the start, of these kinds, released as they come."""
        self.taken.append(self.reader.read("kernels"))
        self.reader.release()
        self.reader.read_texts()
        every: Records = np.concatenate(self.taken)
        chosen: Records = every[np.isin(every["kind"], kinds)] if kinds else every
        return chosen

    def events(self, kind: int) -> Records:
        found = self.reader.read("events")
        self.reader.read_texts()
        chosen: Records = found[found["kind"] == kind]
        return chosen

    def state(self) -> tuple[str, str | None]:
        state, reason = self.standing().channels["kernels"]
        self.reader.read_texts()
        return state, self.reader.text(reason)


Start = Callable[..., Trainer]
Writer = Callable[..., Any]


@pytest.fixture
def inject(
    compile_fake: Callable[[str, str], Path],
    compile_program: Callable[..., Path],
    native_library: Path,
    drive: Callable[..., Any],
    tmp_path: Path,
) -> Start:
    """Start a program that uses CUDA; `cuda` is asked for unless told otherwise."""
    fake = compile_fake("cupti", "libcupti.so.12")
    program = compile_program("trainer")

    def start(cuda: bool = True, **environment: str) -> Trainer:
        folder = tmp_path / f"ring{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        told = {
            "FAKE_CUPTI": str(fake),
            "FAKE_CUPTI_CHECK": "1",
            "WARPLINE_CUPTI": str(fake),
            "CUDA_INJECTION64_PATH": str(native_library),
            "WARPLINE_DIRECTORY": str(folder),
            **environment,
        }
        trainer = Trainer(drive([program], {name: value for name, value in told.items() if value}), folder)
        if cuda:
            assert trainer.ask("cuda") == 1
        return trainer

    return start


@pytest.fixture
def writer(compile_program: Callable[..., Path], drive: Callable[..., Any], tmp_path: Path) -> Writer:
    """Start a process that makes a ring of 4096 records in a folder of its own; `writer(**environment)`."""
    program = compile_program("ring_writer", "ring.c")

    def start(**environment: str) -> Any:
        told = {"WARPLINE_DIRECTORY": str(tmp_path), "WARPLINE_RING_RECORDS": "4096", **environment}
        return drive([program], told)

    return start


def ring_in(folder: Path) -> RingFile:
    (path,) = folder.glob("*.ring")
    opened = open_ring(path)
    assert opened is not None
    return opened


def numbers(reader: RingFile, lane: str = "nccl") -> list[int]:
    return list(map(int, reader.read(lane)["number"]))
