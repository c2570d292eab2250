"""What logs plainly say is told once, of the right GPU, link, job or node, as gravely as it is, and of nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from warpline_agent.offline import read_paths
from warpline_analysis.detector import Reader
from warpline_analysis.detectors import faults
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Frame
from warpline_proto.finding import FindingKind, Report, Severity, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
START = 1_700_000_000_000_000_000
SECOND = 10**9
BUS = "0000:1b:00.0"
UUID = "GPU-11111111-2222-3333-4444-555555555555"


def xid(code: int | None, at: int = 0, **extra: Any) -> dict[str, Any]:
    return {"source": "kernel_log", "node": "node0", "kind": "xid", "code": code, "severity": "warning", "bus_id": BUS,
            "time_ns": START + at * SECOND, "message": f"NVRM: Xid (PCI:0000:1b:00): {code}", "count": 1} | extra  # fmt: skip


def event(kind: str, **extra: Any) -> dict[str, Any]:
    return xid(None, kind=kind, **extra)


def judge(reader_of: ReaderOf, rows: Sequence[Mapping[str, Any]], **tables: Any) -> Report:
    reader = reader_of({"log_events": rows} | tables)
    report = faults.detect(reader)
    for finding in report.findings:
        for evidence in finding.evidence:
            assert evidence.rows
            assert reader.query(evidence.sql).num_rows >= len(evidence.rows)
    return report


@pytest.mark.parametrize(
    ("row", "kind", "severity"),
    [
        (xid(79), FindingKind.GPU_LOST, Severity.CRITICAL),
        (event("off_bus"), FindingKind.GPU_LOST, Severity.CRITICAL),
        (event("gpu_lost", source="nvml"), FindingKind.GPU_LOST, Severity.CRITICAL),
        (event("reset_required", source="nvml"), FindingKind.GPU_ERROR, Severity.CRITICAL),
        (xid(48), FindingKind.GPU_ERROR, Severity.CRITICAL),
        (xid(119), FindingKind.GPU_ERROR, Severity.CRITICAL),
        (xid(95), FindingKind.GPU_ERROR, Severity.CRITICAL),
        (xid(63), FindingKind.GPU_ERROR, Severity.WARNING),
        (xid(92), FindingKind.GPU_ERROR, Severity.WARNING),
        (xid(94), FindingKind.GPU_ERROR, Severity.WARNING),
        (xid(154), FindingKind.GPU_ERROR, Severity.WARNING),
        (xid(74), FindingKind.GPU_ERROR, Severity.CRITICAL),
        (xid(149, severity="critical", link="link 8"), FindingKind.GPU_ERROR, Severity.CRITICAL),
        (xid(149, severity="warning", link="link 8"), FindingKind.GPU_ERROR, Severity.WARNING),
        (xid(999), FindingKind.GPU_ERROR, Severity.WARNING),
        (event("sxid", severity="warning", link="nvswitch3 link 61"), FindingKind.LINK_DEGRADATION, Severity.WARNING),
        (event("sxid", severity="critical", link="nvswitch3 link 61"), FindingKind.LINK_DEGRADATION, Severity.CRITICAL),
        (event("link_event", severity="critical", link="module 0"), FindingKind.NETWORK_DEGRADATION, Severity.WARNING),
        (event("oom", severity="critical", pid=7), FindingKind.PROCESS_DIED, Severity.WARNING),
        (event("segfault", severity="critical", pid=7), FindingKind.PROCESS_DIED, Severity.WARNING),
    ],
)
def test_each_fault_has_its_kind_and_gravity(
    reader_of: ReaderOf, row: Mapping[str, Any], kind: FindingKind, severity: Severity
) -> None:
    (finding,) = judge(reader_of, [row]).findings
    assert (finding.kind, finding.severity, finding.subject.node) == (kind, severity, "node0")
    assert finding.onset.time_ns == START and finding.next_step
    accused = kind in (FindingKind.GPU_LOST, FindingKind.GPU_ERROR)
    assert finding.subject.gpu == (BUS if accused else None)


@pytest.mark.parametrize("code", [13, 31, 43, 45])
def test_what_programs_cause_is_never_held_against_a_gpu(reader_of: ReaderOf, code: int) -> None:
    """Least severity, no GPU named, and the answer as a whole stays healthy."""
    report = judge(reader_of, [xid(code, at) for at in range(5)] + [xid(45, 9, bus_id="0000:2b:00.0")])
    (finding,) = report.findings
    assert (finding.severity, finding.subject.gpu, finding.subject.node) == (Severity.INFO, None, "node0")
    assert report.verdict == Verdict.HEALTHY and report.checks[0].verdict == Verdict.HEALTHY


def test_any_number_of_repeats_is_one_incident_that_counts_them(reader_of: ReaderOf) -> None:
    rows = [xid(119, at, count=count, pid=at % 3) for at, count in enumerate([100_000, 68_923, 1])]
    (finding,) = judge(reader_of, rows).findings
    assert "168,924 times from 2023-11-14 22:13:20 UTC to 2023-11-14 22:13:22 UTC" in finding.summary
    assert finding.evidence[0].rows[0]["times"] == 168_924
    assert any("3 different processes" in text for text in finding.ruled_out)


def test_many_gpus_are_as_many_incidents(reader_of: ReaderOf) -> None:
    """800 repeats on 29 GPUs: 29."""
    rows = [xid(95, at, node=f"node{at % 29}") for at in range(800)]
    assert len(judge(reader_of, rows).findings) == 29


def test_a_lost_gpu_swallows_what_follows_from_it(reader_of: ReaderOf) -> None:
    rows = [xid(31, 0), xid(79, 5), event("off_bus"), xid(154, 6), xid(45, 7, count=8)]
    (finding,) = judge(reader_of, rows).findings
    assert (finding.kind, finding.subject.gpu) == (FindingKind.GPU_LOST, BUS)
    assert all(text in finding.summary for text in ("Xid 154 (once)", "Xid 45 (8 times)", "Xid 31 (once)"))


def test_the_gravest_code_of_a_gpu_is_its_root(reader_of: ReaderOf) -> None:
    (finding,) = judge(reader_of, [xid(63, 0), xid(48, 1), xid(94, 2)]).findings
    assert "Xid 48, uncorrectable" in finding.summary and finding.onset.time_ns == START + SECOND


def test_bus_id_and_uuid_of_one_gpu_are_one_gpu(reader_of: ReaderOf) -> None:
    """The kernel knows a bus id, NVML the UUID; a reading that has both joins them and names the job."""
    rows = [xid(79), event("gpu_lost", source="nvml", gpu_uuid=UUID, bus_id=None)]
    samples = [{"node": "node0", "gpu_uuid": UUID, "bus_id": BUS, "job": "train", "time_ns": START - SECOND}]
    (finding,) = judge(reader_of, rows, device_samples=samples).findings
    assert (finding.subject.gpu, finding.subject.job) == (UUID, "train")


def test_equal_bus_ids_on_two_nodes_are_two_gpus(reader_of: ReaderOf) -> None:
    assert len(judge(reader_of, [xid(79), xid(79, node="node1")]).findings) == 2


def test_a_lost_gpu_that_gives_readings_again_is_no_longer_told(reader_of: ReaderOf) -> None:
    samples = [{"node": "node0", "gpu_uuid": UUID, "bus_id": BUS, "time_ns": START + 3600 * SECOND}]
    assert judge(reader_of, [xid(79)], device_samples=samples).findings == ()


@pytest.mark.parametrize(("hours", "told"), [(1, 1), (23, 1), (25, 0)])
def test_on_a_watched_node_a_fault_without_a_repeat_for_a_day_is_over(
    reader_of: ReaderOf, hours: int, told: int
) -> None:
    health = [{"source": "kernel_log", "node": "node0", "state": "fresh", "time_ns": START + hours * 3600 * SECOND}]
    assert len(judge(reader_of, [xid(119)], source_health=health).findings) == told


def test_a_fault_without_a_time_is_told(reader_of: ReaderOf) -> None:
    (finding,) = judge(reader_of, [xid(79, time_ns=None)]).findings
    assert finding.onset.time_ns is None and "times of the events" in finding.missing


def test_a_kernel_log_that_was_read_and_holds_no_fault_is_healthy(reader_of: ReaderOf) -> None:
    health = [{"source": "kernel_log", "node": "node0", "state": "fresh", "time_ns": START}]
    report = judge(reader_of, [], source_health=health)
    assert report.verdict == Verdict.HEALTHY and "of node0" in report.checks[0].detail


@pytest.mark.parametrize("state", ["denied", "unsupported", "stale"])
def test_a_kernel_log_that_could_not_be_read_says_nothing(reader_of: ReaderOf, state: str) -> None:
    health = [{"source": "kernel_log", "node": "node0", "state": state, "time_ns": START}]
    assert judge(reader_of, [], source_health=health).verdict == Verdict.UNKNOWN


def test_other_nodes_stay_healthy_beside_a_faulty_one(reader_of: ReaderOf) -> None:
    health = [{"source": "kernel_log", "node": f"node{n}", "state": "fresh", "time_ns": START} for n in range(4)]
    report = judge(reader_of, [xid(79)], source_health=health)
    assert len(report.findings) == 1 and "of 3 nodes" in report.checks[0].detail


def completion(code: int | None, at: int, link: str | None, **extra: Any) -> dict[str, Any]:
    place = {"source": "nccl_log", "job": "train", "rank": at, "bus_id": None, "link": link}
    return xid(code, at, kind="net_error", **place) | extra


def test_the_first_error_that_is_no_consequence_names_the_link(reader_of: ReaderOf) -> None:
    """Flushed requests may be logged before it; later errors are counted."""
    rows = [
        completion(5, 0, "mlx5_0 a -> c"),
        completion(12, 2, "mlx5_1 a -> b", node="node1"),
        completion(12, 4, "mlx5_1 b -> a"),
        completion(5, 5, "mlx5_3 d -> e"),
    ]
    (finding,) = judge(reader_of, rows).findings
    assert (finding.kind, finding.severity) == (FindingKind.NETWORK_DEGRADATION, Severity.CRITICAL)
    assert (finding.subject.link, finding.subject.job) == ("mlx5_1 a -> b", "train")
    assert (finding.subject.node, finding.subject.rank) == (None, None)
    assert finding.onset.time_ns == START + 2 * SECOND
    assert "rank 2 on node1" in finding.summary and "2 flushed requests" in finding.summary


@pytest.mark.parametrize(
    ("status", "words"), [(12, "port state"), (4, "GPUDirect"), (9, "GPUDirect"), (77, "status 77")]
)
def test_the_status_says_whether_it_is_the_path_or_the_memory(reader_of: ReaderOf, status: int, words: str) -> None:
    (finding,) = judge(reader_of, [completion(status, 0, "mlx5_0 a -> b")]).findings
    assert words in finding.next_step + finding.summary


def test_consequences_alone_accuse_nobody(reader_of: ReaderOf) -> None:
    report = judge(reader_of, [completion(5, 0, "a -> b"), completion(None, 1, "10.0.0.2<1>")])
    assert report.findings == () and report.checks[-1].verdict == Verdict.UNKNOWN
    assert "1 flushed completions and 1 closed connections" in report.checks[-1].detail


def results(wrong: Sequence[int | None], **extra: Any) -> list[dict[str, Any]]:
    return [
        {"job": "check", "operation": "all_reduce", "message_bytes": 1 << at, "nranks": 8, "wrong_values": value,
         "bus_bytes_per_second": 9e10, "timing": "summary"} | extra
        for at, value in enumerate(wrong)
    ]  # fmt: skip


def test_wrong_data_is_critical_and_accuses_no_gpu(reader_of: ReaderOf) -> None:
    (finding,) = judge(reader_of, [], collectives=results([0, 0, 3, 512])).findings
    assert (finding.kind, finding.severity) == (FindingKind.WRONG_DATA, Severity.CRITICAL)
    assert finding.subject.named() == {"job": "check"}
    assert "2 of 4 checked results" in finding.summary and "512" in finding.summary


def test_a_node_is_named_only_where_it_alone_is_wrong(reader_of: ReaderOf) -> None:
    rows = results([0, 0], node="node0") + results([0, 9], node="node1")
    assert judge(reader_of, [], collectives=rows).findings[0].subject.node == "node1"
    alone = results([0, 9], node="node1")
    assert judge(reader_of, [], collectives=alone).findings[0].subject.node is None


def test_checked_results_without_an_error_are_healthy(reader_of: ReaderOf) -> None:
    report = judge(reader_of, [], collectives=results([0, 0, 0]))
    assert report.verdict == Verdict.HEALTHY and report.checks[-1].detail == "no wrong value in 3 checked results"
    assert judge(reader_of, [], collectives=results([None, None])).verdict == Verdict.UNKNOWN


def test_a_check_known_from_its_last_line_alone_is_told(reader_of: ReaderOf) -> None:
    (finding,) = judge(reader_of, [event("wrong_data", job="check", severity="critical")]).findings
    assert (finding.kind, finding.subject.job) == (FindingKind.WRONG_DATA, "check")


@pytest.fixture
def recorded(data: Path, tmp_path: Path) -> Callable[[str], Report]:
    """A path below the recorded data -> what is found in it, over a real store; all evidence gives rows again."""

    def analyze(path: str) -> Report:
        store = DuckDBStore(tmp_path / path.replace("/", "-"))
        try:
            batches = tuple(read_paths([data / path]).batches)
            if batches:
                store.append([Frame("test", "import", 1, time.time_ns(), batches)])
            report = faults.detect(store)
            for finding in report.findings:
                assert all(store.query(evidence.sql).num_rows for evidence in finding.evidence)
            return report
        finally:
            store.close()

    return analyze


@pytest.mark.data
def test_recorded_kernel_logs(recorded: Callable[[str], Report]) -> None:
    """Five Xid 119 of GPU 9b are one incident; sixteen 13 and a 43 are a program's; the NVSwitch error is a warning."""
    (gsp,) = recorded("E-kernel-ib/gpud/dmesg-with-xid-119.log").findings
    assert (gsp.kind, gsp.severity) == (FindingKind.GPU_ERROR, Severity.CRITICAL)
    assert "GPU 0000:9b:00.0" in gsp.summary and "Xid 119" in gsp.summary and "5 times" in gsp.summary
    memory = recorded("E-kernel-ib/gpud/memory_dmesg.decode.iso.log")
    assert memory.verdict == Verdict.WARNING
    program = next(finding for finding in memory.findings if finding.severity == Severity.INFO)
    assert "Xid 13 (16 times), Xid 43 (once)" in program.summary
    assert all(finding.subject.gpu is None for finding in memory.findings)
    (switch,) = recorded("E-kernel-ib/gpud/fabricmanager.log").findings
    assert (switch.severity, switch.subject.link) == (Severity.WARNING, "nvswitch3 link 61")
    (crash,) = recorded("E-kernel-ib/gpud/nccl_segfault_dmesg.log").findings
    assert (crash.kind, crash.severity) == (FindingKind.PROCESS_DIED, Severity.WARNING)


@pytest.mark.data
def test_recorded_checks_of_nccl_tests(recorded: Callable[[str], Report]) -> None:
    """The jobs of 32 and 64 ranks failed their check; the other five did not."""
    report = recorded("C-collectives/nccl-tests/alps_gh200")
    assert all(list(finding.subject.named()) == ["job"] for finding in report.findings)
    assert {finding.kind for finding in report.findings} == {FindingKind.WRONG_DATA} and len(report.findings) == 2
    assert ["counts 2" in report.findings[0].summary, "counts 3" in report.findings[1].summary] == [True, True]
    assert [check.verdict for check in report.checks if check.job].count(Verdict.HEALTHY) == 5
