"""Values that a client binds to a statement, from its text or binary form to a kind and a text that travel to a worker."""

from __future__ import annotations

import datetime
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from warpline_proto.errors import QueryError

from .types import BINARY_FORM, BY_OID, EPOCH_DAYS, EPOCH_US, KINDS

Value = list[Any] | None
"""None is NULL; else a kind (int, float, bool, numeric, bytea, date, timestamp or text) and its text, or a list of texts."""
VALUES_MAX: Final = 1_000
_WORDS: Final = {
    "int2": "int", "int4": "int", "int8": "int", "float4": "float", "float8": "float", "bool": "bool", "numeric": "numeric",
    "bytea": "bytea", "date": "date", "timestamp": "timestamp", "timestamptz": "timestamp",
}  # fmt: skip
_ARRAYS: Final = {kind.array_oid: kind for kind in KINDS}
_NUMBERS: Final = {
    "int2": struct.Struct("!h"), "int4": struct.Struct("!i"), "int8": struct.Struct("!q"), "float4": struct.Struct("!f"),
    "float8": struct.Struct("!d"),
}  # fmt: skip
_OID: Final = 26
_ELEMENT: Final = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)', re.DOTALL)


def values(oids: Sequence[int], forms: Sequence[int], given: Sequence[bytes | None]) -> list[Value]:
    """Every value of a Bind; QueryError if one is not of the form or type that it is said to be."""
    if len(given) > VALUES_MAX:
        raise QueryError(f"{len(given)} values, the bound is {VALUES_MAX}")
    if len(forms) not in (0, 1, len(given)):
        raise QueryError(f"{len(forms)} forms for {len(given)} values")
    each = list(forms) if len(forms) == len(given) else [forms[0] if forms else 0] * len(given)
    types = [*oids, *[0] * (len(given) - len(oids))]
    return [_value(oid, form, data) for oid, form, data in zip(types, each, given, strict=False)]


def _value(oid: int, form: int, data: bytes | None) -> Value:
    if data is None:
        return None
    try:
        return _from_binary(oid, data) if form == BINARY_FORM else _from_text(oid, data.decode())
    except (struct.error, ValueError, OverflowError) as error:
        raise QueryError(f"a value of type {oid} cannot be read: {error}", "send it as text") from error


def _from_text(oid: int, text: str) -> Value:
    if oid in _ARRAYS:
        return [_WORDS.get(_ARRAYS[oid].name, "text"), _elements(text)]
    name = BY_OID[oid].name if oid in BY_OID else ""
    if name == "bytea":
        return ["bytea", text[2:] if text.startswith("\\x") else text.encode().hex()]
    if oid == _OID:
        return ["int", text]
    return [_WORDS.get(name, "text"), text]


def _elements(text: str) -> list[str | None]:
    """The elements of `{1,"a b",NULL}`."""
    found: list[str | None] = []
    for match in _ELEMENT.finditer(text.strip()[1:-1]):
        if match[1] is not None:
            found.append(re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL))
        else:
            found.append(None if match[2].strip().upper() == "NULL" else match[2].strip())
    return found


def _from_binary(oid: int, data: bytes) -> Value:
    if oid in _ARRAYS:
        kind = _ARRAYS[oid]
        return [_WORDS.get(kind.name, "text"), [_scalar(kind.name, each) for each in _array(data)]]
    if oid == _OID:
        return ["int", str(struct.unpack("!I", data)[0])]
    name = BY_OID[oid].name if oid in BY_OID else "text"
    return [_WORDS.get(name, "text"), _scalar(name, data)]


def _array(data: bytes) -> list[bytes | None]:
    dimensions, _, _ = struct.unpack_from("!iiI", data)
    if dimensions == 0:
        return []
    if dimensions != 1:
        raise ValueError("an array of arrays")
    [count] = struct.unpack_from("!i", data, 12)
    place, found = 20, list[bytes | None]()
    if not 0 <= count <= (len(data) - place) // 4:
        raise ValueError("an array that is shorter than it says")
    for _ in range(count):
        [size] = struct.unpack_from("!i", data, place)
        place += 4
        found.append(None if size < 0 else data[place : place + size])
        place += max(size, 0)
    return found


def _scalar(name: str, data: bytes | None) -> str | None:
    if data is None:
        return None
    if name in _NUMBERS:
        return repr(_NUMBERS[name].unpack(data)[0])
    return _READ.get(name, bytes.decode)(data)


def _timestamp(data: bytes) -> str:
    [micros] = struct.unpack("!q", data)
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=micros + EPOCH_US)
    return moment.isoformat(" ")


def _timestamptz(data: bytes) -> str:
    return _timestamp(data) + "+00:00"


def _date(data: bytes) -> str:
    [days] = struct.unpack("!i", data)
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days + EPOCH_DAYS)).isoformat()


def _numeric(data: bytes) -> str:
    count, weight, sign, scale = struct.unpack_from("!hhHh", data)
    if sign not in (0, 0x4000):
        return "NaN"
    if not 0 <= count <= (len(data) - 8) // 2 or not 0 <= scale <= 16_383 or not -5_000 <= weight <= 5_000:
        raise ValueError("a number that is not made as it says")
    groups = struct.unpack_from(f"!{count}H", data, 8)
    digits = "".join(f"{group:04d}" for group in groups)
    return f"{'-' if sign else ''}{digits or '0'}e{4 * (weight + 1 - count)}"


_READ: Final[dict[str, Callable[[bytes], str]]] = {
    "bool": lambda data: "true" if data != b"\0" else "false",
    "bytea": bytes.hex,
    "numeric": _numeric,
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
    "date": _date,
}
