"""Whole numbers in few bits, many at once: Rice codes for small ones, length-prefixed ones for numbers of known size.

A Rice code of width k writes v >> k in unary and the low k bits as they are (Rice, JPL 79-22); here all unary parts of a column
come first and all low bits after, so that both are read by array operations. How many numbers there are is not written.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from .errors import WireError

Numbers = npt.NDArray[np.int64]

WIDTH_MAX: Final = 62
"""Bits of the largest number that can be written."""
UNARY_BYTES_MAX: Final = 9
"""Bytes of the unary part for each number: the shortest code spends no more bits than its plain numbers would, and one."""
_FEW: Final = 63
"""In place of a width: most numbers are zero, and the places of the others are told."""


class BitWriter:
    """Appends columns; `data` is everything so far."""

    def __init__(self) -> None:
        self.data = bytearray()

    def number(self, value: int) -> None:
        """One number, seven bits a byte."""
        while value > 0x7F:
            self.data.append(value & 0x7F | 0x80)
            value >>= 7
        self.data.append(value)

    def small(self, values: Numbers) -> None:
        """Numbers of zero and more, most of them small."""
        if not values.size:
            return
        packed = _rice(values)
        others = np.flatnonzero(values)
        if 2 * others.size < values.size:
            few = BitWriter()
            few.data.append(_FEW)
            few.chosen(others)
            few.data += _rice(values[others] - 1) if others.size else b""
            packed = min(packed, bytes(few.data), key=len)
        self.data += packed

    def chosen(self, places: Numbers) -> None:
        """Some places among many, ascending."""
        self.number(places.size)
        if places.size:
            self.data += _rice(np.diff(places, prepend=-1) - 1)

    def signed(self, values: Numbers) -> None:
        """Numbers near zero on both sides."""
        self.small(_folded(values))

    def sized(self, values: Numbers, expected_bits: Numbers) -> None:
        """Numbers of any sign whose lengths in bits are about `expected_bits`, which the reader knows too."""
        folded = _folded(values) + 1
        length = _bit_length(folded)
        self.signed(length - expected_bits)
        owner, shift = _positions(length - 1)
        self.data += np.packbits((folded[owner] >> shift) & 1).tobytes()


class BitReader:
    """Reads what a BitWriter wrote, column by column; WireError where the data ends early or makes no sense."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        """One number."""
        value = shift = 0
        while True:
            (byte,) = self._take(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > WIDTH_MAX:
                raise WireError("a packed number is too long")
        return value

    def small(self, count: int) -> Numbers:
        """`count` numbers of zero and more."""
        if not count:
            return np.zeros(0, dtype=np.int64)
        (width,) = self._take(1)
        if width == _FEW:
            values = np.zeros(count, dtype=np.int64)
            others = self.chosen(count)
            values[others] = self._rice(others.size) + 1 if others.size else 0
            return values
        return self._rice_of(width, count)

    def chosen(self, among: int) -> Numbers:
        """Places below `among`, ascending."""
        count = self.number()
        if count > among:
            raise WireError("more places than there are")
        places = np.cumsum(self._rice(count) + 1) - 1 if count else np.zeros(0, dtype=np.int64)
        if count and not 0 <= int(places[0]) <= int(places[-1]) < among:
            raise WireError("a place that is none")
        return places

    def _rice(self, count: int) -> Numbers:
        (width,) = self._take(1)
        return self._rice_of(width, count)

    def _rice_of(self, width: int, count: int) -> Numbers:
        if width > WIDTH_MAX:
            raise WireError("a packed column has no such width")
        size = self.number()
        if size > UNARY_BYTES_MAX * (count + 1):
            raise WireError("a packed column is longer than it needs to be")
        unary = np.unpackbits(np.frombuffer(self._take(size), dtype=np.uint8))
        ends = np.flatnonzero(unary)[:count]
        if ends.size < count:
            raise WireError("a packed column ends early")
        quotients = np.diff(ends, prepend=-1) - 1
        bits = np.unpackbits(np.frombuffer(self._take(-(-count * width // 8)), dtype=np.uint8))[: count * width]
        low = bits.reshape(count, width).astype(np.int64) @ (1 << np.arange(width - 1, -1, -1, dtype=np.int64))
        if int(quotients.max()).bit_length() + width > WIDTH_MAX:
            raise WireError("a packed number is too long")
        return (quotients << width) | low

    def signed(self, count: int) -> Numbers:
        """`count` numbers of both signs."""
        return _unfolded(self.small(count))

    def sized(self, count: int, expected_bits: Numbers) -> Numbers:
        """`count` numbers of about the expected lengths."""
        length = self.signed(count) + expected_bits
        if count and not 1 <= int(length.min()) <= int(length.max()) <= WIDTH_MAX:
            raise WireError("a packed number has no such length")
        packed = np.frombuffer(self._take(-(-int((length - 1).sum()) // 8)), dtype=np.uint8)
        owner, shift = _positions(length - 1)
        bits = np.unpackbits(packed)[: owner.size]
        ends = np.cumsum(length - 1)
        sums = np.concatenate([[0], np.cumsum(bits.astype(np.int64) << shift)])
        return _unfolded((sums[ends] - sums[ends - length + 1] + (1 << (length - 1))) - 1)

    def close(self) -> None:
        """WireError if something is left."""
        if self._at != len(self._data):
            raise WireError("packed columns are longer than what they hold")

    def _take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) < size:
            raise WireError("a packed column ends early")
        self._at += size
        return piece


def _rice(values: Numbers) -> bytes:
    width = _width(values)
    quotients = values >> width
    unary = np.zeros(int(quotients.sum()) + values.size, dtype=np.uint8)
    unary[np.cumsum(quotients + 1) - 1] = 1
    writer = BitWriter()
    writer.data.append(width)
    writer.number(-(-unary.size // 8))
    low = (values[:, None] >> np.arange(width - 1, -1, -1)) & 1
    return bytes(writer.data) + np.packbits(unary).tobytes() + np.packbits(low).tobytes()


def bit_length(values: Numbers) -> Numbers:
    """Bits of each number of zero and more, at least 1."""
    return _bit_length(np.maximum(values, 1))


def _bit_length(values: Numbers) -> Numbers:
    """Of numbers above zero: exact, although floats round large ones up to the next power of two."""
    guess = np.frexp(values.astype(np.float64))[1].astype(np.int64)
    exact: Numbers = guess - ((values >> (guess - 1)) == 0)
    return exact


def _folded(values: Numbers) -> Numbers:
    """0, -1, 1, -2, ... -> 0, 1, 2, 3, ..."""
    folded: Numbers = np.where(values < 0, -2 * values - 1, 2 * values)
    return folded


def _unfolded(values: Numbers) -> Numbers:
    signed: Numbers = np.where(values & 1, -(values >> 1) - 1, values >> 1)
    return signed


def _width(values: Numbers) -> int:
    """The width of the shortest Rice code."""
    start = max(int(values.sum()) // values.size, 1).bit_length()
    return min(
        range(max(start - 3, 0), start + 2), key=lambda width: int((values >> width).sum()) + values.size * width
    )


def _positions(lengths: Numbers) -> tuple[Numbers, Numbers]:
    """For each bit of numbers of such lengths, written one after the other: whose it is, and by how much it is shifted."""
    owner = np.repeat(np.arange(lengths.size), lengths)
    ends = np.cumsum(lengths)
    return owner, ends[owner] - 1 - np.arange(owner.size)
