"""`warpline capture`: ask the agent of a rank for its raw kernels of a time, wait for the answer, say what came of it."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any, Final

from warpline_cli.streams import tell

if TYPE_CHECKING:
    from warpline_proto.capture import Capture
    from warpline_proto.client import QueryClient

SECONDS: Final = 5.0
"""How much is asked for by itself: what the rank did last."""
ANSWER_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.5
EXIT: Final = {"done": 0, "denied": 1}
EXIT_UNANSWERED: Final = 75
"""EX_TEMPFAIL of sysexits.h: the answer may still come."""
SOURCE: Final = "by_hand"


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
    from warpline_proto.client import QueryClient, push

    with QueryClient(options.collector) as client:
        capture, node = _request(client, options)
        push(options.collector, _frame(capture, node))
        print(capture.id, flush=True)
        answer = _answer(client, capture.id, capture.start_ns + capture.duration_ns)
    if answer["state"] not in EXIT:
        tell(f"no answer from {node} in {ANSWER_SECONDS:g} s: {answer['detail'] or answer['state']}")
        return EXIT_UNANSWERED
    tell(f"{answer['state']}: {answer['detail']}")
    return EXIT[answer["state"]]


def _request(client: QueryClient, options: argparse.Namespace) -> tuple[Capture, str]:
    """The request, and the node it goes to."""
    import uuid

    from warpline_cli.asking import moment_ns, text
    from warpline_proto.capture import KERNELS, Capture
    from warpline_proto.errors import ConfigError

    if options.seconds <= 0:
        raise ConfigError(f"--seconds {options.seconds:g}", "more than 0")
    known = client.query(
        "SELECT node, start_ns + duration_ns AS end_ns FROM steps "
        f"WHERE job = {text(options.job)} AND rank = {options.rank} AND node IS NOT NULL AND duration_ns IS NOT NULL "
        "ORDER BY start_ns DESC LIMIT 1"
    ).to_pylist()
    start_ns = moment_ns(options.start, "--from")
    if not known and (start_ns is None or options.node is None):
        hint = 'warpline sql "SELECT DISTINCT job, rank, node FROM steps"; or name --node and --from'
        raise ConfigError(f"no step of rank {options.rank} of job {options.job} is kept", hint)
    duration_ns = int(options.seconds * 1e9)
    begin_ns = known[0]["end_ns"] - duration_ns if start_ns is None else start_ns
    node = options.node or known[0]["node"]
    return Capture(uuid.uuid4().hex[:16], options.job, options.rank, KERNELS, begin_ns, duration_ns, "by hand"), node


def _frame(capture: Capture, node: str) -> Any:
    from warpline_proto.batch import Batch, Frame
    from warpline_proto.capture import REQUESTED, to_rows
    from warpline_proto.tables import CAPTURES

    now_ns = time.time_ns()
    row = capture.row(REQUESTED, node=node, source=SOURCE, requested_ns=now_ns, updated_ns=now_ns)
    return Frame(SOURCE, capture.id, 1, now_ns, (Batch(CAPTURES.name, SOURCE, to_rows([row])),))


def _answer(client: QueryClient, identifier: str, end_ns: int) -> dict[str, Any]:
    """The furthest state of the capture, once it ended or when nobody answered for long after its time."""
    from warpline_cli.asking import text

    deadline = time.monotonic() + ANSWER_SECONDS + max(end_ns - time.time_ns(), 0) / 1e9
    while True:
        found = client.query(f"SELECT state, detail FROM current_captures WHERE id = {text(identifier)}").to_pylist()
        answer: dict[str, Any] = found[0] if found else {"state": "requested", "detail": None}
        if answer["state"] in EXIT or time.monotonic() > deadline:
            return answer
        time.sleep(POLL_SECONDS)
