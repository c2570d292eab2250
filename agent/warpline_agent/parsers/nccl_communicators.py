"""Follows communicators through NCCL's INFO lines: set-up, rank, GPU, channels, network, transports, end (NCCL 2.7 to 2.30).

Lines that name no communicator belong to the one that the same process is setting up on the same device, or set up last.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from .bus_id import normal_bus_id
from .nccl_records import Record
from .values import small

COMMUNICATORS_MAX: Final = 65_536
"""Communicators followed at once; later ones are counted in `dropped`."""

TRANSPORTS_MAX: Final = 32
"""Kinds of transport told apart on one communicator."""

_MEMBER: Final = re.compile(r"\bcomm (0x[0-9a-f.]{1,18}) rank (\d{1,9}) n[rR]anks (\d{1,9})")
_STATE: Final = re.compile(r"- ?(Init|Destroy|Abort) (START|COMPLETE)\s*$")
_FIELD: Final = re.compile(r"\b(cudaDev|busId|commId|parent|nNodes|localRanks) (\w{1,20})")
_TIMINGS: Final = re.compile(r"Init timings(?: - \w{1,40})?: rank (\d{1,9}) nranks (\d{1,9}) total (\d{1,9}\.\d{1,9})")
_CHANNELS: Final = re.compile(r"(\d{1,6}) coll channels")
_NETWORK: Final = re.compile(r"Using network (\S.{0,63})")
_VIA: Final = re.compile(r"(?:Channel|Ring) .{0,120} via (\S.{0,80})")
_SETTING_UP: Final = re.compile(r"Trees \[|threadThresholds |Channel \d+/\d+ :(?: +\d+)+\s*$|Using network ")
_DEVICE_NUMBER: Final = re.compile(r"\d+(?:\(\d+\))?")
_DETAILS: Final = frozenset({"Shared", "read", "write"})

Slot = tuple[str, int, int | None]
"""A process on its host, and the device a line of it speaks of."""


@dataclass(eq=False)
class Communicator:
    """One rank's membership of one communicator. `occurrence` counts those of the same size in its slot."""

    host: str
    pid: int
    device: int | None
    pointer: str | None = None
    rank: int | None = None
    nranks: int | None = None
    identity: str | None = None
    parent: str | None = None
    bus_id: str | None = None
    channels: int | None = None
    network: str | None = None
    transports: Counter[str] = field(default_factory=Counter)
    version: str | None = None
    nnodes: int | None = None
    local_ranks: int | None = None
    start_ns: int | None = None
    init_seconds: float | None = None
    state: str = "init"
    occurrence: int = 0
    prefix_rank: int | None = None

    @property
    def slot(self) -> Slot:
        """Process and device it belongs to."""
        return self.host, self.pid, self.device

    @property
    def group(self) -> tuple[str, int, int]:
        """Equal for the members of one communicator, as far as the log tells.

        Versions without a commId leave size and order: that is enough where every process is a member.
        """
        return self.identity or "", self.nranks or 0, 0 if self.identity else self.occurrence


@dataclass(frozen=True)
class World:
    """The communicators that every process of the log belongs to, and by them the global rank of each slot."""

    size: int | None
    ranks: dict[Slot, int]
    groups: dict[tuple[str, int, int], int]


class Communicators:
    """Fed with INFO records; answers by process and pointer. `whole` is a log that holds all processes of its job."""

    def __init__(self, whole: bool = True) -> None:
        self._whole = whole
        self.networks: Counter[str] = Counter()
        self.inits: Counter[str] = Counter()
        self.coll_channels: Counter[str] = Counter()
        self.destroyed = 0
        self.aborted = 0
        self.dropped = 0
        self.versions: dict[tuple[str, int], str] = {}
        self._version: str | None = None
        self._members: dict[tuple[str, int, str], Communicator] = {}
        self._current: dict[Slot, Communicator] = {}
        self._ended: list[Communicator] = []
        self._changed: dict[Communicator, None] = {}
        self._sizes: Counter[tuple[Slot, int]] = Counter()
        self._world: World | None = None

    def find(self, host: str | None, pid: int | None, pointer: str) -> Communicator | None:
        """The communicator behind a pointer of one process."""
        return None if host is None or pid is None else self._members.get((host, pid, pointer))

    def version(self, host: str | None, pid: int | None, version: str) -> None:
        """A version line; one without a process speaks for all that have none of their own."""
        if host is None or pid is None:
            self._version = self._version or version
        elif len(self.versions) < COMMUNICATORS_MAX:
            self.versions[host, pid] = version

    def read(self, record: Record) -> bool:
        """Read one record; whether it spoke of a communicator."""
        text = record.text
        if member := _MEMBER.search(text):
            self._member(record, member)
        elif found := _VIA.match(text):
            self._transport(record, _transport(found[1]))
        elif found := _CHANNELS.match(text):
            self.coll_channels[found[1]] += len(self.coll_channels) < TRANSPORTS_MAX or found[1] in self.coll_channels
            self._set(record, "channels", small(found[1]))
        elif found := _NETWORK.match(text):
            self.networks[found[1]] += len(self.networks) < TRANSPORTS_MAX or found[1] in self.networks
            self._set(record, "network", found[1])
        elif found := _TIMINGS.match(text):
            self._timings(record, found)
        elif _SETTING_UP.match(text):
            self._target(record)
        else:
            return False
        return True

    def take(self) -> list[Communicator]:
        """Named communicators that changed since the last call."""
        changed = [each for each in self._changed if each.rank is not None]
        self._changed.clear()
        return changed

    def known(self) -> Iterable[Communicator]:
        """All that are named, ended ones included."""
        return [*self._ended, *self._members.values()]

    def world(self) -> World:
        """Who is who in the whole job; unknown as long as not every process of the log is a member of one communicator."""
        if self._world is None:
            self._world = _world(self.known()) if self._whole else World(None, {}, {})
        return self._world

    def world_label(self) -> str | None:
        """The communicator of all ranks, where there is exactly one."""
        groups = self.world().groups
        if len(groups) != 1:
            return None
        return next((self.label(member) for member in self.known() if member.group in groups), None)

    def row(self, member: Communicator) -> dict[str, Any]:
        """One row of `communicators`."""
        world = self.world()
        whole = member.group in world.groups
        return {
            "node": member.host,
            "rank": world.ranks.get(member.slot, member.prefix_rank),
            "device": member.device,
            "communicator": self.label(member),
            "parent": member.parent,
            "group_kind": "world" if whole else None,
            "communicator_rank": member.rank,
            "nranks": member.nranks,
            "ranks": list(range(world.size or 0)) if whole else None,
            "nnodes": member.nnodes,
            "local_ranks": member.local_ranks,
            "pid": member.pid,
            "bus_id": member.bus_id,
            "channels": member.channels,
            "network": member.network,
            "transports": ",".join(f"{kind}:{count}" for kind, count in sorted(member.transports.items())) or None,
            "library_version": self.versions.get((member.host, member.pid), self._version),
            "start_ns": member.start_ns,
            "init_seconds": member.init_seconds,
            "state": member.state,
        }

    def label(self, member: Communicator) -> str:
        """The name a communicator goes by: its commId, else its place among those of all ranks, else its own pointer."""
        if member.identity is not None:
            return member.identity
        number = self.world().groups.get(member.group)
        if number is not None:
            return f"world.{number}" if number else "world"
        return f"{member.host}:{member.pid}:{member.pointer}"

    def _member(self, record: Record, found: re.Match[str]) -> None:
        state = _STATE.search(record.text)
        step = f"{state[1]} {state[2]}" if state else ""
        nranks = small(found[3])
        if step == "Init COMPLETE":
            self.inits[str(nranks)] += len(self.inits) < TRANSPORTS_MAX or str(nranks) in self.inits
        self.destroyed += step == "Destroy COMPLETE"
        self.aborted += step == "Abort COMPLETE"
        if record.host is None or record.pid is None or nranks is None:
            return
        member = self._named(record, found[1], small(found[2]), nranks, step)
        if member is not None:
            self._fill(member, record)
            if step:
                member.state = {"Init START": "init", "Init COMPLETE": "ready"}.get(step, _END.get(step, member.state))
            self._touch(member)

    def _named(self, record: Record, pointer: str, rank: int | None, nranks: int, step: str) -> Communicator | None:
        """The communicator a line names; a new one where the pointer is new or was used before."""
        assert record.host is not None and record.pid is not None
        key = record.host, record.pid, pointer
        member = self._members.get(key)
        old = member is not None and (
            (member.rank, member.nranks) != (rank, nranks)
            or (step.startswith("Init") and member.state in _END.values())
            or (step == "Init START" and member.state == "ready")
        )
        if member is not None and not old:
            return member
        if len(self._members) + len(self._ended) >= COMMUNICATORS_MAX:
            self.dropped += 1
            return None
        if member is not None:
            self._ended.append(member)
        slot = record.host, record.pid, record.device
        current = self._current.get(slot)
        fresh = current if current is not None and current.rank is None else Communicator(*slot)
        fresh.pointer, fresh.rank, fresh.nranks = pointer, rank, nranks
        fresh.occurrence = self._sizes[slot, nranks]
        self._sizes[slot, nranks] += 1
        self._members[key] = self._current[slot] = fresh
        self._world = None
        return fresh

    def _fill(self, member: Communicator, record: Record) -> None:
        fields = dict(_FIELD.findall(record.text))
        member.prefix_rank = member.prefix_rank if record.rank is None else record.rank
        member.start_ns = member.start_ns or record.time_ns
        if "cudaDev" in fields and member.device is None:
            member.device = small(fields["cudaDev"])
        if "busId" in fields:
            member.bus_id = member.bus_id or _bus_id(fields["busId"])
        if "nNodes" in fields:
            member.nnodes, member.local_ranks = small(fields["nNodes"]), small(fields.get("localRanks"))
        identity = fields.get("commId")
        if identity is not None and len(identity) > 2 and member.identity != identity:
            member.identity = identity
            self._world = None
        if "parent" in fields and member.parent is None:
            parent = self.find(member.host, member.pid, fields["parent"])
            member.parent = None if parent is None else self.label(parent)

    def _target(self, record: Record) -> Communicator | None:
        """The communicator that a line without a name belongs to."""
        if record.host is None or record.pid is None:
            return None
        slot = record.host, record.pid, record.device
        member = self._current.get(slot)
        starting = member is not None and member.state != "init" and _SETTING_UP.match(record.text)
        if member is None or starting:
            if len(self._current) >= COMMUNICATORS_MAX and slot not in self._current:
                self.dropped += 1
                return None
            member = self._current[slot] = Communicator(*slot)
        return member

    def _set(self, record: Record, name: str, value: Any) -> None:
        member = self._target(record)
        if member is not None:
            setattr(member, name, value)
            self._touch(member)

    def _transport(self, record: Record, kind: str) -> None:
        member = self._target(record)
        if member is not None and (kind in member.transports or len(member.transports) < TRANSPORTS_MAX):
            member.transports[kind] += 1
            self._touch(member)

    def _timings(self, record: Record, found: re.Match[str]) -> None:
        member = self._target(record)
        if member is not None and (member.rank, member.nranks) == (int(found[1]), int(found[2])):
            member.init_seconds = float(found[3])
            self._touch(member)

    def _touch(self, member: Communicator) -> None:
        self._changed[member] = None


_END: Final = {"Destroy COMPLETE": "destroyed", "Abort COMPLETE": "aborted"}


def _world(members: Iterable[Communicator]) -> World:
    groups: dict[tuple[str, int, int], dict[Slot, int]] = {}
    slots: set[Slot] = set()
    for member in members:
        if member.rank is not None:
            slots.add(member.slot)
            groups.setdefault(member.group, {})[member.slot] = member.rank
    largest = max((group[1] for group in groups), default=0)
    whole = [
        group
        for group, ranks in groups.items()
        if len(slots) == group[1] == largest > 1 and set(ranks.values()) == set(range(len(slots)))
    ]
    if not whole:
        return World(None, {}, {})
    return World(len(slots), groups[whole[0]], {group: number for number, group in enumerate(whole)})


def _transport(text: str) -> str:
    """`NET/AWS Libfabric/1(2)/GDRDMA/Shared` -> `NET/AWS Libfabric/GDRDMA`: the kind without the number of the device."""
    parts = text.strip().split("/")
    return "/".join(part for part in parts if not _DEVICE_NUMBER.fullmatch(part) and part not in _DETAILS)


def _bus_id(text: str) -> str | None:
    """NCCL's 64-bit bus id in hexadecimal: domain, bus, device and function in 20, 12, 4 and 0 bits from the right."""
    try:
        value = int(text, 16)
    except ValueError:
        return None
    if value >> 52:
        return None
    return normal_bus_id(f"{value >> 20:04x}:{value >> 12 & 0xFF:02x}:{value >> 4 & 0xFF:02x}.{value & 0x7}")
