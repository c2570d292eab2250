"""Rows from operations of training steps: phases, steps, data-parallel collectives, and the layout of the job."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from warpline_proto.tables import COLLECTIVES, COMMUNICATORS, JOBS, PHASES, STEPS

from ..source import Origin, Reading, Rows

GROUP_OPERATIONS: Final = ("params-all-gather", "grads-reduce-scatter")
"""Operations over the data-parallel replicas of one stage, in their order within a step. The groups of the other all-reduces
are not stated."""
GROUP_OPERATION_NAMES: Final = ("all_gather", "reduce_scatter")

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Operations:
    """Operations of one recording.

    Columns of equal length. `sequence`, `chunk` and `microbatch` are -1 where not stated; times in ns."""

    dp: Ints
    stage: Ints
    rank: Ints
    step: Ints
    start: Ints
    duration: Ints
    sequence: Ints
    chunk: Ints
    microbatch: Ints
    name: pa.Array
    dropped: int

    @property
    def content(self) -> str:
        """Digest of the computing operations, in microseconds: the same in the Parquet file and in its timeline."""
        computing = _kinds(self.name) == "compute"
        names = np.asarray(self.name.to_numpy(zero_copy_only=False)[computing], dtype="U32")
        microseconds = np.rint(self.duration[computing] / 1000).astype(np.int64)
        keys = (microseconds, self.sequence[computing], names, self.step[computing], self.rank[computing])
        order = np.lexsort(keys)
        digest = hashlib.blake2b(digest_size=16)
        for key in keys:
            digest.update(np.ascontiguousarray(key[order]).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Layout:
    """Sizes of the job as far as the recorded places show them; None where they do not."""

    dp_size: int | None = None
    pp_size: int | None = None
    ranks_per_record: int | None = None
    world_size: int | None = None


def reading(operations: Operations, family: str, *, waits: bool) -> Reading:
    content = operations.content
    clock = f"step@{content[:12]}"
    sizes = layout(operations)
    rows = [
        Rows("jobs", JOBS.from_rows([vars(sizes)])),
        Rows("phases", _phases(operations, clock), operations.dropped),
        Rows("steps", _steps(operations)),
    ]
    groups = _groups(operations) if waits else {}
    if groups:
        rows += [
            Rows("collectives", _collectives(operations, groups, clock)),
            Rows("communicators", _communicators(groups)),
        ]
    facts = {
        "operations": len(operations.name),
        "steps": int(np.unique(operations.step).size),
        "ranks": int(np.unique(operations.rank).size),
        "operation_types": int(pc.count_distinct(operations.name).as_py()),
        **{key: value for key, value in vars(sizes).items() if value is not None},
    }
    named = tuple((name, tuple(ranks)) for name, (_, ranks) in groups.items())
    origin = Origin(world_size=sizes.world_size, communicators=named, content=content, sibling=family)
    return Reading(rows, facts, origin)


def layout(operations: Operations) -> Layout:
    """Sizes, where the numbers of the recorded ranks fit exactly one layout.

    Either rank = n * (stage * dp_size + dp) throughout (the order Megatron uses), or every (dp, stage) place was recorded
    and the ranks leave gaps of n from 0 on; each recorded rank then stands for n ranks.
    """
    dp_size, pp_size = int(operations.dp.max()) + 1, int(operations.stage.max()) + 1
    ranks = np.unique(operations.rank)
    count = int(np.gcd.reduce(ranks))
    if count == 0:
        return Layout(dp_size, pp_size) if dp_size == pp_size == 1 else Layout()
    ordered = bool((operations.rank == count * (operations.stage * dp_size + operations.dp)).all())
    complete = ranks.size == dp_size * pp_size and np.array_equal(ranks, count * np.arange(ranks.size))
    if not ordered and not complete:
        return Layout()
    return Layout(dp_size, pp_size, count, count * dp_size * pp_size)


def _kinds(names: pa.Array) -> npt.NDArray[Any]:
    kinds = {name: _kind(name) for name in pc.unique(names).to_pylist()}
    return np.array([kinds[name] for name in names.to_pylist()], dtype="U16")


def _kind(name: str) -> str:
    if name.endswith("-compute"):
        return "compute"
    if name == "optimizer":  # optimizer-clip-main-grad is an all-reduce of the gradients' norm: it waits for late peers
        return "optimizer"
    return "host" if name == "gc" else "communication"


def _known(values: Ints) -> pa.Array:
    """-1 becomes NULL."""
    return pa.array(values, mask=values < 0)


def _phases(operations: Operations, clock: str) -> pa.RecordBatch:
    return PHASES.from_columns(
        {
            "rank": operations.rank,
            "dp": operations.dp,
            "pp": operations.stage,
            "step": operations.step,
            "phase": operations.name,
            "kind": pa.array(_kinds(operations.name)),
            "microbatch": _known(operations.microbatch),
            "chunk": _known(operations.chunk),
            "sequence": _known(operations.sequence),
            "start_ns": operations.start,
            "clock": clock,
            "duration_ns": operations.duration,
        }
    )


def _steps(operations: Operations) -> pa.RecordBatch:
    """One row a rank and step: first start to last end of its operations."""
    keys, first, inverse = np.unique(
        np.stack([operations.rank, operations.step]), axis=1, return_index=True, return_inverse=True
    )
    inverse = inverse.reshape(-1)
    starts = np.full(keys.shape[1], np.iinfo(np.int64).max)
    ends = np.full(keys.shape[1], np.iinfo(np.int64).min)
    np.minimum.at(starts, inverse, operations.start)
    np.maximum.at(ends, inverse, operations.start + operations.duration)
    return STEPS.from_columns(
        {
            "rank": keys[0],
            "dp": operations.dp[first],
            "pp": operations.stage[first],
            "scope": "step",
            "step": keys[1],
            "duration_ns": ends - starts,
        }
    )


def _groups(operations: Operations) -> dict[str, tuple[int, list[int]]]:
    """Communicator -> (stage, its recorded ranks): the data-parallel replicas of each stage, where there are several."""
    found: dict[str, tuple[int, list[int]]] = {}
    for stage in np.unique(operations.stage).tolist():
        ranks = np.unique(operations.rank[operations.stage == stage]).tolist()
        if len(ranks) > 1:
            found[f"dp@stage{stage}"] = (stage, ranks)
    return found


def _collectives(operations: Operations, groups: dict[str, tuple[int, list[int]]], clock: str) -> pa.RecordBatch:
    stages = {stage: (name, len(ranks)) for name, (stage, ranks) in groups.items()}
    order = pc.index_in(operations.name, pa.array(GROUP_OPERATIONS)).fill_null(-1).to_numpy()
    chosen = (order >= 0) & np.isin(operations.stage, list(stages))
    own = operations.stage[chosen].tolist()
    turns = np.stack([operations.step[chosen], order[chosen], operations.sequence[chosen]])
    return COLLECTIVES.from_columns(
        {
            "rank": operations.rank[chosen],
            "dp": operations.dp[chosen],
            "pp": operations.stage[chosen],
            "step": operations.step[chosen],
            "communicator": [stages[stage][0] for stage in own],
            "sequence": np.unique(turns, axis=1, return_inverse=True)[1].reshape(-1),
            "operation": [GROUP_OPERATION_NAMES[position] for position in order[chosen]],
            "nranks": [stages[stage][1] for stage in own],
            "start_ns": operations.start[chosen],
            "clock": clock,
            "duration_ns": operations.duration[chosen],
        },
        length=int(chosen.sum()),
    )


def _communicators(groups: dict[str, tuple[int, list[int]]]) -> pa.RecordBatch:
    return COMMUNICATORS.from_rows(
        {
            "rank": rank,
            "dp": position,
            "pp": stage,
            "communicator": name,
            "group_kind": "dp",
            "communicator_rank": position,
            "nranks": len(ranks),
            "ranks": ranks,
        }
        for name, (stage, ranks) in groups.items()
        for position, rank in enumerate(ranks)
    )
