"""NCCL's vocabulary: operations, element types, reductions, kernel names, message sizes and bus bandwidth.

Every source that speaks of collectives names them through this module, so that rows from a log, a trace, a flight recorder
and a benchmark table can be compared. Sizes and bandwidths follow nccl-tests' `doc/PERFORMANCE.md`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from . import values

NAMES_REMEMBERED: Final = 1024
"""Spellings of operations whose meaning is kept at hand."""

OPERATIONS: Final = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "reduce",
    "gather",
    "scatter",
    "send",
    "recv",
    "send_recv",
    "barrier",
)
"""The only values of `collectives.operation` for NCCL's own operations."""

DATATYPES: Final = (
    "int8",
    "uint8",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
    "bfloat16",
    "float8e4m3",
    "float8e5m2",
)
"""Element types by NCCL's code (ncclDataType_t)."""

DATATYPE_BYTES: Final = dict(zip(DATATYPES, (1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1), strict=True))

REDUCTIONS: Final = ("sum", "prod", "max", "min", "avg")
"""Reductions by NCCL's code (ncclRedOp_t); higher codes are made by the user and have no name."""

_DATATYPE_ALIASES: Final = {
    **{name: name for name in DATATYPES},
    "char": "int8",
    "i8": "int8",
    "int8t": "int8",
    "byte": "uint8",
    "bool": "uint8",
    "u8": "uint8",
    "uint8t": "uint8",
    "int": "int32",
    "i32": "int32",
    "u32": "uint32",
    "long": "int64",
    "i64": "int64",
    "u64": "uint64",
    "half": "float16",
    "f16": "float16",
    "fp16": "float16",
    "float": "float32",
    "f32": "float32",
    "fp32": "float32",
    "double": "float64",
    "f64": "float64",
    "fp64": "float64",
    "bf16": "bfloat16",
    "f8e4m3": "float8e4m3",
    "fp8e4m3": "float8e4m3",
    "float8e4m3fn": "float8e4m3",
    "f8e5m2": "float8e5m2",
    "fp8e5m2": "float8e5m2",
}

_COMPACT: Final = (
    ("allreduce", "all_reduce"),
    ("reducescatter", "reduce_scatter"),
    ("allgather", "all_gather"),
    ("alltoall", "all_to_all"),
    ("broadcast", "broadcast"),
    ("bcast", "broadcast"),
    ("sendrecv", "send_recv"),
    ("barrier", "barrier"),
    ("reduce", "reduce"),
    ("gather", "gather"),
    ("scatter", "scatter"),
    ("send", "send"),
    ("recv", "recv"),
)
_BY_COMPACT: Final = dict(_COMPACT)
_NAMES: Final = "|".join(name for name, _ in _COMPACT)
_HASH: Final = re.compile(r"[0-9a-f]{1,16}")
_NOISE: Final = re.compile(r"[^a-z]+")
_PEERS: Final = re.compile(r"\s*\d+\s*(?:->|<-)\s*\d+\s*$")
# `wait` and the like around a known word would be a different thing, so only these may surround it (`cd` is c10d).
_OPERATION: Final = re.compile(
    rf"(?:cd|nccl|rccl|dist|pg)*({_NAMES})"
    r"(?:v|base|intotensor|intotensorout|tensor|single|coalesced|sparse|oop|uneven|perf|async|barrier)*"
)
_KERNEL: Final = re.compile(
    r"\b(?:nccl(?:dev|symk)*(?:dev)?(?:kernel|func)|nccl[a-z]+kernel|nccl[a-z]+(?:ring|tree)\w*kernel|rcclkernel|mscclkernel)",
    re.IGNORECASE,
)
_KERNEL_OPERATION: Final = re.compile(_NAMES)
_KERNEL_ALGORITHM: Final = re.compile(r"_(ring|tree|nvls_tree|nvls|collnet_direct|collnet_chain|pat)(?=_|\(|$)")
_KERNEL_PROTOCOL: Final = re.compile(r"_(ll128|ll|simple)(?=_|\(|$)")
_KERNEL_REDUCTION: Final = re.compile(r"_(sum|prod|max|min|minmax|avg|premulsum|sumpostdiv)(?=_|\(|$)")
_KERNEL_DATATYPE: Final = re.compile(
    r"_(u?int\d+(?:_t)?|[iuf]\d+(?:e\dm\d)?|bf16|half|float|double|__nv_bfloat16)(?=_|\(|$)"
)


class Kernel(NamedTuple):
    """What the name of an NCCL kernel says; None where it says nothing (a generic kernel serves every operation)."""

    operation: str | None
    algorithm: str | None
    protocol: str | None
    reduction: str | None
    datatype: str | None


@lru_cache(maxsize=NAMES_REMEMBERED)
def operation(name: str) -> str | None:
    """One of OPERATIONS for any spelling of it (`AllReduce`, `nccl:all_reduce`, `_allgather_base`), None for the rest."""
    compact = _NOISE.sub("", _PEERS.sub("", name).lower())
    if found := _OPERATION.fullmatch(compact):
        return _BY_COMPACT[found[1]]
    return kernel(name).operation if is_kernel(name) else None


def is_kernel(name: str) -> bool:
    """Whether a GPU kernel of this name is NCCL's (or RCCL's)."""
    return _KERNEL.search(name) is not None


def kernel(name: str) -> Kernel:
    """What the name of an NCCL kernel of any version says about its operation."""
    lowered = name.lower().split("(", 1)[0]
    head = _KERNEL.search(lowered)
    compact = _NOISE.sub("", lowered[head.start() :] if head else lowered).replace("nccldevkernel", "", 1)
    found = _KERNEL_OPERATION.search(compact)
    protocol = _first(_KERNEL_PROTOCOL, lowered)
    reduction = _first(_KERNEL_REDUCTION, lowered)
    return Kernel(
        _BY_COMPACT[found[0]] if found else None,
        _first(_KERNEL_ALGORITHM, lowered),
        protocol,
        reduction if reduction in REDUCTIONS else None,
        datatype(_first(_KERNEL_DATATYPE, lowered) or ""),
    )


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found[1] if found else None


def datatype(name: str | int) -> str | None:
    """One of DATATYPES for NCCL's code or any spelling (`ncclFloat16`, `BFloat16`, `half`, `torch.float32`)."""
    if isinstance(name, int):
        return DATATYPES[name] if 0 <= name < len(DATATYPES) else None
    text = name.strip().lower().removeprefix("torch.").removeprefix("c10::").removeprefix("nccl")
    return _DATATYPE_ALIASES.get(text.replace("__nv_", "").replace("_", ""))


def reduction(name: str | int) -> str | None:
    """One of REDUCTIONS for NCCL's code or any spelling (`ncclSum`, `SUM`, `RedOpType.AVG`)."""
    if isinstance(name, int):
        return REDUCTIONS[name] if 0 <= name < len(REDUCTIONS) else None
    text = name.strip().lower().rsplit(".", 1)[-1].removeprefix("nccl")
    text = {"product": "prod", "mean": "avg", "average": "avg"}.get(text, text)
    return text if text in REDUCTIONS else None


def communicator_id(text: str) -> str | None:
    """NCCL's communicator hash in one form, `0x` and no leading zeros as its log prints it; None for anything else."""
    digits = text.strip().lower().removeprefix("0x")
    return f"0x{int(digits, 16):x}" if _HASH.fullmatch(digits) else None


_PER_RANK: Final = frozenset({"all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"})


def message_bytes(operation: str, elements: int, datatype: str | None, nranks: int | None) -> int | None:
    """Message size as nccl-tests defines it, from the count passed to the call.

    The count of all_gather, reduce_scatter, all_to_all, gather and scatter is that of one rank's share, so it is taken
    `nranks` times. None where type or, for those, nranks is not known.
    """
    width = DATATYPE_BYTES.get(datatype or "")
    if width is None:
        return None
    if operation in _PER_RANK:
        return elements * width * nranks if nranks else None
    return elements * width


def sizes(
    operation: str | None, datatype: str | None, nranks: int | None, sent: int | None, received: int | None
) -> tuple[int | None, int | None]:
    """Elements that go into and come out of a call on one rank -> the count as NCCL takes it, and the message size.

    What goes in is one rank's share for most operations, what comes out for reduce_scatter and scatter; for all_to_all
    it is the shares of all ranks together, which need not be equal. A size past 64 bits is unknown.
    """
    total = received if operation in ("reduce_scatter", "scatter") else sent
    if operation is None or total is None:
        return total, None
    if operation == "all_to_all":
        share = total // nranks if nranks and total % nranks == 0 else None
        return share, values.count(message_bytes("broadcast", total, datatype, nranks))
    return total, values.count(message_bytes(operation, total, datatype, nranks))


def bus_factor(operation: str, nranks: int | None) -> float | None:
    """Bus bandwidth over algorithm bandwidth (nccl-tests, PERFORMANCE.md); None where nranks is needed and not known."""
    if operation == "all_reduce":
        return 2 * (nranks - 1) / nranks if nranks else None
    if operation in _PER_RANK:
        return (nranks - 1) / nranks if nranks else None
    return None if operation == "barrier" else 1.0


def bandwidths(
    operation: str, message_bytes: int | None, duration_ns: float | None, nranks: int | None
) -> tuple[float | None, float | None]:
    """Algorithm and bus bandwidth in bytes per second; None for what cannot be told."""
    if not message_bytes or not duration_ns or duration_ns <= 0:
        return None, None
    algorithm = message_bytes / duration_ns * 1e9
    factor = bus_factor(operation, nranks)
    return algorithm, None if factor is None else algorithm * factor
