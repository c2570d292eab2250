"""What a pass lends from detector to detector, and that jobs asked together are told of as if each were alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from warpline_analysis.detector import Reader
from warpline_analysis.remembered import ANSWERS_MAX, Pass, once
from warpline_analysis.runner import run

ReaderOf = Callable[[Mapping[str, Sequence[Mapping[str, Any]]]], Reader]


class Counting:
    """A Reader that counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        self.asked += 1
        return pa.table({"n": [self.asked]})


@once
def _number(reader: Reader, name: str) -> int:
    number: int = reader.query(f"SELECT {name}")["n"][0].as_py()
    return number


def test_a_pass_asks_once_and_the_next_pass_asks_anew() -> None:
    reader = Counting()
    first = Pass(reader)
    assert [_number(first, "a"), _number(first, "a"), _number(first, "b"), _number(first, "a")] == [1, 1, 2, 1]
    assert _number(Pass(reader), "a") == 3
    assert [_number(reader, "a"), _number(reader, "a")] == [4, 5], "outside of a pass nothing is kept"


def test_a_pass_keeps_a_bounded_number_of_answers() -> None:
    reader = Counting()
    kept = Pass(reader)
    for name in range(ANSWERS_MAX + 1):
        _number(kept, str(name))
    assert reader.asked == ANSWERS_MAX + 1
    _number(kept, str(ANSWERS_MAX))
    assert reader.asked == ANSWERS_MAX + 1
    _number(kept, "0")
    assert reader.asked == ANSWERS_MAX + 2, "the oldest went"


def rows_of(job: str, first: int, steps: int, slow: int | None) -> dict[str, list[dict[str, Any]]]:
    """Steps and collectives of eight ranks, one of them slow or none."""
    random = np.random.default_rng(first)
    tables: dict[str, list[dict[str, Any]]] = {"steps": [], "collectives": []}
    for step in range(first, first + steps):
        for rank in range(8):
            own = int(1e8 * (1.4 if rank == slow else 1.0) * random.lognormal(0, 0.01))
            place = {"job": job, "rank": rank, "dp": rank, "step": step}
            tables["steps"].append(place | {
                "scope": "step", "duration_ns": 200_000_000, "compute_ns": own, "busy_ns": 190_000_000,
                "communication_ns": 190_000_000 - own,
            })  # fmt: skip
            tables["collectives"].append(place | {
                "communicator": "world", "sequence": step, "operation": "all_reduce", "message_bytes": 2**26, "nranks": 8,
                "duration_ns": 150_000_000 - own, "timing": "kernel_gpu",
            })  # fmt: skip
    return tables


def test_jobs_asked_together_are_told_of_as_if_each_were_alone(reader_of: ReaderOf) -> None:
    """Different steps, lengths and communicators of one name: nothing of one job leaks into another."""
    parts = [rows_of("a", 0, 40, 3), rows_of("b", 5_000, 25, None), rows_of("c", 100, 60, 6)]
    alone = [run(reader_of(part)) for part in parts]
    together = run(reader_of({name: [row for part in parts for row in part[name]] for name in parts[0]}))
    assert sorted(each.id for each in together.findings) == sorted(each.id for part in alone for each in part.findings)
    found = {each.id: each for part in alone for each in part.findings}
    assert {each.id: each for each in together.findings} == found
    assert {each.subject.rank for each in together.findings} == {3, 6}
    checks = {(each.detector, each.job): each for part in alone for each in part.checks if each.job}
    assert {(each.detector, each.job): each for each in together.checks if each.job} == checks
