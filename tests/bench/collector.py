"""A collector of 10,000 ranks: what it takes in and at what cost, what it answers of a day, and how plainer collectors compare.

    python tests/bench/collector.py [--quick] [--json] [--part load|day|beside ...] [--ranks N] [--seconds N] [--tls]
        [--folder DIR] [--analysis-seconds N]

`load`: that many ranks' agents, eight a node, each node a connection of its own that sends a frame a second
(collector_rows.py), against a collector as it is installed, while a user asks a question each second. CPU time and memory are
those of the whole process tree of the collector, generators left out. Where the load is not sustained it is lowered by a quarter
until it is. `day`: a store of 24 hours (collector_day.py) and the questions of questions.sql, five of them beside the same
in pandas (collector_pandas.py). `beside`: the same frames into a collector with one INSERT a message, and the
readings of GPUs into VictoriaMetrics or Prometheus where one is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

from collector_beside import beside
from collector_day import day
from collector_load import load
from collector_rows import RANKS

PARTS: Final = ("load", "day", "beside")
LOWER: Final = 0.75


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="400 ranks for 20 s, and two hours of 1,000 ranks")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", choices=PARTS, action="append", help="only these; may be given several times")
    parser.add_argument("--ranks", type=int, help="10,000 unless told, and no fewer if that is not sustained")
    parser.add_argument("--seconds", type=int, help="of the load: 600, or 20")
    parser.add_argument("--tls", action="store_true", help="mutual TLS, a certificate for each node")
    parser.add_argument("--analysis-seconds", type=float, help="rest between passes of the analysis, 10 unless told")
    parser.add_argument("--folder", type=Path, help="keep the day's store here, and use that of a run before")
    parser.add_argument("--no-peer", action="store_true", help="nothing beside pandas")
    options = parser.parse_args()
    parts = options.part or PARTS
    figures: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()}
    with tempfile.TemporaryDirectory() as scratch:
        if "load" in parts:
            figures |= loads(options, Path(scratch))
        if "day" in parts:
            ranks, hours, rounds = (1_000, 2, 3) if options.quick else (options.ranks or 10_000, 24, 5)
            figures["day"] = day(
                ranks, hours, options.folder or Path(scratch) / "day", rounds, peer=not options.no_peer
            )
        if "beside" in parts:
            figures["beside"] = beside(Path(scratch), 20 if options.quick else 100)
    figures["load_after"] = os.getloadavg()
    print(json.dumps(figures, indent=2) if options.json else text(figures))
    return 0


def loads(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The load that is sustained, and those that were not."""
    seconds = options.seconds or (20 if options.quick else 600)
    nodes = (options.ranks or (400 if options.quick else 10_000)) // RANKS
    settings = (
        f"[collector.analysis]\nperiod_seconds = {options.analysis_seconds}\n" if options.analysis_seconds else ""
    )
    tried = []
    while True:
        tried.append(load(nodes, seconds, scratch / f"load-{nodes}", settings, tls=options.tls))
        if tried[-1]["sustained"] or options.ranks or nodes * LOWER < 1:
            return tried[-1] | {"not_sustained": tried[:-1], "tls": options.tls}
        nodes = int(nodes * LOWER)


def text(figures: dict[str, Any]) -> str:
    """Markdown."""
    plain = {name: value for name, value in figures.items() if not isinstance(value, (dict, list))}
    lines = ["| figure | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in plain.items())]
    if "day" in figures:
        told = figures["day"]
        lines += ["", "| table | rows | bytes | B/row |", "| --- | --- | --- | --- |"]
        for name, each in told["tables"].items():
            lines.append(f"| {name} | {each['rows']:,} | {each['bytes']:,} | {each['bytes_per_row']} |")
        lines += ["", "| question | ms | first ms | pandas ms |", "| --- | --- | --- | --- |"]
        for each in told["questions"]:
            lines.append(f"| {each['question']} | {each['ms']} | {each['first_ms']} | {each.get('pandas_ms', '-')} |")
        lines += ["", f"p95 over the questions: {told['query_p95_ms']} ms; made in {told['made_seconds']} s"]
    if "beside" in figures:
        lines += ["", "| collector | rows | CPU s | k rows a CPU second | wall s |", "| --- | --- | --- | --- | --- |"]
        for each in figures["beside"]:
            told = [each["cpu_seconds"], each["k_rows_per_cpu_second"], each["wall_seconds"]]
            lines.append(f"| {each['name']} | {each['rows']:,} | " + " | ".join(map(str, told)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
