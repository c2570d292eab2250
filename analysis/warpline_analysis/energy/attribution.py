"""Whom what a GPU draws is charged to: the processes that held it, as they were told, laid on its samples.

A GPU's energy cannot be parted among those who share it. So a job, user, account or pod is charged where all processes that hold
the GPU name the same one; where they do not, nobody is, and the reason is said. Nothing is ever spread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from ..detector import Reader, literal
from ..devices import KEY
from .runs import Runs
from .signals import Numbers, Samples
from .states import State, held_ns

HOLD_SECONDS: Final = 365.0
"""A process that is told every five minutes holds its GPU for so long after it was last told; then its agent has gone silent."""
NAMES_MAX: Final = 4
"""Jobs and programs that a reason names."""
NO_PROGRAM: Final = "no program"
NOT_TOLD: Final = "nobody told which processes held the GPU"
NOT_SEEN: Final = "the GPU changed hands while it was not observed"
_HOLD_NS: Final = int(HOLD_SECONDS * 1e9)
FIELDS: Final = ("job", "user", "account", "pod")


@dataclass(frozen=True)
class Owner:
    """Whom energy is charged to; None is nobody, and then `unattributed` says why no job is."""

    job: str | None = None
    user: str | None = None
    account: str | None = None
    pod: str | None = None
    unattributed: str | None = None


NOBODY: Final = Owner(unattributed=NO_PROGRAM)


@dataclass(frozen=True)
class Owners:
    """`owner` counts in `owners`, one a sample."""

    owners: tuple[Owner, ...]
    owner: Numbers

    def of(self, found: Runs) -> dict[str, list[str | None]]:
        """Columns of energy_intervals, one value a run; a GPU without a program is nobody's."""
        codes, states = self.owner[found.first].tolist(), found.state.tolist()
        charged = [
            NOBODY if state == State.DEEP_IDLE else self.owners[code] for code, state in zip(codes, states, strict=True)
        ]
        return {name: [getattr(each, name) for each in charged] for name in (*FIELDS, "unattributed")}


class _Codes:
    """Numbers owners as they are met."""

    def __init__(self) -> None:
        self._known: dict[Owner, int] = {}

    def __call__(self, owner: Owner) -> int:
        return self._known.setdefault(owner, len(self._known))

    def all(self) -> tuple[Owner, ...]:
        return tuple(self._known)


def load_owners(
    reader: Reader, samples: Samples, start_ns: int | None = None, end_ns: int | None = None, nodes: Sequence[str] = ()
) -> Owners:
    """Whom each sample, taken from `start_ns` to before `end_ns`, is charged to."""
    return owners_of(samples, reader.query(_processes_sql(start_ns, end_ns, nodes)), _users(reader))


def owners_of(samples: Samples, processes: pa.Table, users: Mapping[str, str]) -> Owners:
    """As above, from rows of gpu_processes with their `gpu`; `users` by job, for GPUs of which only the job is known."""
    codes = _Codes()
    owner = _by_samples(samples, users, codes)
    ends = np.append(np.searchsorted(samples.gpu, np.arange(len(samples.gpus))), len(samples))
    known = _by_gpu(processes)
    for number, gpu in enumerate(samples.gpus):
        told = known.get((gpu.node, gpu.key))
        if told is not None:
            part = slice(ends[number], ends[number + 1])
            owner[part] = _laid(samples.time_ns[part], owner[part], told, codes)
    _unseen(samples, owner, codes)
    return Owners(codes.all(), owner)


def _by_samples(samples: Samples, users: Mapping[str, str], codes: _Codes) -> Numbers:
    """By what the samples say themselves of the job."""
    empty, unknown = codes(NOBODY), codes(Owner(unattributed=NOT_TOLD))
    if samples.jobs:
        by_job = np.array([codes(Owner(job, users.get(job))) for job in samples.jobs], dtype=np.int64)
        named = by_job[np.maximum(samples.job, 0)]
    else:
        named = np.zeros(len(samples), dtype=np.int64)
    return np.where(samples.job >= 0, named, np.where(samples.resident == 0, empty, unknown))


def _laid(time_ns: Numbers, before: Numbers, told: Iterable[Mapping[str, Any]], codes: _Codes) -> Numbers:
    """Owners of the samples of one GPU: who held it at each, else what was known `before`."""
    changes = [(at, codes(owner) if owner else -1) for at, owner in _held(told)]
    if not changes:
        return before
    times = np.array([at for at, _ in changes], dtype=np.int64)
    held = np.append(np.array([code for _, code in changes], dtype=np.int64), -1)
    code = held[np.searchsorted(times, time_ns, side="right") - 1]
    return np.where(code >= 0, code, before)


def _held(told: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Owner | None]]:
    """From when on who holds one GPU, in order; None is nobody that was told of."""
    steps = sorted(_spans(told), key=lambda step: step[0])
    holding: dict[int, Mapping[str, Any]] = {}
    for place, (at, number, row) in enumerate(steps):
        if row is None:
            holding.pop(number, None)
        else:
            holding[number] = row
        if place + 1 == len(steps) or steps[place + 1][0] != at:
            yield at, _owner(list(holding.values())) if holding else None


def _spans(told: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, int, Mapping[str, Any] | None]]:
    """When each process of a GPU begins to hold it, changes and holds it no more; processes are numbered."""
    processes: dict[tuple[int, int | None], list[Mapping[str, Any]]] = {}
    for row in told:
        processes.setdefault((row["pid"], row["start_ticks"]), []).append(row)
    for number, rows in enumerate(processes.values()):
        rows.sort(key=lambda row: row["time_ns"])
        ends = [row["time_ns"] for row in rows[1:]] + [rows[-1]["time_ns"] + _HOLD_NS]
        for row, end_ns in zip(rows, ends, strict=True):
            yield row["time_ns"], number, row if row["state"] == "resident" else None
            if row["state"] == "resident" and end_ns - row["time_ns"] >= _HOLD_NS:
                yield row["time_ns"] + _HOLD_NS, number, None


def _owner(rows: Sequence[Mapping[str, Any]]) -> Owner:
    """What all processes that hold a GPU agree on."""
    named = {name: {row[name] for row in rows} for name in FIELDS}
    agreed = {name: next(iter(found)) if len(found) == 1 else None for name, found in named.items()}
    return Owner(**agreed, unattributed=None if agreed["job"] is not None else _reason(rows))


def _reason(rows: Sequence[Mapping[str, Any]]) -> str:
    """Why no job is charged."""
    jobs = {row["job"] for row in rows} - {None}
    nameless = {row["process"] or f"pid {row['pid']}" for row in rows if row["job"] is None}
    if not jobs:
        return f"no job is known of: {_listed(nameless)}"
    shared = f"shared by {_listed(jobs)}"
    return f"{shared}, and by processes of no known job: {_listed(nameless)}" if nameless else shared


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - NAMES_MAX} more" if len(ordered) > NAMES_MAX else ""
    return ", ".join(ordered[:NAMES_MAX]) + more


def _unseen(samples: Samples, owner: Numbers, codes: _Codes) -> None:
    """A time without samples is charged to who held the GPU at both of its ends, else to nobody."""
    gap = np.flatnonzero(held_ns(samples) < 0)
    owner[gap[owner[gap] != owner[gap + 1]]] = codes(Owner(unattributed=NOT_SEEN))


def _by_gpu(processes: pa.Table) -> dict[tuple[str | None, str], list[dict[str, Any]]]:
    found: dict[tuple[str | None, str], list[dict[str, Any]]] = {}
    for row in processes.to_pylist():
        found.setdefault((row["node"], row["gpu"]), []).append(row)
    return found


def _users(reader: Reader) -> dict[str, str]:
    """Users of the jobs of which one is known."""
    rows = reader.query(
        'SELECT job, min("user") AS named FROM jobs WHERE job IS NOT NULL AND "user" IS NOT NULL '
        'GROUP BY job HAVING count(DISTINCT "user") = 1'
    ).to_pylist()
    return {row["job"]: row["named"] for row in rows}


def _processes_sql(start_ns: int | None, end_ns: int | None, nodes: Sequence[str]) -> str:
    where = ["pid IS NOT NULL", "time_ns IS NOT NULL"]
    where += [f"time_ns >= {start_ns - _HOLD_NS}"] if start_ns is not None else []
    where += [f"time_ns < {end_ns}"] if end_ns is not None else []
    where += [f"node IN ({', '.join(map(literal, nodes))})"] if nodes else []
    return (
        f'SELECT {KEY} AS gpu, node, time_ns, state, pid, start_ticks, process, job, "user", account, pod '
        f"FROM gpu_processes WHERE {' AND '.join(where)} ORDER BY node, gpu, time_ns, pid, start_ticks"
    )
