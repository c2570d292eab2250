"""Records of a ring -> `Kernels` and rows of NCCL operations; what makes no sense is left out and counted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from warpline_hook import ring

from .kernels import COMPUTE, MEMCPY, MEMSET, NO_STEP, TIME_NS_MAX, Kernels, categorise, clean_name
from .ring_file import Records, RingFile, Text

DURATION_NS_MAX: Final = 2**53
"""A hundred days; longer is damage."""
DEVICES_MAX: Final = 1024
NAME_UNKNOWN: Final = "(a kernel without a name)"
GRAPH_NAME: Final = "CUDA graph"
DIRECTIONS: Final = {1: "HtoD", 2: "DtoH", 8: "DtoD", 10: "PtoP"}
"""Of copies, by CUPTI's number."""
OPERATIONS: Final = (ring.COLLECTIVE, ring.POINT_TO_POINT)
_UNSEEN: Final = -1
_NO_DEVICE: Final = np.uint32(2**32 - 1)
"""-1 once it is signed."""
_PART: Final = re.compile(r"(\d{1,3})")


def readable(name: str) -> str:
    """The qualified name within a mangled C++ name, with the whole after it where templates or types tell instances apart."""
    nested = name.startswith("_ZN")
    if not name.startswith("_Z"):
        return name
    parts: list[str] = []
    at = 3 if nested else 2
    while (found := _PART.match(name, at)) and (nested or not parts):
        at = found.end() + int(found[1])
        parts.append(name[found.end() : at])
    if not parts or at > len(name):
        return name
    qualified = "::".join("(anonymous)" if part.startswith("_GLOBAL__N_") else part for part in parts)
    return f"{qualified} {name}" if "I" in name[at : at + 1] else qualified


def possible(records: Records) -> Records:
    """Kernels, copies, sets and whole graphs among the records, less those with times that cannot be."""
    kind = records["kind"]
    chosen = (kind >= ring.KERNEL) & (kind <= ring.GRAPH)
    chosen &= (records["start_ns"] < TIME_NS_MAX) & (records["duration_ns"] < DURATION_NS_MAX)
    return records if chosen.all() else records[chosen]


class RingKernels:
    """The kernels of one ring, with the names it has told so far."""

    def __init__(self) -> None:
        self._places = np.full(1, _UNSEEN, dtype=np.int32)  # of a kernel's name in `_names`, by its number in the ring
        self._activities: dict[tuple[int, int], int] = {}
        self._names: list[str] = []
        self._categories: list[int] = []
        self.invalid = 0

    def kernels(self, records: Records, file: RingFile) -> Kernels:
        """Kernels, copies, sets and whole graphs among the records, given to no step."""
        chosen = possible(records)
        if len(chosen) < len(records):
            kind = records["kind"]
            self.invalid += int(((kind >= ring.KERNEL) & (kind <= ring.GRAPH)).sum()) - len(chosen)
        name_id = self._name_ids(chosen, file)
        device = chosen["device"]
        return Kernels(
            start_ns=chosen["start_ns"].astype(np.int64),
            duration_ns=chosen["duration_ns"].astype(np.int64),
            name_id=name_id,
            category=np.array(self._categories, dtype=np.uint8)[name_id] if len(chosen) else np.zeros(0, np.uint8),
            device=np.where(device < DEVICES_MAX, device, _NO_DEVICE).astype(np.int32),
            stream=chosen["stream"].astype(np.int64),
            step=np.full(chosen.size, NO_STEP, dtype=np.int64),
            names=tuple(self._names),
        )

    def _name_ids(self, chosen: Records, file: RingFile) -> npt.NDArray[np.int32]:
        if self._places.size < file.text_numbers:
            self._places = np.full(file.text_numbers, _UNSEEN, dtype=np.int32)
        numbers = chosen["name"].astype(np.int64)
        numbers[numbers >= self._places.size] = 0
        found = self._places[numbers]
        is_kernel = chosen["kind"] == ring.KERNEL
        if (found < 0).any():
            for number in np.unique(numbers[is_kernel & (found < 0)]).tolist():
                name = clean_name(readable(file.text(number) or NAME_UNKNOWN))
                self._places[number] = self._add(name, categorise(name))
            found = self._places[numbers]
        if not is_kernel.all():
            others = np.flatnonzero(~is_kernel)
            pairs = zip(chosen["kind"][others].tolist(), chosen["flags"][others].tolist(), strict=True)
            found[others] = [self._activity(kind, flags) for kind, flags in pairs]
        return found

    def _activity(self, kind: int, flags: int) -> int:
        key = kind, flags if flags in DIRECTIONS else 0
        if key not in self._activities:
            self._activities[key] = self._add(*_activity(*key))
        return self._activities[key]

    def _add(self, name: str, category: int) -> int:
        self._names.append(name)
        self._categories.append(category)
        return len(self._names) - 1


def _activity(kind: int, flags: int) -> tuple[str, int]:
    if kind == ring.MEMCPY:
        return f"Memcpy {DIRECTIONS.get(flags, '')}".strip(), MEMCPY
    return ("Memset", MEMSET) if kind == ring.MEMSET else (GRAPH_NAME, COMPUTE)


def joined(parts: Sequence[Kernels]) -> Kernels:
    """Kernels of one ring in the order they came; the last part knows the names of all."""

    def column(name: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    return Kernels(
        column("start_ns"),
        column("duration_ns"),
        column("name_id"),
        column("category"),
        column("device"),
        column("stream"),
        column("step"),
        names=parts[-1].names,
    )


def communicator_row(text: Text) -> dict[str, Any] | None:
    """What a communicator says of itself; None where it makes no sense."""
    head = ring.COMMUNICATOR_HEAD
    if text.kind != ring.COMMUNICATOR or len(text.content) < head.size:
        return None
    number, rank, ranks, nodes, _ = head.unpack_from(text.content)
    name = clean_name(text.content[head.size :].decode("utf-8", "replace"))
    known = rank >= 0 and (ranks < 0 or rank < ranks)
    return {
        "communicator": f"0x{number:x}",
        "communicator_rank": rank if known else None,
        "nranks": ranks if known and ranks > 0 else None,
        "nnodes": nodes if nodes > 0 else None,
        "group_name": name or None,
    }
