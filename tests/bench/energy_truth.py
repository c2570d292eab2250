"""The account against an independent computation, over made-up telemetry whose truth is known.

Every seed is 6 GPUs of one node over an hour: busy, idle with a program, empty, in turns of 0.5 to 90 s at any moment. They are
sampled once a second with jitter and differ in what they lack: one has a counter that begins anew and is often not read, one no
counter but averaged power, one (as under MIG) no utilisation, one a counter that lags by 100 ms, one misses stretches of
samples; programs are listed every 30 s.

`states_error_joules` is the largest difference, over seeds, GPUs and states, between what `account` writes and what the plain
loops of this file find in the same samples. The difference from the truth between the samples is told beside it.
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import duckdb
import pyarrow as pa

from warpline_analysis.energy.account import account, windows
from warpline_proto.tables import DEVICE_SAMPLES, TABLES

NS: Final = 10**9
BEGIN: Final = 1_700_000_400
SECONDS: Final = 3600
KINDS: Final = ("plain", "resets", "averaged", "mig", "lagging", "gaps")
WATTS: Final = {"active": 450.0, "execution_idle": 110.0, "deep_idle": 40.0}
Sums = dict[tuple[str, str], tuple[float, float]]
"""(GPU, state) -> seconds, joules."""


class Rows:
    """A Reader over rows."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._connection = duckdb.connect(config={"threads": "1"})
        for name, table in TABLES.items():
            listed = rows if name == DEVICE_SAMPLES.name else []
            self._connection.register(name, pa.Table.from_batches([table.from_rows(listed)]))

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        return self._connection.sql(sql, params=list(parameters)).to_arrow_table()


class Truth:
    """What one GPU really does: states from moment to moment, each with its power."""

    def __init__(self, draw: random.Random) -> None:
        self.starts, self.states, self.joules = [0.0], ["active"], [0.0]
        while self.starts[-1] < SECONDS + 1:
            length = draw.choice((draw.uniform(0.5, 8), draw.uniform(5, 90)))
            state = draw.choice([each for each in WATTS if each != self.states[-1]])
            self.joules.append(self.joules[-1] + WATTS[self.states[-1]] * length)
            self.starts.append(self.starts[-1] + length)
            self.states.append(state)

    def at(self, second: float) -> str:
        return self.states[bisect_right(self.starts, max(second, 0.0)) - 1]

    def drawn(self, second: float) -> float:
        """Joules since the beginning."""
        place = bisect_right(self.starts, max(second, 0.0)) - 1
        return self.joules[place] + WATTS[self.states[place]] * (max(second, 0.0) - self.starts[place])


def telemetry(seed: int) -> tuple[list[dict[str, Any]], dict[str, Truth]]:
    """Rows of device_samples by GPU and time, and the truth by GPU."""
    draw = random.Random(seed)
    truths = {f"GPU-{kind}": Truth(draw) for kind in KINDS}
    rows: list[dict[str, Any]] = []
    for index, (gpu, truth) in enumerate(truths.items()):
        rows += _sampled(draw, KINDS[index], gpu, index, truth)
    return rows, truths


def _sampled(draw: random.Random, kind: str, gpu: str, index: int, truth: Truth) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    base, silent = 1e6, 0.0
    for second in range(SECONDS):
        at = second + draw.uniform(-0.05, 0.05)
        if kind == "gaps" and draw.random() < 0.01:
            silent = at + draw.uniform(1, 12)
        if at < silent:
            continue
        if kind == "resets" and draw.random() < 0.002:
            base = -truth.drawn(at)
        state, lag = truth.at(at), 0.1 if kind == "lagging" else 0.0
        averaged = (truth.drawn(at) - truth.drawn(at - 1.0)) / min(1.0, max(at, 1e-9)) if at > 1 else WATTS[state]
        counter = base + truth.drawn(at - lag)
        read = kind not in ("averaged",) and not (kind == "resets" and draw.random() < 0.7)
        busy = state == "active"
        made.append(
            {
                "node": "n", "source": "nvml", "gpu_uuid": gpu, "gpu_index": index, "gpu_name": "H100", "job": "j",
                "time_ns": round((BEGIN + at) * NS) , "power_watts": averaged if kind == "averaged" else WATTS[state],
                "power_method": "average" if kind == "averaged" else "instant",
                "energy_joules": counter if read else None,
                "gpu_utilization_percent": None if kind == "mig" else 95.0 if busy else 0.0,
                "resident_processes": (0 if state == "deep_idle" else 1) if second % 30 == 0 else None,
            }
        )  # fmt: skip
    return made


def accounted(rows: Sequence[Mapping[str, Any]]) -> Sums:
    """Seconds and joules by GPU and state, of the account of all windows."""
    reader = Rows(rows)
    found: Sums = defaultdict(lambda: (0.0, 0.0))
    for window_ns in windows(BEGIN * NS - NS, (BEGIN + SECONDS) * NS):
        for row in account(reader, window_ns, {}, 1).to_pylist():
            key = row["gpu_uuid"], row["state"]
            found[key] = found[key][0] + row["seconds"], found[key][1] + (row["joules"] or 0.0)
    return dict(found)


def counted(rows: Sequence[Mapping[str, Any]]) -> Sums:
    """The same by plain loops, from the definition alone."""
    found: Sums = defaultdict(lambda: (0.0, 0.0))
    by_gpu: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_gpu[row["gpu_uuid"]].append(row)
    for gpu, listed in by_gpu.items():
        joules = _joules(listed)
        for (state, seconds), each in zip(_states(listed), joules, strict=True):
            found[gpu, state] = found[gpu, state][0] + seconds, found[gpu, state][1] + each
    return dict(found)


def _states(listed: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """State and seconds from each sample to the next."""
    told: list[list[Any]] = []
    readings = [
        (row["time_ns"], row["resident_processes"] > 0) for row in listed if row["resident_processes"] is not None
    ]
    for row, later in itertools.pairwise(listed):
        seconds = (later["time_ns"] - row["time_ns"]) / NS
        told.append([_alone(row, _resident(readings, row["time_ns"])) if seconds <= 2.0 else "unobserved", seconds])
    begin = 0
    while begin < len(told):
        end = begin
        low = told[begin][0] in ("execution_idle", "low_unknown")
        while end < len(told) and (told[end][0] in ("execution_idle", "low_unknown")) == low:
            end += 1
        if low and sum(seconds for _, seconds in told[begin:end]) < 5.0:
            for each in told[begin:end]:
                each[0] = "active"
        begin = end
    return [(state, seconds) for state, seconds in told]


def _alone(row: Mapping[str, Any], resident: bool | None) -> str:
    utilization = row["gpu_utilization_percent"]
    if utilization is None:
        return "deep_idle" if resident is False else "blind"
    if utilization >= 5.0:
        return "active"
    return {True: "execution_idle", False: "deep_idle", None: "low_unknown"}[resident]


def _resident(readings: Sequence[tuple[int, bool]], time_ns: int) -> bool | None:
    """Between two lists of programs that agree and are near; after the last one as long as it is near."""
    place = bisect_right(readings, (time_ns, True)) - 1
    earlier = readings[place] if place >= 0 else None
    exact = earlier is not None and earlier[0] == time_ns
    later = earlier if exact else readings[place + 1] if place + 1 < len(readings) else None
    near = [each[1] for each in (earlier, later) if each is not None and abs(each[0] - time_ns) <= 65 * NS]
    return near[0] if near and len(set(near)) == 1 else None


def _joules(listed: Sequence[Mapping[str, Any]]) -> list[float]:
    """From each sample to the next: growth of the counter, spread by power where it was not read; power where it began anew."""
    by_power = [
        (row["power_watts"] + later["power_watts"]) / 2 * (later["time_ns"] - row["time_ns"]) / NS
        for row, later in itertools.pairwise(listed)
    ]
    near = [(later["time_ns"] - row["time_ns"]) / NS <= 2.0 for row, later in itertools.pairwise(listed)]
    found = [each if close else 0.0 for each, close in zip(by_power, near, strict=True)]
    read = [at for at, row in enumerate(listed) if row["energy_joules"] is not None]
    for first, last in itertools.pairwise(read):
        grown = listed[last]["energy_joules"] - listed[first]["energy_joules"]
        whole = sum(by_power[first:last])
        if grown >= 0 and whole > 0:
            for at in range(first, last):
                found[at] = grown * by_power[at] / whole
    return found


def really(truth: Truth) -> dict[str, float]:
    """Joules by state between the first and the last sample, low activity of under 5 s counted as active."""
    sums: dict[str, float] = defaultdict(float)
    edges = [*truth.starts, float("inf")]
    for begin, end, state in zip(edges, edges[1:], truth.states, strict=False):
        inside = max(0.0, min(end, SECONDS - 1) - begin)
        short = state == "execution_idle" and end - begin < 5.0
        sums["active" if short else state] += WATTS[state] * inside
    return sums


def figures(quick: bool) -> dict[str, Any]:
    """Over 3 seeds, else 20. Errors against the truth are the largest, in percent of all joules of the GPU."""
    joules, seconds = 0.0, 0.0
    whole: dict[str, float] = defaultdict(float)
    by_state: dict[str, float] = defaultdict(float)
    seeds = range(3 if quick else 20)
    for seed in seeds:
        rows, truths = telemetry(seed)
        account_of, plain = accounted(rows), counted(rows)
        for key in account_of.keys() | plain.keys():
            one, other = account_of.get(key, (0.0, 0.0)), plain.get(key, (0.0, 0.0))
            seconds, joules = max(seconds, abs(one[0] - other[0])), max(joules, abs(one[1] - other[1]))
        for gpu, truth in truths.items():
            real = really(truth)
            total = sum(real.values())
            mine = {state: each[1] for (name, state), each in account_of.items() if name == gpu}
            whole[gpu] = max(whole[gpu], 100 * abs(sum(mine.values()) - total) / total)
            if gpu == "GPU-plain":
                for state in real:
                    by_state[state] = max(by_state[state], 100 * abs(mine.get(state, 0.0) - real[state]) / total)
    return {
        "states_error_joules": joules,
        "states_error_seconds": seconds,
        "seeds": len(seeds),
        "truth_error_percent_by_gpu": dict(whole),
        "truth_error_percent_by_state": dict(by_state),
    }
