"""Recorded NCCL logs and nccl-tests outputs give what their catalogue says of them."""

from __future__ import annotations

import statistics
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from warpline_agent.recordings.archive import Limits, file_input
from warpline_agent.source import Reading
from warpline_agent.sources import FORMATS
from warpline_agent.sources.nccl_log import NcclLog
from warpline_proto.tables import TABLES

VIEWS = Path(__file__).parents[2] / "collector" / "warpline_collector" / "views.sql"


@cache
def reading(path: Path) -> Reading:
    return NcclLog().read(file_input(path, str(path), Limits()))


def table(read: Reading, name: str) -> list[dict[str, Any]]:
    return [row for rows in read.rows if rows.table == name for row in rows.batch.to_pylist()]


LOGS: dict[str, dict[str, Any]] = {
    "aws/nccl-tests_p4d_2x8_efa_slurm-104.out.gz": {
        "lines": 887,
        "nccl_info_lines": 734,
        "nccl_versions": {"2.18.3+cuda12.2": 1},
        "networks": {"AWS Libfabric": 16},
        "init_complete": {"16": 16},
        "destroy_complete": 16,
        "coll_channels": {"8": 16},
        "average_bus_gigabytes_per_second": 20.2635,
        "out_of_bounds": 0,
        "result_rows": 29,
        "peak_out_of_place_bus_gigabytes_per_second": 80.59,
    },
    "bigscience/all_reduce_bench_16node_64xV100_ib.txt.gz": {
        "lines": 3145,
        "nccl_info_lines": 1365,
        "nccl_versions": {"2.7.8+cuda10.2": 1},
        "networks": {"IB": 64},
        "init_complete": {"64": 64},
        "coll_channels": {"4": 64},
        "bench_results": 320,
        "world_size": 64,
    },
    "bigscience/all_reduce_bench_1node_4xV100_32gb.txt.gz": {
        "lines": 264,
        "nccl_info_lines": 149,
        "nccl_versions": {"2.7.8+cuda10.2": 1},
        "networks": {"IB": 4},
        "init_complete": {"4": 4},
        "coll_channels": {"12": 4},
        "bench_results": 20,
    },
    "bigscience/all_reduce_bench_4node_32xA100.txt.gz": {
        "lines": 1424,
        "nccl_info_lines": 507,
        "nccl_versions": {"2.10.3+cuda11.3": 1},
        "networks": {"IB": 32},
        "init_complete": {"32": 32},
        "coll_channels": {"2": 32},
        "bench_results": 160,
    },
    "bigscience/megatron_deepspeed_zero_16node_64gpu.out.gz": {
        "lines": 6198,
        "nccl_info_lines": 4433,
        "nccl_versions": {"2.7.8+cuda10.2": 19},
        "networks": {"IB": 64},
        "init_complete": {"16": 64, "64": 64, "4": 64},
        "coll_channels": {"2": 64, "4": 64, "12": 64},
        "iterations": 4,
        "world_size": 64,
    },
    "inferencex/vllm_b200_tp8_conc32_server.log.gz": {
        "lines": 2131,
        "nccl_info_lines": 1252,
        "nccl_versions": {"2.27.5+cuda12.9": 8},
        "networks": {"IB": 24},
        "init_complete": {"8": 24},
        "destroy_complete": 24,
        "coll_channels": {"32": 24},
        "torn_lines": 10,
    },
    "nccl-docs/logging_line170.log": {"lines": 8, "nccl_info_lines": 8, "networks": {"IB": 1}},
    "nccl-docs/logging_line183.log": {"lines": 4, "nccl_info_lines": 4},
    "nccl-docs/logging_line192.log": {"lines": 2, "nccl_info_lines": 2, "operation_lines": 2},
    "nccl-docs/logging_line199.log": {"lines": 4, "nccl_info_lines": 4},
    "nccl-docs/logging_line208.log": {"lines": 3, "nccl_info_lines": 3},
    "nccl-docs/logging_line216.log": {"lines": 8, "nccl_info_lines": 8, "destroy_complete": 4},
    "nccl-docs/logging_line229.log": {"lines": 6, "nccl_info_lines": 6},
    "nccl-docs/logging_line240.log": {"lines": 1, "nccl_info_lines": 1},
    "nccl-docs/logging_line246.log": {"lines": 2, "nccl_info_lines": 2},
    "nccl-docs/logging_line253.log": {"lines": 11, "nccl_info_lines": 11},
    "nccl-docs/logging_line269.log": {"lines": 4, "call_lines": 2},
    "nccl-docs/logging_line278.log": {"lines": 1, "nccl_info_lines": 1},
    "nccl-docs/logging_line284.log": {"lines": 2, "nccl_info_lines": 2},
    "nccl-docs/logging_line291.log": {"lines": 5, "nccl_info_lines": 5},
    "nccl-docs/logging_line301.log": {"lines": 4, "nccl_info_lines": 4},
    "nccl-docs/logging_line310.log": {"lines": 3, "nccl_info_lines": 3, "operation_channels": {"0..31": 3}},
    "nccl-docs/logging_line318.log": {"lines": 3, "nccl_info_lines": 3},
    "nccl-docs/logging_line69.log": {"lines": 1, "nccl_warn_lines": 1},
    "nccl-docs/logging_line75.log": {"lines": 6, "nccl_info_lines": 6, "networks": {"IB": 1}},
    "nccl-docs/logging_line86.log": {"lines": 4, "call_lines": 2},
    "nccl-docs/networking_troubleshooting_line230.log": {"lines": 1, "nccl_warn_lines": 1},
    "nccl-docs/networking_troubleshooting_line236.log": {"lines": 1, "nccl_warn_lines": 1},
    "nccl-docs/networking_troubleshooting_line303.log": {"lines": 1, "nccl_warn_lines": 1},
    "nccl-docs/runtime_and_mpi_issues_line39.log": {"lines": 1, "nccl_warn_lines": 1},
    "nccl-docs/runtime_and_mpi_issues_line59.log": {"lines": 1, "nccl_warn_lines": 1},
    "timez/nccl_a100x2_healthy.log.gz": {
        "lines": 3143,
        "nccl_info_lines": 3117,
        "nccl_versions": {"2.27.7+cuda13.0": 1},
        "networks": {"IB": 2},
        "init_complete": {"2": 2},
        "destroy_complete": 2,
        "coll_channels": {"24": 2},
        "operation_channels": {"0..23": 495},
        "average_bus_gigabytes_per_second": 178.078,
        "out_of_bounds": 0,
    },
}

COUNTED = (
    "nccl_info_lines",
    "nccl_warn_lines",
    "init_complete",
    "destroy_complete",
    "abort_complete",
    "operation_channels",
    "coll_channels",
    "networks",
)


@pytest.mark.parametrize("name", LOGS)
def test_a_log_gives_the_counts_of_the_catalogue(data: Path, name: str) -> None:
    facts = reading(data / "B-nccl-logs" / name).facts
    assert {key: facts.get(key) for key in LOGS[name]} == LOGS[name]
    surplus = [key for key in COUNTED if key in facts and key not in LOGS[name]]
    assert not surplus, f"counts that the catalogue does not have: {surplus}"


ALPS = {
    "00004-N-0001-142995": (82, 116.39, 0, 339.04, 0),
    "00008-N-0002-142996": (105, 42.784, 0, 158.24, 0),
    "00016-N-0004-142997": (127, 25.8822, 0, 92.5, 0),
    "00032-N-0008-142998": (168, 22.6741, 2, 92.12, 8),
    "00064-N-0016-142999": (242, 21.4992, 3, 92.27, 16),
    "00128-N-0032-143000": (352, 20.3886, 0, 92.52, 0),
    "00256-N-0064-143004": (608, 18.2874, 0, 92.22, 0),
}


@pytest.mark.parametrize("name", ALPS)
def test_an_nccl_tests_output_gives_the_counts_of_the_catalogue(data: Path, name: str) -> None:
    lines, average, wrong, peak, exits = ALPS[name]
    read = reading(data / "C-collectives/nccl-tests/alps_gh200" / f"job-n-{name}.out.gz")
    facts = read.facts
    assert (facts["lines"], facts["average_bus_gigabytes_per_second"], facts["out_of_bounds"]) == (
        lines,
        average,
        wrong,
    )
    assert (facts["result_rows"], facts["peak_out_of_place_bus_gigabytes_per_second"]) == (30, peak)
    assert facts.get("task_exits", 0) == exits
    ranks = int(name[:5])
    rows = table(read, "collectives")
    assert len(rows) == 60
    assert {(row["operation"], row["nranks"], row["count"], row["timing"], row["source"]) for row in rows} == {
        ("all_reduce", ranks, 24, "summary", "nccl_tests")
    }
    members = table(read, "communicators")
    assert sorted(row["rank"] for row in members) == list(range(ranks))
    assert {row["nnodes"] for row in members} == {ranks // 4}
    assert table(read, "jobs")[0]["world_size"] == ranks
    kinds = Counter(row["kind"] for row in table(read, "log_events"))
    assert kinds == Counter({"wrong_data": int(wrong > 0), "task_exit": exits}) + Counter()


def test_wrong_data_is_critical_and_the_wrong_values_stay_with_their_size(data: Path) -> None:
    read = reading(data / "C-collectives/nccl-tests/alps_gh200/job-n-00032-N-0008-142998.out.gz")
    wrong = [row for row in table(read, "log_events") if row["kind"] == "wrong_data"]
    assert [(row["severity"], row["code"]) for row in wrong] == [("critical", 2)]
    rows = [row for row in table(read, "collectives") if row["wrong_values"]]
    assert [(row["message_bytes"], row["wrong_values"]) for row in rows] == [(33554432, 288), (33554432, 512)]
    assert {row["wrong_values"] for row in table(read, "collectives")} == {0, 288, 512}
    assert read.origin.run_id == "142998.0"
    exits = {row["node"] for row in table(read, "log_events") if row["kind"] == "task_exit"}
    assert len(exits) == 8 and "nid007382" in exits


@pytest.mark.parametrize(
    ("name", "lines", "average", "operation"),
    [
        ("allreduce", 53, 68.4048, "all_reduce"),
        ("alltoall", 52, 58.6481, "all_to_all"),
        ("reducescatter", 53, 60.168, "reduce_scatter"),
    ],
)
def test_an_old_table_without_root_and_check_is_read(
    data: Path, name: str, lines: int, average: float, operation: str
) -> None:
    read = reading(data / "C-collectives/nccl-tests" / f"superbench_nccl_{name}.log")
    assert (read.facts["lines"], read.facts["average_bus_gigabytes_per_second"]) == (lines, average)
    assert read.facts["out_of_bounds"] == 0
    assert ("nccl_info_lines" in read.facts) == (lines == 53)
    rows = table(read, "collectives")
    assert {row["operation"] for row in rows} == {operation}
    assert {row["wrong_values"] for row in rows} == {None}, "nothing was checked: a zero would be a lie"
    last = rows[-2]
    assert last["message_bytes"] == 8589934592
    computed = last["message_bytes"] / last["duration_ns"] * 1e9
    assert computed == pytest.approx(last["algorithm_bytes_per_second"], rel=1e-3)


def test_a_table_torn_by_log_lines_is_put_together(data: Path) -> None:
    rows = table(reading(data / "B-nccl-logs/timez/nccl_a100x2_healthy.log.gz"), "collectives")
    results = [row for row in rows if row["source"] == "nccl_tests"]
    assert len(results) == 22
    assert [row["message_bytes"] for row in results[::2]] == [8388608 << step for step in range(11)]
    assert (results[0]["duration_ns"], results[1]["duration_ns"]) == (83330, 80980)
    assert results[-1]["bus_bytes_per_second"] == pytest.approx(216.61e9)
    buses = [row["bus_bytes_per_second"] for row in results]
    assert sum(buses) / len(buses) / 1e9 == pytest.approx(178.078, abs=0.01)


def test_operations_carry_communicator_rank_size_algorithm_and_channels(data: Path) -> None:
    rows = table(reading(data / "B-nccl-logs/timez/nccl_a100x2_healthy.log.gz"), "collectives")
    logged = [row for row in rows if row["timing"] == "enqueue"]
    assert Counter(row["rank"] for row in logged) == {0: 495, 1: 495}
    assert {row["communicator"] for row in logged} == {"0x54fe282d32a87d85"}
    assert {(row["operation"], row["datatype"], row["reduction"], row["nranks"]) for row in logged} == {
        ("all_reduce", "float32", "sum", 2)
    }
    assert all(row["duration_ns"] is None for row in logged)
    assert Counter((row["algorithm"], row["protocol"], row["channels"]) for row in logged) == {
        ("ring", "simple", 24): 990
    }
    assert sorted(row["sequence"] for row in logged if row["rank"] == 1) == list(range(495))


def test_printed_bandwidths_are_bytes_and_agree_with_their_durations(data: Path) -> None:
    expected = {
        "16node_64xV100_ib": (320, 22.5619, 54.93985, 58.3606, 64),
        "1node_4xV100_32gb": (20, 76.8649, 990.33365, 1003.0095, 4),
        "4node_32xA100": (160, 14.6836, 40.54305, 40.8277, 32),
    }
    for name, (count, least, median, most, ranks) in expected.items():
        rows = table(reading(data / "B-nccl-logs/bigscience" / f"all_reduce_bench_{name}.txt.gz"), "collectives")
        gigabits = [row["bus_bytes_per_second"] * 8 / 1e9 for row in rows]
        assert len(rows) == count
        assert min(gigabits) == pytest.approx(least, rel=1e-9)
        assert statistics.median(gigabits) == pytest.approx(median, rel=1e-9)
        assert max(gigabits) == pytest.approx(most, rel=1e-9)
        for row in rows:
            factor = 2 * (ranks - 1) / ranks
            assert row["algorithm_bytes_per_second"] * factor == pytest.approx(row["bus_bytes_per_second"], rel=1e-4)
            assert row["message_bytes"] / row["duration_ns"] * 1e9 == pytest.approx(
                row["algorithm_bytes_per_second"], rel=2e-3
            )
        known = Counter(row["rank"] for row in rows if row["rank"] is not None)
        assert set(known) <= set(range(ranks)) and max(known.values()) <= 5
        assert sum(known.values()) >= 0.9 * count


def test_groups_of_a_megatron_job_are_told_apart_and_its_iterations_are_steps(data: Path) -> None:
    read = reading(data / "B-nccl-logs/bigscience/megatron_deepspeed_zero_16node_64gpu.out.gz")
    members = table(read, "communicators")
    world = [row for row in members if row["group_kind"] == "world"]
    assert sorted(row["rank"] for row in world) == list(range(64))
    assert {row["communicator"] for row in world} == {"world"}
    others = [row for row in members if row["group_kind"] is None]
    assert Counter(row["nranks"] for row in others) == {16: 64, 4: 64}
    assert len({row["communicator"] for row in others}) == 128, "without a commId groups are never mixed up"
    assert all(row["rank"] is not None and row["state"] == "ready" for row in others)
    tensor = [row for row in others if row["nranks"] == 4]
    assert all(row["communicator_rank"] == row["rank"] % 4 for row in tensor)
    assert {row["transports"].split(":")[0] for row in tensor} == {"P2P/IPC"}
    assert [row["duration_ns"] for row in table(read, "steps")] == [
        123_742_400_000,
        128_917_000_000,
        128_642_700_000,
        127_766_000_000,
    ]
    assert [row["step"] for row in table(read, "steps")] == [1, 2, 3, 4]


def test_communicators_of_a_torn_server_log_are_whole(data: Path) -> None:
    read = reading(data / "B-nccl-logs/inferencex/vllm_b200_tp8_conc32_server.log.gz")
    members = table(read, "communicators")
    assert Counter(row["communicator"] for row in members) == {
        "0xb3b18223ed4131f1": 8,
        "0x8188e9c7bcec8ebd": 8,
        "0x87a533d393f774e8": 8,
    }
    assert {row["node"] for row in members} == {"gpu-7"}
    assert {(row["state"], row["network"], row["channels"], row["nnodes"]) for row in members} == {
        ("destroyed", "IB", 32, 1)
    }
    assert {row["library_version"] for row in members} == {"2.27.5+cuda12.9"}
    assert sorted({row["bus_id"] for row in members})[:2] == ["0000:8f:00.0", "0000:90:00.0"]
    assert all(row["init_seconds"] > 0 for row in members)
    assert all(row["ranks"] == list(range(8)) for row in members)
    assert read.origin.world_size == 8 and len(read.origin.communicators) == 3


def test_ranks_of_the_efa_cluster_have_their_gpu_and_network(data: Path) -> None:
    read = reading(data / "B-nccl-logs/aws/nccl-tests_p4d_2x8_efa_slurm-104.out.gz")
    members = {row["rank"]: row for row in table(read, "communicators")}
    assert (members[0]["bus_id"], members[13]["bus_id"]) == ("0000:10:1c.0", "0000:90:1d.0")
    assert Counter(row["node"] for row in members.values()) == {
        "compute-gpu-st-distributed-ml-1": 8,
        "compute-gpu-st-distributed-ml-2": 8,
    }
    assert "NET/AWS Libfabric/GDRDMA" in members[0]["transports"]
    results = table(read, "collectives")
    assert {row["operation"] for row in results} == {None}, "neither the program nor the columns name the operation"
    assert any("have no operation" in note for note in read.notes)


def test_the_three_tables_of_the_profiling_study_come_out_of_a_log(data: Path) -> None:
    read = reading(data / "B-nccl-logs/timez/nccl_a100x2_healthy.log.gz")
    rows = pa.Table.from_batches([item.batch for item in read.rows if item.table == "collectives"])
    connection = duckdb.connect()
    for name, each in TABLES.items():
        empty = pa.Table.from_batches([each.empty()])
        connection.register("given", rows if name == "collectives" else empty)
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM given")
        connection.unregister("given")
    connection.execute("DELETE FROM collectives WHERE timing = 'summary'")
    connection.execute(VIEWS.read_text(encoding="utf-8"))
    counts = connection.execute("SELECT communicator, operation, count FROM collective_counts").fetchall()
    assert counts == [("0x54fe282d32a87d85", "all_reduce", 990)]
    sizes = connection.execute("SELECT operation, count, min_bytes, max_bytes FROM collective_sizes").fetchall()
    assert sizes == [("all_reduce", 990, 8388608, 8589934592)]
    spread = connection.execute(
        "SELECT message_bytes, count FROM collective_size_distribution ORDER BY message_bytes"
    ).fetchall()
    assert spread == [(8388608 << step, 90) for step in range(11)]


def test_nothing_but_logs_is_taken_for_a_log(data: Path) -> None:
    taken = set()
    for path in sorted(data.rglob("*")):
        if path.is_file() and path.suffix not in (".sqlite", ".parquet") and path.stat().st_size < 2_000_000:
            candidate = file_input(path, str(path), Limits())
            found = next((each.name for each in FORMATS if each.recognises(candidate)), None)
            if found == "nccl_log":
                taken.add(path.relative_to(data).parts[0])
    assert taken == {"B-nccl-logs", "C-collectives"}
