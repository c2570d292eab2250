"""What the GPU of each rank did meanwhile: its readings as counters, and what it did with its power as states."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Final

from warpline_cli.asking import text

from .file import Slice, Track
from .ranks import Ranks
from .scene import Scene
from .slices import STATE_ORDER
from .tables import Row, pages

COUNTERS: Final = {
    "power_watts": ("power", "W"),
    "sm_clock_mhz": ("SM clock", "MHz"),
    "memory_clock_mhz": ("memory clock", "MHz"),
    "sm_active_percent": ("SM active", "%"),
    "temperature_celsius": ("temperature", "°C"),
}
COUNTERS_MAX: Final = 1_000_000
"""Values of one file; of more, every second, third, ... reading is drawn."""
GPUS_AT_ONCE: Final = 64
"""Of one question."""
GPUS_MAX: Final = 2_048
STATES: Final = ("node", "gpu_uuid", "start_ns", "end_ns", "state", "seconds", "joules", "cause", "missing")
Owners = dict[tuple[str, str], list[Hashable]]


def owners(ranks: Ranks) -> Owners:
    """The processes of each GPU that a rank had, the first GPUS_MAX of them."""
    found: Owners = {}
    for key, gpus in ranks.gpus.items():
        for gpu in gpus:
            if len(found) < GPUS_MAX or (gpu.node, gpu.uuid) in found:
                found.setdefault((gpu.node, gpu.uuid), []).append(key)
    return found


def _batches(owned: Owners) -> Iterator[str]:
    """Conditions that name all of the GPUs, some at once."""
    pairs = list(owned)
    for begin in range(0, len(pairs), GPUS_AT_ONCE):
        part = pairs[begin : begin + GPUS_AT_ONCE]
        yield f"(node, gpu_uuid) IN ({', '.join(f'({text(node)}, {text(uuid)})' for node, uuid in part)})"


class Beside:
    """Draws what is known of the GPUs of all ranks."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._owned = owners(scene.ranks)

    def counters(self) -> int:
        """Power, clocks, activity and temperature, a value where it changes: how many readings were left out."""
        asked = [
            f"device_samples WHERE {gpus} AND {self._scene.within('time_ns', 'time_ns')}"
            for gpus in _batches(self._owned)
        ]
        counted = [self._scene.query(f"SELECT count(*) AS rows FROM {each}").to_pylist()[0]["rows"] for each in asked]
        nth = -(-sum(counted) * len(COUNTERS) // COUNTERS_MAX) or 1
        columns = ("time_ns", "node", "gpu_uuid", *COUNTERS)
        drawn = 0
        for each in asked:
            # Where two sources read one GPU, one of them is drawn: their readings differ by more than the GPU changes.
            one = (
                f"(SELECT * FROM (SELECT *, min(source) OVER (PARTITION BY node, gpu_uuid) AS first FROM {each}) "
                f"WHERE source IS NOT DISTINCT FROM first "
                f"QUALIFY row_number() OVER (PARTITION BY node, gpu_uuid ORDER BY time_ns) % {nth} = 1 % {nth})"
            )
            drawn += self._readings(pages(self._scene.query, columns, one, "time_ns"))
        return sum(counted) - drawn if nth > 1 else 0

    def _readings(self, rows: Iterator[Row]) -> int:
        last: dict[tuple[str, str, str], Any] = {}
        drawn = 0
        for row in rows:
            drawn += 1
            time_ns = self._scene.clocks.of_node(row["node"], row["time_ns"])
            if not self._scene.holds(time_ns):
                continue
            for column, (name, unit) in COUNTERS.items():
                key = row["node"], row["gpu_uuid"], column
                if row[column] is None or last.get(key) == row[column]:
                    continue
                last[key] = row[column]
                for process in self._processes(row):
                    self._scene.trace.counter(process, name, unit, time_ns, row[column])
        return drawn

    def states(self, slices_max: int) -> int:
        """What each GPU did with its power, from the energy account: how many times were left out for `slices_max`."""
        left = 0
        for gpus in _batches(self._owned):
            newest = "updated_ns = max(updated_ns) OVER (PARTITION BY node, gpu_uuid, window_ns)"
            table = (
                f"(SELECT * FROM energy_intervals WHERE {gpus} AND merged IS NULL "
                f"AND {self._scene.within('start_ns', 'end_ns')} QUALIFY {newest})"
            )
            for row in pages(self._scene.query, STATES, table):
                if self._scene.trace.slices >= slices_max:
                    left += 1
                    continue
                self._state(row)
        return left

    def _state(self, row: Row) -> None:
        begin_ns = self._scene.clocks.of_node(row["node"], row["start_ns"])
        told = {key: row[key] for key in ("seconds", "joules", "cause", "missing")}
        for process in self._processes(row):
            track = Track(process, "GPU state", STATE_ORDER)
            drawn = Slice(
                row["state"] or "state not known", "gpu_state", begin_ns, row["end_ns"] - row["start_ns"], told
            )
            self._scene.trace.slice_(track, drawn)

    def _processes(self, row: Row) -> Sequence[int]:
        keys = self._owned.get((row["node"], row["gpu_uuid"]), ())
        return [self._scene.ranks.process(self._scene.trace, self._scene.ranks.rows[key]) for key in keys]
