"""`warpline analyze`: recorded files in, findings out, offline, with the same analysis that the collector runs."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from warpline_cli.streams import tell

if TYPE_CHECKING:
    from warpline_agent.offline import Import
    from warpline_proto.finding import Report

EXIT: Final = {"healthy": 0, "warning": 1, "critical": 2, "unknown": 3}
"""Exit code by verdict."""
EXIT_NOTHING_READABLE: Final = 65
"""EX_DATAERR of sysexits.h."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="files, archives and folders, of any known kind, mixed"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument(
        "--store",
        metavar="DIR",
        help="keep the rows in this new folder, for `warpline sql` and `warpline export` with --store",
    )
    parser.epilog = (
        "Exit 0 healthy, 1 warning, 2 critical, 3 cannot tell, 64 usage error, 65 nothing readable. "
        "Files that hold somebody's published answer are set aside unread."
    )


def run(options: argparse.Namespace) -> int:
    """Read, analyse, print."""
    document = analyze(options.paths, None if options.store is None else Path(options.store))
    if options.json:
        print(json.dumps(document, indent=2, allow_nan=False))
    else:
        from ..findings_text import answer

        sys.stdout.write(answer(document))
    if not any(item["status"] == "read" for item in document["inputs"]):
        tell("warpline analyze: nothing readable was given")
        return EXIT_NOTHING_READABLE
    return EXIT[document["verdict"]]


def analyze(paths: Sequence[str | Path], keep: Path | None = None) -> dict[str, Any]:
    """The answer as one JSON object: verdict, inputs, findings, checks. `keep` is a new folder for the rows."""
    from warpline_agent.offline import read_paths
    from warpline_proto.plain import plain

    with _folder(keep) as folder:
        imported = read_paths(paths, raw=keep is not None)
        report = _diagnose(imported, folder, kept=keep is not None)
    document = {
        "verdict": str(report.verdict),
        "inputs": [item.to_json() for item in imported.inputs],
        "findings": [finding.to_json() for finding in report.findings],
        "checks": [asdict(check) for check in report.checks],
    }
    return {key: plain(value) for key, value in document.items()}


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The folder of the store: the named one, which must be new, or one that goes away again."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="warpline-") as name:
            yield Path(name)
        return
    from warpline_proto.errors import ConfigError

    try:
        keep.mkdir(parents=True, exist_ok=True)
        used = any(keep.iterdir())
    except OSError as error:
        raise ConfigError(f"--store {keep}: {error.strerror}") from error
    if used:
        raise ConfigError(
            f"--store {keep} already holds something", "name a new folder: the verdict is on these files alone"
        )
    yield keep


def _diagnose(imported: Import, folder: Path, *, kept: bool) -> Report:
    from warpline_analysis.grouping import accusations
    from warpline_analysis.runner import run as run_detectors
    from warpline_collector.accounting import account_all
    from warpline_collector.reader import CatalogReader
    from warpline_collector.stores.duckdb import DuckDBStore
    from warpline_proto.batch import Batch, Frame
    from warpline_proto.finding import OPEN, FindingState, to_rows

    store = DuckDBStore(folder)
    try:
        now = time.time_ns()
        if imported.batches:
            store.append([Frame("analyze", "import", 1, now, tuple(imported.batches))])
        with CatalogReader(folder) as reader:
            account_all(store, reader)
        report = run_detectors(store)
        if kept:
            states = [FindingState(finding, OPEN, now, now, alarms=accusations(finding)) for finding in report.findings]
            store.write([Batch("findings", "analysis", to_rows(states))])
        return report
    finally:
        store.close()
