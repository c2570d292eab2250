"""A made-up incident, to see that a receiver hears."""

from __future__ import annotations

from warpline_proto.finding import OPEN, Finding, FindingKind, FindingState, Severity, Subject

from ..notifier import Item, Message, News
from ..notifiers import NOTIFIERS
from .config import Receiver
from .courier import send
from .post import Answer, Poster


def made_up(receiver: Receiver, cluster: str, now_ns: int) -> Message:
    """It says of itself that nothing is wrong."""
    finding = Finding(
        FindingKind.COMPUTE_STRAGGLER,
        Severity(receiver.severity),
        1.0,
        Subject(job="warpline-test", rank=0, node="no-node"),
        "this is a test of warpline's notification, nothing is wrong",
        "nothing: whoever reads this is told of incidents",
    )
    state = FindingState(finding, OPEN, now_ns, now_ns, "test")
    return Message(
        receiver.name,
        {"job": "warpline-test"},
        (Item(state, News.OPENED, after_ns=now_ns),),
        now_ns,
        cluster,
        test=True,
    )


def tried(receiver: Receiver, cluster: str, now_ns: int) -> Answer:
    """What the receiver answers to it; ConfigError or PostError where it cannot be told."""
    return send(receiver, NOTIFIERS[receiver.kind], made_up(receiver, cluster, now_ns), Poster())
