"""Reads what `all_reduce_bench.py` prints: one block a rank and trial, torn by the blocks of other ranks.

A block is `rank:`, ` duration: S sec`, ` algo throughput: T bps, ...`, ` busbw: B  Gbps`, in bits per second. `algo throughput`
counts the data twice, so that bus bandwidth is `T / 2 * 2 (n - 1) / n`
(https://github.com/bigscience-workshop/bigscience/tree/master/experiments/bandwidth).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

OPEN_BLOCKS_MAX: Final = 256
"""Blocks begun and not ended; the oldest falls off and is counted."""

RANKS_MAX: Final = 65_536
"""Ranks whose trials are counted."""

RESULTS_MAX: Final = 100_000
"""Results kept between two calls of `take`; more are counted."""

_RANK: Final = re.compile(r"(\d{1,6}):")
_SIZE: Final = re.compile(r"\d{1,6} data size: (\d{1,9}(?:\.\d{1,9})?) GB")
_DURATION: Final = re.compile(r"duration: (\d{1,9}\.\d{1,9}) sec")
_THROUGHPUT: Final = re.compile(r"algo throughput: (\d{1,18}\.\d{1,9}) bps, \d+\.\d+ Gbps")
_BUS: Final = re.compile(r"busbw: (\d{1,9}\.\d{1,9}) +Gbps")


@dataclass
class _Block:
    rank: int | None
    sequence: int | None
    seconds: float | None = None
    bits_per_second: float | None = None


class AllReduceBench:
    """Fed with lines; keeps results, as rows of `collectives`, until they are taken."""

    def __init__(self) -> None:
        self.results = 0
        self.dropped = 0
        self._bytes: int | None = None
        self._share: float | None = None
        self._open: list[_Block] = []
        self._trials: dict[int, int] = {}
        self._rows: list[dict[str, Any]] = []

    def feed(self, line: str) -> bool:
        """Read one line; whether it belonged to a block."""
        text = line.strip()
        if not text or not (text[0].isdigit() or text[0] in "dab"):
            return False
        if found := _RANK.fullmatch(text):
            self._begin(int(found[1]))
        elif found := _DURATION.fullmatch(text):
            self._duration(float(found[1]))
        elif found := _THROUGHPUT.fullmatch(text):
            self._throughput(float(found[1]))
        elif found := _BUS.fullmatch(text):
            self._bus(float(found[1]))
        elif found := _SIZE.fullmatch(text):
            self._bytes = round(float(found[1]) * 1e9)
        return found is not None

    def take(self) -> list[dict[str, Any]]:
        """Rows since the last call."""
        taken, self._rows = self._rows, []
        return taken

    def _begin(self, rank: int) -> None:
        if len(self._open) == OPEN_BLOCKS_MAX:
            self._open.pop(0)
            self.dropped += 1
        sequence = self._trials.get(rank, 0)
        if rank in self._trials or len(self._trials) < RANKS_MAX:
            self._trials[rank] = sequence + 1
        self._open.append(_Block(rank, sequence))

    def _duration(self, seconds: float) -> None:
        waiting = [block for block in self._open if block.seconds is None]
        if len(waiting) != 1:
            for block in waiting:
                block.rank = block.sequence = None
        if waiting:
            waiting[-1].seconds = seconds

    def _throughput(self, bits: float) -> None:
        waiting = [block for block in self._open if block.seconds is not None and block.bits_per_second is None]
        if self._bytes is not None and bits > 0:
            expected = 16 * self._bytes / bits
            waiting.sort(key=lambda block: abs((block.seconds or 0.0) - expected), reverse=True)
        if waiting:
            waiting[-1].bits_per_second = bits

    def _bus(self, gigabits: float) -> None:
        block = self._ending(gigabits)
        self.results += 1
        if block is None:
            self.dropped += 1
            return
        self._open.remove(block)
        if len(self._rows) == RESULTS_MAX:
            self.dropped += 1
            return
        self._rows.append(self._row(block, gigabits))

    def _ending(self, gigabits: float) -> _Block | None:
        """The block a bus bandwidth belongs to: by its share of the throughput, which is the same for all blocks."""
        waiting = [block for block in self._open if block.bits_per_second is not None]
        if len(waiting) == 1 and self._share is None:
            self._share = gigabits * 1e9 / (waiting[0].bits_per_second or 1.0)
        if self._share:
            expected = gigabits * 1e9 / self._share
            waiting.sort(key=lambda block: abs((block.bits_per_second or 0.0) - expected), reverse=True)
        return waiting[-1] if waiting else None

    def _row(self, block: _Block, gigabits: float) -> dict[str, Any]:
        return {
            "source": "all_reduce_bench",
            "rank": block.rank,
            "sequence": block.sequence,
            "operation": "all_reduce",
            "message_bytes": self._bytes,
            "duration_ns": None if block.seconds is None else round(block.seconds * 1e9),
            "timing": "host",
            "algorithm_bytes_per_second": None if block.bits_per_second is None else block.bits_per_second / 16,
            "bus_bytes_per_second": gigabits * 1e9 / 8,
        }
