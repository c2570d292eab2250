"""Opens recorded files safely: gzip under a bound, archives into a folder of their own, nothing outside it."""

from __future__ import annotations

import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, BinaryIO, Final, cast

from warpline_proto.errors import Refused

from ..source import HEAD_BYTES, Input

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

GIBIBYTE: Final = 1024**3
GZIP_MAGIC: Final = b"\x1f\x8b"
ZIP_MAGIC: Final = b"PK\x03\x04"
COPY_BYTES: Final = 1024 * 1024
TAR_MARK_OFFSET: Final = 257
_DAMAGE: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    IndexError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""What the libraries raise over an archive whose offsets, names or sizes are damaged."""
HEADERS_BYTES_MAX: Final = 16 * 1024 * 1024
"""What an archive may spend on names and attributes of its members; the libraries take that into memory whole."""


@dataclass(frozen=True)
class Limits:
    """How much is read at most, so that no input can fill memory, disk or the day.

    `files` and `depth` bound the walk below one named folder, `total_bytes` what all its files together hold on disk,
    `file_bytes` one file (or all members of one archive) once unpacked, `members` the members of an archive. Beyond
    `ratio_free_bytes` a compressed file that grows more than `ratio`-fold is taken for a bomb (recorded logs and traces stay
    below 60-fold; deflate ends near 1,000-fold).
    """

    files: int = 20_000
    depth: int = 32
    total_bytes: int = 64 * GIBIBYTE
    file_bytes: int = 4 * GIBIBYTE
    ratio: int = 200
    ratio_free_bytes: int = 64 * 1024 * 1024
    members: int = 4_096


@dataclass(frozen=True)
class Member:
    """One member of an archive: its name there, and the file it was unpacked to or the reason why it was not."""

    name: str
    file: Path | None
    reason: str | None = None


class _Unpacked(io.RawIOBase):
    """Unpacked bytes of a gzip file; damage and growth past the bound raise Refused."""

    def __init__(self, packed: Path, limits: Limits) -> None:
        self._packed_bytes = max(packed.stat().st_size, 1)
        self._limits = limits
        self._seen = 0
        self._inner = gzip.open(packed, "rb")  # noqa: SIM115  # closed by close()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = _inflate(self._inner, len(view))
        self._seen += len(data)
        _check_growth(self._seen, self._packed_bytes, self._limits)
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._inner.close()
        super().close()


def _inflate(packed: gzip.GzipFile, size: int) -> bytes:
    try:
        return packed.read(size)
    except EOFError as error:
        raise Refused("truncated gzip: the file ends before its compressed data does", "copy it again") from error
    except (zlib.error, OSError) as error:
        raise Refused(f"damaged gzip: {error}", "copy it again") from error


def _check_growth(seen: int, packed: int, limits: Limits) -> None:
    if seen > limits.file_bytes:
        raise Refused(f"unpacks to more than {limits.file_bytes:,} bytes", "cut the recording into shorter parts")
    if seen > limits.ratio_free_bytes and seen > packed * limits.ratio:
        raise Refused(f"looks like a compression bomb: {packed:,} bytes unpack to more than {seen:,}")


def file_input(file: Path, shown: str, limits: Limits) -> Input:
    """A plain or gzip-compressed regular file as an input called `shown`; Refused if it cannot be opened or is too big."""
    try:
        size = _regular_size(file)
        with open(file, "rb") as stream:
            packed = stream.read(2) == GZIP_MAGIC
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror or error}") from error
    if size > limits.file_bytes:
        raise Refused(f"holds {size:,} bytes, more than {limits.file_bytes:,}", "cut the recording into shorter parts")

    def opener() -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(_Unpacked(file, limits), COPY_BYTES)) if packed else open(file, "rb")

    with opener() as start:
        head = start.read(HEAD_BYTES)
    name = shown.rsplit("/", 1)[-1]
    if not packed:
        return Input(shown, name, head, size, opener)
    return Input(shown, _without_gz(name), head, len(head) if len(head) < HEAD_BYTES else None, opener)


def _regular_size(file: Path) -> int:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Refused("not a regular file")
    return status.st_size


def _without_gz(name: str) -> str:
    return name[: -len("tgz")] + "tar" if name.endswith(".tgz") else name.removesuffix(".gz")


def is_archive(candidate: Input) -> bool:
    """A tar (compressed or not), or a file that is called .zip and is one; other zip containers are not unpacked."""
    if candidate.head[TAR_MARK_OFFSET : TAR_MARK_OFFSET + 5] == b"ustar":
        return True
    return candidate.name.lower().endswith(".zip") and candidate.head.startswith(ZIP_MAGIC)


def unpack(candidate: Input, folder: Path, limits: Limits) -> list[Member]:
    """Unpack an archive's regular files into `folder`, in name order.

    Members that point outside, links and devices are not unpacked and say so. Refused if the archive is damaged, holds more
    members or more bytes than the limits.
    """
    try:
        members = list(_unzip(candidate, folder, limits) if _is_zip(candidate) else _untar(candidate, folder, limits))
    except _DAMAGE as error:
        raise Refused(f"damaged archive: {error}", "copy it again") from error
    return sorted(members, key=lambda member: member.name)


def _is_zip(candidate: Input) -> bool:
    return candidate.head.startswith(ZIP_MAGIC)


def _untar(candidate: Input, folder: Path, limits: Limits) -> Iterator[Member]:
    room = _Room(folder, limits)
    with (
        candidate.open() as stream,
        tarfile.open(fileobj=cast(IO[bytes], metered := _Metered(stream)), mode="r|") as archive,
    ):
        for entry in archive:
            if entry.isdir():
                continue
            plain = entry.isreg() and not entry.issparse()
            metered.left += entry.size if plain else 0
            reason = None if plain else "a link, device, pipe or sparse file inside an archive: not unpacked"
            content = archive.extractfile(entry) if reason is None else None
            yield room.take(entry.name, content, reason)


def _unzip(candidate: Input, folder: Path, limits: Limits) -> Iterator[Member]:
    room = _Room(folder, limits)
    with candidate.open() as stream, zipfile.ZipFile(cast(IO[bytes], metered := _Metered(stream))) as archive:
        metered.left = 2 * limits.file_bytes  # members are bounded in the room, this is only for headers
        for entry in archive.infolist():
            if not entry.filename or entry.is_dir():
                continue
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                yield room.take(entry.filename, None, "a link, device or pipe inside an archive: not unpacked")
            elif entry.flag_bits & 1:
                yield room.take(entry.filename, None, "encrypted inside a zip: unpack it first")
            else:
                with archive.open(entry) as content:
                    yield room.take(entry.filename, content, None, entry.compress_size)


class _Metered:
    """An archive's bytes, of which `left` may still be read; more is Refused."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.left = HEADERS_BYTES_MAX
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        data = self._stream.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        self.left -= len(data)
        if self.left < 0:
            raise Refused(f"an archive that describes its members in more than {HEADERS_BYTES_MAX:,} bytes")
        return data


class _Room:
    """The folder that one archive is unpacked into, and how much of the bounds is used up."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        self._limits = limits
        self._members = 0
        self._bytes = 0
        self._taken: set[str] = set()

    def take(self, name: str, content: IO[bytes] | None, reason: str | None, packed: int | None = None) -> Member:
        self._members += 1
        if self._members > self._limits.members:
            raise Refused(f"holds more than {self._limits.members:,} members", "unpack it and name the files")
        reason = reason or _escape(name) or ("the same name twice in one archive" if name in self._taken else None)
        if reason is not None or content is None:
            return Member(_printable(name), None, reason or "cannot be unpacked")
        self._taken.add(name)
        target = self._folder.joinpath(*PurePosixPath(name).parts)
        return self._write(name, content, target, packed)

    def _write(self, name: str, content: IO[bytes], target: Path, packed: int | None) -> Member:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "xb") as out:
                written = 0
                while piece := content.read(COPY_BYTES):
                    written += len(piece)
                    self._bytes += len(piece)
                    self._check(written, packed)
                    out.write(piece)
        except OSError as error:
            return Member(_printable(name), None, f"cannot be unpacked: {error.strerror or error}")
        return Member(_printable(name), target)

    def _check(self, written: int, packed: int | None) -> None:
        if self._bytes > self._limits.file_bytes:
            raise Refused(f"unpacks to more than {self._limits.file_bytes:,} bytes", "unpack it and name the files")
        if packed is not None:
            _check_growth(written, max(packed, 1), self._limits)


def _escape(name: str) -> str | None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        return "its name points outside the archive: not unpacked"
    return None


def _printable(name: str) -> str:
    return name.encode("utf-8", "replace").decode("utf-8", "replace").replace("\n", "?")[:255]
