"""Answers about single files of a table, kept between questions: a file never changes under its name."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Final

import pyarrow as pa

KEPT_BYTES_MAX: Final = 1024 * 1024 * 1024
"""Answers of one reader. Past it the questions that were not asked for longest are forgotten, and asked of every file again."""
FORGET_SECONDS: Final = 900.0
"""A question that was not asked for so long is not asked any more: its job has ended."""
Question = tuple[str, str]
"""Name of a table, and SQL."""


class Kept:
    """Answers by question and file. What is kept of a question is what the newest answer to it was made of."""

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._answers: OrderedDict[Question, dict[str, pa.Table]] = OrderedDict()
        self._monotonic = monotonic
        self._asked: dict[Question, float] = {}

    def unknown(self, question: Question, wanted: Sequence[str]) -> list[str]:
        """Files whose answers are not kept."""
        answers = self._answers.get(question, {})
        return [path for path in wanted if path not in answers]

    def lend(self, question: Question, wanted: Sequence[str], fresh: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
        """The answers of the wanted files in their order, `fresh` ones among them; those of other files are forgotten."""
        answers = {**self._answers.pop(question, {}), **fresh}
        lent = {path: answers[path] for path in wanted}
        self._answers[question] = lent
        self._bytes += _bytes(fresh.values()) - _bytes(each for path, each in answers.items() if path not in lent)
        now = self._asked[question] = self._monotonic()
        while self._answers and (self._bytes > self._bytes_max or now - self._longest_ago() > FORGET_SECONDS):
            forgotten, answers = self._answers.popitem(last=False)
            del self._asked[forgotten]
            self._bytes -= _bytes(answers.values())
        return dict(lent)

    def keep_only(self, paths: Container[str]) -> None:
        """Forget what files answered that are not among these."""
        for answers in self._answers.values():
            for path in [path for path in answers if path not in paths]:
                self._bytes -= answers.pop(path).nbytes

    def _longest_ago(self) -> float:
        """When the question was asked that was not asked for longest."""
        return self._asked[next(iter(self._answers))]


def compact(rows: pa.Table) -> pa.Table:
    """Rows as they are kept: texts as dictionaries, and columns without a value without room for one."""
    return pa.table([_column(column.combine_chunks()) for column in rows.columns], names=rows.schema.names)


def _column(values: pa.Array) -> pa.Array:
    if len(values) and values.null_count == len(values):
        return pa.nulls(len(values))
    return values.dictionary_encode() if pa.types.is_string(values.type) else values


def _bytes(answers: Iterable[pa.Table]) -> int:
    return sum(each.nbytes for each in answers)
