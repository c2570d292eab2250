"""A topology dump tells how many NVLinks join which GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from warpline_agent.recordings.archive import Limits, file_input
from warpline_agent.source import memory_input
from warpline_agent.sources.nccl_topology import NcclTopology
from warpline_proto.errors import Refused


@pytest.mark.parametrize(
    ("name", "ports"),
    [
        ("nccl_topo_dump_normal.xml", {"mlx5_0": 10**11, "mlx5_1": 10**11}),
        ("topo_real.xml", {"mlx5_0+mlx5_1": 2 * 10**11}),
    ],
)
def test_a_bridge_of_twelve_links_is_seen_from_both_gpus(data: Path, name: str, ports: dict[str, int]) -> None:
    path = data / "B-nccl-logs/timez" / name
    candidate = file_input(path, str(path), Limits())
    assert NcclTopology().recognises(candidate)
    (rows,) = NcclTopology().read(candidate).rows
    found = rows.batch.to_pylist()
    links = {(row["device"], row["counter"], row["value"]) for row in found if row["link_kind"] == "nvlink"}
    assert links == {("0000:17:00.0", "links to 0000:65:00.0", 12), ("0000:65:00.0", "links to 0000:17:00.0", 12)}
    assert {row["device"]: row["value"] for row in found if row["counter"] == "rate"} == ports


@pytest.mark.parametrize(
    "body",
    [
        b'<system version="1"><cpu x="1">',
        b'<system version="1"><cpu x="1"/></system>',
        b'<system version="1"><!DOCTYPE a><cpu x="1"/></system>',
        b'<system version="1"><cpu x="1"/>\xff\xfe</system>',
    ],
)
def test_a_damaged_or_hostile_dump_is_refused(body: bytes) -> None:
    candidate = memory_input("topo.xml", body)
    assert NcclTopology().recognises(candidate)
    with pytest.raises(Refused):
        NcclTopology().read(candidate)


def test_other_xml_is_left_alone() -> None:
    assert not NcclTopology().recognises(memory_input("x.xml", b"<nvidia_smi_log><cpu x='1'/></nvidia_smi_log>"))
