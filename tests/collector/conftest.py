"""Frames and stores that the collector's tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from warpline_proto.batch import Batch, Frame
from warpline_proto.tables import STEPS

MakeFrame = Callable[..., Frame]


@pytest.fixture
def make_frame() -> MakeFrame:
    """A frame of `rows` rows of table steps; column `step` repeats the sequence, `rank` numbers the rows."""

    def make(
        sequence: int, rows: int = 3, boot: str = "boot-1", agent: str = "node-1", dropped: int = 0, lost: int = 0
    ) -> Frame:
        listed = [
            {
                "node": agent,
                "job": boot,
                "rank": rank,
                "scope": "step",
                "step": sequence,
                "start_ns": sequence * 1_000 + rank,
            }
            for rank in range(rows)
        ]
        batch = Batch(STEPS.name, "synthetic", STEPS.from_rows(listed), dropped)
        return Frame(agent, boot, sequence, 1_000_000 + sequence, (batch,), lost)

    return make
