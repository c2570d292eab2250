"""Whether a kernel of NCCL may have done an operation, by what the name of the one and the words of the other say.

NCCL has few kernels: most reductions run in that of the sum, most protocols in that of LL, several operations of one group in
the kernel of one of them (`best_kernel` in NCCL's src/device/generate.py). So a name says which operation, which type and whether
a tree, and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from warpline_hook import ring

from .kernels import clean_name
from .parsers import nccl
from .ring_file import Records, RingFile
from .ring_records import readable

NAMES_MAX: Final = 4_096
"""Kinds of operations and of groups that are told apart; of further ones nothing is joined."""
NOT_NCCL: Final = -1
_UNSEEN: Final = -2
_WORD_BITS: Final = 21
_WORD_MAX: Final = (1 << _WORD_BITS) - 1
"""More than the texts of a ring."""
_POINT_TO_POINT: Final = frozenset({"send", "recv", "send_recv", "all_to_all", "gather", "scatter"})

Codes = npt.NDArray[np.int32]


class Asked(NamedTuple):
    """What is known of an operation; None where it is not."""

    operation: str | None
    datatype: str | None
    algorithm: str | None


def may_run(asked: Asked, kernel: nccl.Kernel) -> bool:
    """Whether an operation may run in a kernel."""
    if asked.operation is None or kernel.operation is None:
        return True  # a generic kernel does anything
    if kernel.operation == "send_recv":
        return asked.operation in _POINT_TO_POINT
    if asked.operation != kernel.operation:
        return False
    if asked.datatype and kernel.datatype and _unsigned(asked.datatype) != _unsigned(kernel.datatype):
        return False
    if not asked.algorithm or not kernel.algorithm:
        return True
    if kernel.algorithm == "ring":
        return asked.algorithm != "tree"
    return asked.algorithm == kernel.algorithm


def _unsigned(datatype: str) -> str:
    return datatype if datatype.startswith("u") or not datatype.startswith("int") else f"u{datatype}"


class Vocabulary:
    """Numbers for kernels, for operations, and for groups of them, and which may go together; for one ring."""

    def __init__(self) -> None:
        self._kernel_of = np.full(1, _UNSEEN, dtype=np.int32)  # by the number of its name in the ring
        self._kernels: list[nccl.Kernel] = []
        self._kernel_codes: dict[nccl.Kernel, int] = {}
        self._asked: dict[int, int] = {}
        self._plans: dict[tuple[Asked, ...], int] = {}
        self._members: list[tuple[Asked, ...]] = []
        self._fits = np.zeros((0, 0), dtype=np.bool_)

    def kernels(self, names: npt.NDArray[np.uint32], file: RingFile) -> Codes:
        """Code of each kernel by the number of its name, NOT_NCCL for all others."""
        if self._kernel_of.size < file.text_numbers:
            self._kernel_of = np.full(file.text_numbers, _UNSEEN, dtype=np.int32)
        numbers = names.astype(np.int64)
        numbers[numbers >= self._kernel_of.size] = 0
        found: Codes = self._kernel_of[numbers]
        if (found == _UNSEEN).any():
            for number in np.unique(numbers[found == _UNSEEN]).tolist():
                self._kernel_of[number] = self._kernel(file.text(number))
            found = self._kernel_of[numbers]
        return found

    def _kernel(self, text: str | None) -> int:
        name = clean_name(readable(text)) if text else ""
        if not nccl.is_kernel(name):
            return NOT_NCCL
        kernel = nccl.kernel(name)
        if kernel not in self._kernel_codes:
            if len(self._kernels) >= NAMES_MAX:
                return NOT_NCCL
            self._kernel_codes[kernel] = len(self._kernels)
            self._kernels.append(kernel)
        return self._kernel_codes[kernel]

    def operations(self, records: Records, file: RingFile) -> Codes:
        """Code of each operation, as that of a group of one."""
        if not len(records):
            return np.zeros(0, dtype=np.int32)
        words = [np.minimum(records[name], _WORD_MAX).astype(np.int64) for name in ("name", "context", "device")]
        distinct, place = np.unique(words[0] << 2 * _WORD_BITS | words[1] << _WORD_BITS | words[2], return_inverse=True)
        codes = [self._operation(each, file) for each in distinct.tolist()]
        return np.array(codes, dtype=np.int32)[place]

    def _operation(self, words: int, file: RingFile) -> int:
        if words not in self._asked:
            name, datatype, algorithm = (file.text(words >> at & _WORD_MAX) for at in (2 * _WORD_BITS, _WORD_BITS, 0))
            asked = Asked(
                nccl.operation(name or ""), nccl.datatype(datatype or ""), algorithm.lower() if algorithm else None
            )
            if len(self._asked) >= NAMES_MAX:
                self._asked.clear()
            self._asked[words] = self._plan((asked,))
        return self._asked[words]

    def group(self, codes: Sequence[int]) -> int:
        """Code of a group of operations."""
        return self._plan(tuple(sorted({each for code in codes for each in self._members[code]}, key=repr)))

    def _plan(self, members: tuple[Asked, ...]) -> int:
        if members not in self._plans:
            if len(self._members) >= NAMES_MAX:
                members = ()
                if members in self._plans:
                    return self._plans[members]
            self._plans[members] = len(self._members)
            self._members.append(members)
        return self._plans[members]

    def fit(self, plans: Codes, kernels: Codes) -> npt.NDArray[np.bool_]:
        """Whether each kernel may have done the group of operations beside it."""
        if self._fits.shape != (len(self._members), len(self._kernels)):
            self._fits = np.array(
                [[any(may_run(each, kernel) for each in group) for kernel in self._kernels] for group in self._members],
                dtype=np.bool_,
            ).reshape(len(self._members), len(self._kernels))
        fits: npt.NDArray[np.bool_] = self._fits[plans, kernels]
        return fits


def is_operation(records: Records) -> npt.NDArray[np.bool_]:
    """Which records are of operations."""
    kind = records["kind"]
    found: npt.NDArray[np.bool_] = (kind == ring.COLLECTIVE) | (kind == ring.POINT_TO_POINT)
    return found
