"""What could come next in a statement that is being typed: by the words before the cursor, without understanding all of SQL."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from .catalogue import Catalogue

CANDIDATES_MAX: Final = 60
WORDS: Final = (
    "SELECT", "FROM", "WHERE", "GROUP BY", "ORDER BY", "LIMIT", "HAVING", "QUALIFY", "JOIN", "LEFT JOIN", "ASOF JOIN", "USING",
    "WITH", "AS", "AND", "OR", "NOT", "IN", "BETWEEN", "IS NULL", "IS NOT NULL", "CASE WHEN", "THEN", "ELSE", "END", "DISTINCT",
    "UNION ALL", "DESC", "ASC", "OVER", "PARTITION BY", "FILTER", "EXPLAIN", "DESCRIBE", "SUMMARIZE", "SHOW TABLES",
    "count(*)", "avg(", "sum(", "min(", "max(", "median(", "quantile_cont(", "arg_max(", "arg_min(", "any_value(", "coalesce(",
    "round(", "make_timestamp_ns(", "time_bucket(", "row_number() OVER (", "lag(", "unnest(",
)  # fmt: skip
_TYPED: Final = re.compile(r"(?:([A-Za-z_]\w*)\.)?(\w*)\Z")
_NAME_BEFORE: Final = re.compile(r"\w*\Z")
_NAME_AFTER: Final = re.compile(r"\w*")
_QUIET: Final = re.compile(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", re.DOTALL)
"""Texts and comments: names in them mean nothing."""
_OPEN: Final = re.compile(r"'[^']*\Z|--[^\n]*\Z|/\*(?:(?!\*/).)*\Z", re.DOTALL)
_NAMED: Final = re.compile(r"(?:\b(?:FROM|JOIN)|,)\s*([A-Za-z_]\w*)(?=(?:\s+(?:AS\s+)?([A-Za-z_]\w*))?)", re.IGNORECASE)
_WANTS_RELATION: Final = re.compile(
    r"\b(?:FROM|JOIN|DESCRIBE|SUMMARIZE)\s+\w*\Z|\bFROM\s+[\w\s,]*,\s*\w*\Z", re.IGNORECASE
)
_NO_ALIAS: Final = frozenset({
    "where", "group", "order", "limit", "join", "left", "right", "full", "inner", "cross", "asof", "on", "using", "having",
    "qualify", "union", "window", "sample",
})  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """What may be put in the place of the word that is typed, and what it means."""

    text: str
    meaning: str


@dataclass(frozen=True)
class Candidates:
    """What may follow; each takes the place of the last `typed` characters before the cursor."""

    typed: int = 0
    listed: tuple[Candidate, ...] = ()


def candidates(sql: str, cursor: int, catalogue: Catalogue, *, asked: bool = False) -> Candidates:
    """What may stand at `cursor`; without a letter typed only if it is `asked` for, or after `name.`."""
    before = _QUIET.sub(_blank, sql[:cursor])
    if _OPEN.search(before):
        return Candidates()
    found = _TYPED.search(before)
    assert found is not None
    qualifier, word = found[1], found[2]
    if not (word or qualifier or asked) or word[:1].isdigit():
        return Candidates()
    named = relations(sql, catalogue)
    told = _columns(catalogue, named, qualifier) if qualifier else _anything(before, catalogue, named)
    fitting = _fitting(word, told)
    if word and word.lower() in (each.text.lower() for each in fitting):
        return Candidates()
    return Candidates(len(word), tuple(fitting[:CANDIDATES_MAX]))


def relations(sql: str, catalogue: Catalogue) -> Mapping[str, str]:
    """Tables and views that a statement names, by the names it gives them."""
    named = {}
    for found in _NAMED.finditer(_QUIET.sub(_blank, sql)):
        if found[1].lower() in catalogue:
            alias = found[2] if found[2] and found[2].lower() not in _NO_ALIAS else found[1]
            named[alias.lower()] = found[1].lower()
    return named


def name_at(sql: str, cursor: int) -> str:
    """The name that the cursor is in or at the end of; empty between names."""
    before, after = _NAME_BEFORE.search(sql[:cursor]), _NAME_AFTER.match(sql[cursor:])
    return (before[0] if before else "") + (after[0] if after else "")


def _anything(before: str, catalogue: Catalogue, named: Mapping[str, str]) -> Iterator[Candidate]:
    if not _WANTS_RELATION.search(before):
        yield from _columns(catalogue, named)
        yield from (Candidate(each, "") for each in WORDS)
    yield from (Candidate(name, each.sentence) for name, each in catalogue.items())


def _columns(catalogue: Catalogue, named: Mapping[str, str], qualifier: str | None = None) -> Iterator[Candidate]:
    """Of the relation that is qualified, else of those the statement names, else of all."""
    of_all = list(dict.fromkeys(named.values())) or list(catalogue)
    wanted = [named.get(qualifier.lower(), qualifier)] if qualifier else of_all
    seen = set()
    for relation in wanted:
        for name, meaning in catalogue[relation].columns.items() if relation in catalogue else ():
            if name not in seen:
                seen.add(name)
                yield Candidate(name, meaning if len(wanted) == 1 else f"{meaning} ({relation})")


def _fitting(word: str, told: Iterable[Candidate]) -> list[Candidate]:
    """Those that begin with the word, then those that have it."""
    small, listed = word.lower(), list(told)
    first = [each for each in listed if each.text.lower().startswith(small)]
    return first + [each for each in listed if small in each.text.lower() and each not in first] if small else listed


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])
