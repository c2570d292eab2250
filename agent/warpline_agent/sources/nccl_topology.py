"""NCCL's topology dump (NCCL_TOPO_DUMP_FILE): how many NVLinks join which GPUs, and how fast each network port is."""

from __future__ import annotations

import re
from typing import Any, Final
from xml.etree.ElementTree import Element

from warpline_proto.errors import Refused
from warpline_proto.tables import LINK_COUNTERS

from ..parsers import plain_xml
from ..parsers.bus_id import normal_bus_id
from ..parsers.values import count, scaled, small, text
from ..source import Input, Reading, Rows

_ROOT: Final = re.compile(rb"\s*(?:<\?xml[^>]{0,200}>\s*)?<system version=\"\d+\"")


class NcclTopology:
    """One node as NCCL saw it."""

    name = "nccl_topology"

    def recognises(self, candidate: Input) -> bool:
        """By the root element and NCCL's own elements below it."""
        return _ROOT.match(candidate.head) is not None and b"<cpu " in candidate.head

    def read(self, candidate: Input) -> Reading:
        """NVLinks by pair of GPUs and speeds of network ports -> link_counters (readings, without a time)."""
        with candidate.open() as stream:
            root = plain_xml.load(stream)
        gpus = [device for device in root.iter("pci") if device.find("gpu") is not None]
        ports = [port for nic in root.iter("nic") for port in nic.iter("net")]
        if not gpus:
            raise Refused("a topology without a GPU")
        rows = [row for device in gpus for row in _nvlinks(device)] + [_port(port) for port in ports]
        rows = [row for row in rows if row["value"] is not None]
        facts = {
            "gpus": len(gpus),
            "nvlinks": {f"{row['device']} {row['counter']}": row["value"] for row in rows if row["unit"] == "links"},
            "ports": {str(port.get("name")): count(port.get("speed")) for port in ports},
        }
        return Reading([Rows("link_counters", LINK_COUNTERS.from_rows(rows))] if rows else [], facts)


def _nvlinks(device: Element) -> list[dict[str, Any]]:
    gpu = normal_bus_id(device.get("busid", ""))
    return [
        {
            "link_kind": "nvlink",
            "device": gpu,
            "counter": f"links to {normal_bus_id(link.get('target', '')) or 'a switch'}",
            "value": count(link.get("count")),
            "unit": "links",
        }
        for link in device.iter("nvlink")
    ]


def _port(port: Element) -> dict[str, Any]:
    """`speed` is in Mbit/s; whether the port speaks InfiniBand or RoCE the dump does not say."""
    return {
        "link_kind": None,
        "device": text(port.get("name")),
        "port": small(port.get("port")),
        "counter": "rate",
        "value": scaled(port.get("speed"), 1e6),
        "unit": "bit/s",
    }
