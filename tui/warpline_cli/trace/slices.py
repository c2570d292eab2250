"""Steps, phases, collectives and kernels as slices; the ranks of one collective joined by arrows, waiting and transfer apart."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final

from .clock import Clocks
from .file import Arrow, Slice, TraceFile, Track
from .ranks import Ranks
from .tables import TOGETHER, TOLD_OF_COLLECTIVES, Row

STEP_ORDER, PHASE_ORDER, COLLECTIVE_ORDER, STATE_ORDER, LOG_ORDER, STREAM_ORDER = range(6)
SUMS_ORDER: Final = 100_000
"""Behind the streams."""
_UNTIMED: Final = frozenset({"summary", "enqueue", "kernel_shared"})
"""Timings that are not of the operation alone: they tell nothing of waiting."""
_POINT_TO_POINT: Final = frozenset({"send", "recv"})


class Drawing:
    """Draws rows into a trace, on the process of their rank and on one clock.

    Its methods take rows of one kind by start and give, piece by piece, how many they have drawn; rows that were asked for by
    their own clock, and on the common one are not of the time that was chosen, are not drawn and count.
    """

    def __init__(
        self, trace: TraceFile, ranks: Ranks, clocks: Clocks, names: Mapping[int, str], start_ns: int | None, end_ns: int | None,
    ) -> None:  # fmt: skip
        self.trace, self.ranks, self.names = trace, ranks, names
        self._clocks, self._start_ns, self._end_ns = clocks, start_ns, end_ns

    def at(self, row: Row) -> int:
        """When it began, on the common clock."""
        return self._clocks.moved(row["clock"], row["start_ns"])

    def outside(self, row: Row, duration_ns: int) -> bool:
        """It is not of the time that was chosen."""
        begin_ns = self.at(row)
        late = self._end_ns is not None and begin_ns >= self._end_ns
        return late or (self._start_ns is not None and begin_ns + max(duration_ns, 1) <= self._start_ns)

    def kernels(self, rows: Iterator[Row]) -> Iterator[int]:
        for row in rows:
            name = self.names.get(row["kernel_id"]) or f"kernel {row['kernel_id']}"
            told = {"step": row["step"], "kernel_id": str(row["kernel_id"]), "gpu_uuid": row["gpu_uuid"]}
            self._slice(row, stream(row), stream_order(row, STREAM_ORDER), name, row["category"] or "kernel", told)
            yield 1

    def steps(self, rows: Iterator[Row]) -> Iterator[int]:
        for row in rows:
            name = "whole trace" if row["step"] is None else f"step {row['step']}"
            told = {key: row[key] for key in ("kernels", "busy_ns", "idle_ns", "data_wait_ns", "device")}
            self._slice(row, "steps" if row["scope"] == "step" else "recorded", STEP_ORDER, name, "step", told)
            yield 1

    def phases(self, rows: Iterator[Row]) -> Iterator[int]:
        for row in rows:
            told = {key: row[key] for key in ("step", "kind", "microbatch", "chunk", "sequence")}
            self._slice(row, "phases", PHASE_ORDER, row["phase"] or "phase", "phase", told)
            yield 1

    def collectives(self, rows: Iterator[Row]) -> Iterator[int]:
        """Rows of one operation stand together."""
        for _, same in itertools.groupby(rows, lambda row: [row[key] for key in TOGETHER]):
            found = list(same)
            drawn = sorted((row for row in found if not self.outside(row, row["duration_ns"] or 0)), key=self.at)
            for place, row in enumerate(drawn):
                joined = len(drawn) > 1 and row["ranks_seen"] > 1
                self._collective(row, Arrow(_key(row), place > 0, place < len(drawn) - 1) if joined else None)
            yield len(found)

    def _collective(self, row: Row, arrow: Arrow | None) -> None:
        group = row["group_name"] or row["communicator"]
        name = "collectives" if group is None else f"collectives of {group}"
        wait_ns = waited(row)
        told = {key: row[key] for key in TOLD_OF_COLLECTIVES} | {"wait_ns": wait_ns, "ranks_known": row["ranks_seen"]}
        track = Track(self.ranks.process(self.trace, row), name, COLLECTIVE_ORDER)
        begin_ns, took_ns = self.at(row), row["duration_ns"] or 0
        whole = Slice(row["operation"] or "collective", "collective", begin_ns, took_ns, told)
        lane = self.trace.slice_(track, whole, arrow)
        if wait_ns is None:
            return
        if wait_ns:
            self.trace.within(track, lane, Slice("waiting for other ranks", "wait", begin_ns, wait_ns, {}))
        self.trace.within(track, lane, Slice("transfer", "transfer", begin_ns + wait_ns, took_ns - wait_ns, {}))

    def _slice(self, row: Row, name: str, order: int, shown: str, category: str, told: Mapping[str, Any]) -> None:
        if self.outside(row, row["duration_ns"] or 0):
            return
        track = Track(self.ranks.process(self.trace, row), name, order)
        self.trace.slice_(track, Slice(shown, category, self.at(row), row["duration_ns"] or 0, told))


def waited(row: Row) -> int | None:
    """ns of a collective that the rank waited for others: what it took longer than the last to come, who waits for nobody.

    None where that cannot be told: not all ranks of the communicator are known, or the time is not the operation's own.
    """
    whole = row["ranks_seen"] > 1 and row["ranks_seen"] == (row["nranks"] or row["ranks_seen"])
    if not whole or row["timing"] in _UNTIMED or row["operation"] in _POINT_TO_POINT:
        return None
    if row["duration_ns"] is None or row["shortest_ns"] is None or row["shortest_ns"] <= 0:
        return None
    return int(row["duration_ns"] - row["shortest_ns"])


def stream(row: Row) -> str:
    """The track of a kernel's stream."""
    name = "stream not known" if row["stream"] is None else f"stream {row['stream']}"
    return name if row["device"] is None else f"{name} of device {row['device']}"


def stream_order(row: Row, first: int) -> int:
    return first + int(row["device"] or 0) * 1_000 + min(int(row["stream"] or 0), 999)


def _key(row: Row) -> int:
    same = " ".join(str(row[key]) for key in TOGETHER).encode()
    return int.from_bytes(hashlib.blake2b(same, digest_size=6).digest(), "big")
