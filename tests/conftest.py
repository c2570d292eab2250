"""What tests share: the recorded data sets, a compiler for the fake libraries, rows to ask, frames to store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from warpline_proto.batch import Batch, Frame
from warpline_proto.tables import STEPS, TABLES

MakeFrame = Callable[..., Frame]

FAKES = Path(__file__).parent / "fakes"
DATA = Path(os.environ.get("WARPLINE_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")).resolve()


@pytest.fixture(scope="session")
def data() -> Path:
    """The recorded data sets; skips where they are not at hand."""
    if not DATA.is_dir():
        pytest.skip(f"no recorded data at {DATA}: set WARPLINE_TEST_DATA")
    return DATA


@pytest.fixture(scope="session")
def compile_fake(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Compile tests/fakes/NAME.c into a shared library, with the system compiler or PyPI's ziglang."""
    folder = tmp_path_factory.mktemp("fakes")

    def build(name: str, library: str) -> Path:
        target = folder / library
        if not target.exists():
            command = [
                *_compiler(),
                "-O1",
                "-shared",
                "-fPIC",
                "-o",
                str(target),
                str(FAKES / f"{name}.c"),
                "-lpthread",
            ]
            subprocess.run(command, check=True, capture_output=True, text=True)
        return target

    return build


def _compiler() -> list[str]:
    system = shutil.which("cc")
    return [system] if system else [sys.executable, "-m", "ziglang", "cc"]


class RowsReader:
    """A Reader over rows in memory: every declared table, empty where nothing is given."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        import duckdb

        self._connection = duckdb.connect(":memory:", config={"threads": 2})
        for name, table in TABLES.items():
            given = tables.get(name, [])
            rows = given if isinstance(given, pa.Table) else pa.Table.from_batches([table.from_rows(given)])
            self._connection.register(name, rows.cast(table.schema))

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        return self._connection.sql(sql, params=list(parameters)).to_arrow_table()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def reader_of() -> Iterator[Callable[[Mapping[str, Any]], RowsReader]]:
    """Tables by name (rows as mappings, or an Arrow table) -> a Reader over them."""
    opened: list[RowsReader] = []

    def make(tables: Mapping[str, Any]) -> RowsReader:
        opened.append(RowsReader(tables))
        return opened[-1]

    yield make
    for reader in opened:
        reader.close()


@pytest.fixture
def make_frame() -> MakeFrame:
    """A frame of `rows` rows of table steps; column `step` repeats the sequence, `rank` numbers the rows."""

    def make(
        sequence: int, rows: int = 3, boot: str = "boot-1", agent: str = "node-1", dropped: int = 0, lost: int = 0
    ) -> Frame:
        listed = [
            {
                "node": agent,
                "job": boot,
                "rank": rank,
                "scope": "step",
                "step": sequence,
                "start_ns": sequence * 1_000 + rank,
            }
            for rank in range(rows)
        ]
        batch = Batch(STEPS.name, "synthetic", STEPS.from_rows(listed), dropped)
        return Frame(agent, boot, sequence, 1_000_000 + sequence, (batch,), lost)

    return make
