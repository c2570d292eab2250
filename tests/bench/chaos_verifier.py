"""The verifier of the chaos bench, a process of its own: the TCP proxy between agents and collector, with a journal of acks.

    python tests/bench/chaos_verifier.py COLLECTOR_PORT

It imports nothing of warpline. Each acknowledgement is read from the bytes on the wire and synced to the journal before it
goes on to the agent. Because it sees what is in flight, it also cuts connections and kills, at its moment, whom it is asked
to. Requests are JSON lines on stdin, answered in order on stdout.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any, Final, TextIO

sys.path.insert(0, str(Path(__file__).parent))

from chaos_verdict import Frame, judge, read_journals, read_store
from chaos_wire import Messages, ack, frame

PIECE_BYTES: Final = 64 * 1024
LANDED_MAX: Final = 20_000
"""Frames of connections that ended, or acknowledged ones, whose times are remembered."""
NEVER: Final = 2**63


@dataclasses.dataclass(frozen=True)
class Flight:
    """One frame on one connection: when it was sent and acknowledged (NEVER if it was not), and when the connection ended."""

    agent: str
    sent_ns: int
    acked_ns: int
    ended_ns: int


class Connection:
    """An agent's connection and its other half to the collector."""

    def __init__(self, writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.writers = writers
        self.flying: dict[Frame, tuple[str, int]] = {}
        self.running = asyncio.Event()
        self.running.set()
        self.halve = self.mute = False

    def abort(self) -> None:
        """Cut both halves at once."""
        for writer in self.writers:
            writer.transport.abort()


class Verifier:
    """The proxy and what it knows."""

    def __init__(self, collector_port: int) -> None:
        self._collector_port = collector_port
        self._connections: set[Connection] = set()
        self._landed: deque[Flight] = deque(maxlen=LANDED_MAX)
        self._journal: TextIO | None = None
        self._path = Path()
        self._acked: Counter[str] = Counter()
        self._acked_ns = 0
        self._agents: dict[str, str] = {}
        self._on_ack: asyncio.Future[int] | None = None
        self._victim, self._unseen = 0, False
        self._cuts: set[asyncio.Task[None]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of an agent."""
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._collector_port)
        except OSError:
            writer.transport.abort()
            return
        connection = Connection((writer, up_writer))
        self._connections.add(connection)
        pumps = [
            asyncio.create_task(self._pump(connection, reader, up_writer, of_client=True)),
            asyncio.create_task(self._pump(connection, up_reader, writer, of_client=False)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        connection.abort()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        self._connections.discard(connection)
        ended = time.monotonic_ns()
        self._landed.extend(Flight(agent, sent, NEVER, ended) for agent, sent in connection.flying.values())

    async def _pump(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, of_client: bool
    ) -> None:
        messages = Messages(of_client=of_client)
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                await connection.running.wait()
                if connection.halve:
                    writer.write(data[: len(data) // 2])
                    return
                if of_client:
                    writer.write(data)
                    await writer.drain()
                    for message in messages.feed(data):
                        self._sent(connection, frame(message))
                else:
                    if self._acknowledged(connection, messages, data):
                        return
                    if not connection.mute:
                        writer.write(data)
                        await writer.drain()

    def _sent(self, connection: Connection, told: tuple[str, str, int]) -> None:
        agent, boot, sequence = told
        self._agents[boot] = agent
        connection.flying[boot, sequence] = agent, time.monotonic_ns()
        self._write(f"S {agent} {boot} {sequence}")

    def _acknowledged(self, connection: Connection, messages: Messages, data: bytes) -> bool:
        """Write down what `data` acknowledges; True if it shall go no further."""
        found = [ack(message) for message in messages.feed(data)]
        if not found:
            return False
        if self._on_ack is not None and not self._on_ack.done():
            os.kill(self._victim, signal.SIGKILL)
            self._on_ack.set_result(time.monotonic_ns())
        now = time.monotonic_ns()
        for boot, sequence, refused in found:
            self._write(f"R {boot} {sequence}" if refused else f"A {boot} {sequence}")
            for key in [each for each in connection.flying if each[0] == boot and each[1] <= sequence]:
                agent, sent = connection.flying.pop(key)
                self._landed.append(Flight(agent, sent, now, NEVER))
                self._acked[agent] += 1
        assert self._journal is not None
        os.fsync(self._journal.fileno())
        self._acked_ns = now
        return self._unseen and self._on_ack is not None

    def _write(self, line: str) -> None:
        assert self._journal is not None
        self._journal.write(line + "\n")
        self._journal.flush()

    def in_flight(self, agent: str) -> int:
        """Frames sent and not acknowledged now, of one agent or ("") of all."""
        return sum(agent in ("", name) for connection in self._connections for name, _ in connection.flying.values())

    def in_flight_at(self, agent: str, at_ns: int, *, cut: bool) -> int:
        """How many were in flight then; with `cut` only those that no acknowledgement of their connection ever reached."""
        flying = sum(
            agent in ("", name) and sent <= at_ns
            for connection in self._connections
            for name, sent in connection.flying.values()
        )
        return flying + sum(
            agent in ("", each.agent)
            and each.sent_ns <= at_ns < each.ended_ns
            and (each.acked_ns == NEVER if cut else at_ns < each.acked_ns)
            for each in self._landed
        )

    async def answer(self, request: dict[str, Any]) -> Any:
        """What is asked on stdin."""
        match request.pop("ask"):
            case "journal":
                self._open(Path(request["path"]))
                return True
            case "kill":
                return await self._kill(**request)
            case "in_flight_at":
                return self.in_flight_at(**request)
            case "acked":
                return {"frames": dict(self._acked), "newest_ns": self._acked_ns}
            case "cut":
                task = asyncio.create_task(self._cut(**request))
                self._cuts.add(task)
                task.add_done_callback(self._cuts.discard)
                return len(self._connections)
            case "judge":
                return self._judge(**request)
        return None

    async def _kill(self, pid: int, agent: str, at_least: int, within: float, pause: float, moment: str) -> int | None:
        """SIGKILL once so many frames are in flight, `pause` later or at the next acknowledgement -> when; None if never."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            if self.in_flight(agent) < at_least:
                await asyncio.sleep(0.001)
                continue
            if moment == "random":
                await asyncio.sleep(pause)
                pause = 0.0
                if self.in_flight(agent) >= at_least:
                    os.kill(pid, signal.SIGKILL)
                    return time.monotonic_ns()
                continue
            self._victim, self._unseen = pid, moment == "unseen"
            self._on_ack = asyncio.get_running_loop().create_future()
            try:
                return await asyncio.wait_for(self._on_ack, max(end - time.monotonic(), 0.01))
            except TimeoutError:
                return None
            finally:
                self._on_ack = None
        return None

    async def _cut(self, how: str, seconds: float) -> None:
        """Trouble on all connections there are: cut at once, in the midst of a piece, after a stall, or acks that never come."""
        chosen = list(self._connections)
        for connection in chosen:
            if how == "cut":
                connection.abort()
            elif how == "half":
                connection.halve = True
            elif how == "stall":
                connection.running.clear()
            else:
                connection.mute = True
        await asyncio.sleep(seconds)
        for connection in chosen:
            connection.running.set()
            if how != "stall":
                connection.abort()

    def _open(self, path: Path) -> None:
        if self._journal is not None:
            self._journal.close()
        self._path, self._journal = path, path.open("a")

    def _judge(self, store: str, spools: list[str], expected: dict[str, int]) -> dict[str, Any]:
        """The verdict, from the journal as it lies on the disk."""
        journal = read_journals(self._path, map(Path, spools))
        return dataclasses.asdict(judge(journal, read_store(Path(store), expected), expected))


async def main(collector_port: int) -> None:
    """Tell the port of the proxy, then answer until stdin ends."""
    verifier = Verifier(collector_port)
    server = await asyncio.start_server(verifier.connected, "127.0.0.1", 0)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _tell(server.sockets[0].getsockname()[1])
    while line := await reader.readline():
        _tell(await verifier.answer(json.loads(line)))


def _tell(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
