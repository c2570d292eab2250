"""Messages of PostgreSQL's protocol 3.0, as bytes: what a client sends, read with bounds, and what it is told."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

MESSAGE_BYTES_MAX: Final = 1024 * 1024
"""Longest message of a client that has begun."""
STARTUP_BYTES_MAX: Final = 10_000
"""Longest message of one that has not, PostgreSQL's own bound."""
SSL_REQUEST: Final = 80_877_103
GSS_REQUEST: Final = 80_877_104
CANCEL_REQUEST: Final = 80_877_102
PROTOCOL: Final = 3
_PREFIX: Final = struct.Struct("!cI")
_WORD: Final = struct.Struct("!I")
_SHORT: Final = struct.Struct("!H")
TEXT_OID: Final = 25


class Broken(Exception):
    """Bytes that are no message: the connection cannot go on."""


@dataclass(frozen=True)
class Startup:
    """The first message: a protocol's number or one of the requests above, with what follows it."""

    code: int
    parameters: Mapping[str, str]
    key: tuple[int, bytes] = (0, b"")


@dataclass(frozen=True)
class Query:
    """Statements, to be run at once."""

    sql: str


@dataclass(frozen=True)
class Parse:
    """A statement under a name, and the types of its parameters as far as the client says them (0: it does not)."""

    name: str
    sql: str
    oids: Sequence[int]


@dataclass(frozen=True)
class Bind:
    """Values for a statement: forms and bytes of each, and the forms its results shall have."""

    portal: str
    statement: str
    forms: Sequence[int]
    values: Sequence[bytes | None]
    result_forms: Sequence[int]


@dataclass(frozen=True)
class Describe:
    """Of what a statement ("S") or a portal ("P") is made."""

    kind: str
    name: str


@dataclass(frozen=True)
class Execute:
    """Rows of a portal, at most `rows_max`; all where that is 0."""

    portal: str
    rows_max: int


@dataclass(frozen=True)
class Close:
    """Let go of a statement or a portal."""

    kind: str
    name: str


@dataclass(frozen=True)
class Sync:
    """The end of a series: errors are over, a ReadyForQuery is wanted."""


@dataclass(frozen=True)
class Flush:
    """Send what there is."""


@dataclass(frozen=True)
class Terminate:
    """The client leaves."""


@dataclass(frozen=True)
class Other:
    """A message that has no meaning here."""

    kind: str


Message = Query | Parse | Bind | Describe | Execute | Close | Sync | Flush | Terminate | Other


class _Body:
    """Reads fields one after the other; Broken where they end too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def take(self, size: int) -> bytes:
        end = self._place + size
        if size < 0 or end > len(self._data):
            raise Broken("a message is shorter than it says")
        taken, self._place = self._data[self._place : end], end
        return taken

    def text(self) -> str:
        end = self._data.find(b"\0", self._place)
        if end < 0:
            raise Broken("a text has no end")
        raw, self._place = self._data[self._place : end], end + 1
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise Broken("a text is not UTF-8") from error

    def short(self) -> int:
        return int(_SHORT.unpack(self.take(2))[0])

    def word(self) -> int:
        return int(_WORD.unpack(self.take(4))[0])

    def value(self) -> bytes | None:
        size = self.word()
        return None if size == 0xFFFFFFFF else self.take(size)

    @property
    def more(self) -> bool:
        return self._place < len(self._data)


def startup_size(buffer: bytes | bytearray) -> int | None:
    """Bytes of the first message, None where it is not there yet; Broken if it is none."""
    if len(buffer) < 4:
        return None
    size = int(_WORD.unpack_from(buffer)[0])
    if not 8 <= size <= STARTUP_BYTES_MAX:
        raise Broken(f"a first message of {size} bytes: is that PostgreSQL's protocol?")
    return size if len(buffer) >= size else None


def startup(data: bytes) -> Startup:
    """The first message; Broken if it is none."""
    body = _Body(data[4:])
    code = body.word()
    if code == CANCEL_REQUEST:
        return Startup(code, {}, (body.word(), body.take(4)))
    if code in (SSL_REQUEST, GSS_REQUEST):
        return Startup(code, {})
    told: dict[str, str] = {}
    while body.more and (name := body.text()):
        told[name] = body.text()
    return Startup(code, told)


def message_size(buffer: bytes | bytearray) -> int | None:
    """Bytes of the next message, None where it is not there yet; Broken if it is too long."""
    if len(buffer) < 5:
        return None
    _, size = _PREFIX.unpack_from(buffer)
    if not 4 <= size <= MESSAGE_BYTES_MAX:
        raise Broken(f"a message of {size} bytes, the bound is {MESSAGE_BYTES_MAX}")
    return size + 1 if len(buffer) > size else None


def message(data: bytes) -> Message:
    """One message; Broken if it is not made as its kind says."""
    kind, body = data[:1], _Body(data[5:])
    if kind == b"Q":
        return Query(body.text())
    if kind == b"P":
        name, sql = body.text(), body.text()
        return Parse(name, sql, [body.word() for _ in range(body.short())])
    if kind == b"B":
        return _bind(body)
    if kind in (b"D", b"C"):
        what, name = body.take(1).decode("latin-1"), body.text()
        if what not in ("S", "P"):
            raise Broken("neither a statement nor a portal")
        return Describe(what, name) if kind == b"D" else Close(what, name)
    if kind == b"E":
        return Execute(body.text(), body.word() & 0x7FFFFFFF)
    alone: dict[bytes, Message] = {b"S": Sync(), b"H": Flush(), b"X": Terminate()}
    return alone.get(kind, Other(kind.decode("latin-1")))


def _bind(body: _Body) -> Bind:
    portal, statement = body.text(), body.text()
    forms = [body.short() for _ in range(body.short())]
    values = [body.value() for _ in range(body.short())]
    return Bind(portal, statement, forms, values, [body.short() for _ in range(body.short())])


def _told(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return _PREFIX.pack(kind, len(body) + 4) + body


def _text(text: str) -> bytes:
    return text.replace("\0", "").encode(errors="replace") + b"\0"


def authenticated() -> bytes:
    """Nothing more is asked of the client."""
    return _told(b"R", _WORD.pack(0))


def parameter_status(name: str, value: str) -> bytes:
    """A setting that the client may want to know."""
    return _told(b"S", _text(name), _text(value))


def backend_key(number: int, secret: bytes) -> bytes:
    """What a CancelRequest has to bring."""
    return _told(b"K", _WORD.pack(number), secret)


def negotiate(options: Sequence[str]) -> bytes:
    """The newest minor version is 0, and these options are not known."""
    return _told(b"v", _WORD.pack(0), _WORD.pack(len(options)), *map(_text, options))


def ready(status: str) -> bytes:
    """Ready for the next question: "I" outside of a transaction, "T" within one, "E" within one that failed."""
    return _told(b"Z", status.encode())


def row_description(fields: Sequence[tuple[str, int, int]], forms: Sequence[int]) -> bytes:
    """Name, type and size of each column, and the form its values come in."""
    parts = [_SHORT.pack(len(fields))]
    for (name, oid, size), form in zip(fields, forms, strict=True):
        parts += [_text(name), struct.pack("!IHIhiH", 0, 0, oid, size, -1, form)]
    return _told(b"T", *parts)


def parameter_description(oids: Sequence[int]) -> bytes:
    """The type of each parameter."""
    return _told(b"t", _SHORT.pack(len(oids)), *(_WORD.pack(oid or TEXT_OID) for oid in oids))


def data_row(values: Sequence[bytes | None]) -> bytes:
    """One row."""
    cells = (b"\xff\xff\xff\xff" if value is None else _WORD.pack(len(value)) + value for value in values)
    return _told(b"D", _SHORT.pack(len(values)), *cells)


def complete(tag: str) -> bytes:
    """The end of one statement."""
    return _told(b"C", _text(tag))


def error(message: str, sqlstate: str, hint: str = "", severity: str = "ERROR") -> bytes:
    """A failure in words."""
    return _told(b"E", *_fields(severity, sqlstate, message, hint))


def notice(message: str, sqlstate: str = "00000", severity: str = "NOTICE") -> bytes:
    """A remark."""
    return _told(b"N", *_fields(severity, sqlstate, message, ""))


def _fields(severity: str, sqlstate: str, message: str, hint: str) -> list[bytes]:
    parts = [b"S" + _text(severity), b"V" + _text(severity), b"C" + _text(sqlstate), b"M" + _text(message)]
    return [*parts, *([b"H" + _text(hint)] if hint else []), b"\0"]


def copy_out(columns: int) -> bytes:
    """Lines of a COPY follow."""
    return _told(b"H", b"\0", _SHORT.pack(columns), *([_SHORT.pack(0)] * columns))


COPY_DONE: Final = _told(b"c")
PARSED: Final = _told(b"1")
BOUND: Final = _told(b"2")
CLOSED: Final = _told(b"3")
NO_DATA: Final = _told(b"n")
EMPTY: Final = _told(b"I")
SUSPENDED: Final = _told(b"s")
