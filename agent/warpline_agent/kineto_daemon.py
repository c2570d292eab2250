"""Answers the profiler libraries of this node's processes at the socket that they ask at: who is there, and who is to trace.

Whoever may reach the socket may send anything: a sender is known by the pid and user that the kernel vouches for, what it says is
checked, and how much of it is looked at is bounded.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.errors import Busy, Denied, Refused

from .kineto_wire import DATAGRAM_BYTES_MAX, POLL_SECONDS, SOCKET, Ask, read, reply
from .source import Health

CLIENTS_MAX: Final = 1_024
"""Processes known at once, those heard last."""
SILENT_SECONDS: Final = 6 * POLL_SECONDS
"""One that has not asked for so long is gone."""
DATAGRAMS_A_SECOND_MAX: Final = 500
"""More are left in the queue, which holds a few and then refuses: a process asks once in five seconds."""
WAKE_SECONDS: Final = 0.5
JOIN_SECONDS: Final = 2.0
PROCESSES_LOOKED_AT_MAX: Final = 4_096
_CREDENTIALS: Final = struct.Struct("=iII")
"""pid (as this process sees it, 0 where it does not), user, group."""


@dataclass(frozen=True)
class Client:
    """A process that asks: its pid here and as it knows itself, its user, when it last asked (monotonic seconds).

    `idle` is whether no profiler ran in it then.
    """

    pid: int
    own_pid: int
    user: int
    seen: float
    idle: bool


@dataclass
class Offer:
    """Work for a process: handed over once, when it asks before `latest_ns`; `told` once that was."""

    configuration: str
    latest_ns: int
    told: bool = False


class KinetoDaemon:
    """`open` takes the name and begins to answer in a thread of its own, `close` ends; safe to close twice or without `open`."""

    def __init__(
        self,
        name: str = SOCKET,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
        proc: str = "/proc",
    ) -> None:
        self._name = name
        self._clock_ns = clock_ns
        self._monotonic = monotonic
        self._proc = proc
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._clients: OrderedDict[int, Client] = OrderedDict()
        self._offers: dict[int, Offer] = {}
        self._opened = 0.0
        self._refused = self._floods = 0
        self._refusal = ""

    def open(self) -> None:
        """Busy where another daemon has the name, Denied where this process may have no such socket."""
        if self._socket is not None:
            return
        found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            found.bind(self._name)
        except OSError as error:
            found.close()
            if not isinstance(error, PermissionError):
                raise Busy(f"{_holder(self._name, self._proc)} answers the profilers of this node") from error
            raise Denied(f"the socket at which profilers ask cannot be had: {error.strerror}") from error
        found.setblocking(False)
        self._stop.clear()
        self._socket, self._opened = found, self._monotonic()
        self._thread = threading.Thread(target=self._run, args=(found,), name="profilers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give the name back."""
        self._stop.set()
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # which wakes the thread
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)
        if self._socket is not None:
            self._socket.close()
        self._socket = self._thread = None

    def client(self, pid: int) -> Client | None:
        """The process, where it has asked lately."""
        with self._lock:
            found = self._clients.get(pid)
        return found if found is not None and self._monotonic() - found.seen <= SILENT_SECONDS else None

    @property
    def up_seconds(self) -> float:
        """How long it has answered."""
        return self._monotonic() - self._opened if self._socket is not None else 0.0

    def offer(self, pid: int, work: Offer) -> None:
        """Hand this to a process when it next asks."""
        with self._lock:
            self._offers[pid] = work

    def withdraw(self, pid: int) -> None:
        """Hand it nothing."""
        with self._lock:
            self._offers.pop(pid, None)

    def health(self) -> Iterator[Health]:
        """What was sent that no profiler sends."""
        if self._refused:
            yield Health("profilers", "refused", f"{self._refused} datagrams so far, the last: {self._refusal}")
        if self._floods:
            words = f"more than {DATAGRAMS_A_SECOND_MAX} datagrams a second, in {self._floods} seconds so far"
            yield Health("profilers that ask", "dropped", words)

    def _run(self, found: socket.socket) -> None:
        began, taken = self._monotonic(), 0
        while not self._stop.is_set():
            now = self._monotonic()
            if now - began >= 1.0:
                began, taken = now, 0
            elif taken >= DATAGRAMS_A_SECOND_MAX:
                self._floods += 1
                self._stop.wait(1.0 - (now - began))
                continue
            if select.select([found], [], [], WAKE_SECONDS)[0] and not self._stop.is_set():
                taken += 1
                with suppress(BlockingIOError):
                    self._answer(found, *found.recvmsg(DATAGRAM_BYTES_MAX, socket.CMSG_SPACE(_CREDENTIALS.size)))

    def _answer(self, found: socket.socket, datagram: bytes, ancillary: Any, flags: int, address: Any) -> None:
        try:
            if flags & socket.MSG_TRUNC:
                raise Refused("a datagram that is too long")
            ask, (pid, user) = read(datagram), _sender(ancillary)
        except Refused as error:
            self._refused += 1
            self._refusal = error.message
            return
        answer = reply(ask, self._work(ask, pid, user))
        if address:
            with suppress(OSError):  # it does not wait, or has gone
                found.sendto(answer, address)

    def _work(self, ask: Ask, pid: int, user: int) -> str:
        """Note who asked; the configuration that waits for it, where no profiler runs in it."""
        with self._lock:
            known = self._clients.get(pid)
            idle = ask.idle if ask.kind == b"req" or known is None else known.idle
            self._clients[pid] = Client(pid, ask.pid, user, self._monotonic(), idle)
            self._clients.move_to_end(pid)
            if len(self._clients) > CLIENTS_MAX:
                self._clients.popitem(last=False)
            offer = self._offers.get(pid)
            if offer is None or offer.told or ask.kind != b"req" or not idle or self._clock_ns() > offer.latest_ns:
                return ""
            offer.told = True
            return offer.configuration


def _sender(ancillary: Any) -> tuple[int, int]:
    """Pid and user of the sender, as the kernel has them."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(data) >= _CREDENTIALS.size:
            pid, user, _ = _CREDENTIALS.unpack_from(data)
            if pid > 0:
                return pid, user
    raise Refused("a datagram of a process that cannot be seen from here")


def _holder(name: str, proc: str) -> str:
    """Who has the name, as far as that can be seen."""
    shown = name.replace("\0", "@")
    try:
        with open(f"{proc}/net/unix", encoding="ascii", errors="replace") as stream:
            inode = next((line.split()[6] for line in stream if line.rstrip("\n").endswith(f" {shown}")), None)
        pids = [each for each in os.listdir(proc) if each.isdigit()][:PROCESSES_LOOKED_AT_MAX] if inode else []
    except OSError:
        return "another daemon"
    for pid in pids:
        if _holds(f"{proc}/{pid}/fd", f"socket:[{inode}]"):
            with suppress(OSError), open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as stream:
                return f"{stream.read(64).strip()} (pid {pid})"
    return "another daemon"


def _holds(folder: str, wanted: str) -> bool:
    try:
        return any(os.readlink(f"{folder}/{each}") == wanted for each in os.listdir(folder))
    except OSError:
        return False
