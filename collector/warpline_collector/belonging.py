"""What of a frame is its sender's to say: an agent speaks of its own node, an operator asks for captures."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pyarrow.compute as pc

from warpline_proto.batch import Batch, Frame
from warpline_proto.capture import BY_HAND, REQUESTED
from warpline_proto.errors import WireError
from warpline_proto.history_tables import HISTORIES
from warpline_proto.tables import AGENTS, CAPTURES, ENERGY_INTERVALS, FINDINGS

from .callers import LOCAL, Caller, Role

OWN: Final = frozenset(each.name for each in (AGENTS, ENERGY_INTERVALS, FINDINGS, *HISTORIES)) | {"audit"}
"""Tables that the collector alone writes."""


class Foreign(WireError):
    """A frame that its sender may not send."""


def checked(frame: Frame, caller: Caller) -> tuple[Frame, int]:
    """The frame without rows that speak of other nodes than its agent's, and how many those were; Foreign if it is not to be had.

    A row that names no node is its agent's. A log or a trace in a shared folder may speak of other nodes without any ill
    will, so that such rows do not cost the rest of the frame.
    """
    if caller is LOCAL:
        return frame, 0
    if caller.role is Role.OPERATOR:
        return _asked(frame), 0
    if frame.agent != caller.node:
        raise Foreign(f"agent {caller.node} may not send as {frame.agent[:100]}", "its node in [agent] is another one")
    parts = [_own(batch, frame.agent) for batch in frame.batches]
    left_out = sum(
        before.rows.num_rows - after.rows.num_rows for before, after in zip(frame.batches, parts, strict=True)
    )
    return (replace(frame, batches=tuple(parts)), left_out) if left_out else (frame, 0)


def _asked(frame: Frame) -> Frame:
    """A frame with requests for captures and nothing else."""
    for batch in frame.batches:
        if batch.table != CAPTURES.name or _values(batch, "state") != {REQUESTED}:
            raise Foreign("people send requests for captures alone", "rows come from agents")
    if frame.agent != BY_HAND:
        raise Foreign(f"people do not send as {frame.agent[:100]}")
    return frame


def _own(batch: Batch, node: str) -> Batch:
    """The rows of `node`; Foreign where they ask for captures, which agents answer."""
    rows = batch.rows
    if batch.table == CAPTURES.name and REQUESTED in _values(batch, "state"):
        raise Foreign("agents ask for no captures", "an operator does")
    if _values(batch, "node") <= {node, None}:
        return batch
    kept = rows.filter(pc.fill_null(pc.equal(rows.column("node"), node), True))
    return replace(batch, rows=kept, dropped=batch.dropped + rows.num_rows - kept.num_rows)


def _values(batch: Batch, column: str) -> set[str | None]:
    return set(batch.rows.column(column).unique().to_pylist())
