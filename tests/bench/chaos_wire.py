"""What goes over a gRPC connection, read from its bytes alone: enough of HTTP/2 and protobuf to see frames and acknowledgements.

Written from RFC 9113 section 4 and the protobuf encoding, without the code that it is to judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADER_BYTES: Final = 9
_DATA: Final = 0
_PADDED: Final = 0x8
_PREFIX_BYTES: Final = 5


class Messages:
    """gRPC messages of one direction of one connection; feed it the bytes as they pass."""

    def __init__(self, *, of_client: bool) -> None:
        self._bytes = bytearray()
        self._preface = len(PREFACE) if of_client else 0
        self._streams: dict[int, bytearray] = {}

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Messages that are whole with `data`."""
        self._bytes += data
        if self._preface:
            if len(self._bytes) < self._preface:
                return
            if self._bytes[: self._preface] != PREFACE:
                raise ValueError("not HTTP/2")
            del self._bytes[: self._preface]
            self._preface = 0
        while len(self._bytes) >= _HEADER_BYTES:
            length = int.from_bytes(self._bytes[:3], "big")
            if len(self._bytes) < _HEADER_BYTES + length:
                return
            kind, flags = self._bytes[3], self._bytes[4]
            stream = int.from_bytes(self._bytes[5:9], "big") & 0x7FFFFFFF
            payload = bytes(self._bytes[_HEADER_BYTES : _HEADER_BYTES + length])
            del self._bytes[: _HEADER_BYTES + length]
            if kind == _DATA:
                yield from self._of_stream(stream, _unpadded(payload, flags))

    def _of_stream(self, stream: int, payload: bytes) -> Iterator[bytes]:
        waiting = self._streams.setdefault(stream, bytearray())
        waiting += payload
        while len(waiting) >= _PREFIX_BYTES:
            length = int.from_bytes(waiting[1:_PREFIX_BYTES], "big")
            if len(waiting) < _PREFIX_BYTES + length:
                return
            yield bytes(waiting[_PREFIX_BYTES : _PREFIX_BYTES + length])
            del waiting[: _PREFIX_BYTES + length]


def frame(message: bytes) -> tuple[str, str, int]:
    """Agent, boot and sequence of a Frame."""
    found = dict(_fields(message))
    return _text(found.get(2)), _text(found.get(3)), _number(found.get(4))


def ack(message: bytes) -> tuple[str, int, str]:
    """Boot and sequence of an Ack, and why a frame was refused ("" if it was not)."""
    found = dict(_fields(message))
    return _text(found.get(1)), _number(found.get(2)), _text(found.get(3))


def _text(value: bytes | int | None) -> str:
    return value.decode() if isinstance(value, bytes) else ""


def _number(value: bytes | int | None) -> int:
    return value if isinstance(value, int) else 0


def _unpadded(payload: bytes, flags: int) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & _PADDED else payload


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
        elif kind == 2:
            length, at = _varint(message, at)
            yield number, message[at : at + length]
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
