"""Numbers that nothing on earth measures, of one agent: every view, history and account of the others answers as before."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from warpline_collector import limits
from warpline_collector.accounting import Accounting
from warpline_collector.belonging import OWN
from warpline_collector.history import History
from warpline_collector.limits import Limits
from warpline_collector.reader import CatalogReader
from warpline_collector.sift import May, Sieve
from warpline_collector.stores.tended import TendedStore
from warpline_proto.batch import Batch, Frame
from warpline_proto.table import Column, Table
from warpline_proto.tables import COLLECTIVES, DEVICE_SAMPLES, TABLES

HOUR_NS = 3_600 * 10**9
NAMES = {
    "node": "evil",
    "source": "hook",
    "job": "evil-job",
    "scope": "step",
    "gpu_uuid": "GPU-1",
    "kernel_id": 2**62 + 1,
}
Extreme = tuple[int, int]


def value(table: Table, column: Column, number: int, extremes: tuple[Extreme, Extreme]) -> Any:
    """The most or the least that the type holds; of times what is not refused."""
    at = number % 2
    if column.name in NAMES:
        return NAMES[column.name]
    if column.name in ("rank", "step"):
        return number // 2 % 2
    if column.name == table.time:
        return time.time_ns() - 3 * HOUR_NS + number * 10**9
    if pa.types.is_string(column.type):
        return "realtime@evil" if column.name == "clock" else "x"
    if pa.types.is_floating(column.type):
        return 1.7e308 if extremes[at][0] > 0 else -1.7e308
    if pa.types.is_list(column.type) or column.type == pa.bool_():
        return None
    if column.type == pa.int64() and column.unit == "ns":
        return time.time_ns() if extremes[at][0] > 0 else -(2**61)
    return {pa.int64(): extremes[at][0], pa.int32(): extremes[at][1], pa.uint64(): abs(extremes[at][0]) - 1}[
        column.type
    ]


MOST = (2**63 - 1, 2**31 - 1)
LEAST = (-(2**63), -(2**31))


@pytest.mark.parametrize("extremes", [(MOST, MOST), (LEAST, LEAST), (MOST, LEAST)], ids=["most", "least", "in turn"])
def test_no_number_of_one_agent_ends_what_is_asked_of_all(tmp_path: Path, extremes: tuple[Extreme, Extreme]) -> None:
    """A sum that 64 bits do not hold would end each question that the row is part of, until the row grows old."""
    bounds = Limits(limits.Config(), time.time_ns)
    store = TendedStore(tmp_path)
    for number in range(12):
        batches = [
            Batch(
                name,
                "hook",
                table.from_rows([{each.name: value(table, each, number, extremes) for each in table.columns}]),
            )
            for name, table in TABLES.items()
            if name not in OWN
        ]
        store.append(bounds.sift([Frame("evil", "b", number + 1, time.time_ns(), tuple(batches))]))
    with CatalogReader(tmp_path) as reader:
        history = History(store, reader)
        assert (history.one_pass(), history.one_pass()) == (0, 3)
        assert Accounting(store, reader).one_pass() == 1
        named = "SELECT view_name FROM duckdb_views() WHERE NOT internal"
        for view in reader.query(named).column("view_name").to_pylist():
            reader.query(f'SELECT * FROM "{view}"')
    store.close()


def test_a_number_beyond_measure_is_not_known_and_the_row_is_kept() -> None:
    bounds = Limits(limits.Config(), time.time_ns)
    sizes = [2**62, -(2**60), 2**48, 7]
    readings = [2**62, 2**63 - 1, 5]
    rows = COLLECTIVES.from_rows([{"node": "n", "start_ns": 1, "message_bytes": size} for size in sizes])
    gpus = DEVICE_SAMPLES.from_rows([{"node": "n", "time_ns": 1, "nvlink_tx_bytes": each} for each in readings])
    batches = (Batch("collectives", "hook", rows), Batch("device_samples", "nvml", gpus))
    [kept] = bounds.sift([Frame("n", "b", 1, 1, batches)])
    assert kept.batches[0].rows.column("message_bytes").to_pylist() == [None, None, 2**48, 7]
    assert kept.batches[1].rows.column("nvlink_tx_bytes").to_pylist() == [2**62, None, 5]


def test_one_strange_frame_among_many_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the one is taken apart: a driver that tells nonsense each second must not cost the collector its cores."""
    taken: list[str] = []
    apart = Sieve.frame

    def counted(sieve: Sieve, frame: Frame, may: May) -> tuple[Frame, Counter[str]]:
        taken.append(frame.agent)
        return apart(sieve, frame, may)

    def frame(node: str, power_watts: float) -> Frame:
        row = {"node": node, "time_ns": 1, "source": "nvml", "job": "train", "power_watts": power_watts}
        return Frame(node, "b", 1, 1, (Batch(DEVICE_SAMPLES.name, "nvml", DEVICE_SAMPLES.from_rows([row])),))

    monkeypatch.setattr(Sieve, "frame", counted)
    bounds = Limits(limits.Config(), time.time_ns)
    bounds.sift([frame(f"node-{number}", 500.0) for number in range(64)])
    assert taken == ["node-0"]  # which began the job
    taken.clear()
    kept = bounds.sift([frame(f"node-{number}", 1e200 if number == 40 else 500.0) for number in range(64)])
    assert taken == ["node-40"]
    powers = [each.batches[0].rows.column("power_watts")[0].as_py() for each in kept]
    assert [at for at, power in enumerate(powers) if power is None] == [40]
    assert [each.agent for each in kept] == [f"node-{number}" for number in range(64)]
