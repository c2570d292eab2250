"""Values as SQL writes them."""

from __future__ import annotations


def literal(value: str | int | None) -> str:
    """A text, a number or NULL."""
    if isinstance(value, int):
        return str(value)
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


def same(column: str, value: str | int | None) -> str:
    """SQL: the column has this value, or is NULL like it."""
    return f"{column} IS NULL" if value is None else f"{column} = {literal(value)}"
