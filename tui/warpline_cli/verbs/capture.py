"""`warpline capture`: ask the agents of ranks for a closer look, wait for the answers, say what came of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from warpline_cli.streams import tell

if TYPE_CHECKING:
    from warpline_cli.fetching import Answer
    from warpline_proto.capture import Capture

SECONDS: Final = 5.0
"""How much is asked for by itself: what the rank did last."""
STEPS: Final = 2
"""How many steps are traced by themselves."""
EXIT: Final = {"done": 0, "denied": 1}
EXIT_UNANSWERED: Final = 75
"""EX_TEMPFAIL of sysexits.h: the answer may still come."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What, of whom, of when, and where to ask."""
    from warpline_cli import asking
    from warpline_proto.defaults import COLLECTOR_ADDRESS

    parser.add_argument(
        "what", nargs="?", choices=("kernels", "trace"), default="kernels",
        help="kernels (by itself): raw kernels that the node of a rank still holds; trace: let PyTorch's own profiler trace the "
        "next steps of some ranks, the same ones on all",
    )  # fmt: skip
    parser.add_argument("--job", required=True, metavar="JOB")
    ranks = parser.add_mutually_exclusive_group(required=True)
    ranks.add_argument("--rank", type=int, metavar="N")
    ranks.add_argument("--ranks", metavar="N,M", help="several of them, for a trace")
    parser.add_argument("--steps", type=int, metavar="N", help=f"steps of a trace ({STEPS})")
    parser.add_argument("--node", metavar="NAME", help="its node, by default the one that its steps name")
    parser.add_argument("--from", dest="start", metavar="TIME", help="ns since 1970, or ISO 8601 (UTC unless it says)")
    parser.add_argument(
        "--seconds",
        type=float,
        help=f"for how long ({SECONDS:g}, without --from up to the newest step; of a trace: as long as its steps take)",
    )
    parser.add_argument(
        "--collector", default=COLLECTOR_ADDRESS, metavar="ADDR", help="ask a running collector (%(default)s)"
    )
    asking.certificates(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object, when all is said")
    parser.epilog = (
        "Exit 0: the records arrived, 1: denied, 75: no answer yet. `warpline export trace --capture ID` draws them."
    )


def run(options: argparse.Namespace) -> int:
    """Ask, wait, tell; the identifiers of the captures go to standard output."""
    from warpline_proto.errors import ConfigError

    if options.seconds is not None and options.seconds <= 0:
        raise ConfigError(f"--seconds {options.seconds:g}", "more than 0")
    return _trace(options) if options.what == "trace" else _kernels(options)


def _kernels(options: argparse.Namespace) -> int:
    from warpline_cli import asking, fetching
    from warpline_proto.errors import ConfigError

    if options.rank is None or options.steps is not None:
        raise ConfigError("--ranks and --steps are for a trace", "warpline capture trace ...")
    start_ns = asking.moment_ns(options.start, "--from")
    wanted = fetching.Wanted(options.job, options.rank, options.seconds or SECONDS, start_ns, options.node)
    with asking.client(options) as client:
        capture, node = fetching.ask(client, wanted)
        _asked(options, [capture.id])
        answer = fetching.wait(client, capture, node)
    return _told(options, [(capture, answer, _said(answer))])


def _trace(options: argparse.Namespace) -> int:
    from warpline_cli import asking, fetching, tracing
    from warpline_proto.errors import ConfigError

    if options.start is not None or options.node is not None:
        raise ConfigError("--from and --node are for kernels", "a trace begins about 15 s from now")
    steps = STEPS if options.steps is None else options.steps
    if not 1 <= steps <= tracing.STEPS_MAX:
        raise ConfigError(f"--steps {steps}", f"1 to {tracing.STEPS_MAX}")
    ranks = [options.rank] if options.ranks is None else _numbers(options.ranks)
    with asking.client(options) as client:
        asked = tracing.ask(client, tracing.Wanted(options.job, ranks, steps, options.seconds))
        _asked(options, [capture.id for capture, _ in asked])
        answered = []
        for capture, node in asked:
            answer = fetching.wait(client, capture, node, tracing.ANSWER_SECONDS)
            answered.append((capture, answer, _said(answer, f"rank {capture.rank} on {node}: ")))
    return _told(options, answered)


def _asked(options: argparse.Namespace, identifiers: Sequence[str]) -> None:
    """Identifiers as soon as they are known: whoever does not wait can ask for them."""
    if not options.json:
        print("\n".join(identifiers), flush=True)


def _told(options: argparse.Namespace, answered: Sequence[tuple[Capture, Answer, int]]) -> int:
    """The exit code of the worst; with --json what became of each."""
    if options.json:
        captures = [
            {"id": capture.id, "what": capture.what, "job": capture.job, "rank": capture.rank, "exit": code}
            | {key: value for key, value in asdict(answer).items() if key != "id"}
            for capture, answer, code in answered
        ]
        print(json.dumps({"captures": captures}, indent=2))
    return max(code for _, _, code in answered)


def _numbers(words: str) -> list[int]:
    from warpline_proto.errors import ConfigError

    parts = [part.strip() for part in words.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise ConfigError(f"--ranks {words!r}", "numbers, as in 3,7")
    return list(dict.fromkeys(map(int, parts)))


def _said(answer: Answer, whose: str = "") -> int:
    """Tell what came; the exit code for it."""
    if answer.state not in EXIT:
        tell(f"{whose}no answer from {answer.node} yet: {answer.detail or answer.state}")
        return EXIT_UNANSWERED
    tell(f"{whose}{answer.state}: {answer.detail}")
    return EXIT[answer.state]
