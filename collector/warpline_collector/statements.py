"""What a user may ask: exactly one SELECT, or EXPLAIN of one. The engine's own parser and planner decide what a text is.

A statement that the parser calls SELECT can still write: DuckDB 2.0 takes COPY and INSERT as the body of a CTE at the top
level, and json_execute_serialized_sql runs any tree. So the user's text always runs as a subquery, where the engine refuses
such a CTE; its tree is looked at before the engine resolves a name in it (that alone opens files), its plan before it runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final, Protocol

import duckdb
import pyarrow as pa

from warpline_proto.errors import QueryError

from .schema import Parameters

SQL_BYTES_MAX: Final = 256 * 1024
"""Longest statement that is looked at."""
FORBIDDEN: Final = re.compile(
    "SERIALIZED_SQL|COPY|INSERT|DELETE|UPDATE|MERGE_INTO|CREATE|ATTACH|IMPORT_|TRUNCATE|CHECKPOINT|ENABLE_|DISABLE_|"
    "EXTERNAL_RESOURCE|PANDAS_SCAN|ARROW_SCAN|PYTHON_MAP"
)
"""Operators and table functions that do more than read."""
TABLE_FUNCTIONS: Final = frozenset(
    (
        "range", "generate_series", "unnest", "repeat", "json_each", "json_tree", "summary", "histogram", "histogram_values",
        "duckdb_columns", "duckdb_databases", "duckdb_functions", "duckdb_keywords", "duckdb_schemas", "duckdb_tables",
        "duckdb_types", "pragma_table_info", "pragma_show", "pragma_version", "pg_timezone_names",
    )
)  # fmt: skip
"""Functions a user may read from. Files of the store are read through its tables only, never by name."""
HIDDEN: Final = frozenset(
    (
        "current_setting", "getvariable", "write_log", "pg_settings", "pg_views", "views", "duckdb_views", "sqlite_master",
        "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema",
    )
)  # fmt: skip
"""Functions and views that speak of this process and its paths, not of the rows."""
_FILE_NAME: Final = re.compile(r"[/\\.:*?]")
_EXPLAIN: Final = re.compile(r"\s*explain(?:\s+(analyze))?\s+", re.IGNORECASE)
_HINT: Final = "one SELECT, EXPLAIN, DESCRIBE, SUMMARIZE or SHOW TABLES at a time"


class NotAllowed(QueryError):
    """A statement that reads what is not for users, or does more than read."""


class ForOperators(NotAllowed):
    """A statement that reads what this caller's role may not see."""


class Ask(Protocol):
    """A trusted statement and what fills its `?` -> rows."""

    def __call__(self, sql: str, parameters: Parameters, /) -> pa.Table: ...


@dataclass(frozen=True)
class Statement:
    """A checked statement: `sql` is what runs, `reading` the part of it that reads."""

    sql: str
    reading: str

    @property
    def explains(self) -> bool:
        """It tells how it would be read, instead of rows."""
        return self.sql is not self.reading


def parse(sql: str) -> Statement:
    """The statement in `sql`; QueryError if it is anything else than one that only reads."""
    if len(sql.encode(errors="replace")) > SQL_BYTES_MAX:
        raise QueryError(f"the statement is longer than {SQL_BYTES_MAX} bytes")
    kind, prefix = _only(sql), _EXPLAIN.match(sql)
    if kind == duckdb.StatementType.SELECT:
        body, before = sql, ""
    elif kind == duckdb.StatementType.EXPLAIN and prefix:
        body, before = sql[prefix.end() :], f"EXPLAIN {prefix[1] or ''} "
    else:
        raise _refusal(sql)
    inner = f"SELECT * FROM ({body.rstrip().rstrip(';')}\n)"
    if not (_only(body) == _only(inner) == duckdb.StatementType.SELECT):
        raise _refusal(sql)
    return Statement(before + inner if before else inner, inner)


def look(statement: Statement, ask: Ask, refused: Set[str] = frozenset(), hidden: Set[str] = HIDDEN) -> None:
    """NotAllowed if the statement names what is not for users; ForOperators where a table it names is `refused`."""
    for node in nodes(statement, ask):
        _check_name(node, refused, hidden)


def judge(statement: Statement, ask: Ask, parameters: Parameters = ()) -> None:
    """NotAllowed if the plan of the statement does more than read."""
    for row in ask(f"EXPLAIN (FORMAT JSON) {statement.reading}", parameters).to_pylist():
        for operator in _nodes(json.loads(row["explain_value"])):
            name = operator.get("name")
            if isinstance(name, str) and FORBIDDEN.search(name.upper()):
                raise NotAllowed(f"{name} is not allowed: this door only reads", _HINT)


def nodes(statement: Statement, ask: Ask) -> Iterator[Mapping[str, Any]]:
    """The nodes of the statement's tree, before any name in it was looked up."""
    [tree] = ask("SELECT json_serialize_sql(?) AS tree", [statement.reading]).to_pylist()
    return _nodes(json.loads(tree["tree"]))


def _check_name(node: Mapping[str, Any], refused: Set[str], hidden: Set[str]) -> None:
    if node.get("error") is True:
        raise QueryError(f"the statement cannot be looked into: {node.get('error_message')}", _HINT)
    table, function = node.get("table_name"), node.get("function_name")
    if node.get("type") == "BASE_TABLE" and isinstance(table, str):
        if _FILE_NAME.search(table) or table.lower() in hidden:
            raise NotAllowed(f"{table!r} is no table that may be read here", "SHOW TABLES lists them")
        if table.lower() in refused:
            raise ForOperators(f"table {table.lower()} is for operators only", "ask one of them")
    elif node.get("type") == "TABLE_FUNCTION":
        called = str(node["function"].get("function_name")).lower()
        if called not in TABLE_FUNCTIONS:
            raise NotAllowed(f"reading from {called}() is not allowed", "SHOW TABLES lists what may be read")
    elif isinstance(function, str) and function.lower() in hidden:
        raise NotAllowed(f"{function.lower()}() is not allowed: this door only reads rows", _HINT)


def _nodes(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Every object in a JSON document, without recursion: a user decides how deep it is."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _only(sql: str) -> duckdb.StatementType:
    try:
        found = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(str(error).strip()[:2_000]) from error
    if len(found) != 1:
        raise QueryError(f"{len(found)} statements at once" if found else "no statement", _HINT)
    try:
        return found[0].type
    except ValueError as error:  # a kind that the engine's own Python has no name for
        raise _refusal(sql) from error


def _refusal(sql: str) -> NotAllowed:
    words = re.findall(r"[A-Za-z]+", sql)
    return NotAllowed(f"{words[0].upper()[:20] if words else 'that'} is not allowed: this door only reads", _HINT)
