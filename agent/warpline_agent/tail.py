"""Follows one growing text file: new lines only, over truncation, rotation and restarts, never more at once than asked for.

A file that is replaced under its name (rotation) is read to its end first. One that is written anew (truncation, also to more
bytes than before: its beginning differs) is read from the start. Nothing is skipped without being counted.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from warpline_proto.errors import Denied, SourceError, Unsupported

LINE_BYTES_MAX: Final = 64 * 1024
"""Longer lines come in pieces."""

BEHIND_BYTES_MAX: Final = 64 * 1024 * 1024
"""A reader further behind than this gives up the older half of what it has not read."""

HEAD_BYTES: Final = 256
"""Bytes at the start of a file by which it is known again."""


class Position(NamedTuple):
    """Where reading goes on: `head` are the first bytes of the file it holds for, in hexadecimal."""

    inode: int
    offset: int
    head: str


@dataclass
class Skipped:
    """What was not read, since it was last asked for."""

    bytes: int = 0
    rewritten: int = 0


class Tail:
    """One file. Every method raises Unsupported or Denied where the file cannot be read."""

    def __init__(self, path: Path, position: Position | None = None) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._inode = 0
        self._offset = 0
        self._partial = b""
        self._head = b""
        self._skipped = Skipped()
        self._skipping = False
        self._open(position)

    @property
    def position(self) -> Position:
        """Just behind the last whole line that was given."""
        return Position(self._inode, self._offset - len(self._partial), self._head.hex())

    def read(self, bytes_max: int) -> list[str]:
        """New whole lines, from at most `bytes_max` bytes."""
        lines: list[str] = []
        left = bytes_max
        while left > 0:
            data = self._more(left)
            if not data and not self._replaced(lines):
                break
            left -= len(data)
            self._cut(data, lines)
        return lines

    def beginning(self, bytes_max: int) -> list[str]:
        """Whole lines before the current position, from the start of the file, at most `bytes_max` bytes of them."""
        if self._descriptor is None:
            return []
        data = os.pread(self._descriptor, min(bytes_max, self._offset), 0)
        return [_text(line) for line in data.split(b"\n")[:-1]]

    def skip_to_end(self) -> None:
        """Leave what the file holds now unread, uncounted: it is older than the reader."""
        if self._descriptor is not None:
            self._offset = os.fstat(self._descriptor).st_size
            self._partial = b""

    def skipped(self) -> Skipped:
        """What was skipped since the last call."""
        skipped, self._skipped = self._skipped, Skipped()
        return skipped

    def close(self) -> None:
        """Give the file back; may be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self, position: Position | None) -> None:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except PermissionError as error:
            raise Denied(f"may not read {self.path}") from error
        except OSError as error:
            raise Unsupported(f"cannot open {self.path}: {error.strerror}") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise Unsupported(f"{self.path} is not a regular file")
        self._descriptor, self._inode = descriptor, status.st_ino
        self._offset, self._partial, self._skipping = 0, b"", False
        self._head = self._pread_head()
        if position is not None and position.inode == status.st_ino and position.offset <= status.st_size:
            self._offset = position.offset if self._head.startswith(_bytes(position.head)) else 0

    def _more(self, bytes_max: int) -> bytes:
        if self._descriptor is None:
            return b""
        try:
            self._check()
            data = os.pread(self._descriptor, min(bytes_max, LINE_BYTES_MAX), self._offset)
        except OSError as error:
            raise SourceError(f"cannot read {self.path}: {error.strerror}") from error
        self._offset += len(data)
        return data

    def _check(self) -> None:
        """Start again where the file was written anew; leap forward where reading is hopelessly behind."""
        assert self._descriptor is not None
        size = os.fstat(self._descriptor).st_size
        head = self._pread_head()
        if size < self._offset or not head.startswith(self._head):
            self._skipped.rewritten += 1
            self._skipped.bytes += len(self._partial)
            self._offset, self._partial, self._skipping = 0, b"", False
        self._head = head
        if size - self._offset > BEHIND_BYTES_MAX:
            target = size - BEHIND_BYTES_MAX // 2
            self._skipped.bytes += target - self._offset + len(self._partial)
            self._offset, self._partial, self._skipping = target, b"", True

    def _replaced(self, lines: list[str]) -> bool:
        """At the end of the file: go over to another one that has taken its name."""
        try:
            inode = os.stat(self.path).st_ino
        except OSError:
            return False
        if inode == self._inode:
            return False
        if self._partial:
            lines.append(_text(self._partial))
        self.close()
        self._open(None)
        return True

    def _cut(self, data: bytes, lines: list[str]) -> None:
        if self._skipping:
            start = data.find(b"\n") + 1
            self._skipped.bytes += start or len(data)
            self._skipping = not start
            data = data[start:] if start else b""
        *whole, rest = (self._partial + data).split(b"\n")
        lines.extend(_text(line) for line in whole)
        if len(rest) >= LINE_BYTES_MAX:
            lines.append(_text(rest))
            rest = b""
        self._partial = rest

    def _pread_head(self) -> bytes:
        return b"" if self._descriptor is None else os.pread(self._descriptor, HEAD_BYTES, 0)


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
