"""Nsight Systems sqlite exports (`nsys export --type sqlite`)."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np

from warpline_proto.errors import Refused

from ..kernels import digest, steps_at
from ..parsers.nsys_export import Export, read_export
from ..source import Input, Origin, Reading, Rows
from ..timeline import collective_rows, timeline_facts, timeline_rows

SQLITE_MAGIC: Final = b"SQLite format 3\0"
FILE_BYTES_MAX: Final = 8 * 1024**3
"""Largest export that is unpacked for sqlite, which can read only a file."""
_VALUE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Longest text or blob that is taken out of a database."""
_PROGRESS_STEPS: Final = 1_000_000
_WORK_MAX: Final = 50_000
"""Rounds of _PROGRESS_STEPS virtual-machine steps after which a crafted database is given up."""


class Nsys:
    """One sqlite export, of all GPUs that the report saw."""

    name = "nsys"

    def recognises(self, candidate: Input) -> bool:
        """Any sqlite database: what it lacks is told when it is read."""
        return candidate.head.startswith(SQLITE_MAGIC)

    def read(self, candidate: Input) -> Reading:
        """Steps, clusters, names and collectives, GPU by GPU: the clocks of the GPUs differ by some microseconds."""
        try:
            with _as_file(candidate) as path, closing(_connect(path)) as database:
                export = read_export(database)
        except sqlite3.Error as error:
            raise Refused(
                f"sqlite cannot read it: {error}", "export the report again, or copy the file again"
            ) from error
        return _reading(export)


@contextmanager
def _as_file(candidate: Input) -> Iterator[str]:
    """The unpacked database as a file of its own; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="warpline-nsys-") as folder:
        path = os.path.join(folder, "export.sqlite")
        with candidate.open() as packed, open(path, "wb") as unpacked:
            shutil.copyfileobj(_Bounded(packed), unpacked, 1024 * 1024)
        yield path


class _Bounded:
    """A stream that refuses to give more than FILE_BYTES_MAX."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._seen = 0

    def read(self, size: int = -1) -> bytes:
        piece: bytes = self._stream.read(size)
        self._seen += len(piece)
        if self._seen > FILE_BYTES_MAX:
            raise Refused(f"holds more than {FILE_BYTES_MAX:,} bytes", "export a shorter part of the report")
        return piece


def _connect(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _VALUE_BYTES_MAX)
    database.execute("PRAGMA trusted_schema = OFF")  # a schema may call functions; those of a stranger's do nothing
    database.text_factory = lambda raw: raw.decode("utf-8", "replace")
    rounds = iter(range(_WORK_MAX))
    database.set_progress_handler(lambda: next(rounds, None) is None, _PROGRESS_STEPS)
    return database


def _reading(export: Export) -> Reading:
    content = digest(export.kernels)
    offset = export.epoch_ns or 0
    rows: list[Rows] = []
    for device in np.unique(export.kernels.device).tolist():
        rows += _device_rows(export, device, offset, f"trace@{(content or '')[:16]}/gpu{device}")
    facts = export.facts | {"steps": len(_all_steps(export))} | timeline_facts(export.kernels)
    notes = [] if len(export.kernels) else ["the export holds no GPU activity"]
    if export.dropped:
        notes.append(f"{export.dropped} records with times that are none, or beyond the bound, were left out")
    origin = Origin(node=export.node, content=content)
    return Reading([each for each in rows if each.batch.num_rows], facts, origin, notes)


def _device_rows(export: Export, device: int, offset_ns: int, clock: str) -> list[Rows]:
    """Rows of one GPU, given to the steps of the process that used it most."""
    chosen = export.kernels.device == device
    kernels, launch_ns = export.kernels.select(chosen), export.launch_ns[chosen]
    processes, used = np.unique(export.process[chosen], return_counts=True)
    spans = export.steps.get(int(processes[used.argmax()]), [])
    times = np.where(launch_ns >= 0, launch_ns, kernels.start_ns)
    placed = replace(kernels, step=steps_at(times, spans), start_ns=kernels.start_ns + offset_ns)
    whole = (int(placed.start_ns.min()), int(placed.end_ns.max() - placed.start_ns.min()))
    moved = [replace(span, start_ns=span.start_ns + offset_ns) for span in spans]
    collectives = collective_rows(placed, launch_ns, {}, rank=None, clock=clock)
    return [*timeline_rows(placed, moved, rank=None, clock=clock, whole=whole), collectives]


def _all_steps(export: Export) -> set[int]:
    return {span.step for spans in export.steps.values() for span in spans}
