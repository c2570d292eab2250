"""The book of one receiver: what it waits for and what it was told. Pure; nothing in it is forgotten before it was told.

An incident enters when it is seen open, and leaves when it was told that it is over. What opened and closed while the receiver
could not be reached is told as both at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from warpline_proto.finding import ENDED, GRAVITY, OPEN, Finding, FindingState, Severity

from ..notifier import Item, Message, News

WAITING_MAX: Final = 1_000
"""Incidents that a receiver which cannot be reached is still told of; beyond, the oldest are dropped and counted."""
NEW_NS: Final = 10 * 60 * 10**9
"""Where no book is found, what opened so long before is told as new; what is older was told by the book that is lost."""


@dataclass(frozen=True)
class Record:
    """One incident: as it stands, when it was first seen, when and how gravely it was told, None where it was not yet.

    `silent`: it was taken for told, though it was not; nobody needs to hear that it is over.
    """

    state: FindingState
    seen_ns: int
    told_ns: int | None = None
    told_severity: Severity | None = None
    silent: bool = False


Book = Mapping[str, Record]
Known = Mapping[str, FindingState]


@dataclass(frozen=True)
class Terms:
    """When a receiver is told: the settings in nanoseconds."""

    receiver: str
    group_ns: int
    closed_ns: int
    repeat_ns: int | None
    resolved: bool = True
    together: bool = False
    cluster: str = ""


def opened(known: Known, wants: Callable[[Finding], bool], now_ns: int) -> Book:
    """The book where there is none: what has been open for long is taken for told, so that nobody is flooded."""
    return {
        name: Record(state, now_ns, now_ns, state.finding.severity, silent=True)
        for name, state in known.items()
        if state.state == OPEN and state.opened_ns < now_ns - NEW_NS and wants(state.finding)
    }


def following(book: Book, known: Known, wants: Callable[[Finding], bool], now_ns: int) -> tuple[Book, int]:
    """The book with what is known now, and how many incidents were dropped from it."""
    after = {name: _as_known(record, known.get(name), now_ns) for name, record in book.items()}
    for name, state in known.items():
        if name not in after and state.state == OPEN and wants(state.finding):
            after[name] = Record(state, now_ns)
    waiting = sorted((name for name in after if after[name].told_ns is None), key=lambda name: after[name].seen_ns)
    dropped = waiting[: max(len(waiting) - WAITING_MAX, 0)]
    for name in dropped:
        severity = after[name].state.finding.severity
        after[name] = replace(after[name], told_ns=now_ns, told_severity=severity, silent=True)
    return after, len(dropped)


def due(book: Book, terms: Terms, now_ns: int) -> list[Message]:
    """What to tell now, the gravest message first."""
    groups: dict[tuple[str, str], list[tuple[Record, Item]]] = defaultdict(list)
    for record in book.values():
        news = _news(record, terms, now_ns)
        if news is not None:
            key = ("", "") if terms.together else _group(record.state.finding)
            groups[key].append((record, _item(record, news)))
    messages = [
        _message(key, listed, book, terms, now_ns) for key, listed in groups.items() if _ripe(listed, terms, now_ns)
    ]
    return sorted(messages, key=lambda each: (not each.open, GRAVITY[each.items[0].finding.severity]))


def told(book: Book, message: Message, now_ns: int) -> Book:
    """The book after a message was taken."""
    after = dict(book)
    for item in message.items:
        name = item.finding.id
        if item.open:
            severity = item.finding.severity
            after[name] = replace(book[name], told_ns=now_ns, told_severity=severity, silent=False)
        else:
            del after[name]
    return after


def pruned(book: Book, terms: Terms) -> Book:
    """The book without what is over and need not be told."""
    over = [
        name
        for name, record in book.items()
        if record.state.state != OPEN and record.told_ns is not None and (record.silent or not terms.resolved)
    ]
    return {name: record for name, record in book.items() if name not in over} if over else book


def waiting(book: Book) -> int:
    """How many incidents were not told yet."""
    return sum(record.told_ns is None for record in book.values())


def _as_known(record: Record, state: FindingState | None, now_ns: int) -> Record:
    if state is None:  # the store has let go of it
        return record if record.state.state != OPEN else replace(record, state=record.state.closed(ENDED, now_ns))
    if state.state == OPEN and state.opened_ns != record.state.opened_ns and record.told_ns is not None:
        return Record(state, now_ns)  # the same accusation, once more
    return record if record.state == state else replace(record, state=state)


def _news(record: Record, terms: Terms, now_ns: int) -> News | None:
    if record.told_ns is None:
        return News.OPENED
    if record.state.state != OPEN:
        return News.CLOSED if now_ns - record.state.updated_ns >= terms.closed_ns else None
    if record.told_severity is not None and GRAVITY[record.state.finding.severity] < GRAVITY[record.told_severity]:
        return News.WORSE
    return News.AGAIN if _repeats(record, terms, now_ns) else None


def _item(record: Record, news: News) -> Item:
    return Item(record.state, news, record.told_severity, record.seen_ns if record.told_ns is None else record.told_ns)


def _repeats(record: Record, terms: Terms, now_ns: int) -> bool:
    return record.told_ns is not None and terms.repeat_ns is not None and now_ns - record.told_ns >= terms.repeat_ns


def _ripe(listed: Sequence[tuple[Record, Item]], terms: Terms, now_ns: int) -> bool:
    """Whether a message goes out: more of the same job may open within moments."""
    return any(
        terms.together or item.news != News.OPENED or now_ns - record.seen_ns >= terms.group_ns
        for record, item in listed
    )


def _message(
    key: tuple[str, str], listed: Sequence[tuple[Record, Item]], book: Book, terms: Terms, now_ns: int
) -> Message:
    items = [item for _, item in listed]
    if not terms.together and any(item.news == News.AGAIN for item in items):
        items += _beside(key, items, book)
    items.sort(key=lambda item: (not item.open, GRAVITY[item.finding.severity], -item.finding.confidence))
    group = {key[0]: key[1]} if key[0] else {}
    return Message(terms.receiver, group, tuple(items), now_ns, terms.cluster)


def _beside(key: tuple[str, str], items: Sequence[Item], book: Book) -> list[Item]:
    """What else stands in the same job, so that all of it is told again once, not each by itself."""
    named = {item.finding.id for item in items}
    return [
        _item(record, News.AGAIN)
        for name, record in book.items()
        if name not in named
        and record.told_ns is not None
        and record.state.state == OPEN
        and _group(record.state.finding) == key
    ]


def _group(finding: Finding) -> tuple[str, str]:
    subject = finding.subject
    if subject.job is not None:
        return "job", subject.job
    return ("node", subject.node) if subject.node is not None else ("", "")
