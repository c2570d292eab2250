"""What one SQL worker answers from: a reader for each role that asks, opened when it first does, and PostgreSQL's catalog.

A role's reader has no view of what that role may not see, so that no words of a statement can reach it.
"""

from __future__ import annotations

import datetime
import decimal
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from warpline_proto.errors import QueryError
from warpline_proto.tables import TABLES
from warpline_proto.wire import to_ipc

from .callers import Role
from .described import meaning, sentence
from .postgres import dialect
from .postgres.catalog import Column, PostgresCatalog, Relation
from .postgres.rows import copy_rows, data_rows
from .postgres.types import Field, field_of
from .reader import CatalogReader
from .schema import Parameters, text
from .sight import SIGHTS
from .statements import ForOperators, NotAllowed, Statement, judge, look, nodes, parse

RESULT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Largest answer, as it travels."""
NUMBER_DIGITS_MAX: Final = 1_000
"""Digits of a number before or behind its point; the engine knows 38."""
_COLUMNS: Final = """
SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal AND schema_name = 'main'
ORDER BY table_name, column_index
"""
Answered = tuple[dict[str, Any], bytes | memoryview]
_SQLSTATES: Final[Sequence[tuple[type[BaseException], str]]] = (
    (duckdb.ParserException, "42601"),
    (duckdb.CatalogException, "42P01"),
    (duckdb.BinderException, "42703"),
    (duckdb.ConversionException, "22P02"),
    (duckdb.OutOfRangeException, "22003"),
    (duckdb.OutOfMemoryException, "53200"),
    (duckdb.InterruptException, "57014"),
    (duckdb.PermissionException, "42501"),
    (duckdb.InvalidInputException, "22023"),
    (duckdb.NotImplementedException, "0A000"),
)


class Desk:
    """Answers requests one after the other. Each reader plans with `engine_bytes` of memory."""

    def __init__(self, directory: Path, engine_bytes: int) -> None:
        self._directory = directory
        self._engine_bytes = engine_bytes
        self._readers: dict[Role, CatalogReader] = {}
        self._catalogs: dict[Role, PostgresCatalog] = {}
        self._reader(Role.OPERATOR)

    def answer(self, request: Mapping[str, Any]) -> Answered:
        """Header and payload of one request; QueryError if it is refused or fails.

        `form` says of what kind: "arrow" (an IPC stream), or for PostgreSQL's clients "rows", "copy", or "describe", which
        tells columns and runs nothing.
        """
        role, form = Role(request["role"]), request.get("form", "arrow")
        if role not in SIGHTS:
            raise ForOperators("agents ask nothing", "ask with the certificate of a viewer or an operator")
        if form == "arrow":
            return self._arrow(role, request)
        return self._postgres(role, form, request)

    def _arrow(self, role: Role, request: Mapping[str, Any]) -> Answered:
        statement, reader = parse(request["sql"]), self._reader(role)
        look(statement, reader.query, refused=reader.sight.refused)
        judge(statement, reader.query)
        rows, truncated = _cut(reader.query, statement.sql, (), request["rows_max"])
        if reader.damaged:
            rows = rows.replace_schema_metadata({"damaged": "; ".join(f"{i.path} {i.reason}" for i in reader.damaged)})
        payload = to_ipc(rows.schema, rows.to_batches())
        if len(payload) > RESULT_BYTES_MAX:
            raise QueryError(f"the answer is {len(payload)} bytes, the bound is {RESULT_BYTES_MAX}", "ask for less")
        return {"truncated": truncated}, payload

    def _postgres(self, role: Role, form: str, request: Mapping[str, Any]) -> Answered:
        reader, catalog = self._reader(role), self._catalog(role)
        sql = dialect.translated(request["sql"], catalog.number_of)
        statement = parse(sql)
        given = _parameters(sql, request.get("parameters"), describing=form == "describe")
        if self._of_the_catalog(statement, reader, catalog):
            look(statement, catalog.query, hidden=frozenset())
            judge(statement, catalog.query, given)
            query: Callable[..., pa.Table] = catalog.query
        else:
            look(statement, reader.query, refused=reader.sight.refused)
            judge(statement, reader.query, given)
            query = reader.query
        if form == "describe":
            plan = (
                f"EXPLAIN {statement.reading}" if statement.explains else f"SELECT * FROM ({statement.reading}) LIMIT 0"
            )
            rows = query(plan, given)
            return _told([field_of(each) for each in rows.schema]) | {"parameters": dialect.parameters(sql)}, b""
        rows, truncated = _cut(query, statement.sql, given, request["rows_max"])
        fields = [field_of(each) for each in rows.schema]
        header = _told(fields) | {"truncated": truncated, "rows": rows.num_rows}
        try:
            if form == "copy":
                return header, copy_rows(rows, fields, request["csv"], request["header"], RESULT_BYTES_MAX)
            return header, data_rows(rows, fields, request["formats"], RESULT_BYTES_MAX)
        except (pa.ArrowException, ValueError, TypeError, OverflowError, struct.error) as error:
            raise QueryError(
                f"the answer has no such form: {error}", "ask for it as text: CAST(... AS VARCHAR)"
            ) from error

    def _of_the_catalog(self, statement: Statement, reader: CatalogReader, catalog: PostgresCatalog) -> bool:
        """Whether it asks for what PostgreSQL's catalog tells, or for no table at all."""
        named = set()
        for node in nodes(statement, reader.query):
            if node.get("type") == "SHOW_REF":
                return False
            if node.get("type") == "BASE_TABLE":
                named.add(str(node.get("table_name")).lower())
        ours = {relation.lower() for relation in catalog.relations}
        return not named or (bool(named & catalog.names) and not named & ours)

    def _reader(self, role: Role) -> CatalogReader:
        if role not in self._readers:
            reader = CatalogReader(
                self._directory,
                memory_limit=f"{self._engine_bytes}B",
                threads=1,
                sight=SIGHTS[role],
                renews=False,  # the settings below hold, and the process ends after so many questions
            )
            for setting in (
                "temp_directory = ''",
                f"allowed_directories = [{text(str(reader.directory) + '/')}]",
                "enable_external_access = false",
                "lock_configuration = true",
            ):
                reader.connection.execute(f"SET {setting}")
            self._readers[role] = reader
        return self._readers[role]

    def _catalog(self, role: Role) -> PostgresCatalog:
        if role not in self._catalogs:
            columns: dict[str, list[Column]] = {}
            for name, column, kind in self._reader(role).connection.execute(_COLUMNS).fetchall():
                columns.setdefault(name, []).append(Column(column, kind, meaning(name, column)))
            refused = SIGHTS[role].refused
            self._catalogs[role] = PostgresCatalog(
                [
                    Relation(name, name not in TABLES, listed, sentence(name))
                    for name, listed in columns.items()
                    if name not in refused
                ]
            )
        return self._catalogs[role]


def sqlstate(error: BaseException) -> str:
    """The five letters that PostgreSQL's clients know a failure by."""
    if isinstance(error, ForOperators):
        return "42501"
    if isinstance(error, NotAllowed):
        return "25006"
    cause = error.__cause__
    return next((state for kind, state in _SQLSTATES if isinstance(cause, kind)), "42000")


def _cut(query: Callable[..., pa.Table], sql: str, parameters: Parameters, rows_max: int) -> tuple[pa.Table, bool]:
    found = query(sql, parameters, rows_max=rows_max + 1)
    return found.slice(0, rows_max), found.num_rows > rows_max


def _told(fields: Sequence[Field]) -> dict[str, Any]:
    return {"fields": [[field.name, field.oid, field.size] for field in fields]}


def _parameters(sql: str, given: Sequence[Any] | None, *, describing: bool) -> dict[str, Any]:
    """What fills each `$n`; NULL for all where the statement is only described."""
    used = dialect.used(sql)
    if describing:
        return dict.fromkeys(used)
    values = list(given or ())
    missing = [name for name in sorted(used) if int(name) > len(values)]
    if missing:
        raise QueryError(f"there is no value for ${missing[0]}")
    return {name: _value(values[int(name) - 1]) for name in used}


def _value(given: Sequence[Any] | None) -> Any:
    """A value as the engine takes it, of its kind and its text; QueryError if they do not fit."""
    if given is None:
        return None
    kind, told = given
    try:
        if isinstance(told, list):
            return [_value(None if each is None else [kind, each]) for each in told]
        return _VALUES.get(kind, str)(told)
    except (ValueError, ArithmeticError) as error:
        raise QueryError(f"{str(told)[:100]!r} is no {kind}") from error


def _number(told: str) -> decimal.Decimal | float:
    """A decimal number without an exponent, which not every version of the engine reads."""
    value = decimal.Decimal(told)
    if not value.is_finite():
        return float(value)
    if abs(value.adjusted()) > NUMBER_DIGITS_MAX or int(value.as_tuple().exponent) < -NUMBER_DIGITS_MAX:
        raise ValueError("too many digits")
    return decimal.Decimal(format(value, "f"))


def _moment(told: str) -> datetime.datetime | str:
    """A time; words that the engine knows, such as infinity, are left to it."""
    try:
        return datetime.datetime.fromisoformat(told)
    except ValueError:
        return told


_VALUES: Final[Mapping[str, Callable[[str], Any]]] = {
    "int": int,
    "float": float,
    "bool": lambda told: told.lower() in ("t", "true", "1", "on", "y", "yes"),
    "numeric": _number,
    "bytea": bytes.fromhex,
    "date": datetime.date.fromisoformat,
    "timestamp": _moment,
}
