"""Every shape of NCCL's lines is understood, from 2.7 to 2.30, however other programs write into the same log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.parsers import nccl_faults, nccl_operations
from warpline_agent.parsers.nccl_log_parser import Live, NcclLogParser
from warpline_agent.parsers.nccl_records import RecordReader, plain
from warpline_agent.source import memory_input
from warpline_agent.sources.nccl_log import NcclLog
from warpline_proto.errors import Refused

COLL = (
    "wangying-system:7436:7591 [1] NCCL INFO AllReduce: opCount {} sendbuff 0x7f68b36a4000 recvbuff 0x7f68b36a4000 "
    "count 347146 datatype 7 op 0 root 0 comm 0x7f692000d240 [nranks=2] stream 0x7f67ec0944b0"
)


def parse(*lines: str, **options: Any) -> NcclLogParser:
    parser = NcclLogParser(**options)
    for line in lines:
        parser.feed(line)
    return parser


def rows(parser: NcclLogParser, table: str) -> list[dict[str, Any]]:
    return [row for item in parser.rows() if item.table == table for row in item.batch.to_pylist()]


def test_an_operation_line_is_read_with_its_hexadecimal_count() -> None:
    found = rows(parse(COLL.format("1a"), COLL.format("1b")), "collectives")
    assert [row["sequence"] for row in found] == [26, 27]
    first = found[0]
    assert (first["operation"], first["elements"], first["datatype"], first["reduction"]) == (
        "all_reduce",
        347146,
        "float32",
        "sum",
    )
    assert (first["message_bytes"], first["nranks"], first["node"]) == (347146 * 4, 2, "wangying-system")
    assert (first["timing"], first["duration_ns"], first["start_ns"]) == ("enqueue", None, None)


def test_versions_that_do_not_count_operations_are_counted_here() -> None:
    found = rows(parse(*[COLL.format("0")] * 3), "collectives")
    assert [row["sequence"] for row in found] == [0, 1, 2]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("AllGather: opCount 3 sendbuff 0x1 recvbuff 0x2 count 1000 datatype 9 op 0 root 0 comm 0xc [nranks=8] stream 0x5",
         ("all_gather", "bfloat16", None, 16000, None)),
        ("ReduceScatter: opCount 3 sendbuff 0x1 recvbuff (nil) count 10 datatype 6 op 4 root 0 comm 0xc [nranks=4] stream (nil)",
         ("reduce_scatter", "float16", "avg", 80, None)),
        ("Broadcast: opCount 3 sendbuff 0x1 recvbuff 0x2 count 5 datatype 8 op 0 root 2 comm 0xc [nranks=4] stream 0x5",
         ("broadcast", "float64", None, 40, None)),
        ("Reduce: opCount 3 sendbuff 0x1 recvbuff 0x2 count 5 datatype 0 op 2 root 2 comm 0xc [nranks=4] stream 0x5",
         ("reduce", "int8", "max", 5, None)),
        ("Send: opCount 3 sendbuff 0x1 recvbuff 0x2 count 64 datatype 7 op 0 root 3 comm 0xc [nranks=4] stream 0x5",
         ("send", "float32", None, 256, 3)),
        ("Recv: opCount 3 sendbuff 0x1 recvbuff 0x2 count 64 datatype 11 op 0 root 1 comm 0xc [nranks=4] stream 0x5",
         ("recv", "float8e5m2", None, 64, 1)),
        ("AlltoAll: opCount 3 sendbuff 0x1 recvbuff 0x2 count 64 datatype 7 op 0 root 0 comm 0xc [nranks=4] stream 0x5",
         ("all_to_all", "float32", None, 1024, None)),
        ("AllReduce: opCount 3 sendbuff 0x1 recvbuff 0x2 count 64 datatype 7 op 9 root 0 comm 0xc stream 0x5",
         ("all_reduce", "float32", None, 256, None)),
    ],
)  # fmt: skip
def test_each_operation_has_its_size_and_peer(line: str, expected: tuple[Any, ...]) -> None:
    (row,) = rows(parse(f"n:1:2 [0] NCCL INFO {line}"), "collectives")
    found = tuple(row[name] for name in ("operation", "datatype", "reduction", "message_bytes", "peer"))
    assert found == expected


def test_call_lines_serve_where_nothing_better_is_logged() -> None:
    call = "n:1:1 NCCL CALL ncclAllReduce(0x7f00,0x7f01,2,7,0,0,0xc,0x5)"
    (row,) = rows(parse(call), "collectives")
    assert (row["operation"], row["elements"], row["message_bytes"]) == ("all_reduce", 2, 8)
    line = "n:1:1 [0] NCCL INFO AllReduce: opCount 0 sendbuff 0x1 recvbuff 0x2 count 2 datatype 7 op 0 root 0 comm 0xc stream 0x5"
    assert len(rows(parse(call, line), "collectives")) == 1


def test_tuning_lines_give_algorithm_protocol_and_channels_to_their_operation() -> None:
    line = "n:1:1 [0] NCCL INFO AllReduce: opCount 0 sendbuff 0x1 recvbuff 0x2 count 8 datatype 7 op 0 root 0 comm 0xc stream 0x5"
    named = "n:1:1 [0] NCCL INFO AllReduce: 32 Bytes -> Algo NVLS_TREE proto LL128 channel{Lo..Hi}={2..9}"
    numbered = "n:1:1 [0] NCCL INFO 32 Bytes -> Algo 1 proto 2 time 14.200000"
    other = "n:2:2 [0] NCCL INFO AllReduce: 32 Bytes -> Algo TREE proto LL channel{Lo..Hi}={0..0}"
    (row,) = rows(parse(line, other.replace("n:2:2", "n:1:1").replace("32 Bytes", "64 Bytes"), named), "collectives")
    assert (row["algorithm"], row["protocol"], row["channels"]) == ("nvls_tree", "ll128", 8)
    (row,) = rows(parse(line, numbered), "collectives")
    assert (row["algorithm"], row["protocol"], row["channels"]) == ("ring", "simple", None)
    first, second = rows(parse(line, other), "collectives")
    assert (first["algorithm"], second["algorithm"], second["message_bytes"]) == (None, "tree", 32)
    symmetric = (
        "n:1:1 [0] NCCL INFO AllReduce [Symmetric]: 32 Bytes -> Kernel AllReduce_AGxLL_R nchannels 4 nthreads 512"
    )
    (row,) = rows(parse(line, symmetric), "collectives")
    assert (row["algorithm"], row["channels"]) == ("symmetric", 4)


@pytest.mark.parametrize(
    "line",
    [
        "comm 0x55 rank 3 nranks 8 cudaDev 3 busId 8a000 - Init COMPLETE",
        "comm 0x55 rank 3 nranks 8 cudaDev 3 nvmlDev 3 busId 8a000 commId 0x94343f5a50e0fc8e - Init COMPLETE",
        "ncclCommInitRank comm 0x55 rank 3 nranks 8 cudaDev 3 nvmlDev 3 busId 8a000 commId 0x94343f5a50e0fc8e - Init COMPLETE",
        "ncclCommInitRankConfig comm 0x55 rank 3 nranks 8 cudaDev 3 nvmlDev 3 busId 8a000 commId 0x9 - Init COMPLETE",
        "[Rank 3] ncclCommInitRank comm 0x55 rank 3 nranks 8 cudaDev 3 nvmlDev 3 busId 8a000 commId 0x94 - Init COMPLETE",
    ],
)
def test_every_shape_of_a_finished_set_up_is_read(line: str) -> None:
    (row,) = rows(parse(f"n1:10:11 [3] NCCL INFO {line}"), "communicators")
    found = (row["communicator_rank"], row["nranks"], row["device"], row["bus_id"], row["state"], row["pid"])
    assert found == (3, 8, 3, "0000:8a:00.0", "ready", 10)


def test_a_split_names_its_parent_and_starts_without_a_space() -> None:
    lines = (
        "n1:10:11 [0] NCCL INFO ncclCommInitRank comm 0xa rank 0 nranks 4 cudaDev 0 busId 1000 commId 0xaaa1 - Init START",
        "n1:10:11 [0] NCCL INFO ncclCommInitRank comm 0xa rank 0 nranks 4 cudaDev 0 busId 1000 commId 0xaaa1 - Init COMPLETE",
        "n1:10:11 [0] NCCL INFO ncclCommSplit comm 0xb rank 0 nranks 2 cudaDev 0 nvmlDev 0 busId 1000 parent 0xa splitCount 1 "
        "color 0 key 0- Init START",
        "n1:10:11 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read",
        "n1:10:11 [0] NCCL INFO Channel 01/0 : 0[0] -> 1[1] [send] via NET/IB/0(3)/GDRDMA/Shared",
        "n1:10:11 [0] NCCL INFO ncclCommSplit comm 0xb rank 0 nranks 2 cudaDev 0 busId 1000 parent 0xa childCount 1 color 0 "
        "key 0 commId 0xbbb2 - Init COMPLETE",
        "n1:10:11 [0] NCCL INFO Init timings - ncclCommSplit: rank 0 nranks 2 total 2.46 (kernels 0.18, alloc 0.05, rest 0.02)",
        "n1:10:11 [0] NCCL INFO comm 0xb rank 0 nRanks 2 nNodes 2 localRanks 1 localRank 0 MNNVL 0",
        "n1:10:11 [0] NCCL INFO comm 0xa rank 0 nranks 4 cudaDev 0 busId 1000 - Abort COMPLETE",
    )
    whole, split = sorted(rows(parse(*lines), "communicators"), key=lambda row: -row["nranks"])
    assert (whole["communicator"], whole["state"], whole["transports"]) == ("0xaaa1", "aborted", None)
    assert (split["communicator"], split["parent"], split["init_seconds"]) == ("0xbbb2", "0xaaa1", 2.46)
    assert split["transports"] == "NET/IB/GDRDMA:1,P2P/CUMEM:1"
    assert (split["nnodes"], split["local_ranks"]) == (2, 1)


def test_a_pointer_used_again_is_another_communicator() -> None:
    start = "n1:10:11 [0] NCCL INFO comm 0xa rank 0 nranks 2 cudaDev 0 nvmlDev 0 busId 1000 commId {} - Init START"
    end = "n1:10:11 [0] NCCL INFO comm 0xa rank 0 nranks 2 cudaDev 0 busId 1000 - Destroy COMPLETE"
    found = rows(parse(start.format("0x111"), end, start.format("0x222")), "communicators")
    assert {(row["communicator"], row["state"]) for row in found} == {("0x111", "destroyed"), ("0x222", "init")}


def test_a_part_of_a_job_is_not_taken_for_the_world() -> None:
    lines = [
        f"n1:{rank}:1 [{rank}] NCCL INFO comm 0xa rank {rank} nranks {size} cudaDev {rank} busId 1000 - Init COMPLETE"
        for size in (2, 8)
        for rank in range(2)
    ]
    parser = parse(*lines)
    assert {row["rank"] for row in rows(parser, "communicators")} == {None}
    assert parser.origin().world_size is None


COMPLETIONS = {
    "2.14": (
        "NET/IB : Got completion from peer 10.0.0.2<4791> with error 12, opcode 32, len 0, vendor err 129 (Recv)",
        12,
        "10.0.0.2<4791>",
    ),
    "2.20": (
        "NET/IB : Got completion from peer 172.36.143.59<44206> with status=12 opcode=129 len=65536 vendor err 129 (Recv) "
        "localGid ::ffff:29.87.88.182 remoteGids::ffff:29.87.4.221",
        12,
        "::ffff:29.87.88.182 -> ::ffff:29.87.4.221",
    ),
    "2.22": (
        "NET/IB: Got completion from peer 172.36.143.59<44206> with status=5 opcode=129 len=0 vendor err 249 (Send) "
        "localGid ::ffff:1.1.1.1 remoteGids::ffff:1.1.1.2 hca mlx5_3",
        5,
        "mlx5_3 ::ffff:1.1.1.1 -> ::ffff:1.1.1.2",
    ),
    "2.28": (
        "NET/IB: Got completion from peer 10.0.0.2<4791> with status=IBV_WC_RETRY_EXC_ERR(12) opcode=IBV_WC_SEND(0) "
        "reqSize=65536 vendor_err=129 req_type=Send localGid fe80::1 remoteGids fe80::2",
        12,
        "fe80::1 -> fe80::2",
    ),
    "2.29": (
        "NET/IB: Got completion from peer 10.0.0.2<4791> with status=IBV_WC_REM_ACCESS_ERR(10) opcode=IBV_WC_RDMA_WRITE(1) "
        "reqSize=65536 vendor_err=136 req_type=Send localGid fe80::1 remoteGids fe80::2 hca mlx5_0. Check the registration.",
        10,
        "mlx5_0. fe80::1 -> fe80::2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("version", COMPLETIONS)
def test_network_completion_errors_name_status_and_both_ends(version: str) -> None:
    text, status, link = COMPLETIONS[version]
    (row,) = rows(parse(f"hostname-test:984:1357 [4] ib_plugin.c:1615 NCCL WARN {text}"), "log_events")
    assert (row["kind"], row["code"], row["pid"], row["node"]) == ("net_error", status, 984, "hostname-test")
    assert row["severity"] == ("info" if status == 5 else "critical"), "a flushed request is a consequence"
    assert row["link"].replace(".", "") == link.replace(".", "")
    assert row["message"] == text


@pytest.mark.parametrize(
    ("text", "kind", "severity", "link"),
    [
        ("NET/IB : mlx5_0:1 Got async event : port error", "link_event", "critical", "mlx5_0:1"),
        ("NET/IB : mlx5_0:1 Got async event : port active", "link_event", "info", "mlx5_0:1"),
        ("NET/IB : mlx5_2:1 Got async error event: port error", "link_event", "critical", "mlx5_2:1"),
        (
            "NET/IB : mlx5_0:1 async fatal event on QP 0x1: local access violation work queue error",
            "link_event",
            "critical",
            "mlx5_0:1",
        ),
        ("NET/IB : mlx5_0:1 GID table changed", "link_event", "info", "mlx5_0:1"),
        ("Net : Connection closed by remote peer node2<4711>", "net_error", "warning", "node2<4711>"),
        ("Call to recv from 10.0.0.1<5> failed : Connection reset by peer", "net_error", "warning", "10.0.0.1<5>"),
        ("NET/OFI Request 0x7f completed with error. RC: 107. Error: unreachable", "net_error", "critical", None),
        ("Cuda failure 'out of memory'", "nccl_warn", "critical", None),
        ("Call to ibv_create_qp failed", "nccl_warn", "warning", None),
    ],
)
def test_warnings_are_told_apart(text: str, kind: str, severity: str, link: str | None) -> None:
    (row,) = rows(parse(f"n:1:2 [0] misc/ibvwrap.cc:1 NCCL WARN {text}"), "log_events")
    assert (row["kind"], row["severity"], row["link"]) == (kind, severity, link)


def test_a_warning_has_its_time_in_the_zone_of_the_log() -> None:
    line = "[2026-05-05 06:16:47{}] node-01:189884:189884 [3] plugin/net.cc:334 NCCL WARN Failed to initialize any NET plugin"
    (row,) = rows(parse(line.format("")), "log_events")
    assert row["time_ns"] == int(datetime(2026, 5, 5, 6, 16, 47, tzinfo=UTC).timestamp()) * 10**9
    assert (row["message"], row["device"], row["node"]) == ("Failed to initialize any NET plugin", 3, "node-01")
    (late,) = rows(parse(line.format(".250"), zone=timezone(timedelta(hours=2))), "log_events")
    assert row["time_ns"] - late["time_ns"] == 7_200 * 10**9 - 250_000_000


def test_repeated_warnings_of_one_process_are_one_row_with_a_count() -> None:
    first, second = "n:1:2 [0] x.cc:1 NCCL WARN again", "n:2:2 [1] x.cc:1 NCCL WARN again"
    found = rows(parse(first, second, first, second, first), "log_events")
    assert [(row["pid"], row["count"]) for row in found] == [(1, 3), (2, 2)]


def test_secrets_and_long_messages_do_not_get_through() -> None:
    token = "hf_" + "a" * 34
    (row,) = rows(parse(f"n:1:2 [0] x.cc:1 NCCL WARN HF_TOKEN={token} " + "x" * 5000), "log_events")
    assert token not in row["message"] and len(row["message"]) == nccl_faults.MESSAGE_CHARS_MAX


def test_the_watchdog_of_pytorch_is_a_hang_of_that_rank() -> None:
    line = (
        "[rank3]:[E1015 11:22:33.000 ProcessGroupNCCL.cpp:616] [Rank 3] Watchdog caught collective operation timeout: "
        "WorkNCCL(SeqNum=117, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600029 milliseconds"
    )
    (row,) = rows(parse(line), "log_events")
    assert (row["kind"], row["severity"], row["rank"]) == ("hang", "critical", 3)
    assert "SeqNum=117, OpType=ALLREDUCE" in row["message"]


@pytest.mark.parametrize(
    ("prefix", "rank"),
    [
        ("", None),
        ("[rank3]:", 3),
        ("[rank3]: ", 3),
        (" 3: ", None),
        ("node17: ", None),
        ("(Worker pid=395668) ", None),
        ("\x1b[36m", None),
    ],
)
def test_what_launchers_write_in_front_is_not_part_of_the_host(prefix: str, rank: int | None) -> None:
    line = f"{prefix}n1:10:11 [0] NCCL INFO comm 0xa rank 0 nranks 2 cudaDev 0 busId 1000 - Init COMPLETE"
    (row,) = rows(parse(line), "communicators")
    assert (row["node"], row["pid"], row["rank"]) == ("n1", 10, rank)


def test_two_records_in_one_line_are_two() -> None:
    reader = RecordReader(UTC)
    reader.records("gpu-7:1:1 [0] NCCL INFO Using network IB")
    before, found = reader.records(
        "gpu-7:395668:395668 [0] NCCL INFO 32 coll channels, 32 collnet channe"
        "gpu-7:395673:395673 [5] NCCL INFO Assigned NET plugin IB"
    )
    assert before == ""
    assert [(each.host, each.pid, each.device, each.text) for each in found] == [
        ("gpu-7", 395668, 0, "32 coll channels, 32 collnet channe"),
        ("gpu-7", 395673, 5, "Assigned NET plugin IB"),
    ]
    _, (torn,) = reader.records("gpu-gpu-7:2:2 [1] NCCL INFO Using network IB")
    assert torn.host == "gpu-7"
    before, (glued,) = reader.records("    83.33  100.66  100.66      0gpu-7:3:3 [1] NCCL INFO Using network IB")
    assert (before.split(), glued.host) == (["83.33", "100.66", "100.66", "0"], "gpu-7")


def test_a_record_without_its_front_is_still_a_record() -> None:
    (row,) = rows(parse("NCCL WARN Call to ibv_reg_mr failed"), "log_events")
    assert (row["message"], row["pid"], row["node"]) == ("Call to ibv_reg_mr failed", None, None)


def test_terminal_colours_are_taken_out() -> None:
    assert plain("\x1b[36mn:1:2\x1b[0m [0] NCCL INFO x\x1b[0m") == "n:1:2 [0] NCCL INFO x"


def test_operations_beyond_the_bound_are_folded_into_counts_and_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nccl_operations, "OPERATIONS_MAX", 10)
    found = rows(parse(*[COLL.format("0")] * 25), "collectives")
    assert len(found) == 11
    assert sum(row["count"] or 1 for row in found) == 25


def test_events_beyond_the_bound_are_counted_as_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nccl_faults, "EVENTS_MAX", 5)
    parser = parse(*[f"n:1:2 [0] x.cc:1 NCCL WARN fault {number}" for number in range(8)])
    (item,) = [item for item in parser.rows() if item.table == "log_events"]
    assert (item.batch.num_rows, item.dropped) == (5, 3)


def test_live_rows_have_the_time_of_reading_and_leave_the_place_to_the_agent() -> None:
    parser = parse(COLL.format("1"), "other:1:2 [0] x.cc:1 NCCL WARN far", live=Live("wangying-system", lambda: 77))
    taken = parser.rows()
    (operation,) = next(item.batch for item in taken if item.table == "collectives").to_pylist()
    assert (operation["node"], operation["start_ns"], operation["clock"]) == (None, 77, None)
    (event,) = next(item.batch for item in taken if item.table == "log_events").to_pylist()
    assert (event["node"], event["time_ns"]) == ("other", 77)


def test_megatron_iterations_with_a_time_say_when_they_began() -> None:
    line = (
        " [2025-01-01 00:00:10] iteration        5/    1000 | samples: 9 | elapsed time per iteration (ms): 2000.0 | x"
    )
    (row,) = rows(parse(line), "steps")
    assert (row["step"], row["duration_ns"]) == (5, 2_000_000_000)
    assert row["start_ns"] == int(datetime(2025, 1, 1, 0, 0, 8, tzinfo=UTC).timestamp()) * 10**9


def test_a_log_without_a_line_of_nccl_is_refused_with_a_hint() -> None:
    log = memory_input("job.out", b"module load nccl/2.8\ntraceback\n")
    assert NcclLog().recognises(log)
    with pytest.raises(Refused, match="NCCL_DEBUG=INFO"):
        NcclLog().read(log)
    assert not NcclLog().recognises(memory_input("notes.md", b"NCCL INFO is printed when"))
    assert not NcclLog().recognises(memory_input("trace.json", b'{"traceEvents": "NCCL INFO "}'))


LINE = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from(
        [
            b"n1:10:11 [0] NCCL INFO comm 0xa rank 0 nranks 2 cudaDev 0 busId ffffffffffffffffffff - Init COMPLETE",
            b"n1:10:11 [0] NCCL INFO comm 0xa rank 999999999 nranks 999999999 cudaDev 99999999999 busId 1 - Init START",
            COLL.format("ffffffffffffffff").encode(),
            COLL.replace("347146", "99999999999999999999").format("0").encode(),
            b"n1:1:1 [0] NCCL INFO AllReduce: 99999999999999999999 Bytes -> Algo X proto Y channel{Lo..Hi}={5..0}",
            b"n1:1:1 [0] NCCL INFO 1 Bytes -> Algo 9 proto 9 time 1",
            b"[9999-99-99 99:99:99] n1:1:1 [0] a.cc:1 NCCL WARN x",
            b"[0001-01-01 00:00:00] n1:1:1 [0] a.cc:1 NCCL WARN x",
            b"#  Rank 999999 Group  0 Pid  1 on n device 0 [0x01] GPU",
            b"# nThread 1 nGpus 1 minBytes 8 warmup iters: 5 iters: 999999999 validation: 1",
            b"# Out of bounds values : 999999999999999999 FAILED",
            b"# Avg bus bandwidth    : 1e-e",
            b"8 2 float sum -1 1e9 1e300 1e300 0 1 1 1 N/A",
            b"8 2 float sum -1",
            b"83.33  100.66  100.66      0",
            b"1:",
            b" duration: 0.0000 sec",
            b" algo throughput: 0.0 bps, 0.0 Gbps",
            b" busbw: 0.0000  Gbps",
            b"0 data size: 0.0 GB",
            b"iteration 99999999999/ 9 | elapsed time per iteration (s): 999999999999.9 |",
            b"[rank999999]: n1:1:1 [0] NCCL INFO Using network IB",
        ]
    ),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(LINE, max_size=40))
def test_no_bytes_make_the_reader_raise(lines: list[bytes]) -> None:
    content = b"n1:1:1 [0] NCCL INFO Using network IB\n" + b"\n".join(lines)
    read = NcclLog().read(memory_input("any.log", content))
    assert read.facts["nccl_info_lines"] >= 1


def test_a_flood_is_held_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nccl_operations, "OPERATIONS_MAX", 100)
    monkeypatch.setattr(nccl_operations, "FOLDED_MAX", 50)
    parser = NcclLogParser()
    for number in range(1000):
        parser.feed(
            f"n{number}:{number}:1 [0] NCCL INFO comm {number:#x} rank 0 nranks 2 cudaDev 0 busId 1 - Init COMPLETE"
        )
        parser.feed(COLL.format("0").replace("347146", str(number)))
    taken = {item.table: item for item in parser.rows()}
    assert taken["collectives"].batch.num_rows == 150
    assert taken["collectives"].dropped == 850
