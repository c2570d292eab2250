"""Statements that the session answers itself, because they speak of the session and not of rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from warpline_proto.errors import QueryError

from .dialect import Token, tokens

BEGIN: Final = "BEGIN"
COMMIT: Final = "COMMIT"
ROLLBACK: Final = "ROLLBACK"
SAVEPOINT: Final = "SAVEPOINT"
RELEASE: Final = "RELEASE"
SET: Final = "SET"
SHOW: Final = "SHOW"
DECLARE: Final = "DECLARE CURSOR"
FETCH: Final = "FETCH"
CLOSE: Final = "CLOSE CURSOR"
COPY: Final = "COPY"
DEALLOCATE: Final = "DEALLOCATE"
DISCARD: Final = "DISCARD ALL"
TAKEN: Final = "TAKEN"
"""Said yes to, without any effect."""
ALL: Final = -1
_ALONE: Final = {
    "begin": BEGIN, "start": BEGIN, "commit": COMMIT, "end": COMMIT, "abort": ROLLBACK, "savepoint": SAVEPOINT,
    "release": RELEASE, "discard": DISCARD,
}  # fmt: skip
_ENGINES_OWN: Final = frozenset({"tables", "databases", "schemas", "functions", "from"})
"""What follows SHOW where the engine is to answer."""
_HEADS: Final = re.compile(
    r"\s*(?:--[^\n]*\n\s*|/\*.*?\*/\s*)*(begin|start|commit|end|abort|rollback|savepoint|release|set|reset|show|discard|deallocate|"
    r"declare|fetch|move|close|copy|listen|unlisten|notify)\b",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Command:
    """What is to be done; `name` is a setting, cursor or statement, `value` a setting's, `sql` the question within."""

    kind: str
    tag: str
    name: str = ""
    value: str = ""
    sql: str = ""
    rows: int = ALL
    csv: bool = False
    header: bool = False


def recognised(sql: str) -> Command | None:
    """The command that `sql` is, None where it is a question for the engine; QueryError if it is one that cannot be had."""
    match = _HEADS.match(sql)
    if match is None:
        return None
    head = match[1].lower()
    dense = [token for token in tokens(sql) if token.kind != "space"]
    words = [token.said() for token in dense]
    if head in _ALONE:
        tag = {"start": "START TRANSACTION"}.get(head, _ALONE[head])
        return Command(_ALONE[head], tag)
    if head == "rollback":
        return Command(RELEASE if "to" in words[1:3] else ROLLBACK, ROLLBACK)
    if head in ("set", "reset"):
        return _setting(head, dense, words)
    if head == "show":
        if len(words) > 1 and (words[1] in _ENGINES_OWN or (words[1:2] == ["all"] and words[2:3] == ["tables"])):
            return None
        return Command(SHOW, SHOW, name=_named(words[1:]))
    if head == "deallocate":
        return Command(DEALLOCATE, DEALLOCATE, name=words[-1])
    if head in ("listen", "unlisten", "notify"):
        return Command(TAKEN, head.upper())
    if head == "copy":
        return _copy(sql, dense, words)
    return _cursor(head, sql, dense, words)


def _setting(head: str, dense: list[Token], words: list[str]) -> Command:
    """`SET [SESSION | LOCAL] name {TO | =} value`, `SET TIME ZONE value`, `RESET name`."""
    rest = [word for word in words[1:] if word not in ("session", "local")]
    if rest[:2] == ["time", "zone"]:
        return Command(SET, SET, name="timezone", value=" ".join(rest[2:]))
    if rest[:1] == ["transaction"] or rest[:1] == ["characteristics"]:
        return Command(TAKEN, SET)
    if len(rest) < 3 or rest[1] not in ("to", "="):
        return Command(TAKEN, head.upper())
    value = " ".join(token.text.strip("'") for token in dense[len(dense) - len(rest) + 2 :])
    return Command(SET, SET, name=rest[0], value=value)


def _named(words: list[str]) -> str:
    """`TRANSACTION ISOLATION LEVEL`, `SESSION AUTHORIZATION` and `TIME ZONE` are settings of two words."""
    longer = {"transaction isolation level": "transaction_isolation", "time zone": "timezone"}
    name = " ".join(words)
    return longer.get(name, name.replace(" ", "_"))


def _cursor(head: str, sql: str, dense: list[Token], words: list[str]) -> Command:
    if head == "declare":
        if "for" not in words or "cursor" not in words:
            raise QueryError("a cursor is declared FOR a SELECT")
        place = words.index("for", words.index("cursor"))
        return Command(DECLARE, DECLARE, name=words[1], sql=_behind(sql, place + 1))
    if head == "close":
        return Command(CLOSE, "CLOSE CURSOR ALL" if words[1:] == ["all"] else CLOSE, name=words[-1])
    if head == "move" or {"backward", "prior", "absolute", "first", "last"} & set(words[1:-1]):
        raise QueryError("a cursor goes forward only", "FETCH FORWARD n FROM it")
    wanted = [word for word in words[1:-1] if word not in ("forward", "from", "in", "next", "relative")]
    if wanted and wanted[0] != "all" and not wanted[0].isdigit():
        raise QueryError(f"FETCH {wanted[0]} is not known", "FETCH FORWARD n FROM a cursor")
    rows = 1 if not wanted else ALL if wanted[0] == "all" else int(wanted[0])
    return Command(FETCH, FETCH, name=words[-1], rows=rows)


def _copy(sql: str, dense: list[Token], words: list[str]) -> Command:
    """`COPY (SELECT ...) TO STDOUT [WITH (FORMAT csv, HEADER)]`, `COPY table TO STDOUT [CSV HEADER]`."""
    end = len(words) - 1 - words[::-1].index("stdout") if "stdout" in words else 0
    if not end or words[end - 1] != "to" or end < 3:
        raise QueryError("COPY is not allowed but for COPY (SELECT ...) TO STDOUT", "this door only reads")
    options = words[end + 1 :]
    if "binary" in options or "delimiter" in options or "null" in options or "quote" in options:
        raise QueryError("COPY has the forms text and csv here", "WITH (FORMAT csv, HEADER)")
    inner = _between(sql, 1, end - 1)
    inner = inner.strip()[1:-1] if words[1] == "(" else f"SELECT * FROM {inner}"
    off = any(word in ("false", "off", "0") for word in options)
    return Command(COPY, COPY, sql=inner, csv="csv" in options, header="header" in options and not off)


def _behind(sql: str, place: int) -> str:
    """The text from token number `place` on, spaces left out of the count."""
    return _between(sql, place, None)


def _between(sql: str, first: int, end: int | None) -> str:
    written, place = [], 0
    for token in tokens(sql):
        if token.kind != "space":
            place += 1
        if place > first and (end is None or place <= end):
            written.append(token.text)
    return "".join(written).strip()
