"""Every store by name. One line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ..store import Store
from .duckdb import DuckDBStore
from .tended import TendedStore

STORES: Final[Mapping[str, Callable[[Path], Store]]] = {
    "duckdb": DuckDBStore,
    "tended": TendedStore,
}
