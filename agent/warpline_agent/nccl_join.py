"""Gives each operation that NCCL told of the kernel that did it, by order.

NCCL's plugin says when an operation was enqueued, CUPTI when a kernel ran, and nothing says which kernel is whose.

Operations of one launch are done by one kernel: NCCL tells launches apart, and where it does not, operations that it tells within
a microsecond or two are one. Which streams a communicator
uses is learned from what was launched in which order (CUPTI numbers launches as they are made); from then on its launches and the
kernels on its streams are a queue of their own (`nccl_lane`). What is not certain stays without a kernel, and is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from warpline_hook import ring

from .kernels import TIME_NS_MAX, Kernels
from .nccl_activity import Activity, Spans, Window
from .nccl_lane import LAUNCH, LOST, RUN, TOLD_LATE_NS, Lane, Launches, Pairs, Runs
from .nccl_launches import FUSED_NS, in_launch_order, in_queues, launches_of, runs_of, together
from .nccl_names import NOT_NCCL, Vocabulary, is_operation
from .ring_file import Records, RingFile

ADVANCE_NS: Final = 1_000_000_000
"""Records are joined at most so often."""
KERNEL_WAIT_NS: Final = 20_000_000_000
"""An operation waits no longer for its kernel."""
PATIENCE_NS: Final = 10_000_000_000
"""While streams are not known, a kernel launched earlier may come so much later than others."""
LEARNED_MIN: Final = 3
"""Launches of a communicator after which its stream is known."""
LANES_MAX: Final = 64
OPERATIONS_MAX: Final = 131_072
"""Operations that wait; further ones are told without a kernel."""
ORPHAN_NS: Final = 15_000_000_000
"""What is on streams that are not known and has no other side for so long shows that what was learned is wrong."""
UNLEARN_NS: Final = 60_000_000_000
UNLEARN_NS_MAX: Final = 3_600_000_000_000
"""So long what was learned holds at least, twice as long each time."""
LINKS_MAX: Final = 4_096
_EVER: Final = 1 << 62

WAITING, JOINED, SHARED, NOT_CAPTURED, UNCERTAIN = range(5)
"""What is known of an operation; of those that share a kernel the first is JOINED. From NOT_CAPTURED on it has no kernel."""
REASONS: Final = {NOT_CAPTURED: "told while kernels were not captured", UNCERTAIN: "whose kernel is not certain"}

_ABOUT: Final = np.dtype(
    [
        ("number", "<i8"),
        ("outcome", "u1"),
        ("missing", "?"),
        ("position", "<i8"),
        ("launch", "<i8"),
        ("start", "<i8"),
        ("duration", "<i8"),
        ("stream", "<i8"),
        ("together", "<i4"),
    ]
)
Flags = npt.NDArray[np.bool_]


class Operations(NamedTuple):
    """Records of operations; with each the outcome, start and duration of its kernel (ns), its stream, and how many share it."""

    records: Records
    about: npt.NDArray[np.void]


class NcclJoin:
    """The operations and kernels of one ring. `joined` and `unjoined` count what has become of operations."""

    def __init__(self) -> None:
        self.joined = 0
        self.unjoined: Counter[str] = Counter()
        self._words = Vocabulary()
        self._records: Records | None = None
        self._about = np.zeros(0, _ABOUT)
        self._arrived: list[Operations] = []
        self._next = self._formed = self._made = 0
        self._missing = False
        self._last: dict[int, int] = {}
        self._runs: list[Runs] = []
        self._settled_ns = 0
        self._activity = Activity()
        self._pool = Lane()
        self._lanes: list[Lane] = []
        self._of_communicator: dict[int, Lane] = {}
        self._of_stream: dict[int, Lane] = {}
        self._seen: Counter[tuple[int, int]] = Counter()
        self._unlearned_ns = 0
        self._pause_ns = UNLEARN_NS

    @property
    def waiting(self) -> int:
        """Operations that have been taken and not given back."""
        return len(self._about) + sum(len(each.about) for each in self._arrived)

    @property
    def position(self) -> int | None:
        """Where in its lane the oldest of them is; all before it have been given back."""
        first = next((each for each in (self._about, *(part.about for part in self._arrived)) if len(each)), None)
        return None if first is None else int(first["position"][0])

    @property
    def first_ns(self) -> int | None:
        """When the oldest of them was told."""
        parts = [self._records, *(part.records for part in self._arrived)]
        return min((int(part["start_ns"].min()) for part in parts if part is not None and len(part)), default=None)

    @property
    def uncertain(self) -> int:
        """Operations that ran while kernels were captured and have none."""
        return self.unjoined[REASONS[UNCERTAIN]]

    def account(self) -> str:
        """What has become of operations, in words."""
        without = " and ".join(f"{count} {reason}" for reason, count in sorted(self.unjoined.items()))
        return f"of {self.joined + self.unjoined.total()} operations of NCCL {without} have no time of their kernel"

    def take_operations(self, records: Records, position: int = 0, *, missing: bool) -> None:
        """New records of NCCL's lane from a position on; `missing` says that some between them found no room."""
        found = records[is_operation(records) & (records["start_ns"] < TIME_NS_MAX)]
        about = np.zeros(len(found), _ABOUT)
        about["number"] = np.arange(self._next, self._next + len(found))
        about["position"] = position + (found["commit"].astype(np.int64) - 1 - position) % (1 << 32)
        about["missing"] = missing or self._missing
        self._missing = missing
        self._next += len(found)
        if len(found):
            self._arrived.append(Operations(found, about))

    def take_kernels(self, records: Records, kernels: Kernels, file: RingFile) -> None:
        """New records of the kernel lane, and what they say."""
        self._activity.add(kernels.start_ns, kernels.end_ns)
        self._activity.lose(records)
        codes = self._words.kernels(records["name"], file)
        chosen = (records["kind"] == ring.KERNEL) & (codes != NOT_NCCL) & (records["extra"] == 0)
        chosen &= (records["start_ns"] < TIME_NS_MAX) & (records["duration_ns"] < TIME_NS_MAX)
        if chosen.any():
            self._runs.append(runs_of(records[chosen], codes[chosen]))

    def take_events(self, events: Records) -> None:
        """What CUPTI says it has lost."""
        self._activity.lose(events)

    def advance(self, settled_ns: int, windows: Iterable[Window], file: RingFile, *, final: bool = False) -> None:
        """Join what can be; before `settled_ns` nothing more comes, in `windows` kernels were captured."""
        if settled_ns < self._settled_ns + ADVANCE_NS and not final and self.waiting < OPERATIONS_MAX:
            return
        self._settled_ns = settled_ns
        parts = [*([] if self._records is None else [Operations(self._records, self._about)]), *self._arrived]
        if self._arrived:
            self._records = np.concatenate([part.records for part in parts])
            self._about = np.concatenate([part.about for part in parts])
            self._arrived = []
        spans = self._activity.settle(settled_ns, windows)
        self._distribute(self._launches(settled_ns, file), self._settled_runs(settled_ns - 2 * TOLD_LATE_NS, spans))
        self._learn(settled_ns, final=final)
        self._queues(self._pool.frontier_ns)
        self._unlearn(settled_ns)
        self._give_up(settled_ns, spans, final=final)

    def ripe(self, before_ns: int) -> Operations | None:
        """Operations told before a moment of which it is known what became of them, up to the first that is neither."""
        if self._records is None or not len(self._about):
            return None
        known = (self._about["outcome"] != WAITING) & (self._records["start_ns"] < before_ns)
        count = int(known.size if known.all() else known.argmin())
        if not count:
            return None
        given = Operations(self._records[:count], self._about[:count])
        self._records, self._about = self._records[count:], self._about[count:]
        outcomes = Counter(given.about["outcome"].tolist())
        self.joined += outcomes[JOINED] + outcomes[SHARED]
        self.unjoined.update({REASONS[each]: count for each, count in outcomes.items() if each >= NOT_CAPTURED})
        return given

    def _launches(self, settled_ns: int, file: RingFile) -> Launches:
        """Launches of the operations that were told before a moment."""
        begin = int(np.searchsorted(self._about["number"], self._formed))
        if self._records is None or begin == len(self._about):
            return np.zeros(0, LAUNCH)
        times = self._records["start_ns"][begin:].astype(np.int64)
        late = times >= settled_ns
        count = int(late.argmax()) if late.any() else len(times)
        launch = self._records["duration_ns"][begin:]
        while 0 < count < len(times) and (
            times[count] - times[count - 1] <= FUSED_NS or launch[count] == launch[count - 1] > 0
        ):
            count += 1
        if not count:
            return np.zeros(0, LAUNCH)
        records, about = self._records[begin : begin + count], self._about[begin : begin + count]
        self._formed += count
        gaps = np.stack([self._holes(records), about["missing"]])
        launches, which = launches_of(records, gaps, self._words.operations(records, file), self._words)
        launches["number"] = np.arange(self._made, self._made + len(launches))
        about["launch"] = self._made + which
        self._made += len(launches)
        return launches

    def _holes(self, records: Records) -> Flags:
        """Before which operations others of their kind are missing: NCCL numbers them by communicator and function."""
        kind = np.where(records["kind"] == ring.COLLECTIVE, records["name"], 0).astype(np.int64)
        key = records["extra"].astype(np.int64) << 32 | kind
        order = np.argsort(key, kind="stable")
        sorted_key, number = key[order], records["number"][order].astype(np.int64)
        before = np.empty(len(records), dtype=np.int64)
        before[1:] = number[:-1]
        first = (
            np.flatnonzero(np.append(True, sorted_key[1:] != sorted_key[:-1]))
            if len(records)
            else np.zeros(0, np.int64)
        )
        last = np.append(first[1:], len(records)) - 1
        for at, end in zip(first.tolist(), last.tolist(), strict=True):
            each = int(sorted_key[at])
            before[at] = self._last.get(each, -1)
            self._last[each] = int(number[end])
        holes = np.empty(len(records), dtype=np.bool_)
        holes[order] = number != before + 1
        return holes

    def _settled_runs(self, settled_ns: int, spans: Spans) -> Runs:
        """Kernels that began before a moment, by start, with the span of capture they lie in."""
        if not self._runs:
            return np.zeros(0, RUN)
        every: Runs = np.concatenate(self._runs)
        early = every["start"] < settled_ns
        self._runs = [] if early.all() else [every[~early]]
        chosen = every[early]
        chosen = chosen[np.argsort(chosen["start"], kind="stable")]
        chosen["span"] = spans.at(chosen["start"])
        return chosen

    def _distribute(self, launches: Launches, runs: Runs) -> None:
        for communicator in np.unique(launches["communicator"]).tolist() if len(launches) else ():
            lane = self._of_communicator.get(communicator, self._pool)
            lane.launches = np.concatenate([lane.launches, launches[launches["communicator"] == communicator]])
        for stream in np.unique(runs["stream"]).tolist() if len(runs) else ():
            lane = self._of_stream.get(stream, self._pool)
            lane.runs = np.concatenate([lane.runs, runs[runs["stream"] == stream]])

    def _queues(self, until_ns: int) -> None:
        """Join within each queue whose communicators and streams are known.

        What is launched on streams that are not known may run on these too: nothing is joined beyond the first of that.
        """
        for lane in self._lanes:
            lane.put_in_order("start")
            early = int(np.searchsorted(lane.runs["start"], until_ns))
            later, lane.runs = lane.runs[early:], lane.runs[:early]
            self._decide(lane.join(self._words, self._activity.idle, all_told=True))
            lane.runs = np.concatenate([lane.runs, later])

    def _learn(self, settled_ns: int, *, final: bool) -> None:
        """Join what is of communicators and streams not known yet, and learn from it which belong together."""
        pool = self._pool
        if not len(pool.runs) and pool.frontier_ns >= settled_ns:
            return
        pool.rewind()
        plain = len(np.unique(pool.launches["communicator"])) <= 1 or len(np.unique(pool.runs["stream"])) <= 1
        pool.put_in_order("start" if plain else "order")
        if not plain and not in_launch_order(pool.runs):
            return
        settled = len(pool.launches)
        if not plain and not final:
            settled = int(np.searchsorted(pool.launches["time"], settled_ns - PATIENCE_NS))
        later, pool.launches = pool.launches[settled:], pool.launches[:settled]
        pairs = pool.join(self._words, self._activity.idle, all_told=not len(later))
        pool.launches = np.concatenate([pool.launches, later])
        if not pairs:
            return
        found = Pairs(np.concatenate([each.launches for each in pairs]), np.concatenate([each.runs for each in pairs]))
        if not in_queues(found):
            pool.lose()
            return
        self._decide([found])
        self._remember(found)

    def _remember(self, pairs: Pairs) -> None:
        """Communicators and streams that were seen together often enough become a queue of their own."""
        links, counts = np.unique(
            np.stack([pairs.launches["communicator"], pairs.runs["stream"]], axis=1), axis=0, return_counts=True
        )
        for (communicator, stream), count in zip(links.tolist(), counts.tolist(), strict=True):
            if len(self._seen) < LINKS_MAX or (communicator, stream) in self._seen:
                self._seen[communicator, stream] += count
        for communicators, streams in together(self._seen):
            known = all(sum(self._seen[each, stream] for stream in streams) >= LEARNED_MIN for each in communicators)
            new = not communicators & self._of_communicator.keys()
            if known and new and 1 in (len(communicators), len(streams)) and len(self._lanes) < LANES_MAX:
                self._open(communicators, streams)

    def _open(self, communicators: set[int], streams: set[int]) -> None:
        pool = self._pool
        pool.rewind()
        lane = Lane(synced=pool.synced, span=pool.span, begun=pool.begun)
        own = np.isin(pool.launches["communicator"], list(communicators))
        lane.launches, pool.launches = pool.launches[own], pool.launches[~own]
        own = np.isin(pool.runs["stream"], list(streams))
        lane.runs, pool.runs = pool.runs[own], pool.runs[~own]
        self._lanes.append(lane)
        self._of_communicator.update(dict.fromkeys(communicators, lane))
        self._of_stream.update(dict.fromkeys(streams, lane))

    def _unlearn(self, settled_ns: int) -> None:
        """Begin anew where something on a stream that is not known stays without its other side."""
        pool = self._pool
        oldest = min(pool.frontier_ns, int(pool.runs["start"].min()) if len(pool.runs) else _EVER)
        if not self._lanes or oldest > settled_ns - ORPHAN_NS or settled_ns < self._unlearned_ns + self._pause_ns:
            return
        self._unlearned_ns, self._pause_ns = settled_ns, min(self._pause_ns * 2, UNLEARN_NS_MAX)
        for lane in (pool, *self._lanes):
            lane.rewind()
        pool.launches = np.concatenate([lane.launches for lane in (pool, *self._lanes)])
        pool.runs = np.concatenate([lane.runs for lane in (pool, *self._lanes)])
        pool.lose()
        self._lanes, self._of_communicator, self._of_stream = [], {}, {}
        self._seen.clear()

    def _give_up(self, settled_ns: int, spans: Spans, *, final: bool) -> None:
        """Give up what has waited for too long, or for what cannot come, and note which operations have no kernel."""
        captured = not final and int(spans.at(np.array([settled_ns]))[0]) != LOST
        for lane in (self._pool, *self._lanes):
            if final or (not captured and not len(lane.runs)):
                lane.give_up()
            lane.expire(settled_ns - KERNEL_WAIT_NS)
            if not lane.synced and len(lane.launches):
                lane.launches = lane.launches[spans.at(lane.launches["time"]) != LOST]
        open_ = np.flatnonzero((self._about["outcome"] == WAITING) & (self._about["number"] < self._formed))
        if self._records is None or not len(open_):
            return
        communicators, place = np.unique(self._records["extra"][open_], return_inverse=True)
        lanes = (self._of_communicator.get(int(each), self._pool) for each in communicators)
        frontier = np.array([lane.frontier_ns for lane in lanes], dtype=np.int64)[place]
        times = self._records["start_ns"][open_].astype(np.int64)
        over = times < frontier
        outcome = np.where(spans.at(times) == LOST, NOT_CAPTURED, UNCERTAIN)
        self._about["outcome"][open_[over]] = outcome[over]

    def _decide(self, pairs: Iterable[Pairs]) -> None:
        """Note the kernel of each operation of these launches."""
        parts = [part for part in pairs if len(part.launches)]
        if not parts:
            return
        launches = np.concatenate([part.launches for part in parts])
        runs = np.concatenate([part.runs for part in parts])
        order = np.argsort(launches["number"])
        numbers = launches["number"][order]
        formed = np.flatnonzero(self._about["number"] < self._formed)
        place = np.minimum(np.searchsorted(numbers, self._about["launch"][formed]), len(numbers) - 1)
        own = numbers[place] == self._about["launch"][formed]
        chosen, which = formed[own], order[place[own]]
        leads = np.zeros(len(chosen), dtype=np.bool_)
        leads[np.unique(which, return_index=True)[1]] = True
        self._about["outcome"][chosen] = np.where(leads, JOINED, SHARED)
        self._about["start"][chosen] = runs["start"][which]
        self._about["duration"][chosen] = (runs["end"] - runs["start"])[which]
        self._about["stream"][chosen] = runs["stream"][which] & 0xFFFFFFFF
        self._about["together"][chosen] = launches["count"][which]
