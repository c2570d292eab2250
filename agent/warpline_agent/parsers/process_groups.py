"""Process groups as frameworks name them: a key that is unique within a job, and the axis along which a group runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

_KINDS: Final = (
    ("default_pg", "world"),
    ("context", "cp"),
    ("mesh_cp", "cp"),
    ("expert", "ep"),
    ("mesh_ep", "ep"),
    ("tensor", "tp"),
    ("mesh_tp", "tp"),
    ("pipeline", "pp"),
    ("mesh_pp", "pp"),
    ("data_parallel", "dp"),
    ("mesh_dp", "dp"),
)
_MIXED: Final = re.compile(r"_AND_|TENSOR_MODEL_PIPELINE|EXPERT_(?:DATA|TENSOR)|WITH_CP", re.IGNORECASE)


RUNS_CHARS_MAX: Final = 1000
"""Longer lists of ranks are shown so far, and told apart by a digest of the whole."""


def group_key(name: str, ranks: Sequence[int] | None) -> str:
    """A communicator's identifier within its job: frameworks give one name to disjoint groups, so the ranks belong to it."""
    if ranks is None:
        return name
    runs = rank_runs(ranks)
    if len(runs) > RUNS_CHARS_MAX:
        runs = f"{runs[:RUNS_CHARS_MAX]}...{hashlib.blake2b(runs.encode(), digest_size=8).hexdigest()}"
    return f"{name}[{runs}]"


def rank_runs(ranks: Sequence[int]) -> str:
    """Ranks in their order with runs of neighbours drawn together: 0-3,8,10."""
    pieces: list[list[int]] = []
    for rank in ranks:
        if pieces and rank == pieces[-1][-1] + 1:
            pieces[-1][1:] = [rank]
        else:
            pieces.append([rank])
    return ",".join("-".join(map(str, piece)) for piece in pieces)


def group_kind(description: str | None) -> str | None:
    """Megatron's and DeviceMesh's group names -> world, dp, tp, pp, ep or cp; groups along more than one axis are `other`.

    None where the framework gave no description.
    """
    if not description or description == "undefined":
        return None
    if _MIXED.search(description):
        return "dp" if description.upper().startswith("DATA_PARALLEL") else "other"
    lowered = description.lower()
    return next((kind for word, kind in _KINDS if word in lowered), "other")
