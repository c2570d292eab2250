"""What the service supervisor hears, over a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from warpline_proto.notify import ALIVE_SECONDS, BEATS_PER_LIMIT, Supervisor


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    """The supervisor's side."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(str(tmp_path / "notify"))
        link.settimeout(10)
        yield link


def asked(link: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(link.getsockname()), **more}


def test_ready_and_stopping_are_said(listening: socket.socket) -> None:
    """A status stays one line, whatever is in it."""
    supervisor = Supervisor(asked(listening))
    supervisor.ready("listens on\n127.0.0.1")
    supervisor.stopping()
    assert listening.recv(1000) == b"READY=1\nSTATUS=listens on 127.0.0.1"
    assert listening.recv(1000) == b"STOPPING=1"


def test_life_is_told_several_times_within_the_limit(listening: socket.socket) -> None:
    """However often the loop turns."""
    now = [0.0]
    supervisor = Supervisor(asked(listening, WATCHDOG_USEC="60000000"), lambda: now[0])
    assert supervisor.beat_seconds == 60 / BEATS_PER_LIMIT
    for second in range(60):
        now[0] = float(second)
        supervisor.beat()
    supervisor.stopping()
    heard = [listening.recv(1000) for _ in range(BEATS_PER_LIMIT + 1)]
    assert heard == [*[b"WATCHDOG=1"] * BEATS_PER_LIMIT, b"STOPPING=1"]


@pytest.mark.parametrize("limit", [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}])
def test_nobody_who_did_not_ask_hears_of_life(listening: socket.socket, limit: dict[str, str]) -> None:
    """The limit of another process is not this one's."""
    supervisor = Supervisor(asked(listening, **limit), pid=os.getpid())
    supervisor.beat()
    supervisor.ready()
    assert supervisor.beat_seconds is None
    assert listening.recv(1000) == b"READY=1"


def test_an_abstract_socket_is_reached() -> None:
    """systemd names such a one with an @."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(f"\0warpline-test-{os.getpid()}")
        link.settimeout(10)
        Supervisor({"NOTIFY_SOCKET": f"@warpline-test-{os.getpid()}"}).ready()
        assert link.recv(1000) == b"READY=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "@"])
def test_without_a_supervisor_nothing_happens(address: str) -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    supervisor.ready("words")
    supervisor.beat()
    supervisor.stopping()


def test_a_supervisor_that_does_not_read_holds_nobody_up(listening: socket.socket) -> None:
    """Signs of life beyond what its queue holds are left out."""
    seconds = iter(range(0, 10_000, 100))
    supervisor = Supervisor(asked(listening, WATCHDOG_USEC="4000000"), lambda: float(next(seconds)))
    for _ in range(100):
        supervisor.beat()
    assert listening.recv(1000) == b"WATCHDOG=1"
    supervisor.stopping()


def test_a_supervisor_that_looks_finds_a_file_that_is_as_old_as_the_last_sign_of_life(tmp_path: Path) -> None:
    """There once the service works, touched while it lives, gone when it stops."""
    now, alive = [0.0], tmp_path / "alive"
    supervisor = Supervisor({"WARPLINE_ALIVE_FILE": str(alive)}, lambda: now[0])
    assert supervisor.beat_seconds == ALIVE_SECONDS
    assert not alive.exists()
    supervisor.ready()
    supervisor.beat()
    os.utime(alive, (1, 1))
    supervisor.beat()
    assert alive.stat().st_mtime == 1
    now[0] = ALIVE_SECONDS
    supervisor.beat()
    assert alive.stat().st_mtime > 1
    supervisor.stopping()
    assert not alive.exists()


def test_a_file_that_cannot_be_made_is_the_supervisors_own_matter(listening: socket.socket) -> None:
    supervisor = Supervisor(asked(listening, WARPLINE_ALIVE_FILE="/nowhere/alive", WATCHDOG_USEC="8000000"))
    assert supervisor.beat_seconds == 8 / BEATS_PER_LIMIT
    supervisor.ready()
    supervisor.beat()
    supervisor.stopping()
    assert [listening.recv(1000) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]
