"""The courier of one receiver: a thread of its own that looks at what is open, says it, and waits longer each time it cannot.

An incident is written into the book before it is sent and after it was taken. Whoever ends in between says it twice, with the
same id, and never not at all.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from warpline_proto.batch import Batch
from warpline_proto.errors import ConfigError, WarplineError
from warpline_proto.finding import FindingState
from warpline_proto.tables import SOURCE_HEALTH

from ..incidents import Incidents
from ..notifier import PERMANENT, Message, Notifier
from ..notifiers import NOTIFIERS
from ..passes import Passes
from ..store import Store
from . import book, keeping
from .config import Config, Receiver
from .post import Answer, Poster, PostError

LOOK_SECONDS: Final = 2.0
BACKOFF_SECONDS: Final = 2.0
"""After the first failure; twice as long after each further one, a random part of up to half of it less."""
BACKOFF_SECONDS_MAX: Final = 300.0
RETRY_SECONDS_MAX: Final = 3_600.0
"""Longest time that a receiver may ask to be left alone."""
FAULTY_ATTEMPTS_MAX: Final = 3
"""A message that a receiver calls faulty is given up after so many attempts."""
FAULT_CHARS_MAX: Final = 300
HEALTH_NS: Final = 10 * 60 * 10**9
"""How a receiver fares is written when it changes, else so often."""
UNKEPT: Final = "cannot be told for good: its book cannot be kept"
SOURCE: Final = "collector"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """How one receiver fares: counts since the collector was started, `waiting` incidents now, `failure` "" where all is well."""

    receiver: str
    messages: int = 0
    failures: int = 0
    dropped: int = 0
    waiting: int = 0
    taken_ns: int | None = None
    failure: str = ""


def send(receiver: Receiver, notifier: Notifier, message: Message, poster: Poster) -> Answer:
    """One message to one receiver; ConfigError or PostError where it cannot be sent."""
    headers = {"Content-Type": "application/json", "User-Agent": f"warpline/{version('warpline')}"}
    if token := receiver.token():
        headers["Authorization"] = f"Bearer {token}"
    return poster.post(notifier.url(receiver.address()), notifier.body(message), headers, receiver.timeout_seconds)


class Courier:
    """`start`, `close`, or `one_pass` by itself. `known` gives the incidents of the newest pass of the analysis."""

    def __init__(
        self,
        receiver: Receiver,
        config: Config,
        directory: Path,
        known: Callable[[], Incidents],
        store: Store,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._receiver = receiver
        self._notifier = NOTIFIERS[receiver.kind]
        self._terms = _terms(receiver, self._notifier, config)
        self._path = keeping.place(directory, receiver.name)
        self._known = known
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._chance = chance
        self._poster = Poster()
        self._book = keeping.load(self._path)
        self._unsaved = False
        self._seen: Incidents | None = None
        self._faulty: dict[str, int] = {}
        self._attempt = 0
        self._rest_until: float | None = None
        self._written = ("", 0)
        self.standing = Standing(receiver.name)
        """For any thread to read."""
        self._passes = Passes(f"notify {receiver.name}", self._turn, self._poster.cut, lambda took: LOOK_SECONDS)

    def start(self) -> None:
        """Begin to look."""
        self._passes.start()

    def close(self) -> None:
        """Cut what is under way, and let the thread end."""
        self._passes.close()

    def one_pass(self) -> None:
        """Look at what is known, and say what is due; OSError where the book cannot be kept."""
        self._save()
        self._look()
        while self._book and not self._passes.stop.is_set() and not self._resting():
            due = book.due(self._book, self._terms, self._clock())
            if not due or not self._say(due[0]):
                break
        self._tell()

    def _look(self) -> None:
        known = self._known()
        if known is self._seen and self._book is not None:
            return
        states: Mapping[str, FindingState] = {name: each.written for name, each in known.items()}
        now_ns = self._clock()
        before = self._book
        if before is None:
            before = book.opened(states, self._receiver.wants, now_ns)
            _LOG.info("receiver %s: %d incidents were open before", self._receiver.name, len(before))
        after, dropped = book.following(before, states, self._receiver.wants, now_ns)
        self._note(dropped=dropped)
        self._keep(book.pruned(after, self._terms))
        self._seen = known

    def _say(self, message: Message) -> bool:
        """Whether the message is done with."""
        try:
            answer = send(self._receiver, self._notifier, message, self._poster)
        except (ConfigError, PostError) as error:
            return self._failed(str(error))
        if answer.taken:
            self._attempt = 0
            self._note(messages=1, taken=True)
        else:
            words = f"answered {answer.status}{': ' if answer.words else ''}{answer.words}"
            if answer.status not in PERMANENT or not self._given_up(message):
                return self._failed(words, answer.retry_seconds or 0.0)
            _LOG.error("receiver %s: a message was given up: it %s", self._receiver.name, words)
            self._note(dropped=len(message.items))
        self._faulty.pop(message.id, None)
        self._keep(book.told(self._book or {}, message, self._clock()))
        return True

    def _failed(self, words: str, retry_seconds: float = 0.0) -> bool:
        if self._passes.stop.is_set():
            return False
        if words != self.standing.failure:
            _LOG.warning("receiver %s %s", self._receiver.name, words)
        wait = min(BACKOFF_SECONDS * 2.0 ** min(self._attempt, 30), BACKOFF_SECONDS_MAX)
        wait *= 1.0 - self._chance() / 2
        self._attempt += 1
        self._rest_until = self._monotonic() + max(wait, min(retry_seconds, RETRY_SECONDS_MAX))
        self._note(failures=1, failure=words)
        return False

    def _given_up(self, message: Message) -> bool:
        self._faulty = {message.id: self._faulty.get(message.id, 0) + 1}
        return self._faulty[message.id] >= FAULTY_ATTEMPTS_MAX

    def _resting(self) -> bool:
        return self._rest_until is not None and self._monotonic() < self._rest_until

    def _keep(self, after: book.Book) -> None:
        self._unsaved = self._unsaved or after != self._book
        self._book = after
        self._note()
        self._save()

    def _save(self) -> None:
        if self._unsaved and self._book is not None:
            keeping.save(self._path, self._book)
            self._unsaved = False
            if self.standing.failure == UNKEPT:
                self._note(failure="")

    def _note(
        self, messages: int = 0, failures: int = 0, dropped: int = 0, failure: str | None = None, taken: bool = False
    ) -> None:
        before = self.standing
        self.standing = Standing(
            before.receiver,
            before.messages + messages,
            before.failures + failures,
            before.dropped + dropped,
            book.waiting(self._book or {}),
            self._clock() if taken else before.taken_ns,
            "" if taken else before.failure if failure is None else failure,
        )

    def _tell(self) -> None:
        """Write a row of source_health where something changed."""
        state, written_ns = self._written
        now_ns = self._clock()
        at = self.standing
        following = "dead" if at.failure else "fresh"
        if following == state and now_ns - written_ns < HEALTH_NS:
            return
        row: Mapping[str, Any] = {
            "source": SOURCE,
            "time_ns": now_ns,
            "subject": f"notify {at.receiver}",
            "state": following,
            "reason": at.failure,
            "rows": at.messages,
            "dropped": at.dropped,
        }
        self._store.write([Batch(SOURCE_HEALTH.name, SOURCE, SOURCE_HEALTH.from_rows([row]))])
        self._written = (following, now_ns)

    def _turn(self) -> None:
        try:
            self.one_pass()
        except OSError as error:
            _LOG.error("what receiver %s was told cannot be kept: %s", self._receiver.name, error)
            self._note(failure=UNKEPT)
        except WarplineError as error:
            _LOG.error("how receiver %s fares could not be kept: %s", self._receiver.name, error)
        except Exception as error:  # a fault of our own must not leave a receiver without any word for ever
            _LOG.exception("receiver %s was not told", self._receiver.name)
            self._failed(f"was not told: {type(error).__name__}: {error}"[:FAULT_CHARS_MAX])


def _terms(receiver: Receiver, notifier: Notifier, config: Config) -> book.Terms:
    repeat_seconds = notifier.repeat_seconds or receiver.repeat_hours * 3_600
    return book.Terms(
        receiver.name,
        int(config.group_seconds * 1e9),
        int(config.closed_seconds * 1e9),
        int(repeat_seconds * 1e9) or None,
        receiver.resolved,
        notifier.together,
        config.cluster,
    )
