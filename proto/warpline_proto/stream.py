"""Frames of one stream made smaller: differences to rows sent before, and zstd with an earlier part as its dictionary.

What a Packer makes is read by one Unpacker, in the order in which it was made; with a new stream both begin anew, so that
nothing has to be remembered beyond it. Frames that wait in a spool are not packed: each of them can be read by itself.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import zstandard

from . import service_pb2, wire
from .batch import Batch, Frame
from .defaults import FRAME_UNPACKED_BYTES_MAX
from .errors import WireError
from .kernel_deltas import Receiver, Sender
from .tables import KERNEL_CLUSTERS, SOURCE_HEALTH, TABLES
from .wire import COUNT_MAX, NAME_CHARS_MAX

PACKING: Final = 1
"""Form of packed parts that this version writes and reads; an agent packs once the collector has said that it reads it."""
NOT_PACKED: Final = 0
"""What a collector says that would rather have parts as they are."""
DICTIONARY_BYTES_MAX: Final = 64 * 1024
"""Longer parts are no dictionaries."""
DICTIONARIES_MAX: Final = 64
"""Dictionaries of one stream, the ones used last."""
RENEW_RATIO: Final = 0.6
"""A part that its dictionary makes no smaller than this share becomes the next dictionary."""
ROW_BYTES_MIN: Final = 128
"""A row of kernel_clusters takes so much once unpacked: a part cannot claim to be small and hold many."""
LEVEL: Final = 15
"""Of zstd: higher ones take more time for hardly fewer bytes."""
SOURCE: Final = "collector"
"""Name under which what was left out is told."""
NOT_KNOWN: Final = "the collector does not know this table: it is of an earlier version than the agent"
LEFT_OUT_MAX: Final = 16
"""Parts of one frame that are told so."""
_ARROW: Final = 0
_DIFFERENCES: Final = 1


class OutOfStep(WireError):
    """A part that refers to one that never came on this stream: on a new stream it can be read."""


@dataclass(frozen=True)
class _Dictionary:
    name: int
    data: zstandard.ZstdCompressionDict


class Packer:
    """The sender's side of one stream."""

    def __init__(self) -> None:
        self._kernels = Sender()
        self._newest: OrderedDict[tuple[str, str], _Dictionary] = OrderedDict()

    def pack(self, message: service_pb2.Frame) -> service_pb2.Frame:
        """The same frame in fewer bytes, to be sent next on this stream."""
        packed = service_pb2.Frame()
        packed.CopyFrom(message)
        del packed.parts[:]
        for part in message.parts:
            plain = wire.unpack(part)
            if part.table == KERNEL_CLUSTERS.name and part.rows:
                self._pack_kernels(packed, part, plain)
            else:
                packed.parts.append(self._smaller(part, plain))
        return packed

    def begin_anew(self) -> None:
        """Refer to nothing that was sent so far: the other side may not have it."""
        self._kernels.begin_anew()
        self._newest.clear()

    def _pack_kernels(self, packed: service_pb2.Frame, part: service_pb2.Part, plain: bytes) -> None:
        made = self._kernels.pack(wire.to_batch(part, plain).rows)
        about = service_pb2.Part(table=part.table, source=part.source)
        dropped = part.dropped
        if made.whole is not None:
            whole = wire.to_ipc(made.whole.schema, [made.whole])
            about.rows, about.unpacked_bytes, about.dropped = made.whole.num_rows, len(whole), dropped
            about.payload = zstandard.ZstdCompressor(level=LEVEL).compress(whole)
            sent = self._smaller(about, whole)
            sent.keyframe, sent.new_book = made.serial, made.new_book
            packed.parts.append(sent)
            dropped = 0
        if made.payload is not None:
            packed.parts.add(
                table=part.table,
                source=part.source,
                dropped=dropped,
                rows=made.told,
                unpacked_bytes=max(part.unpacked_bytes, made.told * ROW_BYTES_MIN),
                payload=made.payload,
                encoding=_DIFFERENCES,
            )

    def _smaller(self, part: service_pb2.Part, plain: bytes) -> service_pb2.Part:
        """With the newest part of its kind as dictionary; the part itself becomes one where that helps little."""
        if len(plain) > DICTIONARY_BYTES_MAX:
            return part
        kind = (part.table, part.source)
        known = self._newest.get(kind)
        if known is not None:
            payload = zstandard.ZstdCompressor(level=LEVEL, dict_data=known.data).compress(plain)
            if len(payload) <= RENEW_RATIO * len(part.payload):
                self._newest.move_to_end(kind)
                return _like(part, payload=payload, dictionary=known.name)
        self._newest[kind] = made = _dictionary(plain)
        if len(self._newest) > DICTIONARIES_MAX:
            self._newest.popitem(last=False)
        payload = zstandard.ZstdCompressor(level=LEVEL).compress(plain)
        return _like(part, payload=min(payload, part.payload, key=len), remember=made.name)


class Unpacker:
    """The receiver's side of one stream."""

    def __init__(self) -> None:
        self._kernels = Receiver()
        self._known: OrderedDict[int, _Dictionary] = OrderedDict()

    def unpack(self, message: service_pb2.Frame) -> Frame:
        """The frame that came next on this stream, packed or not; WireError if it is malformed or claims too much, OutOfStep if
        it needs another that never came.

        Rows of kernel_clusters that cannot be told apart, because what they refer to never came, are one row a window with exact
        count and sum, and counted as dropped. Rows of a table that this version does not know are left out, and a row of
        source_health says so: agents may be of a later version than the collector.
        """
        wire.check(message)
        known = [part for part in message.parts if part.table in TABLES]
        batches = [self._batch(part) for part in known]
        if len(known) < len(message.parts):
            batches.append(_left_out(message))
        return wire.frame_of(message, batches)

    def _batch(self, part: service_pb2.Part) -> Batch:
        if part.encoding == _DIFFERENCES and part.table == KERNEL_CLUSTERS.name:
            return self._differences(part)
        if part.encoding != _ARROW:
            raise WireError(f"part of table {part.table!r} in a form that is not known: {part.encoding}")
        plain = wire.unpack(part, self._dictionary(part.dictionary))
        batch = wire.to_batch(part, plain)
        if part.remember and len(plain) <= DICTIONARY_BYTES_MAX:
            self._known[part.remember] = _dictionary(plain, part.remember)
            if len(self._known) > DICTIONARIES_MAX:
                self._known.popitem(last=False)
        if part.keyframe and part.table == KERNEL_CLUSTERS.name:
            self._kernels.keyframe(batch.rows, part.keyframe, part.new_book)
        return batch

    def _differences(self, part: service_pb2.Part) -> Batch:
        if part.rows * ROW_BYTES_MIN > min(part.unpacked_bytes, FRAME_UNPACKED_BYTES_MAX):
            raise WireError(f"part of table {part.table!r} claims to be smaller than its rows")
        read = self._kernels.read(part.payload, part.rows)
        return Batch(part.table, part.source, read.rows, part.dropped + read.missing)

    def _dictionary(self, name: int) -> zstandard.ZstdCompressionDict | None:
        if not name:
            return None
        found = self._known.get(name)
        if found is None:
            raise OutOfStep("a part cannot be read without another that never came", "send it again on a new stream")
        self._known.move_to_end(name)
        return found.data


def _left_out(message: service_pb2.Frame) -> Batch:
    """How much of which tables that are not known, as far as the frame itself says."""
    parts = [part for part in message.parts if part.table not in TABLES]
    common = {"node": message.agent, "source": SOURCE, "time_ns": message.created_ns, "state": "dropped"}
    rows = [
        {"subject": part.table[:NAME_CHARS_MAX], "reason": NOT_KNOWN, "dropped": min(part.rows, COUNT_MAX)} | common
        for part in parts[:LEFT_OUT_MAX]
    ]
    return Batch(SOURCE_HEALTH.name, SOURCE, SOURCE_HEALTH.from_rows(rows))


def _dictionary(plain: bytes, name: int | None = None) -> _Dictionary:
    made = zstandard.ZstdCompressionDict(plain, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    digest = int.from_bytes(hashlib.blake2b(plain, digest_size=8).digest(), "big")
    return _Dictionary(digest or 1 if name is None else name, made)


def _like(part: service_pb2.Part, **changes: object) -> service_pb2.Part:
    copy = service_pb2.Part()
    copy.CopyFrom(part)
    for name, value in changes.items():
        setattr(copy, name, value)
    return copy
