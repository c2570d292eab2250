"""Folds findings that follow from another one under it: one incident, one root, and in the root a trace of what it explains.

Pure: findings and checks in, findings and checks out. The order of findings plays no part, and a second time changes nothing.
A root always stands before what it explains in ORDER, so that no two findings explain each other.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

from warpline_proto.finding import Cost, Finding, Onset, Report, Severity, Subject, Verdict
from warpline_proto.finding import FindingKind as Kind

STEPS_APART: Final = 5
"""Two onsets coincide within so many steps ..."""
NS_APART: Final = 60 * 10**9
"""... or this much time. A cause may also be seen so much later than its consequence."""
ROUGH_STEPS_APART: Final = 30
SAME_LOSS: Final = 0.5
"""Onsets of causes that come and go are dated less exactly: so far apart, or within NS_APART, they coincide where the cause
costs at least this part of what its consequence does in each step, so that it leaves nothing to explain: a pipeline may
double what a late rank costs."""
LEAST_LOSS: Final = 0.2
"""A cause known to cost less than this part of it is none of a rise, whenever it began."""
TRACES_MAX: Final = 16
"""Explained findings written out in a root; the rest is counted."""
EVIDENCE_MAX: Final = 8
"""Queries kept in one finding."""
TRACE: Final = "by itself: "
"""What follows the name of an explained finding in `ruled_out` of its root."""
_TRACED: Final = re.compile(rf"(?:[a-z_]+|(?P<more>\d+) more findings) {TRACE}.*", re.DOTALL)

ORDER: Final = (
    Kind.GPU_LOST, Kind.GPU_ERROR, Kind.THROTTLING, Kind.MASKED_STRAGGLER, Kind.PIPELINE_BUBBLE, Kind.COMPUTE_STRAGGLER,
    Kind.HOST_STRAGGLER, Kind.STAGE_IMBALANCE, Kind.DATA_IMBALANCE, Kind.NETWORK_DEGRADATION, Kind.LINK_DEGRADATION,
    Kind.SPORADIC_STALL, Kind.PROCESS_DIED, Kind.WRONG_DATA, Kind.HANG, Kind.IDLE_SPIN, Kind.REGRESSION, Kind.EXECUTION_IDLE,
    Kind.BUSY_WAIT, Kind.REPLACED,
)  # fmt: skip
"""Causes before consequences, and what says more of a late rank before what says less."""
BROKEN: Final = frozenset({Kind.GPU_LOST, Kind.GPU_ERROR})
SLOW: Final = frozenset({Kind.COMPUTE_STRAGGLER, Kind.MASKED_STRAGGLER, Kind.PIPELINE_BUBBLE})
"""What a held clock does to the rank on it."""
LATE: Final = SLOW | {Kind.HOST_STRAGGLER}
OF_A_GPU: Final = LATE | {Kind.THROTTLING, Kind.HANG, Kind.IDLE_SPIN}
"""What a broken GPU does to the rank on it."""
NETWORK: Final = frozenset({Kind.NETWORK_DEGRADATION, Kind.LINK_DEGRADATION})
NAMED: Final = (
    LATE | NETWORK | {Kind.GPU_ERROR, Kind.THROTTLING, Kind.STAGE_IMBALANCE, Kind.DATA_IMBALANCE, Kind.SPORADIC_STALL}
)
"""What makes a whole job slower and says by whom or what."""
STOPPED: Final = frozenset({Kind.IDLE_SPIN, Kind.EXECUTION_IDLE, Kind.BUSY_WAIT, Kind.REGRESSION})
"""What a job that stands still shows besides."""
_GRADE: Final = {Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}


Incident = tuple[Finding, tuple[Finding, ...]]
"""A root as it was given, and what it explains."""


@dataclass(frozen=True)
class Known:
    """What else the pass has to say, as far as a rule needs it: jobs in which no communicator lost bandwidth."""

    links_fine: frozenset[str]


Fits = Callable[[Finding, Finding, Known], bool]


def group(reports: Mapping[str, Report]) -> dict[str, Report]:
    """What each detector said, every explained finding folded into its root, which stays with its detector."""
    fine = {
        check.job
        for report in reports.values()
        for check in report.checks
        if check.detector == "link" and check.verdict == Verdict.HEALTHY and check.job
    }
    owned = [(name, finding) for name, report in reports.items() for finding in report.findings]
    incidents = _settled([(finding, ()) for _, finding in owned], Known(frozenset(fine)))
    told = {id(incident[0]): _merge(*incident) for incident in incidents}
    return {
        name: Report(tuple(told[id(each)] for each in report.findings if id(each) in told), report.checks)
        for name, report in reports.items()
    }


def same_late_rank(one: Finding, other: Finding) -> bool:
    """Whether two findings, of one pass or of two, call the same rank late by different names."""
    late = one.kind != other.kind and {one.kind, other.kind} <= LATE
    return late and _rank_of(one.subject) == _rank_of(other.subject) is not None


def _settled(incidents: list[Incident], known: Known) -> list[Incident]:
    """Joined until nothing explains anything: what a root has taken in may explain more."""
    while True:
        following = _round(incidents, known)
        if len(following) == len(incidents):
            return incidents
        incidents = following


def _round(incidents: Sequence[Incident], known: Known) -> list[Incident]:
    """Incidents joined once, in the order in which their roots were given."""
    told = {place: _merge(*incident) for place, incident in enumerate(incidents)}
    ordered = sorted(told, key=lambda place: _key(told[place]))
    roots: dict[int, int] = {}
    seen: dict[Kind, list[int]] = {}
    for place in ordered:
        finding = told[place]
        causes = (each for kind in _CAUSES[finding.kind] for each in seen.get(kind, ()))  # in the same order
        root = next((each for each in causes if _explains(told[each], finding, known)), None)
        if root is not None:
            roots[place] = roots.get(root, root)
        seen.setdefault(finding.kind, []).append(place)
    joined: dict[int, list[Finding]] = {}
    for place in (each for each in ordered if each in roots):
        finding, explained = incidents[place]
        joined.setdefault(roots[place], []).extend((finding, *explained))
    return [
        (finding, (*explained, *joined.get(place, ())))
        for place, (finding, explained) in enumerate(incidents)
        if place not in roots
    ]


def _key(finding: Finding) -> tuple[object, ...]:
    """Causes first; of one kind those that name the part, then the graver, then the surer."""
    unnamed = finding.kind == Kind.NETWORK_DEGRADATION and finding.subject.link is None
    return (
        ORDER.index(finding.kind),
        unnamed,
        -_GRADE[finding.severity],
        -finding.confidence,
        finding.id,
        finding.summary,
    )


def _explains(root: Finding, other: Finding, known: Known) -> bool:
    if root.severity == Severity.INFO and other.severity != Severity.INFO:
        return False
    return any(fits(root, other, known) for fits in _FITS.get((root.kind, other.kind), ()))


def _on_its_gpu(root: Finding, other: Finding, known: Known) -> bool:
    """A broken GPU explains what the rank on it does."""
    return _same_gpu(root.subject, other.subject) and not _later(root, other)


def _in_its_job(root: Finding, other: Finding, known: Known) -> bool:
    """A lost GPU stops its whole job."""
    return root.subject.job == other.subject.job is not None and not _later(root, other)


def _on_its_node(root: Finding, other: Finding, known: Known) -> bool:
    """A process that died leaves the others of its job waiting."""
    same = root.subject.node == other.subject.node is not None and _compatible(root.subject.job, other.subject.job)
    return same and not _later(root, other)


def _held_clock(root: Finding, other: Finding, known: Known) -> bool:
    """A held clock explains the slow rank on its GPU, or on its node where the whole node is held."""
    whole_node = root.subject.gpu is None and _on_its_node(root, other, known)
    return whole_node or _on_its_gpu(root, other, known)


def _same_rank(root: Finding, other: Finding, known: Known) -> bool:
    """One late rank, told by its compute as a whole, by its launches or by one of its phases."""
    return same_late_rank(root, other)


def _own_steps(root: Finding, other: Finding, known: Known) -> bool:
    """A rank that is late for long has single steps in which it is so most: stalls that began no sooner and cost no more."""
    begun, seen = root.onset.step, other.onset.step
    if begun is None or seen is None or not _rank_of(root.subject) == _rank_of(other.subject) is not None:
        return False
    return begun <= seen + STEPS_APART and (other.cost.seconds_per_step or math.inf) <= (
        root.cost.seconds_per_step or 0.0
    )


def _at_that_time(root: Finding, other: Finding, known: Known) -> bool:
    """A job that became slower just when a named cause began."""
    if root.subject.job is None or root.subject.job != other.subject.job:
        return False
    cause, rise = root.cost.seconds_per_step, other.cost.seconds_per_step
    share = cause / rise if cause and rise else math.nan
    if share < LEAST_LOSS:
        return False
    if _coincide(root.onset, other.onset, STEPS_APART):
        return True
    return share >= SAME_LOSS and (
        _coincide(root.onset, other.onset, ROUGH_STEPS_APART) or _at_once(root.onset, other.onset)
    )


def _same_port(root: Finding, other: Finding, known: Known) -> bool:
    """Counters and logs of one port."""
    one, two = root.subject, other.subject
    return one.node == two.node is not None and _device(one.link) == _device(two.link) is not None


def _of_its_node(root: Finding, other: Finding, known: Known) -> bool:
    """A bad port explains that its node's network carries less."""
    whole = root.subject.link is not None and other.subject.link is None
    return whole and _on_its_node(root, other, known)


def _through_its_port(root: Finding, other: Finding, known: Known) -> bool:
    """A bad port explains a communicator that carries less and reaches other nodes from its node."""
    here = {(row.get("job"), row.get("communicator")) for item in root.evidence for row in item.rows}
    return (other.subject.job, other.subject.communicator) in here and not _later(root, other)


def _same_communicator(root: Finding, other: Finding, known: Known) -> bool:
    """Two findings on one communicator."""
    return root.subject.communicator == other.subject.communicator is not None


def _by_the_way(root: Finding, other: Finding, known: Known) -> bool:
    """An alarm of the network while a rank is waited for and no communicator of the job carries less."""
    waited_for = any(text.startswith("network: ") for text in root.ruled_out)
    job = root.subject.job
    return waited_for and job == other.subject.job and job in known.links_fine and other.severity != Severity.CRITICAL


def _meanwhile(root: Finding, other: Finding, known: Known) -> bool:
    """A job that hangs idles, spins and slows down besides."""
    return root.subject.job == other.subject.job is not None and not _later(root, other)


RULES: Final[tuple[tuple[frozenset[Kind], frozenset[Kind], Fits], ...]] = (
    (BROKEN, OF_A_GPU, _on_its_gpu),
    (frozenset({Kind.GPU_LOST}), frozenset({Kind.HANG}), _in_its_job),
    (frozenset({Kind.PROCESS_DIED}), frozenset({Kind.HANG}), _on_its_node),
    (frozenset({Kind.THROTTLING}), SLOW, _held_clock),
    *((frozenset({kind}), LATE - {kind}, _same_rank) for kind in sorted(LATE)),
    (LATE, frozenset({Kind.SPORADIC_STALL}), _own_steps),
    (NAMED, frozenset({Kind.REGRESSION}), _at_that_time),
    (frozenset({Kind.NETWORK_DEGRADATION}), frozenset({Kind.NETWORK_DEGRADATION}), _same_port),
    (frozenset({Kind.NETWORK_DEGRADATION}), frozenset({Kind.NETWORK_DEGRADATION}), _of_its_node),
    (frozenset({Kind.NETWORK_DEGRADATION}), frozenset({Kind.LINK_DEGRADATION}), _through_its_port),
    (frozenset({Kind.NETWORK_DEGRADATION}), frozenset({Kind.LINK_DEGRADATION}), _same_communicator),
    (SLOW, frozenset({Kind.NETWORK_DEGRADATION}), _by_the_way),
    (frozenset({Kind.HANG}), STOPPED, _meanwhile),
)
"""Kinds that may be a cause, kinds that may follow from it, and what has to fit for it."""
_FITS: Final[Mapping[tuple[Kind, Kind], Sequence[Fits]]] = {
    (cause, consequence): [
        fits for causes, consequences, fits in RULES if cause in causes and consequence in consequences
    ]
    for cause in ORDER
    for consequence in ORDER
}
_CAUSES: Final[Mapping[Kind, Sequence[Kind]]] = {
    kind: [cause for cause in ORDER if _FITS[cause, kind]] for kind in ORDER
}
"""Kinds that may explain each kind, causes first: of a thousand findings of one kind none has to be held against the others."""


def _same_gpu(one: Subject, two: Subject) -> bool:
    if one.gpu is not None and one.gpu == two.gpu:
        return True
    return _rank_of(one) is not None and _rank_of(one) == _rank_of(two)


def _rank_of(subject: Subject) -> tuple[str, int] | None:
    return (subject.job, subject.rank) if subject.job is not None and subject.rank is not None else None


def _compatible(one: str | None, two: str | None) -> bool:
    return one is None or two is None or one == two


def _device(link: str | None) -> str | None:
    """mlx5_0 of mlx5_0, mlx5_0:1 and mlx5_0/1."""
    return link.replace("/", ":").split(":")[0] if link else None


def _later(cause: Finding, consequence: Finding) -> bool:
    """Whether the cause is known to have begun after what it should explain."""
    one, two = cause.onset.time_ns, consequence.onset.time_ns
    return one is not None and two is not None and one > two + NS_APART


def _coincide(one: Onset, two: Onset, steps: int) -> bool:
    if one.step is not None and two.step is not None:
        earliest = two.step if two.earliest_step is None else two.earliest_step
        latest = max(each for each in (two.step, two.watched_step, two.latest_step) if each is not None)
        return earliest - steps <= one.step <= latest + steps
    return _at_once(one, two)


def _at_once(one: Onset, two: Onset) -> bool:
    return one.time_ns is not None and two.time_ns is not None and abs(one.time_ns - two.time_ns) <= NS_APART


def accusations(finding: Finding) -> int:
    """How many findings of detectors it stands for: itself, and those folded into it."""
    traces = filter(None, map(_TRACED.fullmatch, finding.ruled_out))
    return 1 + sum(int(each["more"] or 1) for each in traces)


def _merge(root: Finding, explained: Sequence[Finding]) -> Finding:
    """The root with the subject made whole, the cost and the evidence of what it explains, and a trace of each.

    A slow rank that explains alarms of the network hid behind them.
    """
    if not explained:
        return root
    texts = [f"{each.kind} {TRACE}{each.summary}" for each in explained]
    left = len(texts) - TRACES_MAX  # the summary counts them all
    traces = [
        *texts[:TRACES_MAX],
        *([f"{left} more findings {TRACE}they follow from this as well"] if left > 0 else []),
    ]
    kept = [text for each in explained for text in each.ruled_out if text not in root.ruled_out]
    evidence = dict.fromkeys(item.sql for each in (root, *explained) for item in each.evidence)
    by_sql = {item.sql: item for each in reversed((root, *explained)) for item in each.evidence}
    counts = Counter(str(each.kind) for each in explained)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    masked = root.kind == Kind.COMPUTE_STRAGGLER and any(each.kind in NETWORK for each in explained)
    return replace(
        root,
        kind=Kind.MASKED_STRAGGLER if masked else root.kind,
        summary=f"{root.summary}; explains {told}",
        severity=max((root.severity, *(each.severity for each in explained)), key=lambda grade: _GRADE[grade]),
        confidence=max(root.confidence, *(each.confidence for each in explained if each.kind in SLOW), 0.0),
        subject=_whole(root, explained),
        onset=_onset(root, explained),
        cost=_cost(root, explained),
        evidence=tuple(by_sql[sql] for sql in list(evidence)[:EVIDENCE_MAX]),
        ruled_out=tuple(dict.fromkeys((*root.ruled_out, *traces, *kept))),
        missing=tuple(
            text for text in root.missing if not text.startswith("the rank") or _whole(root, explained).rank is None
        ),
    )


def _whole(root: Finding, explained: Sequence[Finding]) -> Subject:
    """The root's subject, and what an explained finding on the same GPU or rank knows beside it."""
    subject = root.subject
    for each in explained:
        if each.kind not in OF_A_GPU or not _same_gpu(subject, each.subject):
            continue
        blank = {
            field.name: getattr(each.subject, field.name)
            for field in fields(Subject)
            if getattr(subject, field.name) is None and field.name not in ("group", "communicator", "link")
        }
        subject = replace(subject, **blank)
    return subject


def _onset(root: Finding, explained: Sequence[Finding]) -> Onset:
    """The root's own; the step from what it explains first."""
    steps = [each.onset.step for each in explained if each.onset.step is not None]
    times = [each.onset.time_ns for each in explained if each.onset.time_ns is not None]
    own = root.onset
    return Onset(
        own.time_ns if own.time_ns is not None else min(times, default=None),
        own.step if own.step is not None else min(steps, default=None),
    )


def _cost(root: Finding, explained: Sequence[Finding]) -> Cost:
    """What the incident costs: the largest of its figures, which are views of the same loss and do not add up."""
    costs = [each.cost for each in (root, *explained)]

    def largest(values: Sequence[float | None]) -> float | None:
        return max((value for value in values if value is not None), default=None)

    return Cost(
        largest([cost.seconds_per_step for cost in costs]),
        largest([cost.gpu_hours for cost in costs]),
        largest([cost.joules for cost in costs]),
    )
