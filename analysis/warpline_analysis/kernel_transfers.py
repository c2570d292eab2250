"""Transfer times from communication kernels alone: the shortest duration over the ranks of a group holds no waiting.

Where no collective was recorded, only how long its kernel ran on each rank is known. The last rank to arrive does not wait, so
the shortest duration over all members of a group is its transfer; what is long on every member is a slow link, what is long on
some is waiting (second case study of ARGUS; blame rule of the what-if analysis).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .detector import Reader, literal
from .robust import Array, median

STEPS_MAX: Final = 40
STEPS_FLOOR: Final = 8
CELLS_MAX: Final = 500_000
"""Ranks times steps times kernels that are looked at; fewer steps where there are more ranks."""
PLACES: Final = ("dp", "tp", "pp", "ep")
GROUP_MAX: Final = 1024
"""Larger groups are left out: in every step some member's rows are missing."""


@dataclass(frozen=True)
class Group:
    """Ranks that communicate with each other; `kind` by what they differ in, `name` of the communicator where one is known."""

    kind: str
    name: str | None
    ranks: tuple[int, ...]
    stage: int | None


@dataclass(frozen=True)
class Transfers:
    """One kernel over sibling groups: (steps, groups) of seconds, NaN where a member's rows are missing.

    `mean` is the smallest mean over a group's members, `least` the smallest shortest launch of the cluster they spend most time
    in; `apart` how much longer a typical member's mean is than the smallest, `launches` a typical step's. `ranks` and `own` are
    the shortest launches of each rank by itself, (steps, ranks), `every` all groups of the job.
    """

    kernel: int
    groups: tuple[Group, ...]
    steps: npt.NDArray[np.int64]
    mean: Array
    least: Array
    apart: Array
    launches: float
    ranks: tuple[int, ...]
    own: Array
    every: tuple[Group, ...]


def kernels_only(reader: Reader) -> set[str]:
    """Jobs whose communication is known by kernels alone: no collective of them was timed."""
    rows = reader.query(
        "SELECT DISTINCT job FROM kernel_clusters WHERE category = 'communication' AND job IS NOT NULL AND rank IS NOT NULL AND "
        "step IS NOT NULL EXCEPT SELECT DISTINCT job FROM collectives WHERE duration_ns IS NOT NULL"
    )
    return set(rows.column("job").to_pylist())


def load_transfers(reader: Reader, job: str) -> list[Transfers]:
    """Every communication kernel of a job over every family of sibling groups: same kind, size and stage, three at least."""
    every = tuple(groups_of(reader, job))
    families = _families(every)
    if not families:
        return []
    rows = reader.query(_cells(reader, job))
    columns = {name: rows.column(name).to_numpy() for name in rows.schema.names}
    found = []
    for kernel in np.unique(columns["kernel_id"]):
        mine = columns["kernel_id"] == kernel
        matrices = _matrices({name: values[mine] for name, values in columns.items()})
        found += [each for family in families if (each := _transfers(int(kernel), family, every, *matrices))]
    return found


def _cells(reader: Reader, job: str) -> str:
    """SELECT of one row a kernel, step and rank: mean launch, and shortest launch of the cluster with most time."""
    condition = (
        f"FROM kernel_clusters WHERE job = {literal(job)} AND category = 'communication' AND rank IS NOT NULL AND step IS NOT "
        "NULL AND kernel_id IS NOT NULL AND count > 0 AND min_ns > 0"
    )
    size = reader.query(
        f"SELECT count(*) AS cells FROM (SELECT DISTINCT rank, kernel_id {condition} AND step = (SELECT max(step) {condition}))"
    )["cells"][0].as_py()
    steps = min(STEPS_MAX, max(STEPS_FLOOR, CELLS_MAX // max(size, 1)))
    newest = f"SELECT min(step) FROM (SELECT DISTINCT step {condition} ORDER BY step DESC LIMIT {steps})"
    return (
        "SELECT kernel_id, step, rank, sum(sum_ns) / sum(count) / 1e9 AS mean, arg_max(min_ns, sum_ns) / 1e9 AS least, "
        f"sum(count)::DOUBLE AS launches {condition} AND step >= ({newest}) GROUP BY kernel_id, step, rank"
    )


Matrices = tuple[npt.NDArray[np.int64], dict[int, int], Array, Array, float]
"""Steps, column of each rank, (steps, ranks) of means and of shortest launches, launches of a rank in a typical step."""


def _matrices(columns: Mapping[str, Any]) -> Matrices:
    steps, row = np.unique(columns["step"], return_inverse=True)
    ranks, column = np.unique(columns["rank"], return_inverse=True)
    mean: Array = np.full((len(steps), len(ranks)), np.nan)
    least = mean.copy()
    mean[row, column] = columns["mean"]
    least[row, column] = columns["least"]
    places = {int(rank): place for place, rank in enumerate(ranks)}
    return steps.astype(np.int64), places, mean, least, float(np.median(columns["launches"]))


def _transfers(
    kernel: int,
    family: Sequence[Group],
    every: tuple[Group, ...],
    steps: npt.NDArray[np.int64],
    places: dict[int, int],
    mean: Array,
    least: Array,
    launches: float,
) -> Transfers | None:
    known = [group for group in family if all(rank in places for rank in group.ranks)]
    if len(known) < 3:
        return None
    parts = [[places[rank] for rank in group.ranks] for group in known]
    shortest = np.column_stack([mean[:, part].min(axis=1) for part in parts])  # NaN where a member is missing
    launch = np.column_stack([least[:, part].min(axis=1) for part in parts])
    typical = np.column_stack([median(mean[:, part], axis=1) for part in parts])
    apart = typical / shortest - 1
    return Transfers(kernel, tuple(known), steps, shortest, launch, apart, launches, tuple(places), least, every)


def groups_of(reader: Reader, job: str) -> list[Group]:
    """Communicators with their ranks where they are recorded, else ranks that share all places but one."""
    rows = reader.query(
        "SELECT communicator, any_value(group_kind) AS kind, list(DISTINCT rank ORDER BY rank) AS ranks, max(nranks) AS size, "
        "CASE WHEN min(pp) IS NOT DISTINCT FROM max(pp) THEN max(pp) END AS stage FROM communicators WHERE job = ? AND "
        "communicator IS NOT NULL AND rank IS NOT NULL GROUP BY communicator ORDER BY communicator",
        (job,),
    ).to_pylist()
    told = [
        Group(row["kind"] or "other", row["communicator"], tuple(row["ranks"]), row["stage"])
        for row in rows
        if 1 < len(row["ranks"]) == (row["size"] or len(row["ranks"]))
    ]
    return told or _by_place(reader, job)


def _by_place(reader: Reader, job: str) -> list[Group]:
    rows = reader.query(
        "SELECT rank, max(dp) AS dp, max(tp) AS tp, max(pp) AS pp, max(ep) AS ep FROM kernel_clusters WHERE job = ? AND rank IS "
        "NOT NULL AND category = 'communication' GROUP BY rank ORDER BY rank",
        (job,),
    ).to_pylist()
    varied = [name for name in PLACES if len({row[name] for row in rows}) > 1]
    found: dict[tuple[int, ...], Group] = {}
    for name in (each for each in varied if each != "pp"):  # over stages only neighbours meet
        for ignored in ((name,), (name, "ep")):
            for ranks, stage in _sharing(rows, [each for each in varied if each not in ignored]):
                found.setdefault(ranks, Group(name, None, ranks, stage))
    return list(found.values())


def _sharing(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[tuple[tuple[int, ...], int | None]]:
    by: dict[tuple[Any, ...], list[int]] = {}
    stage: dict[tuple[Any, ...], int | None] = {}
    for row in rows:
        key = tuple(row[name] for name in keys)
        by.setdefault(key, []).append(row["rank"])
        stage[key] = row["pp"]
    return [(tuple(ranks), stage[key]) for key, ranks in by.items() if len(ranks) > 1]


def _families(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups that may be held against each other: message sizes differ between stages, kinds and sizes."""
    by: dict[tuple[Any, ...], list[Group]] = {}
    for group in groups:
        if len(group.ranks) <= GROUP_MAX:
            by.setdefault((group.kind, len(group.ranks), group.stage), []).append(group)
    return [family for family in by.values() if len(family) > 2]
