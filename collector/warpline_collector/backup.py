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
from collections.abc import Callable, Sequence
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
HOLD: Final = "backup.hold"
"""Links to files of the store, for as long as they are copied to another disk."""
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


@dataclass(frozen=True)
class Begun:
    """A copy that has everything but the bytes of `held`: files of the store on another disk, and where they go.

    They are linked within the store, so that they stay whatever becomes of it meanwhile.
    """

    directory: Path
    partial: Path
    destination: Path
    held: Sequence[tuple[Path, Path]]
    copied: Copied

    def finish(self) -> Copied:
        """Copy those bytes, which may take long, and give the copy its name; StoreError if it cannot be."""
        try:
            for source, target in self.held:
                shutil.copyfile(source, target)
            for folder in (self.partial, *(path for path in self.partial.rglob("*") if path.is_dir())):
                parquet.sync_directory(folder)
            self.partial.rename(self.destination)
            parquet.sync_directory(self.destination.parent)
            return self.copied
        except OSError as error:
            shutil.rmtree(self.partial, ignore_errors=True)
            raise _refused(self.destination, error) from error
        finally:
            shutil.rmtree(self.directory / HOLD, ignore_errors=True)


def copy(directory: Path, destination: Path, connection: duckdb.DuckDBPyConnection) -> Copied:
    """Copy the store at `directory` while nobody changes it; StoreError if it cannot be."""
    return begin(directory, destination, connection).finish()


def begin(directory: Path, destination: Path, connection: duckdb.DuckDBPyConnection) -> Begun:
    """What has to be done while nobody changes the store: it may go on once this returns. StoreError if it cannot be.

    A copy that was broken off lies beside the destination as `.partial` and is begun anew by the next.
    """
    destination = destination.absolute()
    partial = destination.with_name(f"{destination.name}.partial")
    if destination.exists():
        raise StoreError(f"{destination} is there already", "name a directory that is not")
    if destination.is_relative_to(directory.absolute()):
        raise StoreError(f"{destination} is within the store", "name a directory outside it")
    try:
        for folder in (partial, directory / HOLD):
            shutil.rmtree(folder, ignore_errors=True)
        partial.mkdir(mode=FOLDER_MODE, parents=True)
        _copy_rows(connection, partial / FILE)
        held, copied = _link_all(directory, partial, connection)
        shutil.copyfile(directory / catalog.NAME, partial / catalog.NAME)
        return Begun(directory, partial, destination, held, copied)
    except (OSError, duckdb.Error) as error:
        for folder in (partial, directory / HOLD):
            shutil.rmtree(folder, ignore_errors=True)
        raise _refused(destination, error) from error


def _refused(destination: Path, error: OSError | duckdb.Error) -> StoreError:
    return StoreError(f"the store cannot be copied to {destination}: {first_line(error)}")


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


def _kept(source: Path, link: Path) -> Path:
    """Another name of a file, under which it stays; its own where the disk knows no second ones, and it may go meanwhile."""
    try:
        link.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        os.link(source, link)
    except OSError:
        return source
    return link


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


def _link_all(
    directory: Path, partial: Path, connection: duckdb.DuckDBPyConnection
) -> tuple[list[tuple[Path, Path]], Copied]:
    """Segments that the manifest lists, and hot files that the catalog does; those that are still to be copied first."""
    held: list[tuple[Path, Path]] = []
    listed = [path for (path,) in connection.sql("SELECT path FROM manifest").fetchall()]
    tables = catalog.read(directory).tables.values()
    hot = {path for files in tables for path in files.chunks if path.startswith(f"{HOT}/")}
    linked = size = 0
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
            held.append((_kept(source, directory / HOLD / path), target))
        size += source.stat().st_size
    return held, Copied(linked, len(held), size + (partial / FILE).stat().st_size)
