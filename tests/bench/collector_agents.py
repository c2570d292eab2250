"""The agents of some nodes as one process: it makes all frames ahead, then sends each when it is due and waits for what is acked.

    python tests/bench/collector_agents.py FIRST NODES SECONDS FILE

Told over standard input and output, a JSON object a line: it says how long making will take and is told `start_ns`; it says that
it is ready and is told `address` (and where keys of nodes lie, for mutual TLS); every second it says how things stand.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from collector_rows import ROWS_PER_SECOND, SHAPES, STEP_SECONDS, Kernels, Node, node_name

from warpline_proto import service_pb2
from warpline_proto.tls import Tls, read

PUSH: Final = "/warpline.v1.Warpline/Push"
IN_FLIGHT_MAX: Final = 16
"""As an agent's."""
CREDIT_BYTES_START: Final = 1024 * 1024
OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
TRIED: Final = 2
"""Nodes by which the time of making is guessed."""
CONNECT_SECONDS: Final = 0.004
"""From one connection to the next."""


def say(**told: Any) -> None:
    """One line to whoever started this."""
    print(json.dumps(told), flush=True)


def hear() -> dict[str, Any]:
    """One line from it."""
    heard: dict[str, Any] = json.loads(sys.stdin.readline())
    return heard


class Frames:
    """Frames of all nodes, one node after the other in one file."""

    def __init__(self, first: int, nodes: int, seconds: int, path: Path) -> None:
        self._first, self._nodes, self._seconds = first, nodes, seconds
        self._path = path
        random = np.random.default_rng(first)
        self._shapes = [Kernels.drawn(random) for _ in range(min(SHAPES, nodes))]
        self._places: list[list[tuple[int, int]]] = []

    def node(self, at: int, start_ns: int) -> Node:
        """The node in place `at`."""
        return Node(self._first + at, self._shapes[at % len(self._shapes)], start_ns)

    def guess_seconds(self) -> float:
        """How long `make` will take."""
        begun = time.perf_counter()
        some = min(self._seconds, 20)
        for at in range(TRIED):
            list(self.node(at, 10**18).frames(some))
        return (time.perf_counter() - begun) / TRIED * self._nodes * self._seconds / some

    def make(self, start_ns: int) -> None:
        """Write them all."""
        with self._path.open("wb") as file:
            for at in range(self._nodes):
                places = []
                for frame in self.node(at, start_ns).frames(self._seconds):
                    places.append((file.tell(), len(frame)))
                    file.write(frame)
                self._places.append(places)
        with self._path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._path.unlink()

    def frame(self, at: int, second: int) -> bytes:
        """What the node in place `at` sends."""
        offset, length = self._places[at][second]
        return self._bytes[offset : offset + length]


@dataclass
class Counts:
    """What is told each second; times in milliseconds."""

    sent: int = 0
    acked: int = 0
    refused: int = 0
    broken: int = 0
    streams: int = 0
    behind: int = 0
    acks_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    why: str = ""


class Agent:
    """One stream: frames when they are due, as far as credit goes."""

    def __init__(self, frames: Frames, at: int, counts: Counts, seconds: int, start: float, step: float) -> None:
        self._frames, self._at, self._counts = frames, at, counts
        self._seconds, self._start, self._step = seconds, start, step
        self._flying: deque[tuple[int, int, float]] = deque()
        self._credit = CREDIT_BYTES_START
        self._landed = asyncio.Event()

    async def run(self, channel: grpc.aio.Channel) -> None:
        """Send everything, then wait for the last acknowledgement."""
        await asyncio.wait_for(channel.channel_ready(), 120.0)
        call = channel.stream_stream(PUSH, None, service_pb2.Ack.FromString)()
        self._counts.streams += 1
        reading = asyncio.create_task(self._read(call))
        try:
            for second in range(self._seconds):
                due = self._start + second + self._step
                await asyncio.sleep(due - time.time())
                frame = self._frames.frame(self._at, second)
                while not self._fits(len(frame)):
                    self._landed.clear()
                    await self._landed.wait()
                now = time.time()
                self._flying.append((second + 1, len(frame), now))
                await call.write(frame)
                self._counts.sent += 1
                self._counts.late_ms.append((now - due) * 1e3)
            await call.done_writing()
            await reading
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            self._counts.broken += 1
            self._counts.why = str(error)[:300]
        finally:
            reading.cancel()
            self._counts.streams -= 1

    def _fits(self, size: int) -> bool:
        flying = sum(each for _, each, _ in self._flying)
        return not self._flying or (len(self._flying) < IN_FLIGHT_MAX and flying + size <= self._credit)

    async def _read(self, call: Any) -> None:
        try:
            async for ack in call:
                now = time.time()
                self._credit = ack.credit_bytes
                if ack.refused:
                    self._counts.refused += 1
                    self._counts.why = ack.refused
                while self._flying and self._flying[0][0] <= ack.sequence:
                    self._counts.acks_ms.append((now - self._flying.popleft()[2]) * 1e3)
                    self._counts.acked += 1
                self._landed.set()
        finally:
            self._landed.set()


def channel(told: dict[str, Any], node: int) -> grpc.aio.Channel:
    """A connection of its own, with the node's own certificate where keys are told of."""
    if not told.get("keys"):
        return grpc.aio.insecure_channel(told["address"], options=OPTIONS)
    mine = Tls.within(told["keys"].format(node=node_name(node)))
    held = read(mine)
    credentials = grpc.ssl_channel_credentials(held.authority, held.key, held.certificate)
    return grpc.aio.secure_channel(told["address"], credentials, options=OPTIONS)


async def send(frames: Frames, told: dict[str, Any], first: int, nodes: int, seconds: int) -> None:
    """All agents at once; frames of one second are spread over it."""
    counts = Counts()
    start = told["start_ns"] / 1e9
    channels, tasks = [], []
    for at in range(nodes):
        channels.append(channel(told, first + at))
        tasks.append(asyncio.create_task(Agent(frames, at, counts, seconds, start, at / nodes).run(channels[-1])))
        await asyncio.sleep(CONNECT_SECONDS)
    telling = asyncio.create_task(tell(counts))
    await asyncio.wait([asyncio.create_task(each) if asyncio.iscoroutine(each) else each for each in tasks])
    telling.cancel()
    for each in channels:
        await each.close()


async def tell(counts: Counts) -> None:
    """How things stand, each second anew."""
    while True:
        await asyncio.sleep(1.0)
        acks, late = counts.acks_ms, counts.late_ms
        counts.acks_ms, counts.late_ms = [], []
        say(
            time=time.time(), streams=counts.streams, sent=counts.sent, acked=counts.acked, refused=counts.refused,
            broken=counts.broken, why=counts.why, acks_ms=[round(each, 1) for each in acks],
            late_ms=round(max(late, default=0.0), 1),
        )  # fmt: skip


def main() -> int:
    """Make, wait, send."""
    first, nodes, seconds = (int(each) for each in sys.argv[1:4])
    frames = Frames(first, nodes, seconds, Path(sys.argv[4]))
    say(guess_seconds=frames.guess_seconds(), rows_per_second=nodes * ROWS_PER_SECOND, step_seconds=STEP_SECONDS)
    told = hear()
    frames.make(told["start_ns"])
    say(ready=time.time())
    told |= hear()
    asyncio.run(send(frames, told, first, nodes, seconds))
    say(done=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
