"""`warpline power report --by user|account|pod`: each joule in one line, what belongs to nobody in a line of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warpline_cli.main import main
from warpline_collector.accounting import account_all
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.tables import DEVICE_SAMPLES, GPU_PROCESSES

NS = 10**9
BEGIN = 1_700_000_400
SECONDS = 1500
GPUS = ("G0", "G1", "G2", "G3")
ANN = {"job": "12.0", "user": "ann", "account": "physics", "pod": None, "scheduler": "slurm"}
POD = {"job": "night", "user": "uid 1000", "account": "research", "pod": "trainer-0", "scheduler": "kubernetes"}
BOB = {"job": "13.0", "user": "bob", "account": "physics", "pod": None, "scheduler": "slurm"}
LIVES = (
    ("G0", 70, 0, 1500, ANN),
    ("G1", 71, 0, 700, ANN),
    ("G1", 72, 400, 1100, BOB),
    ("G2", 73, 250, 1250, POD),
    ("G2", 74, 600, 650, {"job": None, "user": "root", "account": None, "pod": None, "scheduler": "none"}),
)
"""GPU, pid, from and to which second, whose. G1 is shared by two jobs for a while; G3 stays empty."""


def watts(gpu: str, second: int) -> float:
    return 90.0 + 7 * int(gpu[1]) + (400.0 + second % 37 if holders(gpu, second) else 0.0)


def holders(gpu: str, second: int) -> list[dict[str, Any]]:
    return [whose for on, _, begin, end, whose in LIVES if on == gpu and begin <= second < end]


def samples() -> list[dict[str, Any]]:
    made = []
    for gpu in GPUS:
        joules = 3e6
        for second in range(SECONDS + 1):
            held = holders(gpu, second)
            made.append(
                {
                    "node": "n0", "source": "nvml", "gpu_uuid": gpu, "gpu_index": int(gpu[1]), "gpu_name": "H100",
                    "time_ns": (BEGIN + second) * NS, "power_watts": watts(gpu, second), "energy_joules": joules,
                    "gpu_utilization_percent": 98.0 if held else 0.0,
                    "resident_processes": len(held) if second % 30 == 0 else None,
                }
            )  # fmt: skip
            joules += watts(gpu, second)
    return made


def processes() -> list[dict[str, Any]]:
    made = []
    for gpu, pid, begin, end, whose in LIVES:
        place = {
            "node": "n0",
            "source": "nvml",
            "gpu_uuid": gpu,
            "gpu_index": int(gpu[1]),
            "pid": pid,
            "start_ticks": pid,
        }
        told = {**place, "process": "python3", **whose}
        made += [{**told, "state": "resident", "time_ns": (BEGIN + at) * NS} for at in range(begin, end, 300)]
        made.append({**told, "state": "gone", "time_ns": (BEGIN + end) * NS})
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("attribution") / "store"
    made = DuckDBStore(directory)
    made.write([Batch(DEVICE_SAMPLES.name, "nvml", DEVICE_SAMPLES.from_rows(samples()))])
    made.write([Batch(GPU_PROCESSES.name, "nvml", GPU_PROCESSES.from_rows(processes()))])
    with CatalogReader(directory) as reader:
        account_all(made, reader)
    made.close()
    return directory


@pytest.fixture
def report(store: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], dict[str, Any]]:
    def run(by: str) -> dict[str, Any]:
        assert main(["power", "report", "--store", str(store), "--since", "2h", "--by", by, "--json"]) == 0
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    return run


def counted(by: str) -> dict[str | None, float]:
    """Joules by the plain definition: second by second to whom all holders agree on, else to nobody."""
    found: dict[str | None, float] = {}
    for gpu in GPUS:
        for second in range(SECONDS):
            names = {whose[by] for whose in holders(gpu, second)}
            key = next(iter(names)) if len(names) == 1 else None
            found[key] = found.get(key, 0.0) + watts(gpu, second)
    return found


@pytest.mark.parametrize("by", ["job", "user", "account", "pod"])
def test_each_line_is_that_of_a_plain_count_and_nobodys_is_what_is_left(
    report: Callable[[str], dict[str, Any]], by: str
) -> None:
    document = report(by)
    lines = {line["key"]: sum(line["joules"].values()) for line in document["lines"]}
    expected = counted(by)
    assert lines.keys() == expected.keys() and None in lines
    for key, joules in expected.items():
        assert lines[key] == pytest.approx(joules, abs=0.5), key
    total = sum(watts(gpu, second) for gpu in GPUS for second in range(SECONDS))
    assert lines[None] == pytest.approx(total - sum(lines[key] for key in lines if key is not None), abs=0.5)
    assert sum(document["total"]["joules"].values()) == pytest.approx(total, abs=0.5)


def test_why_energy_belongs_to_no_job_is_said(store: Path) -> None:
    with CatalogReader(store) as reader:
        rows = reader.query(
            "SELECT gpu_uuid, unattributed, sum(seconds) AS seconds FROM energy_states WHERE job IS NULL GROUP BY ALL"
        ).to_pylist()
    found = {(row["gpu_uuid"], row["unattributed"]): row["seconds"] for row in rows}
    assert found["G1", "shared by 12.0, 13.0"] == pytest.approx(300.0)
    assert found["G2", "shared by night, and by processes of no known job: python3"] == pytest.approx(50.0)
    assert found["G3", "no program"] == pytest.approx(SECONDS)
