"""Energy on recorded data: a training node, a cluster's distributions, runs under power limits; each checked by other means."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import itertools
import json
import pickle
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warpline_analysis.energy.headroom import Powers, best, capped, curves
from warpline_analysis.energy.spikes import of_ratios
from warpline_cli.main import main
from warpline_collector.accounting import account_all
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.tables import DEVICE_SAMPLES

CAPTURES = ("b443a1c3_gpu_metrics", "f4f827dd_baseline_gpu_metrics")
LOW_WATTS = 80.0
Series = dict[int, list[tuple[int, float, float]]]
"""By GPU: ms, utilisation, watts."""
Ask = Callable[..., Any]


def capture(data: Path, name: str) -> Series:
    """A node's nvidia-smi log, read without warpline."""
    found: Series = defaultdict(list)
    with gzip.open(data / "D-telemetry" / "nanogpt_8gpu" / f"{name}.csv.gz", "rt") as stream:
        for row in csv.DictReader(stream, skipinitialspace=True):
            at = round(datetime.fromisoformat(row["timestamp"]).timestamp() * 1000)
            found[int(row["gpu_index"])].append((at, float(row["utilization_gpu_percent"]), float(row["power_W"])))
    return found


def low_pieces(series: list[tuple[int, float, float]]) -> list[list[tuple[int, int, float]]]:
    """Times of low activity of 5 s and more, as their pieces from sample to sample: from and to in ms, joules."""
    found: list[list[tuple[int, int, float]]] = [[]]
    for (at, utilization, watts), (then, _, later) in itertools.pairwise(series):
        if utilization < 5 and then - at <= 2000:
            found[-1].append((at, then, (watts + later) / 2 * (then - at) / 1000))
        else:
            found.append([])
    return [pieces for pieces in found if pieces and pieces[-1][1] - pieces[0][0] >= 5000]


@pytest.fixture(scope="module", params=CAPTURES)
def recorded(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Series, Path]:
    """A capture, and a store with the account of it."""
    series = capture(data, request.param)
    place = {"node": "node0", "source": "nvidia_smi"}
    rows = [
        {**place, "gpu_index": gpu, "time_ns": at * 10**6, "gpu_utilization_percent": utilization, "power_watts": watts}
        for gpu, samples in series.items()
        for at, utilization, watts in samples
    ]
    directory = tmp_path_factory.mktemp("recorded") / "store"
    store = DuckDBStore(directory)
    store.write([Batch(DEVICE_SAMPLES.name, "nvidia_smi", DEVICE_SAMPLES.from_rows(rows))])
    with CatalogReader(directory) as reader:
        account_all(store, reader)
    store.close()
    return series, directory


@pytest.fixture
def ask(recorded: tuple[Series, Path], capsys: pytest.CaptureFixture[str]) -> Ask:
    def run(*words: str) -> str:
        assert main(["power", *words, "--store", str(recorded[1]), "--since", "2h"]) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.data
def test_a_node_without_word_on_programs_gets_both_bounds(recorded: tuple[Series, Path], ask: Ask) -> None:
    """Neither residency nor an energy counter: idle is 0 at least, and at most what flat samples of 5 s and more add up to."""
    series, _ = recorded
    low = {gpu: sum(pieces[-1][1] - pieces[0][0] for pieces in low_pieces(each)) / 1000 for gpu, each in series.items()}
    observed = {
        gpu: sum(then - at for (at, *_), (then, *_) in itertools.pairwise(each) if then - at <= 2000) / 1000
        for gpu, each in series.items()
    }
    found = {line["key"]: line for line in json.loads(ask("report", "--by", "gpu", "--json"))["lines"]}
    assert len(found) == 8
    for gpu, each in series.items():
        line = found[f"node0 {gpu}"]
        assert set(line["execution_idle_share"].values()) == {0.0}
        assert line["execution_idle_share_upper"]["5s"] == pytest.approx(low[gpu] / observed[gpu])
        joules = sum((a + b) / 2 * (v - u) / 1000 for (u, _, a), (v, _, b) in itertools.pairwise(each) if v - u <= 2000)
        assert sum(line["joules"].values()) == pytest.approx(joules) and line["counted_joules"] == 0
    assert "residency unknown: up to" in ask("report")


@pytest.mark.data
def test_what_lower_clocks_would_have_saved_there_is_nothing_to_a_known_most(
    recorded: tuple[Series, Path], ask: Ask
) -> None:
    """At most: joules above 80 W from the fourth second of each idle time on, five after the one before; nothing for sure."""
    series, _ = recorded
    most, wakes = 0.0, 0
    for each in series.values():
        cool = 0
        for pieces in low_pieces(each):
            down, end = max(pieces[0][0] + 3000, cool), pieces[-1][1]
            cool = end + 5000 if down < end else cool
            wakes += down < end
            for _, inside in itertools.groupby(pieces, key=lambda piece: piece[0] // 600_000):
                parts = list(inside)
                seconds = (parts[-1][1] - parts[0][0]) / 1000
                watts = sum(joules for *_, joules in parts) / seconds
                low = max(0.0, (parts[-1][1] - max(down, parts[0][0])) / 1000)
                most += max(watts - LOW_WATTS, 0.0) * low
    document = json.loads(ask("plan", "--json", "--low-watts", str(LOW_WATTS)))
    guard = next(each for each in document["proposals"] if each["name"] == "guard_sm")
    assert guard["saved_joules"] == pytest.approx([0.0, most]) and guard["wakes"] == [0.0, wakes] and most > 0
    assert any("unknown residency" in words for words in guard["assumptions"])


@pytest.mark.data
def test_without_an_empty_gpus_power_no_saving_is_claimed(ask: Ask) -> None:
    """No GPU is known to be empty there, so that the power with low clocks is not known either."""
    proposals = {each["name"]: each for each in json.loads(ask("plan", "--json"))["proposals"]}
    for name in ("guard_sm", "guard_sm_memory", "consolidation"):
        assert proposals[name]["saved_joules"] in (None, [0.0, 0.0])
    assert proposals["guard_sm"]["saved_joules"] is None and proposals["guard_sm"]["unknown_joules"] > 0
    assert proposals["cap_80"]["saved_joules"] is None, "the capture tells no power limit"


class _NumbersOnly(pickle.Unpickler):
    """AcmeTrace's pickles hold numpy arrays and nothing else; anything else is refused."""

    _ALLOWED = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return getattr(importlib.import_module(module.replace("numpy.core", "numpy._core")), name)


def distribution(data: Path, name: str, at: int = 0) -> tuple[Any, Any]:
    """Values and the percentage of samples up to each."""
    read = (data / "D-telemetry" / "acmetrace" / f"{name}.pkl").read_bytes()
    arrays = _NumbersOnly(io.BytesIO(read)).load()
    return arrays[at], arrays[at + 1]


def spread(values: Any, percent: Any) -> Powers:
    """A cluster's day of power as seconds at each of its 1000 quantiles; A100 of 400 W."""
    return Powers((values[1:] + values[:-1]) / 2, np.diff(percent) * 864.0, 400.0, 60.0)


@pytest.mark.data
def test_a_clusters_power_is_two_humps_and_a_cap_cuts_the_upper_one(data: Path) -> None:
    """AcmeTrace, Seren: a third of GPUs idle near 60 to 70 W, a twentieth above 407 W; bounds of a cap against the integral."""
    values, percent = distribution(data, "gpu_power_seren")
    powers = spread(values, percent)
    assert powers.seconds.sum() == pytest.approx(86_400)
    assert powers.quantile(0.3) == pytest.approx(np.interp(30, percent, values), abs=0.5)
    assert powers.quantile(0.95) == pytest.approx(np.interp(95, percent, values), abs=0.5)
    assert powers.near_share == pytest.approx(1 - np.interp(380, values, percent) / 100, abs=0.002)
    fine = np.interp(np.linspace(0, 100, 200_001), percent, values)
    for cap in (240.0, 320.0, 380.0):
        found = capped(powers, cap)
        cut = np.maximum(fine - cap, 0).mean() * 86_400
        slower = np.maximum((fine - 60) / (cap - 60) - 1, 0).mean() * 86_400
        assert found.saved_at_most == pytest.approx(cut, rel=0.01)
        assert found.added_seconds_at_most == pytest.approx(slower, rel=0.01)
        assert found.saved_at_least == pytest.approx(cut - cap * slower, rel=0.03)
        assert found.saved_at_least is not None and found.saved_at_least < found.saved_at_most


@pytest.mark.data
def test_a_clusters_spike_profile_is_the_distribution_above_half_the_limit(data: Path) -> None:
    """Power over 400 W in bins of 0.05. 69 % of samples lie below half the limit, though only 32 % show no utilisation."""
    values, percent = distribution(data, "gpu_power_seren")
    fine = np.interp(np.linspace(0, 100, 100_001), percent, values) / 400.0
    found = of_ratios(fine)
    edges = np.interp(np.linspace(0.5, 2.0, 31) * 400, values, percent, right=100.0)
    assert found.histogram == pytest.approx(np.diff(edges) / (100 - edges[0]), abs=0.005)
    used, of = distribution(data, "util_gpu_seren")
    assert found.below / len(fine) == pytest.approx(edges[0] / 100, abs=1e-3) == pytest.approx(0.694, abs=1e-3)
    assert float(np.interp(4.999, used, of)) == pytest.approx(31.7, abs=0.1)


def zeus(data: Path, gpu: str) -> str:
    return (data / "D-telemetry" / "zeus" / f"summary_power_{gpu}.csv").read_text()


@pytest.mark.data
@pytest.mark.parametrize(
    ("gpu", "workloads", "runs", "mean_saving"), [("a40", 53, 453, 0.120), ("v100", 68, 476, 0.096)]
)
def test_the_best_limit_of_each_workload_is_the_one_a_search_finds(
    data: Path, gpu: str, workloads: int, runs: int, mean_saving: float
) -> None:
    """Zeus: energy a job saves under the best limit that costs it 5 % of its time at most, over all its workloads."""
    table: Mapping[str, dict[float, tuple[float, float]]] = defaultdict(dict)
    for row in csv.reader(zeus(data, gpu).splitlines()[1:]):
        table[" ".join(row[:4])][float(row[4])] = float(row[5]), float(row[6])
    read = curves(zeus(data, gpu).splitlines())
    assert (len(read), sum(map(len, read.values()))) == (workloads, runs)
    savings = []
    for name, limits in table.items():
        seconds, watts = limits[max(limits)]
        allowed = {at: 1 - t * w / (seconds * watts) for at, (t, w) in limits.items() if t <= 1.05 * seconds}
        found = best(read[name], 0.05)
        assert found.saving == pytest.approx(max(allowed.values())) == pytest.approx(allowed[found.limit_watts])
        savings.append(found.saving)
    assert np.mean(savings) == pytest.approx(mean_saving, abs=0.001)


@pytest.mark.data
@pytest.mark.parametrize(("gpu", "held", "tried"), [("a40", 55, 56), ("v100", 108, 110)])
def test_what_a_cap_did_lies_within_the_bounds_of_one_that_was_not_tried(
    data: Path, gpu: str, held: int, tried: int
) -> None:
    """From the power of the highest limit alone: the time that caps from 60 % of it on took, where they cut anything.

    The mean power of a run stands for its distribution, 40 W for an idle GPU, and 2 % for what runs differ by.
    """
    within, seen = 0, 0
    for curve in curves(zeus(data, gpu).splitlines()).values():
        top = curve[0]
        for run in curve:
            if run.limit_watts >= 0.6 * top.limit_watts and run.limit_watts < top.watts:
                powers = Powers(np.array([top.watts]), np.array([top.seconds]), top.limit_watts, 40.0)
                added = capped(powers, run.limit_watts).added_seconds_at_most
                assert added is not None
                seen += 1
                within += run.seconds <= 1.02 * (top.seconds + added)
    assert seen == tried and within >= held
