"""Answers about single files of a table, kept between questions: a file never changes under its name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import pyarrow as pa

KEPT_BYTES_MAX: Final = 1024 * 1024 * 1024
"""Answers of one reader. Past it the questions that were not asked for longest are forgotten, and asked of every file again."""
Question = tuple[str, str]
"""Name of a table, and SQL."""


class Kept:
    """Answers by question and file. What is kept of a question is what the newest answer to it was made of."""

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._answers: OrderedDict[Question, dict[str, pa.Table]] = OrderedDict()

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
        while self._bytes > self._bytes_max:
            _, forgotten = self._answers.popitem(last=False)
            self._bytes -= _bytes(forgotten.values())
        return dict(lent)


def compact(rows: pa.Table) -> pa.Table:
    """Rows as they are kept: texts as dictionaries, and columns without a value without room for one."""
    return pa.table([_column(column.combine_chunks()) for column in rows.columns], names=rows.schema.names)


def _column(values: pa.Array) -> pa.Array:
    if len(values) and values.null_count == len(values):
        return pa.nulls(len(values))
    return values.dictionary_encode() if pa.types.is_string(values.type) else values


def _bytes(answers: Iterable[pa.Table]) -> int:
    return sum(each.nbytes for each in answers)
