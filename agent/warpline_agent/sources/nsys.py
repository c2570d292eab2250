"""Nsight Systems sqlite exports (`nsys export --type sqlite`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import numpy as np

from ..kernels import Kernels, digest, steps_at
from ..parsers.nsys_export import Export, read_export
from ..raw_rows import recorded_rows
from ..source import Input, Origin, Reading, Rows
from ..sqlite_file import SQLITE_MAGIC, database
from ..timeline import collective_rows, timeline_facts, timeline_rows


class Nsys:
    """One sqlite export, of all GPUs that the report saw."""

    name = "nsys"

    def recognises(self, candidate: Input) -> bool:
        """Any sqlite database: what it lacks is told when it is read."""
        return candidate.head.startswith(SQLITE_MAGIC)

    def read(self, candidate: Input) -> Reading:
        """Steps, clusters, names and collectives, GPU by GPU: the clocks of the GPUs differ by some microseconds."""
        with database(candidate) as opened:
            return _reading(read_export(opened))


def _reading(export: Export) -> Reading:
    content = digest(export.kernels)
    offset = export.epoch_ns or 0
    rows: list[Rows] = []
    raw: list[Callable[[], Iterable[Rows]]] = []
    for device in np.unique(export.kernels.device).tolist():
        clock = f"trace@{(content or '')[:16]}/gpu{device}"
        placed, found = _device_rows(export, device, offset, clock)
        rows += found
        raw.append(partial(recorded_rows, placed, clock))
    facts = export.facts | {"steps": len(_all_steps(export))} | timeline_facts(export.kernels)
    notes = [] if len(export.kernels) else ["the export holds no GPU activity"]
    if export.dropped:
        notes.append(f"{export.dropped} records with times that are none, or beyond the bound, were left out")
    origin = Origin(node=export.node, content=content)
    return Reading([each for each in rows if each.batch.num_rows], facts, origin, notes, raw)


def _device_rows(export: Export, device: int, offset_ns: int, clock: str) -> tuple[Kernels, list[Rows]]:
    """Records of one GPU, given to the steps of the process that used it most, and rows of them."""
    chosen = export.kernels.device == device
    kernels, launch_ns = export.kernels.select(chosen), export.launch_ns[chosen]
    processes, used = np.unique(export.process[chosen], return_counts=True)
    spans = export.steps.get(int(processes[used.argmax()]), [])
    times = np.where(launch_ns >= 0, launch_ns, kernels.start_ns)
    placed = kernels.with_steps(steps_at(times, spans)).moved(offset_ns)
    whole = (int(placed.start_ns.min()), int(placed.end_ns.max() - placed.start_ns.min()))
    moved = [replace(span, start_ns=span.start_ns + offset_ns) for span in spans]
    collectives = collective_rows(placed, launch_ns, {}, rank=None, clock=clock)
    return placed, [*timeline_rows(placed, moved, rank=None, clock=clock, whole=whole), collectives]


def _all_steps(export: Export) -> set[int]:
    return {span.step for spans in export.steps.values() for span in spans}
