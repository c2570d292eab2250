"""Does a GPU that looks fully utilised only spin: high utilisation and clocks at near-idle power, with a program resident?

A rank that waits in a collective spins too, but then its peers wait with it or one of them is late, which other questions are
for. Here a GPU is accused only if it spins for ten seconds on end while those that do the same work are at work, and a job as a
whole only once nearly all of its GPUs have done nothing else for minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from warpline_proto.finding import (
    Check,
    Cost,
    Evidence,
    Finding,
    FindingKind,
    Onset,
    Report,
    Severity,
    Subject,
    Verdict,
)

from ..detector import Reader, show
from ..devices import CELL_SECONDS, KEY, Grid, load_grids, samples_of
from ..spinning import POWER_SHARE, READINGS_MIN, Spin, find_spins, floors, readings_of, unknown

DETECTOR: Final = "idle_spin"
MINORITY: Final = 4
"""At most one in so many of the GPUs that do the same work is accused; more of them wait for something together."""
TOGETHER_SHARE: Final = 0.9
"""From this share of a job's GPUs on, the job as a whole spins ..."""
TOGETHER_SECONDS: Final = 120.0
"""... once all of them have for so long: shorter pauses are checkpoints, evaluations and restarts of a collective."""
FINDINGS_MAX: Final = 64


def detect(reader: Reader) -> Report:
    """Judge every GPU that was sampled."""
    grids = load_grids(reader)
    floor_watts = floors(grids)
    findings: list[Finding] = []
    checks: list[Check] = []
    for grid in grids:
        together = _together(grid, [floor_watts.get(gpu.name) for gpu in grid.gpus])
        if together:
            findings.append(_of_job(reader, grid, together))
            continue
        for columns in _peers(grid):
            found, check = _judge(reader, grid, columns, floor_watts.get(grid.gpus[columns[0]].name))
            findings += found
            checks.append(check) if check else None
    left = len(findings) - FINDINGS_MAX
    if left > 0:
        checks.append(Check(DETECTOR, Verdict.UNKNOWN, None, f"{left} more spinning GPUs are not listed"))
    return Report(tuple(findings[:FINDINGS_MAX]), _merged(checks))


def _together(grid: Grid, floor_watts: Sequence[float | None]) -> list[Spin]:
    """The spins of a job whose GPUs nearly all spin up to now, long enough; else none."""
    if len(grid.gpus) < 2 or grid.job is None:
        return []
    spins = [
        spin
        for column, floor in enumerate(floor_watts)
        if floor is not None and not unknown(grid, floor)
        for spin in find_spins(grid, [column], floor)
        if spin.lasting and spin.seconds >= TOGETHER_SECONDS
    ]
    return spins if len(spins) >= TOGETHER_SHARE * len(grid.gpus) else []


def _of_job(reader: Reader, grid: Grid, spins: Sequence[Spin]) -> Finding:
    """All GPUs of a job spin together: nobody is accused, yet nothing is computed."""
    seconds = min(spin.seconds for spin in spins)
    watts, floor = (float(np.median([getattr(spin, name) for spin in spins])) for name in ("watts", "floor_watts"))
    return Finding(
        kind=FindingKind.IDLE_SPIN,
        severity=Severity.WARNING,
        confidence=round(0.75 + 0.15 * all(spin.work_known for spin in spins), 2),
        subject=Subject(job=grid.job),
        summary=f"{len(spins)} of {len(grid.gpus)} GPUs of the job show full utilisation and high clocks but draw {watts:.0f} "
        f"W each, where idle is {floor:.0f} W, for at least {seconds:.0f} s up to now: the job spins and computes nothing",
        next_step="Take stacks of some ranks (py-spy dump) and the flight recorder's dumps: they show what all wait for; stop "
        "the job if it is done or stuck",
        onset=Onset(grid.time_ns(min(spin.start for spin in spins))),
        cost=Cost(
            gpu_hours=sum(spin.seconds for spin in spins) / 3600,
            joules=sum(spin.watts * spin.seconds for spin in spins),
        ),
        evidence=(_evidence(reader, grid, [spin.column for spin in spins], spins),),
        ruled_out=(
            "idle GPUs: a kernel is resident all the time",
            f"a checkpoint or an evaluation: none of them has worked for {seconds:.0f} s",
        ),
        missing=("who or what they wait for",),
    )


def _evidence(reader: Reader, grid: Grid, columns: Sequence[int], spins: Sequence[Spin]) -> Evidence:
    """Power, utilisation and clocks of the columns while the spins lasted."""
    start, end = min(spin.start for spin in spins), max(spin.end for spin in spins)
    return show(
        reader,
        f"SELECT {KEY} AS gpu, max(node) AS node, round(avg(gpu_utilization_percent)) AS gpu_utilization_percent, "
        "round(avg(power_watts)) AS power_watts, max(power_limit_watts) AS power_limit_watts, "
        "round(avg(sm_clock_mhz)) AS sm_clock_mhz, round(avg(memory_utilization_percent)) AS "
        "memory_utilization_percent, round(avg(dram_active_percent), 1) AS dram_active_percent, "
        "max(resident_processes) AS resident_processes, count(*) AS samples "
        + samples_of(
            [grid.gpus[column].key for column in columns],
            grid.time_ns(start),
            grid.time_ns(end) + CELL_SECONDS * 10**9,
            grid.time,
        )
        + " GROUP BY gpu ORDER BY power_watts, gpu",
    )


def _peers(grid: Grid) -> list[list[int]]:
    """Columns of GPUs of one model that do the same work: those of one pipeline stage, where ranks are known."""
    groups: dict[tuple[str | None, int | None], list[int]] = {}
    for column, gpu in enumerate(grid.gpus):
        groups.setdefault((gpu.name, gpu.pp), []).append(column)
    return list(groups.values())


def _merged(checks: Sequence[Check]) -> tuple[Check, ...]:
    """One answer where the stages of a job have the same."""
    return tuple(dict.fromkeys(checks))


def _judge(
    reader: Reader, grid: Grid, columns: list[int], floor_watts: float | None
) -> tuple[list[Finding], Check | None]:
    lacking = unknown(grid, floor_watts)
    if lacking or floor_watts is None:
        detail = f"{grid.label(columns)}: not known: {', '.join(lacking)}"
        return [], Check(DETECTOR, Verdict.UNKNOWN, grid.job, detail, lacking)
    readings = readings_of(grid, columns)
    if readings < READINGS_MIN:
        text = f"{readings} reading{'s' * (readings != 1)} of power and utilisation; {READINGS_MIN} needed"
        return [], Check(DETECTOR, Verdict.UNKNOWN, grid.job, f"{grid.label(columns)}: {text}", (text,))
    spins = find_spins(grid, columns, floor_watts)
    if not spins:
        return [], Check(
            DETECTOR, Verdict.HEALTHY, grid.job, f"{grid.label(columns)}: none spins at near-idle power for 10 s"
        )
    if len(grid.gpus) > 1 and MINORITY * len(spins) > len(columns):
        detail = (
            f"{grid.label(columns)}: {len(spins)} of {len(columns)} that do the same work spin at near-idle power: they may "
            "wait for the others or for something together, which is no fault of theirs"
        )
        return [], Check(DETECTOR, Verdict.UNKNOWN, grid.job, detail, ("who or what they wait for",))
    return [_finding(reader, grid, columns, spin) for spin in spins], None


def _finding(reader: Reader, grid: Grid, columns: list[int], spin: Spin) -> Finding:
    gpu = grid.gpus[spin.column]
    peers = len(columns) - 1
    ended = "" if spin.lasting else ", and no longer"
    since = f"for {spin.seconds:.0f} s" if spin.start else f"for at least {spin.seconds:.0f} s"
    others = (f"its {peers} peers are at work meanwhile: it is not a collective that all wait in",) if peers else ()
    return Finding(
        kind=FindingKind.IDLE_SPIN,
        severity=Severity.WARNING if spin.lasting else Severity.INFO,
        confidence=round(0.6 + 0.15 * (peers > 0) + 0.15 * spin.work_known, 2),
        subject=gpu.subject,
        summary=f"{gpu.label} shows full utilisation and high clocks but draws {spin.watts:.0f} W, where idle is "
        f"{spin.floor_watts:.0f} W and the limit {spin.limit_watts:.0f} W, {since}{ended}: a kernel spins and computes nothing",
        next_step=f"On {gpu.label}: py-spy dump and cuda-gdb (info cuda kernels) on the process show which kernel never ends; "
        "restart the process if it is stuck",
        onset=Onset(grid.time_ns(spin.start)),
        cost=Cost(gpu_hours=spin.seconds / 3600, joules=spin.watts * spin.seconds),
        evidence=(_evidence(reader, grid, (spin.column, *columns), [spin]),),
        ruled_out=(
            "an idle GPU: a kernel is resident all the time",
            f"light work: power stays below idle and {POWER_SHARE:.0%} of the way to the limit"
            + (", and neither memory, pipes nor links are used" if spin.work_known else ""),
            *others,
        ),
        missing=(() if peers else ("peers that do the same work",))
        + (() if spin.work_known else ("activity of memory, pipes and links",)),
    )
