"""How many samples each node has in each window, as arrays of numbers: two weeks of a large fleet are millions of windows.

As objects of Python they were a gigabyte for 10,000 GPUs, and ten seconds of each minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from warpline_analysis.parts import Numbers, together
from warpline_proto.power_tables import WINDOW_NS

_WINDOW_BITS: Final = 32
"""Of a key; above them is the node's number."""


class Nodes:
    """A number for each node that was ever heard of."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []

    def keys(self, nodes: pa.Array, windows_ns: Numbers) -> Numbers:
        """Of nodes and starts of windows."""
        coded = nodes if pa.types.is_dictionary(nodes.type) else nodes.dictionary_encode()
        numbers = np.array([self._number(name) for name in coded.dictionary.to_pylist()], np.int64)
        keys: Numbers = (numbers[coded.indices.to_numpy()] << _WINDOW_BITS) | (windows_ns // WINDOW_NS)
        return keys

    def name(self, key: int) -> str:
        """The node of a key."""
        return self._names[key >> _WINDOW_BITS]

    def __len__(self) -> int:
        return len(self._names)

    def _number(self, name: str) -> int:
        number = self._numbers.setdefault(name, len(self._names))
        if number == len(self._names):
            self._names.append(name)
        return number


@dataclass(frozen=True)
class Windows:
    """Samples by key; the keys in order, each once."""

    keys: Numbers
    counts: Numbers

    @property
    def nodes(self) -> Numbers:
        """Number of the node of each key."""
        return self.keys >> _WINDOW_BITS

    @property
    def starts_ns(self) -> Numbers:
        """Start of the window of each key."""
        return (self.keys & ((1 << _WINDOW_BITS) - 1)) * WINDOW_NS

    def at(self, keys: Numbers) -> Numbers:
        """Samples of these keys, 0 where there are none."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.counts[places], 0)


def counted(parts: Mapping[str, pa.Table], nodes: Nodes) -> tuple[Windows, Numbers]:
    """Samples by window, and the time of the newest by number of the node.

    Each part has columns node, window_ns, samples and newest_ns; none of them is NULL.
    """
    told = {name: part for name, part in parts.items() if part.num_rows}
    if not told:
        return Windows(_none(), _none()), np.zeros(len(nodes), np.int64)
    rows = together(told)
    all_keys = nodes.keys(rows.column("node").combine_chunks(), rows.column("window_ns").to_numpy())
    keys, places = np.unique(all_keys, return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    np.add.at(counts, places, rows.column("samples").to_numpy())
    newest_ns = np.zeros(len(nodes), np.int64)
    np.maximum.at(newest_ns, all_keys >> _WINDOW_BITS, rows.column("newest_ns").to_numpy())
    return Windows(keys, counts), newest_ns


def _none() -> Numbers:
    return np.array((), np.int64)
