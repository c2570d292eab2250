"""`warpline export trace`: what is kept of a closer look, or of ranks and a time, as a file that the Perfetto UI opens."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from warpline_cli import asking
from warpline_cli.streams import tell
from warpline_cli.whole import whole

if TYPE_CHECKING:
    from warpline_cli.trace.export import Exported
    from warpline_cli.trace.selection import Selection

LEVEL: Final = 5
"""gzip level of a file that ends in .gz."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to draw, from where, into which file."""
    parser.add_argument("what", choices=("trace",), help="a Chrome trace, for ui.perfetto.dev and chrome://tracing")
    parser.add_argument(
        "--finding",
        metavar="ID",
        help="whom a finding accuses and some peers, around the time since when; the beginning of an ID that one has is enough",
    )
    parser.add_argument("--capture", metavar="ID", help="a closer look that arrived")
    parser.add_argument("--job", metavar="JOB", help="everything kept of this job")
    parser.add_argument("--rank", metavar="N", type=int, action="append", help="only this rank; repeatable")
    parser.add_argument("--from", dest="start", metavar="TIME", help="ns since 1970, or ISO 8601 (UTC unless it says)")
    parser.add_argument("--to", dest="end", metavar="TIME", help="likewise; both on the collector's clock")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="compressed where it ends in .gz")
    parser.add_argument("--json", action="store_true", help="tell what was written as one JSON object")
    asking.arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Write the file whole or not at all; what was drawn goes to standard error."""
    from warpline_cli.trace.export import export

    path = Path(options.output)
    with asking.trusted(options) as query:
        chosen = _chosen(options, query)
        with _written(path) as stream:
            done = export(query, chosen, stream)
    size = path.stat().st_size
    if options.json:
        chose = {"job": chosen.job, "ranks": list(chosen.ranks), "capture": chosen.capture, "finding": chosen.finding}
        print(json.dumps({"file": str(path), "bytes": size, "selection": chose, "drawn": asdict(done)}, indent=2))
    else:
        _tell(path, size, done)
    return 0


def _tell(path: Path, size: int, done: Exported) -> None:
    tell(
        f"{path}: {done.slices} slices of {done.ranks} ranks ({done.kernels} kernels, {done.kernel_sums} sums of kernels), "
        f"{done.flows} operations joined across ranks, {done.counters} counter values, {done.marks} marks ({size} bytes)"
    )
    if done.clock_error_ns is not None:
        tell(f"clocks of nodes are within {done.clock_error_ns / 1e6:.3f} ms of the collector's")
    for kind, count in done.left_out.items():
        tell(f"left out: {count} {kind}; choose fewer ranks, or a shorter time with --from and --to")


def _chosen(options: argparse.Namespace, query: asking.Query) -> Selection:
    from warpline_cli.trace.selection import Selection, of_capture, of_finding
    from warpline_proto.errors import ConfigError

    if sum(each is not None for each in (options.capture, options.job, options.finding)) != 1:
        raise ConfigError(
            "name one of --finding, --capture and --job", 'warpline sql "SELECT job FROM jobs" lists the jobs'
        )
    if options.capture is not None:
        if options.rank or options.start or options.end:
            raise ConfigError("--capture says by itself which rank and time", "leave out --rank, --from and --to")
        return of_capture(query, options.capture)
    start_ns, end_ns = asking.moment_ns(options.start, "--from"), asking.moment_ns(options.end, "--to")
    if start_ns is not None and end_ns is not None and start_ns >= end_ns:
        raise ConfigError("--from is not before --to")
    if options.finding is None:
        return Selection(None, options.job, tuple(options.rank or ()), start_ns, end_ns)
    if options.rank:
        raise ConfigError(
            "--finding says by itself which ranks", "leave out --rank, or name --job, --from and --to yourself"
        )
    return of_finding(query, options.finding, start_ns, end_ns)


@contextlib.contextmanager
def _written(path: Path) -> Iterator[IO[str]]:
    """A file that takes its name when it is whole."""
    with whole(path) as beside:
        if path.suffix == ".gz":
            with gzip.open(beside, "wt", LEVEL, "utf-8") as packed:
                yield packed
        else:
            with beside.open("w", encoding="utf-8") as stream:
                yield stream
