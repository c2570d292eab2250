"""What a certificate says of its owner and its time, read from its DER with the standard library alone.

Only the fields that warpline needs are looked at: validity and the URIs among the subject's alternative names (RFC 5280,
section 4.1). Whether a certificate can be trusted is for the TLS library to say.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, unquote

from .errors import ConfigError

SCHEME: Final = "warpline://"
"""A URI of this scheme names role and owner: warpline://agent/node-1."""
COLLECTOR: Final = "collector"
"""The role of who is called; the others call."""
NAME_CHARS_MAX: Final = 253
"""Longest name of a node or a person, that of a host name."""
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----")
_SEQUENCE, _OCTETS, _OBJECT, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x04, 0x06, 0x17, 0x18
_VERSION, _EXTENSIONS, _URI = 0xA0, 0xA3, 0x86
_ALTERNATIVE_NAMES: Final = b"\x55\x1d\x11"
_NANOSECONDS: Final = 10**9


@dataclass(frozen=True)
class Certificate:
    """`uris` of the subject, and from when to when it holds, ns since 1970."""

    uris: tuple[str, ...]
    start_ns: int
    end_ns: int

    def identity(self) -> tuple[str, str] | None:
        """Role and name; None where no URI names one, or more than one does."""
        return identity(self.uris)


def identity(uris: tuple[str, ...]) -> tuple[str, str] | None:
    """Role and name of the one URI of warpline's among these; None where there is not exactly one, or it names nobody."""
    mine = [uri for uri in uris if uri.startswith(SCHEME)]
    if len(mine) != 1:
        return None
    role, _, name = mine[0].removeprefix(SCHEME).partition("/")
    name = unquote(name, errors="replace")
    return (role, name) if role and 0 < len(name) <= NAME_CHARS_MAX and name.isprintable() else None


def uri(role: str, name: str) -> str:
    """The URI that names `name` in `role`."""
    return f"{SCHEME}{role}/{quote(name, safe='')}"


def parse(pem: bytes) -> Certificate:
    """The first certificate in `pem`; ConfigError where there is none that can be read."""
    found = _PEM.search(pem)
    if found is None:
        raise ConfigError("there is no certificate in it", "a PEM file begins with -----BEGIN CERTIFICATE-----")
    try:
        return _parse(binascii.a2b_base64(found[1]))
    except (ValueError, IndexError, OverflowError) as error:
        raise ConfigError(f"its certificate cannot be read: {error}") from error


def _parse(der: bytes) -> Certificate:
    [(_, whole)] = _elements(der)
    _, body = next(_elements(whole))
    fields = [field for field in _elements(body) if field[0] != _VERSION]
    _, validity = fields[3]  # after serial number, algorithm, issuer
    start, end = (_time_ns(kind, value) for kind, value in _elements(validity))
    uris = [name for kind, value in fields if kind == _EXTENSIONS for name in _uris(value)]
    return Certificate(tuple(uris), start, end)


def _uris(extensions: bytes) -> Iterator[str]:
    [(_, listed)] = _elements(extensions)
    for _, extension in _elements(listed):
        parts = list(_elements(extension))
        if parts[0] != (_OBJECT, _ALTERNATIVE_NAMES) or parts[-1][0] != _OCTETS:
            continue
        [(_, names)] = _elements(parts[-1][1])
        yield from (value.decode("ascii") for kind, value in _elements(names) if kind == _URI)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tags and contents, one after the other; ValueError where a length is not what is there."""
    place = 0
    while place < len(data):
        kind, length = data[place], data[place + 1]
        place += 2
        if length >= 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4 or place + size > len(data):
                raise ValueError("a length is damaged")
            length = int.from_bytes(data[place : place + size])
            place += size
        if place + length > len(data):
            raise ValueError("it is cut short")
        yield kind, data[place : place + length]
        place += length


def _time_ns(kind: int, value: bytes) -> int:
    """UTCTime counts years from 1950 to 2049, GeneralizedTime writes them out; both are in UTC."""
    text = value.decode("ascii")
    if kind == _UTC_TIME:
        text = ("20" if text < "50" else "19") + text
    elif kind != _GENERALIZED_TIME:
        raise ValueError("it has no validity")
    moment = datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    return int((moment - datetime.fromtimestamp(0, UTC)).total_seconds()) * _NANOSECONDS
