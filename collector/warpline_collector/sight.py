"""What each role sees of the tables: the one list of what may be private.

An operator sees everything. A viewer sees every table and view with its own columns, so that a dashboard works for both; what
may speak of people is left out of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from warpline_proto.table import Table

from .callers import Role
from .schema import quoted, select_nothing, sql_type

OPERATORS_ONLY: Final = frozenset({"audit", "stacks"})
"""Tables that a viewer is refused: who asked what, and the functions and files of people's programs."""
PRIVATE: Final[Mapping[str, frozenset[str]]] = {
    "energy_intervals": frozenset({"user", "account", "pod"}),
    "gpu_processes": frozenset({"process", "user", "account", "pod", "container", "evidence"}),
    "jobs": frozenset({"user", "evidence"}),
    "log_events": frozenset({"message"}),
    "process_events": frozenset({"process"}),
}
"""Columns that are NULL for a viewer: names of people and their accounts, of programs and containers, and lines of logs."""


@dataclass(frozen=True)
class Sight:
    """Tables that are refused, and columns that are NULL, by table."""

    refused: frozenset[str] = frozenset()
    blank: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def over(self, table: Table, sql: str) -> str:
        """`sql`, which selects the columns of `table`, without what is not to be seen."""
        if table.name in self.refused:
            return select_nothing(table)
        blank = self.blank.get(table.name)
        if not blank:
            return sql
        nulls = ", ".join(
            f"CAST(NULL AS {sql_type(column.type)}) AS {quoted(column.name)}"
            for column in table.columns
            if column.name in blank
        )
        return f"SELECT * REPLACE ({nulls}) FROM ({sql})"


EVERYTHING: Final = Sight()
SIGHTS: Final[Mapping[Role, Sight]] = {Role.OPERATOR: EVERYTHING, Role.VIEWER: Sight(OPERATORS_ONLY, PRIVATE)}
"""Agents ask nothing."""
