"""`warpline capture`: ask the agent of a rank for its raw kernels of a time, wait for the answer, say what came of it."""

from __future__ import annotations

import argparse
from typing import Final

from warpline_cli.streams import tell

SECONDS: Final = 5.0
"""How much is asked for by itself: what the rank did last."""
EXIT: Final = {"done": 0, "denied": 1}
EXIT_UNANSWERED: Final = 75
"""EX_TEMPFAIL of sysexits.h: the answer may still come."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of whom, of when, and where to ask."""
    from warpline_proto.defaults import COLLECTOR_ADDRESS

    parser.add_argument("--job", required=True, metavar="JOB")
    parser.add_argument("--rank", required=True, type=int, metavar="N")
    parser.add_argument("--node", metavar="NAME", help="its node, by default the one that its steps name")
    parser.add_argument("--from", dest="start", metavar="TIME", help="ns since 1970, or ISO 8601 (UTC unless it says)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help="for how long (%(default)s); without --from: up to the newest step",
    )
    parser.add_argument(
        "--collector", default=COLLECTOR_ADDRESS, metavar="ADDR", help="ask a running collector (%(default)s)"
    )
    parser.epilog = (
        "Exit 0: the records arrived, 1: denied, 75: no answer yet. `warpline export trace --capture ID` draws them."
    )


def run(options: argparse.Namespace) -> int:
    """Ask, wait, tell; the identifier of the capture goes to standard output."""
    from warpline_cli import fetching
    from warpline_cli.asking import moment_ns
    from warpline_proto.client import QueryClient
    from warpline_proto.errors import ConfigError

    if options.seconds <= 0:
        raise ConfigError(f"--seconds {options.seconds:g}", "more than 0")
    start_ns = moment_ns(options.start, "--from")
    wanted = fetching.Wanted(options.job, options.rank, options.seconds, start_ns, options.node)
    with QueryClient(options.collector) as client:
        capture, node = fetching.ask(client, wanted)
        print(capture.id, flush=True)
        answer = fetching.wait(client, capture, node)
    if answer.state not in EXIT:
        tell(f"no answer from {node} yet: {answer.detail or answer.state}")
        return EXIT_UNANSWERED
    tell(f"{answer.state}: {answer.detail}")
    return EXIT[answer.state]
