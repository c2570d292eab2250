"""One frame as a file: magic, checksum, length, time of making, then the bytes that go on the wire.

What is written here outlives a loss of power: bytes, name, and the names of the folders above.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import zlib
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from warpline_proto import service_pb2

MAGIC: Final = b"WLF1"
_HEADER: Final = struct.Struct("<4sIQq")
HEADER_BYTES: Final = _HEADER.size


def pack(payload: bytes, created_ns: int) -> bytes:
    """Bytes of the file."""
    return _HEADER.pack(MAGIC, zlib.crc32(payload), len(payload), created_ns) + payload


def unpack(data: bytes) -> service_pb2.Frame | None:
    """The message in the file; None if it is cut short, altered, or no such file."""
    if created(data) is None:
        return None
    _, checksum, length, _ = _HEADER.unpack_from(data)
    payload = data[HEADER_BYTES:]
    if len(payload) != length or zlib.crc32(payload) != checksum:
        return None
    try:
        return service_pb2.Frame.FromString(payload)
    except DecodeError:
        return None


def created(head: bytes) -> int | None:
    """When the frame was made (ns since the epoch), from the first HEADER_BYTES; None if they are no header."""
    if len(head) < HEADER_BYTES or not head.startswith(MAGIC):
        return None
    return int(_HEADER.unpack_from(head)[3])


def glance(path: Path) -> tuple[int | None, int]:
    """When the frame in a file was made, None if that cannot be read, and how long the file is, 0 if it cannot be."""
    try:
        with path.open("rb") as stream:
            return created(stream.read(HEADER_BYTES)), os.fstat(stream.fileno()).st_size
    except OSError:
        return None, 0


def write(path: Path, data: bytes) -> None:
    """Put a file there, whole or not at all, and force it to disk; OSError if the disk refuses, and then nothing is left."""
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # on a full disk it would take the room of a frame
        raise
    _sync(path.parent)


def make_directory(path: Path, mode: int = 0o777) -> None:
    """Make a folder, and those above it, where there is none; OSError if that cannot be."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=mode, exist_ok=True)
    _sync(path.parent)


def hold(path: Path) -> int:
    """Lock a file until what is returned is closed; BlockingIOError if another process has it, OSError if it cannot be made."""
    lock_file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock_file)
        raise
    return lock_file


def _sync(directory: Path) -> None:
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def name(boot: str, sequence: int) -> bytes:
    """16 bytes that stand for a frame."""
    return hashlib.blake2b(f"{boot}-{sequence}".encode(), digest_size=16).digest()
