"""What an operator relies on in the order of rows: whoever reads that a capture is done finds what was captured."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from warpline_agent.gathering import FRAME_ROWS_MAX, Gathering
from warpline_proto.batch import Batch
from warpline_proto.tables import CAPTURES, RAW_KERNELS


def test_a_capture_is_told_after_its_rows_also_where_another_was_denied_before() -> None:
    """Rows of the capture fill several frames; the row about it is in the last."""
    count = 2 * FRAME_ROWS_MAX + 1
    columns = [pa.nulls(count, field.type) for field in RAW_KERNELS.schema]
    columns[RAW_KERNELS.schema.get_field_index("start_ns")] = pa.array(np.arange(count))
    gathering = Gathering()
    gathering.add(Batch(CAPTURES.name, "ring", CAPTURES.from_rows([{"id": "a", "state": "denied"}])))
    gathering.add(Batch(RAW_KERNELS.name, "ring", pa.RecordBatch.from_arrays(columns, schema=RAW_KERNELS.schema)))
    gathering.add(Batch(CAPTURES.name, "ring", CAPTURES.from_rows([{"id": "b", "state": "done"}])))
    frames = list(gathering.take())
    assert sum(batch.rows.num_rows for frame in frames for batch in frame) == count + 2
    assert [[batch.table for batch in frame] for frame in frames[:-1]] == [[RAW_KERNELS.name]] * (len(frames) - 1)
    assert frames[-1][-1].table == CAPTURES.name
