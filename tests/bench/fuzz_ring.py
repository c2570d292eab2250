"""Rings as fuzzing sees them: files that a process made up, and that change between one read of the agent and the next.

An input is a list of edits to a sound ring, eleven bytes each: when (a round, or one of the reads within it), where (a word), and
what stands there from then on. The clock stands still but for a second a round; another ring beside it, which is sound, has to be
read whole whatever the first one holds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from fuzz_engine import Broken, changed, word

from warpline_agent import ring_file
from warpline_agent.ring_file import RECORD
from warpline_agent.source import Rows
from warpline_agent.sources.kernels import KernelsConfig, TrainingKernels
from warpline_hook import layout, ring
from warpline_hook.process import Process, start_ticks

EDIT: Final = struct.Struct("<BHQ")
CAPACITY: Final = 64
TEXTS: Final = 1024
SIZE: Final = ring.HEADER_BYTES + 3 * CAPACITY * ring.RECORD_BYTES + TEXTS
ROUNDS: Final = 4
READS: Final = 90
"""Of one run, about."""


NOW_NS: Final = 1_800_000_000 * 10**9
RECORDS: Final = 40
CUT: Final = 2**16 - 1
"""In place of a word: the file is cut to so many bytes."""
_WORDS: Final = (NOW_NS, NOW_NS - 10**9, NOW_NS + 10**9, CAPACITY, RECORDS, SIZE, 1 << 32 | 9, ring.KERNELS)


class RingTarget:
    """The source that reads rings."""

    name = "ring"
    seconds_max = 20.0
    growth_bytes_max = 256 * 1024 * 1024

    def __init__(self) -> None:
        memory = Path("/dev/shm")
        self._root = Path(tempfile.mkdtemp(prefix="warpline-fuzz-", dir=memory if memory.is_dir() else None))
        self._namespace = Path("/proc/self/ns/pid").stat().st_ino
        self._mine = Process(os.getpid(), start_ticks(os.getpid()), self._namespace)
        self._gone = (Process(4_000_001, 5, self._namespace), Process(4_000_002, 5, self._namespace))

    def __del__(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)

    def draw(self, random: Random) -> bytes:
        """Edits at places that matter."""
        edits = [_edit(random) for _ in range(random.choice((0, 1, 2, 8, 40)))]
        return bytes([random.randrange(256)]) + b"".join(EDIT.pack(*each) for each in edits)

    def mutate(self, data: bytes, random: Random) -> bytes:
        """Edits changed, added, or in another order."""
        kind = random.randrange(3)
        if kind == 0:
            return changed(data, random)[: 1 + 64 * EDIT.size]
        edits = [data[at : at + EDIT.size] for at in range(1, len(data), EDIT.size)]
        if kind == 1:
            random.shuffle(edits)
        edits.insert(random.randrange(len(edits) + 1), EDIT.pack(*_edit(random)))
        return data[:1] + b"".join(edits)[: 64 * EDIT.size]

    def run(self, data: bytes) -> str:
        """Some rounds of an agent, one that follows it, and what the sound ring beside gave."""
        how = data[0] if data else 0
        edits = [EDIT.unpack_from(data, at) for at in range(1, len(data) - EDIT.size + 1, EDIT.size)][:64]
        folder = Path(tempfile.mkdtemp(dir=self._root))
        try:
            return self._rounds(folder, how, edits)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _rounds(self, folder: Path, how: int, edits: list[tuple[int, int, int]]) -> str:
        whose = self._mine if how & 1 else self._gone[0]
        hostile, beside = folder / ring.file_name(whose), folder / ring.file_name(self._gone[1])
        content = _sound(whose)
        hostile.write_bytes(content)
        _edit_file(hostile, [each for each in edits if each[0] == 0])
        beside.write_bytes(_sound(self._gone[1]))
        if how & 2:
            (folder / layout.file_name(whose.namespace, whose.pid, whose.start_ticks)).write_bytes(
                bytes(content[:4096])
            )
        clock, writer = SimpleNamespace(now_ns=NOW_NS), _Writer(hostile, edits)
        told: list[Rows] = []
        for _ in range(2):
            source = TrainingKernels(
                KernelsConfig(directories=(str(folder),), containers=False), lambda: clock.now_ns, node="n1"
            )
            if how & 4:
                source.keep_until_settled(lambda frame: bytes(frame)[:1] > b"\x80")
            source.open()
            for number in range(1, ROUNDS + 1):
                clock.now_ns += 10**9
                with _writing(writer):
                    told += source.read()
                    list(source.health())
                if how & 4:
                    so_far = source.so_far()
                    so_far.intend(bytes([number * 60 % 256]) * 16)
                    so_far.settle()
            source.close()
        return _judged(told, bool(edits))


def _judged(told: list[Rows], hostile: bool) -> str:
    """Rows fit their tables; the kernels of the sound ring are all there, once."""
    for each in told:
        each.batch.validate(full=True)
        if each.dropped < 0:
            raise Broken("less than nothing was dropped")
    kernels = sum(
        row["count"]
        for each in told
        if each.table == "kernel_clusters"
        for row in each.batch.to_pylist()
        if row["count"]
    )
    if kernels < RECORDS:
        raise Broken(f"of {RECORDS} kernels of the ring beside {kernels} were told")
    if not hostile and kernels != 2 * RECORDS:
        raise Broken(f"{kernels} kernels of two sound rings")
    return "read" if kernels > RECORDS else "read the ring beside"


def _edit(random: Random) -> tuple[int, int, int]:
    at = random.choice(
        (
            random.randrange(16),
            random.randrange(16, 104),
            random.randrange(ring.LANES_AT // 8, ring.MARKS_AT // 8),
            random.randrange(ring.MARKS_AT // 8, ring.TEXTS_HEAD_AT // 8 + 1),
            random.randrange(ring.HEADER_BYTES // 8, SIZE // 8),
            random.randrange(ring.HEADER_BYTES // 8, SIZE // 8),
            random.randrange((SIZE - TEXTS) // 8, SIZE // 8),
            CUT,
        )
    )
    what = random.choice((random.choice(_WORDS), word(random), word(random)))
    return random.choice((0, 0, random.randrange(1, READS))), at, what % (SIZE + 64) if at == CUT else what


def _edit_file(path: Path, edits: list[tuple[int, int, int]]) -> None:
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        for _, at, what in edits:
            if at == CUT:
                file.truncate(what % (SIZE + 64))
            else:
                os.pwrite(file.fileno(), struct.pack("<Q", what), at % (SIZE // 8) * 8)


class _Writer:
    """Somebody who writes to the file between one read of the agent and the next: edits are due by the number of the read."""

    def __init__(self, path: Path, edits: list[tuple[int, int, int]]) -> None:
        self._path = path
        self._due: dict[int, list[tuple[int, int, int]]] = {}
        for each in edits:
            self._due.setdefault(each[0], []).append(each)
        self._reads = 0

    def pread(self, *asked: Any) -> bytes:
        """As os.pread."""
        self._before()
        return os.pread(*asked)

    def preadv(self, *asked: Any) -> int:
        """As os.preadv."""
        self._before()
        return os.preadv(*asked)

    def _before(self) -> None:
        self._reads += 1
        if now := self._due.get(self._reads):
            _edit_file(self._path, now)


@contextlib.contextmanager
def _writing(writer: _Writer) -> Iterator[None]:
    known = {name: getattr(os, name) for name in dir(os) if not name.startswith("__")}
    between = SimpleNamespace(**{**known, "pread": writer.pread, "preadv": writer.preadv})
    with patch.object(ring_file, "os", between):
        yield


def _sound(process: Process) -> bytearray:
    """A ring as a process makes it, with kernels, operations and events of just now."""
    header = bytearray(ring.HEADER_BYTES)
    place = (SIZE, SIZE - TEXTS, TEXTS, ring.RECORD_BYTES, 3)
    whose = (process.pid, 0, process.start_ticks, process.namespace, NOW_NS - 60 * 10**9)
    ring.IDENTITY.pack_into(header, 0, ring.MAGIC, ring.VERSION, ring.HEADER_BYTES, *place, *whose)
    cells = np.zeros(3 * CAPACITY, RECORD)
    for lane, kinds in enumerate(((ring.KERNEL, ring.MEMCPY), (ring.COLLECTIVE, ring.POINT_TO_POINT), (ring.CAPTURE,))):
        at = ring.LANES_AT + lane * ring.LANE_BYTES
        offset = ring.HEADER_BYTES + lane * CAPACITY * ring.RECORD_BYTES
        ring.LANE.pack_into(header, at, offset, CAPACITY, RECORDS, 0, 0)
        its = cells[lane * CAPACITY : lane * CAPACITY + RECORDS]
        its["commit"] = np.arange(1, RECORDS + 1)
        its["kind"] = np.resize(kinds, RECORDS)
        its["start_ns"] = NOW_NS - 10 * 10**9 + np.arange(RECORDS) * 1000
        its["duration_ns"] = 500
        its["value"], its["name"] = 7, 1
    struct.pack_into("<Q", header, ring.TEXTS_HEAD_AT, 24)
    texts = bytes(8) + struct.pack("<Q", 1 << 32 | 9) + b"a kernel"
    return header + cells.tobytes() + texts.ljust(TEXTS, b"\0")
