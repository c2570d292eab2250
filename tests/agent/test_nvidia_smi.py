"""Recorded nvidia-smi tables: power, clocks and temperatures as the tool gave them, and nothing where it gave nothing."""

from __future__ import annotations

import gzip
import itertools
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.source import Reading, memory_input
from warpline_agent.sources.nvidia_smi import NvidiaSmi, NvidiaSmiCapture, ZeusMonitor
from warpline_proto.errors import Refused

FORMATS = (NvidiaSmi(), NvidiaSmiCapture(), ZeusMonitor())
BUSY_RUN = {
    "watts": [423.3, 435.35, 421.54, 417.43, 440.78, 427.54, 437.94, 430.7],
    "joules": [575603.8, 591208.8, 573512.3, 568154.8, 599205.7, 582080.6, 595565.3, 586148.0],
    "idle_percent": [18.08, 18.19, 17.1, 16.84, 11.94, 11.98, 11.96, 11.94],
    "spin_percent": [52.06, 51.93, 53.57, 53.79, 58.79, 58.71, 58.79, 58.73],
    "celsius": [49.92, 62.99, 43.28, 48.43, 52.83, 41.99, 50.53, 43.09],
    "range_0": (73.46, 696.01),
    "shape": (36112, 4514, 1347.633, 0.297, 1.573),
}
BASELINE = {
    "watts": [602.15, 596.34, 593.28, 591.31, 592.32, 589.83, 592.05, 591.44],
    "joules": [157271.0, 156073.9, 155257.1, 154720.8, 155002.9, 154337.3, 154924.6, 154800.6],
    "idle_percent": [13.97, 15.51, 15.64, 15.64, 16.03, 15.64, 15.38, 15.77],
    "spin_percent": [0.13] * 8,
    "celsius": [57.43, 67.76, 50.27, 56.09, 59.34, 47.76, 56.53, 48.92],
    "range_0": (73.36, 694.91),
    "shape": (6240, 780, 265.947, 0.331, 2.307),
}


def _read(path: str, content: bytes) -> Reading:
    candidate = memory_input(path, content)
    (only,) = [each for each in FORMATS if each.recognises(candidate)]
    return only.read(candidate)


def _recorded(path: Path) -> Reading:
    content = path.read_bytes()
    return _read(str(path), gzip.decompress(content) if path.suffix == ".gz" else content)


def _rows(reading: Reading, table: str = "device_samples") -> list[dict[str, Any]]:
    return [row for rows in reading.rows if rows.table == table for row in rows.batch.to_pylist()]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "facts"), [("b443a1c3_gpu_metrics", BUSY_RUN), ("f4f827dd_baseline_gpu_metrics", BASELINE)]
)
def test_eight_gpus_of_a_training_run(data: Path, name: str, facts: dict[str, Any]) -> None:
    """Samples, seconds, mean power, energy by trapezoid, shares of utilisation and temperatures of each GPU."""
    reading = _recorded(data / "D-telemetry" / "nanogpt_8gpu" / f"{name}.csv.gz")
    rows, samples, seconds, interval, gap = facts["shape"]
    assert (reading.facts["rows"], reading.facts["gpus"], reading.facts["seconds"]) == (rows, 8, seconds)
    series: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in _rows(reading):
        series[row["gpu_index"]].append(row)
    assert sorted(series) == list(range(8))
    for gpu, readings in series.items():
        watts = [row["power_watts"] for row in readings]
        times = [row["time_ns"] / 1e9 for row in readings]
        steps = [later - earlier for earlier, later in itertools.pairwise(times)]
        joules = sum((a + b) / 2 * step for a, b, step in zip(watts, watts[1:], steps, strict=False))
        assert len(readings) == samples
        assert round(statistics.fmean(watts), 2) == facts["watts"][gpu] == reading.facts["mean_power_watts"][str(gpu)]
        assert joules == pytest.approx(facts["joules"][gpu], abs=0.2)
        idle = sum(row["gpu_utilization_percent"] == 0 for row in readings)
        spin = sum(row["gpu_utilization_percent"] == 100 and row["power_watts"] < 450 for row in readings)
        assert round(100 * idle / samples, 2) == facts["idle_percent"][gpu]
        assert round(100 * spin / samples, 2) == facts["spin_percent"][gpu]
        assert round(statistics.fmean(row["temperature_celsius"] for row in readings), 2) == facts["celsius"][gpu]
        assert round(statistics.median(steps), 3) == interval
        assert round(max(steps), 3) == gap
    first = [row["power_watts"] for row in series[0]]
    assert (min(first), max(first)) == facts["range_0"]
    assert {row["power_method"] for row in _rows(reading)} == {"unstated"}
    assert {row["gpu_uuid"] for row in _rows(reading)} == {None}


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "idle", "load", "utilization"),
    [
        ("nvidia-h100-80gb-hbm3__590.48.01", 69.85, 631.95, 100.0),
        ("nvidia-h200__590.48.01", 77.71, 627.4, 100.0),
        ("nvidia-h100-mig__590.48.01", 71.15, 433.78, None),
        ("nvidia-geforce-rtx-4080-super__595.71.05", 26.2, 84.24, 7.0),
    ],
)
def test_captures_idle_and_under_load(
    data: Path, name: str, idle: float, load: float, utilization: float | None
) -> None:
    """One reading of each phase; with MIG on, utilisation is not known though power is high."""
    reading = _recorded(data / "D-telemetry" / "nvidia-smi-captures" / f"linux-x86_64__{name}.txt.gz")
    first, second = _rows(reading)
    assert (first["power_watts"], second["power_watts"]) == (idle, load)
    assert {first["power_method"], second["power_method"]} == {"average"}
    assert second["gpu_utilization_percent"] == utilization
    assert reading.facts["phases"] == {"idle": {"0": idle}, "load": {"0": load}}
    assert second["gpu_uuid"] is None, "the publisher masked it"
    assert second["memory_used_bytes"] > first["memory_used_bytes"]
    assert (first["clock_event_reasons"], first["gpu_index"]) == (1, 0)


@pytest.mark.data
def test_the_zone_of_a_capture_comes_from_its_time_of_collection(data: Path) -> None:
    """The 4080's host ran two hours east of UTC: 11:59:44.226 there is 09:59:44.226."""
    name = "linux-x86_64__nvidia-geforce-rtx-4080-super__595.71.05.txt.gz"
    first, _ = _rows(_recorded(data / "D-telemetry" / "nvidia-smi-captures" / name))
    assert first["time_ns"] == 1782467984_226000000


@pytest.mark.data
def test_zeus_monitor_writes_milliwatts(data: Path) -> None:
    """Nineteen readings of one GPU that the file does not name."""
    reading = _recorded(data / "D-telemetry" / "zeus" / "zeus_monitor_sample.csv")
    rows = _rows(reading)
    assert len(rows) == 19
    assert (rows[0]["power_watts"], rows[0]["time_ns"]) == (32.402, 1657678056_708783111)
    assert {(row["gpu_index"], row["gpu_uuid"]) for row in rows} == {(None, None)}


@pytest.mark.data
@pytest.mark.parametrize("name", ["summary_power_a40", "summary_power_v100"])
def test_tables_of_other_things_are_left_to_others(data: Path, name: str) -> None:
    """Power per job and limit is no reading of a GPU at a time."""
    path = data / "D-telemetry" / "zeus" / f"{name}.csv"
    assert not any(each.recognises(memory_input(str(path), path.read_bytes())) for each in FORMATS)


def test_units_in_the_header_in_the_cells_or_nowhere() -> None:
    """The same reading three times; columns in another order; a tool started again in between."""
    text = (
        "timestamp, index, power.draw [W], memory.used [MiB], clocks_throttle_reasons.active\n"
        "2026/01/02 03:04:05.678, 3, 71.15 W, 59 MiB, 0x0000000000000004\n"
        "memory.used [MiB], power.draw [W], index, timestamp, clocks_throttle_reasons.active\n"
        "59, 71.15, 3, 2026/01/02 03:04:05.678, 0x0000000000000004\n"
        "index, timestamp, memory.used, power.draw, clocks_throttle_reasons.active\n"
        "3, 2026/01/02 03:04:05.678, 59, 71.15, 0x0000000000000004\n"
    )
    reading = _read("smi.csv", text.encode())
    first, second, third = _rows(reading)
    assert first == second == third
    assert (first["power_watts"], first["memory_used_bytes"], first["clock_event_reasons"]) == (71.15, 59 * 2**20, 4)
    assert first["time_ns"] == 1767323045_678000000
    assert any("read as UTC" in note for note in reading.notes)


WORDS = (
    "N/A",
    "[N/A]",
    "[Not Supported]",
    "[Unknown Error]",
    "[Insufficient Permissions]",
    "ERR!",
    "-",
    "",
    "71.15 kW",
)


@pytest.mark.parametrize("word", WORDS)
def test_words_and_unknown_units_are_null(word: str) -> None:
    """None of them is a zero."""
    text = (
        f"index, uuid, temperature.gpu, power.draw [W], fan.speed [%], pstate\n0, GPU-1, 40, {word}, {word}, {word}\n"
    )
    (row,) = _rows(_read("smi.csv", text.encode()))
    assert (row["power_watts"], row["power_method"], row["fan_percent"], row["performance_state"]) == (None,) * 4
    assert row["temperature_celsius"] == 40


def test_power_says_by_which_method_it_was_measured() -> None:
    """The stated average is preferred; where it is missing the next best is taken, and named."""
    header = "index, power.draw [W], power.draw.average [W], power.draw.instant [W]\n"
    reading = _read("smi.csv", (header + "0, 1 W, 2 W, 3 W\n1, 1 W, [N/A], 3 W\n2, [N/A], [N/A], 3 W\n").encode())
    assert [(row["power_watts"], row["power_method"]) for row in _rows(reading)] == [
        (2.0, "average"), (1.0, "unstated"), (3.0, "instant"),
    ]  # fmt: skip


def test_a_lost_gpu_is_an_event() -> None:
    """nvidia-smi goes on and says so in every field."""
    text = (
        "index, name, power.draw [W]\n0, H100, 70 W\n1, [GPU is lost], [GPU is lost]\n1, [GPU is lost], [GPU is lost]\n"
    )
    reading = _read("smi.csv", text.encode())
    (event,) = _rows(reading, "log_events")
    assert (event["kind"], event["severity"], event["count"]) == ("off_bus", "critical", 2)
    assert len(_rows(reading)) == 1


@pytest.mark.parametrize("time", ["9999/01/02 03:04:05.678", "1066/10/14 09:00:00", "2026/13/45 03:04:05", "soon"])
def test_times_that_cannot_be_are_null(time: str) -> None:
    """Before the epoch, past 64 bits, in a thirteenth month."""
    (row,) = _rows(_read("smi.csv", f"timestamp, index, power.draw [W]\n{time}, 0, 70 W\n".encode()))
    assert (row["time_ns"], row["power_watts"]) == (None, 70.0)


def test_lines_cut_off_are_counted() -> None:
    """The last line of a file that somebody copied while it grew."""
    reading = _read("smi.csv", b"index, name, power.draw [W]\n0, H100, 70 W\n0, H1")
    assert reading.facts["rows"] == 1
    assert any(note.startswith("1 lines are cut off") for note in reading.notes)


@given(st.binary(max_size=300), st.text(alphabet="0123456789.,-/:[]% \nWNAGPU", max_size=300))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_read_or_refused(junk: bytes, text: str) -> None:
    """Never anything but Refused."""
    header = b"timestamp, index, uuid, pci.bus_id, power.draw [W], pstate, clocks_event_reasons.active, memory.used\n"
    capture = b"x\n# idle :: q\n# $ nvidia-smi --query-gpu=index\n#\n" + header
    for start in (b"", header, b"Time,Power\n2022-07-13 02:07:36.708783111,3\n", capture):
        candidate = memory_input("x.csv", start + junk + b"\n" + text.encode())
        for each in FORMATS:
            each.recognises(candidate)
            try:
                each.read(candidate)
            except Refused as refused:
                assert refused.message
