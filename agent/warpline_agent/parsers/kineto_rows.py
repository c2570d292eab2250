"""What a Kineto trace says of collectives, communicators and phases, as rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from warpline_proto.tables import COMMUNICATORS, PHASES

from ..kernels import NO_STEP, clean_name, steps_at
from . import nccl, values
from .kineto import CPU_COLLECTIVES, Annotation, Trace
from .process_groups import group_key, group_kind

GROUPS_MAX: Final = 10_000
"""Process groups kept of one trace."""
PHASES_MAX: Final = 20_000
"""Phases kept of one trace."""

_NO_PHASES: Final = ("nccl:", *CPU_COLLECTIVES, "## Call CompiledFxGraph")
_GROUP_ARGUMENTS: Final = ("Process Group Name", "Process Group Ranks", "Process Group Description", "Group size")

Row = dict[str, Any]


class Group(NamedTuple):
    """One process group of the job; `ranks` None where they are not listed in full."""

    name: str
    description: str | None
    nranks: int | None
    ranks: tuple[int, ...] | None
    backend: str

    @property
    def key(self) -> str:
        """Unique within the job."""
        return group_key(self.name, self.ranks)


class Distributed(NamedTuple):
    """`distributedInfo` of a trace, as far as it is given."""

    rank: int | None
    world_size: int | None
    library_version: str | None
    groups: tuple[Group, ...]


def distributed(members: Mapping[str, Any]) -> Distributed:
    """Rank, world size and process groups; nothing of it is guessed."""
    given = values.mapping(members.get("distributedInfo"))
    listed = given.get("pg_config")
    groups = [_group(values.mapping(each)) for each in listed[:GROUPS_MAX]] if values.is_list(listed) else []
    world = values.small(given.get("world_size"))
    rank = values.small(given.get("rank"))
    return Distributed(
        rank if rank is not None and rank >= 0 else None,
        world if world is not None and world > 0 else None,
        _text(given.get("nccl_version")),
        tuple(group for group in groups if group is not None),
    )


def _text(value: object) -> str | None:
    """Text as it may be passed on."""
    found = values.text(value)
    return None if found is None else clean_name(found)


def _group(given: Mapping[Any, Any]) -> Group | None:
    name = _text(str(given.get("pg_name", "")))
    if name is None:
        return None
    ranks = _ranks(given.get("ranks"))
    size = values.small(given.get("pg_size"))
    return Group(
        name,
        _text(given.get("pg_desc")),
        len(ranks) if ranks else size,
        ranks,
        _text(given.get("backend_config")) or "",
    )


def _ranks(value: object) -> tuple[int, ...] | None:
    """Ranks from a list, or from its text as an argument of an event; long lists are shortened there and then not known."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not values.is_list(value) or not value:
        return None
    ranks = tuple(values.small(each) for each in value)
    return None if any(rank is None or rank < 0 for rank in ranks) else ranks  # type: ignore[return-value]  # just checked


def communicator_rows(job: Distributed) -> pa.RecordBatch:
    """One row for each process group that may use the GPU's network; groups of CPU backends alone are left out."""
    return COMMUNICATORS.from_rows(
        {
            "rank": job.rank,
            "communicator": group.key,
            "group_name": _shown(group),
            "group_kind": group_kind(group.description),
            "communicator_rank": group.ranks.index(job.rank) if group.ranks and job.rank in group.ranks else None,
            "nranks": group.nranks,
            "ranks": group.ranks,
            "library_version": job.library_version,
        }
        for group in job.groups
        if "nccl" in group.backend or not group.backend
    )


def _shown(group: Group) -> str:
    return group.description if group.description and group.description != "undefined" else group.name


class _Membership(NamedTuple):
    """What one collective says of its communicator."""

    communicator: str | None
    communicator_rank: int | None
    group_name: str | None
    nranks: int | None


def told_collectives(trace: Trace, job: Distributed) -> dict[int, Row]:
    """What PyTorch wrote beside communication kernels, by position of the record: columns of `collectives`."""
    groups = {group.name: group for group in job.groups}
    seen: dict[tuple[str, ...], _Membership] = {}
    told: dict[int, Row] = {}
    for index, arguments in trace.collective_arguments.items():
        key = tuple(str(arguments.get(name)) for name in _GROUP_ARGUMENTS)
        if key not in seen:
            seen[key] = _membership(arguments, groups, job.rank)
        told[index] = _from_arguments(arguments, seen[key])
    return told


def _membership(arguments: Mapping[str, Any], groups: Mapping[str, Group], rank: int | None) -> _Membership:
    name = _text(str(arguments.get("Process Group Name", "")))
    group = groups.get(name or "")
    ranks = _ranks(arguments.get("Process Group Ranks")) or (group.ranks if group else None)
    description = _text(arguments.get("Process Group Description")) or (group.description if group else None)
    return _Membership(
        communicator=_communicator(name, ranks, arguments),
        communicator_rank=ranks.index(rank) if ranks and rank in ranks else None,
        group_name=description if description and description != "undefined" else name,
        nranks=values.small(arguments.get("Group size")) or (len(ranks) if ranks else None),
    )


def _from_arguments(arguments: Mapping[str, Any], member: _Membership) -> Row:
    operation = nccl.operation(_text(arguments.get("Collective name")) or "")
    datatype = nccl.datatype(_text(arguments.get("dtype")) or "")
    sent, received = (values.count(arguments.get(f"{way} msg nelems")) for way in ("In", "Out"))
    elements, size = nccl.sizes(operation, datatype, member.nranks, sent, received)
    return {
        "operation": operation,
        "datatype": datatype,
        "elements": elements,
        "message_bytes": size,
        "peer": _peer(operation, arguments),
        **member._asdict(),
    }


def _communicator(name: str | None, ranks: tuple[int, ...] | None, arguments: Mapping[str, Any]) -> str | None:
    if name is None and ranks is None:
        return None
    shortened = _text(arguments.get("Process Group Ranks")) if ranks is None else None
    # The first ranks of a shortened list still tell groups of one name apart.
    return f"{name or ''}{shortened}" if shortened else group_key(name or "", ranks)


def _peer(operation: str | None, arguments: Mapping[str, Any]) -> int | None:
    key = {"send": "Dst Rank", "recv": "Src Rank"}.get(operation or "")
    return values.small(arguments.get(key)) if key else None


def phase_rows(trace: Trace, job: Distributed, clock: str | None) -> tuple[pa.RecordBatch, int]:
    """Rows of `phases` from the program's own annotations (CPU time), and how many were left out at PHASES_MAX.

    Annotations that only repeat a collective (`nccl:`, `gloo:`) or a compiled graph are no phases.
    """
    told = [each for each in trace.annotations if not each.name.startswith(_NO_PHASES)]
    kept = told[:PHASES_MAX]
    steps = steps_at(np.array([each.start_ns for each in kept], dtype=np.int64), trace.steps)
    counters: dict[tuple[int, str], int] = {}
    rows: list[Row] = []
    for each, step in zip(kept, steps.tolist(), strict=True):
        sequence = counters[step, each.name] = counters.get((step, each.name), -1) + 1
        row = {"step": step if step != NO_STEP else None, "phase": each.name, "kind": _phase_kind(each)}
        times = {"start_ns": each.start_ns, "duration_ns": each.duration_ns, "clock": clock}
        rows.append(row | times | {"rank": job.rank, "sequence": sequence})
    return PHASES.from_rows(rows), len(told) - len(kept)


def _phase_kind(annotation: Annotation) -> str:
    """Annotations are time on the CPU, so that an optimizer's is no compute: its kernels run later, or are told by steps."""
    return "data" if annotation.name.startswith("enumerate(") else "host"


def group_memberships(job: Distributed) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Communicators that tell one job from another: those of some, not all, of its ranks, used by NCCL."""
    seen: Sequence[Group] = [group for group in job.groups if "nccl" in group.backend or not group.backend]
    return tuple(
        (group.key, group.ranks) for group in seen if group.ranks and 1 < len(group.ranks) < (job.world_size or 0)
    )
