"""A collector's state as its metrics tell it, and whoever asks for the page."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from prometheus_client.parser import text_string_to_metric_families

from warpline_collector.continuous import Pass
from warpline_collector.fleet import Fleet
from warpline_collector.metrics.config import Config
from warpline_collector.metrics.disk import Size
from warpline_collector.metrics.endpoint import Endpoint
from warpline_collector.metrics.snapshot import Snapshot
from warpline_collector.standing import Config as Bounds
from warpline_collector.standing import judge
from warpline_proto.batch import Batch, Frame
from warpline_proto.tables import DEVICE_SAMPLES

NOW_NS = 1_700_000_000 * 10**9
ANYWHERE = Config("127.0.0.1:0")


def readings_of(node: str, gpus: int, time_ns: int, **values: object) -> Frame:
    """One frame of one agent with a reading of each of its GPUs."""
    rows = [
        {
            "node": node,
            "gpu_uuid": f"GPU-{node}-{index}",
            "gpu_index": index,
            "time_ns": time_ns,
            "power_watts": 300.5,
            "energy_joules": 12_345.0,
            "sm_clock_mhz": 1_980.0,
            "gpu_utilization_percent": 50.0,
            "temperature_celsius": 60.0,
            "memory_used_bytes": 1 << 30,
            "memory_total_bytes": 80 << 30,
            **values,
        }
        for index in range(gpus)
    ]
    return Frame(node, "boot", 1, time_ns, (Batch("device_samples", "nvml", DEVICE_SAMPLES.from_rows(rows)),))


def snapshot(*frames: Frame, now_ns: int = NOW_NS) -> Snapshot:
    """A collector with which nothing is wrong, that has heard these frames as they were made."""
    fleet = Fleet()
    for frame in frames:
        fleet.hear(frame, 1_000, frame.created_ns)
    return Snapshot(
        now_ns=now_ns,
        started_ns=NOW_NS - 10**9,
        frames=len(frames),
        rows=8,
        refused=0,
        streams=1,
        queue_bytes=0,
        writer_seconds=0.5,
        standings=[judge(seen, Bounds(), now_ns) for seen in fleet.seen(now_ns)],
        left_out=0,
        size=Size(3, 4_000, 2, 70, 0, 5_000, 6_000, 9_000),
        unreadable="",
        newest=Pass(now_ns, 1.5, "", Counter({("hang", "critical"): 2})),
        pass_failures=0,
        workers=2,
        workers_busy=1,
        questions=9,
        questions_failed=1,
    )


@asynccontextmanager
async def serving(take: Callable[[], Snapshot], config: Config = ANYWHERE) -> AsyncIterator[str]:
    """An endpoint; gives its address."""
    served = Endpoint(config, take)
    yield await served.start()
    await served.close()


async def ask(address: str, path: str, *headers: str, method: str = "GET") -> tuple[int, bytes]:
    """Status and body of one answer."""
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write("\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode())
    answer = await asyncio.wait_for(reader.read(), 100)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def values(page: bytes) -> dict[tuple[str, ...], float]:
    """Name and label values -> value."""
    return {
        (sample.name, *(sample.labels[each] for each in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }
