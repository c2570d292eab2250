"""What a demonstration relies on: nodes of a made-up job agree without talking, and each fault shows where it should."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from warpline_agent.sources.synthetic import Synthetic, SyntheticConfig, communicator, gpu
from warpline_proto.batch import Batch

START_NS = 1_700_000_000_000_000_000
Tables = dict[str, list[dict[str, Any]]]


class Clock:
    """Nanoseconds since the epoch, moved by hand."""

    def __init__(self) -> None:
        self.now_ns = START_NS

    def __call__(self) -> int:
        return self.now_ns


def play(seconds: float = 40.0, nodes: int = 2, **settings: Any) -> Tables:
    """Rows of all nodes of one job, each from a source of its own."""
    tables: Tables = defaultdict(list)
    for index in range(nodes):
        clock = Clock()
        chosen: dict[str, Any] = {"job": "j", "replicas": 4, "stages": 2, **settings}
        config = SyntheticConfig(**chosen, node=f"n{index}", node_index=index, start_ns=START_NS)
        source = Synthetic(config, clock)
        source.open()
        for _ in range(4):
            clock.now_ns += int(seconds / 4 * 1e9)
            for table, batch, dropped in source.read():
                assert Batch(table, "synthetic", batch).dropped == dropped == 0
                tables[table] += batch.to_pylist()
        source.close()
    return tables


def compute(tables: Tables, step: int) -> dict[int, int]:
    """Compute self-time of each rank in one step, ns."""
    found: dict[int, int] = defaultdict(int)
    for row in tables["phases"]:
        if row["step"] == step:
            found[row["rank"]] += row["duration_ns"]
    return found


def transfers(tables: Tables, group: str, steps: range) -> list[int]:
    """Shortest duration over the ranks of each operation of a group, ns."""
    durations: dict[int, list[int]] = defaultdict(list)
    for row in tables["collectives"]:
        if row["group_name"] == group and row["step"] in steps:
            durations[row["sequence"]].append(row["duration_ns"])
    return [min(each) for each in durations.values()]


def iteration(tables: Tables, steps: range) -> float:
    return float(np.median([row["duration_ns"] for row in tables["steps"] if row["step"] in steps]))


def test_nodes_agree_on_steps_and_operations_without_talking() -> None:
    tables = play()
    ends: dict[int, set[int]] = defaultdict(set)
    for row in tables["steps"]:
        ends[row["step"]].add(row["duration_ns"])
    assert len(ends) >= 40
    assert {len(each) for each in ends.values()} == {1}
    members: dict[tuple[str, int], set[int]] = defaultdict(set)
    for row in tables["collectives"]:
        members[row["communicator"], row["sequence"]].add(row["rank"])
    complete = {(name, len(ranks)) for (name, _), ranks in members.items()}
    assert complete == {
        (communicator("j", 1, "world"), 8),
        (communicator("j", 1, "dp0"), 4),
        (communicator("j", 1, "dp1"), 4),
    }


def test_each_node_keeps_its_own_clock() -> None:
    tables = play()
    starts: dict[str, int] = {row["clock"]: row["start_ns"] for row in tables["steps"] if row["step"] == 3}
    assert set(starts) == {"realtime@n0", "realtime@n1"}
    assert 0 < abs(starts["realtime@n0"] - starts["realtime@n1"]) <= 8_000_000


def test_a_step_tells_the_same_in_every_table() -> None:
    tables = play(nodes=1)
    summed: dict[int, int] = defaultdict(int)
    for row in tables["kernel_clusters"]:
        if row["step"] == 5 and row["category"] == "compute":
            summed[row["rank"]] += row["sum_ns"]
    for row in tables["steps"]:
        if row["step"] == 5:
            assert row["compute_ns"] == summed[row["rank"]]
            assert row["compute_ns"] == pytest.approx(compute(tables, 5)[row["rank"]], rel=0.05)
            assert row["busy_ns"] + row["idle_ns"] == row["span_ns"] <= row["duration_ns"]
    named = {row["kernel_id"] for row in tables["kernel_names"]}
    assert named == {row["kernel_id"] for row in tables["kernel_clusters"]}


def test_a_straggler_computes_longer_and_waits_least() -> None:
    tables = play(fault="compute_straggler", victim=5, start_step=10, factor=1.6)
    before, after = compute(tables, 5), compute(tables, 20)
    peers = (1, 3, 7)
    assert before[5] == pytest.approx(np.median([before[rank] for rank in peers]), rel=0.05)
    assert after[5] == pytest.approx(1.6 * np.median([after[rank] for rank in peers]), rel=0.05)
    waits: dict[int, int] = defaultdict(int)
    for row in tables["collectives"]:
        if row["step"] == 20 and row["group_name"] == "dp1":
            waits[row["rank"]] += row["duration_ns"]
    assert min(waits, key=lambda rank: waits[rank]) == 5
    assert waits[1] > 20 * waits[5]
    assert iteration(tables, range(12, 25)) > 1.4 * iteration(tables, range(10))


def test_a_slow_link_hardly_moves_the_iteration() -> None:
    tables = play(fault="link_degradation", victim=1, start_step=10, factor=3.0)
    before, after = transfers(tables, "dp1", range(10)), transfers(tables, "dp1", range(10, 30))
    assert np.median(after) == pytest.approx(3.0 * np.median(before), rel=0.1)
    sibling = transfers(tables, "dp0", range(10, 30))
    assert np.median(sibling) == pytest.approx(np.median(before), rel=0.1)
    assert iteration(tables, range(10, 30)) == pytest.approx(iteration(tables, range(10)), rel=0.02)


def test_an_idle_server_keeps_clocks_and_power_up() -> None:
    tables = play(80.0, serving=True, fault="execution_idle", start_step=10)
    served = [row for row in tables["device_samples"] if row["job"] == "j-serving"]
    mine = [row for row in served if row["gpu_uuid"] == gpu("n0", 4)]
    idle = [row for row in mine if row["gpu_utilization_percent"] == 0]
    assert len(idle) >= 40
    assert all(row["resident_processes"] == 1 and row["sm_clock_mhz"] == 1980 for row in idle)
    assert all(110 < row["power_watts"] < 150 for row in idle)
    busy = [row for row in mine if row not in idle]
    assert min(row["power_watts"] for row in busy) > 250
    others = [row for row in tables["device_samples"] if row["job"] == "j"]
    assert min(row["sm_active_percent"] for row in others) > 50


def test_imbalances_hit_a_whole_stage_or_another_replica_each_time() -> None:
    staged = compute(play(fault="stage_imbalance", victim=1, factor=1.5), 10)
    assert min(staged[rank] for rank in (1, 3, 5, 7)) > 1.3 * max(staged[rank] for rank in (0, 2, 4, 6))
    tables = play(fault="data_imbalance", factor=1.5)
    slowest = {max(spent, key=lambda rank: spent[rank]) // 2 for step in range(20) if (spent := compute(tables, step))}
    assert len(slowest) > 2


def test_device_readings_come_once_a_second_and_energy_grows_with_power() -> None:
    tables = play(nodes=1)
    mine = [row for row in tables["device_samples"] if row["gpu_uuid"] == gpu("n0", 0)]
    assert set(np.diff([row["time_ns"] for row in mine])) == {1_000_000_000}
    gained = np.diff([row["energy_joules"] for row in mine])
    assert gained == pytest.approx([row["power_watts"] for row in mine[1:]])


def test_made_up_time_catches_up_with_the_wall_clock_and_stays_with_it() -> None:
    clock = Clock()
    source = Synthetic(SyntheticConfig(start_ns=START_NS, origin_ns=START_NS - 90 * 10**9, speed_up=10.0), clock)
    source.open()
    newest = []
    for _ in range(4):
        clock.now_ns += 5 * 10**9
        ends = [
            row["start_ns"] + row["duration_ns"]
            for table, batch, _ in source.read()
            if table == "steps"
            for row in batch.to_pylist()
        ]
        newest.append((clock.now_ns - max(ends)) / 1e9)
    assert newest[0] == pytest.approx(45.0, abs=1.0)
    assert newest[1:] == pytest.approx([0.5, 0.5, 0.5], abs=0.51)


def test_a_restart_tells_no_step_twice() -> None:
    clock = Clock()
    config = SyntheticConfig(start_ns=START_NS)
    told: list[int] = []
    for _ in range(3):
        source = Synthetic(config, clock)
        source.open()
        clock.now_ns += 10 * 10**9
        told += [row["step"] for table, batch, _ in source.read() if table == "steps" for row in batch.to_pylist()]
        source.close()
    assert len(told) == 4 * len(set(told))


def test_seeds_and_settings_that_make_no_job_are_refused() -> None:
    for wrong in ({"fault": "nothing"}, {"node_index": 1}, {"speed_up": 0.0}, {"stages": 0}):
        with pytest.raises(ValueError):
            SyntheticConfig(**wrong)
