"""The book of a receiver on disk, in the store's directory: read once at the start, replaced whenever it changed."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from warpline_proto.finding import FindingState, Severity, from_json

from .book import Book, Record

FOLDER: Final = "notified"
VERSION: Final = 1
_LOG = logging.getLogger(__name__)


def place(directory: Path, receiver: str) -> Path:
    """The file of a receiver."""
    return directory / FOLDER / f"{receiver}.json"


def load(path: Path) -> Book | None:
    """The book as it was left; None where there is none, or none that can be read."""
    try:
        document = json.loads(path.read_bytes())
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']!r}")
        return {record.state.finding.id: record for record in map(_record, document["records"])}
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, ValueError) as error:
        _LOG.warning("%s cannot be read, only incidents that open from now on are told: %s", path, error)
        return None


def save(path: Path, book: Book) -> None:
    """Durable when it returns; OSError where the disk refuses."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as stream:
        json.dump({"version": VERSION, "records": [_kept(record) for record in book.values()]}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _kept(record: Record) -> dict[str, Any]:
    state = record.state
    return {
        "finding": replace(state.finding, evidence=()).to_json(),
        "state": state.state,
        "opened_ns": state.opened_ns,
        "updated_ns": state.updated_ns,
        "detector": state.detector,
        "seen_ns": record.seen_ns,
        "told_ns": record.told_ns,
        "told_severity": record.told_severity,
        "silent": record.silent,
    }


def _record(kept: Mapping[str, Any]) -> Record:
    severity = kept["told_severity"]
    return Record(
        FindingState(
            from_json(kept["finding"]), kept["state"], kept["opened_ns"], kept["updated_ns"], kept["detector"]
        ),
        kept["seen_ns"],
        kept["told_ns"],
        None if severity is None else Severity(severity),
        kept["silent"],
    )
