"""What a sporadic stall is due to: the data loader, garbage collection, one kernel, or launches that fail to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from warpline_proto.finding import Evidence

from .detector import Reader, literal, show
from .self_time import Member
from .spikes import PHASE_RATIO, Series, phase_spikes_sql
from .stacks import frames_told, top_frames

RANKS_MAX: Final = 16
STEPS_MAX: Final = 64
"""Ranks and steps with spikes whose kernels are looked at."""
NAME_CHARS_MAX: Final = 80
"""Kernel names are cut here in a sentence."""

LOADER: Final = (
    "Look at the data loader of these ranks at these steps: workers that restart, storage that stalls, shards that end"
)
COLLECTION: Final = (
    "Switch automatic garbage collection off and collect on all ranks together every few hundred steps (gc.disable, gc.collect, "
    "gc.freeze after start-up)"
)
KERNEL: Final = (
    "Look at the shapes this kernel gets in these steps (autotuning and rare shapes take slow paths), and warm it up over all "
    "shapes before training"
)
COMPILATION: Final = (
    "Suspect just-in-time compilation on shapes not seen before: keep the compiler's cache on disk, warm up over all shapes "
    "before training, and take stacks during such a step; then look at allocator retries and at the host"
)


@dataclass(frozen=True)
class Cause:
    """`told` continues the summary, empty where nothing is known."""

    told: str
    next_step: str
    evidence: tuple[Evidence, ...] = ()
    missing: tuple[str, ...] = ()


def find_cause(reader: Reader, job: str, series: Series, ranks: Sequence[int], first: int) -> Cause:
    """By the kind of phase, then by the kernels of the ranks' spiking steps, then by stacks."""
    if series.of_phase and series.kind == "data":
        return Cause("", LOADER)
    if series.of_phase and series.kind not in ("compute", "optimizer"):
        return Cause("", COLLECTION)
    kernels = _kernels(reader, job, series, ranks[:RANKS_MAX], first)
    seen = top_frames(reader, job, ranks[0], None) if len(ranks) == 1 else None
    stacks = f"; seen most on rank {ranks[0]}: {frames_told(seen)}" if seen else ""
    told = (seen,) if seen else ()
    missing = () if seen else ("stacks of the training process during a stall",)
    if kernels is None:
        return Cause(stacks, COMPILATION, told, ("kernel times of these steps", *missing))
    worst = kernels.rows[0]
    if worst["times_usual"] is not None and worst["times_usual"] >= PHASE_RATIO:
        name = worst["kernel"][:NAME_CHARS_MAX]
        text = f"; kernel {name} then takes {worst['times_usual']:.0f} times its usual time{stacks}"
        return Cause(text, KERNEL, (kernels, *told), missing)
    text = f"; no kernel is longer than usual then, so launches fail to come{stacks}"
    return Cause(text, COMPILATION, (kernels, *told), missing)


def _kernels(reader: Reader, job: str, series: Series, ranks: Sequence[int], first: int) -> Evidence | None:
    """Compute kernels of the spiking steps beside the other steps of the same ranks; None where none are known."""
    steps = ", ".join(str(step) for step in series.steps[:STEPS_MAX])
    rows = (
        f"SELECT kernel_id, max_ns, p50_ns, step IN ({steps}) AS stalled FROM kernel_clusters WHERE job = {literal(job)} AND "
        f"step >= {first} AND category = 'compute' AND rank IN ({', '.join(str(rank) for rank in ranks)})"
    )
    evidence = show(
        reader,
        "SELECT coalesce(name, kernel_id::VARCHAR) AS kernel, round(longest / 1e6, 3) AS longest_ms_in_stalls, "
        "round(usual / 1e6, 3) AS usual_ms, round(longest / nullif(usual, 0), 1) AS times_usual FROM (SELECT kernel_id, "
        "max(max_ns) FILTER (stalled) AS longest, median(p50_ns) FILTER (NOT stalled) AS usual "
        f"FROM ({rows}) GROUP BY kernel_id) LEFT JOIN (SELECT kernel_id, any_value(name) AS name FROM "
        "kernel_names GROUP BY kernel_id) USING (kernel_id) WHERE longest IS NOT NULL "
        "ORDER BY longest - coalesce(usual, 0) DESC",
    )
    return evidence if evidence.rows else None


def spike_evidence(reader: Reader, job: str, series: Series, first: int, step_seconds: float) -> Evidence:
    """The steps and ranks of the stalls, longest first."""
    if series.of_phase:
        return show(
            reader,
            "SELECT step, rank, phase, round(excess, 6) AS seconds_longer, round(ratio, 1) AS times_usual FROM "
            f"({phase_spikes_sql(job, first, step_seconds)}) WHERE phase = {literal(series.name)} "
            "ORDER BY excess DESC, step, rank",
        )
    steps, ranks = ", ".join(map(str, series.steps[:STEPS_MAX])), ", ".join(map(str, series.ranks[:RANKS_MAX]))
    return show(
        reader,
        "SELECT step, rank, round(duration_ns / 1e9, 6) AS seconds, round(compute_ns / 1e9, 6) AS compute_seconds, "
        f"round((duration_ns - busy_ns) / 1e9, 6) AS gap_seconds FROM steps WHERE job = {literal(job)} AND scope = 'step' AND "
        f"step IN ({steps}) AND rank IN ({ranks}) ORDER BY duration_ns DESC, step, rank",
    )


def places(reader: Reader, job: str, ranks: Sequence[int]) -> list[Member]:
    """Where these ranks are."""
    rows = reader.query(
        "SELECT rank, max(dp) AS dp, max(tp) AS tp, max(pp) AS pp, max(ep) AS ep, max(node) AS node, max(gpu_uuid) AS gpu FROM "
        f"steps WHERE job = {literal(job)} AND rank IN ({', '.join(map(str, ranks))}) GROUP BY rank ORDER BY rank"
    )
    return [Member(**row) for row in rows.to_pylist()]
