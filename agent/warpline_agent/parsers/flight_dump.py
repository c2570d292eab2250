"""PyTorch flight-recorder dumps, pickle or JSON: the newest collectives of one rank, its process groups, how far each is."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Final

from warpline_proto.errors import Refused
from warpline_proto.tables import COLLECTIVES, COMMUNICATORS

from ..source import Input, Origin, Reading, Rows
from . import nccl, plain_pickle, values
from .process_groups import group_key, group_kind

Row = dict[str, Any]

ENTRIES_MAX: Final = 1_000_000
"""More than any ring buffer a user may set; the rest is counted as dropped."""

GROUPS_MAX: Final = 10_000
"""Process groups kept of one dump."""

RANKS_MAX: Final = 1_000_000
"""Ranks kept of all groups of one dump together; groups beyond it have unknown ranks."""

BYTES_MAX: Final = 128 * 1024 * 1024
"""A dump larger than this is refused; the largest ring that PyTorch's own default allows makes one of a few megabytes."""

_RANK_IN_NAME: Final = re.compile(r"(?:dump_|rank_?)(\d{1,7})(?:\.(?:pkl|pickle|json|bin))?$", re.IGNORECASE)
JSON_START: Final = re.compile(rb"\s*\{")
_PEER: Final = re.compile(r"(\d+)\s*(->|<-)\s*(\d+)")
_STATES: Final = frozenset(("scheduled", "started", "completed"))


@dataclass(frozen=True)
class _Group:
    """One process group as `pg_config` has it. `key` tells it from a group of the same id in another rank's dump."""

    name: str
    description: str | None
    ranks: tuple[int, ...] | None

    @cached_property
    def key(self) -> str:
        """Unique within the job."""
        return group_key(self.name, self.ranks)


def read_dump(candidate: Input) -> Reading:
    """Entries -> collectives, process groups -> communicators. A dump without entries is evidence too and is read."""
    dump = _load(candidate)
    groups = _groups(dump)
    rank, notes = _rank(candidate.name, groups)
    names, paired = _names_by_id(dump, groups)
    if paired:
        notes.append(f"{paired} groups without entries are matched to their status by order of creation")
    entries = dump["entries"]
    rows = [
        Rows("collectives", _collectives(entries, groups, rank), max(0, len(entries) - ENTRIES_MAX)),
        Rows("communicators", _communicators(dump, groups, names, rank)),
    ]
    rows = [each for each in rows if each.batch.num_rows]
    return Reading(rows, _facts(dump, rank, groups), _origin(candidate, groups, rank, rows), notes)


def _load(candidate: Input) -> Mapping[Any, Any]:
    content = candidate.read_bytes(BYTES_MAX)
    if not content:
        raise Refused("is empty")
    dump = values.json_value(content) if JSON_START.match(content) else plain_pickle.load(content)
    if not isinstance(dump, dict) or not ("entries" in dump or "pg_config" in dump):
        raise Refused("is plain data, but no flight-recorder dump: it has neither entries nor pg_config")
    entries = dump.get("entries")
    if entries is not None and not values.is_list(entries):
        raise Refused("is no flight-recorder dump: its entries are no list")
    listed = [entry for entry in entries or () if isinstance(entry, dict)]
    return {**dump, "entries": listed}


def _groups(dump: Mapping[Any, Any]) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    room = RANKS_MAX
    for key, value in islice(values.mapping(dump.get("pg_config")).items(), GROUPS_MAX):
        told = values.mapping(value)
        name = values.text(told.get("name")) or values.text(str(key)) or ""
        groups[name] = _Group(name, values.text(told.get("desc")), _ranks(told.get("ranks"), room))
        room -= len(groups[name].ranks or ())
    return groups


def _ranks(value: Any, most: int) -> tuple[int, ...] | None:
    """`[0, 1]` as text or as a list -> ranks; None where it says nothing or nonsense, or names more than `most`."""
    if isinstance(value, str):
        if value.count(",") >= most:
            return None
        value = [part for part in value.strip("[] \n").split(",") if part.strip()]
    if not values.is_list(value) or not value or len(value) > most:
        return None
    ranks = [values.small(item.strip() if isinstance(item, str) else item) for item in value]
    known = [rank for rank in ranks if rank is not None and rank >= 0]
    return tuple(known) if len(known) == len(ranks) else None


def _rank(name: str, groups: dict[str, _Group]) -> tuple[int | None, list[str]]:
    """The dump's own rank: the file's name says it, or else the only rank that is in each of its groups."""
    shared = [set(group.ranks) for group in groups.values() if group.ranks]
    common = set.intersection(*shared) if shared else set()
    named = _RANK_IN_NAME.search(name)
    if named is None:
        return (common.pop() if len(common) == 1 else None), []
    rank = int(named[1])
    if shared and rank not in common:
        return rank, [f"the name says rank {rank}, but that rank is not in every group of the dump"]
    return rank, []


def _names_by_id(dump: Mapping[Any, Any], groups: dict[str, _Group]) -> tuple[dict[str, str], int]:
    """Group id in `pg_status` -> group name in `pg_config`, and how many of them rest on the order alone.

    An entry names both. A group without entries is matched by order, which is that of creation in either numbering; only
    where both have the same number of groups and no entry says otherwise.
    """
    known: dict[str, str] = {}
    for entry in dump["entries"]:
        name, _ = _process_group(entry)
        if name is not None and isinstance(entry.get("pg_id"), int):
            known[str(entry["pg_id"])] = name
    ids = [str(key) for key in values.mapping(dump.get("pg_status"))]
    if len(ids) != len(groups) or not all(_numbered(text) for text in (*ids, *groups)):
        return known, 0
    ordered = dict(zip(sorted(ids, key=int), sorted(groups, key=int), strict=True))
    if any(ordered.get(key, name) != name for key, name in known.items()):
        return known, 0
    return ordered, len(set(ordered) - set(known))


def _numbered(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= values.NUMBER_CHARS_MAX


def _process_group(entry: Mapping[Any, Any]) -> tuple[str | None, str | None]:
    value = entry.get("process_group")
    if values.is_list(value) and len(value) >= 2:
        return values.text(value[0]), values.text(value[1])
    return None, None


def _collectives(entries: list[Mapping[Any, Any]], groups: dict[str, _Group], rank: int | None) -> Any:
    return COLLECTIVES.from_rows(_collective(entry, groups, rank) for entry in entries[-ENTRIES_MAX:])


def _collective(entry: Mapping[Any, Any], groups: dict[str, _Group], rank: int | None) -> Row:
    name, description = _process_group(entry)
    group = groups.get(name or "") or _Group(name or "?", description, None)
    profiled = values.text(entry.get("profiling_name")) or ""
    operation = nccl.operation(profiled)
    ranks = group.ranks
    nranks = len(ranks) if ranks else None
    dtype = nccl.datatype(_first(entry.get("input_dtypes")) or _first(entry.get("output_dtypes")) or "")
    sent, received = _elements(entry.get("input_sizes")), _elements(entry.get("output_sizes"))
    elements, size = nccl.sizes(operation, dtype, nranks, sent, received)
    duration = values.scaled(entry.get("duration_ms"), 1e6)
    point_to_point = entry.get("is_p2p") is True
    state = entry.get("state")
    return {
        "source": "flight_recorder",
        "rank": rank,
        "communicator": group.key,
        "group_name": group.description or description,
        "sequence": values.count(entry.get("p2p_seq_id" if point_to_point else "collective_seq_id")),
        "operation": operation or profiled or None,
        "datatype": dtype,
        "elements": elements,
        "message_bytes": size,
        "nranks": nranks,
        "peer": _peer(profiled, ranks) if point_to_point else None,
        "start_ns": values.count(entry.get("time_created_ns" if duration is None else "time_discovered_started_ns")),
        "duration_ns": duration,
        "timing": "enqueue" if duration is None else "kernel_gpu",
        "state": state if isinstance(state, str) and state in _STATES else None,
    }


def _first(value: Any) -> str | None:
    return values.text(value[0]) if values.is_list(value) and value else None


def _elements(shapes: Any) -> int | None:
    if not values.is_list(shapes) or not shapes:
        return None
    total = 0
    for shape in shapes:
        sides = [values.count(side) for side in shape] if values.is_list(shape) else [None]
        known = [side for side in sides if side is not None]
        if len(known) < len(sides):
            return None
        total += math.prod(known)
    return values.count(total)


def _peer(profiled: str, ranks: tuple[int, ...] | None) -> int | None:
    """Global rank of the other end of `send 3->0` or `recv 3<-0`, whose numbers count within the group."""
    found = _PEER.search(profiled)
    if found is None or not ranks:
        return None
    other = values.small(found[3])
    return ranks[other] if other is not None and other < len(ranks) else None


def _communicators(dump: Mapping[Any, Any], groups: dict[str, _Group], names: dict[str, str], rank: int | None) -> Any:
    status = {names.get(str(key)): values.mapping(value) for key, value in _status(dump)}
    version = values.text(dump.get("nccl_version"))
    return COMMUNICATORS.from_rows(
        {
            "source": "flight_recorder",
            "rank": rank,
            "communicator": group.key,
            "group_name": group.description,
            "group_kind": group_kind(group.description),
            "communicator_rank": group.ranks.index(rank) if group.ranks and rank in group.ranks else None,
            "nranks": len(group.ranks) if group.ranks else None,
            "ranks": group.ranks,
            "library_version": version,
            "last_enqueued": values.count(status.get(group.name, {}).get("last_enqueued_collective")),
            "last_completed": values.count(status.get(group.name, {}).get("last_completed_collective")),
        }
        for group in groups.values()
    )


def _status(dump: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    return list(values.mapping(dump.get("pg_status")).items())


def _facts(dump: Mapping[Any, Any], rank: int | None, groups: dict[str, _Group]) -> Row:
    states = Counter(text for entry in dump["entries"] if (text := values.text(entry.get("state"))))
    return {
        "rank": rank,
        "entries": len(dump["entries"]),
        "states": dict(states),
        "groups": len(groups),
        "version": values.text(dump.get("version")),
        "nccl_version": values.text(dump.get("nccl_version")),
        "last_enqueued": {
            str(key)[:64]: values.whole(values.mapping(value).get("last_enqueued_collective"))
            for key, value in _status(dump)[:GROUPS_MAX]
        },
    }


def _origin(candidate: Input, groups: dict[str, _Group], rank: int | None, rows: list[Rows]) -> Origin:
    world = next((group for group in groups.values() if group.description == "default_pg"), groups.get("0"))
    named = _RANK_IN_NAME.search(candidate.name)
    return Origin(
        rank=rank,
        world_size=len(world.ranks) if world and world.ranks else None,
        communicators=tuple((group.key, group.ranks) for group in groups.values() if group.ranks),
        content=values.digest(rows),
        sibling=candidate.name[: named.start(1)].strip("_-.") or None if named else None,
    )
