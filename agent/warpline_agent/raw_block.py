"""Blocks of raw kernel records: `Kernels` of one process to a few bytes a record and back, every number as it was.

A start is kept as the gap to the end of the record before it, the other columns as they are; the lowest value of a column is
taken off and what is left goes into the fewest bytes that hold it. The first bytes of all values of a column lie together,
then the second ones, and so on, which is what zstd likes best of what was measured (BENCHMARKS.md). A block needs no other.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard

from .kernels import CATEGORIES, Kernels

MAGIC: Final = b"WLR1"
LEVEL: Final = 1
"""zstd level of the records."""
RECORDS_MAX: Final = 65_536
"""Records of one block."""
META_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of what a block says of itself, and of its names; one that claims more is damaged."""
HEADER: Final = struct.Struct("<4sIIII")
_COLUMNS: Final = ("gap_ns", "duration_ns", "name_id", "category", "device", "stream", "step")
_WIDTHS: Final = (1, 2, 4, 8)
PROCESSES: Final = 8
"""Processes of a node whose packed names are remembered."""

Integers = npt.NDArray[np.int64]


class Damaged(Exception):
    """Bytes that are no block, or not a whole one."""


@dataclass(frozen=True)
class Process:
    """Whose records they are: the columns that say so (job, rank, gpu_uuid, ...), and the clock of their times."""

    place: tuple[tuple[str, Any], ...]
    clock: str | None

    @classmethod
    def of(cls, clock: str | None, **place: Any) -> Process:
        """A process by what is known of it; None is not known."""
        return cls(tuple(sorted((key, value) for key, value in place.items() if value is not None)), clock)

    def get(self, column: str) -> Any:
        """One of its columns, None where it is not known."""
        return dict(self.place).get(column)


@dataclass(frozen=True)
class Told:
    """What a block says of itself: `first_ns` is the earliest start, `last_ns` the latest end, at least that start.

    `left_out` are records that its grade leaves out, `lost` those of the process that could not be written before it; `mark`
    names the file that the records are of.
    """

    process: Process
    records: int
    first_ns: int
    last_ns: int
    left_out: int = 0
    lost: int = 0
    mark: str = ""


def encode(
    process: Process, kernels: Kernels, *, left_out: int = 0, lost: int = 0, mark: str = ""
) -> tuple[Told, bytes]:
    """At least one and at most RECORDS_MAX records as a block."""
    end_ns = kernels.end_ns
    first_ns = int(kernels.start_ns.min())
    told = Told(process, len(kernels), first_ns, max(int(end_ns.max()), first_ns), left_out, lost, mark)
    packed = [_pack(values) for values in _columns(kernels, end_ns)]
    used = np.flatnonzero(np.bincount(kernels.name_id))
    meta = asdict(told) | {
        "process": [dict(process.place), process.clock], "start_ns": int(kernels.start_ns[0]),
        "columns": [(base, width) for base, width, _ in packed],
    }  # fmt: skip
    about = zstandard.compress(json.dumps(meta).encode(), LEVEL)
    names = _packed_names(kernels.names, used.tobytes())
    records = zstandard.compress(b"".join(data for _, _, data in packed), LEVEL)
    checksum = zlib.crc32(records, zlib.crc32(names, zlib.crc32(about)))
    header = HEADER.pack(MAGIC, checksum, len(about), len(names), len(records))
    return told, b"".join((header, about, names, records))


@lru_cache(maxsize=PROCESSES)
def _packed_names(names: tuple[str, ...], used: bytes) -> bytes:
    """Positions and texts of the names that records have. A program runs the same kernels again and again."""
    positions = np.frombuffer(used, dtype=np.int64).tolist()
    return zstandard.compress(json.dumps([positions, [names[index] for index in positions]]).encode(), LEVEL)


def length(head: bytes) -> int:
    """Bytes of the whole block by its first ones; Damaged where they begin no block."""
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise Damaged
    return int(HEADER.size + sum(HEADER.unpack_from(head)[2:]))


def describe(block: bytes) -> Told:
    """What a block says of itself. The checksum covers all of it."""
    return _told(_open(block)[0])


def decode(block: bytes) -> tuple[Told, Kernels]:
    """The records, in the order in which they came; names that none of them has are left out."""
    meta, named, packed = _open(block)
    try:
        told = _told(meta)
        used, names = json.loads(_decompressed(named, META_BYTES_MAX))
        widths = [int(width) for _, width in meta["columns"]]
        data = _decompressed(packed, 8 * len(_COLUMNS) * RECORDS_MAX)
        if len(widths) != len(_COLUMNS) or told.records > RECORDS_MAX or len(data) != told.records * sum(widths):
            raise Damaged
        columns, at = {}, 0
        for name, (base, width) in zip(_COLUMNS, meta["columns"], strict=True):
            columns[name] = _unpack(data[at : at + width * told.records], int(base), int(width), told.records)
            at += width * told.records
        return told, _kernels(int(meta["start_ns"]), np.array(used, dtype=np.int64), tuple(map(str, names)), columns)
    except (zstandard.ZstdError, ArithmeticError, IndexError, KeyError, TypeError, ValueError) as error:
        raise Damaged from error


def _columns(kernels: Kernels, end_ns: Integers) -> list[npt.NDArray[Any]]:
    gap = np.zeros(len(kernels), dtype=np.int64)
    np.subtract(kernels.start_ns[1:], end_ns[:-1], out=gap[1:])
    rest = (kernels.duration_ns, kernels.name_id, kernels.category, kernels.device, kernels.stream, kernels.step)
    return [gap, *rest]


def _pack(values: npt.NDArray[Any]) -> tuple[int, int, bytes]:
    """Lowest value, bytes a value, and what is left of all of them, byte by byte: differences modulo what these bytes hold."""
    low = int(values.min())
    span = int(values.max()) - low
    if span == 0:
        return low, 0, b""
    width = next(each for each in _WIDTHS if span < 1 << 8 * each)
    narrow = values.astype(f"<u{width}")
    narrow -= narrow.dtype.type(low % 2 ** (8 * width))
    return low, width, narrow.tobytes() if width == 1 else narrow.view(np.uint8).reshape(-1, width).T.tobytes()


def _unpack(data: bytes, low: int, width: int, records: int) -> Integers:
    if width == 0:
        return np.full(records, low, dtype=np.int64)
    narrow = np.frombuffer(data, np.uint8).reshape(width, records).T.copy().view(f"<u{width}").reshape(records)
    return (narrow.astype(np.uint64) + np.uint64(low % 2**64)).view(np.int64)


def _kernels(start_ns: int, used: Integers, names: tuple[str, ...], columns: Mapping[str, Integers]) -> Kernels:
    position = np.searchsorted(used, columns["name_id"])
    category = columns["category"]
    if len(names) != used.size or (used[position] != columns["name_id"]).any():
        raise Damaged
    if category.min() < 0 or category.max() >= len(CATEGORIES):
        raise Damaged
    duration = columns["duration_ns"]
    steps_of_time = columns["gap_ns"].copy()
    steps_of_time[1:] += duration[:-1]
    return Kernels(
        start_ns=np.cumsum(steps_of_time) + np.int64(start_ns),
        duration_ns=duration,
        name_id=position.astype(np.int32),
        category=category.astype(np.uint8),
        device=columns["device"].astype(np.int32),
        stream=columns["stream"],
        step=columns["step"],
        names=names,
    )


def _open(block: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """What it says of itself, its names and its records, the latter two as they are packed."""
    if length(block) != len(block):
        raise Damaged
    _, checksum, told_bytes, names_bytes, _ = HEADER.unpack_from(block)
    if zlib.crc32(memoryview(block)[HEADER.size :]) != checksum:
        raise Damaged
    end = HEADER.size + told_bytes
    try:
        meta = json.loads(_decompressed(block[HEADER.size : end], META_BYTES_MAX))
    except (zstandard.ZstdError, ValueError) as error:
        raise Damaged from error
    if not isinstance(meta, dict):
        raise Damaged
    return meta, block[end : end + names_bytes], block[end + names_bytes :]


def _decompressed(data: bytes, bytes_max: int) -> bytes:
    """What was compressed; Damaged where it claims to be larger than it may be, before any memory is taken for it."""
    if not 0 <= zstandard.frame_content_size(data) <= bytes_max:
        raise Damaged
    return zstandard.ZstdDecompressor().decompress(data)


def _told(meta: Mapping[str, Any]) -> Told:
    try:
        place, clock = meta["process"]
        numbers = {name: int(meta[name]) for name in ("records", "first_ns", "last_ns", "left_out", "lost")}
        return Told(Process.of(clock, **place), mark=str(meta["mark"]), **numbers)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged from error
