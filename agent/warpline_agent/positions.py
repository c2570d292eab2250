"""How far files were read, written down so that a restart goes on there; what makes no sense there is as if it were absent.

Positions hold once the rows before them are on disk. Before the frame with those rows is written they are written beside the
file, with its name, and take the file's place afterwards; an agent that is killed in between is followed by one that finds the
frame in its spool, or does not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .parsers.values import mapping

WasPut = Callable[[bytes], bool]
"""Whether a frame was written before this agent began, by its name."""
_FRAME: Final = "frame"
_POSITIONS: Final = "positions"


class Positions:
    """Those of one source, JSON by name. One thread reads for the source, another may settle what it has read."""

    def __init__(self, path: str, bytes_max: int) -> None:
        """Where `path` is empty nothing is remembered; a file larger than `bytes_max` is not believed."""
        self._path = Path(path) if path else None
        self._bytes_max = bytes_max
        self._was_put: WasPut | None = None
        self._known: Mapping[str, Any] | None = None
        self._intended: Mapping[str, Any] | None = None
        self.trouble: str | None = None
        """Why they could not be written down, in words."""

    def keep_until_settled(self, was_put: WasPut) -> None:
        """Let nothing hold before it is settled; without this call what a round gave holds when the next begins."""
        self._was_put = was_put

    def found(self) -> Mapping[str, Any]:
        """What an agent before this one left."""
        if self._known is None:
            self._known = self._load()
        return self._known

    def begins(self, positions: Mapping[str, Any]) -> None:
        """A round begins, or the source is closed: where nobody settles, the rows before these positions are taken over."""
        if self._was_put is None:
            self.so_far(positions).settle()

    def so_far(self, positions: Mapping[str, Any]) -> Settled:
        """To be settled once all rows before these positions are on disk."""
        return Settled(self, dict(positions))

    def holds(self, name: str, position: object) -> bool:
        """Whether the rows before this position are on disk, or nobody says so."""
        return self._was_put is None or self.found().get(name) == position

    def intend(self, positions: Mapping[str, Any], frame: bytes) -> None:
        """They hold once the frame of this name is written."""
        if self._path is not None and positions != self.found():
            self._write(self._beside(self._path), {_FRAME: frame.hex(), _POSITIONS: positions})
            self._intended = positions

    def settle(self, positions: Mapping[str, Any]) -> None:
        """They hold."""
        if self._path is not None and positions != self.found():
            if self._intended != positions:
                self.intend(positions, b"")
            self._replace(self._beside(self._path), self._path)
        self._known, self._intended = positions, None

    def _load(self) -> Mapping[str, Any]:
        if self._path is None:
            return {}
        told = self._read(self._beside(self._path))
        frame = told.get(_FRAME)
        if not (isinstance(frame, str) and self._was_put is not None and self._was_put(_bytes(frame))):
            told = self._read(self._path)
        return mapping(told.get(_POSITIONS))

    def _read(self, path: Path) -> Mapping[str, Any]:
        try:
            if path.stat().st_size > self._bytes_max:
                return {}
            return mapping(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            return {}

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        passing = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            passing.write_text(json.dumps(content), encoding="utf-8")
        except OSError as error:
            self.trouble = f"cannot write {path}: {error.strerror}"
            return
        self._replace(passing, path)

    def _replace(self, passing: Path, path: Path) -> None:
        try:
            passing.replace(path)
        except OSError as error:
            self.trouble = f"cannot write {path}: {error.strerror}"
        else:
            self.trouble = None

    @staticmethod
    def _beside(path: Path) -> Path:
        return path.with_name(f"{path.name}.next")


@dataclass(frozen=True)
class Settled:
    """A Settlement: positions at the end of one round."""

    book: Positions
    positions: Mapping[str, Any]

    def intend(self, frame: bytes) -> None:
        """The frame with the last rows before them is about to be written."""
        self.book.intend(self.positions, frame)

    def settle(self) -> None:
        """It is written, or there were no rows."""
        self.book.settle(self.positions)


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
