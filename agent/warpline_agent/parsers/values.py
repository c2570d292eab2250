"""What an untrusted file holds -> values that fit a column, or None: never an error, never a zero for something unknown."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard

from warpline_proto.errors import Refused

from ..source import Rows

SMALL_MAX: Final = 2**31 - 1
INT_MAX: Final = 2**63 - 1
TEXT_CHARS_MAX: Final = 4096
"""Names and messages from files are cut here."""

JSON_HINT: Final = "the file is damaged or cut off"
NUMBER_CHARS_MAX: Final = 64
"""Text longer than this is not a number anybody measured."""


def whole(value: Any, limit: int = INT_MAX) -> int | None:
    """An integer (or a float or text that is exactly one) of at most `limit` in size; None for everything else."""
    if isinstance(value, str):
        value = _number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float):
        if not value.is_integer():
            return None
        value = int(value)
    return value if -limit - 1 <= value <= limit else None


def small(value: Any) -> int | None:
    """As `whole`, for 32-bit columns."""
    return whole(value, SMALL_MAX)


def count(value: Any) -> int | None:
    """As `whole`, but never below zero: sizes, counters, times."""
    number = whole(value)
    return None if number is None or number < 0 else number


def real(value: Any) -> float | None:
    """A finite number, or text that is exactly one; None for everything else, NaN and infinities included."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not _plain(value):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None


def scaled(value: Any, factor: float) -> int | None:
    """A number times `factor`, rounded to a 64-bit integer; exact where both are whole."""
    number, exact = real(value), whole(value)
    if exact is not None and float(factor).is_integer():
        return whole(exact * int(factor))
    if number is None or abs(number * factor) >= 2**63:
        return None
    return round(number * factor)


def text(value: Any) -> str | None:
    """Text that can be written as UTF-8, cut at TEXT_CHARS_MAX; None for everything else and for empty text."""
    if not isinstance(value, str) or not value:
        return None
    return value[:TEXT_CHARS_MAX].encode("utf-8", "replace").decode("utf-8")


def mapping(value: Any) -> Mapping[Any, Any]:
    """The value where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def is_list(value: Any) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Whether it is a list or a tuple."""
    return isinstance(value, list | tuple)


def json_value(content: str | bytes) -> Any:
    """JSON text -> what it holds. Damaged, too deeply nested or absurd JSON is Refused."""
    try:
        return json.loads(content)
    except RecursionError:
        raise Refused("is JSON nested deeper than any measurement is", JSON_HINT) from None
    except ValueError as error:
        raise Refused(f"is not valid JSON: {error}", JSON_HINT) from None


def epoch_ns(moment: datetime) -> int | None:
    """A point in time -> ns since the Unix epoch, None before it or past 64 bits; a time without a zone is read as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    span = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return count(((span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds) * 1_000)


def digest(rows: Iterable[Rows]) -> str:
    """A digest of measured rows: the same rows in another wrapping give the same digest."""
    state = hashlib.blake2b(digest_size=16)
    for table, batch, _ in rows:
        state.update(table.encode())
        state.update(batch.serialize())
    return state.hexdigest()


def _number(value: str) -> int | float | None:
    if not _plain(value):
        return None
    try:
        return int(value)
    except ValueError:
        return real(value)


def _plain(value: str) -> bool:
    """Whether a text may be a number that a tool wrote: short, ASCII, without the underscores that Python allows."""
    return len(value) <= NUMBER_CHARS_MAX and value.isascii() and "_" not in value
