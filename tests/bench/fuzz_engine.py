"""What the fuzzing of every reader shares: mutation of bytes, the bounds of one input, the journal, and crashes that are kept."""

from __future__ import annotations

import gc
import hashlib
import json
import mmap
import os
import resource
import signal
import struct
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Final, Protocol

ROOT: Final = Path(__file__).parents[2]
DATA: Final = Path(os.environ.get("WARPLINE_TEST_DATA", ROOT / ".." / "shared" / "data")).resolve()
JOURNAL: Final = "journal.jsonl"
FINDINGS: Final = "findings"
INPUT_BYTES_MAX: Final = 32 * 1024 * 1024
"""Room for the input at hand in the file that outlives a process which an input ends."""
INTERESTING: Final = (0, 1, 2, 7, 8, 16, 63, 64, 127, 128, 255, 256, 1023, 4096, 65_535, 65_536, 10**6, 2**24)
EXTREME: Final[tuple[int, ...]] = tuple(
    each for bits in (31, 32, 53, 61, 62, 63, 64) for each in (2**bits - 1, 2**bits, -(2**bits))
)


class Target(Protocol):
    """One reader under test.

    `draw` makes an input, sound or hostile; `mutate` changes one; `run` reads one and raises unless only declared errors came out
    and what was read holds together: it returns in a word what became of it. `seconds_max` is CPU time, `growth_bytes_max` what
    the process may grow by, for one input.
    """

    name: str
    seconds_max: float
    growth_bytes_max: int

    def draw(self, random: Random) -> bytes: ...

    def mutate(self, data: bytes, random: Random) -> bytes: ...

    def run(self, data: bytes) -> str: ...


class Broken(Exception):
    """An input that a reader took too long or too much memory for, or that gave what cannot be."""


@dataclass
class Stretch:
    """One uninterrupted run of one target with one seed: `code` is the commit, with the hash of the tree where it was changed."""

    target: str
    engine: str
    code: str
    seed: str
    began: str
    executions: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    bytes: int = 0
    peak_rss_bytes: int = 0
    slowest_seconds: float = 0.0
    findings: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)


class Current:
    """The input that is read now, in a file: where a process is ended by it, its parent finds it there."""

    def __init__(self, path: Path) -> None:
        with open(path, "w+b") as file:
            file.truncate(INPUT_BYTES_MAX + 16)
            self._room = mmap.mmap(file.fileno(), INPUT_BYTES_MAX + 16)
        self._count = 0

    def put(self, data: bytes) -> None:
        """Write an input down before it is read."""
        self._count += 1
        self._room[16 : 16 + len(data)] = data
        self._room[:16] = struct.pack("<QQ", self._count, len(data))

    @staticmethod
    def look(path: Path) -> tuple[int, bytes]:
        """How many inputs were begun, and the last of them."""
        with open(path, "rb") as file:
            head = file.read(16).ljust(16, b"\0")
            count, size = struct.unpack("<QQ", head)
            return count, file.read(min(size, INPUT_BYTES_MAX))


def now() -> str:
    """The time, as the journal says it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit() -> str:
    """The commit at hand, with a mark where files were changed since."""
    told = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(
        ["git", "-C", str(ROOT), "status", "--porcelain", "-uno"], capture_output=True, text=True
    ).stdout
    mark = "+" + hashlib.sha256(changed.encode()).hexdigest()[:4] if changed else ""
    return (told.stdout.strip() or "unknown") + mark


def keep(folder: Path, target: str, data: bytes, why: str) -> bool:
    """Keep an input that broke something, once for each way of breaking; whether it is a new one."""
    place = folder / FINDINGS
    place.mkdir(parents=True, exist_ok=True)
    name = f"{target}-{hashlib.sha256(_way(why).encode()).hexdigest()[:12]}"
    if (place / name).exists():
        return False
    (place / name).write_bytes(data)
    (place / f"{name}.txt").write_text(why)
    return True


def _way(why: str) -> str:
    """Where it broke: files and lines of a traceback, without values."""
    lines = [line.strip() for line in why.splitlines()]
    where = [line for line in lines if line.startswith("File ") and "/site-packages/" not in line]
    last = lines[-1].split(":", 1)[0] if lines else ""
    return "\n".join([*where[-3:], last])


def write(folder: Path, stretch: Stretch) -> None:
    """Add a stretch to the journal."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / JOURNAL, "a") as file:
        file.write(json.dumps(asdict(stretch)) + "\n")


def stretches(folder: Path) -> list[Stretch]:
    """All stretches so far; lines that were cut are passed over."""
    path = folder / JOURNAL
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(Stretch(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


@contextmanager
def bounded(target: Target) -> Iterator[None]:
    """Ends with Broken what takes more CPU time than it may, and what grows the process by more than it may."""
    before = rss("VmRSS")
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    signal.setitimer(signal.ITIMER_PROF, target.seconds_max)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    grown = rss() - before
    if grown > target.growth_bytes_max:
        raise Broken(f"grew by {grown >> 20} MiB")


def prepare(address_bytes_max: int) -> None:
    """Bounds of this process: address space, and the alarm of each input."""
    resource.setrlimit(resource.RLIMIT_AS, (address_bytes_max, address_bytes_max))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _too_long)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise Broken("took too long")


def rss(which: str = "VmHWM") -> int:
    """Resident size of this process, bytes: its largest since the last input began, or now."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(which):
                return int(line.split()[1]) * 1024
    return 0


class Runner:
    """Reads inputs one after the other and counts what became of them."""

    def __init__(self, target: Target, folder: Path, stretch: Stretch, current: Current | None) -> None:
        self._target = target
        self._folder = folder
        self._current = current
        self._outcomes: Counter[str] = Counter()
        self._stretch = stretch
        self._began = time.monotonic(), time.process_time()

    def one(self, data: bytes) -> str:
        """Read one input; what came of it, or "broken" where it is kept."""
        if self._current is not None:
            self._current.put(data[:INPUT_BYTES_MAX])
        cpu = time.process_time()
        try:
            with bounded(self._target):
                outcome = self._target.run(data)
        except Exception:
            outcome = "broken"
            self._stretch.findings += keep(self._folder, self._target.name, data, traceback.format_exc())
            gc.collect()
        stretch = self._stretch
        stretch.slowest_seconds = max(stretch.slowest_seconds, round(time.process_time() - cpu, 3))
        stretch.peak_rss_bytes = max(stretch.peak_rss_bytes, rss())
        stretch.executions += 1
        stretch.bytes += len(data)
        self._outcomes[outcome] += 1
        return outcome

    def begin_anew(self) -> None:
        """A further stretch with the same seed going on."""
        old = self._stretch
        self._stretch = Stretch(old.target, old.engine, old.code, old.seed, now())
        self._outcomes.clear()
        self._began = time.monotonic(), time.process_time()

    def finish(self) -> Stretch:
        """The stretch as it stands."""
        stretch = self._stretch
        stretch.wall_seconds = round(time.monotonic() - self._began[0], 2)
        stretch.cpu_seconds = round(time.process_time() - self._began[1], 2)
        stretch.outcomes = dict(self._outcomes.most_common(12))
        return stretch


def word(random: Random) -> int:
    """A number of 64 bits that programs trip over, or any."""
    bits: int = random.choice((8, 16, 32, 48, 64))
    kind = random.randrange(4)
    if kind == 0:
        return random.choice(INTERESTING)
    if kind == 1:
        return random.choice(EXTREME) & (2**64 - 1)
    return random.getrandbits(bits)


def _flip(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data))
    data[at] ^= 1 << random.randrange(8)


def _byte(data: bytearray, random: Random) -> None:
    data[random.randrange(len(data))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))


def _number(data: bytearray, random: Random) -> None:
    size = random.choice((2, 4, 8))
    if len(data) >= size:
        at = random.randrange(len(data) - size + 1)
        at -= at % size if random.random() < 0.7 else 0
        told = word(random) & (1 << 8 * size) - 1
        data[at : at + size] = told.to_bytes(size, random.choice(("little", "little", "big")))


def _move(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data))
    size = min(random.choice((1, 4, 16, 64, 512)), len(data) - start)
    to = random.randrange(len(data))
    data[to : to + random.choice((0, size))] = data[start : start + size]


def _remove(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data))
    del data[start : start + random.choice((1, 4, 8, 64, 1024))]


def _cut(data: bytearray, random: Random) -> None:
    del data[random.randrange(len(data)) :]


def _repeat(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data))
    piece = data[start : start + random.choice((1, 2, 16))]
    data[start:start] = piece * random.choice((2, 16, 300))


_CHANGES: Final[tuple[Callable[[bytearray, Random], None], ...]] = (
    _flip, _flip, _byte, _byte, _number, _number, _number, _move, _remove, _cut, _repeat,
)  # fmt: skip


def changed(data: bytes, random: Random, most: int = 6) -> bytes:
    """Some bytes flipped, overwritten with numbers that matter, moved, repeated, removed or cut off."""
    told = bytearray(data)
    for _ in range(random.randint(1, most)):
        if not told:
            break
        random.choice(_CHANGES)(told, random)
    return bytes(told[:INPUT_BYTES_MAX])


def table(found: list[Stretch]) -> list[dict[str, Any]]:
    """Cumulative figures by target, engine and commit, in the order in which they came."""
    sums: dict[tuple[str, str, str], dict[str, Any]] = {}
    for each in found:
        key = each.target, each.engine, each.code
        row = sums.setdefault(
            key,
            {"target": key[0], "engine": key[1], "code": key[2], "stretches": 0, "executions": 0, "wall_seconds": 0.0}
            | {"cpu_seconds": 0.0, "peak_rss_mb": 0, "slowest_seconds": 0.0, "findings": 0, "outcomes": Counter()},
        )
        row["stretches"] += 1
        for name in ("executions", "wall_seconds", "cpu_seconds", "findings"):
            row[name] += getattr(each, name)
        row["peak_rss_mb"] = max(row["peak_rss_mb"], each.peak_rss_bytes >> 20)
        row["slowest_seconds"] = max(row["slowest_seconds"], each.slowest_seconds)
        row["outcomes"].update(each.outcomes)
    return [
        {**row, "wall_seconds": round(row["wall_seconds"], 1), "cpu_seconds": round(row["cpu_seconds"], 1)}
        | {"outcomes": dict(row["outcomes"].most_common(8))}
        for row in sums.values()
    ]
