"""Bytes of each rank and step on the wire after compression, for every recorded kernel timeline.

    python tests/bench/wire_bytes.py [--json]

`raw` is 208 bytes a record (a CUPTI kernel record of CUDA 12), `wire` the protobuf frame with kernel clusters and steps of one
rank and step, kernel names left out because they travel once. Traces without steps count as one step.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from warpline_agent.offline import read_paths
from warpline_proto.batch import Batch, Frame
from warpline_proto.wire import encode

RECORD_BYTES = 208


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data = Path(os.environ.get("WARPLINE_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    rows = [row for folder in ("A-kineto", "F-nsys") for row in measured(data / folder)]
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return 0


def measured(folder: Path) -> Iterator[dict[str, Any]]:
    """One row a file that holds kernels."""
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        batches = [batch for batch in read_paths([str(path)]).batches if batch.table == "kernel_clusters"]
        if sum(batch.rows.num_rows for batch in batches):
            yield figures(path.name, pa.Table.from_batches([batch.rows for batch in batches]))


def figures(name: str, clusters: pa.Table) -> dict[str, Any]:
    """Records, clusters and bytes of an average rank and step."""
    parts = clusters.group_by(["job", "rank", "device", "step"]).aggregate([("count", "sum")])
    sizes = []
    for part in parts.to_pylist():
        mask = pa.array([True] * clusters.num_rows)
        for column in ("job", "rank", "device", "step"):
            value = part[column]
            same = pc.is_null(clusters[column]) if value is None else pc.equal(clusters[column], value)
            mask = pc.and_(mask, pc.fill_null(same, False))
        rows = clusters.filter(mask).combine_chunks().to_batches()[0]
        sizes.append(len(encode(Frame("node", "boot", 1, 0, (Batch("kernel_clusters", "kineto", rows),)))))
    records = sum(part["count_sum"] for part in parts.to_pylist())
    return {
        "trace": name,
        "rank_steps": len(sizes),
        "records": round(records / len(sizes)),
        "clusters": round(clusters.num_rows / len(sizes)),
        "raw_bytes": round(RECORD_BYTES * records / len(sizes)),
        "wire_bytes": round(sum(sizes) / len(sizes)),
        "ratio": round(RECORD_BYTES * records / sum(sizes), 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    heading = list(rows[0])
    lines = ["| " + " | ".join(heading) + " |", "|" + " --- |" * len(heading)]
    return "\n".join(lines + ["| " + " | ".join(str(row[key]) for key in heading) + " |" for row in rows])


if __name__ == "__main__":
    sys.exit(main())
