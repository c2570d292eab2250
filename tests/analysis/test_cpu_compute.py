"""Ranks that compute on CPUs: the scheduler's turns accuse nobody, a rank that all wait for is still named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import straggler
from warpline_proto.finding import Report, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
STEPS, RANKS = 40, 4


def judge(
    reader_of: ReaderOf, compute: np.ndarray[Any, Any], waiting: np.ndarray[Any, Any], busy: bool = False
) -> Report:
    """`compute` and `waiting` in ms, (steps, ranks); `busy` where a GPU did the work."""
    steps = [
        {"job": "j", "rank": rank, "scope": "step", "step": step, "duration_ns": 10**8, "communication_ns": 10**7,
         "compute_ns": int(compute[step, rank] * 1e6), "busy_ns": 9 * 10**7 if busy else None}
        for step in range(STEPS) for rank in range(RANKS)
    ]  # fmt: skip
    collectives = [
        {"job": "j", "rank": rank, "step": step, "sequence": step, "communicator": "world", "nranks": RANKS, "timing": "host",
         "operation": "all_reduce", "duration_ns": int((1 + waiting[step, rank]) * 1e6)}
        for step in range(STEPS) for rank in range(RANKS)
    ]  # fmt: skip
    return straggler.detect(reader_of({"steps": steps, "collectives": collectives}))


def test_uneven_times_that_rotate_are_the_schedulers_on_cpus_and_the_datas_on_gpus(reader_of: ReaderOf) -> None:
    random = np.random.default_rng(1)
    compute = 50.0 * np.exp(random.normal(0, 0.3, (STEPS, RANKS)))
    waiting = compute.max(axis=1, keepdims=True) - compute
    on_cpus = judge(reader_of, compute, waiting)
    assert not on_cpus.findings
    assert [check.verdict for check in on_cpus.checks] == [Verdict.UNKNOWN]
    assert [finding.kind for finding in judge(reader_of, compute, waiting, busy=True).findings] == ["data_imbalance"]


def test_a_slow_rank_that_the_others_wait_for_is_named(reader_of: ReaderOf) -> None:
    compute = np.full((STEPS, RANKS), 50.0) + np.random.default_rng(2).normal(0, 1, (STEPS, RANKS))
    compute[:, 2] *= 1.6
    (finding,) = judge(reader_of, compute, compute.max(axis=1, keepdims=True) - compute).findings
    assert (finding.kind, finding.subject.rank) == ("compute_straggler", 2)


def test_a_slow_rank_that_nobody_waits_for_is_not(reader_of: ReaderOf) -> None:
    """Its times hold the turns of others: everybody waits for rank 0."""
    compute = np.full((STEPS, RANKS), 50.0) + np.random.default_rng(3).normal(0, 1, (STEPS, RANKS))
    compute[:, 2] *= 1.6
    waiting = np.full((STEPS, RANKS), 30.0)
    waiting[:, 0] = 0.0
    assert not judge(reader_of, compute, waiting).findings
