"""A pickle from somebody else's job is read as plain data or refused in a sentence; nothing in it is ever run."""

from __future__ import annotations

import copyreg
import os
import pickle
import pickletools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.parsers import plain_pickle
from warpline_proto.errors import Refused


class _Runs:
    """Its pickle asks to call os.system."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/warpline-must-not-exist",)


class _Extension:
    """A class with a registered extension code."""


def _nested(depth: int) -> bytes:
    return b"]" * depth + b"a" * (depth - 1) + b"."


def _laughs(levels: int) -> bytes:
    """Lists of ten references to the level below: small to store, 10 ** levels values to walk."""
    body = b"]q\x00"
    for level in range(1, levels + 1):
        body += b"](" + b"h" + bytes([level - 1]) + (b"h" + bytes([level - 1])) * 9 + b"eq" + bytes([level])
    return b"\x80\x02" + body + b"."


HOSTILE = {
    "global in protocol 0": (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
    "stack global": (pickle.dumps(_Runs(), 4), "system"),
    "instance": (b"(S'true'\nios\nsystem\n.", "os.system"),
    "object": (b"(cos\nsystem\nS'true'\no.", "os.system"),
    "object without a global": (b"(S'a'\no.", "OBJ"),
    "extension": (b"\x80\x02\x82\x7f.", "EXT1"),
    "extension of four bytes": (b"\x80\x02\x84\x7f\x00\x00\x00.", "EXT4"),
    "reduce": (b"(S'a'\nS'b'\nR.", "REDUCE"),
    "build": (b"}}b.", "BUILD"),
    "new object": (b"\x80\x02NN\x81.", "NEWOBJ"),
    "persistent id": (b"Panything\n.", "PERSID"),
    "persistent id from the stack": (b"\x80\x02K\x01Q.", "BINPERSID"),
    "buffer from outside": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "byte array of 8 exabytes": (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged"),
    "text of 4 GB": (b"\x80\x02X\xff\xff\xff\xff.", "damaged"),
    "integer of a million digits": (b"I" + b"9" * 1_000_000 + b"\n.", "damaged"),
    "wide integer": (b"\x80\x02\x8b\x00\x01\x00\x00" + b"\x7f" * 256 + b".", "absurd"),
    "never stored": (b"\x80\x02h\x05.", "never stored"),
    "list as a key": (b"\x80\x02}]K\x01s.", "dict key"),
    "tuple as a key": (b"\x80\x02})K\x01s.", "dict key"),
    "no end": (b"\x80\x02]", "damaged"),
    "empty stack": (b"\x80\x02.", "damaged"),
    "nested deep": (_nested(100_000), "deeper"),
    "holds itself": (b"\x80\x02]q\x00h\x00a.", "holds itself"),
    "billion laughs": (_laughs(9), "more than"),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_pickle_is_refused_in_a_sentence(name: str) -> None:
    """Calls, classes, bombs: each is named, none is carried out."""
    content, said = HOSTILE[name]
    with pytest.raises(Refused, match=said):
        plain_pickle.load(content)
    assert not os.path.exists("/tmp/warpline-must-not-exist")


def test_a_registered_extension_is_refused_even_when_python_has_it_cached() -> None:
    """Python's own unpickler hands out a cached extension without asking find_class; this one knows no extensions."""
    copyreg.add_extension(__name__, "_Extension", 0x7E)
    try:
        with pytest.raises(Refused, match="EXT1"):
            plain_pickle.load(b"\x80\x02\x82\x7e.")
    finally:
        copyreg.remove_extension(__name__, "_Extension", 0x7E)


def test_a_memo_index_of_four_billion_costs_no_memory() -> None:
    """Python's own unpickler would set aside room for every index below it."""
    assert plain_pickle.load(b"\x80\x02K\x01r\xff\xff\xff\xff.") == 1


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@given(PLAIN, st.integers(0, 3) | st.integers(4, 5))
@settings(max_examples=150, deadline=None)
def test_plain_data_comes_back_as_it_was(value: Any, protocol: int) -> None:
    """In every protocol; where Python itself would need a global (bytes before protocol 3) it is refused."""
    content = pickle.dumps(value, protocol)
    names = {opcode.name for opcode, _, _ in pickletools.genops(content)}
    if names & {"GLOBAL", "STACK_GLOBAL"}:
        with pytest.raises(Refused):
            plain_pickle.load(content)
    else:
        assert plain_pickle.load(content) == value


@given(st.binary(max_size=400))
@settings(max_examples=400, deadline=None)
def test_arbitrary_bytes_are_read_or_refused(content: bytes) -> None:
    """Never anything but Refused."""
    for start in (b"", b"\x80\x02", b"\x80\x04", b"\x80\x02}q\x00("):
        try:
            plain_pickle.load(start + content)
        except Refused as refused:
            assert refused.message
