"""`warpline report`: what was wrong, how fast, at what cost and how surely, of a job or a day, as one page with plots."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from warpline_cli import asking, prices
from warpline_cli.streams import tell
from warpline_cli.whole import whole

if TYPE_CHECKING:
    from warpline_cli.report.asked import Range

SINCE_DEFAULT: Final = "24h"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which time, whose, from where, into which file."""
    parser.add_argument(
        "--since", default=SINCE_DEFAULT, metavar="WHEN",
        help="from when on: a span such as 30m, 24h or 7d before the end, or a moment (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--until", metavar="WHEN", help="to when: a moment, or a span before now (now; of a store: its newest)"
    )
    parser.add_argument("--job", metavar="JOB", help="of this job alone")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="HTML page to write; it needs no network")
    asking.arguments(parser)
    parser.add_argument(
        "--json", action="store_true", help="say on standard output what was written, as one JSON object"
    )
    prices.arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Write the page whole or not at all; exit 0 whatever it says, as long as there is anything to say."""
    import warpline_cli.report.plots  # noqa: F401  # a library that is missing is told before anything is asked
    from warpline_cli.report import page, told
    from warpline_proto.errors import QueryError

    with asking.trusted(options) as query:
        span = _range(options, query)
        known = told.take(query, span, prices.settings(options))
    if known.asked and all(each.trouble for each in known.asked):
        raise QueryError(f"nothing could be asked: {known.asked[0].trouble}")
    document = page.page(known, _made(options, span))
    path = Path(options.output)
    with whole(path) as beside:
        beside.write_text(document, encoding="utf-8")
    said = page.verdict(known)
    failed = [each.title for each in known.asked if each.trouble]
    if options.json:
        json.dump(
            {
                "output": str(path), "bytes": len(document.encode()), "verdict": said, "job": span.job, "start_ns": span.start_ns,
                "end_ns": span.end_ns, "findings": [state.finding.id for state in known.findings], "failed": failed,
            },
            sys.stdout,
        )  # fmt: skip
        sys.stdout.write("\n")
    tell(f"{path}: {said}, {len(known.findings)} findings ({len(document.encode())} bytes)")
    if failed:
        tell(f"without an answer: {', '.join(dict.fromkeys(failed))}; the page says why")
    return 0


def _range(options: argparse.Namespace, query: asking.Query) -> Range:
    import time

    from warpline_cli.report.asked import Range, newest_ns
    from warpline_proto.errors import ConfigError

    now_ns = time.time_ns()
    base_ns = now_ns if options.store is None else newest_ns(query) or now_ns
    end_ns = base_ns if options.until is None else asking.since_ns(options.until, base_ns, "--until")
    start_ns = asking.since_ns(options.since, end_ns, "--since")
    if start_ns >= end_ns:
        raise ConfigError("--since is not before --until")
    return Range(start_ns, end_ns, options.job)


def _made(options: argparse.Namespace, span: Range) -> list[tuple[str, str]]:
    from importlib.metadata import version

    where = f"collector {options.collector}" if options.store is None else f"store {options.store}"
    same = f"--since {span.start_ns} --until {span.end_ns}"
    return [
        ("made by", f"warpline {version('warpline')}"),
        ("asked", where),
        (
            "time",
            f"{span.start_ns} to {span.end_ns} ns since 1970; energy in whole ten minutes from {_window(span)} on",
        ),
        ("the same in the terminal", f"warpline findings --all; warpline power report {same}"),
        ("made with", f"matplotlib {version('matplotlib')}; the page runs no script and loads nothing"),
    ]


def _window(span: Range) -> int:
    from warpline_cli.report.asked import WINDOW_NS

    return span.start_ns - span.start_ns % WINDOW_NS
