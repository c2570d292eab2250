"""The table of what is where: which GPU sits in which place of a node, and which machine bears a node's name."""

from __future__ import annotations

from typing import Final

from .columns import INT, SMALL, TEXT, place
from .table import Column, Table

GPU: Final = "gpu"
MACHINE: Final = "machine"

INVENTORY: Final = Table(
    "inventory",
    "a GPU, or a machine, that was found in a place for the first time or instead of another; the view places says from when to "
    "when each was there",
    "time_ns",
    (
        *place(),
        Column("time_ns", INT, "ns", "when it was noticed, on the collector's clock"),
        Column("kind", TEXT, "", "gpu or machine"),
        Column("slot", TEXT, "", "PCI bus id of the GPU, else its index; NULL for a machine"),
        Column("gpu_index", SMALL, "", "NVML index on the node"),
        Column("gpu_name", TEXT, "", "product name"),
        Column("identity", TEXT, "", "NVML UUID of the GPU; of a machine a hash of its machine id"),
        Column("first_ns", INT, "ns", "its first reading there, on the node's clock"),
        Column("replaced", TEXT, "", "what was there before; NULL where nothing was"),
        Column(
            "last_ns", INT, "ns", "the last reading of what was there before, on the node's clock, where it is known"
        ),
    ),
)
