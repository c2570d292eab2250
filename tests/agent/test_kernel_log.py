"""The kernel log from files: recorded logs of real nodes, and sample lines of every shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from warpline_agent.parsers.kernel_events import KernelEvents, fold
from warpline_agent.parsers.kernel_records import Record, records
from warpline_agent.source import Input, memory_input
from warpline_agent.sources.kernel_log import KernelLogFile
from warpline_proto.errors import Refused


def said(*lines: str) -> list[dict[str, Any]]:
    """Rows of kernel messages."""
    events = KernelEvents()
    return [row for line in lines for row in events.rows(Record(line, "kmsg"))]


def recorded(data: Path, name: str) -> Input:
    path = data / "E-kernel-ib" / "gpud" / name
    return memory_input(str(path), path.read_bytes())


def rows_of(candidate: Input) -> list[dict[str, Any]]:
    return [row for rows in KernelLogFile().read(candidate).rows for row in rows.batch.to_pylist()]


@pytest.mark.data
def test_gsp_timeouts_in_a_dmesg_name_the_gpu(data: Path) -> None:
    log = recorded(data, "dmesg-with-xid-119.log")
    assert KernelLogFile().recognises(log)
    reading = KernelLogFile().read(log)
    assert reading.facts["records"] == 43 and reading.facts["xid"] == {"119": 5}
    rows = rows_of(log)
    assert {row["bus_id"] for row in rows} == {"0000:9b:00.0"}
    assert {row["gpu_uuid"] for row in rows} == {"GPU-509665ad-b600-ac93-3616-d754b23d636d"}
    assert {row["severity"] for row in rows} == {"critical"}
    assert rows[0]["time_ns"] == 1_740_327_858 * 10**9 and rows[0]["pid"] == 2024380


@pytest.mark.data
def test_decoded_iso_times_with_comma_decimals_are_exact(data: Path) -> None:
    log = recorded(data, "memory_dmesg.decode.iso.log")
    reading = KernelLogFile().read(log)
    assert reading.facts["xid"] == {"13": 16, "43": 1}
    rows = rows_of(log)
    xids = [row for row in rows if row["kind"] == "xid"]
    assert {row["bus_id"] for row in xids} == {"0000:38:00.0"}
    assert xids[0]["time_ns"] == 1_737_434_504_283_302_000
    assert [row["pid"] for row in xids if row["code"] == 43] == [2924364]
    kills = [row for row in rows if row["kind"] == "oom" and row["severity"] == "critical"]
    assert [row["pid"] for row in kills] == [123, 456, 123]


@pytest.mark.data
def test_two_crashes_in_nccl_are_two_rows_a_minute_apart(data: Path) -> None:
    log = recorded(data, "nccl_segfault_dmesg.log")
    first, second = rows_of(log)
    assert first["kind"] == "segfault" and first["pid"] == 2536443 and "libnccl.so.2" in first["message"]
    assert second["time_ns"] - first["time_ns"] == 60 * 10**9
    joined = log.read_bytes(1_000_000).replace(b"\n", b"")
    assert len(rows_of(memory_input("joined", joined))) == 2, "also when the line end between them is lost"


@pytest.mark.data
def test_the_fabric_manager_has_one_switch_error(data: Path) -> None:
    log = recorded(data, "fabricmanager.log")
    assert KernelLogFile().recognises(log)
    (row,) = rows_of(log)
    assert (row["kind"], row["code"], row["bus_id"]) == ("sxid", 12028, "0000:86:00.0")
    assert (row["link"], row["severity"]) == ("nvswitch3 link 61", "warning")
    assert row["time_ns"] == 1_740_669_002 * 10**9


@pytest.mark.data
def test_a_log_without_a_gpu_error_is_read_and_has_none(data: Path) -> None:
    log = recorded(data, "kmsg.1.log")
    assert KernelLogFile().recognises(log)
    reading = KernelLogFile().read(log)
    assert reading.rows == [] and reading.facts["events"] == 0 and reading.facts["records"] == 47
    assert "start of the machine" in reading.notes[0]


@pytest.mark.data
def test_no_other_recorded_file_is_taken_for_a_kernel_log(data: Path) -> None:
    for folder in ("A-kineto", "B-nccl-logs", "C-collectives", "D-telemetry"):
        for path in (data / folder).rglob("*"):
            if path.is_file() and path.suffix != ".gz":
                with path.open("rb") as file:
                    assert not KernelLogFile().recognises(memory_input(str(path), file.read(65536))), path


@pytest.mark.parametrize(
    "line, kind, code, bus_id, link",
    [
        (
            "NVRM: Xid (PCI:0000:05:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
            "xid",
            79,
            "0000:05:00.0",
            None,
        ),
        (
            "NVRM: Xid (PCI:0000:61:00): 45, pid=1496200, name=distprovers-gpu, Ch 0000000a",
            "xid",
            45,
            "0000:61:00.0",
            None,
        ),
        (
            "NVRM: Xid (PCI:0018:01:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x004505c6 0x00000000)",
            "xid",
            149,
            "0018:01:00.0",
            "link 8",
        ),
        (
            "NVRM: GPU 0000:18:00.0: GPU has fallen off the bus.",
            "off_bus",
            None,
            "0000:18:00.0",
            None,
        ),
        (
            "nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)",
            "sxid",
            12028,
            "0000:05:00.0",
            "nvswitch3 link 32",
        ),
        (
            "mlx5_core 0000:5c:00.0: Port module event[error]: module 0, Cable error, High Temperature",
            "link_event",
            None,
            "0000:5c:00.0",
            "module 0",
        ),
        (
            "mlx5_core 0000:5c:00.0: Detected insufficient power on the PCIe slot (27W).",
            "link_event",
            None,
            "0000:5c:00.0",
            None,
        ),
        ("mlx5_core 0000:5c:00.0 eth2: Link down", "link_event", None, "0000:5c:00.0", "eth2"),
    ],
)
def test_a_line_that_speaks_of_a_fault(
    line: str, kind: str, code: int | None, bus_id: str | None, link: str | None
) -> None:
    (row,) = said(line)
    assert (row["kind"], row.get("code"), row["bus_id"], row.get("link")) == (kind, code, bus_id, link)
    assert row["message"] == line


def test_a_gpu_off_the_bus_told_over_three_lines_is_one_event() -> None:
    (row,) = said(
        "NVRM: The NVIDIA GPU 0000:b3:00.0",
        "NVRM: (PCI ID: 10de:26b5) installed in this system has",
        "NVRM: fallen off the bus and is not responding to commands.",
    )
    assert (row["kind"], row["bus_id"], row["severity"]) == ("off_bus", "0000:b3:00.0", "critical")
    assert said("NVRM: fallen off the bus and is not responding to commands.") == []


@pytest.mark.parametrize(
    "line",
    [
        "mlx5_core 0000:5c:00.0: mlx5_cmd_out_err:803:(pid 1): ACCESS_REG(0x805) op_mod(0x1) failed",
        "mlx5_core 0000:5c:00.0 eth2: Link up",
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  580.65.06",
        "usb 1-1: new high-speed USB device",
        "",
    ],
)
def test_a_line_that_speaks_of_no_fault(line: str) -> None:
    assert said(line) == []


def test_fatal_errors_of_a_switch_and_of_nvlink_are_critical() -> None:
    fatal, link, minor = said(
        "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
        "NVRM: Xid (PCI:0018:01:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x1)",
        "NVRM: Xid (PCI:0018:01:00): 149, NETIR_LINK_EVT Nonfatal XC0 i0 Link 08 (0x1)",
    )
    assert (fatal["severity"], link["severity"], minor["severity"]) == ("critical", "critical", "warning")


def test_equal_lines_in_a_row_are_folded_and_counted() -> None:
    lines = ["NVRM: Xid (PCI:0000:05:00): 31, pid=7, name=x"] * 3 + ["NVRM: Xid (PCI:0000:06:00): 31, pid=7, name=x"]
    rows = fold(said(*lines))
    assert [(row["bus_id"], row["count"]) for row in rows] == [("0000:05:00.0", 3), ("0000:06:00.0", 1)]


def test_secrets_in_a_line_do_not_travel() -> None:
    (row,) = said("NVRM: Xid (PCI:0000:05:00): 31, pid=7, name=HF_TOKEN=hf_abcdefghijklmnopqrstuvwx")
    assert "hf_abcdef" not in row["message"]


@pytest.mark.parametrize(
    "line, time_ns, text",
    [
        ("[Sun Feb 23 16:24:18 2025] hello", 1_740_327_858 * 10**9, "hello"),
        ("kern  :warn  : [Sun Feb 23 16:24:18 2025] hello", 1_740_327_858 * 10**9, "hello"),
        ("2025-02-23T16:24:18.5+00:00 node7 kernel: hello", 1_740_327_858_500_000_000, "hello"),
        ("2025-02-23T17:24:18,000001+01:00 hello", 1_740_327_858_000_001_000, "hello"),
        ("[  123.000456] hello", None, "hello"),
        ("<4>[  123.000456] hello", None, "hello"),
        ("Feb 23 16:24:18 node7 kernel: [  123.000456] hello", None, "hello"),
        ("4,18,123000456,-,caller=T1;hello", None, "hello"),
    ],
)
def test_every_dress_of_a_record(line: str, time_ns: int | None, text: str) -> None:
    (record,) = records(line)
    assert (record.time_ns, record.text, record.kernel) == (time_ns, text, True)


@pytest.mark.parametrize("line", ["", "hello", "[Sun Feb 31 16:24:18 2025", "{", '{"a": 1}', "4,18;x", "\x00\x01"])
def test_what_is_no_record_is_none(line: str) -> None:
    assert records(line) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello\nworld\n",
        "2025-02-23T16:24:18.5Z INFO training step 5\n" * 5,
        "2025-02-23 16:24:18,123 INFO x\n" * 5,
        "node7:1:1 [0] NCCL INFO Bootstrap\n" * 5,
        "Feb 23 16:24:18 node7 sshd[1]: session opened\n" * 5,
        '{"traceEvents": []}\n',
        "a,b,c\n1,2,3\n",
    ],
)
def test_other_logs_are_not_claimed(text: str) -> None:
    assert not KernelLogFile().recognises(memory_input("x.log", text.encode()))


def test_a_syslog_that_others_write_to_is_read_for_its_kernel_lines() -> None:
    text = (
        "Feb 23 16:24:17 node7 sshd[1]: NVRM: Xid (PCI:0000:05:00): 79, forged\n"
        "Feb 23 16:24:18 node7 kernel: NVRM: Xid (PCI:0000:05:00): 79, pid=1, gone\n"
    )
    log = memory_input("messages", text.encode())
    assert KernelLogFile().recognises(log)
    reading = KernelLogFile().read(log)
    assert reading.facts["xid"] == {"79": 1} and reading.origin.node == "node7"
    assert reading.rows[0].batch.to_pylist()[0]["time_ns"] is None
    assert "no year" in reading.notes[0]


def test_a_file_without_records_is_refused_in_words() -> None:
    with pytest.raises(Refused, match="no kernel record"):
        KernelLogFile().read(memory_input("x", b"\x00\xff" * 1000))
