"""`warpline sql`: ask the store, through a running collector or straight from a directory."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator

from warpline_cli import asking
from warpline_cli.streams import tell
from warpline_proto.errors import ConfigError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `warpline sql`."""
    parser.add_argument(
        "sql", nargs="?", help="one SELECT, EXPLAIN, DESCRIBE or SHOW TABLES; '-' reads it from standard input"
    )
    parser.add_argument(
        "--describe",
        nargs="?",
        const="",
        metavar="TABLE",
        help="what every table and view is; with TABLE its columns, with units; nothing is asked",
    )
    asking.arguments(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--format", choices=("table", "json", "csv", "arrow"), default="table", help="of the rows (%(default)s)"
    )
    form.add_argument(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        help="an array of objects, one a row; also of --describe",
    )


def run(options: argparse.Namespace) -> int:
    """Print the rows; what is not data goes to standard error."""
    if options.describe is not None:
        return _describe(options.describe, as_json=options.format == "json")
    if options.sql is None:
        raise ConfigError("there is no question", 'warpline sql "SELECT ...", or warpline sql --describe')
    sql = sys.stdin.read() if options.sql == "-" else options.sql
    with _query(options) as query:
        rows = query(sql)
    if options.format == "arrow":
        from warpline_proto.wire import to_ipc

        sys.stdout.buffer.write(to_ipc(rows.schema, rows.to_batches()))
    else:
        from warpline_cli import output

        form = {"table": output.columns, "json": output.as_json, "csv": output.as_csv}[options.format]
        sys.stdout.write(form(rows))
    said = rows.schema.metadata or {}
    if b"truncated" in said:
        tell(f"only the first {rows.num_rows} rows: there are more")
    if b"damaged" in said:
        tell(f"left out, cannot be read: {said[b'damaged'].decode()}")
    return 0


def _describe(name: str, *, as_json: bool) -> int:
    import json

    from warpline_collector.described import columns, sentence, views
    from warpline_collector.sight import OPERATORS_ONLY, PRIVATE
    from warpline_proto.config import nearest
    from warpline_proto.tables import TABLES

    known = [*TABLES, *views()]
    if not name and as_json:
        print(json.dumps([{"name": each, "meaning": sentence(each)} for each in known], indent=2))
        return 0
    if not name:
        width = max(map(len, known))
        for each in known:
            sys.stdout.write(f"{each:{width}} {sentence(each)}\n")
        return 0
    if name not in known:
        raise ConfigError(f"there is no table or view {name!r}", nearest(name, known))
    if as_json:
        print(json.dumps({"name": name, "meaning": sentence(name), "columns": columns(name)}, indent=2))
        return 0
    note = " (for operators only)" if name in OPERATORS_ONLY else ""
    sys.stdout.write(f"{name}: {sentence(name)}{note}\n")
    for column, meaning in columns(name).items():
        private = "; for a viewer NULL" if column in PRIVATE.get(name, ()) else ""
        sys.stdout.write(f"  {column:28} {meaning}{private}\n")
    return 0


@contextlib.contextmanager
def _query(options: argparse.Namespace) -> Iterator[asking.Query]:
    if options.store is None:
        with asking.collector(options) as query:
            yield query
        return
    from pathlib import Path

    from warpline_collector.catalog import read
    from warpline_collector.pool import Config, WorkerPool

    read(Path(options.store))  # a directory that is no store is told before a worker starts
    with contextlib.closing(WorkerPool(Path(options.store), Config(workers=1))) as pool:
        yield lambda sql: pool.query(sql).rows()
