"""How far this node's clock is from the collector's, with a bound on the error, from the frames that are sent anyway.

Each frame that is acknowledged is one exchange of NTP's kind (Cristian 1989; RFC 5905 section 8): the node's clock when the frame
was written and when its acknowledgement came, the collector's when the frame came and when it answered. Half of the way there
and back, without the time for which the collector held the frame, bounds the error, whichever way the delay lay. Of the last
exchanges the one with the least bound speaks, and grows worse with age (the clock filter of RFC 5905 section 10).

Everything is held on the steady clock, which nobody sets: a clock that is set moves no exchange, and how far it was set is known
at once and exactly.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto import service_pb2
from warpline_proto.batch import Batch
from warpline_proto.tables import NODE_CLOCKS

NAME: Final = "clock"
"""Source name of these rows."""
EXCHANGES_MAX: Final = 16
"""Newest exchanges of which the best speaks."""
SENT_MAX: Final = 64
"""Frames whose sending is remembered; the exporter has fewer in flight."""
DRIFT: Final = 100e-6
"""How fast two clocks may run apart: RFC 5905 takes 15 parts in a million, of clocks that are kept; one that nobody keeps may run
100 off."""
JUMP_NS_MIN: Final = 20_000_000
"""Smaller changes are no jump: daemons that keep clocks set them only where they are off by more, and slew them below that."""
LOOKS_MAX: Final = 3
LOOK_NS_MAX: Final = 1_000_000
"""The two clocks are read one after the other: again where something came between for longer than this."""
ROW_SECONDS: Final = 60.0
"""A row is written so often; at once where the clock jumped."""
JUMPS_WAITING_MAX: Final = 16
"""Jumps that wait to be written; of more the oldest are counted only."""
WAS_SET: Final = "the clock was set"
MOVED: Final = (
    "nobody set it here, and yet its distance to the collector's changed: that was set, or one of them slewed fast"
)


def steady_ns() -> int:
    """The time since the node was started, on a clock that nobody sets."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Exchange:
    """`ahead_ns`: the steady clock less the collector's, at steady time `at_ns`; the collector held the frame for `held_ns`."""

    ahead_ns: int
    round_trip_ns: int
    held_ns: int
    at_ns: int

    def error_ns(self, now_ns: int) -> int:
        """The truth is no farther away, at steady time `now_ns`."""
        return self.round_trip_ns // 2 + round(DRIFT * (self.held_ns + now_ns - self.at_ns))


@dataclass(frozen=True)
class Offset:
    """This node's clock less the collector's, known to within `error_ns`, by an exchange of this round trip."""

    offset_ns: int
    error_ns: int
    round_trip_ns: int


@dataclass(frozen=True)
class Jump:
    """The clock said `before_ns`, and `jump_ns` more from one moment to the next; `offset` is what holds from then on."""

    time_ns: int
    steady_ns: int
    before_ns: int
    jump_ns: int
    detail: str
    offset: Offset | None


class ClockOffset:
    """`sent` and `acknowledged` in the exporter's threads, `look` and `rows` in the agent's. Clocks give nanoseconds."""

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns, steady: Callable[[], int] = steady_ns) -> None:
        self._wall_ns = wall_ns
        self._steady_ns = steady
        self._mutex = threading.Lock()
        self._sent: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._exchanges: deque[Exchange] = deque(maxlen=EXCHANGES_MAX)
        self._jumps: deque[Jump] = deque(maxlen=JUMPS_WAITING_MAX)
        self._counted = 0
        self._jumped = 0
        self._base_ns, _, _ = self._read()
        self._told_ns = self._base_ns
        self._due_ns: int | None = None

    def sent(self, boot: str, sequence: int) -> int:
        """Remember that this frame is written now -> the node's clock."""
        with self._mutex:
            now_ns = self._steady_ns()
            self._sent[boot, sequence] = now_ns
            while len(self._sent) > SENT_MAX:
                self._sent.popitem(last=False)
        return self._wall_ns()

    def acknowledged(self, ack: service_pb2.Ack) -> None:
        """Take an acknowledgement that came just now; one of a collector that does not say when it did what tells nothing."""
        now_ns = self._steady_ns()
        with self._mutex:
            begun_ns = self._sent.pop((ack.boot, ack.sequence), None)
            for key in [each for each in self._sent if each[0] == ack.boot and each[1] < ack.sequence]:
                del self._sent[key]
            if begun_ns is None or not ack.received_ns or not ack.collector_ns:
                return
            held_ns = ack.collector_ns - ack.received_ns
            round_trip_ns = now_ns - begun_ns - held_ns
            if held_ns < 0 or round_trip_ns < 0:
                return  # the collector's clock was set meanwhile
            ahead_ns = ((begun_ns - ack.received_ns) + (now_ns - ack.collector_ns)) // 2
            self._add(Exchange(ahead_ns, round_trip_ns, held_ns, now_ns))

    def look(self) -> None:
        """See whether the clock was set since the last look."""
        base_ns, now_ns, between_ns = self._read()
        with self._mutex:
            if between_ns > LOOK_NS_MAX and abs(base_ns - self._base_ns) <= between_ns:
                return
            self._base_ns = base_ns
            jump_ns = base_ns - self._told_ns
            if abs(jump_ns) >= JUMP_NS_MIN:
                before_ns, self._told_ns = self._told_ns + now_ns, base_ns
                self._jump(now_ns, before_ns, jump_ns, WAS_SET)

    def offset(self) -> Offset | None:
        """What holds now; None before the first exchange."""
        with self._mutex:
            return self._offset(self._steady_ns())

    def rows(self, place: Mapping[str, Any], boot: str) -> Iterable[Batch]:
        """Rows of table node_clocks that are due: jumps at once, the offset once a minute.

        None before the first exchange: a collector that does not tell its time is of a version that does not know the table.
        """
        if not self._counted:
            return
        with self._mutex:
            now_ns = self._steady_ns()
            told = [self._row(each) for each in self._jumps]
            self._jumps.clear()
            offset = self._offset(now_ns)
            if offset is not None and (self._due_ns is None or now_ns >= self._due_ns):
                self._due_ns = now_ns + int(ROW_SECONDS * 1e9)
                told.append({"time_ns": self._base_ns + now_ns, "steady_ns": now_ns, **vars(offset)})
            common = {**place, "source": NAME, "boot": boot, "exchanges": self._counted, "jumps": self._jumped}
        if told:  # outside of the lock: whoever takes the rows may take his time
            yield Batch(NODE_CLOCKS.name, NAME, NODE_CLOCKS.from_rows(common | row for row in told))

    def _add(self, exchange: Exchange) -> None:
        """Where it contradicts what is known beyond both bounds, what is known holds no longer."""
        now_ns = exchange.at_ns
        self._counted += 1
        best = self._best(now_ns)
        if best is None or abs(exchange.ahead_ns - best.ahead_ns) <= exchange.error_ns(now_ns) + best.error_ns(now_ns):
            self._exchanges.append(exchange)
            return
        self._exchanges.clear()
        self._exchanges.append(exchange)
        jump_ns = exchange.ahead_ns - best.ahead_ns
        if abs(jump_ns) >= JUMP_NS_MIN:
            self._jump(now_ns, self._base_ns + now_ns, jump_ns, MOVED)

    def _jump(self, now_ns: int, before_ns: int, jump_ns: int, detail: str) -> None:
        self._jumped += 1
        time_ns = self._base_ns + now_ns
        self._jumps.append(Jump(time_ns, now_ns, before_ns, jump_ns, detail, self._offset(now_ns)))

    def _best(self, now_ns: int) -> Exchange | None:
        return min(self._exchanges, key=lambda each: each.error_ns(now_ns), default=None)

    def _offset(self, now_ns: int) -> Offset | None:
        best = self._best(now_ns)
        if best is None:
            return None
        return Offset(self._base_ns + best.ahead_ns, best.error_ns(now_ns), best.round_trip_ns)

    def _read(self) -> tuple[int, int, int]:
        """The wall clock less the steady one, the steady one, and what passed between reading them."""
        found: list[tuple[int, int, int]] = []
        for _ in range(LOOKS_MAX):
            before_ns = self._steady_ns()
            wall_ns = self._wall_ns()
            after_ns = self._steady_ns()
            found.append((after_ns - before_ns, wall_ns - (before_ns + after_ns) // 2, after_ns))
            if found[-1][0] <= LOOK_NS_MAX:
                break
        between_ns, base_ns, now_ns = min(found)
        return base_ns, now_ns, between_ns

    @staticmethod
    def _row(jump: Jump) -> dict[str, Any]:
        told = {name: value for name, value in vars(jump).items() if name != "offset"}
        return told | (vars(jump.offset) if jump.offset is not None else {})
