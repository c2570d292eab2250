"""A terminal for benchmarks: a program on a pseudo-terminal, every byte of it with its time, and what is to be read after each.

It answers as a terminal that paints whole frames at once (mode 2026), so a paint has an end that the program itself tells.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import termios
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Final

READ_BYTES: Final = 1 << 16
ASKED_FRAMES: Final = b"\x1b[?2026$p"
GIVES_FRAMES: Final = b"\x1b[?2026;2$y"
FRAME_BEGIN: Final = b"\x1b[?2026h"
FRAME_END: Final = b"\x1b[?2026l"
FRAME_BYTES_MAX: Final = 1 << 22
_TOKEN: Final = re.compile(
    r"\x1b\[(?P<told>[0-9;:<=>?]*)(?P<between>[ -/]*)(?P<last>[@-~])"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[PX^_][^\x1b]*\x1b\\|\x1b[()*+].|\x1b[0-9=>A-OQ-WZa-z]"
    r"|(?P<control>[\x00-\x1a\x1c-\x1f])|(?P<text>[^\x00-\x1f]+)"
)
_SHARE_OF_WIDE: Final = ("W", "F")


class Screen:
    """What is to be read: text and cursor alone, without colours; as much of a terminal as Textual and curses use."""

    def __init__(self, columns: int, lines: int) -> None:
        self._columns, self._lines = columns, lines
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._line = self._column = 0
        self._last = " "
        self._cells = [[" "] * columns for _ in range(lines)]

    def text(self) -> str:
        """All lines."""
        return "\n".join("".join(line).rstrip() for line in self._cells)

    def feed(self, data: bytes) -> None:
        """More of what the program wrote."""
        given = self._rest + self._decoder.decode(data)
        at = 0
        while at < len(given):
            found = _TOKEN.match(given, at)
            if found is None:  # a sequence whose end has not come yet
                break
            self._take(found)
            at = found.end()
        self._rest = given[at:]

    def _take(self, found: re.Match[str]) -> None:
        if found["text"]:
            for character in found["text"]:
                self._put(character)
        elif found["control"]:
            self._control(found["control"])
        elif found["last"] and not found["between"] and found["told"][:1] not in ("<", "=", ">", "?"):
            told = [int(each) if each.isdigit() else 0 for each in found["told"].split(";")]
            self._sequence(found["last"], told)

    def _put(self, character: str) -> None:
        width = 2 if unicodedata.east_asian_width(character) in _SHARE_OF_WIDE else 1
        if self._column + width > self._columns:
            self._control("\r")
            self._control("\n")
        self._cells[self._line][self._column : self._column + width] = [character, *[""] * (width - 1)]
        self._last = character
        self._column += width

    def _control(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\b":
            self._column = max(self._column - 1, 0)
        elif character == "\t":
            self._column = min((self._column // 8 + 1) * 8, self._columns - 1)
        elif character == "\n":
            self._line += 1
            if self._line == self._lines:
                self._cells = [*self._cells[1:], [" "] * self._columns]
                self._line -= 1

    def _sequence(self, last: str, told: Sequence[int]) -> None:
        count = max(told[0], 1)
        if last in "Hf":
            self._line = min(count, self._lines) - 1
            self._column = min(max(told[1], 1) if len(told) > 1 else 1, self._columns) - 1
        elif last in "ABCD":
            self._line = min(max(self._line + {"A": -count, "B": count}.get(last, 0), 0), self._lines - 1)
            self._column = min(max(self._column + {"D": -count, "C": count}.get(last, 0), 0), self._columns - 1)
        elif last == "G":
            self._column = min(count, self._columns) - 1
        elif last == "d":
            self._line = min(count, self._lines) - 1
        elif last == "b":
            for _ in range(count):
                self._put(self._last)
        elif last == "X":
            self._blank(self._line, self._column, self._column + count)
        elif last in "JK":
            self._erase(last, told[0])

    def _erase(self, last: str, what: int) -> None:
        begin, end = (
            (self._column, self._columns) if what == 0 else (0, self._column + 1 if what == 1 else self._columns)
        )
        self._blank(self._line, begin, end)
        if last == "J":
            for line in {0: range(self._line + 1, self._lines), 1: range(self._line)}.get(what, range(self._lines)):
                self._blank(line, 0, self._columns)

    def _blank(self, line: int, begin: int, end: int) -> None:
        end = min(end, self._columns)
        self._cells[line][begin:end] = [" "] * (end - begin)


class Program:
    """A program on a terminal of `columns` by `lines`, read by a thread as fast as it writes."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], columns: int, lines: int) -> None:
        self.screen = Screen(columns, lines)
        self._arrived = threading.Condition()
        self._paints: list[tuple[float, bytes]] = []
        self._seen = 0
        self.bytes = 0
        self.started = time.perf_counter()
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            os.execvpe(command[0], list(command), {**environment, "TERM": "xterm-256color", "COLORTERM": "truecolor"})
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def press(self, keys: bytes) -> float:
        """Type; when that was, in seconds of time.perf_counter."""
        self.drain()
        now = time.perf_counter()
        os.write(self._terminal, keys)
        return now

    def drain(self) -> None:
        """Bring `screen` up to now."""
        with self._arrived:
            paints, self._seen = self._paints[self._seen :], len(self._paints)
        for _, data in paints:
            self.screen.feed(data)

    def shows(self, condition: Callable[[str], bool], seconds_max: float) -> float | None:
        """When the last byte came of the first paint after which the screen meets `condition`; None if none did in time."""
        end = time.perf_counter() + seconds_max
        while True:
            with self._arrived:
                while self._seen == len(self._paints):
                    if not self._arrived.wait(max(end - time.perf_counter(), 0.0)):
                        return None
                when, data = self._paints[self._seen]
                self._seen += 1
            self.screen.feed(data)
            if condition(self.screen.text()):
                return when

    def close(self, keys: bytes = b"q", seconds_max: float = 10.0) -> None:
        """Leave by `keys`; what does not heed them is killed."""
        with contextlib.suppress(OSError):
            os.write(self._terminal, keys)
        self._thread.join(seconds_max)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)

    def _read(self) -> None:
        held = b""
        while True:
            try:
                data = os.read(self._terminal, READ_BYTES)
            except OSError:  # the program has ended
                return
            now = time.perf_counter()
            self.bytes += len(data)
            if ASKED_FRAMES in data:
                os.write(self._terminal, GIVES_FRAMES)
            held += data
            if held.count(FRAME_BEGIN) > held.count(FRAME_END) and len(held) < FRAME_BYTES_MAX:
                continue
            with self._arrived:
                self._paints.append((now, held))
                self._arrived.notify_all()
            held = b""
