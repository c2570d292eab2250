"""What every table, view and column means, in words and units: tables as they are declared, views as views.toml says.

A column of a view that is called as one of the tables behind it means the same, unless views.toml says otherwise.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from warpline_proto.tables import TABLES


@dataclass(frozen=True)
class View:
    """A view: its sentence, the tables and views whose columns it shows, and its columns of its own."""

    sentence: str
    tables: tuple[str, ...]
    columns: Mapping[str, str]


@cache
def views() -> Mapping[str, View]:
    """Every described view by name."""
    told = tomllib.loads(resources.files(__package__).joinpath("views.toml").read_text(encoding="utf-8"))
    return {name: View(each["is"], tuple(each.get("of", ())), each.get("columns", {})) for name, each in told.items()}


def sentence(relation: str) -> str:
    """What a row of the table or view is; empty if it is not described."""
    if relation in TABLES:
        return TABLES[relation].meaning
    return views()[relation].sentence if relation in views() else ""


def meaning(relation: str, column: str) -> str:
    """What a column means, with its unit in brackets; empty if it is not described."""
    if relation in TABLES:
        found = next((each for each in TABLES[relation].columns if each.name == column), None)
        if found is None:
            return ""
        return f"{found.meaning} [{found.unit}]" if found.unit else found.meaning
    view = views().get(relation)
    if view is None:
        return ""
    return view.columns.get(column) or next((words for table in view.tables if (words := meaning(table, column))), "")


def columns(relation: str) -> Mapping[str, str]:
    """Every described column of a table or view, with its meaning: a view's own come last."""
    if relation in TABLES:
        return {column.name: meaning(relation, column.name) for column in TABLES[relation].columns}
    view = views()[relation]
    behind = {name: words for table in view.tables for name, words in columns(table).items()}
    return {**behind, **view.columns}
