"""Reads a Chrome trace (JSON object with `traceEvents`, or a bare array of events) event by event in bounded memory.

The text is decoded in pieces and each event by itself, so that a trace of gigabytes costs a few megabytes and an event that
nobody wants is gone at once. Numbers with a fraction come as text: a time in microseconds with three decimals does not fit
a float exactly once it counts from the epoch.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections.abc import Collection, Iterator
from decimal import Decimal
from typing import Any, BinaryIO, Final

from warpline_proto.errors import Refused

READ_BYTES: Final = 1024 * 1024
"""Bytes read at once; doubled while a single value does not fit."""
VALUE_CHARS_MAX: Final = 16 * 1024 * 1024
"""Longest single event, or member beside the events."""

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_GAP: Final = re.compile(r"[ \t\r\n]*,?[ \t\r\n]*")


class ChromeTrace:
    """One pass over a trace: iterate `events`, then look at `members` and `count`.

    `members` holds the top-level members named in `wanted` (others are dropped unseen, they may hold anything), complete
    only after the last event; `count` is the number of events so far.
    """

    def __init__(self, stream: BinaryIO, wanted: Collection[str]) -> None:
        self._text = _Text(stream)
        self._wanted = wanted
        self.members: dict[str, Any] = {}
        self.count = 0

    def events(self) -> Iterator[dict[str, Any]]:
        """The events in order; Refused where the text is damaged, cut off, or no trace."""
        opening = self._text.next_character()
        if opening == "[":
            yield from self._array()
        elif opening == "{":
            yield from self._object()
        else:
            raise Refused("not a trace: the file does not start with a JSON object or array")

    def _object(self) -> Iterator[dict[str, Any]]:
        found = False
        self._text.skip("{")
        while self._text.next_character() != "}":
            name = self._text.value()
            self._text.skip(":")
            if name == "traceEvents" and self._text.next_character() == "[":
                found = True
                yield from self._array()
            else:
                value = self._text.value()
                if name in self._wanted:
                    self.members[name] = value
            self._text.skip_gap()
        if not found:
            raise Refused('JSON, but no trace: it has no array "traceEvents"')

    def _array(self) -> Iterator[dict[str, Any]]:
        for event in self._text.elements():
            self.count += 1
            if type(event) is dict:
                yield event


class _Text:
    """A window on the text that moves forward."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("replace").decode
        # JSON as profilers write it: raw control characters in names, numbers beyond what a float holds.
        self._parse = json.JSONDecoder(parse_float=str, strict=False).raw_decode
        self._window = ""
        self._position = 0
        self._passed = 0
        self._ended = False

    def next_character(self) -> str:
        """The next character that is no space, without taking it; Refused at the end of the text."""
        while True:
            found = _SPACE.match(self._window, self._position)
            self._position = found.end() if found else self._position
            if self._position < len(self._window):
                return self._window[self._position]
            self._more_or_refuse(READ_BYTES)

    def skip(self, character: str) -> None:
        """Take exactly this character."""
        if self.next_character() != character:
            raise self._damaged(f"expected {character!r}")
        self._position += 1

    def skip_gap(self) -> None:
        """Take spaces and at most one comma."""
        if self.next_character() == ",":
            self._position += 1
            self.next_character()

    def value(self) -> Any:
        """Take one JSON value."""
        wanted = READ_BYTES
        self.next_character()
        while True:
            try:
                value, end = self._parse(self._window, self._position)
            except RecursionError:
                raise self._damaged("nested too deeply") from None
            except ValueError as error:
                if len(self._window) - self._position > VALUE_CHARS_MAX:
                    raise self._damaged(str(error).split(":", 1)[0]) from error
                self._more_or_refuse(wanted, str(error).split(":", 1)[0])
            else:
                if end < len(self._window) or not self._more(wanted):
                    self._position = end
                    return value
            wanted = min(wanted * 2, VALUE_CHARS_MAX)

    def elements(self) -> Iterator[Any]:
        """Take a JSON array, value by value."""
        self.skip("[")
        while self.next_character() != "]":
            yield self.value()
            yield from self._whole_values()
            self.skip_gap()
        self.skip("]")

    def _whole_values(self) -> Iterator[Any]:
        """The values of an array that follow and lie whole in the window: nearly all of them, without a look at its edge."""
        window, position, parse, gap = self._window, self._position, self._parse, _GAP.match
        while found := gap(window, position):
            try:
                value, end = parse(window, found.end())
            except (ValueError, RecursionError):
                break
            if end == len(window):
                break
            position = end
            yield value
        self._position = position

    def _more_or_refuse(self, size: int, problem: str = "") -> None:
        if not self._more(size):
            detail = f" ({problem})" if problem else ""
            raise Refused(
                f"the text ends, or is damaged, after character {self._passed + self._position}{detail}",
                "was the file still being written, or cut off?",
            )

    def _damaged(self, problem: str) -> Refused:
        return Refused(f"damaged JSON near character {self._passed + self._position}: {problem}")

    def _more(self, size: int) -> bool:
        if self._ended:
            return False
        try:
            piece = self._stream.read(size)
        except (EOFError, OSError, zlib.error) as error:
            raise Refused(f"the file cannot be unpacked to its end: {error}", "was it cut off?") from error
        self._ended = not piece
        self._passed += self._position
        self._window = self._window[self._position :] + self._decode(piece, final=self._ended)
        self._position = 0
        return not self._ended


def nanoseconds(microseconds: object) -> int:
    """A time in microseconds, as it stands in a trace, in whole nanoseconds, exactly; ValueError if it is no time.

    Decimals beyond the third are cut off.
    """
    if type(microseconds) is int:
        return microseconds * 1000
    if type(microseconds) is str:
        whole, _, fraction = microseconds.partition(".")
        if whole.isdecimal() and (fraction.isdecimal() or not fraction):
            return int(whole) * 1000 + int((fraction + "000")[:3])
        return _decimal(microseconds)
    raise ValueError(f"{microseconds!r} is no time")


def _decimal(text: str) -> int:
    """Signs and exponents, which are rare; the bound comes first because an exponent can stand for a number of any size."""
    try:
        value = Decimal(text) * 1000
        sound = abs(value) < 2**63
    except ArithmeticError as error:
        raise ValueError(f"{text!r} is no time") from error
    if not sound:
        raise ValueError(f"{text!r} is no time")
    return int(value)
