"""Chrome traces are read piece by piece, exactly, and every kind of damage is told in one sentence."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpline_agent.parsers import chrome_trace
from warpline_agent.parsers.chrome_trace import ChromeTrace, nanoseconds
from warpline_proto.errors import Refused

EVENT = {"ph": "X", "cat": "kernel", "name": 'a }, {"b" ], ü', "ts": 1, "dur": 2, "args": {"grid": [1, 2], "x": None}}


def read(data: bytes, wanted: tuple[str, ...] = ()) -> tuple[list[dict[str, Any]], ChromeTrace]:
    """All events, and the pass itself."""
    trace = ChromeTrace(io.BytesIO(data), wanted)
    return list(trace.events()), trace


@pytest.mark.parametrize("size", [1, 2, 7, 64, 4096])
@pytest.mark.parametrize("indent", [None, 4])
def test_pieces_of_any_size_give_the_same_events(
    size: int, indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event, a name or a letter may be cut by the end of a piece; members stand before and after the events."""
    monkeypatch.setattr(chrome_trace, "READ_BYTES", size)
    document = {"schemaVersion": 1, "env": {"A": "b"}, "traceEvents": [EVENT] * 3, "baseTimeNanoseconds": 17, "x": 1.5}
    events, trace = read(json.dumps(document, indent=indent, ensure_ascii=False).encode(), ("baseTimeNanoseconds", "x"))
    assert events == [EVENT] * 3
    assert trace.count == 3
    assert trace.members == {"baseTimeNanoseconds": 17, "x": "1.5"}


def test_a_bare_array_is_a_trace_too() -> None:
    """Chrome's other form."""
    assert read(json.dumps([EVENT, 5, EVENT]).encode())[0] == [EVENT, EVENT]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends"),
        (b"not json", "does not start with a JSON object"),
        (b'{"schemaVersion": 1}', 'no array "traceEvents"'),
        (b'{"traceEvents": 5}', 'no array "traceEvents"'),
        (b'{"traceEvents": [{"ph": "X"', "cut off"),
        (b'{"traceEvents": [{"ph": "X"}', "cut off"),
        (b'{"traceEvents": [{"ph": X}], "a": 1}', "damaged"),
        (b'{"traceEvents" [', "damaged"),
        (b'{"traceEvents": [' + b"[" * 200_000 + b"]}", "nested too deeply"),
        (b'{"traceEvents": [{"ts": ' + b"9" * 10_000 + b"}]}", "damaged"),
    ],
)
def test_damage_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    """Never a traceback: one sentence that says what is wrong."""
    with pytest.raises(Refused, match=reason):
        read(data)


def test_a_truncated_gzip_is_refused() -> None:
    """A stream that ends early says so."""
    packed = gzip.compress(json.dumps({"traceEvents": [EVENT] * 500}).encode())[:-40]
    with gzip.open(io.BytesIO(packed)) as stream, pytest.raises(Refused, match="cannot be unpacked to its end"):
        list(ChromeTrace(cast(BinaryIO, stream), ()).events())


def test_one_endless_value_is_refused_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text without end does not fill memory."""
    monkeypatch.setattr(chrome_trace, "VALUE_CHARS_MAX", 1000)
    monkeypatch.setattr(chrome_trace, "READ_BYTES", 100)
    with pytest.raises(Refused, match="damaged"):
        read(b'{"traceEvents": [{"name": "' + b"a" * 5000)


@given(st.integers(0, 2**61))
def test_three_decimals_are_exact_at_any_size(time_ns: int) -> None:
    """Microseconds since the epoch with three decimals do not fit a float; here nothing is lost."""
    assert nanoseconds(f"{time_ns // 1000}.{time_ns % 1000:03d}") == time_ns


@pytest.mark.parametrize(
    ("given_time", "expected"),
    [
        (5, 5000),
        ("5", 5000),
        ("4458676983543.183", 4458676983543183),
        ("7.5", 7500),
        ("-2.25", -2250),
        ("1.5e3", 1500000),
    ],
)
def test_times_come_in_many_spellings(given_time: object, expected: int) -> None:
    """Whole numbers, fractions, signs, exponents."""
    assert nanoseconds(given_time) == expected


@pytest.mark.parametrize("given_time", [None, "soon", "", True, [1], "1e400", "nan", "9" * 40, 1.5])
def test_what_is_no_time_is_no_time(given_time: object) -> None:
    """ValueError, which the reader counts."""
    with pytest.raises(ValueError):
        value = nanoseconds(given_time)
        if abs(value) >= 2**63:
            raise ValueError("does not fit")
