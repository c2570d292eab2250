"""The host source against the machine it runs on, and against a proc file system of our own making."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from warpline_agent.sources.host import Host, HostConfig, cpu_shares, meminfo
from warpline_proto.errors import Unsupported


@pytest.fixture(autouse=True)
def proc_again() -> Iterator[None]:
    before = psutil.PROCFS_PATH
    yield
    psutil.PROCFS_PATH = before


def only_row(source: Host) -> dict[str, Any]:
    (rows,) = source.read()
    assert rows.table == "host_samples"
    (row,) = rows.batch.to_pylist()
    return dict(row)


def test_this_machine_is_read_as_it_is() -> None:
    source = Host(clock_ns=lambda: 1_700_000_000_000_000_000)
    source.open()
    first = only_row(source)
    assert first["cpu_percent"] is None, "one reading says nothing about a share of time"
    assert first["cpu_count"] == psutil.cpu_count()
    assert 0 < first["memory_used_bytes"] < first["memory_total_bytes"] == psutil.virtual_memory().total
    assert first["processes"] >= 1 and first["boot_ns"] == round(psutil.boot_time() * 1e9)
    assert first["time_ns"] == 1_700_000_000_000_000_000
    source.close()


def test_cpu_shares_are_those_between_two_readings() -> None:
    before = {"user": 10.0, "system": 5.0, "idle": 80.0, "iowait": 5.0, "steal": 0.0, "guest": 3.0}
    now = {"user": 13.0, "system": 6.0, "idle": 84.0, "iowait": 6.0, "steal": 1.0, "guest": 6.0}
    shares = cpu_shares(before, now)
    assert shares == {"cpu_percent": 40.0, "cpu_iowait_percent": 10.0, "cpu_steal_percent": 10.0}


def test_no_time_between_two_readings_gives_no_share() -> None:
    reading = {"user": 10.0, "idle": 80.0}
    assert cpu_shares(reading, reading) == {} == cpu_shares({}, reading)


def test_a_machine_without_swap_has_a_measured_zero_and_an_unknown_one_has_none(tmp_path: Path) -> None:
    assert meminfo("SwapTotal:  2048 kB\nSwapFree: 1024 kB\nnonsense\nBad: x kB\n") == {
        "SwapTotal": 2048,
        "SwapFree": 1024,
    }
    for name in ("stat", "loadavg", "vmstat", "diskstats"):
        (tmp_path / name).write_text(Path("/proc", name).read_text())
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "dev").write_text("h\nh\n" + "    lo: 5 0 0 0 0 0 0 0 5 0 0 0 0 0 0 0\n")
    known = [
        line for line in Path("/proc/meminfo").read_text().splitlines(keepends=True) if not line.startswith("Swap")
    ]
    (tmp_path / "meminfo").write_text("".join(known))
    source = Host(HostConfig(proc=str(tmp_path)))
    source.open()
    row = only_row(source)
    assert row["swap_used_bytes"] is None
    assert row["network_rx_bytes"] is None, "loopback alone is no network"
    assert row["processes"] == 0
    (tmp_path / "meminfo").write_text("".join(known) + "SwapTotal: 0 kB\nSwapFree: 0 kB\n")
    assert only_row(source)["swap_used_bytes"] == 0


def test_a_folder_that_is_no_proc_is_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="is no proc file system"):
        Host(HostConfig(proc=str(tmp_path))).open()
