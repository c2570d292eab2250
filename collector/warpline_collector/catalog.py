"""The catalog: one small file that names, for each table, the Parquet files that hold its rows now.

It is replaced atomically, so whoever reads it sees one consistent set of files. Files it no longer names stay on disk for a
grace period, because a reader may still hold the catalog before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from warpline_proto.errors import StoreError

NAME: Final = "catalog.json"
VERSION: Final = 1


@dataclass(frozen=True)
class Files:
    """The files of one table, relative to the store's directory: current ones, and segments of an older schema.

    `columns` is the fingerprint of what is current to the writer; None where a writer of an older version did not say.
    """

    segments: tuple[str, ...] = ()
    older: tuple[str, ...] = ()
    chunks: tuple[str, ...] = ()
    columns: str | None = None


@dataclass(frozen=True)
class Damage:
    """A segment that is left out because it cannot be read."""

    table: str
    path: str
    reason: str


@dataclass(frozen=True)
class Catalog:
    """What a reader needs to know. `generation` grows with each change and starts anew with each opening of the store."""

    generation: int
    tables: Mapping[str, Files] = field(default_factory=dict)
    damaged: tuple[Damage, ...] = ()

    @property
    def paths(self) -> frozenset[str]:
        """All files that hold rows."""
        listed = self.tables.values()
        return frozenset(path for files in listed for path in (*files.segments, *files.older, *files.chunks))


def write(directory: Path, catalog: Catalog) -> None:
    """Replace the catalog of `directory`."""
    document = {
        "version": VERSION,
        "generation": catalog.generation,
        "tables": {
            name: {
                "segments": files.segments,
                "older": files.older,
                "chunks": files.chunks,
                "columns": files.columns,
            }
            for name, files in catalog.tables.items()
        },
        "damaged": [[item.table, item.path, item.reason] for item in catalog.damaged],
    }
    partial = directory / f"{NAME}.tmp"
    partial.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
    partial.rename(directory / NAME)


def content(directory: Path) -> bytes:
    """The catalog of `directory` as it lies there: equal bytes are the same catalog. StoreError if there is none."""
    path = directory / NAME
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise StoreError(f"no store at {directory}", "name the directory a collector writes to") from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error


def read(directory: Path) -> Catalog:
    """The catalog of `directory`; StoreError if there is none or it cannot be read."""
    return parse(content(directory), directory)


def parse(encoded: bytes, directory: Path) -> Catalog:
    """What `content` gave; StoreError if it is damaged or of another version."""
    path = directory / NAME
    try:
        return _parse(json.loads(encoded), path)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged: {error}", "start the collector once: it writes it anew") from error


def _parse(document: Mapping[str, Any], path: Path) -> Catalog:
    if document["version"] != VERSION:
        raise StoreError(f"{path} is of version {document['version']}", f"this version reads {VERSION}")
    return Catalog(
        generation=document["generation"],
        tables={
            name: Files(tuple(files["segments"]), tuple(files["older"]), tuple(files["chunks"]), files.get("columns"))
            for name, files in document["tables"].items()
        },
        damaged=tuple(Damage(*item) for item in document["damaged"]),
    )
