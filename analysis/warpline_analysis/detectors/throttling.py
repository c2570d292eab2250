"""Does something hold the clock of a working GPU below its peers': heat, the power supply, a power cap?

Clocks are compared between GPUs of one model in one job, at the same time and at work; the driver's clock-event reasons or its
counters of time under each limit have to name the cause, for ten seconds and five readings at least. A small deficit counts
where it explains that the GPU's rank computes longer than its peers.
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

from ..blame import percent
from ..detector import Reader, show
from ..devices import CELL_SECONDS, KEY, Grid, load_grids, samples_of
from ..held_clocks import CAP, CLOCK_GATE, HARD, HeldClock, judge
from ..kernel_level import sharpened
from ..slow_compute import slow_by_now

DETECTOR: Final = "throttling"
CRITICAL_DEFICIT: Final = 0.3
TOGETHER_MIN: Final = 3
"""GPUs of one node held at once, and at least half of it, are told together: then the node is the matter."""
FINDINGS_MAX: Final = 64
"""Told one by one; the rest is counted in the last."""
PEERS_SHOWN: Final = 7
_NEXT: Final = {
    8: "read power connectors, power supplies and temperatures of the board (nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER)",
    32: "check fans, airflow, inlet temperature and heat sink seating, and compare the temperature with the GPU's neighbours",
    64: "check fans, airflow, inlet temperature and heat sink seating at once: the hardware itself had to step in",
    128: "check power supplies and the rack's power budget: the brake is pulled from outside of the GPU",
    CAP: "compare its power limit with its peers' (nvidia-smi -q -d POWER) and set it alike; if they are alike, the chip needs "
    "more power for the same work: try other cooling or another slot",
}


def detect(reader: Reader) -> Report:
    """Judge the clocks of every GPU that was sampled."""
    findings: list[Finding] = []
    checks: list[Check] = []
    for grid in load_grids(reader):
        for columns in _models(grid):
            found, check = _judge(reader, grid, columns)
            findings += found
            checks += [check] if check else []
    left = len(findings) - FINDINGS_MAX
    if left > 0:
        checks.append(Check(DETECTOR, Verdict.UNKNOWN, None, f"{left} more GPUs with a held clock are not listed"))
    return Report(tuple(findings[:FINDINGS_MAX]), tuple(checks))


def _models(grid: Grid) -> list[list[int]]:
    """Columns by model of GPU."""
    models: dict[str | None, list[int]] = {}
    for column, gpu in enumerate(grid.gpus):
        models.setdefault(gpu.name, []).append(column)
    return list(models.values())


def _judge(reader: Reader, grid: Grid, columns: list[int]) -> tuple[list[Finding], Check | None]:
    clocks = judge(grid, columns, lambda: slow_by_now(reader, grid.job) if grid.job else {})
    if clocks.why:
        return [], Check(DETECTOR, Verdict.UNKNOWN, grid.job, f"{grid.label(columns)}: {clocks.why}", (clocks.why,))
    if clocks.held:
        return _findings(reader, grid, columns, clocks.held), None
    over = "each against its peers" if len(columns) > 1 else "without a peer"
    largest = percent(max(clocks.largest, 0.0))
    figures = f"{grid.label(columns)}: largest clock deficit {largest}, gate {percent(CLOCK_GATE)}, {over}"
    if clocks.unexplained:
        who = grid.gpus[columns[clocks.column]].label
        why = "no limit is given as the reason: locked clocks, another load, or reasons not read"
        return [], Check(
            DETECTOR, Verdict.UNKNOWN, grid.job, f"{figures}: {who} is low, but {why}", ("clock-event reasons",)
        )
    return [], Check(DETECTOR, Verdict.HEALTHY, grid.job, figures)


def _findings(reader: Reader, grid: Grid, columns: list[int], held: Sequence[HeldClock]) -> list[Finding]:
    by_node: dict[str | None, list[HeldClock]] = {}
    for each in held:
        by_node.setdefault(grid.gpus[columns[each.column]].node, []).append(each)
    found: list[Finding] = []
    for node, members in by_node.items():
        on_node = sum(grid.gpus[column].node == node for column in columns)
        together = len(members) >= TOGETHER_MIN and 2 * len(members) >= on_node
        found += [
            _finding(reader, grid, columns, part) for part in ([members] if together else [[one] for one in members])
        ]
    return found


def _finding(reader: Reader, grid: Grid, columns: list[int], held: Sequence[HeldClock]) -> Finding:
    worst = max(held, key=lambda each: each.deficit)
    gpu = grid.gpus[columns[worst.column]]
    together = len(held) > 1
    bits = worst.bits
    who = f"{len(held)} GPUs of {gpu.node or 'one node'}" if together else gpu.label
    start = min(each.start for each in held)
    lasting = any(each.lasting for each in held)
    found = Finding(
        kind=FindingKind.THROTTLING,
        severity=Severity.CRITICAL if worst.deficit >= CRITICAL_DEFICIT and lasting else Severity.WARNING,
        confidence=_confidence(worst, len(columns)),
        subject=Subject(job=grid.job, node=gpu.node, group=f"{len(held)} GPUs") if together else gpu.subject,
        summary=f"{who[0].upper()}{who[1:]} run{'s' * (not together)} at {worst.clock_mhz:.0f} MHz, {_against(worst, columns)}, "
        f"held by {_causes(bits)} {_for(worst, lasting)}{_heat(worst)}{_slow(worst)}",
        next_step=f"On {who}: {_next_step(bits)}",
        onset=Onset(grid.time_ns(start) if start else None),
        cost=Cost(gpu_hours=sum(each.deficit * each.seconds for each in held) / 3600),
        evidence=(_evidence(reader, grid, columns, held),),
        ruled_out=_ruled_out(worst),
        missing=() if gpu.rank is not None or together else ("the rank that ran on this GPU",),
    )
    return found if together or not lasting else _closer(reader, found, grid, columns, held)


def _closer(reader: Reader, finding: Finding, grid: Grid, columns: list[int], held: Sequence[HeldClock]) -> Finding:
    """With the kernels of its rank beside those of the ranks that do the same work with a free clock."""
    own = grid.gpus[columns[held[0].column]]
    place = (own.pp, own.tp, own.ep)
    free = [gpu.rank for gpu in (grid.gpus[column] for column in columns) if (gpu.pp, gpu.tp, gpu.ep) == place]
    peers = [rank for rank in free if rank is not None and rank != own.rank]
    return finding if own.rank is None else sharpened(reader, finding, [own.rank], peers, None, cause_known=True)


def _against(held: HeldClock, columns: list[int]) -> str:
    peers = len(columns) - 1
    whose = (
        f"its highest clock of {held.reference_mhz:.0f} MHz"
        if held.own
        else f"{peers} peer{'s' * (peers > 1)} of its model at {held.reference_mhz:.0f} MHz"
    )
    return f"{percent(held.deficit)} below {whose}"


def _causes(bits: int) -> str:
    hard = [name for bit, name in HARD.items() if bits & bit]
    return " and ".join(hard) if hard else "the power cap"


def _for(held: HeldClock, lasting: bool) -> str:
    span = f"{held.seconds:.0f} s" if held.start else f"at least {held.seconds:.0f} s"
    return f"for {span} up to now" if lasting else f"for {span}, and free again since"


def _heat(held: HeldClock) -> str:
    if np.isnan(held.celsius):
        return ""
    others = f", its peers at {held.peers_celsius:.0f} C" if not np.isnan(held.peers_celsius) else ""
    return f" (at {held.celsius:.0f} C{others})"


def _slow(held: HeldClock) -> str:
    if held.excess is None:
        return ""
    return f"; its rank computes {percent(held.excess)} longer than those that do the same work"


def _next_step(bits: int) -> str:
    return next(_NEXT[bit] for bit in (128, 64, 32, 8, CAP) if bits & bit or bit == CAP)


def _confidence(held: HeldClock, peers: int) -> float:
    value = 0.8 + 0.1 * bool(held.bits & sum(HARD)) + 0.05 * (peers >= 4) - 0.15 * held.own
    return round(value, 2)


def _ruled_out(held: HeldClock) -> tuple[str, ...]:
    idle = "an idle GPU: only readings at work count"
    if held.bits & sum(HARD) or np.isnan(held.watts):
        return (idle,)
    return (idle, f"a heavier load: it draws {held.watts:.0f} W, its peers {held.peers_watts:.0f} W")


def _evidence(reader: Reader, grid: Grid, columns: list[int], held: Sequence[HeldClock]) -> Evidence:
    """Clock, reasons, power and temperature of the accused and some of their peers, the slowest first."""
    accused = [columns[each.column] for each in held]
    peers = [column for column in columns if column not in set(accused)][:PEERS_SHOWN]
    start, end = min(each.start for each in held), max(each.end for each in held)
    keys = [grid.gpus[column].key for column in (*accused, *peers)]
    width_ns = CELL_SECONDS * 10**9
    grown = ", ".join(
        f"round((max({name}) - min({name})) / 1e9, 1) AS {name.removesuffix('_ns')}_seconds"
        for name in ("power_cap_ns", "thermal_ns", "hardware_thermal_ns", "power_brake_ns")
    )
    return show(
        reader,
        f"SELECT {KEY} AS gpu, max(node) AS node, max(gpu_index) AS gpu_index, round(median(sm_clock_mhz)) AS sm_clock_mhz, "
        f"bit_or(clock_event_reasons) AS clock_event_reasons, {grown}, round(avg(power_watts)) AS power_watts, "
        f"round(avg(temperature_celsius), 1) AS temperature_celsius, count(*) AS samples "
        f"{samples_of(keys, grid.time_ns(start), grid.time_ns(end) + width_ns, grid.time)} GROUP BY gpu "
        "ORDER BY sm_clock_mhz, gpu",
    )
