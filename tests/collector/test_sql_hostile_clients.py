"""The PostgreSQL door and clients that mean no good: garbage, half messages, boundless claims, those that only hold on."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import until
from postgres_door import LISTEN, STARTUP, Door, begun, exactly, heard, opened, startup, told

from warpline_collector.postgres import link, messages
from warpline_collector.postgres.portals import STATEMENTS_MAX

ENDLESS = b"SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))\0"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """One door for all: none of them may harm it for the next."""
    with opened(tmp_path_factory.mktemp("store"), replace(LISTEN, connections_max=8)) as each:
        yield each


def answered(door: Door) -> None:
    """An honest client hears its answer."""
    with begun(door) as connection:
        connection.sendall(told(b"Q", b"SELECT 42\0"))
        assert (b"D", b"\0\1\0\0\0\x0242") in heard(connection, b"Z")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b"\xff" * 64, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", b"SSH-2.0-x\r\n",
        struct.pack("!II", 8, 12_345), struct.pack("!II", 2**31, 196_608), struct.pack("!II", 4, 0),
        struct.pack("!II", 9, 196_608), struct.pack("!II", 12, 80_877_102) + b"abcd", struct.pack("!II", 8, 2 << 16),
        struct.pack("!II", 29, 196_608) + b"user\0me\0replication\0", STARTUP + b"Q" + struct.pack("!I", 2**30) + b"x" * 1_000,
        STARTUP + b"Q" + struct.pack("!I", 3), STARTUP + told(b"Q", b"no end"), STARTUP + told(b"Q", b"\xff\xfe\0"),
        STARTUP + told(b"B", b"\0\0\xff\xff"), STARTUP + told(b"B", b"\0\0\0\0\0\1\x7f\xff\xff\xff"),
        STARTUP + told(b"D", b"Zx\0"), STARTUP + told(b"P", b"a\0SELECT 1\0\xff\xff"),
        STARTUP + told(b"E", b"x\0"), STARTUP + bytes(range(256)),
    ],
)  # fmt: skip
def test_garbage_ends_its_connection_and_nothing_else(door: Door, data: bytes) -> None:
    """It is told so, or let go; the next client is answered."""
    with door.connect() as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while exactly(connection, 65_536):
            pass
    answered(door)


def test_what_has_no_place_is_refused_and_the_session_goes_on(door: Door) -> None:
    """A portal that was never bound, a statement of no name, a call of a function, values of no type."""
    with begun(door) as connection:
        for message, state in (
            (told(b"E", b"nowhere\0\0\0\0\0"), b"34000"), (told(b"B", b"\0none\0\0\0\0\0\0\0"), b"26000"),
            (told(b"F", b"\0" * 8), b"08P01"),
            (told(b"P", b"\0SELECT $1\0\0\1\0\0\0\x17") + told(b"B", b"\0\0\0\1\0\1\0\1\0\0\0\1x\0\0"), b"42601"),
            (told(b"P", b"\0SELECT $1\0\0\0") + told(b"B", b"\0\0\0\0\0\0\0\0") + told(b"E", b"\0\0\0\0\0"), b"42000"),
            (told(b"P", b"\0SHOW nothing\0\0\0") + told(b"B", b"\0\0\0\0\0\0\0\0") + told(b"E", b"\0\0\0\0\0"), b"42704"),
            (told(b"P", b"\0SELECT 1; SELECT 2\0\0\0"), b"42601"),
        ):  # fmt: skip
            connection.sendall(message + told(b"S", b""))
            failures = [body for kind, body in heard(connection, b"Z") if kind == b"E"]
            assert len(failures) == 1, message
            assert b"C" + state in failures[0], failures
    answered(door)


def test_names_and_types_are_told_before_a_question_is_asked(door: Door) -> None:
    """What a prepared statement will answer, and how many parameters it wants, as pgx and JDBC ask for it."""
    with begun(door) as connection:
        sql = b"SELECT rank, job, $2::INT AS two FROM steps WHERE step = $1"
        connection.sendall(told(b"P", b"p\0" + sql + b"\0\0\0") + told(b"D", b"Sp\0") + told(b"S", b""))
        said = dict(heard(connection, b"Z"))
        assert said[b"t"] == struct.pack("!HII", 2, 25, 25)
        assert [part.split(b"\0")[0] for part in (said[b"T"][2:8], said[b"T"][25:30], said[b"T"][47:52])] == [
            b"rank",
            b"job",
            b"two",
        ]


def test_a_portal_gives_as_many_rows_as_are_asked_for(door: Door) -> None:
    """And the rest later, as JDBC does with a fetch size."""
    with begun(door) as connection:
        bound = told(b"P", b"\0SELECT range FROM range(5)\0\0\0") + told(b"B", b"\0\0\0\0\0\0\0\0")
        rows = told(b"E", b"\0\0\0\0\2")
        connection.sendall(bound + rows * 3 + told(b"S", b""))
        assert [kind for kind, _ in heard(connection, b"Z")] == [b"1", b"2", *[b"D", b"D", b"s"] * 2, b"D", b"C", b"Z"]


def test_statements_without_end_are_bounded(door: Door) -> None:
    """So many under names of their own, and so many bytes of them."""
    with begun(door) as connection:
        parts = b"".join(told(b"P", b"s%d\0SELECT 1\0\0\0" % number) for number in range(STATEMENTS_MAX + 1))
        connection.sendall(parts + told(b"S", b""))
        said = heard(connection, b"Z")
        assert sum(kind == b"1" for kind, _ in said) == STATEMENTS_MAX
        assert b"too many statements" in said[-2][1]


def test_one_connection_too_many_is_told_and_those_that_never_begin_make_room(door: Door) -> None:
    """Eight may be there. Who is there and silent before it began has to go first."""
    silent = [door.connect() for _ in range(8)]
    until(lambda: door.endpoint.connections == 8)
    honest = [begun(door, user) for user in (b"a", b"a", b"a", b"b", b"b", b"b", b"c", b"d")]
    with door.connect() as ninth:
        assert b"too many connections" in heard(ninth, b"E")[-1][1]
    for each in (*silent, *honest):
        each.close()
    until(lambda: door.endpoint.connections == 0)
    answered(door)


def test_one_caller_leaves_room_for_others(door: Door) -> None:
    """Half of all connections at most, and the last quarter is for those who have none."""
    before = door.endpoint.sessions().refused["share"]
    greedy = [begun(door, b"greedy") for _ in range(4)]
    with door.connect() as fifth:
        fifth.sendall(startup(b"greedy"))
        assert b"too many connections of postgres user greedy" in heard(fifth, b"E")[-1][1]
    assert door.endpoint.sessions().refused["share"] == before + 1
    honest = [begun(door, user) for user in (b"a", b"b", b"c", b"d")]
    for each in (*greedy, *honest):
        each.close()
    until(lambda: door.endpoint.connections == 0)
    assert door.endpoint.sessions().now == 0
    answered(door)


def test_a_thousand_connections_at_once_leave_the_door_open(door: Door) -> None:
    """None of them says a word; memory and room are given back."""
    before = door.endpoint.refused
    crowd = []
    for _ in range(1_000):
        connection = socket.create_connection(("127.0.0.1", door.port))
        crowd.append(connection)
    until(lambda: door.endpoint.refused - before >= 900)
    answered(door)
    for connection in crowd:
        connection.close()
    until(lambda: door.endpoint.connections == 0)


def test_whoever_does_not_read_is_cut(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of many megabytes is not held for long for somebody who takes none of it."""
    monkeypatch.setattr(link, "SEND_SECONDS_MAX", 0.5)
    with begun(door) as connection:
        connection.sendall(told(b"Q", b"SELECT repeat('x', 500) FROM range(60000)\0"))
        until(lambda: door.endpoint.connections == 0)
        assert door.pool.unread.total == 0
    answered(door)


def test_whoever_says_nothing_for_too_long_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The time is the operator's to set."""
    with opened(tmp_path_factory.mktemp("store"), replace(LISTEN, idle_seconds=0.2)) as door, begun(door) as connection:
        assert b"57P05" in heard(connection, b"E")[-1][1]


def test_nobody_cancels_another_ones_question_by_guessing(door: Door) -> None:
    """The number of a session is easily guessed, what comes with it is not; the right one ends the question."""
    with door.connect() as connection:
        connection.sendall(STARTUP)
        key = dict(heard(connection, b"Z"))[b"K"]
        connection.sendall(told(b"Q", ENDLESS))
        for wrong in (b"\0" * 4, b"\xff" * 4):
            with door.connect() as other:
                other.sendall(struct.pack("!II", 16, messages.CANCEL_REQUEST) + key[:4] + wrong)
                assert exactly(other, 1) == b""
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        connection.settimeout(60)
        with door.connect() as other:
            other.sendall(struct.pack("!II", 16, messages.CANCEL_REQUEST) + key)
            assert exactly(other, 1) == b""
        assert b"C57014" in dict(heard(connection, b"Z"))[b"E"]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(b"QPBDECSHXpdcfF"))
def test_any_bytes_are_a_message_or_broken(body: bytes, kind: int) -> None:
    """Whatever is sent is understood, or ends in the one way that a broken connection ends."""
    data = told(bytes([kind]), body)
    assert messages.message_size(data) == len(data)
    try:
        messages.message(data)
    except messages.Broken:
        assert body is not None
    try:
        size = messages.startup_size(body)
        if size is not None:
            messages.startup(body[:size])
    except messages.Broken:
        assert body is not None
