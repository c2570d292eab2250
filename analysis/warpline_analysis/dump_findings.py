"""What flight-recorder dumps say of a hang, as findings: the ranks everything waits for, or what keeps them from being named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.finding import Check, Evidence, Finding, FindingKind, Onset, Report, Severity, Subject, Verdict

from .blame import numbered
from .detector import Reader, literal, show
from .flight import Dumps, Group, progress_sql
from .wait_for import Culprit, End, Operation, Outcome, Tie, WaitFor, alone_absent

DETECTOR: Final = "hang"
FINDINGS_MAX: Final = 32
"""Groups of culprits told one by one."""
NO_DUMP_TIME: Final = (
    "when the dumps were taken: how long the ranks have waited (a running job can look like this for a moment)"
)
CONFIDENCE: Final = {Tie.MISSING: 0.85, Tie.UNPAIRED: 0.75, Tie.QUEUED: 0.5}
PY_SPY: Final = "py-spy dump --pid PID"


@dataclass(frozen=True)
class Place:
    """Node and GPU of a rank, where known."""

    node: str | None = None
    gpu: str | None = None


def judge_dumps(reader: Reader, dumps: Dumps, told: int) -> Report:
    """`told` is how many ranks' logs report a hang of the same job."""
    if not dumps.unfinished:
        return Report(checks=(_nothing_pending(dumps),))
    graph = WaitFor(dumps)
    outcome = graph.outcome()
    firm = [culprit for culprit in outcome.culprits if culprit.tie != Tie.QUEUED]
    culprits = outcome.culprits if firm or told else ()
    judge = _Judge(reader, dumps, graph, outcome, told)
    findings = [*judge.programs(), *judge.of_culprits(culprits)]
    if not findings:
        findings = [*judge.of_absent(), *judge.of_transfers()]
    return Report(tuple(findings), () if findings else (judge.unknown(),))


def _nothing_pending(dumps: Dumps) -> Check:
    ranks = f"{len(dumps.present)} ranks"
    if not dumps.entries:
        return Check(DETECTOR, Verdict.UNKNOWN, dumps.job, f"the dumps of {ranks} hold no operation", ("operations",))
    absent = f"; {len(dumps.absent)} ranks left no dump" if dumps.absent else ""
    detail = f"all {dumps.entries} operations recorded by {ranks} are completed{absent}"
    return Check(DETECTOR, Verdict.HEALTHY, dumps.job, detail)


@dataclass(frozen=True)
class _Judge:
    """Words for one job."""

    reader: Reader
    dumps: Dumps
    graph: WaitFor
    outcome: Outcome
    told: int

    def of_culprits(self, culprits: Sequence[Culprit]) -> list[Finding]:
        """One finding for those that are missing in the same operation; each of the others by itself."""
        groups: dict[tuple[Any, ...], list[Culprit]] = {}
        for culprit in culprits:
            alone = None if culprit.operation or culprit.circle else culprit.rank
            together = culprit.circle or (culprit.tie, culprit.operation, alone)
            groups.setdefault(together, []).append(culprit)
        return [self._culprits(members) for members in list(groups.values())[:FINDINGS_MAX]]

    def _culprits(self, members: Sequence[Culprit]) -> Finding:
        first, ranks = members[0], tuple(sorted(culprit.rank for culprit in members))
        return Finding(
            kind=FindingKind.HANG,
            severity=Severity.CRITICAL if first.tie != Tie.QUEUED else Severity.WARNING,
            confidence=self._confidence(first, ranks),
            subject=self._subject(ranks, None if first.circle else first.operation),
            summary=self._accusation(first, ranks),
            next_step=self._next_step(first, ranks),
            onset=Onset(first.since_ns),
            evidence=(self._evidence(first, ranks),),
            ruled_out=self._ruled_out(first),
            missing=self._missing(),
        )

    def _confidence(self, culprit: Culprit, ranks: Sequence[int]) -> float:
        value = CONFIDENCE[culprit.tie] + (0.1 if self.told else 0.0) - (0.1 if self.dumps.absent else 0.0)
        lonely = culprit.operation is not None and len(ranks) > len(culprit.waiting)
        return round(min(value, 0.5) if culprit.circle or lonely else value, 2)

    def _subject(self, ranks: Sequence[int], operation: Operation | None) -> Subject:
        places = _places(self.reader, self.dumps.job, ranks)
        nodes = {places.get(rank, Place()).node for rank in ranks}
        group = self._group(operation)
        one = len(ranks) == 1
        return Subject(
            job=self.dumps.job,
            rank=ranks[0] if one else None,
            group=None if one else numbered(ranks),
            node=nodes.pop() if len(nodes) == 1 else None,
            gpu=places.get(ranks[0], Place()).gpu if one else None,
            communicator=group.communicator if group else None,
        )

    def _group(self, operation: Operation | None) -> Group | None:
        return self.dumps.groups[operation.key] if operation else None

    def _named(self, operation: Operation) -> str:
        issued = self.dumps.issued.get((operation.key, operation.sequence), {})
        name = next((kind[0] for kind in issued.values() if kind[0]), "operation")
        return f"{name} {operation.sequence} of {self.dumps.groups[operation.key]}"

    def _accusation(self, culprit: Culprit, ranks: Sequence[int]) -> str:
        who = _capital(numbered(ranks))
        verb = "has" if len(ranks) == 1 else "have"
        waits = f"{numbered(culprit.waiting)} wait{'s' if len(culprit.waiting) == 1 else ''}"
        behind = f"; {self.outcome.victims} ranks are held up in all" if self.outcome.victims else ""
        if culprit.circle:
            circle = _capital(numbered(culprit.circle))
            return f"{circle} wait for each other, each for an operation the next has not issued{behind}"
        if culprit.operation:
            return f"{who} {verb} not joined {self._named(culprit.operation)}, in which {waits}; {self._standing(ranks)}{behind}"
        if culprit.tie == Tie.UNPAIRED:
            return f"{who} {verb} not issued its side of a send or receive for which {waits}; {self._standing(ranks)}{behind}"
        return (
            f"{who} no longer {'sees' if len(ranks) == 1 else 'see'} operations end that other ranks completed, and {waits} "
            f"behind it; {self._standing(ranks)}"
        )

    def _standing(self, ranks: Sequence[int]) -> str:
        counts = [self.dumps.counts.get(rank, 0) for rank in ranks]
        if not any(counts):
            return "nothing is pending there: it waits for no other rank"
        return f"{max(counts)} operations are pending there, the oldest of which waits for no other rank"

    def _next_step(self, culprit: Culprit, ranks: Sequence[int]) -> str:
        places = _places(self.reader, self.dumps.job, ranks)
        nodes = sorted({place.node for place in places.values() if place.node})
        where = f" on {', '.join(nodes[:4])}" if nodes else ""
        if culprit.circle:
            return (
                f"Compare the order in which {numbered(culprit.circle)} call their collectives ({PY_SPY} of each{where}): if it "
                "is the same, the one whose stack is not in a collective is stuck"
            )
        stack = f"take the stack of {numbered(ranks)}{where} ({PY_SPY}; add --native if it shows a CUDA or NCCL call)"
        gpu = f"check its GPU{where} (dmesg for Xid, nvidia-smi -q, a small GEMM)"
        if any(self.dumps.counts.get(rank, 0) for rank in ranks):
            return f"{_capital(gpu)}: it stopped ending operations that others ended; then {stack}"
        return f"{_capital(stack)}: interpreter lock, data loader, checkpoint or file system; then {gpu}"

    def _evidence(self, culprit: Culprit, ranks: Sequence[int]) -> Evidence:
        group = None if culprit.circle else self._group(culprit.operation)
        if group is not None:
            return show(self.reader, progress_sql(self.dumps.job, group.communicator, group.ranks))
        return self._oldest([*ranks, *culprit.waiting])

    def _oldest(self, ranks: Sequence[int]) -> Evidence:
        """Oldest pending operations of some ranks."""
        return show(
            self.reader,
            "SELECT rank, communicator, operation, sequence, peer, state, start_ns FROM collectives WHERE source = "
            f"'flight_recorder' AND job IS NOT DISTINCT FROM {literal(self.dumps.job)} AND state != 'completed' "
            f"AND rank IN ({', '.join(map(str, ranks[:64]))}) QUALIFY row_number() OVER (PARTITION BY rank "
            "ORDER BY start_ns) = 1 ORDER BY start_ns, rank",
        )

    def _ruled_out(self, culprit: Culprit) -> tuple[str, ...]:
        accused = {each.rank for each in self.outcome.culprits}
        held = sorted(rank for rank, pending in self.dumps.counts.items() if pending and rank not in accused)
        victims = (
            f"{numbered(held)}: what they have pending waits, directly or through others, for somebody else"
            if held
            else ""
        )
        agree = (
            culprit.operation
            and len(self.dumps.issued.get((culprit.operation.key, culprit.operation.sequence), ())) > 1
        )
        program = (
            "a program that calls different collectives: those that joined agree on the operation" if agree else ""
        )
        return () if culprit.circle else tuple(filter(None, (victims, program)))

    def _missing(self) -> tuple[str, ...]:
        absent = sorted(self.dumps.absent)
        return tuple(
            filter(
                None,
                (
                    "" if self.told else NO_DUMP_TIME,
                    f"dumps of {numbered(absent)}" if absent else "",
                    f"dumps of one moment: those of {numbered(sorted(self.graph.stale))} are older"
                    if self.graph.stale
                    else "",
                    "part of the pending operations: too many to look at" if self.dumps.cut else "",
                ),
            )
        )

    def programs(self) -> list[Finding]:
        """Operations of one number that are not the same operation: a program bug."""
        ends = [end for end in self.outcome.ends if end.why == "program"]
        return [self._program(end) for end in ends[:FINDINGS_MAX]]

    def _program(self, end: End) -> Finding:
        kinds = sorted(self.graph.mismatch(end.operation).items(), key=lambda each: len(each[1]))
        group = self.dumps.groups[end.operation.key]
        told = "; ".join(f"{numbered(sorted(ranks))}: {_operation(kind)}" for kind, ranks in kinds[:4])
        return Finding(
            kind=FindingKind.HANG,
            severity=Severity.CRITICAL,
            confidence=0.9,
            subject=Subject(job=self.dumps.job, communicator=group.communicator, group="the program"),
            summary=f"The program calls different operations under number {end.operation.sequence} of {group}: {told}",
            next_step=f"Find the branch in which {numbered(sorted(kinds[0][1]))} leave the common order of collectives "
            f"(the dumps' frames name the lines; {PY_SPY}); no machine is at fault",
            onset=Onset(self._first(end.operation)),
            evidence=(
                show(
                    self.reader,
                    "SELECT rank, operation, elements, datatype, state FROM collectives WHERE source = 'flight_recorder' AND job "
                    f"IS NOT DISTINCT FROM {literal(self.dumps.job)} AND communicator = {literal(group.communicator)} AND "
                    f"sequence = {end.operation.sequence} AND rank IN ({', '.join(map(str, group.ranks))}) "
                    "ORDER BY operation, rank",
                ),
            ),
            ruled_out=("hardware: the ranks are all there, but not in the same operation",),
            missing=self._missing(),
        )

    def _first(self, operation: Operation) -> int | None:
        starts = [
            each.start_ns
            for each in self.dumps.pending
            if (each.key, each.sequence) == (operation.key, operation.sequence) and each.start_ns is not None
        ]
        return min(starts, default=None)

    def of_absent(self) -> list[Finding]:
        """The only rank without a dump, if everything waits for it."""
        found = alone_absent(self.outcome.ends)
        if found is None or found[0] in self.graph.stale:
            return []
        rank, operation = found
        return [
            Finding(
                kind=FindingKind.HANG,
                severity=Severity.CRITICAL,
                confidence=0.7 if self.told else 0.6,
                subject=self._subject((rank,), operation),
                summary=f"Rank {rank} left no dump, and it is the only rank of {self._named(operation)} that is not known to "
                f"have joined; {self.outcome.victims} ranks wait",
                next_step=f"See whether the process of rank {rank} still lives (its last log lines, dmesg and nvidia-smi of its "
                f"node), and take its stack ({PY_SPY})",
                onset=Onset(self._first(operation)),
                evidence=(show(self.reader, progress_sql(self.dumps.job, *_of(self.dumps.groups[operation.key]))),),
                missing=self._missing(),
            )
        ]

    def of_transfers(self) -> list[Finding]:
        """Everybody is there and nothing ends: only where logs report a hang too, for a job that runs looks the same."""
        ends = [end for end in self.outcome.ends if end.why == "transfer"]
        if not self.told or not ends or any(end.why == "absent" for end in self.outcome.ends):
            return []
        return [self._transfer(end) for end in ends[:FINDINGS_MAX]]

    def _transfer(self, end: End) -> Finding:
        group = self.dumps.groups[end.operation.key]
        return Finding(
            kind=FindingKind.HANG,
            severity=Severity.CRITICAL,
            confidence=0.6,
            subject=Subject(job=self.dumps.job, communicator=group.communicator, group=numbered(group.ranks)),
            summary=f"{self._named(end.operation)} does not end though {numbered(group.ranks)} have all joined it",
            next_step=f"On the nodes of {numbered(group.ranks)}: dmesg for Xid and link errors, port counters, NCCL warnings; "
            "then nccl-tests on this group",
            onset=Onset(self._first(end.operation)),
            evidence=(show(self.reader, progress_sql(self.dumps.job, *_of(group))),),
            ruled_out=("a rank that is behind: every member has issued the operation",),
            missing=("which member or link: network counters and kernel logs of these nodes", *self._missing()),
        )

    def unknown(self) -> Check:
        """Why nobody is named."""
        whys = {end.why for end in self.outcome.ends}
        if "absent" in whys:
            reason = "the chains of waiting end at ranks without a dump of the same moment"
        elif "transfer" in whys:
            reason = "every rank has joined the oldest operations: they run, or their transfer is stuck"
        else:
            reason = "no operation lacks a rank"
        detail = f"{self.dumps.unfinished} operations of {len(self.dumps.present)} ranks are pending; {reason}"
        return Check(DETECTOR, Verdict.UNKNOWN, self.dumps.job, detail, self._missing())


def _of(group: Group) -> tuple[str, tuple[int, ...]]:
    return group.communicator, group.ranks


def _operation(kind: tuple[Any, ...]) -> str:
    name, *size = kind
    return f"{name} of {size[0]} {size[1] or 'elements'}" if size else str(name)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _places(reader: Reader, job: str | None, ranks: Sequence[int]) -> Mapping[int, Place]:
    """Where ranks run, as far as any row of their job says so."""
    wanted = f"job IS NOT DISTINCT FROM {literal(job)} AND rank IN ({', '.join(map(str, ranks))})"
    rows = reader.query(
        "SELECT rank, max(node) AS node, max(gpu_uuid) AS gpu FROM (SELECT rank, node, gpu_uuid FROM communicators "
        f"WHERE {wanted} UNION ALL SELECT rank, node, gpu_uuid FROM collectives WHERE {wanted}) GROUP BY rank"
    ).to_pylist()
    return {row["rank"]: Place(row["node"], row["gpu"]) for row in rows}
