"""Rows as text: what `warpline sql` prints for values that are not plain numbers and words."""

from __future__ import annotations

import csv
import io
import json

import duckdb
import pyarrow as pa
import pytest

from warpline_cli.output import as_csv, as_json, columns
from warpline_tui.grid import width

SQL = """
SELECT NULL AS nothing, [1, NULL, 3] AS list, {'a': 'x', 'b': NULL} AS struct, MAP {'k': 1} AS map,
  12.50::DECIMAL(9, 2) AS decimal, (2::HUGEINT ** 70)::HUGEINT AS huge, DATE '2026-01-02' AS day,
  TIMESTAMP '2026-01-02 03:04:05.678' AS moment,
  INTERVAL 90 MINUTE AS span, 'nan'::DOUBLE AS nan, true AS yes, 'ab'::BLOB AS bytes, 'x'::ENUM('x', 'y') AS enum,
  1.5::FLOAT AS real
"""


@pytest.fixture
def rows() -> pa.Table:
    with duckdb.connect() as connection:
        return connection.sql(SQL).to_arrow_table()


def test_json_holds_every_value_as_json_knows_it(rows: pa.Table) -> None:
    """Unknown and not-a-number are null, exact numbers stay exact, times are ISO 8601."""
    [row] = json.loads(as_json(rows))
    assert row["nothing"] is None
    assert row["nan"] is None
    assert row["list"] == [1, None, 3]
    assert row["struct"] == {"a": "x", "b": None}
    assert row["huge"] == 2**70
    assert row["decimal"] == 12.5
    assert row["moment"] == "2026-01-02T03:04:05.678000"
    assert row["day"] == "2026-01-02"
    assert row["bytes"] == "YWI="
    assert row["enum"] == "x"
    assert row["yes"] is True


def test_csv_and_columns_have_one_field_for_each_value(rows: pa.Table) -> None:
    """Lists and structures are JSON inside their field; unknown is empty in CSV and a dash in columns."""
    [record] = csv.DictReader(io.StringIO(as_csv(rows)))
    assert record["nothing"] == ""
    assert json.loads(record["list"]) == [1, None, 3]
    assert record["huge"] == str(2**70)
    heading, rule, line, *rest = columns(rows).splitlines()
    assert rest == []
    assert line.split()[0] == "-"
    assert len(heading.split()) == len(rule.split()) == rows.num_columns


def test_columns_line_up_in_any_alphabet() -> None:
    """A Chinese name takes two columns of the terminal a sign, an accent of its own none."""
    rows = pa.table({"job": ["训练", "ascii", "e\u0301te\u0301"], "rank": [1, 22, 333]})
    lines = columns(rows).splitlines()
    assert [width(line) for line in lines] == [width(lines[0])] * 5
    assert lines[2] == "训练      1"
