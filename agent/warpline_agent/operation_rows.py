"""Operations of a ring -> rows of `collectives`: with the time of its kernel where that is certain, else when enqueued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warpline_hook import ring
from warpline_proto.tables import COLLECTIVES

from .kernels import NO_STEP, StepSpan, clean_name, steps_at
from .nccl_join import JOINED, SHARED, Operations
from .parsers import nccl
from .ring_file import Records, RingFile
from .ring_records import communicator_row

CHANNELS_MAX: Final = 1024
ELEMENTS_MAX: Final = 2**62
_TIMINGS: Final = ("enqueue", "kernel_gpu", "kernel_shared")
_STATES: Final = ("scheduled", "completed", "completed")
_WORDS: Final = ("kind", "name", "context", "device", "stream", "extra")
"""What many operations have in common."""


def operation_rows(
    operations: Operations, file: RingFile, spans: Sequence[StepSpan], place: Mapping[str, Any]
) -> pa.RecordBatch:
    """Rows of `collectives`; `place` is what all of them have, `spans` the steps in which they were enqueued."""
    records, about = operations
    told = records["start_ns"].astype(np.int64)
    steps = steps_at(told, spans)
    outcome = np.where(about["outcome"] == JOINED, 1, np.where(about["outcome"] == SHARED, 2, 0))
    ran = outcome > 0
    columns = {
        **place,
        **_common(records, file),
        "sequence": (records["number"] & np.uint64((1 << 63) - 1)).astype(np.int64),
        "peer": _known(
            records["correlation"].astype(np.int64),
            (records["kind"] == ring.POINT_TO_POINT) & (records["correlation"] < 1 << 31),
        ),
        "channels": _known(
            records["flags"].astype(np.int64), (records["flags"] > 0) & (records["flags"] <= CHANNELS_MAX)
        ),
        "stream": _known(about["stream"], ran),
        "start_ns": np.where(ran, about["start"], told),
        "duration_ns": _known(about["duration"], ran),
        "enqueued_ns": told,
        "sharing": _known(about["together"].astype(np.int64), ran),
        "step": _known(steps, steps != NO_STEP),
        "timing": pa.array(_TIMINGS).take(pa.array(outcome)),
        "state": pa.array(_STATES).take(pa.array(outcome)),
    }
    return COLLECTIVES.from_columns(columns, len(records))


def _common(records: Records, file: RingFile) -> dict[str, pa.Array]:
    """Columns that follow from communicator, operation, type, algorithm and protocol, and the sizes."""
    words = np.ascontiguousarray(np.stack([records[name].astype(np.int64) for name in _WORDS], axis=1))
    order = np.lexsort(words.T)
    changes = np.append(True, (words[order][1:] != words[order][:-1]).any(axis=1))
    which = np.empty(len(records), dtype=np.int64)
    which[order] = np.cumsum(changes) - 1
    kinds = [_kind(each, file) for each in words[order][changes].tolist()]
    place = pa.array(which)
    found = {name: pa.array([kind[name] for kind in kinds]).take(place) for name in kinds[0] if name != "bytes"}
    elements = np.minimum(records["value"], ELEMENTS_MAX).astype(np.int64)
    unit = np.array([kind["bytes"] or 0 for kind in kinds], dtype=np.int64)[which]
    named = np.array([kind["operation"] is not None for kind in kinds])[which] & (elements < ELEMENTS_MAX)
    sized = named & (unit > 0) & (elements < ELEMENTS_MAX // np.maximum(unit, 1))
    found["elements"] = _known(elements, named)
    found["message_bytes"] = _known(np.where(sized, elements, 0) * unit, sized)
    return found


def _kind(words: Sequence[int], file: RingFile) -> dict[str, Any]:
    """What operations of one kind on one communicator have in common; `bytes` is the message size of one element."""
    _, name, datatype, algorithm, protocol, number = words
    text = file.texts.get(number)
    communicator = (None if text is None else communicator_row(text)) or {}
    operation = nccl.operation(file.text(name) or "")
    element = nccl.datatype(file.text(datatype) or "")
    nranks = communicator.get("nranks")
    return {
        "communicator": communicator.get("communicator"),
        "communicator_rank": communicator.get("communicator_rank"),
        "group_name": communicator.get("group_name"),
        "nranks": nranks,
        "operation": operation,
        "datatype": element,
        "algorithm": _lower(file.text(algorithm)),
        "protocol": _lower(file.text(protocol)),
        "bytes": nccl.message_bytes(operation, 1, element, nranks) if operation else None,
    }


def _known(values: npt.NDArray[np.int64], known: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(values, mask=~known)


def _lower(text: str | None) -> str | None:
    return clean_name(text).lower() if text else None
