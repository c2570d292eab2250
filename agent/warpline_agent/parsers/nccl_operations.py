"""Reads the operations that NCCL logs: COLL lines, CALL lines and the algorithm chosen for them (NCCL 2.7 to 2.30).

All of them mark that the host enqueued an operation. None tells how long it took.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from . import nccl
from .nccl_communicators import COMMUNICATORS_MAX, Communicator, Communicators
from .nccl_records import Record
from .values import small, whole

OPERATIONS_MAX: Final = 200_000
"""Operations kept one by one between two calls of `take`; further ones are folded into counts of equal operations."""

FOLDED_MAX: Final = 20_000
"""Kinds of folded operations; what finds no place is counted in `dropped`."""

_AWAITING_KEYS_MAX: Final = 4096
_AWAITING_EACH_MAX: Final = 64
_COLL: Final = re.compile(
    r"(\w{1,40}): opCount ([0-9a-f]{1,16}) sendbuff \S{1,40} recvbuff \S{1,40} count (\d{1,20}) datatype (\d{1,4}) op (\d{1,20})"
    r" root (-?\d{1,10}) comm (\S{1,40})(?: \[nranks=(\d{1,9})\])?"
)
_CALL: Final = re.compile(
    r"nccl(\w{1,40})\([^,()]{1,40},[^,()]{1,40},(\d{1,20}),(\d{1,4}),(\d{1,20}),(-?\d{1,10}),(0x[^,()]{1,20}),[^,()]{1,20}\)"
)
_TUNED: Final = re.compile(
    r"(\w{1,40})(?: \[\w+\])?: (\d{1,20}) Bytes -> (?:Algo (\w{1,40}) proto (\w{1,20})|Kernel (\w{1,80}))(.{0,120})"
)
_TUNED_BY_NUMBER: Final = re.compile(r"(\d{1,20}) Bytes -> Algo (\d) proto (\d) time ")
_CHANNEL_RANGE: Final = re.compile(r"channel\{Lo\.\.Hi\}=\{(\d{1,6})\.\.(\d{1,6})\}|nchannels (\d{1,6})")
_ALGORITHMS: Final = ("tree", "ring", "collnet_direct", "collnet_chain", "nvls", "nvls_tree", "pat")
_PROTOCOLS: Final = ("ll", "ll128", "simple")
_REDUCING: Final = frozenset({"all_reduce", "reduce", "reduce_scatter"})


class Tuning(NamedTuple):
    """What NCCL chose for one operation."""

    algorithm: str | None
    protocol: str | None
    channels: int | None


class _Kind(NamedTuple):
    """What operations that are folded together have in common."""

    communicator: Communicator | None
    host: str | None
    pid: int | None
    operation: str
    elements: int | None
    datatype: str | None
    reduction: str | None
    nranks: int | None
    peer: int | None
    message_bytes: int | None


@dataclass(eq=False, slots=True)
class _Operation:
    kind: _Kind
    pointer: str | None
    number: int | None
    index: int | None
    time_ns: int | None
    prefix_rank: int | None
    called: bool
    tuning: Tuning | None = None


@dataclass(slots=True)
class _Order:
    """How far one communicator of one process has come."""

    seen: int = 0
    number_max: int = 0


class Operations:
    """Fed with records; keeps operations until they are taken as rows of `collectives`."""

    def __init__(self) -> None:
        self.channel_ranges: Counter[str] = Counter()
        self.lines = 0
        self.calls = 0
        self.unknown = 0
        self.dropped = 0
        self._operations: list[_Operation] = []
        self._folded: Counter[_Kind] = Counter()
        self._order: dict[tuple[str | None, int | None, str], _Order] = {}
        self._awaiting: dict[tuple[str | None, int | None, int], deque[_Operation]] = {}
        self._logging: set[tuple[str | None, int | None]] = set()

    def read(self, record: Record, communicators: Communicators) -> bool:
        """Read one record; whether it spoke of an operation."""
        text = record.text
        if found := _COLL.match(text):
            self.lines += 1
            self._note(record)
            self._enqueued(record, communicators, found, int(found[2], 16))
        elif found := _CALL.match(text):
            self.calls += 1
            self._called(record, communicators, found)
        elif found := _TUNED.match(text):
            self._tuned(record, found)
        elif found := _TUNED_BY_NUMBER.match(text):
            self._choose(record, None, int(found[1]), _numbered(int(found[2]), int(found[3])))
        else:
            return False
        return True

    def take(self, communicators: Communicators) -> Iterator[dict[str, Any]]:
        """Rows since the last call. Calls are left out where the same process logs the operations themselves."""
        taken, self._operations = self._operations, []
        folded, self._folded = self._folded, Counter()
        self._awaiting.clear()
        for each in taken:
            if not (each.called and (each.kind.host, each.kind.pid) in self._logging):
                yield self._row(each, communicators)
        for kind, count in folded.items():
            yield {**_columns(kind, communicators, None), "count": count}

    def _note(self, record: Record) -> None:
        if len(self._logging) < COMMUNICATORS_MAX:
            self._logging.add((record.host, record.pid))

    def _enqueued(self, record: Record, communicators: Communicators, found: re.Match[str], number: int) -> None:
        values = (found[1], found[3], found[4], found[5], found[6], found[7])
        self._add(record, communicators, values, number, int(found[8]) if found[8] else None)

    def _called(self, record: Record, communicators: Communicators, found: re.Match[str]) -> None:
        values = (found[1], found[2], found[3], found[4], found[5], found[6])
        self._add(record, communicators, values, None, None)

    def _add(
        self,
        record: Record,
        communicators: Communicators,
        values: tuple[str, str, str, str, str, str],
        number: int | None,
        nranks: int | None,
    ) -> None:
        name, count, kind_code, reduction_code, root, pointer = values
        operation, elements, datatype = nccl.operation(name), whole(count), nccl.datatype(int(kind_code))
        if operation is None or elements is None:
            self.unknown += 1
            return
        member = communicators.find(record.host, record.pid, pointer)
        size = member.nranks if member is not None else nranks
        message = nccl.message_bytes(operation, elements, datatype, size)
        kind = _Kind(
            member,
            record.host,
            record.pid,
            operation,
            elements,
            datatype,
            nccl.reduction(int(reduction_code)) if operation in _REDUCING else None,
            size,
            small(root) if operation in ("send", "recv") else None,
            whole(message),
        )
        index = self._index(record, pointer, number)
        self._keep(_Operation(kind, pointer, number, index, record.time_ns, record.rank, number is None))

    def _index(self, record: Record, pointer: str, number: int | None) -> int | None:
        order = self._order.get((record.host, record.pid, pointer))
        if order is None:
            if len(self._order) >= COMMUNICATORS_MAX:
                return None
            order = self._order[record.host, record.pid, pointer] = _Order()
        order.number_max = max(order.number_max, number or 0)
        order.seen += 1
        return order.seen - 1

    def _keep(self, operation: _Operation) -> None:
        if len(self._operations) < OPERATIONS_MAX:
            self._operations.append(operation)
            self._await(operation)
        elif operation.kind in self._folded or len(self._folded) < FOLDED_MAX:
            self._folded[operation.kind] += 1
        else:
            self.dropped += 1

    def _await(self, operation: _Operation) -> None:
        kind = operation.kind
        if kind.message_bytes is None:
            return
        key = kind.host, kind.pid, kind.message_bytes
        if key not in self._awaiting and len(self._awaiting) >= _AWAITING_KEYS_MAX:
            del self._awaiting[next(iter(self._awaiting))]
        self._awaiting.setdefault(key, deque(maxlen=_AWAITING_EACH_MAX)).append(operation)

    def _tuned(self, record: Record, found: re.Match[str]) -> None:
        operation = nccl.operation(found[1])
        span = _CHANNEL_RANGE.search(found[6])
        channels = None
        if span is not None:
            channels = int(span[3]) if span[3] else max(0, int(span[2]) - int(span[1]) + 1)
            shown = f"0..{channels - 1}" if span[3] else f"{span[1]}..{span[2]}"
            self.channel_ranges[shown] += len(self.channel_ranges) < FOLDED_MAX or shown in self.channel_ranges
        if operation is None:
            self.unknown += 1
            return
        algorithm = "symmetric" if found[5] else found[3].lower()
        self._choose(
            record, operation, int(found[2]), Tuning(algorithm, found[4].lower() if found[4] else None, channels)
        )

    def _choose(self, record: Record, operation: str | None, size: int, tuning: Tuning) -> None:
        """Give the choice to the operations that wait for it; a process that logs no operations gets one of its own."""
        waiting = self._awaiting.pop((record.host, record.pid, size), None) or ()
        for each in waiting:
            if operation in (None, each.kind.operation):
                each.tuning = each.tuning or tuning
        if operation is not None and (record.host, record.pid) not in self._logging:
            kind = _Kind(None, record.host, record.pid, operation, None, None, None, None, None, whole(size))
            if not any(each.called for each in waiting):
                self._keep_alone(_Operation(kind, None, None, None, record.time_ns, record.rank, False, tuning))

    def _keep_alone(self, operation: _Operation) -> None:
        if len(self._operations) < OPERATIONS_MAX:
            self._operations.append(operation)
        else:
            self.dropped += 1

    def _row(self, each: _Operation, communicators: Communicators) -> dict[str, Any]:
        row = _columns(each.kind, communicators, each.prefix_rank)
        order = self._order.get((each.kind.host, each.kind.pid, each.pointer or ""))
        counts = order is not None and order.number_max > 0
        row["sequence"] = whole(each.number if counts and each.number is not None else each.index)
        row["start_ns"] = each.time_ns
        row["clock"] = None if each.time_ns is None or each.kind.host is None else f"realtime@{each.kind.host}"
        if each.tuning is not None:
            row["algorithm"], row["protocol"], row["channels"] = each.tuning
        return row


def _columns(kind: _Kind, communicators: Communicators, prefix_rank: int | None) -> dict[str, Any]:
    member = kind.communicator
    return {
        "node": kind.host,
        "rank": prefix_rank if member is None else communicators.world().ranks.get(member.slot, prefix_rank),
        "device": None if member is None else member.device,
        "communicator": None if member is None else communicators.label(member),
        "operation": kind.operation,
        "datatype": kind.datatype,
        "reduction": kind.reduction,
        "elements": kind.elements,
        "message_bytes": kind.message_bytes,
        "nranks": kind.nranks,
        "peer": kind.peer,
        "timing": "enqueue",
    }


def _numbered(algorithm: int, protocol: int) -> Tuning:
    return Tuning(
        _ALGORITHMS[algorithm] if algorithm < len(_ALGORITHMS) else None,
        _PROTOCOLS[protocol] if protocol < len(_PROTOCOLS) else None,
        None,
    )
