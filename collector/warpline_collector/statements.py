"""What a user may ask: exactly one SELECT, or EXPLAIN of one. The engine's own parser and planner decide what a text is.

A statement that the parser calls SELECT can still write: DuckDB 2.0 takes COPY and INSERT as the body of a CTE at the top
level, and json_execute_serialized_sql runs any tree. So the user's text always runs as a subquery, where the engine refuses
such a CTE, and its plan is looked at before it runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import pyarrow as pa

from warpline_proto.errors import QueryError

SQL_BYTES_MAX: Final = 256 * 1024
"""Longest statement that is looked at."""
FORBIDDEN: Final = re.compile(
    "SERIALIZED_SQL|COPY|INSERT|DELETE|UPDATE|MERGE_INTO|CREATE|ATTACH|IMPORT_|TRUNCATE|CHECKPOINT|ENABLE_|DISABLE_|"
    "EXTERNAL_RESOURCE|PANDAS_SCAN|ARROW_SCAN|PYTHON_MAP"
)
"""Operators and table functions that do more than read."""
_EXPLAIN: Final = re.compile(r"\s*explain(?:\s+(analyze))?\s+", re.IGNORECASE)
_HINT: Final = "one SELECT, EXPLAIN, DESCRIBE, SUMMARIZE or SHOW TABLES at a time"


@dataclass(frozen=True)
class Statement:
    """A checked statement: `sql` is what runs, `plan` asks for the plan of its reading part as JSON."""

    sql: str
    plan: str


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
    return Statement(before + inner, f"EXPLAIN (FORMAT JSON) {inner}")


def judge(statement: Statement, ask: Callable[[str], pa.Table]) -> None:
    """QueryError if the plan that `ask` gets does more than read."""
    for row in ask(statement.plan).to_pylist():
        for name in _operators(json.loads(row["explain_value"])):
            if FORBIDDEN.search(name.upper()):
                raise QueryError(f"{name} is not allowed: this door only reads", _HINT)


def _operators(plan: Any) -> Iterator[str]:
    if isinstance(plan, dict):
        if isinstance(plan.get("name"), str):
            yield plan["name"]
        plan = list(plan.values())
    if isinstance(plan, list):
        for part in plan:
            yield from _operators(part)


def _only(sql: str) -> duckdb.StatementType:
    try:
        found = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(str(error).strip()[:2_000]) from error
    if len(found) != 1:
        raise QueryError(f"{len(found)} statements at once" if found else "no statement", _HINT)
    return found[0].type


def _refusal(sql: str) -> QueryError:
    words = re.findall(r"[A-Za-z]+", sql)
    return QueryError(f"{words[0].upper()[:20] if words else 'that'} is not allowed: this door only reads", _HINT)
