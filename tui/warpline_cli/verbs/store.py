"""`warpline store`: look after the directory of a store: check, repair, compact, backup."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from warpline_cli.streams import tell

if TYPE_CHECKING:
    from warpline_collector.check import Trouble
    from warpline_collector.stores.tended import TendedStore

TROUBLE: Final = 1
"""Exit code of `check` where rows are lost, and of `repair` where some were."""
ANSWER_SECONDS: Final = 600.0
"""How long a running collector may take to make a copy."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """One parser a subverb, all with the place of the store."""
    added = parser.add_subparsers(dest="subverb", metavar="SUBVERB", required=True)
    for name, meaning in {
        "check": "hold the list of files against the files, every page of them; changes nothing, works beside a collector",
        "repair": "set damaged files aside and strike missing ones, so that the rest serves; no collector may run",
        "compact": "merge small files now; no collector may run",
        "backup": "a consistent copy, also while a collector runs; to restore, put the copy where the store was",
    }.items():
        one = added.add_parser(name, help=meaning, description=meaning)
        one.add_argument("--store", metavar="DIR", help="directory of the store; else that of [collector]")
        one.add_argument(
            "--config", metavar="FILE", help="TOML file to read instead of those of the system and the user"
        )
        one.add_argument("--json", action="store_true", help="print one JSON document")
        if name in ("check", "repair"):
            one.epilog = "Exit 1: rows are lost."
        if name == "backup":
            one.add_argument("destination", metavar="DEST", help="directory to make; on the same disk it takes no room")


def run(options: argparse.Namespace) -> int:
    """Exit 0: all is well; 1: rows are lost; StoreError goes to the command's rim."""
    from warpline_collector.config import sections
    from warpline_proto.config import files, load

    loaded = load(sections(), files(options.config))
    directory = Path(options.store or loaded["collector"].directory)
    if options.subverb == "check":
        return _check(directory, options)
    if options.subverb == "backup":
        return _backup(directory, options)
    from warpline_collector import catalog
    from warpline_collector.stores.tended import TendedStore

    catalog.content(directory)  # a directory that is no store is not made one
    store = TendedStore(directory, loaded["collector.store"], kept=loaded["collector.retention"])
    try:
        return {"repair": _repair, "compact": _compact}[options.subverb](store, options)
    finally:
        store.close()


def _check(directory: Path, options: argparse.Namespace) -> int:
    from warpline_collector.check import check

    report = check(directory)
    if options.json:
        print(json.dumps(asdict(report)))
    else:
        for each in report.troubles:
            print(f"{each.kind:<8}  {each.path}  {each.detail}")
        beside = ", beside a running collector" if report.running else ""
        rows = "" if report.rows is None else f"{report.rows} rows, "
        print(
            f"{report.segments} segments, {rows}{report.bytes / 1e6:.1f} MB looked at{beside}: {_verdict(report.troubles)}"
        )
        if report.lost:
            tell("`warpline store repair` sets them aside; a backup may have them whole")
    return TROUBLE if report.lost else 0


def _verdict(troubles: Sequence[Trouble]) -> str:
    kinds = Counter(each.kind for each in troubles)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "all is well"


def _repair(store: TendedStore, options: argparse.Namespace) -> int:
    found = store.set_aside()
    lost = sum(segment.rows for segment, _ in found)
    if options.json:
        aside = [{"path": segment.path, "rows": segment.rows, "reason": reason} for segment, reason in found]
        print(json.dumps({"set_aside": aside, "rows": lost}))
    else:
        for segment, reason in found:
            print(f"set aside  {segment.path}  {segment.rows} rows: {reason}")
        print(
            f"{len(found)} segments with {lost} rows are no longer part of the store" if found else "nothing to repair"
        )
    return TROUBLE if found else 0


def _compact(store: TendedStore, options: argparse.Namespace) -> int:
    fewer = store.compact()
    print(json.dumps({"fewer": fewer}) if options.json else f"{fewer} segments fewer")
    return 0


def _backup(directory: Path, options: argparse.Namespace) -> int:
    from warpline_collector import backup, catalog

    catalog.content(directory)
    copied = backup.make(directory, Path(options.destination), ANSWER_SECONDS)
    if options.json:
        print(json.dumps(asdict(copied)))
    else:
        print(
            f"{options.destination}: {copied.linked} files linked, {copied.copied} copied, {copied.bytes / 1e6:.1f} MB in all"
        )
    return 0
