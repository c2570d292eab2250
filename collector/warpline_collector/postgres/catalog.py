"""PostgreSQL's own catalog, as far as clients look into it, filled with the tables that one role sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import duckdb
import pyarrow as pa

from warpline_proto.errors import QueryError

from ..reader import words
from ..schema import Parameters
from .dialect import DATABASE
from .types import BOOL, FLOAT8, INT4, INT8, JSON, KINDS, NUMERIC, TEXT, TIMESTAMP, TIMESTAMPTZ, Kind

VERSION: Final = "14.0"
"""The version of PostgreSQL that clients are told: what they ask one of this age, the catalog answers."""
FIRST_OID: Final = 16_384
"""Where PostgreSQL begins to number what users made."""
PUBLIC_OID: Final = 2_200
CATALOG_OID: Final = 11
OWNER_OID: Final = 10
CLASS_OID: Final = 1_259
MEMORY_LIMIT: Final = "128MB"
SETTINGS: Final[Mapping[str, str]] = {
    "server_version": VERSION,
    "server_version_num": "140000",
    "server_encoding": "UTF8",
    "client_encoding": "UTF8",
    "search_path": '"$user", public',
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "integer_datetimes": "on",
    "standard_conforming_strings": "on",
    "is_superuser": "off",
    "session_authorization": DATABASE,
    "default_transaction_read_only": "on",
    "transaction_read_only": "on",
    "transaction_isolation": "repeatable read",
    "default_transaction_isolation": "repeatable read",
    "max_identifier_length": "63",
    "max_index_keys": "32",
    "lc_collate": "C",
    "lc_ctype": "C",
    "bytea_output": "hex",
    "application_name": "",
    "extra_float_digits": "1",
    "statement_timeout": "0",
    "in_hot_standby": "off",
}
"""What SHOW and current_setting() answer."""
_OTHER_TYPES: Final = (
    ("char", 18, 1002, 1, "char"), ("name", 19, 1003, 64, "name"), ("oid", 26, 1028, 4, "oid"),
    ("bpchar", 1042, 1014, -1, "character"), ("varchar", 1043, 1015, -1, "character varying"),
    ("unknown", 705, 0, -2, "unknown"), ("uuid", 2950, 2951, 16, "uuid"), ("jsonb", 3802, 3807, -1, "jsonb"),
    ("regclass", 2205, 2210, 4, "regclass"), ("timetz", 1266, 1270, 12, "time with time zone"),
)  # fmt: skip
_LONG_NAMES: Final = {
    "bool": "boolean", "int8": "bigint", "int2": "smallint", "int4": "integer", "float4": "real", "float8": "double precision",
    "time": "time without time zone", "timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone",
}  # fmt: skip
_KINDS: Final = {
    "BIGINT": INT8, "INTEGER": INT4, "DOUBLE": FLOAT8, "VARCHAR": TEXT, "BOOLEAN": BOOL, "UBIGINT": NUMERIC, "HUGEINT": NUMERIC,
    "TIMESTAMP": TIMESTAMP, "TIMESTAMP WITH TIME ZONE": TIMESTAMPTZ,
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column: its type in the engine's words, and what it means."""

    name: str
    type: str
    meaning: str = ""


@dataclass(frozen=True)
class Relation:
    """One table or view that may be read."""

    name: str
    view: bool
    columns: Sequence[Column]
    meaning: str = ""


class PostgresCatalog:
    """A database in memory that holds nothing but descriptions. `query` as a CatalogReader's."""

    def __init__(self, relations: Sequence[Relation]) -> None:
        self.relations = frozenset(relation.name for relation in relations)
        """Tables and views that the caller may read."""
        self._numbers = {relation.name: FIRST_OID + place for place, relation in enumerate(relations)}
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY_LIMIT,
            "threads": "1",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
        }
        self._connection = duckdb.connect(":memory:", config=settings)
        sql = resources.files(__package__).joinpath("catalog.sql").read_text(encoding="utf-8")
        self._connection.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
        self._connection.execute(sql)
        for table, rows in _tables(relations, self._numbers).items():
            self._fill(table, rows)
        found = self._connection.execute(
            "SELECT lower(table_name) FROM duckdb_columns() WHERE NOT internal GROUP BY ALL"
        ).fetchall()
        self.names = frozenset(name for (name,) in found)
        """Tables and views of the catalog."""
        for setting in ("temp_directory = ''", "enable_external_access = false", "lock_configuration = true"):
            self._connection.execute(f"SET {setting}")

    def number_of(self, name: str) -> int | None:
        """The number of the relation called `name`; that of a catalog's own table is one that no relation has."""
        return self._numbers.get(name, CLASS_OID if name.lower() in self.names else None)

    def query(self, sql: str, parameters: Parameters = (), *, rows_max: int | None = None) -> pa.Table:
        """Rows of one SELECT over the catalog; QueryError with the engine's words if it fails."""
        given = dict(parameters) if isinstance(parameters, Mapping) else list(parameters)
        try:
            relation = self._connection.sql(sql, params=given) if given else self._connection.sql(sql)
            if relation is None:
                raise QueryError("that statement gives no rows", "ask with SELECT")
            return (relation if rows_max is None else relation.limit(rows_max)).to_arrow_table()
        except duckdb.Error as error:
            raise QueryError(words(error)) from error

    def _fill(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        self._connection.register("incoming", pa.Table.from_pylist(list(rows)))
        self._connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
        self._connection.unregister("incoming")


def kind_of(type_: str) -> Kind:
    """The type of PostgreSQL for one of the engine's, by its name."""
    if type_.startswith("DECIMAL"):
        return NUMERIC
    return JSON if type_.startswith(("STRUCT", "MAP")) else _KINDS.get(type_, TEXT)


def _tables(relations: Sequence[Relation], numbers: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
    described = [
        {"objoid": numbers[relation.name], "classoid": CLASS_OID, "objsubid": place, "description": meaning}
        for relation in relations
        for place, meaning in enumerate((relation.meaning, *(column.meaning for column in relation.columns)))
        if meaning
    ]
    return {
        "pg_namespace": [
            {"oid": oid, "nspname": name, "nspowner": OWNER_OID}
            for oid, name in ((CATALOG_OID, "pg_catalog"), (PUBLIC_OID, "public"), (13_000, "information_schema"))
        ],
        "pg_class": [_class(relation, numbers[relation.name]) for relation in relations],
        "pg_attribute": [
            _attribute(numbers[relation.name], place, column)
            for relation in relations
            for place, column in enumerate(relation.columns, 1)
        ],
        "pg_type": list(_types()),
        "pg_description": described,
        "pg_database": [_DATABASE],
        "pg_roles": [_OWNER],
        "pg_settings": [{"name": name.lower(), "setting": value} for name, value in SETTINGS.items()],
        "pg_tablespace": [{"oid": 1_663, "spcname": "pg_default", "spcowner": OWNER_OID}],
    }


def _class(relation: Relation, oid: int) -> dict[str, Any]:
    no = dict.fromkeys(
        (
            "relhasindex", "relisshared", "relhasrules", "relhastriggers", "relhassubclass", "relrowsecurity",
            "relforcerowsecurity", "relispartition", "relhasoids",
        ),
        False,
    )  # fmt: skip
    zero = dict.fromkeys(
        ("reltype", "reloftype", "relam", "reltablespace", "reltoastrelid", "relpages", "relchecks"), 0
    )
    return {
        **no,
        **zero,
        "oid": oid,
        "relname": relation.name,
        "relnamespace": PUBLIC_OID,
        "relowner": OWNER_OID,
        "relfilenode": oid,
        "reltuples": -1.0,
        "relpersistence": "p",
        "relkind": "v" if relation.view else "r",
        "relnatts": len(relation.columns),
        "relispopulated": True,
        "relreplident": "n",
    }


def _attribute(oid: int, place: int, column: Column) -> dict[str, Any]:
    array, kind = column.type.endswith("[]"), kind_of(column.type.removesuffix("[]"))
    return {
        "attrelid": oid,
        "attname": column.name,
        "atttypid": kind.array_oid if array else kind.oid,
        "attlen": -1 if array else kind.size,
        "attnum": place,
        "attndims": int(array),
        "atttypmod": -1,
        "attstattarget": -1,
        "attbyval": kind.size > 0,
        "attstorage": "x" if kind.size < 0 else "p",
        "attalign": "i",
        "attcompression": "",
        "attidentity": "",
        "attgenerated": "",
        "attinhcount": 0,
        "attcollation": 0,
        **dict.fromkeys(("attnotnull", "atthasdef", "atthasmissing", "attisdropped"), False),
        "attislocal": True,
    }


def _types() -> Iterable[dict[str, Any]]:
    known = [(kind.name, kind.oid, kind.array_oid, kind.size, _LONG_NAMES.get(kind.name, kind.name)) for kind in KINDS]
    for name, oid, array_oid, size, long_name in (*known, *_OTHER_TYPES):
        yield _type(name, oid, size, long_name, array_oid, 0)
        if array_oid:
            yield _type(f"_{name}", array_oid, -1, f"{long_name}[]", 0, oid)


def _type(name: str, oid: int, size: int, long_name: str, array_oid: int, element_oid: int) -> dict[str, Any]:
    return {
        "oid": oid,
        "typname": name,
        "typnamespace": CATALOG_OID,
        "typowner": OWNER_OID,
        "typlen": size,
        "typbyval": size > 0,
        "typtype": "b",
        "typcategory": "A" if element_oid else "U",
        "typisdefined": True,
        "typispreferred": False,
        "typdelim": ",",
        "typelem": element_oid,
        "typarray": array_oid,
        "typrelid": 0,
        "typbasetype": 0,
        "typtypmod": -1,
        "typndims": 0,
        "typcollation": 0,
        "typnotnull": False,
        "typdefault": long_name,
        "typinput": "array_in" if element_oid else f"{name}in",
        "typoutput": "array_out" if element_oid else f"{name}out",
    }


_DATABASE: Final = {
    "oid": 1, "datname": DATABASE, "datdba": OWNER_OID, "encoding": 6, "datcollate": "C", "datctype": "C", "datlocprovider": "c",
    "datistemplate": False, "datallowconn": True, "datconnlimit": -1, "datlastsysoid": FIRST_OID - 1, "dattablespace": 1_663,
}  # fmt: skip
_OWNER: Final = {
    "oid": OWNER_OID, "rolname": DATABASE, "rolsuper": False, "rolinherit": True, "rolcreaterole": False, "rolcreatedb": False,
    "rolcanlogin": True, "rolreplication": False, "rolconnlimit": -1, "rolbypassrls": False,
}  # fmt: skip
