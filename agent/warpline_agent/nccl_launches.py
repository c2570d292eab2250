"""Records of operations -> launches, records of kernels -> runs, and what their order says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from .nccl_lane import LAUNCH, RUN, Launches, Pairs, Runs
from .nccl_names import Vocabulary
from .ring_file import Records

FUSED_NS: Final = 1_800
"""Operations of one communicator that are told so shortly after each other are one launch; a launch takes longer."""
LAUNCH_NS_MAX: Final = 20_000_000
"""Where NCCL tells launches apart it takes no longer to tell the operations of one."""

Flags = npt.NDArray[np.bool_]


def runs_of(records: Records, codes: npt.NDArray[np.int32]) -> Runs:
    """Kernels of NCCL, with the codes of their names; in no span of capture yet."""
    runs = np.zeros(len(records), RUN)
    runs["start"] = records["start_ns"]
    runs["end"] = records["start_ns"] + records["duration_ns"]
    runs["stream"] = records["device"].astype(np.int64) << 32 | records["stream"]
    runs["order"] = records["correlation"]
    runs["code"] = codes
    return runs


def launches_of(
    records: Records, gaps: Flags, codes: npt.NDArray[np.int32], words: Vocabulary
) -> tuple[Launches, npt.NDArray[np.int64]]:
    """Launches in order of time, without numbers, and which of them each operation is of."""
    order = np.argsort(records["extra"], kind="stable")
    communicator, times = records["extra"][order].astype(np.int64), records["start_ns"][order].astype(np.int64)
    launch, apart = records["duration_ns"][order], np.diff(times)
    counted = (launch[1:] > 0) & (launch[:-1] > 0)
    other = np.where(counted, (launch[1:] != launch[:-1]) | (apart > LAUNCH_NS_MAX), apart > FUSED_NS)
    begins = np.append(True, (np.diff(communicator) != 0) | other)
    at = np.flatnonzero(begins)
    launches = np.zeros(len(at), LAUNCH)
    launches["time"], launches["communicator"] = times[at], communicator[at]
    launches["count"] = np.diff(np.append(at, len(times)))
    launches["gap"], launches["near"] = np.logical_or.reduceat(gaps[:, order], at, axis=1)
    launches["code"] = np.minimum.reduceat(codes[order], at)
    mixed = np.flatnonzero(launches["code"] != np.maximum.reduceat(codes[order], at))
    for each in mixed.tolist():
        members = codes[order][at[each] : at[each] + launches["count"][each]]
        launches["code"][each] = words.group(np.unique(members).tolist())
    later = np.argsort(launches["time"], kind="stable")
    place = np.empty(len(later), dtype=np.int64)
    place[later] = np.arange(len(later))
    which = np.empty(len(records), dtype=np.int64)
    which[order] = place[np.cumsum(begins) - 1]
    return launches[later], which


def in_launch_order(runs: Runs) -> bool:
    """Whether kernels are numbered as they were launched, as far as that can be seen: a stream keeps that order."""
    if len(np.unique(runs["order"])) < len(runs):
        return False
    return _rises(runs["stream"], runs["start"])


def in_queues(pairs: Pairs) -> bool:
    """Whether the kernels of each communicator ran one after the other."""
    return _rises(pairs.launches["communicator"], pairs.runs["start"])


def _rises(group: npt.NDArray[np.int64], value: npt.NDArray[np.int64]) -> bool:
    """Whether a value rises within each group."""
    order = np.argsort(group, kind="stable")
    falls = (np.diff(value[order]) < 0) & (np.diff(group[order]) == 0)
    return not falls.any()


def together(links: Iterable[tuple[int, int]]) -> list[tuple[set[int], set[int]]]:
    """Communicators and streams that are linked, over any number of links."""
    found: list[tuple[set[int], set[int]]] = []
    for communicator, stream in links:
        own = ({communicator}, {stream})
        others = []
        for each in found:
            if communicator in each[0] or stream in each[1]:
                own[0].update(each[0])
                own[1].update(each[1])
            else:
                others.append(each)
        found = [*others, own]
    return found
