"""Records of the hook -> rows of steps, phases and jobs, with what the process says of itself; nothing of it is trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from warpline_proto.tables import COLLECTIVES, JOBS, PHASES, STEPS

from .hook_file import Recorded
from .parsers.process_groups import group_kind
from .parsers.values import count, is_list, mapping, small, text
from .source import Rows

AXES: Final = ("dp", "tp", "pp", "ep")
AXES_MAX: Final = 64
"""Process groups of a rank that are looked at."""
MEASURED: Final = (("data", "data", "data"), ("forward", "forward", "host"), ("backward", "backward", "host"),
                   ("optimizer", "optimizer", "host"), ("gc", "gc", "host"))  # fmt: skip
"""Time of a record, name of its phase, and kind: what the host saw of forward and backward may well be waiting for others."""
REDUCTION: Final = {
    "communicator": "the backward pass",
    "operation": "gradient_reduction",
    "timing": "host",
    "state": "completed",
}
"""Where a model computes on the CPU, its thread leaves the CPU in the backward pass to wait for the gradients of other ranks."""


@dataclass(frozen=True)
class Identity:
    """Who a process says it is; what it does not say, or says wrongly, is None."""

    job: str | None = None
    evidence: str | None = None
    rank: int | None = None
    world_size: int | None = None
    device: int | None = None
    gpu_uuid: str | None = None
    framework: str | None = None
    place: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, Any]:
        """Columns that steps and phases share."""
        own = {"job": self.job, "rank": self.rank, "gpu_uuid": self.gpu_uuid, "device": self.device}
        return own | dict(self.place)


def identity_of(told: Mapping[str, Any]) -> Identity:
    """What the hook wrote -> an Identity."""
    rank, world_size = _counted(told.get("rank")), _counted(told.get("world_size"))
    if rank is not None and world_size is not None and rank >= world_size:
        rank = world_size = None
    axes = _named_groups(told.get("groups")) | _axes(mapping(told.get("axes")))
    return Identity(
        job=text(told.get("job")),
        evidence=text(told.get("evidence")),
        rank=rank,
        world_size=world_size,
        device=_counted(told.get("device")),
        gpu_uuid=text(told.get("gpu_uuid")),
        framework=text(told.get("framework")),
        place={axis: index for axis, (index, _) in axes.items()},
        sizes={f"{axis}_size": size for axis, (_, size) in axes.items()},
    )


def step_rows(identity: Identity, records: Iterable[Recorded], clock: str) -> list[Rows]:
    """Steps, and the phases of each that were seen.

    A step whose model computes on the CPU has compute time, and its waiting for gradients as a collective. It has no phase of the
    data loader: what short phases take there is a matter of whose turn it is on the CPU.
    """
    common = {**identity.columns, "clock": clock}
    steps: list[dict[str, Any]] = []
    phases: list[dict[str, Any]] = []
    waits: list[dict[str, Any]] = []
    for record in records:
        if record.phase is not None:
            phases.append({**common, **_phase(record, record.phase, record.kind, record.times["start"], "duration")})
            continue
        steps.append({**common, **_step(record)})
        phases += [{**common, **each} for each in _phases(record)]
        if record.on_cpu and record.times["waited"] and (identity.world_size or 0) > 1:
            waits.append({**common, **_reduction(record, identity)})
    told = ((STEPS, steps), (PHASES, phases), (COLLECTIVES, waits))
    return [Rows(table.name, table.from_rows(rows)) for table, rows in told if rows]


def job_rows(identity: Identity, user: str | None, now_ns: int) -> Rows:
    """One row of jobs: what this process knows of its job."""
    row = {
        "job": identity.job,
        "time_ns": now_ns,
        "framework": identity.framework,
        "world_size": identity.world_size,
        "user": user,
        "evidence": f"named by {identity.evidence} of a process" if identity.evidence else None,
    }
    return Rows("jobs", JOBS.from_rows([row | dict(identity.sizes)]))


def _step(record: Recorded) -> dict[str, Any]:
    return {
        "scope": "step",
        "step": record.step,
        "start_ns": record.times["start"],
        "duration_ns": record.times["duration"],
        "data_wait_ns": record.times["data"],
        "compute_ns": record.times["cpu"] if record.on_cpu else None,
        "communication_ns": record.times["waited"] if record.on_cpu else None,
    }


def _reduction(record: Recorded, identity: Identity) -> dict[str, Any]:
    return {
        **REDUCTION,
        "step": record.step,
        "sequence": record.step,
        "communicator_rank": identity.rank,
        "nranks": identity.world_size,
        "duration_ns": record.times["waited"],
    }


def _phases(record: Recorded) -> list[dict[str, Any]]:
    begin = record.times["start"] or 0
    found = []
    for key, name, kind in MEASURED:
        at = record.starts.get(key)
        if record.times[key] and not (record.on_cpu and key == "data"):
            found.append(_phase(record, name, kind, None if at is None else begin + at, key))
    return found


def _phase(record: Recorded, name: str, kind: str, start_ns: int | None, key: str) -> dict[str, Any]:
    told = {"step": record.step, "phase": name, "kind": kind, "start_ns": start_ns}
    return told | {"duration_ns": record.times[key]}


def _counted(value: Any) -> int | None:
    number = small(value)
    return None if number is None or number < 0 else count(number)


def _named_groups(groups: Any) -> dict[str, tuple[int, int]]:
    """Axis -> index and size, of process groups whose descriptions say along which axis they run."""
    found: dict[str, tuple[int, int]] = {}
    for group in list(groups)[:AXES_MAX] if is_list(groups) else ():
        told = mapping(group)
        kind = group_kind(text(told.get("description"))) or group_kind(text(told.get("name")))
        if kind in AXES:
            found |= _axes({kind: (told.get("index"), told.get("size"))})
    return found


def _axes(axes: Mapping[Any, Any]) -> dict[str, tuple[int, int]]:
    found = {}
    for axis in AXES:
        pair: Sequence[Any] = axes.get(axis) if is_list(axes.get(axis)) else ()  # type: ignore[assignment]
        if len(pair) == 2:
            index, size = _counted(pair[0]), _counted(pair[1])
            if index is not None and size is not None and index < size:
                found[axis] = (index, size)
    return found
