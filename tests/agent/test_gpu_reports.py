"""Recorded reports of GPUs other than nvidia-smi's: rocm-smi's JSON and the lines of SuperBench's monitor."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.source import Format, Input, Reading, memory_input
from warpline_agent.sources.rocm_smi import RocmSmi
from warpline_agent.sources.superbench_monitor import SuperbenchMonitor
from warpline_proto.errors import Refused


def read(kind: Format, candidate: Input) -> Reading:
    assert kind.recognises(candidate)
    return kind.read(candidate)


def samples(reading: Reading) -> list[dict[str, Any]]:
    return [row for each in reading.rows for row in each.batch.to_pylist()]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "gpu", "driver", "watts", "buses"),
    [
        (
            "mi100_rocm602",
            "Arcturus GL-XL [Instinct MI100]",
            "6.3.6",
            [36.0, 44.0, 43.0, 39.0],
            ["0000:83:00.0", "0000:a3:00.0", "0000:c3:00.0", "0000:e3:00.0"],
        ),
        ("vega-20-WKS-GL-XE", "Radeon Instinct MI50 32GB", "5.9.17", [26.0], ["0000:63:00.0"]),
    ],
)
def test_every_card_of_a_report_is_a_sample(
    data: Path, name: str, gpu: str, driver: str, watts: list[float], buses: list[str]
) -> None:
    """Power, limit, clocks, temperatures, memory and link of each card."""
    path = data / "D-telemetry" / "rocm-smi" / f"{name}.json"
    reading = read(RocmSmi(), memory_input(str(path), path.read_bytes()))
    rows = samples(reading)
    assert (reading.facts["gpu_names"], reading.facts["driver_version"]) == ([gpu], driver)
    assert [row["power_watts"] for row in rows] == watts
    assert [row["bus_id"] for row in rows] == buses
    assert {row["power_method"] for row in rows} == {"average"}
    first = rows[0]
    assert (first["gpu_index"], first["time_ns"], first["memory_total_bytes"]) == (0, None, 34342961152)
    assert (first["pcie_generation"], first["pcie_width"], first["pcie_replays"]) == (4, 16, 0)
    assert first["gpu_utilization_percent"] == 0.0
    clocks = (first["sm_clock_mhz"], first["memory_clock_mhz"])
    assert clocks == ((300.0, 1200.0) if name.startswith("mi100") else (1725.0, 1000.0))


def test_what_a_card_does_not_tell_is_unknown() -> None:
    """N/A and nonsense are NULL, not zero."""
    card = {
        "Unique ID": "N/A",
        "GPU use (%)": "N/A",
        "PCI Bus": "?",
        "sclk clock speed:": "fast",
        "VRAM Total Memory (B)": -1,
    }
    (row,) = samples(read(RocmSmi(), memory_input("x.json", json.dumps({"card0": card}).encode())))
    assert {name: value for name, value in row.items() if value is not None} == {"gpu_index": 0}


@pytest.mark.data
def test_the_monitor_has_eight_gpus_and_five_readings(data: Path) -> None:
    """About eleven seconds apart; the limit is in watts, memory in bytes."""
    path = data / "D-telemetry" / "superbench_monitor.jsonl"
    reading = read(SuperbenchMonitor(), memory_input(str(path), path.read_bytes()))
    assert (reading.facts["rows"], reading.facts["gpus"]) == (40, 8)
    assert reading.facts["seconds"] == pytest.approx(44, abs=3)
    first = samples(reading)[0]
    assert (first["gpu_index"], first["gpu_utilization_percent"], first["temperature_celsius"]) == (0, 56.0, 26.0)
    assert (first["power_limit_watts"], first["memory_used_bytes"]) == (250.0, 267517952)
    assert (first["memory_total_bytes"], first["power_watts"], first["ecc_corrected"]) == (17071734784, None, 0)


def test_a_line_that_is_cut_off_is_counted() -> None:
    """The monitor may have been stopped while it wrote."""
    text = '{"time": "2021-12-06 04:19:35", "gpu_usage:0": 5}\n{"time": "2021-12-06 04:19:46", "gpu_us'
    reading = read(SuperbenchMonitor(), memory_input("m.jsonl", text.encode()))
    assert reading.facts["rows"] == 1
    assert any(note.startswith("1 lines") for note in reading.notes)


@given(st.binary(max_size=200), st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_read_or_refused(content: bytes, text: str) -> None:
    """Never anything but Refused."""
    said = text.encode("utf-8", "surrogatepass")
    for body in (
        content,
        b'{"card0": {"GPU use (%)": "' + said + b'"}}',
        b'{"time": "' + said + b'", "gpu_usage:0": 1}',
    ):
        candidate = memory_input("x", body)
        for kind in (RocmSmi(), SuperbenchMonitor()):
            kind.recognises(candidate)
            with contextlib.suppress(Refused):
                kind.read(candidate)
