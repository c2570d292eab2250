"""No secret that a recorded file holds reaches a row, a fact or a reason, whatever the format and wherever it stands."""

from __future__ import annotations

import json
import pickle
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from warpline_agent.offline import read_paths
from warpline_agent.scrub import MASK, scrub_rows
from warpline_proto.tables import LOG_EVENTS, STACKS

TOKEN = "hf_" + "Qw3rTy" * 5
PASSWORD = "hunter2hunter2"
WORDS = f"{TOKEN} DB_PASSWORD={PASSWORD} redis://user:{PASSWORD}@cache:6379"
"""What is planted wherever a format has room for free text."""

KINETO = {
    "deviceProperties": [{"id": 0, "name": f"GPU {WORDS}"}],
    "distributedInfo": {
        "rank": 0,
        "world_size": 2,
        "nccl_version": WORDS,
        "pg_config": [{"pg_name": WORDS, "pg_desc": WORDS, "ranks": [0, 1], "backend_config": "cuda:nccl"}],
    },
    "host_name": f"node-{TOKEN}",
    "run_id": f"run DB_PASSWORD={PASSWORD}",
    "environment": {"HF_TOKEN": TOKEN, "DB_PASSWORD": PASSWORD},
    "traceEvents": [
        {"ph": "X", "cat": "kernel", "name": f"k {WORDS}", "ts": 1, "dur": 2, "args": {"device": 0, "stream": 7}},
        {"ph": "X", "cat": "user_annotation", "name": f"load {WORDS}", "ts": 1, "dur": 2, "args": {}},
        {
            "ph": "X",
            "cat": "kernel",
            "name": "ncclDevKernel_AllReduce_Sum_f32_RING_LL()",
            "ts": 4,
            "dur": 2,
            "args": {"device": 0, "stream": 7, "Collective name": "allreduce", "Process Group Name": WORDS},
        },
        {"ph": "X", "cat": WORDS, "name": "x", "ts": 1, "dur": 2, "args": {"env": WORDS}},
    ],
}
DUMP = {
    "version": WORDS,
    "nccl_version": WORDS,
    "pg_config": {"0": {"name": "0", "desc": f"default_pg {WORDS}", "ranks": "[0, 1]"}},
    "pg_status": {"0": {"last_enqueued_collective": 1}, TOKEN: {"last_enqueued_collective": 2}},
    "entries": [
        {
            "process_group": ("0", WORDS),
            "profiling_name": WORDS,
            "state": WORDS,
            "frames": [{"name": WORDS, "filename": WORDS, "line": 1}],
            "thread_name": WORDS,
        }
    ],
}
NCCL_LOG = f"""\
node1:10:10 [0] NCCL INFO NCCL_DEBUG_FILE set by environment to /tmp/{TOKEN}
node1:10:10 [0] NCCL INFO Using network {TOKEN}
node1:10:10 [0] NCCL INFO comm 0x1234 rank 0 nranks 2 cudaDev 0 busId 1b000 - Init COMPLETE
node1:10:10 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via {TOKEN}
node1:10:10 [0] NCCL WARN connect to 10.0.0.1 failed, env {WORDS}
[rank0]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1, {WORDS})
{TOKEN}:10:10 [0] NCCL INFO comm 0x1235 rank 1 nranks 2 cudaDev 0 busId 1b000 - Init COMPLETE
"""
KERNEL_LOG = f"""\
[   10.000000] NVRM: Xid (PCI:0000:9b:00): 119, pid=7, name={TOKEN}, {WORDS}
[   11.000000] python[7]: segfault at 0 ip 0 sp 0 error 4 in {TOKEN}[7f0000000000+1000] {WORDS}
[   12.000000] mlx5_core 0000:1b:00.0 {TOKEN}: link down, {WORDS}
"""
EXPOSITION = f"""\
# TYPE up gauge
# HELP up {WORDS}
up{{api_key="{PASSWORD}",cmdline="train --hf-token {TOKEN}",Hostname="{TOKEN}",job_name="{TOKEN}"}} 1
DCGM_FI_DEV_POWER_USAGE{{gpu="0",UUID="{TOKEN}",modelName="{WORDS}",Hostname="{TOKEN}",pci_bus_id="{TOKEN}"}} 80
DCGM_FI_DEV_XID_ERRORS{{gpu="{TOKEN}",UUID="{TOKEN}",Hostname="{TOKEN}"}} 79
XPU_TIMER_COMMON_HANG{{rank="{TOKEN}",ip="{TOKEN}"}} 1
nccl_bus_bandwidth_gbs{{comm_name="{TOKEN}",node="{TOKEN}",collective="{TOKEN}",algo_proto="{TOKEN}"}} 5
"""
SMI_CSV = f"""\
timestamp, index, name, uuid, hostname, power.draw [W]
2026/01/01 00:00:00.000, 0, {WORDS}, GPU-{TOKEN}, {TOKEN}, 70.00 W
"""
SMI_XML = f"""\
<?xml version="1.0" ?>
<nvidia_smi_log><driver_version>{WORDS}</driver_version><attached_gpus>1</attached_gpus>
<gpu id="00000000:1B:00.0"><product_name>{WORDS}</product_name><uuid>GPU-{TOKEN}</uuid>
<fb_memory_usage><used>1 MiB</used></fb_memory_usage>
<processes><process_info><pid>1</pid><type>C</type><process_name>python --token {TOKEN} {WORDS}</process_name>
</process_info></processes></gpu></nvidia_smi_log>
"""
RAS = f"""\
Communicators... #0-0 (a1b2c3d4e5f60718) MISMATCH
#0-0 (a1b2c3d4e5f60718) MISMATCH
  Communicator ranks have different collective operation counts
  1 ranks have launched up to operation 5 {WORDS}
  Rank 0 has launched up to operation 4
  Rank 0 -- GPU 0 managed by process 11 on node {TOKEN}
"""
INSPECTOR = {
    "header": {"id": TOKEN, "rank": 0, "n_ranks": 2, "comm_name": WORDS},
    "metadata": {"inspector_output_format_version": WORDS, "hostname": TOKEN, "pid": 1},
    "coll_perf": {"coll": WORDS, "coll_sn": 1, "coll_exec_time_us": 5, "coll_timing_source": "kernel_gpu"},
}
TRACELENS = (
    "Process Group Name,rank,Collective name,In msg nelems,dtype,Group size,dur_mean,dur_min,dur_max,operation_count\n"
    f"{TOKEN},0,{TOKEN},8,{TOKEN},2,1,1,1,1\n"
)
META = f"world_size: 4\npp_size: 1\ndp_size: 4\ntp_size: 1\ntrial_name: {TOKEN}\nrun_id: 7 token={PASSWORD}\n"
TOPOLOGY = f"""\
<system version="1"><cpu numaid="0"><pci busid="0000:1b:00.0"><gpu dev="0">
<nvlink target="0000:1c:00.0" count="12"/></gpu></pci>
<nic><net name="{TOKEN}" dev="0" speed="100" port="1"/></nic></cpu></system>
"""
FILES: dict[str, bytes] = {
    "trace.json": json.dumps(KINETO).encode(),
    "_dump_0": pickle.dumps(DUMP),
    "dump_1.json": json.dumps(DUMP).encode(),
    "nccl.log": NCCL_LOG.encode(),
    "dmesg.log": KERNEL_LOG.encode(),
    "metrics.prom": EXPOSITION.encode(),
    "smi.csv": SMI_CSV.encode(),
    "smi.xml": SMI_XML.encode(),
    "ras.txt": RAS.encode(),
    "inspector.json": json.dumps(INSPECTOR).encode(),
    "nccl_summary_long.csv": TRACELENS.encode(),
    "meta-X.yaml": META.encode(),
    "topology.xml": TOPOLOGY.encode(),
    "unknown.txt": f"export {WORDS}\n".encode(),
    "unknown.json": json.dumps({TOKEN: 1}).encode(),
    "unknown.csv": f"{TOKEN},b\n1,2\n".encode(),
}
READ = frozenset(FILES) - {"unknown.txt", "unknown.json", "unknown.csv"}


def nsight_export(path: Path) -> None:
    """An export with secrets in its environment, its kernels' and ranges' names, its host and its GPU."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            f"""
            CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT);
            INSERT INTO StringIds VALUES (1, 'kernel {WORDS}');
            CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL
                (start INT, end INT, deviceId INT, streamId INT, correlationId INT, globalPid INT, demangledName INT);
            INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (1000, 2000, 0, 7, 1, 16777216, 1);
            CREATE TABLE NVTX_EVENTS (start INT, end INT, text TEXT, textId INT, globalTid INT);
            INSERT INTO NVTX_EVENTS VALUES (0, 3000, '{WORDS}', NULL, 16777217);
            CREATE TABLE TARGET_INFO_SYSTEM_ENV (globalVid INT, devStateName TEXT, name TEXT, value TEXT);
            INSERT INTO TARGET_INFO_SYSTEM_ENV VALUES (0, '', 'HF_TOKEN', '{TOKEN}');
            CREATE TABLE META_DATA_CAPTURE (name TEXT, value TEXT);
            INSERT INTO META_DATA_CAPTURE VALUES ('ENVIRONMENT_VARIABLE', 'DB_PASSWORD={PASSWORD}');
            INSERT INTO META_DATA_CAPTURE VALUES ('DEVICE_DISPLAY_NAME', '{TOKEN}');
            CREATE TABLE META_DATA_EXPORT (name TEXT, value TEXT);
            INSERT INTO META_DATA_EXPORT VALUES ('EXPORT_PRODUCT_VERSION', '{WORDS}');
            CREATE TABLE TARGET_INFO_GPU (name TEXT);
            INSERT INTO TARGET_INFO_GPU VALUES ('GPU {WORDS}');
            """
        )
        database.commit()


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder with one file of each format, a secret in every place that holds free text."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    nsight_export(tmp_path / "export.sqlite")
    return tmp_path


def test_no_secret_leaves_a_recorded_file(planted: Path) -> None:
    """Rows, facts and reasons of every format are clean, and the files are read all the same."""
    result = read_paths(sorted(planted.iterdir()))
    status = {Path(report.path).name: (report.status, report.reason) for report in result.inputs}
    assert {name for name, (state, _) in status.items() if state == "read"} == READ | {"export.sqlite"}, status
    told = json.dumps([report.to_json() for report in result.inputs])
    assert [word for word in (TOKEN, PASSWORD) if word in told] == []
    leaks = {
        (batch.source, batch.table, name)
        for batch in result.batches
        for name, values in batch.rows.to_pydict().items()
        for value in values
        if TOKEN in str(value) or PASSWORD in str(value)
    }
    assert leaks == set()


def test_two_masked_run_ids_are_no_evidence(tmp_path: Path) -> None:
    """Jobs whose run ids were nothing but secrets are not taken for one job."""
    for rank, secret in enumerate((TOKEN, "hf_" + "Zx9" * 9)):
        trace = {**KINETO, "run_id": secret, "distributedInfo": {"rank": rank, "world_size": 2}}
        (tmp_path / f"t{rank}.json").write_text(json.dumps(trace))
    jobs = [batch for batch in read_paths([tmp_path]).batches if batch.table == "jobs"]
    assert len({name for batch in jobs for name in batch.rows.column("job").to_pylist()}) == 2


def test_lists_of_text_are_cleaned_and_clean_rows_are_left_alone() -> None:
    """A secret in one frame of a stack is masked; a batch without one is the same batch."""
    stacks = STACKS.from_rows([{"frames": ["main (a.py:1)", f"load(token={PASSWORD}, 3)"]}, {"frames": None}])
    assert scrub_rows(stacks).column("frames").to_pylist() == [["main (a.py:1)", f"load(token={MASK}, 3)"], None]
    clean = LOG_EVENTS.from_rows([{"message": "NVRM: Xid"}])
    assert scrub_rows(clean) is clean
