"""Part `beside`: the same frames into plainer collectors, each in a process of its own whose CPU time is told.

`warpline` unpacks frames and stores them as its ingest does, GATHERED together; `one INSERT a message` unpacks them the same way
and gives the rows of each to a DuckDB file in a transaction of its own. For metrics the readings of GPUs and ports alone are sent
to VictoriaMetrics, or to Prometheus where that is what is installed, by remote write, every value a sample; `warpline, metrics`
stores the same readings, whose values are counted alike.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import psutil
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))

from collector_rows import SHAPES, Kernels, Node

from warpline_collector.stores.tended import TendedStore
from warpline_proto import wire
from warpline_proto.batch import Batch, Frame
from warpline_proto.tables import DEVICE_SAMPLES, LINK_COUNTERS, TABLES

SECONDS: Final = 4
GATHERED: Final = 250
METRICS: Final = (DEVICE_SAMPLES.name, LINK_COUNTERS.name)
SERVERS: Final = {
    "VictoriaMetrics": ("victoria-metrics", "-storageDataPath={data}", "-httpListenAddr=127.0.0.1:{port}"),
    "Prometheus": (
        "prometheus", "--config.file={data}/none.yml", "--storage.tsdb.path={data}", "--web.listen-address=127.0.0.1:{port}",
        "--web.enable-remote-write-receiver",
    ),
}  # fmt: skip
COUNTERS: Final = ("value", "power_cap_ns", "nvlink_tx_bytes", "nvlink_rx_bytes")
LABELS: Final = ("node", "gpu_uuid", "device", "port", "counter")


def frames(nodes: int) -> list[bytes]:
    """Some seconds of so many nodes, second after second."""
    random = np.random.default_rng(1)
    shapes = [Kernels.drawn(random) for _ in range(SHAPES)]
    start_ns = (int(time.time()) - SECONDS) * 10**9
    made = [list(Node(at, shapes[at % SHAPES], start_ns).frames(SECONDS)) for at in range(nodes)]
    return [each for second in zip(*made, strict=True) for each in second]


def beside(folder: Path, nodes: int) -> list[dict[str, Any]]:
    """All of them, one after the other."""
    file = folder / "frames.json"
    file.write_text(json.dumps([each.hex() for each in frames(nodes)]))
    found = [child(name, file, folder / name) for name in ("warpline", "insert", "metrics")]
    for name, (program, *_) in SERVERS.items():
        if shutil.which(program):
            found.append(remote(name, file, folder / name))
    return found


def child(name: str, file: Path, folder: Path) -> dict[str, Any]:
    """One part in a process of its own."""
    told = subprocess.run([sys.executable, __file__, name, str(file), str(folder)], check=True, stdout=subprocess.PIPE)
    figures: dict[str, Any] = json.loads(told.stdout)
    return figures


def read(file: Path) -> Iterator[Frame]:
    """The frames, unpacked one by one."""
    for each in json.loads(file.read_text()):
        yield wire.decode(bytes.fromhex(each))


def of_metrics(frame: Frame) -> Frame:
    """Readings of GPUs and ports alone."""
    kept = tuple(each for each in frame.batches if each.table in METRICS)
    return Frame(frame.agent, frame.boot, frame.sequence, frame.created_ns, kept)


def store(kept: TendedStore, file: Path, metrics: bool) -> int:
    """As the ingest does. Rows, or values where only metrics are stored."""
    rows, waiting = 0, []
    for frame in read(file):
        waiting.append(of_metrics(frame) if metrics else frame)
        counted = values if metrics else (lambda batch: batch.rows.num_rows)
        rows += sum(counted(each) for each in waiting[-1].batches)
        if len(waiting) == GATHERED:
            kept.append(waiting)
            waiting = []
    kept.append(waiting)
    kept.maintain()
    kept.close()
    return rows


def plain(folder: Path) -> duckdb.DuckDBPyConnection:
    """A file with all tables."""
    folder.mkdir()
    connection = duckdb.connect(str(folder / "plain.duckdb"))
    for table in TABLES.values():
        connection.register("none", table.schema.empty_table())
        connection.execute(f"CREATE TABLE {table.name} AS SELECT * FROM none")
    return connection


def insert(connection: duckdb.DuckDBPyConnection, file: Path) -> int:
    """Every message for itself."""
    rows = 0
    for frame in read(file):
        connection.execute("BEGIN")
        for batch in frame.batches:
            rows += _insert(connection, batch)
        connection.execute("COMMIT")
    connection.close()
    return rows


def _insert(connection: duckdb.DuckDBPyConnection, batch: Batch) -> int:
    connection.register("incoming", pa.Table.from_batches([batch.rows]))
    connection.execute(f"INSERT INTO {batch.table} SELECT * FROM incoming")
    connection.unregister("incoming")
    return int(batch.rows.num_rows)


def remote(name: str, file: Path, folder: Path) -> dict[str, Any]:
    """Readings as samples, by remote write; CPU time is that of the server alone."""
    folder.mkdir()
    (folder / "none.yml").write_text("")
    program, *flags = SERVERS[name]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    requests = list(_requests(file))
    command = [program, *(each.format(data=folder, port=port) for each in flags)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _await(port)
            before, begun = psutil.Process(server.pid).cpu_times(), time.perf_counter()
            for body, _ in requests:
                headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
                url = f"http://127.0.0.1:{port}/api/v1/write"
                with urllib.request.urlopen(urllib.request.Request(url, body, headers)):
                    pass
            took, after = time.perf_counter() - begun, psutil.Process(server.pid).cpu_times()
        finally:
            server.kill()
    samples, cpu = sum(count for _, count in requests), sum(after[:2]) - sum(before[:2])
    return _told(f"{name}, a sample a value", samples, cpu, took)


def _await(port: int) -> None:
    until = time.monotonic() + 60.0
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _requests(file: Path) -> Iterator[tuple[bytes, int]]:
    """A request a frame, with its samples."""
    for frame in map(of_metrics, read(file)):
        series = [each for batch in frame.batches for each in _series(batch)]
        body = b"".join(_field(1, each) for each in series)
        yield pa.compress(body, codec="snappy", asbytes=True), len(series)


def _measured(batch: Batch) -> list[str]:
    """Columns that hold values: every number of a row but those that say where it is from."""
    schema = batch.rows.schema
    return [field.name for field in schema if pa.types.is_floating(field.type) or field.name in COUNTERS]


def values(batch: Batch) -> int:
    """How many are known."""
    return sum(batch.rows.num_rows - batch.rows.column(name).null_count for name in _measured(batch))


def _series(batch: Batch) -> Iterator[bytes]:
    """A series a value."""
    names = _measured(batch)
    for row in batch.rows.to_pylist():
        labels = {name: str(row[name]) for name in LABELS if row.get(name) is not None}
        for name in names:
            if row[name] is not None:
                told = {"__name__": f"{batch.table}_{name}"} | labels
                pairs = b"".join(_label(key, text) for key, text in sorted(told.items()))
                sample = b"\x09" + np.float64(row[name]).tobytes() + b"\x10" + _varint(row["time_ns"] // 10**6)
                yield pairs + _field(2, sample)


def _label(name: str, value: str) -> bytes:
    return _field(1, _field(1, name.encode()) + _field(2, value.encode()))


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    told = bytearray()
    while value > 0x7F:
        told.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(told) + bytes([value])


def _told(name: str, rows: int, cpu: float, took: float) -> dict[str, Any]:
    return {
        "name": name, "rows": rows, "cpu_seconds": round(cpu, 2), "wall_seconds": round(took, 2),
        "k_rows_per_cpu_second": round(rows / cpu / 1e3, 1),
    }  # fmt: skip


def main() -> int:
    """One part in this process."""
    part, file, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    kept = plain(folder) if part == "insert" else TendedStore(folder)
    begun, used = time.perf_counter(), time.process_time()
    rows = insert(kept, file) if isinstance(kept, duckdb.DuckDBPyConnection) else store(kept, file, part == "metrics")
    names = {"warpline": "warpline", "insert": "one INSERT a message", "metrics": "warpline, values of metrics"}
    print(json.dumps(_told(names[part], rows, time.process_time() - used, time.perf_counter() - begun)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
