"""What keeping raw kernel records costs: records a second, bytes a record, memory; on recorded traces and the 10 MB step.

`python tests/bench/raw_ring.py [--data DIR] [--seconds S] [--json]`. Records go to a real directory; a step, or a whole recorded
trace, becomes a block of its own, so that nothing is gained by one and the same trace coming again.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from warpline_agent import raw_block
from warpline_agent.compressor import compress
from warpline_agent.heap import keep_freed
from warpline_agent.kernels import Kernels
from warpline_agent.parsers.kineto import read_trace
from warpline_agent.raw_block import Process
from warpline_agent.raw_capture import deliver
from warpline_agent.raw_ring import RawRing, RawRingConfig
from warpline_agent.recordings.archive import Limits, file_input
from warpline_agent.source import Rows
from warpline_proto.capture import Capture

sys.path.insert(0, str(Path(__file__).parent))
from compression_inputs import synthetic

DATA = Path(__file__).parents[3] / "shared" / "data"
TRACES = (
    "trace_diff_control_rank3of8_a100.json.gz",
    "mi300_resnet_act_checkpoint_rank0of8.json.gz",
    "df_index_resolver_2rank_v100_rank1.json.gz",
    "nccl_data_2rank_a100_rank0.json.gz",
)
PROCESS = Process.of("realtime@node", job="train", rank=0, gpu_uuid="GPU-0", device=0)


@dataclass(frozen=True)
class Cost:
    """CPU seconds of this process (user and system) by what was done, each over all records."""

    name: str
    records: int
    bytes_per_record: float
    ring_records_per_second: float
    both_records_per_second: float
    read_records_per_second: float
    allocated_mib: float
    peak_mib: float


def measure(name: str, rounds: Sequence[Kernels], seconds: float) -> Cost:
    """Feed the rounds again and again, time moving on, for `seconds` of CPU; then the same with clusters made of them."""
    with tempfile.TemporaryDirectory(prefix="warpline-ring-") as folder:
        ring = RawRing(RawRingConfig(), Path(folder))
        ring.open()
        fed, spent, size = _feed(ring, rounds, seconds, lambda kernels: None)
        held = ring.blocks("train", 0)
        begun = time.process_time()
        read = sum(len(part) for block in held if (part := ring.read(block)) is not None)
        reading = time.process_time() - begun
        tracemalloc.start()
        _feed(ring, rounds, 0.0, lambda kernels: None)
        allocated = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        both, both_spent, _ = _feed(ring, rounds, seconds, lambda kernels: compress(kernels))
        ring.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Cost(name, fed, size / fed, fed / spent, both / both_spent, read / reading, allocated / 2**20, peak)


def _feed(ring: RawRing, rounds: Sequence[Kernels], seconds: float, beside: object) -> tuple[int, float, int]:
    fed, spent, size, shift = 0, 0.0, 0, 0
    before = sum(block.size for block in ring.blocks("train", 0))
    while True:
        for kernels in rounds:
            moved = replace(kernels, start_ns=kernels.start_ns + shift)
            begun = time.process_time()
            ring.append(PROCESS, moved, mark=str(uuid.uuid4()))
            ring.flush()
            assert callable(beside)
            beside(moved)
            spent += time.process_time() - begun
            fed += len(moved)
        shift += int(max(part.end_ns.max() for part in rounds) - min(part.start_ns.min() for part in rounds))
        if spent >= seconds:
            break
    begun = time.process_time()
    ring.flush(everything=True)
    spent += time.process_time() - begun
    size = sum(block.size for block in ring.blocks("train", 0)) - before
    return fed, spent, size


def levels(kernels: Kernels, repeats: int = 9) -> list[dict[str, float]]:
    """Bytes a record and records a second of one block at each zstd level."""
    found = []
    for level in (-5, -1, 1, 3, 6):
        raw_block.LEVEL = level  # type: ignore[misc]
        times = []
        for _ in range(repeats):
            begun = time.process_time()
            _, data = raw_block.encode(PROCESS, kernels)
            times.append(time.process_time() - begun)
        found.append(
            {
                "level": level,
                "bytes_per_record": len(data) / len(kernels),
                "records_per_second": len(kernels) / sorted(times)[repeats // 2],
            }
        )
    raw_block.LEVEL = 1  # type: ignore[misc]
    return found


def capture(kernels: Kernels, records: int = 200_000) -> dict[str, float]:
    """What one closer look at so many records costs: CPU seconds, Arrow bytes."""
    with tempfile.TemporaryDirectory(prefix="warpline-ring-") as folder:
        ring = RawRing(RawRingConfig(), Path(folder))
        span = int(kernels.end_ns.max() - kernels.start_ns.min())
        for number in range(records // len(kernels) + 2):
            ring.append(PROCESS, replace(kernels, start_ns=kernels.start_ns + number * span))
        begun = time.process_time()
        request = Capture("c", "train", 0, "kernels", int(kernels.start_ns.min()), span * records, "")
        sent = list(deliver(ring, request))
        spent = time.process_time() - begun
        ring.close()
    batches = [each.batch for each in sent if isinstance(each, Rows)]
    return {
        "records": sum(len(each) for each in batches),
        "cpu_seconds": spent,
        "arrow_mib": sum(each.nbytes for each in batches) / 2**20,
    }


def recorded(data: Path, name: str) -> list[Kernels]:
    """One trace, at once."""
    path = next((data / "A-kineto").rglob(name))
    with file_input(path, str(path), Limits()).open() as stream:
        kernels = read_trace(stream).kernels
    return [kernels]


def main() -> None:
    """Print one row an input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    keep_freed()  # as the agent does
    made = [step[0] for step in synthetic(options.data, 8).steps]
    by_start = [each.select(np.argsort(each.start_ns, kind="stable")) for each in made]
    inputs = {"the 10 MB step, by start": by_start, "the 10 MB step, in no order": made}
    inputs |= {name: recorded(options.data, name) for name in TRACES}
    costs = [measure(name, rounds, options.seconds) for name, rounds in inputs.items()]
    found = {"inputs": [asdict(each) for each in costs], "levels": levels(by_start[0]), "capture": capture(by_start[0])}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for each in costs:
        print(
            f"| {each.name} | {each.records} | {each.bytes_per_record:.2f} | {each.ring_records_per_second / 1e6:.1f} "
            f"| {each.both_records_per_second / 1e6:.1f} | {each.read_records_per_second / 1e6:.1f} | {each.allocated_mib:.1f} |"
        )
    for row in levels(by_start[0]):
        print(f"| {row['level']} | {row['bytes_per_record']:.2f} | {row['records_per_second'] / 1e6:.1f} |")
    print(found["capture"])


if __name__ == "__main__":
    main()
