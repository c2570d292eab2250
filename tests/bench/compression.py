"""Bytes of each rank and step, and how true what is read back: warpline, the ARGUS recipe as published, zstd over raw records.

    python tests/bench/compression.py [--quick] [--json] [--steps N]

Raw is 208 bytes a record. Bytes of warpline are those of whole frames as they go over a stream: clusters, steps with their
idle times, kernel names, keyframes and framing; all ranks of an input share one frame a step, as those of one node do.
`bytes_first_step` holds names and keyframe, `bytes_steady_step` is the mean of all later steps, `bytes_mean_step` of all. W1 is
that of each (kernel, stream, rank, step) with at least 30 records, durations as recorded against what a collector would store,
over the mean; `w1_weighted` adds up the distances of all groups over all time. Rates count CPU time of one core:
`records_per_second` is records in, rows out; `cpu_seconds_per_million` adds packing for the wire. ARGUS is charged 24 bytes a
cluster and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from compression_inputs import Load, operations, recorded, synthetic
from compression_metric import Distances, compare, raw_steps, row_steps
from compression_rivals import RECORD_BYTES, TRIPLE_BYTES, argus, argus_steps, argus_total_ns, zstd_bytes

from warpline_agent.compressor import compress
from warpline_agent.heap import keep_freed
from warpline_agent.identity import stamp
from warpline_agent.kernels import Kernels, StepSpan, name_rows, step_rows
from warpline_proto import wire
from warpline_proto.batch import Batch, Frame
from warpline_proto.stream import Packer, Unpacker

STEPS: Final = 600
QUICK_STEPS: Final = 60
RECORDS_MIN: Final = 30
MEASURED_EVERY: Final = 20
"""Of inputs with many steps W1 is measured on the first MEASURED_ALL, then on every so manieth."""
MEASURED_ALL: Final = 10
PLACE: Final = {"cluster": "pool", "node": "node0001", "source": "kineto", "job": "training"}


@dataclass
class Tally:
    """What adds up over the steps of one input, for one codec."""

    bytes: list[float] = field(default_factory=list)
    distances: list[Distances] = field(default_factory=list)
    cpu_seconds: float = 0.0
    wire_cpu_seconds: float = 0.0
    records: int = 0
    time_ns: float = 0.0
    decoded_ns: float = 0.0

    def figures(self, raw_bytes: float) -> dict[str, Any]:
        """The keys of one codec."""
        mean = float(np.mean(self.bytes))
        w1 = np.concatenate(
            [(each.w1_ns / np.maximum(each.sum_ns / each.count, 1e-9))[_counted(each)] for each in self.distances]
        )
        weighted = sum(float((each.w1_ns * each.count).sum()) for each in self.distances)
        measured = sum(float(each.sum_ns.sum()) for each in self.distances)
        return {
            "bytes_first_step": round(self.bytes[0]),
            "bytes_steady_step": round(float(np.mean(self.bytes[1:]))) if len(self.bytes) > 1 else None,
            "bytes_mean_step": round(mean),
            "ratio": round(raw_bytes / mean, 1),
            "groups": int(w1.size),
            "w1_over_mean_p50": round(float(np.median(w1)), 4) if w1.size else None,
            "w1_over_mean_p95": round(float(np.quantile(w1, 0.95)), 4) if w1.size else None,
            "w1_weighted": round(weighted / measured, 4) if measured else None,
            "total_time_error": abs(self.decoded_ns - self.time_ns) / self.time_ns if self.time_ns else 0.0,
            "records_per_second": round(self.records / self.cpu_seconds) if self.cpu_seconds else None,
            "cpu_seconds_per_million": round(1e6 * (self.cpu_seconds + self.wire_cpu_seconds) / self.records, 3),
        }


def _counted(found: Distances) -> Any:
    return (found.count >= RECORDS_MIN) & (found.sum_ns > 0)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} synthetic steps, no zstd-19")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=None, help="synthetic steps")
    parser.add_argument("--only", default="", help="inputs whose name holds this")
    options = parser.parse_args()
    keep_freed()  # as the agent does
    data = Path(os.environ.get("WARPLINE_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")).resolve()
    steps = options.steps or (QUICK_STEPS if options.quick else STEPS)
    rows = [measured(load, zstd_level=None if options.quick else 19) for load in inputs(data, steps, options.only)]
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return 0


def inputs(data: Path, steps: int, only: str) -> Iterator[Load]:
    """The synthetic rank first, so that its rates are those of a fresh process."""
    if only in "synthetic_10_MB_step":
        yield synthetic(data, steps)
    if only != "synthetic":
        yield from (load for source in (recorded, operations) for load in source(data) if only in load.name)


def measured(load: Load, zstd_level: int | None) -> dict[str, Any]:
    """All figures of one input."""
    ours, rival = Tally(), Tally()
    packer, unpacker = Packer(), Unpacker()
    raw, zstd, seen, peak = [], None, 0, 0
    for number, ranks in enumerate(load.steps):
        if number == 1:
            tracemalloc.start()
        message = frame_of(number, ranks, ours, names=number == 0)
        started = time.process_time()
        packed = packer.pack(message)
        ours.wire_cpu_seconds += time.process_time() - started
        if number == 1:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        data = packed.SerializeToString()
        ours.bytes.append(len(data) / len(ranks))
        raw.append(sum(map(len, ranks)) * RECORD_BYTES / len(ranks))
        frame = unpacker.unpack(type(packed).FromString(data))
        if number < MEASURED_ALL or number % MEASURED_EVERY == 0:
            _compare(ranks, frame, ours, rival)
        if number == 0 and zstd_level is not None:
            zstd = sum(zstd_bytes(rank, zstd_level) for rank in ranks) / len(ranks)
        seen = number + 1
    raw_bytes = float(np.mean(raw))
    return {
        "input": load.name,
        "kind": load.kind,
        "steps": seen,
        "records_per_step": round(raw_bytes / RECORD_BYTES),
        "raw_bytes_per_step": round(raw_bytes),
        "warpline": ours.figures(raw_bytes) | {"peak_bytes": peak or None},
        "argus": rival.figures(raw_bytes),
        "zstd": None if zstd is None else {"level": zstd_level, "bytes": round(zstd), "ratio": round(raw[0] / zstd, 1)},
    }


def frame_of(number: int, ranks: list[Kernels], ours: Tally, names: bool) -> Any:
    """One frame with everything of one step."""
    clusters, steps, named = [], [], []
    for rank, kernels in enumerate(ranks):
        started = time.process_time()
        rows = compress(kernels, rank=rank, clock="realtime@node0001").rows
        if number:  # the first step warms up
            ours.cpu_seconds += time.process_time() - started
            ours.records += len(kernels)
        clusters.append(stamp(rows, **PLACE))
        start, end = int(kernels.start_ns.min()), int(kernels.end_ns.max())
        span = StepSpan(int(kernels.step[0]), start - 50_000, end - start + 90_000)
        steps.append(stamp(step_rows(kernels, [span], rank=rank, clock="realtime@node0001", whole=None), **PLACE))
        named.append(stamp(name_rows(kernels), **PLACE))
    batches = [_one("kernel_clusters", clusters), _one("steps", steps)]
    if names:
        batches.append(_one("kernel_names", named))
    if not ours.records:
        ours.records, ours.cpu_seconds = sum(map(len, ranks)), 1e-9
    boot = "187a1b2c3d4e5f60a1b2c3d4"
    return wire.to_message(Frame("node0001", boot, number + 1, 1_790_000_000_000_000_000 + number, tuple(batches)))


def _one(name: str, rows: list[pa.RecordBatch]) -> Batch:
    return Batch(name, PLACE["source"], wire.one_batch(pa.Table.from_batches(rows)))


def _compare(ranks: list[Kernels], frame: Frame, ours: Tally, rival: Tally) -> None:
    stored = pa.Table.from_batches([batch.rows for batch in frame.batches if batch.table == "kernel_clusters"])
    triples_bytes = 0
    for rank, kernels in enumerate(ranks):
        raw, names = raw_steps(kernels)
        rows = wire.one_batch(stored.filter(pa.compute.equal(stored["rank"], rank)))
        ours.distances.append(compare(raw, row_steps(rows, names)))
        ours.time_ns += float(kernels.duration_ns.sum())
        ours.decoded_ns += float(pa.compute.sum(rows.column("sum_ns")).as_py())
        started = time.process_time()
        triples = argus(raw)
        rival.cpu_seconds += time.process_time() - started
        rival.records += len(kernels)
        rival.distances.append(compare(raw, argus_steps(triples)))
        rival.time_ns += float(kernels.duration_ns.sum())
        rival.decoded_ns += argus_total_ns(triples)
        triples_bytes += TRIPLE_BYTES * len(triples)
    rival.bytes.append(triples_bytes / len(ranks))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: for each input warpline, then ARGUS."""
    heading = (
        "input",
        "records",
        "steps",
        "first B",
        "steady B",
        "ratio",
        "W1 p95",
        "W1 all",
        "ARGUS B",
        "W1 p95",
        "W1 all",
    )
    lines = ["| " + " | ".join((*heading, "time error", "zstd-19 B")) + " |", "| --- " * (len(heading) + 2) + "|"]
    for row in rows:
        us, them = row["warpline"], row["argus"]
        cells = [
            row["input"],
            row["records_per_step"],
            row["steps"],
            us["bytes_first_step"],
            us["bytes_steady_step"],
            us["ratio"],
        ]
        cells += [_percent(us["w1_over_mean_p95"]), _percent(us["w1_weighted"]), them["bytes_mean_step"]]
        cells += [_percent(them[key]) for key in ("w1_over_mean_p95", "w1_weighted", "total_time_error")]
        cells.append(row["zstd"]["bytes"] if row["zstd"] else None)
        lines.append("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    sys.exit(main())
