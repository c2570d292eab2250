"""Outcomes as they come, one JSON line each: a run that was cut goes on where it was, and tables can be made anew from them.

A line counts only for the very code that gave it: it carries a hash of the sources that decide it, and others are passed over.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from pathlib import Path
from typing import Any, Final, TextIO

ROOT: Final = Path(__file__).parents[2]
BENCH: Final = Path(__file__).parent
FILE: Final = "outcomes.jsonl"
PROGRESS_SECONDS: Final = 10.0
HASH_DIGITS: Final = 16


def code_of(*paths: Path) -> str:
    """A hash of sources: of a folder all its .py and .toml files, by name and content."""
    listed = [file for path in paths for file in (path.rglob("*") if path.is_dir() else (path,))]
    digest = hashlib.sha256()
    for file in sorted(file for file in listed if file.suffix in (".py", ".toml") and file.is_file()):
        digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:HASH_DIGITS]


class Journal:
    """The outcomes of a folder (created if absent), or none kept where it is None."""

    def __init__(self, folder: Path | None) -> None:
        self._known: dict[tuple[str, str, str], Any] = {}
        self._file: TextIO | None = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        for line in path.read_text().splitlines() if path.exists() else ():
            self._take(line)
        self._file = path.open("a")
        self._file.write("\n" if path.stat().st_size else "")  # ends a line that was cut

    def _take(self, line: str) -> None:
        try:
            entry = json.loads(line)
            self._known[entry["code"], entry["part"], entry["name"]] = entry["outcome"]
        except (ValueError, KeyError, TypeError):
            return  # cut in the midst of writing, or the empty line after that

    def known(self, code: str, part: str, name: str) -> Any:
        """What was written, or None."""
        return self._known.get((code, part, name))

    def add(self, code: str, part: str, name: str, outcome: Any) -> None:
        """Write one outcome; it is on its way to the disk when this returns."""
        self._known[code, part, name] = outcome
        if self._file is not None:
            entry = {"code": code, "part": part, "name": name, "outcome": outcome}
            self._file.write(json.dumps(entry, separators=(",", ":")) + "\n")
            self._file.flush()

    def close(self) -> None:
        """No more is written."""
        if self._file is not None:
            self._file.close()


class Progress:
    """Lines on stderr, one in PROGRESS_SECONDS at the most, and one at the end of each part."""

    def __init__(self, part: str, done: int, whole: int) -> None:
        self._part, self._before, self._done, self._whole = part, done, done, whole
        self._begun = self._told = time.perf_counter()

    def one(self) -> None:
        """One more is done."""
        self._done += 1
        now = time.perf_counter()
        if now - self._told >= PROGRESS_SECONDS or self._done == self._whole:
            self._told = now
            spent = now - self._begun
            left = spent / (self._done - self._before) * (self._whole - self._done)
            kept = f" ({self._before} from the journal)" if self._before else ""
            print(
                f"{self._part}: {self._done} of {self._whole}{kept}, {spent:.0f} s, about {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )


def run_all(
    part: str,
    code: str,
    function: Callable[[Any], Any],
    jobs: Sequence[tuple[str, Any]],
    executor: Executor,
    journal: Journal,
) -> list[Any]:
    """What `function` (JSON in the end) says of each named job, in order; those in the journal are not asked again."""
    missing = [(name, job) for name, job in jobs if journal.known(code, part, name) is None]
    progress = Progress(part, len(jobs) - len(missing), len(jobs))
    futures = {executor.submit(function, job): name for name, job in missing}
    for future in as_completed(futures):
        journal.add(code, part, futures[future], future.result())
        progress.one()
    return [journal.known(code, part, name) for name, _ in jobs]
