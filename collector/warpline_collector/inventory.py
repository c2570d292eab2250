"""What is where, from the rows that come: a row of table inventory for each GPU and machine that is new in its place."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from warpline_proto.batch import Batch
from warpline_proto.inventory_table import GPU, MACHINE
from warpline_proto.tables import DEVICE_SAMPLES, SOURCE_HEALTH

PLACES_MAX: Final = 100_000
"""Places that are watched; GPUs in further ones are not."""
ROWS_MAX: Final = 100_000
"""Rows that wait to be written; past it nothing new is noticed until they are."""
REMEMBERED: Final = (
    "SELECT node, source, kind, slot, identity, first_ns FROM inventory WHERE node IS NOT NULL AND identity IS NOT NULL "
    "QUALIFY row_number() OVER (PARTITION BY node, source, kind, slot ORDER BY time_ns DESC, first_ns DESC) = 1"
)
MIG: Final = "MIG-"
"""A GPU that is cut into parts is the same one."""
_Place = tuple[str, str, str, str | None]
_Told = tuple[str | None, str | None, int | None]


@dataclass
class _Held:
    """What is in one place, and its newest reading."""

    identity: str
    last_ns: int | None


class Inventory:
    """`hear` in the thread that takes frames, `take` and `give_back` in the one that writes."""

    def __init__(self) -> None:
        self._held: dict[_Place, _Held] = {}
        self._usual: dict[tuple[str, str], tuple[frozenset[_Told], list[_Held]]] = {}
        self._rows: list[dict[str, Any]] = []
        self._mutex = threading.Lock()

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """What an earlier collector knew, as REMEMBERED answers."""
        for row in rows:
            place = (row["node"], row["source"], row["kind"], row["slot"])
            self._held[place] = _Held(row["identity"], None)

    def hear(self, batch: Batch, heard_ns: int) -> None:
        """Readings of GPUs, or what an agent says of its machine."""
        if len(self._rows) >= ROWS_MAX or not batch.rows.num_rows:
            return
        if batch.table == DEVICE_SAMPLES.name:
            self._gpus(batch, heard_ns)
        elif batch.table == SOURCE_HEALTH.name:
            machines = batch.rows.filter(batch.rows.column("machine").is_valid()).to_pylist()
            for row in machines:
                self._found(_place(row, batch, MACHINE, None), row["machine"], row, heard_ns)

    def take(self) -> Sequence[Mapping[str, Any]]:
        """Rows to write."""
        with self._mutex:
            rows, self._rows = self._rows, []
        return rows

    def give_back(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows that could not be written."""
        with self._mutex:
            self._rows = [dict(row) for row in rows] + self._rows

    def _gpus(self, batch: Batch, heard_ns: int) -> None:
        """Most batches speak of the GPUs that the one before spoke of: then only the time is new."""
        rows = batch.rows
        told: frozenset[_Told] = frozenset(
            zip(*(rows.column(name).to_pylist() for name in ("gpu_uuid", "bus_id", "gpu_index")), strict=True)
        )
        nodes = rows.column("node").unique().to_pylist()
        key = (str(nodes[0]), batch.source)
        usual, held = self._usual.get(key, (None, []))
        if len(nodes) == 1 and usual == told:
            newest_ns = rows.column("time_ns")[-1].as_py()
            for each in held:
                each.last_ns = newest_ns
            return
        named = frozenset(uuid for uuid, _, _ in told if uuid is not None)
        places = []
        for row in _newest_of_each(rows):
            uuid = row["gpu_uuid"]
            slot = row["bus_id"] or (None if row["gpu_index"] is None else str(row["gpu_index"]))
            if uuid and not uuid.startswith(MIG) and slot is not None and row["node"]:
                places.append(_place(row, batch, GPU, slot))
                self._found(places[-1], uuid, row, heard_ns, named)
        if len(nodes) == 1:
            self._usual[key] = told, [self._held[place] for place in places if place in self._held]

    def _found(
        self,
        place: _Place,
        identity: str,
        row: Mapping[str, Any],
        heard_ns: int,
        present: frozenset[str] = frozenset(),
    ) -> None:
        """`present` is what the same source still speaks of: a GPU among them was moved and not replaced."""
        held = self._held.get(place)
        if held is None and len(self._held) >= PLACES_MAX:
            return
        self._held[place] = _Held(identity, row["time_ns"])
        if held is not None and held.identity == identity:
            return
        before = None if held is None or held.identity in present else held
        node, source, kind, slot = place
        told = {"cluster": row["cluster"], "node": node, "source": source, "kind": kind, "slot": slot}
        told |= {"time_ns": heard_ns, "identity": identity, "first_ns": row["time_ns"]}
        told |= {name: row.get(name) for name in ("gpu_index", "gpu_name")}
        told |= {"replaced": before.identity, "last_ns": before.last_ns} if before else {}
        with self._mutex:
            self._rows.append(told)


def _place(row: Mapping[str, Any], batch: Batch, kind: str, slot: str | None) -> _Place:
    return (row["node"] or "", batch.source, kind, slot)


def _newest_of_each(rows: pa.RecordBatch) -> list[Mapping[str, Any]]:
    """The last row of each GPU in each place."""
    columns = ["cluster", "node", "gpu_uuid", "gpu_index", "gpu_name", "bus_id", "time_ns"]
    found = {(row["gpu_uuid"], row["bus_id"], row["gpu_index"]): row for row in rows.select(columns).to_pylist()}
    return list(found.values())
