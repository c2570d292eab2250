"""Whether a job that is watched hangs, and who is behind, from where its ranks stand: hung, idle, or not to be told.

A job hangs where ranks wait in a collective that a rank which does nothing has not joined, or that all have joined and that does
not end. It does not hang where the rank that all wait for works, is stopped on purpose, or goes on; nor where all stand at the
same operation and no GPU has anything to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.finding import Check, Evidence, Finding, FindingKind, Onset, Report, Severity, Subject, Verdict
from warpline_proto.progress_table import BLOCKED, GONE, IN_COLLECTIVE, KERNELS, STARTING, STEPS, STOPPED, WORKING

from .blame import numbered
from .detector import Reader, literal, show
from .flight import SOURCE as DUMPS
from .live_progress import OVER, QUIET, Live, Together, as_dumps, live_jobs, newest_sql
from .node_clocks import on_one_clock
from .stacks import frames_told, top_frames
from .wait_for import SAME_SIZE, Culprit, WaitFor

DETECTOR: Final = "hang"
BUSY_PERCENT: Final = 95.0
"""A GPU that was in use for so much of the time, and whose kernels do not end, is in one that does not."""
IDLE_PERCENT: Final = 5.0
SAMPLED_NS: Final = 60 * 10**9
"""Use of GPUs is taken over so long."""
CONFIDENCE: Final = 0.8
DUMPS_MISSING: Final = "flight-recorder dumps: the line of code of each operation"


@dataclass(frozen=True)
class Judged:
    """What was found of one job. `settled`: nothing else that is known of it, dumps above all, needs to be judged."""

    report: Report
    settled: bool = True


def judge_live(reader: Reader) -> dict[str, Judged]:
    """By job, of those that are watched."""
    return {live.job: _judge(reader, live) for live in live_jobs(reader)}


def _judge(reader: Reader, live: Live) -> Judged:
    ranks = f"{len(live.positions)} ranks"
    if len(live.at(*OVER)) == len(live.positions):
        return _fine(live, f"the processes of all {ranks} are over")
    quiet = live.at(*QUIET)
    if not quiet:
        states = ", ".join(f"{len(live.at(state))} {state}" for state in _states(live))
        return _fine(live, f"none of {ranks} waits in silence ({states})")
    if stopped := live.at(STOPPED):
        who = numbered(stopped)
        return _open(live, f"{who} {_is(stopped)} stopped by a signal or a debugger, and {numbered(quiet)} wait; kill -CONT "
                     f"{_pids(live, stopped)} lets it go on")  # fmt: skip
    if moving := live.at(KERNELS, STARTING, STEPS):
        return _open(live, f"{numbered(quiet)} wait, {numbered(moving)} {_goes(moving)} on: "
                     f"{live.positions[moving[0]].reason}")  # fmt: skip
    return _Silent(reader, live, quiet).judged()


def _fine(live: Live, detail: str) -> Judged:
    return Judged(Report(checks=(Check(DETECTOR, Verdict.HEALTHY, live.job, detail),)))


def _open(live: Live, detail: str, settled: bool = True, missing: tuple[str, ...] = ()) -> Judged:
    return Judged(Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, live.job, detail, missing),)), settled)


def _states(live: Live) -> list[str]:
    return sorted({position.state for position in live.positions.values()})


@dataclass(frozen=True)
class _Silent:
    """A job of which nobody goes on and somebody does nothing."""

    reader: Reader
    live: Live
    quiet: Sequence[int]

    def judged(self) -> Judged:
        """Somebody is behind; or all have joined and nothing ends; or nothing is to be done; or that cannot be told."""
        if over := self.live.at(*OVER):
            return Judged(Report((self._left(over),)))
        graph = WaitFor(as_dumps(self.live))
        culprits = graph.outcome().culprits
        if program := self._program(culprits):
            return Judged(Report((program,)))
        named = [each for each in culprits if each.operation is not None]
        if named:
            return self._behind(named)
        working = self.live.at(WORKING)
        if working:
            return self._works(working, self.quiet)
        return self._level()

    def _behind(self, culprits: Sequence[Culprit]) -> Judged:
        working = [each.rank for each in culprits if self.live.positions[each.rank].state == WORKING]
        still = [each for each in culprits if each.rank not in working]
        if not still:
            return self._works(sorted(working), sorted({rank for each in culprits for rank in each.waiting}))
        first = still[0]
        members = [each for each in still if each.operation == first.operation]
        return Judged(Report((self._laggards(members),)))

    def _works(self, working: Sequence[int], waiting: Sequence[int]) -> Judged:
        others = [rank for rank in waiting if rank not in working]
        return _open(
            self.live,
            f"{numbered(others)} wait for {numbered(working)}, whose host works "
            f"({self.live.positions[working[0]].reason}): a checkpoint, data or compilation, and no hang as far as can be seen",
        )

    def _laggards(self, culprits: Sequence[Culprit]) -> Finding:
        first = culprits[0]
        ranks = tuple(sorted(each.rank for each in culprits))
        waiting = tuple(sorted({rank for each in culprits for rank in each.waiting}))
        operation = first.operation
        assert operation is not None  # only those are named
        communicator, _, name = operation.key.rpartition(" ")
        together = next(each for each in self.live.communicators if each.communicator == communicator)
        at = self.live.positions[ranks[0]]
        return self._finding(
            ranks,
            f"{_capital(numbered(ranks))} {_has(ranks)} not joined {name} {operation.sequence} of {_named(together)}, in which "
            f"{numbered(waiting)} wait; {'it does' if len(ranks) == 1 else 'they do'} nothing: {at.reason}",
            self._next_step(ranks),
            CONFIDENCE if 2 * len(ranks) <= len(ranks) + len(waiting) else 0.5,
            first.since_ns,
            communicator,
            (f"{numbered(waiting)}: all wait for what {numbered(ranks)} {_has(ranks)} not enqueued",),
        )

    def _left(self, over: Sequence[int]) -> Finding:
        """Ranks whose processes are over can join nothing any more."""
        gone = self.live.at(GONE)
        ranks = tuple(gone or over)
        how = "gone without a word" if gone else "over"
        since = [each.since_ns for rank in self.quiet if (each := self.live.positions[rank]).since_ns is not None]
        return self._finding(
            ranks,
            f"The process{'es' * (len(ranks) > 1)} of {numbered(ranks)} {'is' if len(ranks) == 1 else 'are'} {how}, and "
            f"{numbered(self.quiet)} wait in silence",
            f"See why it ended (its last log lines, dmesg for Xid and out-of-memory kills{self._where(ranks)}), and end the job: "
            "the others cannot go on",
            0.85 if gone else 0.6,
            min((each for each in since if each is not None), default=None),
            None,
            (),
            Severity.CRITICAL if gone else Severity.WARNING,
        )

    def _program(self, culprits: Sequence[Culprit]) -> Finding | None:
        """Ranks that wait for each other on one communicator call different operations on it."""
        for each in self.live.communicators:
            ahead = {name: max(at.sequence for at in newest.values()) for name, newest in each.operations.items()}
            behind = {
                name: {rank for rank in each.ranks if rank not in newest or newest[rank].sequence < ahead[name]}
                for name, newest in each.operations.items()
            }
            crossed = [name for name, ranks in behind.items() if ranks and any(ranks.isdisjoint(other) for other in
                       behind.values() if other)]  # fmt: skip
            if len(crossed) > 1 and each.whole and any(culprit.circle for culprit in culprits):
                return self._differ(
                    each, {name: [rank for rank in each.ranks if rank not in behind[name]] for name in crossed}
                )
        return self._sizes()

    def _sizes(self) -> Finding | None:
        """The newest operation, if all members of it have passed, and not of one size."""
        newest = self._newest()
        if newest is None:
            return None
        together, name = newest
        at = together.operations[name]
        level = len({each.sequence for each in at.values()}) == 1 and len(at) == len(together.ranks)
        sizes: dict[str, list[int]] = {}
        for rank, each in sorted(at.items()):
            sizes.setdefault(f"{name} of {each.elements} {each.datatype or 'elements'}", []).append(rank)
        if name not in SAME_SIZE or not level or len(sizes) < 2 or any(each.elements is None for each in at.values()):
            return None
        return self._differ(together, sizes)

    def _differ(self, together: Together, calls: dict[str, list[int]]) -> Finding:
        said = "; ".join(f"{numbered(ranks)}: {call}" for call, ranks in sorted(calls.items())[:4])
        return self._finding(
            together.ranks,
            f"The program calls different operations on {_named(together)}: {said}",
            "Find the branch in which these ranks leave the common order of collectives (py-spy dump --pid PID of each); no "
            "machine is at fault",
            CONFIDENCE,
            None,
            together.communicator,
            ("hardware: the ranks are all there, but not in the same operation",),
            group="the program",
        )

    def _level(self) -> Judged:
        """Nobody is behind as far as is seen: an operation does not end, or there is nothing to do."""
        use = self._use()
        quiet = self.live.at(IN_COLLECTIVE)
        newest = self._newest()
        busy = bool(use) and min(use.values()) >= BUSY_PERCENT and len(use) == len(self.quiet)
        if newest is not None and (len(quiet) == len(self.live.positions) or busy) and not self.live.at(BLOCKED):
            together, name = newest
            if together.whole and len(together.ranks) > 1:
                return Judged(Report((self._transfer(together, name),)), settled=False)
        if self.live.at(BLOCKED):
            return Judged(Report((self._blocked(),)))
        missing = self._unseen()
        if not quiet and not missing and use and max(use.values()) <= IDLE_PERCENT:
            return _fine(self.live, f"all {len(self.live.positions)} ranks stand at the same operation, and their GPUs are idle: "
                         "the job waits for something else than a collective")  # fmt: skip
        why = "whether an operation is outstanding" if not missing else "; ".join(missing)
        return _open(
            self.live,
            f"{numbered(self.quiet)} do nothing, and nobody is behind as far as is seen: idle, or in an operation that does not "
            "end",
            False,
            (why,),
        )

    def _transfer(self, together: Together, name: str) -> Finding:
        at = together.operations[name]
        sequence = max(each.sequence for each in at.values())
        starts = [each.enqueued_ns for each in at.values() if each.enqueued_ns is not None]
        return self._finding(
            together.ranks,
            f"{name} {sequence} of {_named(together)} does not end though {numbered(together.ranks)} have all joined it",
            f"On the nodes of {numbered(together.ranks)}: dmesg for Xid and link errors, port counters, NCCL warnings; then "
            "nccl-tests on these ranks",
            0.6,
            max(starts, default=None),
            together.communicator,
            ("a rank that is behind: every member has enqueued the operation",),
        )

    def _blocked(self) -> Finding:
        ranks = tuple(self.live.at(BLOCKED))
        at = self.live.positions[ranks[0]]
        others = [rank for rank in self.quiet if rank not in ranks]
        return self._finding(
            ranks,
            f"{_capital(numbered(ranks))} {_is(ranks)} held in the kernel of the operating system"
            + (f", and {numbered(others)} do nothing" if others else ""),
            f"See what {_pids(self.live, ranks)} waits in (cat /proc/PID/stack as root, dmesg{self._where(ranks)}): a file "
            "system, or a driver",
            0.6,
            at.since_ns,
            None,
            (),
        )

    def _newest(self) -> tuple[Together, str] | None:
        """The operation that was enqueued last of all."""
        every = [
            (max((at.enqueued_ns or 0 for at in newest.values()), default=0), place, name)
            for place, each in enumerate(self.live.communicators)
            for name, newest in each.operations.items()
        ]
        if not every:
            return None
        _, place, name = max(every)
        return self.live.communicators[place], name

    def _use(self) -> dict[int, float]:
        """Least use of the GPU of each quiet rank over the last minute, percent, where it is known."""
        gpus = {at.gpu: rank for rank in self.quiet if (at := self.live.positions[rank]).gpu is not None}
        if not gpus:
            return {}
        since_ns = max(at.time_ns for at in self.live.positions.values()) - SAMPLED_NS
        rows = self.reader.query(
            "SELECT gpu_uuid, min(gpu_utilization_percent) AS low, max(gpu_utilization_percent) AS high FROM device_samples "
            f"WHERE {on_one_clock(self.reader)} >= {since_ns} AND gpu_utilization_percent IS NOT NULL AND gpu_uuid IN "
            f"({', '.join(literal(each) for each in gpus)}) GROUP BY gpu_uuid"
        ).to_pylist()
        return {gpus[row["gpu_uuid"]]: row["low"] if row["low"] >= BUSY_PERCENT else row["high"] for row in rows}

    def _unseen(self) -> list[str]:
        """Ranks that are not seen."""
        found = []
        if self.live.unheard:
            found.append(f"word of {numbered(self.live.unheard)}")
        known = len(self.live.positions) + len(self.live.unheard)
        if self.live.size is not None and known < self.live.size:
            found.append(f"{self.live.size - known} ranks that are not watched")
        return found

    def _finding(
        self,
        ranks: Sequence[int],
        summary: str,
        next_step: str,
        confidence: float,
        since_ns: int | None,
        communicator: str | None,
        ruled_out: tuple[str, ...],
        severity: Severity = Severity.CRITICAL,
        group: str | None = None,
    ) -> Finding:
        places = [self.live.positions[rank] for rank in ranks]
        nodes = {at.node for at in places}
        one = len(ranks) == 1
        frames = self._frames(ranks[0], places[0].since_ns) if one else None
        told = f" Its threads are in {frames_told(frames)}." if frames else ""
        return Finding(
            kind=FindingKind.HANG,
            severity=severity,
            confidence=confidence,
            subject=Subject(
                job=self.live.job,
                rank=ranks[0] if one else None,
                group=group or (None if one else numbered(ranks)),
                node=nodes.pop() if len(nodes) == 1 else None,
                gpu=places[0].gpu if one else None,
                communicator=communicator,
            ),
            summary=summary,
            next_step=next_step + told,
            onset=Onset(since_ns),
            evidence=(*self._shown(communicator), *((frames,) if frames else ())),
            ruled_out=ruled_out,
            missing=(*self._unseen(), *self._without_dumps()),
        )

    def _shown(self, communicator: str | None) -> tuple[Evidence, ...]:
        stand = show(self.reader, newest_sql(self.live.job))
        return (stand,) if communicator is None else (show(self.reader, newest_sql(self.live.job, communicator)), stand)

    def _frames(self, rank: int, since_ns: int | None) -> Evidence | None:
        return top_frames(self.reader, self.live.job, rank, since_ns)

    def _without_dumps(self) -> list[str]:
        of = f"source = '{DUMPS}' AND job = {literal(self.live.job)}"
        known: Any = self.reader.query(f"SELECT count(*) AS n FROM communicators WHERE {of}").to_pylist()
        return [] if known[0]["n"] else [DUMPS_MISSING]

    def _next_step(self, ranks: Sequence[int]) -> str:
        return (
            f"Take the stack of {numbered(ranks)}{self._where(ranks)} (py-spy dump --pid {_pids(self.live, ranks)}; add --native "
            "if it shows a CUDA or NCCL call): interpreter lock, data loader, file system; then check its GPU (dmesg for Xid)"
        )

    def _where(self, ranks: Sequence[int]) -> str:
        nodes = sorted({at.node for rank in ranks if (at := self.live.positions[rank]).node})
        return f" on {', '.join(str(node) for node in nodes[:4])}" if nodes else ""


def _named(together: Together) -> str:
    return (
        f"{together.name}, communicator {together.communicator}"
        if together.name
        else f"communicator {together.communicator}"
    )


def _pids(live: Live, ranks: Sequence[int]) -> str:
    return ", ".join(str(live.positions[rank].pid) for rank in ranks[:8])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _is(ranks: Sequence[int]) -> str:
    return "is" if len(ranks) == 1 else "are"


def _has(ranks: Sequence[int]) -> str:
    return "has" if len(ranks) == 1 else "have"


def _goes(ranks: Sequence[int]) -> str:
    return "goes" if len(ranks) == 1 else "go"
