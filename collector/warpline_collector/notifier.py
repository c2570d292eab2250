"""Notifier: the seam behind which each kind of receiver is told of incidents in its own words.

A notifier is pure: a message in, the bytes of one POST out. Who is told what and when is the book's matter (`notify/book.py`),
how it gets there the courier's (`notify/courier.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final, Protocol

from warpline_proto.finding import OPEN, Finding, FindingState, Severity

PERMANENT: Final = frozenset({400, 413, 422})
"""Answers that speak of the message itself: another attempt with the same bytes ends alike."""


class News(StrEnum):
    """Why an incident stands in a message."""

    OPENED = "opened"
    WORSE = "worse"
    AGAIN = "again"
    CLOSED = "closed"


@dataclass(frozen=True)
class Item:
    """One incident as it stands when it is told; `before` is the severity it was told with last, None where it was not.

    `after_ns`: when it was told last, else when it was first seen. The same for each attempt to tell this news, another for later
    news of the same incident.
    """

    state: FindingState
    news: News
    before: Severity | None = None
    after_ns: int = 0

    @property
    def finding(self) -> Finding:
        """What it is."""
        return self.state.finding

    @property
    def open(self) -> bool:
        """Whether it stands."""
        return self.state.state == OPEN


@dataclass(frozen=True)
class Message:
    """Incidents of one job, else of one node, that are told together, the gravest first; at least one."""

    receiver: str
    group: Mapping[str, str]
    """The job, else the node, that all of them speak of; empty where they have neither."""
    items: tuple[Item, ...]
    time_ns: int
    cluster: str = ""
    test: bool = False

    @property
    def open(self) -> tuple[Item, ...]:
        """Those that stand."""
        return tuple(item for item in self.items if item.open)

    @property
    def id(self) -> str:
        """The same for the same news of the same incidents: a message that comes twice has one id."""
        told = sorted((item.finding.id, item.news, item.after_ns) for item in self.items)
        text = json.dumps([self.receiver, told], separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def where(self) -> str:
        """The group in words, with the cluster where that is named."""
        words = [f"{key} {value}" for key, value in self.group.items()]
        return " of ".join([*words, *([f"cluster {self.cluster}"] if self.cluster else [])]) or "the fleet"

    @property
    def headline(self) -> str:
        """One line that says it all: the gravest incident, and how many there are besides."""
        first, count = self.items[0], len(self.items) - 1
        more = f" (and {count} more)" if count else ""
        test = "TEST, nothing is wrong: " if self.test else ""
        word = str(first.finding.severity) if first.open else first.state.state
        return f"{test}{word}: {first.finding.summary}{more}"


class Notifier(Protocol):
    """What a file in `notifiers` offers."""

    secret: ClassVar[bool]
    """Whether the URL is a password in itself, and may only come from a file."""
    repeat_seconds: ClassVar[float | None]
    """How often a receiver wants to hear what stands, where it has its own memory; None where the settings say so."""
    together: ClassVar[bool]
    """Whether it groups by itself, and is told everything at once and at once."""

    def url(self, base: str) -> str:
        """Where to POST, below what the settings name."""

    def body(self, message: Message) -> bytes:
        """JSON, in UTF-8."""
