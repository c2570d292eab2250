"""A copy of a store that is consistent, made by the one process that writes to it; another asks for it by a file.

The DuckDB file is copied as rows by the engine, sealed segments and hot files are linked: they never change under their
name. The copy appears under its name only when it is whole, and a collector opens it as it is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from warpline_proto.errors import StoreError

from . import catalog, engine, parquet
from .engine import FILE, first_line
from .hot import FOLDER as HOT
from .schema import text

REQUEST: Final = "backup.request"
ANSWER: Final = "backup.answer"
FOLDER_MODE: Final = 0o750
POLL_SECONDS: Final = 0.2
REQUEST_BYTES_MAX: Final = 64 * 1024
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copied:
    """What a copy holds: files linked, files that had to be copied because they are on another disk, bytes of all."""

    linked: int
    copied: int
    bytes: int


def copy(directory: Path, destination: Path, connection: duckdb.DuckDBPyConnection) -> Copied:
    """Copy the store at `directory` while nobody changes it; StoreError if it cannot be.

    A copy that was broken off lies beside the destination as `.partial` and is begun anew by the next.
    """
    destination = destination.absolute()
    partial = destination.with_name(f"{destination.name}.partial")
    if destination.exists():
        raise StoreError(f"{destination} is there already", "name a directory that is not")
    if destination.is_relative_to(directory.absolute()):
        raise StoreError(f"{destination} is within the store", "name a directory outside it")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=FOLDER_MODE, parents=True)
        _copy_rows(connection, partial / FILE)
        copied = _link_all(directory, partial, connection)
        shutil.copyfile(directory / catalog.NAME, partial / catalog.NAME)
        for folder in (partial, *(path for path in partial.rglob("*") if path.is_dir())):
            parquet.sync_directory(folder)
        partial.rename(destination)
        parquet.sync_directory(destination.parent)
        return copied
    except (OSError, duckdb.Error) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StoreError(f"the store cannot be copied to {destination}: {first_line(error)}") from error


def serve(directory: Path, make: Callable[[Path], Copied]) -> bool:
    """Answer the request that lies in `directory`, if one does; True if one did."""
    try:
        with (directory / REQUEST).open("rb") as stream:
            encoded = stream.read(REQUEST_BYTES_MAX)
    except FileNotFoundError:
        return False
    (directory / REQUEST).unlink(missing_ok=True)
    try:
        asked = json.loads(encoded)
        name, destination = str(asked["id"]), Path(str(asked["destination"]))
    except (ValueError, KeyError, TypeError) as error:
        _LOG.warning("a request for a copy cannot be read: %s", error)
        return True
    answer: dict[str, Any] = {"id": name}
    try:
        answer |= asdict(make(destination))
    except StoreError as error:
        _LOG.warning("%s", error)
        answer["error"] = str(error)
    _put(directory / ANSWER, answer)
    return True


def make(directory: Path, destination: Path, seconds: float) -> Copied:
    """A copy by the collector that runs, in `seconds` at most, or by this process where none does; StoreError if it fails."""
    try:
        lock = engine.lock(directory)
    except StoreError:
        return ask(directory, destination, seconds)
    try:
        with engine.opened(directory) as connection:
            return copy(directory, destination, connection)
    except duckdb.Error as error:
        raise StoreError(f"{directory / FILE} cannot be read: {first_line(error)}") from error
    finally:
        engine.unlock(lock)


def ask(directory: Path, destination: Path, seconds: float) -> Copied:
    """Have the collector that writes to `directory` make a copy; StoreError if it cannot, or does not answer."""
    name = secrets.token_hex(8)
    try:
        _put(directory / REQUEST, {"id": name, "destination": str(destination.absolute())})
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(FileNotFoundError, ValueError):
                answer = json.loads((directory / ANSWER).read_bytes())
                if answer.pop("id", None) == name:
                    (directory / ANSWER).unlink(missing_ok=True)
                    return _told(answer)
            time.sleep(POLL_SECONDS)
        (directory / REQUEST).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot ask the collector on {directory}: {error.strerror}", "ask as its user") from error
    raise StoreError(
        f"the collector on {directory} made no copy within {seconds:g} s",
        "it may be older, or still at it: see its log",
    )


def _told(answer: dict[str, Any]) -> Copied:
    if "error" in answer:
        raise StoreError(answer["error"])
    return Copied(**answer)


def _put(path: Path, document: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    partial.write_text(json.dumps(document), encoding="utf-8")
    partial.rename(path)


def _copy_rows(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    [(name,)] = connection.sql("SELECT current_database()").fetchall()
    connection.execute(f"ATTACH {text(str(path))} AS a_copy (STORAGE_VERSION 'v1.4.0')")
    try:
        connection.execute(f'COPY FROM DATABASE "{name}" TO a_copy')
        connection.execute("CHECKPOINT a_copy")
    finally:
        connection.execute("DETACH a_copy")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link_all(directory: Path, partial: Path, connection: duckdb.DuckDBPyConnection) -> Copied:
    """Segments that the manifest lists, and hot files that the catalog does."""
    listed = [path for (path,) in connection.sql("SELECT path FROM manifest").fetchall()]
    tables = catalog.read(directory).tables.values()
    hot = {path for files in tables for path in files.chunks if path.startswith(f"{HOT}/")}
    linked = copied = size = 0
    for path in (*listed, *sorted(hot)):
        source, target = directory / path, partial / path
        if not source.exists():  # a damaged store is worth a copy too; what is missing there is missing here
            _LOG.warning("%s is missing and is not in the copy", path)
            continue
        target.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        try:
            os.link(source, target)
            linked += 1
        except OSError:
            shutil.copyfile(source, target)
            copied += 1
        size += target.stat().st_size
    return Copied(linked, copied, size + (partial / FILE).stat().st_size)
