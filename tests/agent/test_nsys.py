"""Nsight Systems exports: the catalogue's facts, other databases refused by what they lack, nothing of the environment."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from warpline_agent import sqlite_file
from warpline_agent.recordings.archive import Limits, file_input
from warpline_agent.source import Format, Reading, memory_input
from warpline_agent.sources.nsys import Nsys
from warpline_agent.sources.nsys_csv import NsysGpuTrace
from warpline_proto.errors import Refused

SECRET = "hf_" + "Pq7r" * 8
KERNEL_TABLE = (
    "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER, deviceId INTEGER, streamId INTEGER,"
    " correlationId INTEGER, globalPid INTEGER, demangledName INTEGER)"
)
PROCESS = 5 << 24


def recorded(data: Path, name: str, kind: Format) -> Reading:
    """One file of the catalogue."""
    file = data / "F-nsys" / name
    candidate = file_input(file, str(file), Limits())
    assert kind.recognises(candidate)
    return kind.read(candidate)


def rows(read: Reading, table: str) -> list[dict[str, Any]]:
    """All rows of one table."""
    return [row for each in read.rows if each.table == table for row in each.batch.to_pylist()]


def database(tmp_path: Path, *statements: str) -> Reading:
    """One reading of a database made by these statements."""
    path = tmp_path / "made.sqlite"
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    candidate = memory_input("made.sqlite", path.read_bytes())
    assert Nsys().recognises(candidate)
    return Nsys().read(candidate)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "device", "kernels", "sum_ms", "span_ms", "idle_percent"),
    [
        ("nsys-ai/h100_2gpu_1s.sqlite.gz", "0", 1721, 22.3852, 960.485, 97.67),
        ("nsys-ai/h100_2gpu_1s.sqlite.gz", "1", 1721, 22.4444, 960.3077, 97.66),
        ("nsys-ai/mfu_2gpu_before.sqlite.gz", "0", 1993, 270.8759, 299.8488, 9.67),
        ("nsys-ai/mfu_2gpu_before.sqlite.gz", "1", 2017, 264.3247, 298.6616, 11.5),
        ("pipit/cloverleaf_a100.sqlite.gz", None, 1312, 294.4045, 342.3407, 14.0),
    ],
)
def test_each_gpu_has_the_kernels_of_the_catalogue(
    data: Path, name: str, device: str | None, kernels: int, sum_ms: float, span_ms: float, idle_percent: float
) -> None:
    """Kernels, their sum, span and idle share (of kernels alone, as the catalogue counts them), GPU by GPU."""
    facts = recorded(data, name, Nsys()).facts
    facts = facts["by_device"][device] if device else facts
    assert facts["kernels"] == kernels
    assert facts["kernel_sum_ns"] / 1e6 == pytest.approx(sum_ms, abs=6e-5)
    assert facts["kernel_span_ns"] / 1e6 == pytest.approx(span_ms, abs=6e-5)
    idle = 100 * (1 - facts["kernel_busy_ns"] / facts["kernel_span_ns"])
    assert idle == pytest.approx(idle_percent, abs=0.006)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "versions", "activities", "copies", "sets"),
    [
        ("nsys-ai/h100_2gpu_1s.sqlite.gz", ("2026.2.1.210", "3.25.0"), 3442 + 904 + 22, 904, 22),
        ("nsys-ai/mfu_2gpu_before.sqlite.gz", ("2026.2.1.210", "3.25.0"), 4010 + 1020 + 269, 1020, 269),
        ("pipit/cloverleaf_a100.sqlite.gz", ("2024.5.1.113", "3.13.2"), 1312 + 279, 279, 0),
    ],
)
def test_versions_differ_and_are_all_read(
    data: Path, name: str, versions: tuple[str, str], activities: int, copies: int, sets: int
) -> None:
    """Without a table of sets, without one of GPUs: what is there is read, every record of it."""
    read = recorded(data, name, Nsys())
    assert (read.facts["nsys_version"], read.facts["schema_version"]) == versions
    assert read.facts["gpu_activities"] == activities
    counts = {"memcpy": 0, "memset": 0}
    for row in rows(read, "kernel_clusters"):
        if row["category"] in counts:
            counts[row["category"]] += row["count"]
    assert (counts["memcpy"], counts["memset"]) == (copies, sets)


@pytest.mark.data
def test_nccl_kernels_of_two_gpus(data: Path) -> None:
    """33 on each, 17.173 and 8.229 ms; each GPU has a clock of its own because they differ by some 22 µs."""
    read = recorded(data, "nsys-ai/mfu_2gpu_before.sqlite.gz", Nsys())
    found = read.facts["by_device"]
    assert [(found[each]["nccl_kernels"], round(found[each]["nccl_sum_ns"] / 1e6, 3)) for each in "01"] == [
        (33, 17.173),
        (33, 8.229),
    ]
    collectives = rows(read, "collectives")
    assert {row["operation"] for row in collectives} == {"send_recv"}
    assert [row["sequence"] for row in collectives if row["device"] == 1] == list(range(33))
    assert {row["communicator"] for row in collectives} == {None}
    assert len({row["clock"] for row in collectives}) == 2


@pytest.mark.data
def test_top_kernels_are_those_of_the_catalogue(data: Path) -> None:
    """The longest kernel of the H100 run by its 248 launches and 31.122 ms."""
    read = recorded(data, "nsys-ai/h100_2gpu_1s.sqlite.gz", Nsys())
    names = {row["kernel_id"]: row["name"] for row in rows(read, "kernel_names")}
    sums: dict[str, tuple[int, int]] = {}
    for row in rows(read, "kernel_clusters"):
        count, total = sums.get(names[row["kernel_id"]], (0, 0))
        sums[names[row["kernel_id"]]] = (count + row["count"], total + row["sum_ns"])
    gemm = [
        (count, total / 1e6)
        for name, (count, total) in sums.items()
        if "tilesize64x256x8" in name and "split_k" not in name
    ]
    assert [(count, round(total, 3)) for count, total in gemm] == [(248, 31.122)]


@pytest.mark.data
def test_one_run_exported_twice_is_recognised(data: Path) -> None:
    """The sqlite export and the GPU trace of one run: 1,591 activities, 1,312 kernels, 294.40454 ms in both, one digest."""
    database_read = recorded(data, "pipit/cloverleaf_a100.sqlite.gz", Nsys())
    csv_read = recorded(data, "pipit/cloverleaf_gpu_trace.csv.gz", NsysGpuTrace())
    for read in (database_read, csv_read):
        assert (read.facts["gpu_activities"], read.facts["kernels"]) == (1591, 1312)
        assert read.facts["kernel_sum_ns"] == 294_404_540
    assert database_read.origin.content == csv_read.origin.content is not None
    assert database_read.origin.node == "nid008553"
    assert database_read.facts["gpu_names"] == {"NVIDIA A100-SXM4-80GB": 4}


@pytest.mark.data
def test_a_trace_of_api_calls_is_refused(data: Path) -> None:
    """It holds no GPU activity, and the reason says which report has."""
    with pytest.raises(Refused, match="without GPU activity"):
        recorded(data, "pipit/cloverleaf_cuda_api_trace.csv.gz", NsysGpuTrace())


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["pytorch-dataloader-starvation", *(f"sample-gpu-node-0{index}" for index in (1, 2, 3))]
)
def test_databases_of_another_tracer_are_refused_by_what_they_lack(data: Path, name: str) -> None:
    """sqlite, but no Nsight export."""
    with pytest.raises(Refused, match="no table CUPTI_ACTIVITY_KIND_KERNEL"):
        recorded(data, f"ingero/{name}.db.gz", Nsys())


@pytest.mark.data
@pytest.mark.parametrize("name", ["nsys-ai/h100_2gpu_1s", "nsys-ai/mfu_2gpu_before", "pipit/cloverleaf_a100"])
def test_the_environment_of_the_job_does_not_leave(data: Path, name: str) -> None:
    """Environment variables stand in two tables of an export."""
    read = recorded(data, f"{name}.sqlite.gz", Nsys())
    said = json.dumps([read.facts, read.notes, repr(read.origin)]) + str([each.batch.to_pylist() for each in read.rows])
    for word in ("MODAL_TASK", "SLURM_", "LD_LIBRARY_PATH", "ENVIRONMENT_VARIABLE"):
        assert word not in said


STRINGS = "CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT)"


def test_steps_come_from_ranges_of_the_process_that_used_the_gpu(tmp_path: Path) -> None:
    """Two processes mark their own steps; a kernel belongs to the step in which its process launched it."""
    other = 6 << 24
    read = database(
        tmp_path,
        STRINGS,
        KERNEL_TABLE,
        "CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, text TEXT, textId INTEGER, globalTid INTEGER)",
        "CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER, end INTEGER, globalTid INTEGER, correlationId INTEGER)",
        "CREATE TABLE TARGET_INFO_SESSION_START_TIME (utcEpochNs INTEGER)",
        "INSERT INTO TARGET_INFO_SESSION_START_TIME VALUES (1000000)",
        "INSERT INTO StringIds VALUES (1, 'gemm'), (2, 'iteration_8')",
        f"INSERT INTO NVTX_EVENTS VALUES (0, 100, 'ProfilerStep#7', NULL, {PROCESS + 3}), (10, 20, 'step 1', NULL,"
        f" {PROCESS + 3}), (100, 200, NULL, 2, {PROCESS + 3}), (0, 200, 'step 70', NULL, {other + 1}),"
        f" (5, 9, 'aten::add, op_id = 5', NULL, {PROCESS + 3}), (5, NULL, 'step 99', NULL, {PROCESS + 3})",
        f"INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (50, 51, {PROCESS + 9}, 1), (150, 151, {PROCESS + 9}, 2)",
        f"INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (120, 130, 0, 7, 1, {PROCESS}, 1),"
        f" (160, 170, 0, 7, 2, {PROCESS}, 1), (30, 40, 1, 7, 9, {other}, 1)",
    )
    steps = [(row["device"], row["step"], row["kernels"]) for row in rows(read, "steps")]
    assert steps == [(0, None, 2), (0, 7, 1), (0, 8, 1), (1, None, 1), (1, 70, 1)]
    assert next(row for row in rows(read, "steps") if row["step"] == 8)["start_ns"] == 1_000_100
    gaps = [(row["launch_gaps"], row["launch_gap_sum_ns"], row["launch_gap_max_ns"]) for row in rows(read, "steps")]
    assert gaps == [(2, 78, 69), (1, 69, 69), (1, 9, 9), (None,) * 3, (None,) * 3]


def test_secrets_in_an_export_do_not_leave(tmp_path: Path) -> None:
    """Kernel names, host names and GPU names are scrubbed; the environment is never looked at."""
    read = database(
        tmp_path,
        STRINGS,
        KERNEL_TABLE,
        "CREATE TABLE TARGET_INFO_SYSTEM_ENV (name TEXT, value TEXT)",
        "CREATE TABLE TARGET_INFO_GPU (name TEXT)",
        "CREATE TABLE META_DATA_CAPTURE (name TEXT, value TEXT)",
        f"INSERT INTO TARGET_INFO_SYSTEM_ENV VALUES ('HF_TOKEN', '{SECRET}')",
        f"INSERT INTO META_DATA_CAPTURE VALUES ('PROCESS_0:ENVIRONMENT_VARIABLE', 'HF_TOKEN={SECRET}')",
        f"INSERT INTO META_DATA_CAPTURE VALUES ('DEVICE_DISPLAY_NAME', 'host-{SECRET}')",
        f"INSERT INTO TARGET_INFO_GPU VALUES ('{SECRET}')",
        f"INSERT INTO StringIds VALUES (1, 'kernel<{SECRET}>')",
        "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (1, 3, 0, 7, 1, 5, 1)",
    )
    said = json.dumps([read.facts, read.notes, repr(read.origin)]) + str([each.batch.to_pylist() for each in read.rows])
    assert SECRET not in said
    assert read.facts["kernels"] == 1


def test_odd_records_are_left_out_and_counted(tmp_path: Path) -> None:
    """Text for a time, times beyond every clock, devices that do not fit, names that lead nowhere."""
    read = database(
        tmp_path,
        STRINGS,
        KERNEL_TABLE,
        "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (1, 3, 0, 7, 1, 5, 99), ('soon', 3, 0, 7, 1, 5, 1),"
        " (1, 9000000000000000000, 0, 7, 1, 5, 1), (5, 6, 99999999999, 'x', 1, 5, 1)",
    )
    assert read.facts["kernels"] == 2
    assert any(note.startswith("2 records") for note in read.notes)
    assert "(unnamed kernel)" in {row["name"] for row in rows(read, "kernel_names")}


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        ([STRINGS, "CREATE TABLE META_DATA_EXPORT (name TEXT, value TEXT)"], "has no table CUPTI_ACTIVITY_KIND_KERNEL"),
        ([KERNEL_TABLE], "no table StringIds"),
        ([STRINGS, "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER)"], "has no column end, deviceId, streamId"),
        (["CREATE TABLE hello (world INTEGER)"], "its tables: hello"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, statements: list[str], reason: str) -> None:
    """A reason a user can act on."""
    with pytest.raises(Refused, match=reason):
        database(tmp_path, *statements)


def test_a_damaged_database_is_refused() -> None:
    """A cut or overwritten file, not a traceback."""
    for data in (sqlite_file.SQLITE_MAGIC, sqlite_file.SQLITE_MAGIC + b"\xff" * 5000):
        with pytest.raises(Refused, match="sqlite cannot read it"):
            Nsys().read(memory_input("x.sqlite", data))


def test_an_export_beyond_the_bound_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is not filled."""
    monkeypatch.setattr(sqlite_file, "FILE_BYTES_MAX", 100)
    with pytest.raises(Refused, match="more than 100 bytes"):
        Nsys().read(memory_input("x.sqlite", sqlite_file.SQLITE_MAGIC + b"\0" * 500))


def test_a_value_beyond_the_bound_is_not_taken_out(tmp_path: Path) -> None:
    """A name of hundreds of megabytes costs a sentence."""
    kernel = (
        "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INT, end INT, deviceId INT, streamId INT, demangledName INT)"
    )
    names = "CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT)"
    filled = "INSERT INTO StringIds VALUES (1, hex(zeroblob(20000000)))"
    with pytest.raises(Refused, match="too big"):
        database(tmp_path, kernel, names, filled, "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (1, 2, 0, 7, 1)")


STATS = (
    "Start (ns),Duration (ns),CorrId,GrdX,Bytes (MB),Device,Ctx,Strm,Name\n"
    "100,50,1,2,,NVIDIA H100 (3),1,7,ncclDevKernel_AllReduce_Sum_f32_RING_LL\n"
    "200,10,2,,4.0,NVIDIA H100 (3),1,13,[CUDA memcpy Host-to-Device]\n"
    "300,5,3,,0.1,NVIDIA H100 (3),1,7,[CUDA memset]\n"
    '400,5,4,2,,NVIDIA H100 (3),1,7,"void sort<int, float[]>"\n'
    "500,5,5,2,,NVIDIA H100 (3),1,7,odd[]\n"
    "soon,5,3,,0.1,NVIDIA H100 (3),1,7,broken\n"
)


def test_the_report_of_nsys_stats_is_read_too() -> None:
    """Kernels, copies and sets with device and stream; a broken line is counted."""
    candidate = memory_input("report_cuda_gpu_trace.csv", STATS.encode())
    assert NsysGpuTrace().recognises(candidate)
    read = NsysGpuTrace().read(candidate)
    assert (read.facts["gpu_activities"], read.facts["kernels"], read.facts["devices"]) == (5, 3, [3])
    assert [(row["operation"], row["stream"]) for row in rows(read, "collectives")] == [("all_reduce", 7)]
    assert {row["category"] for row in rows(read, "kernel_clusters")} == {
        "communication",
        "memcpy",
        "memset",
        "compute",
    }
    assert {"odd[]", "CUDA memset"} <= {row["name"] for row in rows(read, "kernel_names")}
    assert any(note.startswith("1 lines") for note in read.notes)


@pytest.mark.parametrize("head", ["a,b,c\n1,2,3\n", "Name,Start (s),Duration (s),Strm\n", ""])
def test_other_tables_are_left_to_others(head: str) -> None:
    """Only the columns of a GPU trace are claimed."""
    assert not NsysGpuTrace().recognises(memory_input("x.csv", head.encode()))
