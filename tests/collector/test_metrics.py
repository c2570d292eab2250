"""What a monitoring system relies on: /metrics in base units that Prometheus reads, and /healthz that turns red."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scraped import NOW_NS, ask, readings_of, serving, snapshot, values

from warpline_collector import fleet as fleet_module
from warpline_collector.continuous import Pass
from warpline_collector.metrics import endpoint, families, text
from warpline_collector.metrics.disk import Disk
from warpline_collector.metrics.snapshot import health
from warpline_collector.notify.courier import Standing as Receiver
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch, Frame
from warpline_proto.tables import LOG_EVENTS

MakeFrame = Callable[..., Frame]


async def test_gpus_fleet_store_and_findings_are_told_in_base_units() -> None:
    """Labels in order of their names: gpu, node, uuid."""
    at = snapshot(readings_of("node-1", 2, NOW_NS))
    async with serving(lambda: at) as address:
        status, page = await ask(address, "/metrics")
    assert status == 200
    told = values(page)
    gpu = ("1", "node-1", "GPU-node-1-1")
    assert told["warpline_gpu_power_watts", *gpu] == 300.5
    assert told["warpline_gpu_energy_joules_total", *gpu] == 12_345.0
    assert told["warpline_gpu_sm_clock_hertz", *gpu] == 1.98e9
    assert told["warpline_gpu_utilization_ratio", *gpu] == 0.5
    assert told["warpline_gpu_reading_timestamp_seconds", *gpu] == 1.7e9
    assert told["warpline_agent_frames_total", "node-1"] == 1
    assert told["warpline_agent_trouble", "node-1", "late"] == 0
    assert told["warpline_findings_open", "hang", "critical"] == 2
    assert told["warpline_findings_open", "hang", "info"] == 0
    assert (told["warpline_store_segment_bytes",], told["warpline_store_hot_rows",]) == (4_000, 70)
    assert told["warpline_analysis_pass_seconds",] == 1.5
    assert told["warpline_collector_sql_workers_busy",] == 1
    assert told["process_resident_memory_bytes",] > 0


async def test_what_is_not_known_is_left_out_and_old_readings_end() -> None:
    """A zero never stands for unknown; a node whose clock is an hour behind is not taken for one that stopped reading."""
    old = readings_of("old", 1, NOW_NS - 61 * 10**9)
    unknown = readings_of("new", 1, NOW_NS, power_watts=None, gpu_index=None)
    behind = readings_of("behind", 1, NOW_NS - 3_600 * 10**9)
    at = snapshot(old, unknown, behind)
    (skewed,) = (each for each in at.standings if each.seen.agent == "behind")
    skewed.seen.lags = (0, 3_600 * 10**9, None)
    skewed.troubles["skewed"] = "its clock is an hour behind"
    async with serving(lambda: at) as address:
        told = values((await ask(address, "/metrics"))[1])
    named = {key[2] for key in told if key[0].startswith("warpline_gpu_")}
    assert named == {"new", "behind"}
    assert ("warpline_gpu_power_watts", "", "new", "GPU-new-0") not in told
    assert told["warpline_gpu_temperature_celsius", "", "new", "GPU-new-0"] == 60.0
    assert ("warpline_agent_resident_memory_bytes", "new") not in told


async def test_the_page_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand GPUs of 1,250 nodes fit; where there are more than the bound, how many are left out is told."""
    monkeypatch.setattr(endpoint, "MAKE_SECONDS_MAX", 100.0)  # a busy machine is no failure
    monkeypatch.setattr(endpoint, "ANSWER_SECONDS_MAX", 100.0)
    at = snapshot(*(readings_of(f"node-{each}", 8, NOW_NS) for each in range(1_250)))
    async with serving(lambda: at) as address:
        _, page = await ask(address, "/metrics", "Accept-Encoding: gzip")
        monkeypatch.setattr(families, "GPUS_MAX", 3)
    plain = gzip.decompress(page)
    assert plain.count(b"\nwarpline_gpu_power_watts{") == 10_000
    assert len(plain) < 24 * 2**20
    assert len(page) < 2 * 2**20
    async with serving(lambda: at) as address:
        told = values((await ask(address, "/metrics"))[1])
    assert sum(key[0] == "warpline_gpu_power_watts" for key in told) == 3
    assert told["warpline_left_out", "gpus"] == 9_997


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"writer_seconds": 61.0}, "nothing was stored for 61 s"),
        ({"size": None, "unreadable": "no store at /x"}, "no store at /x"),
        ({"newest": Pass(NOW_NS, 1.0, "it broke", {})}, "the newest pass of the analysis failed: it broke"),
        ({"newest": Pass(NOW_NS - 121 * 10**9, 1.0, "", {})}, "no pass of the analysis ended for 121 s"),
        ({"newest": None, "started_ns": NOW_NS - 200 * 10**9}, "no pass of the analysis ended for 200 s"),
    ],
)
async def test_health_is_red_when_what_is_shown_is_stale(change: dict[str, object], words: str) -> None:
    """503 with a sentence; a monitoring system sees the same as a metric."""
    at = replace(snapshot(readings_of("node-1", 1, NOW_NS)), **change)  # type: ignore[arg-type]
    async with serving(lambda: at) as address:
        status, body = await ask(address, "/healthz")
        told = values((await ask(address, "/metrics"))[1])
    assert status == 503
    assert body.startswith(b"unhealthy\nstale: ") and words in body.decode()
    assert told["warpline_collector_healthy",] == 0


def test_one_late_agent_is_no_stale_collector_but_all_of_them_are() -> None:
    fresh, old = readings_of("fresh", 1, NOW_NS), readings_of("old", 1, NOW_NS - 40 * 10**9)
    well = health(snapshot(fresh, old))
    assert (well.red, well.amber) == ((), ("1 of 2 agents late: old",))
    assert health(snapshot()).text() == "ok\nlook: no agent was heard of yet\n"
    assert "no agent of 1 was heard of for 40 s" in health(snapshot(old)).red[0]


@pytest.mark.parametrize(
    ("took", "rest", "age", "overdue"), [(60, 240, 300, False), (60, 240, 601, True), (1, 300, 301, False)]
)
def test_the_analysis_is_overdue_by_its_own_rhythm(took: float, rest: float, age: int, overdue: bool) -> None:
    """Long passes rest long, and a period may be set; a collector that keeps to that is not stale."""
    newest = Pass(NOW_NS - age * 10**9, took, "", {}, rest)
    red = health(replace(snapshot(readings_of("node-1", 1, NOW_NS)), newest=newest)).red
    assert bool(red) == overdue


def test_a_receiver_that_is_not_reached_is_told_and_makes_nothing_stale() -> None:
    """Its name is a label; where it is is nowhere."""
    receiver = Receiver("ops", messages=3, failures=2, dropped=1, waiting=4, taken_ns=NOW_NS, failure="answered 500")
    at = replace(snapshot(readings_of("node-1", 1, NOW_NS)), receivers=[receiver])
    told = values(text.text(families.families(at)))
    assert [
        told[f"warpline_notify_{name}", "ops"] for name in ("messages_total", "failures_total", "dropped_total")
    ] == [3, 2, 1]
    assert [told[f"warpline_notify_{name}", "ops"] for name in ("waiting", "failing")] == [4, 1]
    assert told["warpline_notify_taken_timestamp_seconds", "ops"] == 1.7e9
    well = health(at)
    assert (well.red, well.amber) == ((), ("receiver ops answered 500; incidents that it was not told of: 4",))


def test_gpu_errors_of_a_log_are_told_by_node_kind_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the newest was written, and never a moment that is still to come; of a few codes, whatever a node sends."""
    monkeypatch.setattr(fleet_module, "GPU_ERRORS_MAX", 2)
    lines = [
        ("xid", 79, NOW_NS - 9),
        ("xid", 79, NOW_NS - 5),
        ("oom", None, NOW_NS),
        ("off_bus", None, NOW_NS + 99),
        ("xid", 13, 1),
    ]
    rows = LOG_EVENTS.from_rows(
        [{"kind": kind, "code": code, "severity": "critical", "time_ns": time_ns} for kind, code, time_ns in lines]
    )
    frame = Frame("node-1", "boot", 1, NOW_NS, (Batch("log_events", "kernel_log", rows),))
    told = values(text.text(families.families(snapshot(frame))))
    found = {key[1:]: value for key, value in told.items() if key[0] == "warpline_agent_gpu_error_timestamp_seconds"}
    assert found == {
        ("79", "xid", "node-1", "critical"): (NOW_NS - 5) / 1e9,
        ("", "off_bus", "node-1", "critical"): NOW_NS / 1e9,
    }


def test_power_is_told_by_state() -> None:
    at = replace(snapshot(), watts={"active": 600.0, "execution_idle": 90.5})
    told = values(text.text(families.families(at)))
    assert told["warpline_state_power_watts", "execution_idle"] == 90.5


def test_the_size_of_a_store_is_read_beside_its_writer(tmp_path: Path, make_frame: MakeFrame) -> None:
    now = [NOW_NS]
    store = DuckDBStore(tmp_path, clock=lambda: now[0])
    disk = Disk(tmp_path)
    store.append([make_frame(each) for each in range(1, 5)])
    hot = disk.size()
    assert (hot.segments, hot.hot_rows, hot.damaged) == (0, 12, 0)
    assert hot.database_bytes > 0 and hot.disk_bytes > hot.free_bytes > 0
    now[0] += 3_600 * 10**9
    store.maintain()
    sealed = disk.size()
    assert (sealed.segments, sealed.hot_rows) == (1, 0)
    assert sealed.segment_bytes == sum(path.stat().st_size for path in (tmp_path / "segments").rglob("*.parquet"))
    store.close()


def test_a_page_is_what_prometheus_reads_back_whatever_names_hold() -> None:
    """Labels with quotes, line ends and backslashes; values that are no number; the largest and the smallest ones."""
    family = text.Family("warpline_odd_total", "Odd\nthings \\.", ["node"])
    values = {'a"b': 1.0, "c\nd": float("inf"), "e\\n": float("-inf"), "f": 1e300, "g": 5e-324, "h": float("nan")}
    for name, value in values.items():
        family.add([name], value)
    (read,) = text_string_to_metric_families(text.text([family]).decode())
    told = {sample.labels["node"]: sample.value for sample in read.samples}
    assert (read.type, read.documentation) == ("counter", "Odd\nthings \\.")
    assert {name: told[name] for name in list(values)[:-1]} == {name: values[name] for name in list(values)[:-1]}
    assert told["h"] != told["h"]
