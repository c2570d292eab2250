"""What PostgreSQL's clients write, in the words of the engine: tokens, single statements, and the few things it spells otherwise.

Nothing here decides what is allowed: what comes out is judged like any other statement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

_TOKEN: Final = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*|/\*.*?\*/)
  | (?P<text>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$)
  | (?P<quoted>"(?:[^"]|"")*")
  | (?P<parameter>\$\d+)
  | (?P<word>[^\W\d][\w$]*)
  | (?P<number>\d[\w.]*)
  | (?P<sign>::|[~!@\#^&|`?+\-*/%<>=]+|.)
    """,
    re.VERBOSE | re.DOTALL,
)
DATABASE: Final = "warpline"
INFORMATION_SCHEMA: Final = "infoschema"
"""The engine keeps the name information_schema for its own."""
_BUILT_IN: Final = re.compile(
    r"pg_|regclass|information_schema|public|collate|operator|user|version|current_", re.IGNORECASE
)
_SEARCH_PATH: Final = re.compile(
    r"select\s+case\s+when\s+trim\(s\[i\]\).{0,400}?string_to_array\(current_setting\('search_path'\),\s*','\)\s*s\b",
    re.IGNORECASE | re.DOTALL,
)
"""How Grafana asks for the schemas of the search path: with a function in place of a table."""


@dataclass(frozen=True)
class Token:
    """A piece of a statement: `kind` is space, text, quoted, parameter, word, number or sign."""

    kind: str
    text: str
    before: str = ""

    def said(self) -> str:
        """The name it stands for: words in lower case, quoted names as they are."""
        return self.text[1:-1].replace('""', '"') if self.kind == "quoted" else self.text.lower()


def tokens(sql: str) -> Iterator[Token]:
    """All tokens; together they are `sql`."""
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup or "sign"
        yield Token("text" if kind == "tag" else kind, match[0])


def statements(sql: str) -> list[str]:
    """The statements that semicolons part, without those that say nothing."""
    if ";" not in sql.rstrip().rstrip(";"):
        only = sql.strip().rstrip(";")
        return [only] if any(token.kind != "space" for token in tokens(only[:1_000])) or len(only) > 1_000 else []
    found: list[list[Token]] = [[]]
    for token in tokens(sql):
        if token.kind == "sign" and token.text == ";":
            found.append([])
        else:
            found[-1].append(token)
    said = (part for part in found if any(token.kind != "space" for token in part))
    return ["".join(token.text for token in part).strip() for part in said]


def parameters(sql: str) -> int:
    """The highest n of `$n` in the statement, 0 if there is none."""
    if "$" not in sql:
        return 0
    return max((int(token.text[1:]) for token in tokens(sql) if token.kind == "parameter"), default=0)


def used(sql: str) -> set[str]:
    """The n of each `$n` in the statement."""
    return {token.text[1:] for token in tokens(sql) if token.kind == "parameter"} if "$" in sql else set()


def translated(sql: str, number_of: Callable[[str], int | None]) -> str:
    """The statement as the engine spells it; `number_of` gives the number that a name written as regclass stands for.

    Schemas and the database are left out of names, since there is one of each; collations and the long form of operators are
    the engine's own.
    """
    if not _BUILT_IN.search(sql):
        return sql
    sql = _SEARCH_PATH.sub("SELECT 'public'", sql)
    dense = list(_dense(sql))
    written: list[str] = []
    place = 0
    while place < len(dense):
        taken, words = _piece(dense, place, number_of)
        written += (dense[place].before, words)
        place += taken
    return "".join(written)


def _dense(sql: str) -> Iterator[Token]:
    """Tokens but for spaces and remarks, each with the space before it."""
    before = ""
    for token in tokens(sql):
        if token.kind == "space":
            before += " " if token.text.startswith(("--", "/*")) else token.text
        else:
            yield replace(token, before=before)
            before = ""


def _piece(dense: list[Token], place: int, number_of: Callable[[str], int | None]) -> tuple[int, str]:
    """How many tokens from `place` on are one thing, and how the engine spells it."""
    token = dense[place]
    after = [each.text.lower() if each.kind == "word" else each.text for each in dense[place + 1 : place + 6]]
    name = token.said() if token.kind in ("word", "quoted") else ""
    if name in ("pg_catalog", "public", DATABASE) and after[:1] == ["."]:
        return 2, ""
    if name == "information_schema" and after[:1] == ["."]:
        return 2, f"{INFORMATION_SCHEMA}."
    if token.kind == "word" and name == "operator" and after[:1] == ["("]:
        return _operator(dense, place)
    if token.kind == "word" and name == "collate":
        return _collation(dense, place)
    if token.kind == "text" and after[:1] == ["::"]:
        return _regclass(dense, place, number_of)
    return 1, token.text


def _operator(dense: list[Token], place: int) -> tuple[int, str]:
    """`OPERATOR(pg_catalog.~)` is `~`."""
    end = next((at for at in range(place + 2, min(place + 7, len(dense))) if dense[at].text == ")"), None)
    if end is None:
        return 1, dense[place].text
    sign = dense[end - 1].text
    return end + 1 - place, sign


def _collation(dense: list[Token], place: int) -> tuple[int, str]:
    """One collation, that of the engine, is as good as any of PostgreSQL's."""
    end = place + 2
    if end + 1 < len(dense) and dense[end].text == ".":
        end += 2
    named = dense[end - 1].said() if end - 1 < len(dense) else ""
    return (end - place, "") if named in ("default", "c", "C", "posix", "POSIX") else (1, dense[place].text)


def _regclass(dense: list[Token], place: int, number_of: Callable[[str], int | None]) -> tuple[int, str]:
    end = place + 2
    if end + 1 < len(dense) and dense[end].said() == "pg_catalog" and dense[end + 1].text == ".":
        end += 2
    if end >= len(dense) or dense[end].said() != "regclass":
        return 1, dense[place].text
    named = dense[place].text.strip("'").rpartition(".")[2].strip('"')
    if named.isdigit():
        return end + 1 - place, named
    number = number_of(named)
    return end + 1 - place, "NULL" if number is None else str(number)
