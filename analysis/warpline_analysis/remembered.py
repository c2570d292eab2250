"""One pass asks once: rows and matrices that several detectors judge are loaded by the first and lent to the others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import pyarrow as pa

from .detector import Reader, narrowed
from .parts import by_part

ANSWERS_MAX: Final = 128
"""Answers kept, the oldest goes first. One holds what a loader bounds: the newest steps of the ranks of all jobs, some 16 MB
for ten thousand ranks."""
Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


class Pass:
    """A Reader for the length of one pass: what `once` functions answered is answered again."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._answers: OrderedDict[Hashable, Any] = OrderedDict()

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """What the Reader itself says."""
        return self._reader.query(sql, parameters)

    def by_part(self, table: str, sql: str, skipped: Container[str] = ()) -> Mapping[str, pa.Table]:
        """What the Reader itself says, of its table as one part where it has none."""
        return by_part(self._reader, table, sql, skipped)

    def narrowed(self, sql: str) -> str:
        """What the Reader itself says."""
        return narrowed(self._reader, sql)

    def recall(self, key: Hashable, make: Callable[[], Answer]) -> Answer:
        """What `make` returned for this key before, else what it returns now."""
        if key not in self._answers:
            self._answers[key] = make()
            if len(self._answers) > ANSWERS_MAX:
                self._answers.popitem(last=False)
        answer: Answer = self._answers[key]
        return answer


def once(
    function: Callable[Concatenate[Reader, Arguments], Answer],
) -> Callable[Concatenate[Reader, Arguments], Answer]:
    """Within a Pass, call `function` once for the same (hashable) arguments. Nobody changes what it returns."""

    @wraps(function)
    def ask(reader: Reader, /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Answer:
        if not isinstance(reader, Pass):
            return function(reader, *arguments, **named)
        key = (function, arguments, tuple(sorted(named.items())))
        return reader.recall(key, lambda: function(reader, *arguments, **named))

    return ask
