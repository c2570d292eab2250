"""How often steps are found without a hook: right, not at all, or wrong, beside the recipe of Greyhound on the same streams.

    python tests/bench/steps_without_hook.py [--first SEED] [--count N] [--json]

Made-up jobs (step_streams.py) with 0 to 5 % of records lost, evaluations, checkpoints and logged losses. `operations` has the
NCCL operations of a rank, `kernels` its kernels, `windows` those that windows of capture leave; `serving` has no steps. Right is
a job of which at least 98 % of the steps told hold one true end of a step. Greyhound's recipe is right where its period is within
10 % of the median step, with 200 lags and a gate of 0.7. No kernels are lost. Rules and settings were tried below seed 20,000.
`CPU` is the processor time of a kernel at some kernels a second, names, and seconds a step, read four times a second.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from step_streams import Stream, kernels, operations, serving

from warpline_agent.anchor_choice import from_operations
from warpline_agent.anchored import Anchored, Ended
from warpline_agent.anchors import Events, Kind
from warpline_agent.inferred_steps import HEAVY_BYTES_MIN, InferredSteps
from warpline_agent.kernels import NO_STEP, Kernels
from warpline_hook import ring

FIRST_SEED = 20_000
COUNT = 60
ROUND_NS = 250_000_000
UNCOUNTED = ("AllToAll", "Send", "Recv")
WINDOWS = (20, 200)
LAGS, GATE = 200, 0.7
COST_SECONDS = 60
COSTS = ((50_000, 150, 0.1), (50_000, 150, 0.5), (50_000, 2_000, 0.5), (5_000, 150, 0.5))
"""Kernels a second, names, seconds a step."""
RIGHT_SHARE = 0.98


def rounds(times: Any) -> Any:
    """Places at which an agent that looks every quarter of a second would cut the stream."""
    ends = np.searchsorted(times, np.arange(times[0] + ROUND_NS, times[-1], ROUND_NS))
    cuts = np.unique(np.r_[0, ends, len(times)])
    return zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)


def by_operations(stream: Stream) -> list[Ended]:
    """Steps told of a stream of NCCL operations."""
    kinds = [_kind(each.group, each.nranks, each.function, each.size) for each in stream.kinds]
    alike = {each: at for at, each in reversed(list(enumerate(each.function for each in stream.kinds)))}
    same = np.array(
        [alike[each.function] if each.function in UNCOUNTED else at for at, each in enumerate(stream.kinds)]
    )
    times = (stream.times * 1e9).astype(np.int64)
    anchored, told = Anchored(from_operations), []
    for begin, end in rounds(times):
        kind = same[stream.kind[begin:end]]
        part = Events(times[begin:end], kind, np.zeros(end - begin, np.int64), stream.sequence[begin:end])
        told += anchored.take(part, lambda at, kind=kind: kinds[kind[at]])  # type: ignore[misc]
    return told


def _kind(group: int, nranks: int, function: str, size: int) -> Kind:
    if function in UNCOUNTED:
        return Kind(group=group, counts=False)
    heavy = size >= HEAVY_BYTES_MIN
    reduces, gathers = function in ("AllReduce", "ReduceScatter"), function == "AllGather"
    return Kind((-nranks, function, size), group, size, heavy and reduces, heavy and gathers)


def by_kernels(stream: Stream, *, windows: bool) -> list[Ended]:
    """Steps told of a stream of kernels, all of them or what windows of capture leave."""
    names = tuple(sorted({each.name for each in stream.kinds}))
    name = np.array([names.index(each.name) for each in stream.kinds], dtype=np.int32)[stream.kind]
    duration = np.array([each.size for each in stream.kinds], dtype=np.int64)[stream.kind]
    times = (stream.times * 1e9).astype(np.int64)
    inferred, told, was_on = InferredSteps(), [], False
    for begin, end in rounds(times):
        on = not windows or _captured(inferred, int(times[begin]))
        if on and not was_on:
            inferred.window(int(times[begin]) - 1)
        was_on = on
        if on:
            told += inferred.take_kernels(_kernels(times[begin:end], duration[begin:end], name[begin:end], names))
    return [Ended(each.step, each.start_ns, each.duration_ns) for each in told]


def _captured(inferred: InferredSteps, at_ns: int) -> bool:
    word = inferred.control(ring.control(ring.TIME, ring.KERNELS, window=WINDOWS[0], period=WINDOWS[1]))
    unit_ns = int(ring.WINDOW_UNIT_SECONDS * 1e9)
    return at_ns % ((word >> 48 & 0x7FFF) * unit_ns) < (word >> 32 & 0xFFFF) * unit_ns


def _kernels(times: Any, duration: Any, name: Any, names: tuple[str, ...]) -> Kernels:
    none = np.zeros(len(times), np.int64)
    return Kernels(times, duration, name, none.astype(np.uint8), none.astype(np.int32), none, none + NO_STEP, names)


def verdict(stream: Stream, told: list[Ended]) -> str:
    """right, wrong, or cannot tell."""
    if not told:
        return "cannot tell"
    if not len(stream.ends):
        return "wrong"
    step = float(np.median(np.diff(stream.ends)))
    starts = np.array([each.start_ns for each in told]) / 1e9
    ends = starts + np.array([each.duration_ns for each in told]) / 1e9
    shares = []
    for shift in (
        np.linspace(-0.5, 0.5, 21) * step
    ):  # the end that is told may be anywhere in the step, but always there
        held = np.searchsorted(stream.ends, ends + shift, "right") - np.searchsorted(
            stream.ends, starts + shift, "right"
        )
        within = starts + shift >= stream.ends[0] - step
        shares.append(float((held == 1)[within].mean()) if within.any() else 0.0)
    return "right" if max(shares) >= RIGHT_SHARE else "wrong"


def greyhound(stream: Stream) -> str:
    """The autocorrelation of the numbers of operations: the first peak above the gate is the period."""
    large = np.array([each.size >= 1024 for each in stream.kinds])[stream.kind]
    numbers, times = stream.kind[large][:20_000].astype(float), stream.times[large][:20_000]
    if numbers.size < 2 * LAGS:
        return "cannot tell"
    apart = numbers - numbers.mean()
    power = float((apart * apart).mean()) or 1.0
    alike = [1.0, *(float((apart[:-lag] * apart[lag:]).mean()) / power for lag in range(1, LAGS + 1))]
    for lag in range(1, LAGS):
        if alike[lag] >= GATE and alike[lag - 1] <= alike[lag] >= alike[lag + 1]:
            if not len(stream.ends):
                return "wrong"
            period = float(np.median(times[lag:] - times[:-lag]))
            return "right" if abs(period / float(np.median(np.diff(stream.ends))) - 1) < 0.1 else "wrong"
    return "cannot tell"


def measure(first: int, count: int) -> dict[str, Counter[str]]:
    """Verdicts by stream and method."""
    found: dict[str, Counter[str]] = {}
    for seed in range(first, first + count):
        stream, idle = operations(seed), serving(seed)
        every, few = kernels(seed), kernels(seed, layers_max=2, steps_max=5000)
        verdicts = {
            "operations": verdict(stream, by_operations(stream)),
            "operations, Greyhound": greyhound(stream),
            "serving": verdict(idle, by_operations(idle)),
            "serving, Greyhound": greyhound(idle),
            "kernels": verdict(every, by_kernels(every, windows=False)),
            "windows": verdict(few, by_kernels(few, windows=True)),
        }
        for name, each in verdicts.items():
            found.setdefault(name, Counter())[each] += 1
            if each == "wrong" and "Greyhound" not in name:
                print(f"wrong: {name} of seed {seed}, {stream.job}", file=sys.stderr)
    return found


def cost(rate: int, names: int, step: float) -> float:
    """Microseconds of CPU a kernel, of a job with an optimizer of ten kernels at the end of each step."""
    some = np.random.default_rng(1)
    rare = np.r_[names - 10, [names - 1] * 10]
    name = np.r_[some.integers(0, names - 10, int(rate * step) - rare.size), rare].astype(np.int32)
    name = np.tile(name, int(COST_SECONDS / step))
    times = 10**18 + (np.arange(name.size) / rate * 1e9).astype(np.int64)
    told = (*(f"gemm_{each}" for each in range(names - 1)), "multi_tensor_apply_kernel<FusedAdam>")
    parts = [
        _kernels(times[begin:end], np.full(end - begin, 15_000), name[begin:end], told) for begin, end in rounds(times)
    ]
    inferred, before = InferredSteps(), time.process_time_ns()
    for part in parts:
        inferred.take_kernels(part)
    return (time.process_time_ns() - before) / 1e3 / name.size


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=FIRST_SEED)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = measure(chosen.first, chosen.count)
    costs = {f"{rate} a second, {names} names, {step} s": cost(rate, names, step) for rate, names, step in COSTS}
    if chosen.json:
        print(json.dumps({**found, "us_per_kernel": costs}, indent=1))
        return
    for name, counts in found.items():
        print(f"{name:24}", ", ".join(f"{each} {counts[each]}" for each in ("right", "cannot tell", "wrong")))
    for name, microseconds in costs.items():
        print(f"CPU, {name}: {microseconds:.3f} us a kernel")


if __name__ == "__main__":
    main()
