"""The third look at a suspect: which of its kernels are slow beside its peers', by how much, and what that says of the cause.

Asked only of ranks that a cheaper look made suspect: a few steps of a few ranks of table kernel_clusters. Each kernel's
durations are rebuilt from the clusters and compared group against group (ratio of means per launch, first Wasserstein
distance), so that half of a group may be slow. Communication kernels hold waiting and blame nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from warpline_proto.finding import Evidence, Finding, FindingKind

from .blame import percent
from .detector import Reader, literal, show
from .distributions import COLUMNS, RUNS, distance, of_rows
from .kernel_excess import Kernel, backward_alone
from .kernel_families import ARITHMETIC, MEMORY, family

STEPS_MAX: Final = 8
"""Newest steps of the suspicion that are compared."""
SUSPECTS_MAX: Final = 4
PEERS_MAX: Final = 12
"""Ranks whose kernels are read."""
ROWS_MAX: Final = 200_000
"""Rows read for one suspicion, far above what STEPS_MAX steps of so many ranks have."""
KERNEL_GATE: Final = 0.05
"""A kernel is slow from this excess of its mean over its peers' on, and only above every peer."""
LAUNCHES_APART: Final = 0.1
"""Kernels whose launches a step differ by more do other work, and their times are not compared."""
ALIKE_SHARE: Final = 0.8
"""Part of the compared time that slow kernels must make up to be called all alike."""
ERROR_STEPS_MIN: Final = 3
"""Steps from which on the scatter of an excess is known."""
TAIL_SHARE: Final = 0.5
"""Part of a difference that lies in the slowest launches from which these alone are called slow."""
TOLD_MAX: Final = 3
"""Kernels named in a sentence."""
NAME_CHARS: Final = 60
NO_CLUSTERS: Final = "kernel clusters of it and its peers: which of its kernels are slow is not known"


@dataclass(frozen=True)
class KernelLevel:
    """All compared kernels, the costliest difference first; those that are slow; what could not be compared."""

    kernels: tuple[Kernel, ...]
    slow: tuple[Kernel, ...]
    other_work: int
    steps: tuple[int, int]
    peers: int

    @property
    def share(self) -> float:
        """Part of the compared time that slow kernels make up."""
        whole = sum(kernel.seconds for kernel in self.kernels)
        return sum(kernel.seconds for kernel in self.slow) / whole if whole > 0 else 0.0

    @property
    def one_pass(self) -> bool:
        """Whether kernels of the backward pass are slow and those of the forward pass are not."""
        return backward_alone(self.kernels, self.slow)


def compare(
    reader: Reader, job: str, suspects: Sequence[int], peers: Sequence[int], first: int | None, last: int | None = None
) -> KernelLevel | None:
    """Compute kernels of suspects and peers over the newest STEPS_MAX steps from `first` to `last`; None without rows of both."""
    asked, beside = tuple(suspects[:SUSPECTS_MAX]), tuple(peers[:PEERS_MAX])
    if not asked or not beside:
        return None
    condition = _condition(job, (*asked, *beside), first, last)
    steps = reader.query(
        f"SELECT DISTINCT step FROM kernel_clusters WHERE {condition} ORDER BY step DESC LIMIT {STEPS_MAX}"
    )
    numbers = steps.column("step").to_pylist()
    if not numbers:
        return None
    span = (int(numbers[-1]), int(numbers[0]))
    rows = reader.query(
        f"SELECT kernel_id, rank, step, category, {', '.join((*COLUMNS, *RUNS))} FROM kernel_clusters WHERE "
        f"{_condition(job, (*asked, *beside), *span)} LIMIT {ROWS_MAX}"
    )
    ranks = set(rows.column("rank").to_pylist())
    if not ranks.intersection(asked) or not ranks.intersection(beside):
        return None
    return _level(rows, _names(reader, rows), asked, span, len(ranks.intersection(beside)))


def _condition(job: str, ranks: Sequence[int], first: int | None, last: int | None) -> str:
    """Everything a segment's statistics can answer: job, ranks, steps."""
    bounds = "" if first is None else f" AND step >= {first}"
    bounds += "" if last is None else f" AND step <= {last}"
    return (
        f"job = {literal(job)} AND rank IN ({', '.join(map(str, ranks))}) AND step IS NOT NULL{bounds} "
        "AND category <> 'communication' AND count > 0 AND p50_ns IS NOT NULL"
    )


def _names(reader: Reader, rows: pa.Table) -> dict[int, str]:
    ids = sorted(set(rows.column("kernel_id").to_pylist()) - {None})
    if not ids:
        return {}
    found = reader.query(
        f"SELECT kernel_id, min(name) AS name FROM kernel_names WHERE kernel_id IN ({', '.join(map(str, ids))}) "
        "GROUP BY kernel_id"
    )
    return dict(zip(found.column("kernel_id").to_pylist(), found.column("name").to_pylist(), strict=True))


def _level(
    rows: pa.Table, names: dict[int, str], suspects: Sequence[int], span: tuple[int, int], peers: int
) -> KernelLevel:
    ids = np.asarray(rows.column("kernel_id").fill_null(-1).to_numpy(), dtype=np.int64)
    ranks = np.asarray(rows.column("rank").to_numpy(), dtype=np.int64)
    found: list[Kernel] = []
    slow: list[Kernel] = []
    other = 0
    order = np.argsort(ids, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(ids[order])) + 1):
        own = np.isin(ranks[part], suspects)
        if not own.any() or own.all():
            other += 1
            continue
        kernel = rows.take(pa.array(part))
        judged = _kernel(kernel, ranks[part], own, names)
        if judged is None:
            other += 1
            continue
        found.append(judged[0])
        if judged[1]:
            slow.append(judged[0])
    ordered = tuple(sorted(found, key=lambda each: (-each.lost, each.name)))
    return KernelLevel(ordered, tuple(each for each in ordered if each in slow), other, span, peers)


def _kernel(rows: pa.Table, ranks: Any, own: Any, names: dict[int, str]) -> tuple[Kernel, bool] | None:
    """The kernel, and whether every suspect is slower in it than every peer; None where launches differ."""
    steps = rows.column("step").to_numpy()
    every = of_rows(rows)
    told = {int(rank): every.part(ranks == rank) for rank in np.unique(ranks)}
    a_step = {rank: each.launches / len(np.unique(steps[ranks == rank])) for rank, each in told.items()}
    mine = [rank for rank in told if rank in set(ranks[own].tolist())]
    others = [rank for rank in told if rank not in mine]
    usual = float(np.median([a_step[rank] for rank in others]))
    if abs(float(np.median([a_step[rank] for rank in mine])) / usual - 1) > LAUNCHES_APART:
        return None
    means = {rank: each.mean_ns for rank, each in told.items()}
    middle = float(np.median([means[rank] for rank in others]))
    if middle <= 0:
        return None
    excess = float(np.median([means[rank] for rank in mine])) / middle - 1
    error = _error(steps, own, rows.column("sum_ns").to_numpy(), rows.column("count").to_numpy())
    apart = min(means[rank] for rank in mine) > max(means[rank] for rank in others)
    pooled = every.part(~own)
    far = distance(every.part(own), pooled)
    identifier, category = rows.column("kernel_id")[0].as_py(), rows.column("category")[0].as_py()
    name = names.get(identifier, f"kernel {identifier}")
    seconds = middle * usual / 1e9
    kernel = Kernel(
        name, family(name, category), excess, error, far.wasserstein_ns / max(pooled.quantile_ns(0.5), 1.0), far.tail_share,
        seconds, excess * seconds,
    )  # fmt: skip
    return kernel, excess >= KERNEL_GATE and apart


def _error(steps: Any, own: Any, sums: Any, counts: Any) -> float:
    """Standard error of the suspects' excess, from how much it varies over the steps in which both ran the kernel."""
    number, at = np.unique(steps, return_inverse=True)

    def mean(chosen: Any) -> Any:
        launches = np.bincount(at[chosen], counts[chosen], len(number))
        return np.bincount(at[chosen], sums[chosen], len(number)) / np.where(launches > 0, launches, np.nan)

    ratio = mean(own) / mean(~own)
    known = ratio[~np.isnan(ratio)]
    return float(np.std(known, ddof=1) / np.sqrt(len(known))) if len(known) >= ERROR_STEPS_MIN else float("nan")


def told(level: KernelLevel) -> str:
    """What the kernels show, as a sentence goes on with it."""
    count = len(level.kernels)
    if not level.slow:
        return f"none of its {count} comparable compute kernels is slow"
    worst = ", ".join(f"{_short(each.name)} +{percent(each.excess)}" for each in level.slow[:TOLD_MAX])
    more = f" and {len(level.slow) - TOLD_MAX} more" if len(level.slow) > TOLD_MAX else ""
    return f"{len(level.slow)} of its {count} comparable compute kernels are slow ({worst}{more}): {_pattern(level)[0]}"


def _pattern(level: KernelLevel) -> tuple[str, str]:
    """What is slow together, in words, and what to do about that."""
    families = {each.family for each in level.slow}
    if level.slow and all(each.tail_share >= TAIL_SHARE for each in level.slow):
        return (
            "only their slowest launches differ",
            "look for what interrupts it now and then: other processes on the GPU, clocks that dip, compilation",
        )
    if level.one_pass:
        return (
            "those of the backward pass and not those of the forward pass",
            "compare its backward kernels with a peer's one by one (shapes, chosen algorithms, recompilation): a slow GPU would "
            "slow the forward pass as well",
        )
    if _only(level, MEMORY, ARITHMETIC):
        return (
            "those bound by memory and no others",
            "read ECC counters, remapped rows and the memory clock first: device memory is slow, not the processors",
        )
    if _only(level, ARITHMETIC, MEMORY):
        return (
            "those bound by arithmetic and none bound by memory",
            "read SM clock, power cap and clock-event reasons first: memory keeps its speed",
        )
    if level.share >= ALIKE_SHARE and len(level.kernels) > 1:
        return (
            "all alike, as a lower clock or a hot GPU makes them",
            "read clocks, clock-event reasons, temperature and power first",
        )
    if len(families) == 1 and len(level.kernels) > len(level.slow):
        return (
            f"one family ({families.pop()}) and no other",
            "compare shapes, library versions and chosen algorithms with a peer first: a slow GPU slows more than one family",
        )
    return "some and not others", "compare the shapes of the slow kernels with a peer's, then clocks"


def _only(level: KernelLevel, slow: frozenset[str], even: frozenset[str]) -> bool:
    """Whether nearly all kernels of the families `slow` are slow, and none of the families `even`, which are there too."""
    whole = sum(each.seconds for each in level.kernels if each.family in slow)
    part = sum(each.seconds for each in level.slow if each.family in slow)
    others = {each.family for each in level.slow} - slow
    return (
        part > 0 and part >= ALIKE_SHARE * whole and not others and any(each.family in even for each in level.kernels)
    )


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARS else name[: NAME_CHARS - 3] + "..."


def sharpened(
    reader: Reader,
    finding: Finding,
    suspects: Sequence[int],
    peers: Sequence[int],
    first: int | None,
    last: int | None = None,
    *,
    cause_known: bool = False,
    staged: bool = False,
) -> Finding:
    """A finding of slow compute with what its kernels show: summary, evidence, what that rules out, and a nearer next step.

    `suspects` are the accused ranks, `peers` those that do the same work and are not accused, `first` and `last` the steps of
    the suspicion. Where the cause is known already, kernels only bear it out: next step and missing inputs stay as they are.
    `staged` says that the job has pipeline stages and tells no phases: slow in one pass alone, it is called what it does there.
    """
    job = finding.subject.job
    level = compare(reader, job, suspects, peers, first, last) if job is not None else None
    if job is None or level is None or not level.kernels:
        return finding if cause_known else replace(finding, missing=(*finding.missing, NO_CLUSTERS))
    step = finding.next_step
    if level.slow and not cause_known:
        advice = _pattern(level)[1]
        step = f"{advice[0].upper()}{advice[1:]}. {step}"
    return replace(
        finding,
        kind=FindingKind.PIPELINE_BUBBLE if staged and level.one_pass else finding.kind,
        summary=f"{finding.summary}; {told(level)}",
        next_step=step,
        evidence=(*finding.evidence, evidence(reader, job, level, suspects, peers)),
        ruled_out=(*finding.ruled_out, *_ruled_out(level)),
    )


def _ruled_out(level: KernelLevel) -> tuple[str, ...]:
    own = "waiting: communication kernels are left out of the comparison of kernels"
    if not level.slow:
        return (own,)
    worst = level.slow[0]
    more = (
        f"more work: {_short(worst.name)} is launched as often as on {level.peers} peer{'s' * (level.peers > 1)}, and its "
        f"durations lie {percent(worst.ratio)} of their median apart (Wasserstein distance)"
    )
    return own, more


def evidence(reader: Reader, job: str, level: KernelLevel, suspects: Sequence[int], peers: Sequence[int]) -> Evidence:
    """Mean duration per launch of each compute kernel, suspects against peers, the costliest difference first."""
    asked, beside = tuple(suspects[:SUSPECTS_MAX]), tuple(peers[:PEERS_MAX])
    mine, others = (f"rank IN ({', '.join(map(str, ranks))})" for ranks in (asked, beside))
    return show(
        reader,
        "SELECT coalesce(name, kernel_id::VARCHAR) AS kernel, round(own / 1e3, 2) AS microseconds, round(peers / 1e3, 2) AS "
        "peers_microseconds, round(own / peers, 3) AS ratio, launches::BIGINT AS launches FROM (SELECT kernel_id, "
        f"sum(sum_ns) FILTER ({mine}) / sum(count) FILTER ({mine}) AS own, sum(sum_ns) FILTER ({others}) / sum(count) "
        f"FILTER ({others}) AS peers, sum(count) FILTER ({mine}) AS launches FROM kernel_clusters WHERE "
        f"{_condition(job, (*asked, *beside), *level.steps)} GROUP BY kernel_id) LEFT JOIN (SELECT kernel_id, min(name) AS name "
        "FROM kernel_names GROUP BY kernel_id) USING (kernel_id) WHERE own IS NOT NULL AND peers > 0 "
        "ORDER BY (own - peers) * launches DESC, kernel",
    )
