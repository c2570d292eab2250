"""The fleet of a soak: agents of made-up jobs that send a step every five seconds, are killed and come back.

    python tests/bench/soak_streams.py ADDRESS STREAMS SEED JOB_SECONDS STATUS

Each stream keeps what is not acknowledged and sends it again after a restart, under the boot it was made in, as a spool does.
STATUS is a file that says what was acknowledged; it is replaced every few seconds and at the end (SIGTERM).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pyarrow as pa
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).parent))

from scale_rows import GPUS_PER_NODE, ORIGIN_NS, STEP_SECONDS, Fleet

from warpline_proto import service_pb2, service_pb2_grpc
from warpline_proto.batch import Batch, Frame
from warpline_proto.wire import to_message

PENDING_MAX: Final = 2_000
"""Frames a stream keeps while the collector is away."""
LIFE_SECONDS: Final = (120.0, 900.0)
"""A stream is killed after a time between these."""
STATUS_SECONDS: Final = 2.0
SECOND_NS: Final = 10**9
WATTS: Final = 620.0


class Job:
    """One job after another on the same nodes; every other one has a slow rank."""

    def __init__(self, streams: int, seed: int, number: int, begun_seconds: float) -> None:
        chance = random.Random(f"{seed} {number}")
        slow = chance.randrange(streams * GPUS_PER_NODE) if number % 2 else None
        self.name = f"soak-{seed}-{number}"
        self.step = 0
        self._energy = begun_seconds * WATTS
        self._streams = streams
        self._fleet = Fleet("soak", 1, streams * GPUS_PER_NODE // 4, 4, 1, slow=slow, seed=seed)

    def frames(self) -> list[list[Batch]]:
        """The batches of the next step, of each stream."""
        shift_ns = time.time_ns() - ORIGIN_NS - (self.step + 1) * STEP_SECONDS * SECOND_NS
        told = [self._shifted(batch, shift_ns) for batch in self._fleet.step(self.step)]
        frames = [[self._part(batch, stream) for batch in told] for stream in range(self._streams)]
        if self.step == 0:
            frames[0] += [self._shifted(batch, shift_ns) for batch in self._fleet.begin()]
        self.step += 1
        return frames

    def _shifted(self, batch: Batch, shift_ns: int) -> Batch:
        rows = batch.rows
        for at, field in enumerate(rows.schema):
            if field.name in ("start_ns", "end_ns", "time_ns"):
                rows = rows.set_column(at, field, pc.add(rows.column(at), shift_ns))
            elif field.name == "job":
                rows = rows.set_column(at, field, pa.repeat(self.name, rows.num_rows).cast(field.type))
            elif field.name == "energy_joules":
                rows = rows.set_column(at, field, pc.add(rows.column(at), self._energy))
        return Batch(batch.table, batch.source, rows)

    def _part(self, batch: Batch, stream: int) -> Batch:
        each = batch.rows.num_rows // self._streams
        return Batch(batch.table, batch.source, batch.rows.slice(stream * each, each))


class Stream:
    """One agent: what waits, and what became of the rest."""

    def __init__(self, stub: Any, number: int, seed: int) -> None:
        self._stub = stub
        self._chance = random.Random(f"{seed} stream {number}")
        self._pending: deque[tuple[service_pb2.Frame, str, int]] = deque()
        self._changed = asyncio.Event()
        self._boots = self._sequence = 0
        self._new_boot()
        self._call: Any = None
        self.node = ""
        self.counts = dict.fromkeys(("frames", "rows", "acked", "refused", "kills", "reconnects", "given_up"), 0)
        self.acked: dict[str, int] = {}

    def put(self, job: str, step: int, batches: list[Batch]) -> None:
        """One frame more."""
        self.node = batches[0].rows.column("node")[0].as_py()
        self._sequence += 1
        made = to_message(Frame(self.node, self._boot, self._sequence, time.time_ns(), tuple(batches)))
        if len(self._pending) >= PENDING_MAX:
            self._pending.popleft()
            self.counts["given_up"] += 1
        self._pending.append((made, job, step))
        self.counts["frames"] += 1
        self.counts["rows"] += sum(batch.rows.num_rows for batch in batches)
        self._changed.set()

    async def run(self) -> None:
        """One session after another, for ever."""
        while True:
            life = self._chance.uniform(*LIFE_SECONDS)
            try:
                async with asyncio.timeout(life):
                    await self._session()
            except TimeoutError:
                self.counts["kills"] += 1
                self._new_boot()
            except grpc.aio.AioRpcError:
                self.counts["reconnects"] += 1
                await asyncio.sleep(1.0)
            finally:
                if self._call is not None:
                    self._call.cancel()

    async def _session(self) -> None:
        self._call = self._stub.Push(self._outgoing())
        async for ack in self._call:
            self._take(ack)

    async def _outgoing(self) -> AsyncIterator[service_pb2.Frame]:
        sent: set[tuple[str, int]] = set()
        while True:
            self._changed.clear()
            for message, _, _ in list(self._pending):
                if (message.boot, message.sequence) not in sent:
                    sent.add((message.boot, message.sequence))
                    yield message
            await self._changed.wait()

    def _take(self, ack: service_pb2.Ack) -> None:
        self.counts["refused"] += bool(ack.refused)
        waiting = list(self._pending)
        self._pending.clear()
        for message, job, step in waiting:
            if message.boot == ack.boot and message.sequence <= ack.sequence:
                self.counts["acked"] += 1
                self.acked[job] = max(step, self.acked.get(job, -1))
            else:
                self._pending.append((message, job, step))
        for job in list(self.acked)[:-2]:
            del self.acked[job]

    def _new_boot(self) -> None:
        self._boots, self._sequence = self._boots + 1, 0
        self._boot = f"{time.time_ns():016x}{self._boots:08x}"


def told(streams: list[Stream], job: Job) -> dict[str, Any]:
    """What STATUS says: counts of all, and the newest acknowledged step of the job on each node."""
    counts = {name: sum(stream.counts[name] for stream in streams) for name in streams[0].counts}
    return counts | {"job": job.name, "acked_steps": {each.node: each.acked.get(job.name, -1) for each in streams}}


def write(path: Path, status: dict[str, Any]) -> None:
    """Replace the file."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(status))
    fresh.replace(path)


def moments(streams: int) -> Iterator[float]:
    """Seconds into a step at which each stream sends."""
    yield from (STEP_SECONDS * at / streams for at in range(streams))


async def main(address: str, count: int, seed: int, job_seconds: float, status: Path) -> None:
    """Until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        stub = service_pb2_grpc.WarplineStub(channel)
        streams = [Stream(stub, number, seed) for number in range(count)]
        running = [asyncio.create_task(stream.run()) for stream in streams]
        begun = due = time.monotonic()
        number, job, written = 0, Job(count, seed, 0, 0.0), 0.0
        while not stop.is_set():
            elapsed = time.monotonic() - begun
            if elapsed >= (number + 1) * job_seconds:
                number = int(elapsed // job_seconds)
                job = Job(count, seed, number, elapsed)
            step, frames = job.step, job.frames()
            for stream, batches, moment in zip(streams, frames, moments(count), strict=True):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), max(due + moment - time.monotonic(), 0.0))
                stream.put(job.name, step, batches)
                if time.monotonic() - written >= STATUS_SECONDS:
                    written = time.monotonic()
                    write(status, told(streams, job))
            due = max(due + STEP_SECONDS, time.monotonic() - STEP_SECONDS)
        for task in running:
            task.cancel()
        write(status, told(streams, job))


if __name__ == "__main__":
    words = sys.argv[1:]
    asyncio.run(main(words[0], int(words[1]), int(words[2]), float(words[3]), Path(words[4])))
