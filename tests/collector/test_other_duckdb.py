"""A store goes on under the other major version of DuckDB, forth and back, also where its collector was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WRITER = Path(__file__).with_name("writer_process.py")
FRAMES = 30
ROWS = 40
ASK = """
import sys
from pathlib import Path
import duckdb
from warpline_collector.stores.duckdb import DuckDBStore
store = DuckDBStore(Path(sys.argv[1]))
[row] = store.query("SELECT count(*) AS rows, count(DISTINCT (step, rank)) AS own, max(step) AS newest FROM steps").to_pylist()
print(duckdb.__version__.split(".")[0], store.acknowledged("node", "boot"), *row.values())
store.close()
"""


def major_asked(python: str, directory: Path, acknowledged: int) -> str:
    """The major version that opened the store and found every row that was acknowledged, once."""
    told = subprocess.run([python, "-c", ASK, str(directory)], capture_output=True, text=True, check=True, timeout=120)
    major, newest, rows, own, last = told.stdout.split()
    assert int(newest) == int(last) >= acknowledged
    assert int(rows) == int(own) == ROWS * int(last)
    return major


def killed(python: str, directory: Path) -> int:
    """What a writer had acknowledged when it was killed."""
    command = [python, str(WRITER), str(directory), "boot"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout and writer.stdout.readline() == "open\n"
        acknowledged = [int(writer.stdout.readline()) for _ in range(FRAMES)][-1]
        writer.kill()
    return acknowledged


def test_a_killed_collectors_store_opens_under_the_other_major_version(tmp_path: Path) -> None:
    """The form of file and log is one that both read, so that an upgrade can be taken back."""
    other = os.environ.get("WARPLINE_TEST_OTHER_DUCKDB")
    if not other:
        pytest.skip("no second DuckDB: set WARPLINE_TEST_OTHER_DUCKDB to a Python that has one")
    acknowledged = killed(sys.executable, tmp_path)
    majors = {major_asked(other, tmp_path, acknowledged)}
    acknowledged = killed(other, tmp_path)
    majors.add(major_asked(sys.executable, tmp_path, acknowledged))
    assert majors == {"1", "2"}
