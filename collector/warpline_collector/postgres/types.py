"""Types of PostgreSQL, and columns of an answer in its text and binary forms."""

from __future__ import annotations

import datetime
import decimal
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TEXT_FORM: Final = 0
BINARY_FORM: Final = 1
EPOCH_DAYS: Final = 10_957
"""PostgreSQL counts from the year 2000: days from 1970 to there."""
EPOCH_US: Final = EPOCH_DAYS * 86_400 * 10**6


@dataclass(frozen=True)
class Kind:
    """A type of PostgreSQL: its name, its number, the number of arrays of it, bytes of a value (-1: it varies)."""

    name: str
    oid: int
    array_oid: int
    size: int


BOOL: Final = Kind("bool", 16, 1000, 1)
BYTEA: Final = Kind("bytea", 17, 1001, -1)
INT8: Final = Kind("int8", 20, 1016, 8)
INT2: Final = Kind("int2", 21, 1005, 2)
INT4: Final = Kind("int4", 23, 1007, 4)
TEXT: Final = Kind("text", 25, 1009, -1)
JSON: Final = Kind("json", 114, 199, -1)
FLOAT4: Final = Kind("float4", 700, 1021, 4)
FLOAT8: Final = Kind("float8", 701, 1022, 8)
DATE: Final = Kind("date", 1082, 1182, 4)
TIME: Final = Kind("time", 1083, 1183, 8)
TIMESTAMP: Final = Kind("timestamp", 1114, 1115, 8)
TIMESTAMPTZ: Final = Kind("timestamptz", 1184, 1185, 8)
INTERVAL: Final = Kind("interval", 1186, 1187, 16)
NUMERIC: Final = Kind("numeric", 1700, 1231, -1)
KINDS: Final = (
    BOOL, BYTEA, INT8, INT2, INT4, TEXT, JSON, FLOAT4, FLOAT8, DATE, TIME, TIMESTAMP, TIMESTAMPTZ, INTERVAL, NUMERIC,
)  # fmt: skip
BY_OID: Final = {kind.oid: kind for kind in KINDS}
_SIMPLE: Final = {
    pa.bool_(): BOOL,
    pa.int8(): INT2,
    pa.uint8(): INT2,
    pa.int16(): INT2,
    pa.uint16(): INT4,
    pa.int32(): INT4,
    pa.uint32(): INT8,
    pa.int64(): INT8,
    pa.uint64(): NUMERIC,
    pa.float16(): FLOAT4,
    pa.float32(): FLOAT4,
    pa.float64(): FLOAT8,
    pa.binary(): BYTEA,
    pa.large_binary(): BYTEA,
    pa.date32(): DATE,
    pa.date64(): DATE,
}


@dataclass(frozen=True)
class Field:
    """One column of an answer as the client is told of it; `array` where it holds lists of `kind`."""

    name: str
    kind: Kind
    array: bool = False

    @property
    def oid(self) -> int:
        """The number of its type."""
        return self.kind.array_oid if self.array else self.kind.oid

    @property
    def size(self) -> int:
        """Bytes of a value, -1 where it varies."""
        return -1 if self.array else self.kind.size


def field_of(column: pa.Field) -> Field:
    """What the client is told of an Arrow column. Lists of lists, structs and maps travel as JSON."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        inner = kind_of(column.type.value_type)
        listed = pa.types.is_nested(column.type.value_type)
        return Field(column.name, JSON) if listed else Field(column.name, inner, array=True)
    return Field(column.name, kind_of(column.type))


def kind_of(type_: pa.DataType) -> Kind:
    """The type that a value which is no list travels as."""
    if pa.types.is_decimal(type_):
        return NUMERIC
    if pa.types.is_timestamp(type_):
        return TIMESTAMP if type_.tz is None else TIMESTAMPTZ
    if pa.types.is_time(type_):
        return TIME
    if pa.types.is_interval(type_) or pa.types.is_duration(type_):
        return INTERVAL
    if pa.types.is_nested(type_):
        return JSON
    return _SIMPLE.get(type_, TEXT)


def cells(column: pa.ChunkedArray, field: Field, form: int) -> pa.LargeBinaryArray:
    """Each value of a column as bytes; NULL stays NULL. ValueError where there is no binary form."""
    array = _plain(column)
    encoded = _binary(array, field) if form == BINARY_FORM else _text(array, field)
    return encoded.cast(pa.large_binary())


def _plain(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # of no chunks
        array = pa.array([], type=column.type)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    return array


def _text(array: pa.Array, field: Field) -> pa.Array:
    kind = field.kind
    if field.array:
        return _each(array, lambda value: _listed(value, kind).encode())
    if kind is BOOL:
        return pc.if_else(array, "t", "f")
    if kind in (FLOAT4, FLOAT8):
        return _float_text(array)
    if kind in (TIMESTAMP, TIMESTAMPTZ):
        return _timestamp_text(array, kind)
    if kind in (INT2, INT4, INT8, DATE) or pa.types.is_uint64(array.type):
        return array.cast(pa.string())
    if kind is TEXT:
        return _string(array)
    return _each(array, lambda value: as_text(value, kind).encode())


def _string(array: pa.Array) -> pa.Array:
    """Texts as they are, but for zero bytes, which PostgreSQL's cannot hold."""
    texts = array.cast(pa.large_string())
    if pc.any(pc.match_substring(texts, "\0")).as_py():
        texts = pc.replace_substring(texts, "\0", "\N{REPLACEMENT CHARACTER}")
    return texts


def _float_text(array: pa.Array) -> pa.Array:
    texts = array.cast(pa.string())
    if not pc.all(pc.is_finite(array)).as_py():
        for before, after in (("nan", "NaN"), ("-nan", "NaN"), ("inf", "Infinity"), ("-inf", "-Infinity")):
            texts = pc.if_else(pc.equal(texts, before), after, texts)
    return texts


_US_MAX: Final = 253_402_300_799 * 10**6
"""The last second of the year 9999."""
_US_MIN: Final = -62_135_596_800 * 10**6
"""The first second of the year 1."""


def _timestamp_text(array: pa.Array, kind: Kind) -> pa.Array:
    micros = _micros(array)
    inside = pc.and_(pc.less_equal(micros, _US_MAX), pc.greater_equal(micros, _US_MIN))
    shown = pc.if_else(inside, micros, 0).cast(pa.timestamp("us"))
    zone = "+00" if kind is TIMESTAMPTZ else ""
    texts = pc.strftime(shown, format=f"%Y-%m-%d %H:%M:%S{zone}")
    beyond = pc.if_else(pc.greater(micros, 0), "infinity", "-infinity")
    return pc.if_else(inside, texts, beyond)


def _micros(array: pa.Array) -> pa.Array:
    """Microseconds since 1970."""
    return array.cast(pa.timestamp("us", array.type.tz), safe=False).cast(pa.int64())


def as_text(value: Any, kind: Kind) -> str:
    """One value as PostgreSQL writes it."""
    if kind is BOOL:
        return "t" if value else "f"
    if kind in (FLOAT4, FLOAT8):
        return _float_word(value)
    if kind is BYTEA:
        return "\\x" + bytes(value).hex()
    if kind is JSON:
        return json.dumps(value, default=_json)
    if kind is INTERVAL:
        return _interval_text(value)
    if kind is NUMERIC and isinstance(value, decimal.Decimal):
        return format(value, "f")
    if kind is TIMESTAMPTZ and isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).replace(tzinfo=None).isoformat(" ") + "+00"
    return value.isoformat(" ") if isinstance(value, datetime.datetime) else str(value)


def _float_word(value: float) -> str:
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))


def _json(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)


def _interval_text(value: Any) -> str:
    if isinstance(value, datetime.timedelta):
        months, days, nanoseconds = (
            0,
            value.days,
            (value - datetime.timedelta(value.days)) // datetime.timedelta(microseconds=1) * 1_000,
        )
    else:
        months, days, nanoseconds = value
    seconds, micros = divmod(abs(nanoseconds) // 1_000, 10**6)
    sign = "-" if nanoseconds < 0 else ""
    clock = f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}" + (
        f".{micros:06d}" if micros else ""
    )
    parts = ([f"{months} mons"] if months else []) + ([f"{days} days"] if days else [])
    return " ".join([*parts, clock] if seconds or micros or not parts else parts)


_BARE: Final = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-+.:")


def _listed(values: Any, kind: Kind) -> str:
    return "{" + ",".join("NULL" if value is None else _element(as_text(value, kind)) for value in values) + "}"


def _element(text: str) -> str:
    if text and text.upper() != "NULL" and _BARE.issuperset(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _binary(array: pa.Array, field: Field) -> pa.Array:
    kind = field.kind
    if field.array:
        return _each(array, lambda value: _array_bytes(value, kind))
    if kind in _NUMBERS:
        return _fixed(array, _NUMBERS[kind])
    if kind is BOOL:
        return _fixed(array.cast(pa.int8()), "u1")
    if kind is DATE:
        return _fixed(pc.subtract(array.cast(pa.date32()).cast(pa.int32()), EPOCH_DAYS), ">i4")
    if kind in (TIMESTAMP, TIMESTAMPTZ):
        return _fixed(_moved(_micros(array)), ">i8")
    if kind is TIME:
        return _fixed(array.cast(pa.time64("us"), safe=False).cast(pa.int64()), ">i8")
    if kind is TEXT:
        return _string(array)
    if kind is BYTEA:
        return array
    return _each(array, lambda value: as_bytes(value, kind))


_NUMBERS: Final = {INT2: ">i2", INT4: ">i4", INT8: ">i8", FLOAT4: ">f4", FLOAT8: ">f8"}
_ENDLESS: Final = (2**63 - 1, -(2**63) + 1)
"""Endless times as the engine has them: PostgreSQL's are the ends of the number itself."""


def _moved(micros: pa.Array) -> pa.Array:
    late, early = pc.equal(micros, _ENDLESS[0]), pc.equal(micros, _ENDLESS[1])
    kept = pc.if_else(pc.or_(late, early), 0, micros)
    moved = pc.subtract(pc.max_element_wise(kept, -(2**63) + EPOCH_US, skip_nulls=False), EPOCH_US)
    return pc.if_else(late, 2**63 - 1, pc.if_else(early, -(2**63), moved))


def _fixed(array: pa.Array, form: str) -> pa.Array:
    """Numbers, most significant byte first."""
    values = np.asarray(pc.fill_null(array, 0).to_numpy(zero_copy_only=False)).astype(form)
    buffer = pa.py_buffer(np.ascontiguousarray(values).tobytes())
    whole = pa.FixedSizeBinaryArray.from_buffers(pa.binary(values.dtype.itemsize), len(array), [None, buffer])
    encoded = whole.cast(pa.binary())
    return pc.if_else(pc.is_valid(array), encoded, None) if array.null_count else encoded


def as_bytes(value: Any, kind: Kind) -> bytes:
    """One value in PostgreSQL's binary form; ValueError where there is none."""
    encode = _BYTES.get(kind)
    if encode is None:
        raise ValueError(f"type {kind.name} has no binary form here")
    return encode(value)


def _array_bytes(values: Any, kind: Kind) -> bytes:
    nulls = any(value is None for value in values)
    head = struct.pack("!iiI", 1 if len(values) else 0, int(nulls), kind.oid)
    if not len(values):
        return head
    body = b"".join(
        b"\xff\xff\xff\xff" if value is None else struct.pack("!i", len(each := as_bytes(value, kind))) + each
        for value in values
    )
    return head + struct.pack("!ii", len(values), 1) + body


def numeric_bytes(value: decimal.Decimal | int) -> bytes:
    """A decimal number as groups of four digits."""
    value = decimal.Decimal(value)
    if not value.is_finite():
        return struct.pack("!hhHh", 0, 0, 0xC000 if value.is_nan() else 0xD000 if value > 0 else 0xF000, 0)
    sign, digits, exponent = value.as_tuple()
    scale = max(-int(exponent), 0)
    text = "".join(map(str, digits)) + "0" * max(int(exponent), 0)
    whole, fraction = (text[: len(text) - scale], text[len(text) - scale :]) if scale else (text, "")
    if scale > len(text):
        whole, fraction = "", text.rjust(scale, "0")
    whole = whole.rjust(-(-len(whole) // 4) * 4, "0")
    fraction = fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    groups = [int((whole + fraction)[start : start + 4]) for start in range(0, len(whole + fraction), 4)]
    weight = len(whole) // 4 - 1
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    sign_word = 0x4000 if sign and groups else 0
    return struct.pack(f"!hhHh{len(groups)}H", len(groups), weight if groups else 0, sign_word, scale, *groups)


def _timestamp_bytes(value: datetime.datetime) -> bytes:
    moment = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
    since = moment - datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    return struct.pack("!q", since // datetime.timedelta(microseconds=1))


def _interval_bytes(value: Any) -> bytes:
    months, days, nanoseconds = (
        (0, 0, value // datetime.timedelta(microseconds=1) * 1_000) if isinstance(value, datetime.timedelta) else value
    )
    return struct.pack("!qii", nanoseconds // 1_000, days, months)


_BYTES: Final[dict[Kind, Callable[[Any], bytes]]] = {
    BOOL: lambda value: b"\1" if value else b"\0",
    INT2: lambda value: struct.pack("!h", value),
    INT4: lambda value: struct.pack("!i", value),
    INT8: lambda value: struct.pack("!q", value),
    FLOAT4: lambda value: struct.pack("!f", value),
    FLOAT8: lambda value: struct.pack("!d", value),
    TEXT: lambda value: str(value).replace("\0", "\N{REPLACEMENT CHARACTER}").encode(),
    BYTEA: bytes,
    JSON: lambda value: json.dumps(value, default=_json).encode(),
    DATE: lambda value: struct.pack("!i", value.toordinal() - 719_163 - EPOCH_DAYS),
    TIMESTAMP: _timestamp_bytes,
    TIMESTAMPTZ: _timestamp_bytes,
    INTERVAL: _interval_bytes,
    NUMERIC: numeric_bytes,
}


def _each(array: pa.Array, encode: Callable[[Any], bytes]) -> pa.Array:
    return pa.array([None if value is None else encode(value) for value in array.to_pylist()], type=pa.large_binary())
