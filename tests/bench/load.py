"""Loading eight ranks' Kineto traces: warpline beside HolisticTraceAnalysis 0.5.0, same files, same run.

    python tests/bench/load.py [--quick] [--json] [--no-peer]

The files are eight copies of `hta/trace_diff_control_rank3of8_a100` (109,123 events) with the rank rewritten. Both sides run
in fresh processes, in turn; the median of the rounds is printed. warpline is measured twice: `load` reads, compresses and
stores; `analyze` is the whole command down to the verdict.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from measure import Cost, run
from peers import python_of

RANKS = 8
TRACE = "A-kineto/hta/trace_diff_control_rank3of8_a100.json.gz"
LOAD = """
import sys
from pathlib import Path
from warpline_agent.offline import read_paths
read = read_paths([sys.argv[1]])
rows = {}
size = 0
for batch in read.batches:
    rows[batch.table] = rows.get(batch.table, 0) + batch.rows.num_rows
import json
print(json.dumps(rows))
"""
PEER = """
import sys
from hta.trace_analysis import TraceAnalysis
analysis = TraceAnalysis(trace_dir=sys.argv[1])
print(len(analysis.t.traces))
"""


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one round instead of three")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-peer", action="store_true", help="warpline alone")
    options = parser.parse_args()
    rounds = 1 if options.quick else 3
    with tempfile.TemporaryDirectory() as folder:
        copies(Path(folder))
        commands = {
            "warpline load": [sys.executable, "-c", LOAD, folder],
            "warpline analyze": [sys.executable, "-m", "warpline_cli.main", "analyze", "--json", folder],
        }
        if not options.no_peer:
            commands["HTA 0.5.0 load"] = [str(python_of("hta")), "-c", PEER, folder]
        costs: dict[str, list[Cost]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                costs[name].append(run(command))
    figures = {name: summary(each) for name, each in costs.items()}
    print(json.dumps(figures, indent=2) if options.json else table(figures))
    return 0


def copies(folder: Path) -> None:
    """Write the eight files; the trace comes from WARPLINE_TEST_DATA."""
    data = Path(os.environ.get("WARPLINE_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    document: dict[str, Any] = json.loads(gzip.decompress((data / TRACE).read_bytes()))
    for rank in range(RANKS):
        document["distributedInfo"]["rank"] = rank
        with gzip.open(folder / f"rank{rank}.json.gz", "wt", compresslevel=6) as target:
            json.dump(document, target)


def summary(costs: list[Cost]) -> dict[str, float]:
    """Medians over the rounds."""
    return {
        "wall_seconds": round(statistics.median(cost.wall_seconds for cost in costs), 2),
        "cpu_seconds": round(statistics.median(cost.cpu_seconds for cost in costs), 2),
        "peak_mib": round(statistics.median(cost.peak_bytes for cost in costs) / 2**20),
    }


def table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| what | wall s | CPU s | peak MiB of the process tree |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {name} | {row['wall_seconds']} | {row['cpu_seconds']} | {row['peak_mib']} |"
        for name, row in figures.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
