"""`nvidia-smi -q -x` in four schemas: GPUs, MIG devices, missing fields, and XML that means harm."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.source import Reading, memory_input
from warpline_agent.sources.nvidia_smi_xml import NvidiaSmiXml
from warpline_proto.errors import Refused

KNOWN = {
    "qx-a100.hw": (1, {"NVIDIA A100-SXM4-40GB": 1}, "570.148.08", [0.0], 0),
    "qx-gb200-healthy.mock": (2, {"NVIDIA GB200": 2}, "580.65.06", [50.0, 50.0], 0),
    "qx-gb200-throttle-counters.mock": (2, {"NVIDIA GB200": 2}, "580.65.06", [36.0, 40.0], 0),
    "qx-gb200.hw": (4, {"NVIDIA GB200": 4}, "580.173.02", [0.0] * 4, 0),
    "qx-h100.hw": (8, {"NVIDIA H100 80GB HBM3": 8}, "580.105.08", [0.0] * 8, 0),
    "qx-t4.hw": (1, {"Tesla T4": 1}, "595.91.07", [0.0], 0),
    "telegraf_a100-sxm4-v12": (4, {"NVIDIA A100-SXM4-80GB": 1}, "535.54.03", [None], 4),
    "telegraf_a10g": (1, {"NVIDIA A10G": 1}, "515.105.01", [0.0], 0),
    "telegraf_gtx-1070-ti": (None, {"GeForce GTX 1070 Ti": 1}, None, [0.0], 0),
    "telegraf_rtx-3090-v12": (1, {"NVIDIA GeForce RTX 3090": 1}, "525.147.05", [0.0], 0),
    "telegraf_tesla-t4": (1, {"Tesla T4": 1}, "515.105.01", [0.0], 0),
}


def _read(path: str, content: bytes) -> Reading:
    candidate = memory_input(path, content)
    assert NvidiaSmiXml().recognises(candidate)
    return NvidiaSmiXml().read(candidate)


def _recorded(data: Path, name: str) -> Reading:
    path = data / "D-telemetry" / "nvidia-smi-xml" / f"{name}.xml.gz"
    return _read(str(path), gzip.decompress(path.read_bytes()))


def _rows(reading: Reading, table: str = "device_samples") -> list[dict[str, Any]]:
    return [row for rows in reading.rows if rows.table == table for row in rows.batch.to_pylist()]


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(KNOWN))
def test_recorded_documents(data: Path, name: str) -> None:
    """Attached GPUs, products, driver, utilisation with N/A as NULL, MIG devices."""
    attached, products, driver, utilization, mig = KNOWN[name]
    reading = _recorded(data, name)
    facts = reading.facts
    assert (facts["attached_gpus"], facts["gpu_names"], facts["driver_version"]) == (attached, products, driver)
    assert (facts["gpu_utilization"], facts["mig_devices"]) == (utilization, mig)
    gpus = sum(products.values())
    rows = _rows(reading)
    assert len(rows) == gpus + mig
    assert [row["gpu_utilization_percent"] for row in rows if row["power_watts"] or mig == 0][:gpus] == utilization
    assert all(row["gpu_index"] == (number if attached == gpus else None) for number, row in enumerate(rows[:gpus]))
    assert all(row["bus_id"] for row in rows)


@pytest.mark.data
def test_power_names_its_method_in_every_schema(data: Path) -> None:
    """Old schemas state none; the A100's new one has only the instant value; the oldest has none at all."""
    powers = {name: _rows(_recorded(data, name))[0] for name in KNOWN}
    found = {name: (row["power_watts"], row["power_method"]) for name, row in powers.items()}
    assert found["telegraf_tesla-t4"] == (26.78, "unstated")
    assert found["telegraf_a100-sxm4-v12"] == (67.03, "unstated")
    assert found["qx-a100.hw"] == (49.68, "instant")
    assert found["qx-h100.hw"] == (68.57, "average")
    assert found["telegraf_gtx-1070-ti"] == (None, None)
    assert powers["telegraf_gtx-1070-ti"]["time_ns"] is None


@pytest.mark.data
def test_throttling_counters(data: Path) -> None:
    """GPU 0 was held by its power cap for 39595 us, GPU 1 never; a real node has hours of it."""
    first, second = _rows(_recorded(data, "qx-gb200-throttle-counters.mock"))
    assert (first["power_cap_ns"], second["power_cap_ns"]) == (39_595_000, 0)
    assert _rows(_recorded(data, "qx-h100.hw"))[0]["power_cap_ns"] == 7_015_662_857_000
    assert _rows(_recorded(data, "qx-a100.hw"))[0]["power_cap_ns"] is None


@pytest.mark.data
def test_mig_devices_have_their_own_memory_and_name(data: Path) -> None:
    """Four devices of one A100, each with 19968 MiB; what only the whole GPU has is not copied to them."""
    gpu, *devices = _rows(_recorded(data, "telegraf_a100-sxm4-v12"))
    uuid = gpu["gpu_uuid"]
    assert [row["gpu_uuid"] for row in devices] == [f"MIG-{uuid}/{instance}/0" for instance in (3, 4, 5, 6)]
    assert {row["memory_total_bytes"] for row in devices} == {19968 * 2**20}
    assert {row["power_watts"] for row in devices} == {None}


HOSTILE = {
    "billion laughs": (
        b'<!DOCTYPE nvidia_smi_log [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><nvidia_smi_log>&b;</nvidia_smi_log>',
        "declares an entity",
    ),
    "another file": (
        b'<!DOCTYPE nvidia_smi_log [<!ENTITY a SYSTEM "file:///etc/passwd">]><nvidia_smi_log>&a;</nvidia_smi_log>',
        "declares an entity",
    ),
    "parameter entity": (
        b'<!DOCTYPE nvidia_smi_log [<!ENTITY % a SYSTEM "http://x/y"> %a;]><nvidia_smi_log/>',
        "declares an entity",
    ),
    "nested deep": (b"<nvidia_smi_log>" + b"<gpu>" * 100_000, "nested deeper"),
    "cut off": (b"<nvidia_smi_log><gpu><uuid>GPU", "damaged XML"),
    "unknown encoding": (b'<?xml version="1.0" encoding="klingon"?><nvidia_smi_log/>', "damaged XML"),
    "no GPU": (b"<nvidia_smi_log></nvidia_smi_log>", "no nvidia-smi log with a GPU"),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_and_damaged_documents_are_refused(name: str) -> None:
    """Before anything is expanded, fetched or built."""
    content, said = HOSTILE[name]
    with pytest.raises(Refused, match=said):
        _read("x.xml", content)


def test_a_lost_gpu_is_an_event() -> None:
    """The other GPUs of the node are read as ever."""
    text = b"<nvidia_smi_log><gpu id='00000000:01:00.0'><fan_speed>GPU is lost</fan_speed></gpu></nvidia_smi_log>"
    (event,) = _rows(_read("x.xml", text), "log_events")
    assert (event["kind"], event["bus_id"]) == ("off_bus", "0000:01:00.0")


@given(st.binary(max_size=300), st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_read_or_refused(junk: bytes, text: str) -> None:
    """Never anything but Refused."""
    cell = text.encode("utf-8", "surrogatepass")
    for body in (
        junk,
        b"<nvidia_smi_log><gpu>" + junk + b"</gpu></nvidia_smi_log>",
        b"<nvidia_smi_log><timestamp>"
        + cell
        + b"</timestamp><gpu id='"
        + cell
        + b"'><uuid>"
        + cell
        + b"</uuid></gpu></nvidia_smi_log>",
    ):
        candidate = memory_input("x.xml", body)
        NvidiaSmiXml().recognises(candidate)
        try:
            NvidiaSmiXml().read(candidate)
        except Refused as refused:
            assert refused.message
