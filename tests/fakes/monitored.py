"""A collector with rows of everything that dashboards show: made up, of the last 25 minutes, and an agent that still sends."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from receiver import listening
from served import served

from warpline_analysis.detector import Reader
from warpline_cli.processes import free_address
from warpline_collector import config, continuous, pool
from warpline_collector.metrics import config as metrics_config
from warpline_collector.notify.config import Config as NotifyConfig
from warpline_collector.notify.config import Receiver
from warpline_collector.postgres import config as postgres_config
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto import service_pb2, service_pb2_grpc, wire
from warpline_proto.batch import Batch, Frame
from warpline_proto.finding import RESOLVED, Finding, FindingKind, FindingState, Report, Severity, Subject, to_rows
from warpline_proto.tables import table

JOB, NODE = "train's", "node-1"
NS = 10**9
SECONDS = 1_500
"""So long ago the rows begin: two windows of the energy account are over."""


_SOURCES = {"device_samples": "nvml", "log_events": "kernel_log", "source_health": "own", "metrics": "own"}


class Monitored(NamedTuple):
    """Where metrics are served, the port of the PostgreSQL door, and the moment up to which there are rows."""

    metrics: str
    port: int
    now_ns: int


def rows(now_ns: int) -> dict[str, Sequence[Mapping[str, Any]]]:
    """A node with two GPUs and a job of four ranks on it, of the last 25 minutes; one GPU idles half of each minute."""
    begin_ns = now_ns - SECONDS * NS
    moments = [begin_ns + second * NS for second in range(SECONDS)]
    ranks: list[dict[str, Any]] = [
        {"node": NODE, "job": JOB, "rank": rank, "gpu_uuid": f"GPU-{rank % 2}", "clock": f"realtime@{NODE}"}
        for rank in range(4)
    ]
    steps = [(step, begin_ns + step * 10 * NS) for step in range(SECONDS // 10)]
    gpu = {
        "node": NODE,
        "source": "nvml",
        "gpu_name": "made up",
        "job": JOB,
        "memory_used_bytes": 1 << 30,
        "memory_total_bytes": 80 << 30,
    }
    part = {
        "compute_ns": 7 * NS,
        "communication_ns": 2 * NS,
        "exposed_communication_ns": NS,
        "idle_ns": NS,
        "data_wait_ns": NS // 2,
    }
    place = {"node": NODE, "time_ns": now_ns - 60 * NS}
    return {
        "device_samples": [
            {**gpu, "gpu_uuid": f"GPU-{index}", "gpu_index": index, "time_ns": time_ns, "power_watts": 100.0 + 500 * busy,
             "energy_joules": 600.0 * second, "sm_clock_mhz": 1_980.0, "gpu_utilization_percent": 97.0 * busy,
             "sm_active_percent": 80.0 * busy, "temperature_celsius": 60.0, "resident_processes": 1,
             "power_cap_ns": second * NS // 4}
            for second, time_ns in enumerate(moments) for index in range(2) for busy in (int(index or second % 60 < 30),)
        ],
        "gpu_processes": [
            {"node": NODE, "gpu_uuid": f"GPU-{index}", "gpu_index": index, "time_ns": begin_ns + second * NS, "state": "resident",
             "pid": 100 + index, "start_ticks": 1, "job": JOB, "user": "anna", "account": "physics", "memory_bytes": 1 << 30}
            for index in range(2) for second in range(0, SECONDS, 30)
        ],
        "steps": [
            {**rank, **part, "scope": "step", "step": step, "start_ns": start_ns, "duration_ns": 9 * NS + rank["rank"] * 10**7}
            for step, start_ns in steps for rank in ranks
        ],
        "steps_history": [
            {**rank, **part, "time_ns": begin_ns // (600 * NS) * 600 * NS + 600 * NS, "first_step": 1, "last_step": 60,
             "duration_ns": 9.0 * NS, "min_ns": 9 * NS, "max_ns": 10 * NS, "samples": 60, "updated_ns": now_ns} for rank in ranks
        ],
        "collectives": [
            {**ranks[0], "step": step, "communicator": "world", "operation": "all_reduce", "message_bytes": 1 << 28,
             "start_ns": start_ns, "duration_ns": NS, "bus_bytes_per_second": 3e11} for step, start_ns in steps
        ],
        "kernel_clusters": [
            {**ranks[0], "step": step, "start_ns": start_ns, "end_ns": start_ns + NS, "kernel_id": 7, "category": "compute",
             "count": 100, "sum_ns": NS, "min_ns": 1, "max_ns": NS // 50} for step, start_ns in steps
        ],
        "kernel_names": [{"node": NODE, "time_ns": begin_ns, "kernel_id": 7, "name": "gemm", "category": "compute"}],
        "host_samples": [
            {"node": NODE, "time_ns": time_ns, "cpu_percent": 30.0, "cpu_iowait_percent": 1.0, "memory_used_bytes": 1,
             "memory_total_bytes": 2} for time_ns in moments[::30]
        ],
        "link_counters": [
            {"node": NODE, "time_ns": time_ns, "link_kind": "infiniband", "device": "mlx5_0", "port": 1,
             "counter": "symbol_error", "value": float(number)} for number, time_ns in enumerate(moments[::5])
        ],
        "log_events": [
            {**place, "kind": "xid", "code": 79, "severity": "critical", "message": "it fell off the bus", "count": 1},
        ],
        "inventory": [
            {**place, "kind": "gpu", "slot": "0", "gpu_index": 0, "identity": "GPU-0", "first_ns": begin_ns, "last_ns": now_ns},
        ],
        "source_health": [
            {**place, "source": "nvml", "subject": "nvml", "state": "fresh"},
            {**place, "source": "own", "subject": "agent", "state": "fresh", "cpu_ns": 1, "rss_bytes": 1 << 26, "version": "1"},
            {**place, "source": "store", "subject": "retention steps", "state": "dropped", "reason": "it was old"},
        ],
        "audit": [
            {**place, "caller": "anna", "role": "viewer", "door": "grpc", "act": "sql", "outcome": "denied", "reason": "no",
             "count": 1},
        ],
    }  # fmt: skip


def finding(rank: int, summary: str) -> Finding:
    subject = Subject(job=JOB, rank=rank, node=NODE)
    return Finding(FindingKind.COMPUTE_STRAGGLER, Severity.CRITICAL, 0.9, subject, summary, "look")


def open_finding(reader: Reader) -> Report:
    """What the analysis has to say."""
    return Report((finding(3, "rank 3 is late"),))


def _cost(time_ns: int, cpu_ns: int) -> Mapping[str, Any]:
    """What an agent says of its own."""
    told = {"cpu_ns": cpu_ns, "rss_bytes": 1 << 26, "version": "1"}
    return {"node": NODE, "source": "own", "subject": "agent", "state": "fresh", "time_ns": time_ns, **told}


@contextmanager
def collector(folder: Path) -> Iterator[Monitored]:
    """A real one with these rows, of which an agent still sends the newest."""
    now_ns = time.time_ns()
    told = dict(rows(now_ns))
    closed = FindingState(finding(1, "rank 1 was late"), RESOLVED, now_ns - 900 * NS, now_ns - 60 * NS, "straggler")
    store = DuckDBStore(folder / "store")
    store.write([Batch("findings", "analysis", to_rows([closed]))])
    store.write([Batch(name, "test", table(name).from_rows(listed)) for name, listed in told.items()])
    store.close()
    door = free_address()
    with listening() as here:
        settings = config.Settings(
            collector=config.Config(listen="127.0.0.1:0", directory=str(folder / "store")),
            sql=pool.Config(workers=1, seconds_max=60.0),
            analysis=continuous.Config(period_seconds=0.2),
            metrics=metrics_config.Config(listen="127.0.0.1:0", cache_seconds=0.0),
            postgres=postgres_config.Config(socket_directory="none", listen=door),
            notify=NotifyConfig(group_seconds=0.0, receivers=(Receiver(name="ops", kind="webhook", url=here.url),)),
        )
        with served(settings, {"made_up": open_finding}) as (address, metrics), sending(address, told):
            here.wait()
            yield Monitored(metrics, int(door.rpartition(":")[2]), now_ns)


@contextmanager
def sending(address: str, told: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[None]:
    """The agent goes on: a reading of each GPU each second, for old ones are told no more."""
    ended = threading.Event()

    def frames() -> Iterator[service_pb2.Frame]:
        for sequence in itertools.count(1):
            now_ns = time.time_ns()
            newest = {
                "device_samples": [{**row, "time_ns": now_ns} for row in told["device_samples"][-2:]],
                "log_events": told["log_events"] if sequence == 1 else [],
                "source_health": [_cost(now_ns, now_ns // 100)],
                "metrics": [
                    {"node": NODE, "time_ns": now_ns, "metric": metric, "value": 0.0}
                    for metric in ("agent_waiting_bytes", "agent_detail_level", "agent_left_out_kernels")
                ],
            }
            batches = (
                Batch(name, _SOURCES[name], table(name).from_rows(rows)) for name, rows in newest.items() if rows
            )
            yield wire.to_message(Frame(NODE, "boot", sequence, now_ns, tuple(batches)))
            if ended.wait(1):
                return

    def send() -> None:
        with grpc.insecure_channel(address) as channel:
            list(service_pb2_grpc.WarplineStub(channel).Push(frames()))

    agent = threading.Thread(target=send)
    agent.start()
    try:
        yield
    finally:
        ended.set()
        agent.join()
