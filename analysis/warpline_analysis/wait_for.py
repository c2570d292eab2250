"""Who waits for whom in a hang: from what each rank has pending to the ranks that everything else waits for.

The oldest operation that a rank has pending on a group is where it stands. Members of the group that have not even issued it
are missing, and the others wait for them. A missing rank is a victim itself if the oldest of all its pending operations waits
for somebody else; the chain is walked to its end (wait-for graph, ends are its sinks). A rank whose oldest pending operation
others have completed waits for nobody: an operation that synchronises cannot complete anywhere without it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import Any, Final

from .flight import Dumps, Key, Pending

SAME_SIZE: Final = ("all_reduce", "broadcast", "reduce")
"""Operations whose members must pass equal sizes and types."""
WALKS_MAX: Final = 256
"""Missing ranks whose own waiting is followed; the others are left out, those that wait for nobody never are."""


class Tie(IntEnum):
    """How one rank waits for another, firmest first."""

    MISSING = 0
    """It has not issued a collective that the other has pending."""
    UNPAIRED = 1
    """It has not issued its side of a send or receive."""
    QUEUED = 2
    """It has issued the operation, but an older one keeps it."""


@dataclass(frozen=True)
class Operation:
    """One collective of one group; `sequence` counts on it."""

    key: Key
    sequence: int


@dataclass(frozen=True)
class End:
    """Where a chain of waiting ends other than at a rank: `why` is absent, transfer or program."""

    why: str
    operation: Operation
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Culprit:
    """A rank that waits for nobody while others wait for it; `circle` where several wait for each other."""

    rank: int
    tie: Tie
    operation: Operation | None
    waiting: tuple[int, ...]
    since_ns: int | None
    circle: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What the chains end at."""

    culprits: tuple[Culprit, ...]
    ends: tuple[End, ...]
    victims: int


@dataclass(frozen=True)
class _Members:
    """Who has not issued an operation, of whom nothing is known, and whether somebody has completed it."""

    missing: tuple[int, ...]
    unknown: tuple[int, ...]
    done: bool


@dataclass(frozen=True)
class _Wait:
    """For whom a rank waits in its oldest pending operation; shared by all that wait in it."""

    tie: Tie
    ranks: tuple[int, ...]


class WaitFor:
    """The wait-for graph of one job's dumps."""

    def __init__(self, dumps: Dumps) -> None:
        self._dumps = dumps
        self._known: dict[Operation, _Members] = {}
        self._queues: dict[Operation, _Wait | None] = {}
        self._waiters: dict[Operation, list[Pending]] = defaultdict(list)
        self._paired: dict[tuple[int, Key, int, str | None], Pending] = {}
        self._oldest: dict[int, Pending] = {}
        for each in sorted(dumps.pending, key=lambda pending: (pending.rank, pending.order)):
            self._oldest.setdefault(each.rank, each)
            if each.peer is None:
                self._waiters[Operation(each.key, each.sequence)].append(each)
            else:
                self._paired[each.rank, each.key, each.peer, each.operation] = each
        self._ends: dict[int, End] = {}
        found = {rank: self._wait(pending) for rank, pending in self._oldest.items()}
        self._waits = {rank: wait for rank, wait in found.items() if wait is not None}

    @cached_property
    def stale(self) -> frozenset[int]:
        """Ranks that are not judged, because their dump is of an earlier moment than the others'.

        On half or more of the groups where others are ahead of it, others have completed what it had not issued: that
        cannot be at one moment.
        """
        reached, completed = _furthest(self._dumps.reached), _furthest(self._dumps.completed)
        ahead: dict[int, list[bool]] = defaultdict(list)
        for (rank, key), number in self._dumps.reached.items():
            if reached[key] > number:
                ahead[rank].append(completed.get(key, -1) > number)
        return frozenset(rank for rank, behind in ahead.items() if 2 * sum(behind) >= len(behind))

    def mismatch(self, operation: Operation) -> dict[tuple[Any, ...], list[int]]:
        """What the ranks issued under one number, if they do not agree; else nothing."""
        kinds: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for rank, (name, elements, datatype) in self._dumps.issued.get((operation.key, operation.sequence), {}).items():
            if name is not None:
                kinds[(name, elements, datatype) if name in SAME_SIZE else (name,)].append(rank)
        return dict(kinds) if len(kinds) > 1 else {}

    def _members(self, operation: Operation) -> _Members:
        if operation not in self._known:
            key, number = operation.key, operation.sequence
            ranks = self._dumps.groups[key].ranks
            done = any(self._dumps.completed.get((rank, key), -1) >= number for rank in ranks)
            behind = [rank for rank in ranks if self._dumps.reached.get((rank, key), -1) < number]
            blind = (self._dumps.world - self._dumps.present) | self.stale
            self._known[operation] = _Members(
                tuple(rank for rank in behind if rank not in blind),
                tuple(rank for rank in behind if rank in blind),
                done,
            )
        return self._known[operation]

    def _wait(self, pending: Pending) -> _Wait | None:
        """For whom the rank of its oldest pending operation waits; where for no rank, `_ends` may say what for."""
        if pending.peer is not None:
            return self._wait_for_peer(pending, pending.peer)
        operation = Operation(pending.key, pending.sequence)
        members = self._members(operation)
        if self.mismatch(operation):
            self._ends[pending.rank] = End("program", operation)
        elif members.done:
            return None
        elif members.missing:
            return _Wait(Tie.MISSING, members.missing)
        elif members.unknown:
            self._ends[pending.rank] = End("absent", operation, members.unknown)
        else:
            return self._queue(operation, pending.rank)
        return None

    def _queue(self, operation: Operation, rank: int) -> _Wait | None:
        """All have issued it: those that do not stand at it yet keep the others waiting; if all do, it is the transfer."""
        if operation not in self._queues:
            ranks = self._dumps.groups[operation.key].ranks
            queued = tuple(each for each in ranks if not self._stands_at(each, operation))
            self._queues[operation] = _Wait(Tie.QUEUED, queued) if queued else None
        if self._queues[operation] is None:
            self._ends[rank] = End("transfer", operation)
        return self._queues[operation]

    def _wait_for_peer(self, pending: Pending, peer: int) -> _Wait | None:
        operation = Operation(pending.key, pending.sequence)
        if peer not in self._dumps.present or peer in self.stale:
            self._ends[pending.rank] = End("absent", operation, (peer,))
            return None
        side = "recv" if pending.operation == "send" else "send"
        match = self._paired.get((peer, pending.key, pending.rank, side))
        if match is None:
            return _Wait(Tie.UNPAIRED, (peer,))
        if self._oldest[peer] is not match:
            return _Wait(Tie.QUEUED, (peer,))
        self._ends[pending.rank] = End("transfer", operation)
        return None

    def _stands_at(self, rank: int, operation: Operation) -> bool:
        oldest = self._oldest.get(rank)
        return oldest is not None and (oldest.key, oldest.sequence) == (operation.key, operation.sequence)

    def outcome(self) -> Outcome:
        """Walk every chain to its end."""
        culprits: list[Culprit] = []
        walks = 0
        for culprit in sorted(self._accused(), key=lambda each: (each.tie, each.since_ns or 0, each.rank)):
            if culprit.rank in self._ends:
                continue
            if culprit.rank not in self._waits:
                culprits.append(culprit)
            elif culprit.tie != Tie.QUEUED and walks < WALKS_MAX:
                walks += 1
                circle = self._circle(culprit.rank)
                if circle is not None:
                    culprits.append(replace(culprit, circle=circle))
        ends = sorted(set(self._ends.values()), key=lambda end: (end.why, end.operation.key, end.operation.sequence))
        return Outcome(tuple(culprits), tuple(ends), len(self._oldest.keys() - {culprit.rank for culprit in culprits}))

    def _accused(self) -> list[Culprit]:
        """Every rank that somebody waits for: by the firmest tie, and of these by the operation that began to wait first."""
        found: dict[int, Culprit] = {}

        def accuse(culprit: Culprit) -> None:
            before = found.get(culprit.rank)
            if before is None or (culprit.tie, culprit.since_ns or 0) < (before.tie, before.since_ns or 0):
                found[culprit.rank] = culprit

        for operation, pending in self._waiters.items():
            members = self._members(operation)
            if members.missing and not members.done and not self.mismatch(operation):
                waiting = tuple(each.rank for each in pending)
                for rank in members.missing:
                    accuse(Culprit(rank, Tie.MISSING, operation, waiting, _since(pending)))
        for culprit in self._held_up():
            accuse(culprit)
        return list(found.values())

    def _held_up(self) -> list[Culprit]:
        """Ranks that keep others waiting though no collective misses them."""
        shared: dict[int, tuple[_Wait, list[Pending]]] = {}
        for waiter, wait in self._waits.items():
            if wait.tie != Tie.MISSING:
                shared.setdefault(id(wait), (wait, []))[1].append(self._oldest[waiter])
        behind: dict[tuple[int, Tie], list[Pending]] = defaultdict(list)
        for wait, waiters in shared.values():
            for rank in wait.ranks:
                if rank not in self._waits or wait.tie == Tie.UNPAIRED:
                    behind[rank, wait.tie] += waiters
        return [
            Culprit(rank, tie, None, tuple(each.rank for each in waiters), _since(waiters))
            for (rank, tie), waiters in behind.items()
        ]

    def _circle(self, rank: int) -> tuple[int, ...] | None:
        """() if the rank waits only for ranks that wait for it, the ranks it waits in a circle with, None for a victim."""
        reach = self._reach(rank)
        if any(other in self._ends or other not in self._waits for other in reach):
            return None
        circle = {other for other in reach if rank in self._reach(other)} | {rank}
        return None if reach - circle else self._firmest(circle, rank)

    def _firmest(self, circle: set[int], rank: int) -> tuple[int, ...] | None:
        """Within a circle only those count that are missing; of these, whoever waits for none of them by that tie."""
        for tie in (Tie.MISSING, Tie.UNPAIRED):
            ties = {each: set(self._waits[each].ranks) & circle for each in circle if self._waits[each].tie == tie}
            awaited = set().union(*ties.values())
            if awaited:
                free = {each for each in awaited if not ties.get(each)}
                if rank not in (free or awaited):
                    return None
                return () if free else tuple(sorted(awaited))
        return None

    def _reach(self, rank: int) -> set[int]:
        """Ranks that the rank waits for, directly or through others."""
        seen: set[int] = set()
        walked: set[int] = set()
        open_ = [rank]
        while open_:
            wait = self._waits.get(open_.pop())
            if wait is not None and id(wait.ranks) not in walked:
                walked.add(id(wait.ranks))
                fresh = [other for other in wait.ranks if other not in seen]
                seen.update(fresh)
                open_ += fresh
        return seen


def _since(waiters: Sequence[Pending]) -> int | None:
    """When the first of them was issued."""
    return min((each.start_ns for each in waiters if each.start_ns is not None), default=None)


def _furthest(numbers: Mapping[tuple[int, Key], int]) -> dict[Key, int]:
    """The highest number on each group."""
    found: dict[Key, int] = {}
    for (_, key), number in numbers.items():
        found[key] = max(number, found.get(key, number))
    return found


def alone_absent(ends: Sequence[End]) -> tuple[int, Operation] | None:
    """The one rank without a dump that everything which ends in the unknown waits for, and in which operation."""
    unknown = [end for end in ends if end.why == "absent"]
    ranks = {rank for end in unknown for rank in end.ranks}
    return (ranks.pop(), unknown[0].operation) if len(ranks) == 1 else None
