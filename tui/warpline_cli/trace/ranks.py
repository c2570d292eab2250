"""Ranks as processes of a trace: how each is named, and which GPUs it had."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from warpline_cli.asking import Query, text

from .file import TraceFile
from .selection import Selection
from .tables import PLACE, RANKED

RANKS_MAX: Final = 1_000_000
"""Behind every rank."""
PARTS: Final = {"pp": "stage", "dp": "dp", "tp": "tp", "ep": "ep"}
_RANKS: Final = (
    "SELECT job, rank, min(node) AS node, list(DISTINCT node) AS nodes, min(clock) AS clock, list(DISTINCT gpu_uuid) AS gpus, "
    "max(pp) AS pp, max(dp) AS dp, max(tp) AS tp, max(ep) AS ep "
    "FROM ({}) GROUP BY job, rank, CASE WHEN rank IS NULL THEN node END ORDER BY job, rank NULLS LAST, node"
)


@dataclass(frozen=True)
class Gpu:
    """A GPU that a rank had: its NVML index and PCI address where they are known."""

    node: str
    uuid: str
    index: int | None = None
    bus_id: str | None = None


@dataclass
class Ranks:
    """All that is drawn of one trace: `rows` by process, `gpus` by process, and the nodes and clocks of all."""

    rows: dict[Hashable, Mapping[str, Any]]
    gpus: dict[Hashable, list[Gpu]] = field(default_factory=dict)
    _numbers: dict[Hashable, int] = field(default_factory=dict)

    @property
    def nodes(self) -> set[str]:
        return {node for row in self.rows.values() for node in row["nodes"] if node is not None}

    def process(self, trace: TraceFile, row: Mapping[str, Any]) -> int:
        """The process of a row's rank; the first time it is named."""
        key = of(row)
        if key not in self._numbers:
            rank = row["rank"]
            self._numbers[key] = trace.process(key, self._name(key, row), rank if rank is not None else RANKS_MAX)
        return self._numbers[key]

    def of_gpu(self, bus_id: str | None, node: str | None) -> Mapping[str, Any] | None:
        """The rank that had the GPU at this address of a node."""
        for key, gpus in self.gpus.items():
            if bus_id is not None and any(gpu.bus_id == bus_id and gpu.node == node for gpu in gpus):
                return self.rows[key]
        return None

    def _name(self, key: Hashable, row: Mapping[str, Any]) -> str:
        known = self.rows.get(key, row)
        words = [f"rank {known['rank']}" if known["rank"] is not None else "rank not known"]
        if known["node"]:
            words.append(f"on {known['node']}")
        words += [f"GPU {gpu.index}" for gpu in self.gpus.get(key, ()) if gpu.index is not None][:1]
        told = [part for part in PARTS if any(each.get(part) for each in self.rows.values())]
        words += [f"{PARTS[part]} {known[part]}" for part in told if known.get(part) is not None]
        if known["clock"] and not known["clock"].startswith("realtime@"):
            words.append(f"clock {known['clock']}")
        return ", ".join(words).replace(", on ", " on ")


def of(row: Mapping[str, Any]) -> Hashable:
    """What tells the process of one row from those of others."""
    return row["job"], row["rank"], row["node"] if row["rank"] is None else None


def ranks(query: Query, chosen: Selection, tables: Sequence[str]) -> Ranks:
    """Who has rows in `tables`, by number, and which GPUs the rows name; those of processes where they name none."""
    places = " UNION ALL ".join(f"SELECT {', '.join(dict.fromkeys((*PLACE, *RANKED)))} FROM {each}" for each in tables)
    rows = {of(row): row for row in query(_RANKS.format(places)).to_pylist()}
    found = Ranks(rows)
    held: dict[Hashable, list[tuple[str, str]]] = {}
    for key, row in rows.items():
        held[key] = [(row["node"], gpu) for gpu in row["gpus"] if gpu is not None and row["node"] is not None]
    if any(not each for each in held.values()):
        asked = (
            f"SELECT DISTINCT job, rank, node, gpu_uuid FROM gpu_processes WHERE {chosen.of_job()} AND rank IS NOT NULL"
        )
        for row in query(f"{asked} AND gpu_uuid IS NOT NULL").to_pylist():
            if not held.get(of(row), True):
                held[of(row)].append((row["node"], row["gpu_uuid"]))
    known = _known(query, found.nodes)
    for key, pairs in held.items():
        found.gpus[key] = [known.get(pair, Gpu(*pair)) for pair in pairs]
    return found


def _known(query: Query, nodes: set[str]) -> dict[tuple[str, str], Gpu]:
    if not nodes:
        return {}
    rows = query(
        "SELECT node, gpu_uuid, max(gpu_index) AS gpu_index, max(bus_id) AS bus_id FROM device_samples "
        f"WHERE node IN ({', '.join(text(node) for node in sorted(nodes))}) AND gpu_uuid IS NOT NULL GROUP BY node, gpu_uuid"
    ).to_pylist()
    return {
        (row["node"], row["gpu_uuid"]): Gpu(row["node"], row["gpu_uuid"], row["gpu_index"], row["bus_id"])
        for row in rows
    }
