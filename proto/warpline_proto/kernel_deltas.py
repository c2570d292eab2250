"""Rows of `kernel_clusters` as differences to a book of earlier ones: some bytes a cluster, count and sum exact.

Against its entry in the book (warpline_proto.kernel_book) a row is told by its count, its sum, its extremes in steps of 5 % and,
only where the entry's runs scaled to the row's mean lie too far from its own, by a shape (warpline_proto.kernel_shapes).
A message names the serial of the book it needs. Whoever has another one reads count and sum of each window, exact, and no more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from .bits import BitReader, BitWriter
from .errors import WireError
from .kernel_book import ENTRIES_MAX, RUNS_MAX, Book, Flags, Numbers, Rows, Values, read_rows, to_batch
from .kernel_message import (
    Windows,
    expected_sum,
    length_of,
    read_header,
    read_renewal,
    read_values,
    running,
    write,
    write_renewal,
)
from .kernel_shapes import distances, shape
from .tables import KERNEL_CLUSTERS

KEYFRAME_FRAMES: Final = 1_024
"""After so many messages a sender begins a new book, so that nothing stays unreadable for good."""
RECENT: Final = 6
"""Messages by which a sender judges whether a row's own runs would serve better than those of its entry."""
BETTER: Final = 0.85
"""An entry is replaced by a row that lies nearer to the recent ones, by this factor at least."""
LEARNED_AT: Final = (8, 32, 128, 512)
"""Messages of a book in which a sender tells how long the differences of sums were so far."""
PLACES_MAX: Final = 4_096
"""Places of one book: ranks and GPUs of one node, over all its jobs."""
PLACE_CHARS_MAX: Final = 1_024
"""Longest name in a place."""
_VERSION: Final = 1


@dataclass(frozen=True)
class Packed:
    """What a sender makes of some rows: `whole` to be sent first as keyframe `serial`, `payload` behind it, or one of them.

    `told` rows are in the payload. A serial of 0 is no keyframe: those rows are not remembered.
    """

    whole: pa.RecordBatch | None
    serial: int
    new_book: bool
    payload: bytes | None
    told: int


@dataclass(frozen=True)
class Unpacked:
    """`rows` that were read, and how many could not be told apart for want of the book."""

    rows: pa.RecordBatch
    missing: int


class Sender:
    """Packs the rows of one stream, in the order in which they are sent."""

    def __init__(self) -> None:
        self._book = Book()
        self._new = True
        self.begin_anew()

    def pack(self, batch: pa.RecordBatch) -> Packed:
        """Rows of `kernel_clusters` -> what to send of them."""
        if not Book().has_room(batch):
            return Packed(batch, 0, False, None, 0)
        if self._messages >= KEYFRAME_FRAMES or not self._book.has_room(batch):
            self.begin_anew()
        rows = read_rows(batch)
        if not _places_fit(self._book, rows):
            self.begin_anew()
            if not _places_fit(self._book, rows):
                return Packed(batch, 0, False, None, 0)
        self._messages += 1
        windows, window = _windows(rows)
        entry, whole = self._entries(rows, window)
        kept, new_book = None, self._new
        if whole.any():
            kept = batch.filter(pa.array(whole))
            self._book.append(read_rows(kept))
            self._new = False
        if _runs(self._book, entry[~whole]) > RUNS_MAX:
            self.begin_anew()
            return Packed(batch, 0, False, None, 0)
        serial = self._book.serial
        told = np.flatnonzero(~whole)
        payload = self._told(rows, windows, window, entry, told) if told.size else None
        return Packed(kept, serial, new_book, payload, int(told.size))

    def begin_anew(self) -> None:
        """Send everything whole again; serials go on."""
        self._book = Book(serial=self._book.serial)
        self._numbers: dict[tuple[int, ...], int] = {}
        self._recent: deque[tuple[Numbers, Values]] = deque(maxlen=RECENT)
        self._lengths = np.zeros((0, 2), np.int64)
        self._messages = 0
        self._new = True

    def _entries(self, rows: Rows, window: Numbers) -> tuple[Numbers, Flags]:
        """The entry of each row, and which rows are to be sent whole."""
        places = np.array(
            [self._book.places.setdefault(place, len(self._book.places)) for place in rows.places], np.int64
        )
        keys = np.column_stack([places[rows.place], rows.names, _group_sizes(rows, window)]).tolist()
        entry = np.full(len(keys), -1)
        whole = np.ones(len(keys), dtype=bool)
        seen: set[tuple[int, ...]] = set()
        following = len(self._book)
        for at, (key, where, sound) in enumerate(
            zip(map(tuple, keys), window.tolist(), rows.sound.tolist(), strict=True)
        ):
            known = self._numbers.get(key)
            if sound and known is not None and (where, *key) not in seen:
                entry[at], whole[at] = known, False
                seen.add((where, *key))
            elif sound:
                if known is None:
                    self._numbers[key] = following
                    seen.add((where, *key))
                following += 1
        return entry, whole

    def _told(self, rows: Rows, windows: Windows, window: Numbers, entry: Numbers, told: Numbers) -> bytes:
        told = told[np.lexsort((entry[told], window[told]))]
        entry, window = entry[told], window[told]
        values, keys = rows.values.take(told), self._book.keys.take(entry)
        group = groups(rows.names[told], window)
        shapes = shape(values, keys, group)
        adopted = self._adopted(entry, values, keys, np.union1d(shapes.bent, shapes.own))
        writer = BitWriter()
        writer.number(_VERSION)
        writer.number(self._book.serial)
        bits = self._book.sum_bits[entry]
        decoded = write(writer, windows, window, entry, values, keys, shapes, bits)
        if self._book.keys.runs.counts.size + decoded.take(adopted).runs.counts.size > RUNS_MAX:
            adopted = adopted[:0]
        learned = self._learned(entry, length_of(values.sum_ns - expected_sum(keys, values.count)))
        write_renewal(writer, adopted, bits, learned)
        self._recent.append((entry, values))
        self._book.renew(entry, decoded, adopted, learned)
        return bytes(writer.data)

    def _learned(self, entry: Numbers, bits: Numbers) -> Numbers | None:
        """Mean length of the differences of each row's sum so far, in messages where it is worth telling."""
        grown = len(self._book) - self._lengths.shape[0]
        self._lengths = np.concatenate([self._lengths, np.zeros((grown, 2), np.int64)])
        np.add.at(self._lengths, entry, np.column_stack([bits, np.ones_like(bits)]))
        if self._messages not in LEARNED_AT or np.unique(entry).size < entry.size:
            return None
        total, count = self._lengths[entry].T
        mean: Numbers = (total + count // 2) // count
        return mean

    def _adopted(self, entry: Numbers, values: Values, keys: Values, sent: Numbers) -> Numbers:
        """Of the rows whose runs are sent anyway, those that would have served the recent messages better than their entry."""
        if len(self._recent) < RECENT or not sent.size or np.unique(entry).size < entry.size:
            return np.zeros(0, np.int64)
        own, before = np.zeros(sent.size), np.zeros(sent.size)
        for known, recent in self._recent:
            at = np.minimum(np.searchsorted(known, entry[sent]), known.size - 1)
            there = np.flatnonzero(known[at] == entry[sent])
            past = recent.take(at[there])
            own[there] += distances(values.take(sent[there]), past)
            before[there] += distances(keys.take(sent[there]), past)
        return sent[own < BETTER * before]


class Receiver:
    """Reads what one Sender packed, in the order in which it comes; what is lost in between costs no more than it must."""

    def __init__(self) -> None:
        self._book = Book()

    def keyframe(self, batch: pa.RecordBatch, serial: int, new_book: bool) -> None:
        """Rows that were sent whole. Out of order they are not remembered."""
        if new_book and serial > self._book.serial:
            self._book = Book(serial=serial - 1)
        if serial == self._book.serial + 1:
            rows = read_rows(batch)
            if not self._book.has_room(batch) or not _places_fit(self._book, rows):
                raise WireError("the keyframes of one stream hold too many rows", "begin a new book")
            self._book.append(rows)

    def read(self, payload: bytes, rows_max: int) -> Unpacked:
        """Rows of one payload, at most `rows_max`; WireError where it is damaged."""
        reader = BitReader(payload)
        if reader.number() != _VERSION:
            raise WireError("kernel clusters in a packing of another version")
        serial = reader.number()
        windows, size, totals = read_header(reader, min(rows_max, ENTRIES_MAX))
        if serial != self._book.serial:
            return Unpacked(_without_book(windows, totals), int(size.sum()) - size.size)
        try:
            return self._with_book(reader, windows, size)
        except (IndexError, ValueError, OverflowError) as error:
            raise WireError(f"kernel clusters that make no sense: {error}") from error

    def _with_book(self, reader: BitReader, windows: Windows, size: Numbers) -> Unpacked:
        window = np.repeat(np.arange(size.size), size)
        entry = running(reader.small(window.size), size)
        if entry.size and int(entry.max()) >= len(self._book):
            raise WireError("kernel clusters that speak of an entry that is none")
        if _runs(self._book, entry) > RUNS_MAX:
            raise WireError("kernel clusters of more runs than the bound")
        bits = self._book.sum_bits[entry]
        values = read_values(reader, self._book.keys.take(entry), bits)
        adopted, learned = read_renewal(reader, bits)
        reader.close()
        names = self._book.names[entry]
        places = list(self._book.places)
        rows = to_batch(places, names[:, 0], names[:, 1:], windows.moments[window], windows.stepless[window], values)
        self._book.renew(entry, values, adopted, learned)
        if self._book.keys.runs.counts.size > RUNS_MAX:
            self._book = Book(serial=self._book.serial)
            raise WireError("the book of one stream holds too many runs", "begin a new book")
        return Unpacked(rows, 0)


def _runs(book: Book, entry: Numbers) -> int:
    """Runs of entries, as often as they are spoken of."""
    return int(np.diff(book.keys.runs.offsets)[entry].sum())


def _places_fit(book: Book, rows: Rows) -> bool:
    """Whether the places of some rows find room in a book beside those it has."""
    fresh = [place for place in rows.places if place not in book.places]
    if len(book.places) + len(fresh) > PLACES_MAX:
        return False
    return all(len(text) <= PLACE_CHARS_MAX for place in fresh for text in place if isinstance(text, str))


def _windows(rows: Rows) -> tuple[Windows, Numbers]:
    """Windows, and the window of each row: rows next to each other with one place and time."""
    told = np.column_stack([rows.place, rows.window, rows.stepless])
    changed = np.concatenate([[True], (told[1:] != told[:-1]).any(axis=1)])[: len(told)]
    first = np.flatnonzero(changed)
    return Windows(rows.window[first], rows.stepless[first]), np.cumsum(changed) - 1


def groups(names: Numbers, window: Numbers) -> Numbers:
    """Number of each row's (window, stream, kernel)."""
    order = np.lexsort((names[:, 1], names[:, 0], window))
    told = np.column_stack([window, names[:, :2]])[order]
    changed = np.concatenate([[False], (told[1:] != told[:-1]).any(axis=1)])[: len(told)]
    group = np.empty(len(told), np.int64)
    group[order] = np.cumsum(changed)
    return group


def _group_sizes(rows: Rows, window: Numbers) -> Numbers:
    group = groups(rows.names, window)
    return np.bincount(group)[group]


def _without_book(windows: Windows, totals: list[Numbers]) -> pa.RecordBatch:
    """One row a window, of unknown kernels: its exact count and sum."""
    step, start, end = windows.moments.T
    steps = pa.array(step, mask=windows.stepless)
    count, total = totals
    return KERNEL_CLUSTERS.from_columns(
        {"step": steps, "start_ns": start, "end_ns": end, "count": count, "sum_ns": total}
    )
