"""A GPU or a machine that is replaced keeps its history: it is told, nothing of the old one is held against the new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from warpline_analysis.detectors import faults
from warpline_collector.continuous import Config as AnalysisConfig
from warpline_collector.continuous import Continuous
from warpline_collector.fleet import Fleet
from warpline_collector.reader import CatalogReader
from warpline_collector.standing import Config, Keeper
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch, Frame
from warpline_proto.finding import FindingKind
from warpline_proto.tables import TABLES

SECOND = 10**9
BEGIN_NS = 1_700_000_000 * SECOND
BUS = "0000:1b:00.0"


class Site:
    """A node whose agent sends what it is told, a collector's store with who is watched, and its analysis."""

    def __init__(self, folder: Path) -> None:
        self.now_ns = BEGIN_NS
        self.store = DuckDBStore(folder, clock=lambda: self.now_ns)
        self.folder = folder
        self.reader = CatalogReader(folder)
        self.begin()
        self.sequence = 0

    def begin(self) -> None:
        """A collector starts on the store."""
        self.fleet = Fleet()
        self.keeper = Keeper(self.fleet, self.store, Config(), lambda: self.now_ns)
        detectors = {"faults": faults.detect}
        self.analysis = Continuous(self.store, self.reader, AnalysisConfig(), lambda: self.now_ns, detectors)

    def send(self, **tables: Sequence[Mapping[str, Any]]) -> None:
        """A frame with these rows, a second later."""
        self.now_ns += SECOND
        self.sequence += 1
        source = {"device_samples": "nvml", "source_health": "own", "log_events": "kernel_log"}
        common = {"node": "node-1", "time_ns": self.now_ns}
        batches = [
            Batch(
                name, source[name], TABLES[name].from_rows([common | {"source": source[name], **row} for row in rows])
            )
            for name, rows in tables.items()
        ]
        frame = Frame("node-1", "boot", self.sequence, self.now_ns, tuple(batches))
        self.fleet.hear(frame, 1, self.now_ns)
        self.store.append([frame])
        self.keeper.keep()

    def ask(self, sql: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.store.query(sql).to_pylist()
        return rows

    def passes(self, count: int = 1) -> None:
        for _ in range(count):
            self.now_ns += 10 * SECOND
            self.analysis.one_pass()

    def states(self) -> dict[tuple[str, str | None], str]:
        """The newest state of each finding by kind and GPU."""
        rows = self.ask(
            "SELECT kind, gpu_uuid, state FROM findings QUALIFY row_number() OVER (PARTITION BY id ORDER BY updated_ns DESC) = 1"
        )
        return {(row["kind"], row["gpu_uuid"]): row["state"] for row in rows}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def gpu(uuid: str, index: int = 3, bus: str = BUS, **more: Any) -> dict[str, Any]:
    return {"gpu_uuid": uuid, "gpu_index": index, "bus_id": bus, "gpu_name": "H100", "power_watts": 500.0, **more}


def xid(code: int = 48) -> dict[str, Any]:
    return {"kind": "xid", "code": code, "severity": "critical", "bus_id": BUS, "message": f"Xid {code}", "count": 1}


def own(machine: str = "first", **more: Any) -> dict[str, Any]:
    return {"subject": "agent", "state": "fresh", "machine": machine, **more}


def test_a_finding_on_a_gpu_is_closed_as_replaced_and_never_held_against_the_next(site: Site) -> None:
    """The fault was said of the place alone, as kernel logs do. The new GPU's own faults are its own."""
    other = gpu("GPU-other", 4, "0000:2b:00.0")
    site.send(device_samples=[gpu("GPU-old"), other], source_health=[own()])
    site.send(log_events=[xid()])
    site.passes()
    assert site.states() == {("gpu_error", "GPU-old"): "open"}
    for _ in range(3):
        site.send(device_samples=[gpu("GPU-new"), other], source_health=[own()])
    site.passes()
    assert site.states() == {("gpu_error", "GPU-old"): "replaced", ("replaced", "GPU-old"): "open"}
    (told,) = site.ask("SELECT summary, severity FROM current_findings")
    assert told["severity"] == "info"
    assert told["summary"].startswith(f"GPU 3 of node-1 ({BUS}): GPU-new instead of GPU-old")
    site.passes(4)
    assert ("gpu_error", "GPU-new") not in site.states()
    site.send(log_events=[xid(119)])
    site.passes()
    assert site.states()["gpu_error", "GPU-new"] == "open"
    assert site.states()["gpu_error", "GPU-old"] == "replaced"


def test_history_stays_under_each_gpu_s_own_name(site: Site) -> None:
    for uuid in ("GPU-1", "GPU-1", "GPU-2", "GPU-2", "GPU-3"):
        site.send(device_samples=[gpu(uuid)])
    counts = site.ask("SELECT gpu_uuid, count(*) AS rows FROM device_samples GROUP BY ALL ORDER BY ALL")
    assert [tuple(row.values()) for row in counts] == [("GPU-1", 2), ("GPU-2", 2), ("GPU-3", 1)]
    places = site.ask("SELECT slot, identity, from_ns, until_ns, replaced_by FROM places ORDER BY from_ns")
    at = [BEGIN_NS + second * SECOND for second in range(6)]
    assert [tuple(row.values()) for row in places] == [
        (BUS, "GPU-1", at[1], at[2], "GPU-2"),
        (BUS, "GPU-2", at[3], at[4], "GPU-3"),
        (BUS, "GPU-3", at[5], None, None),
    ]


def test_a_new_collector_notices_what_was_replaced_while_there_was_none(site: Site) -> None:
    site.send(device_samples=[gpu("GPU-old")], source_health=[own()])
    site.begin()
    site.send(device_samples=[gpu("GPU-old")], source_health=[own()])
    assert site.ask("SELECT count(*) AS rows FROM inventory WHERE replaced IS NOT NULL") == [{"rows": 0}]
    site.begin()
    site.send(device_samples=[gpu("GPU-new")], source_health=[own("second")])
    assert {(row["kind"], row["replaced"]) for row in site.ask("FROM inventory WHERE replaced IS NOT NULL")} == {
        ("gpu", "GPU-old"),
        ("machine", "first"),
    }


def test_gpus_that_were_moved_or_cut_into_parts_are_not_replaced(site: Site) -> None:
    """Two GPUs that change places, and one that is given out in parts, are the same ones."""
    there = "0000:2b:00.0"
    site.send(device_samples=[gpu("GPU-a"), gpu("GPU-b", 4, there)])
    site.send(device_samples=[gpu("GPU-b"), gpu("GPU-a", 4, there)], source_health=[own()])
    site.send(device_samples=[gpu("MIG-1"), gpu("MIG-2"), gpu("GPU-a", 4, there)])
    site.passes()
    assert site.ask("SELECT replaced FROM inventory WHERE replaced IS NOT NULL") == []
    assert site.states() == {}


def test_a_machine_of_the_same_name_is_told_and_not_blamed_for_the_one_before(site: Site) -> None:
    site.send(device_samples=[gpu("GPU-old")], source_health=[own()])
    site.send(log_events=[{"kind": "oom", "severity": "critical", "pid": 7, "message": "out of memory", "count": 1}])
    site.passes()
    assert site.states() == {("process_died", None): "open"}
    site.send(device_samples=[gpu("GPU-new")], source_health=[own("second")])
    site.passes()
    assert site.states()["process_died", None] == "replaced"
    assert {each["summary"].split(" ")[0] for each in site.ask("SELECT summary FROM current_findings")} == {
        "The",
        "GPU",
    }
    site.passes(4)
    assert site.states()["process_died", None] == "replaced"
    site.send(log_events=[{"kind": "oom", "severity": "critical", "pid": 8, "message": "again", "count": 1}])
    site.passes()
    assert site.states()["process_died", None] == "open", "what happens on the new one is its own"


def test_a_replacement_is_told_for_a_day(site: Site) -> None:
    site.send(device_samples=[gpu("GPU-old")], source_health=[own()])
    site.send(device_samples=[gpu("GPU-new")], source_health=[own()])
    site.passes()
    assert site.states() == {("replaced", "GPU-old"): "open"}
    site.now_ns += 25 * 3_600 * SECOND
    site.send(source_health=[own()])
    site.passes(3)
    assert FindingKind.REPLACED not in {row["kind"] for row in site.ask("SELECT kind FROM current_findings")}
