"""A hang names the rank that everything waits for, not its victims, absent dumps, a job that runs or a program bug."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from warpline_agent.offline import read_paths
from warpline_analysis.detector import Reader
from warpline_analysis.detectors import hang
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Frame
from warpline_proto.finding import Finding, FindingKind, Report, Severity, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
START = 1_700_000_000_000_000_000
MS = 1_000_000
TP = {rank: [rank - rank % 2, rank - rank % 2 + 1] for rank in range(8)}
DP = {rank: [other for other in range(8) if other % 2 == rank % 2] for rank in range(8)}


class Job:
    """Eight ranks in tensor-parallel pairs and two data-parallel groups of four; ids repeat, as they do in real dumps.

    Each rank has completed `done` operations on both of its groups and then issues what it is told to.
    """

    def __init__(self, done: int = 10, ranks: Iterable[int] = range(8)) -> None:
        self.done = done
        self.ranks = list(ranks)
        self.rows: list[dict[str, Any]] = []
        self.reached = {(rank, group): done for rank in range(8) for group in ("tp", "dp")}
        self.completed = dict(self.reached)
        self.clock = 0

    def issue(self, group: str, ranks: Iterable[int], operation: str = "all_reduce", **extra: Any) -> Job:
        """The next operation of a group on some ranks, pending."""
        self.clock += MS
        for rank in ranks:
            self.reached[rank, group] += 1
            self._row(rank, group, self.reached[rank, group], operation, **extra)
        return self

    def exchange(self, rank: int, peer: int, operation: str) -> Job:
        """A send or receive of one rank, pending. It goes over the tensor-parallel group for want of another."""
        self.clock += MS
        self._row(rank, "pp", 100 + rank, operation, peer=peer)
        return self

    def _row(self, rank: int, group: str, sequence: int, operation: str, **extra: Any) -> None:
        row = {"source": "flight_recorder", "job": "train", "rank": rank, "communicator": group, "sequence": sequence,
               "operation": operation, "elements": 1024, "datatype": "bfloat16", "state": "scheduled",
               "start_ns": START + self.clock + rank, "timing": "enqueue"}  # fmt: skip
        self.rows.append(row | extra)

    def finish(self, group: str, ranks: Iterable[int]) -> Job:
        """Everything issued on a group is completed on some ranks, and no longer in their dumps."""
        for rank in ranks:
            self.completed[rank, group] = self.reached[rank, group]
            self.rows = [row for row in self.rows if (row["rank"], row["communicator"]) != (rank, group)]
        return self

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """What the dumps of `ranks` hold."""
        members = [
            {"source": "flight_recorder", "job": "train", "rank": rank, "communicator": group, "group_name": group.upper(),
             "nranks": len(ranks), "ranks": ranks, "last_enqueued": self.reached.get((rank, group)),
             "last_completed": self.completed.get((rank, group)), "node": f"node{rank // 4}"}
            for rank in self.ranks
            for group, ranks in (("tp", TP[rank]), ("dp", DP[rank]), ("pp", list(range(8))))
        ]  # fmt: skip
        return {"communicators": members, "collectives": [row for row in self.rows if row["rank"] in self.ranks]}


def judge(reader_of: ReaderOf, job: Job, **more: Any) -> Report:
    reader = reader_of(job.tables() | more)
    report = hang.detect(reader)
    for finding in report.findings:
        for evidence in finding.evidence:
            assert evidence.rows
            assert reader.query(evidence.sql).num_rows >= len(evidence.rows)
    return report


def accused(report: Report) -> list[Any]:
    """Ranks, or groups in words."""
    return [each.subject.rank if each.subject.rank is not None else each.subject.group for each in report.findings]


def others(*left_out: int) -> list[int]:
    return [rank for rank in range(8) if rank not in left_out]


def one_stuck(rank: int = 5) -> Job:
    """`rank` stopped before its next tensor-parallel operation; its data-parallel peers run on to theirs and wait there."""
    running = others(rank, rank ^ 1)
    return Job().issue("tp", others(rank)).finish("tp", running).issue("dp", running)


def test_the_rank_that_did_not_join_is_named_and_its_victims_are_not(reader_of: ReaderOf) -> None:
    """Rank 4 waits for 5 in its pair and is missing in its data-parallel group: a victim."""
    report = judge(reader_of, one_stuck())
    (finding,) = report.findings
    assert (finding.kind, finding.severity, finding.subject.rank) == (FindingKind.HANG, Severity.CRITICAL, 5)
    assert (finding.subject.node, finding.subject.communicator) == ("node1", "tp")
    assert finding.onset.time_ns == START + MS + 4
    assert "has not joined all_reduce 11 of TP" in finding.summary and "rank 4 waits" in finding.summary
    assert "py-spy" in finding.next_step and "node1" in finding.next_step
    assert finding.evidence[0].rows[0]["rank"] == 5
    assert any(text.startswith("ranks 0, 1") for text in finding.ruled_out)


@pytest.mark.parametrize("rank", range(8))
def test_any_place_in_the_job_can_be_at_fault(reader_of: ReaderOf, rank: int) -> None:
    assert accused(judge(reader_of, one_stuck(rank))) == [rank]


def test_two_culprits_are_both_named(reader_of: ReaderOf) -> None:
    job = Job().issue("tp", others(1, 6)).finish("tp", [2, 3, 4, 5]).issue("dp", [2, 3, 4, 5])
    assert sorted(accused(judge(reader_of, job))) == [1, 6]


def test_ranks_missing_in_the_same_operation_are_one_incident(reader_of: ReaderOf) -> None:
    job = Job().issue("tp", range(8)).finish("tp", range(8)).issue("dp", [0, 1, 3, 5, 7, 4])
    assert accused(judge(reader_of, job)) == ["ranks 2, 6"]


def test_a_job_whose_operations_all_ended_is_healthy(reader_of: ReaderOf) -> None:
    job = Job().issue("tp", range(8), state="completed").issue("dp", range(8), state="completed")
    report = judge(reader_of, job)
    assert report.findings == () and report.verdict == Verdict.HEALTHY
    assert "all 16 operations recorded by 8 ranks" in report.checks[0].detail


def test_dumps_without_any_operation_tell_nothing(reader_of: ReaderOf) -> None:
    assert judge(reader_of, Job()).verdict == Verdict.UNKNOWN


def test_a_job_in_the_middle_of_an_operation_is_not_accused(reader_of: ReaderOf) -> None:
    """Every rank has joined the oldest operation; some have run ahead and issued more."""
    job = Job().issue("dp", range(8)).issue("tp", [0, 1, 2, 3, 4]).issue("tp", [0, 1])
    report = judge(reader_of, job)
    assert report.findings == () and report.verdict == Verdict.UNKNOWN
    assert "every rank has joined" in report.checks[0].detail


def test_a_dump_of_an_earlier_moment_accuses_nobody(reader_of: ReaderOf) -> None:
    """The others have completed what rank 3 had not issued when its dump was written: it was simply written first."""
    job = Job().issue("tp", others(3)).issue("dp", others(3))
    for group in ("tp", "dp"):
        job.finish(group, others(3))
    report = judge(reader_of, job.issue("dp", others(3)))
    assert report.findings == () and report.verdict == Verdict.UNKNOWN
    assert any("rank 3 are older" in text for text in report.checks[0].missing)


def test_half_of_the_dumps_name_only_what_is_certain(reader_of: ReaderOf) -> None:
    """Rank 5 did not join and its dump says so; nobody is named for what rank 4 and the absent ones do."""
    job = one_stuck()
    job.ranks = [4, 5, 6, 7]
    (finding,) = judge(reader_of, job).findings
    assert finding.subject.rank == 5 and finding.confidence < 0.8
    assert any("dumps of ranks 0, 1, 2, 3" in text for text in finding.missing)


def test_several_absent_dumps_cannot_be_told_apart(reader_of: ReaderOf) -> None:
    job = Job().issue("dp", others(1, 3))
    job.ranks = others(1, 3)
    report = judge(reader_of, job)
    assert report.findings == () and report.verdict == Verdict.UNKNOWN
    assert any("dumps of ranks 1, 3" in text for text in report.checks[0].missing)


def test_the_only_rank_without_a_dump_is_named_if_everything_waits_for_it(reader_of: ReaderOf) -> None:
    job = one_stuck()
    job.ranks = others(5)
    (finding,) = judge(reader_of, job).findings
    assert finding.subject.rank == 5 and finding.confidence <= 0.6
    assert "left no dump" in finding.summary


def test_an_absent_dump_beside_a_known_culprit_is_not_accused(reader_of: ReaderOf) -> None:
    job = one_stuck()
    job.ranks = others(0)
    assert accused(judge(reader_of, job)) == [5]


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        ({"operation": "all_gather"}, {"operation": "all_reduce"}, "rank 4: all_gather"),
        ({"elements": 512}, {"elements": 1024}, "rank 4: all_reduce of 512 bfloat16"),
    ],
)
def test_different_operations_under_one_number_are_a_program_bug(
    reader_of: ReaderOf, ours: dict[str, Any], theirs: dict[str, Any], told: str
) -> None:
    job = Job().issue("dp", [4], **ours).issue("dp", [0, 2, 6], **theirs)
    (finding,) = judge(reader_of, job).findings
    assert (finding.subject.rank, finding.subject.group, finding.subject.node) == (None, "the program", None)
    assert told in finding.summary and "no machine is at fault" in finding.next_step


def test_uneven_shares_of_an_all_to_all_are_no_bug(reader_of: ReaderOf) -> None:
    job = Job().issue("dp", [0, 2], operation="all_to_all").issue("dp", [4, 6], operation="all_to_all", elements=99)
    assert judge(reader_of, job).findings == ()


def test_a_pipeline_waits_for_the_stage_that_sent_nothing(reader_of: ReaderOf) -> None:
    """3 waits for 2, 2 for 1, 1 for 0, and 0 has nothing pending."""
    job = Job().exchange(1, 0, "recv").exchange(2, 1, "recv").exchange(3, 2, "recv")
    (finding,) = judge(reader_of, job).findings
    assert finding.subject.rank == 0 and "send or receive" in finding.summary


def test_a_rank_that_waits_for_a_stage_is_a_victim(reader_of: ReaderOf) -> None:
    """Rank 2 has not joined its group because it waits to receive from rank 0, which is missing in its own pair."""
    job = Job().issue("tp", [1]).exchange(2, 0, "recv").issue("dp", [4, 6])
    assert accused(judge(reader_of, job)) == [0]


@pytest.mark.parametrize("extra", [{"operation": "recv"}, {"operation": "nccl:coalesced"}])
def test_what_each_rank_numbers_for_itself_is_not_compared(reader_of: ReaderOf, extra: dict[str, Any]) -> None:
    """A receive from nobody known, or the bracket around a batch of them, is missing nowhere."""
    assert judge(reader_of, Job().issue("dp", [0], **extra)).findings == ()


def test_ranks_that_wait_for_each_other_are_told_as_a_circle(reader_of: ReaderOf) -> None:
    """0 waits for 1 in their pair, 1 for 3 in its group, 3 for 2 in their pair, 2 for 0 in its group."""
    job = Job().issue("tp", [0, 3]).issue("dp", [1, 5, 7]).issue("dp", [2, 4, 6])
    (finding,) = judge(reader_of, job).findings
    assert finding.subject.group == "ranks 0, 1, 2, 3"
    assert finding.confidence <= 0.5 and "wait for each other" in finding.summary
    assert "order" in finding.next_step


def test_a_lone_waiter_accuses_the_rest_with_little_confidence(reader_of: ReaderOf) -> None:
    (finding,) = judge(reader_of, Job().issue("dp", [0])).findings
    assert finding.subject.group == "ranks 2, 4, 6" and finding.confidence <= 0.5


def watchdog(ranks: Sequence[int], **extra: Any) -> list[dict[str, Any]]:
    message = "[Rank {}] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=11, OpType=ALLREDUCE, Timeout(ms)=600000)"
    return [
        {"source": "nccl_log", "job": "train", "rank": rank, "node": f"node{rank // 4}", "kind": "hang", "count": 1,
         "severity": "critical", "time_ns": START + rank, "message": message.format(rank)} | extra
        for rank in ranks
    ]  # fmt: skip


def test_a_watchdog_reports_a_hang_and_accuses_nobody(reader_of: ReaderOf) -> None:
    reader = reader_of({"log_events": watchdog([0, 1, 2]), "jobs": [{"job": "train", "world_size": 8}]})
    (finding,) = hang.detect(reader).findings
    assert (finding.severity, finding.subject.rank, finding.subject.node) == (Severity.CRITICAL, None, "node0")
    assert "Ranks 0, 1, 2 of 8" in finding.summary and "ALLREDUCE 11" in finding.summary
    assert finding.onset.time_ns == START and len(finding.evidence[0].rows) == 3


def test_dumps_and_watchdogs_of_one_job_are_one_incident(reader_of: ReaderOf) -> None:
    alone = judge(reader_of, one_stuck()).findings[0]
    (both,) = judge(reader_of, one_stuck(), log_events=watchdog(others(5))).findings
    assert both.id == alone.id and both.confidence > alone.confidence and both.missing == ()


def test_a_hang_with_everybody_in_the_operation_is_the_communicators(reader_of: ReaderOf) -> None:
    job = Job().issue("dp", DP[0])
    (finding,) = judge(reader_of, job, log_events=watchdog(DP[0])).findings
    assert (finding.subject.rank, finding.subject.communicator, finding.subject.group) == (
        None,
        "dp",
        "ranks 0, 2, 4, 6",
    )


def test_a_hang_that_is_long_over_on_a_watched_node_is_not_told_again(reader_of: ReaderOf) -> None:
    day = 25 * 3600 * 10**9
    health = [{"source": "kernel_log", "node": "node0", "state": "fresh", "time_ns": START + day}]
    assert hang.detect(reader_of({"log_events": watchdog([0, 1]), "source_health": health})).findings == ()


def ras(counts: Sequence[int | None], states: Mapping[int, str] | None = None) -> list[dict[str, Any]]:
    return [
        {"source": "nccl_ras", "job": "train", "communicator": "0xab", "communicator_rank": rank, "node": f"node{rank // 4}",
         "pid": 100 + rank, "nranks": len(counts), "last_enqueued": count, "state": (states or {}).get(rank, "ready")}
        for rank, count in enumerate(counts)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "verdict", "group"),
    [
        (ras([7] * 8), Verdict.HEALTHY, None),
        (ras([7, 7, 7, 7, 7, 6, 7, 7]), Verdict.WARNING, "Rank 5 of the communicator"),
        (ras([7, 6, 6, 6, 6, 6, 6, 6]), Verdict.UNKNOWN, None),
        (ras([None] * 8), Verdict.UNKNOWN, None),
        (ras([7] * 8, {3: "dead"}), Verdict.CRITICAL, "Rank 3 of the communicator"),
        (ras([7] * 8, {6: "missing", 7: "missing"}), Verdict.CRITICAL, "Ranks 6, 7 of the communicator"),
    ],
)
def test_ras_names_ranks_that_are_behind_silent_or_dead(
    reader_of: ReaderOf, rows: list[dict[str, Any]], verdict: Verdict, group: str | None
) -> None:
    report = hang.detect(reader_of({"communicators": rows}))
    assert report.verdict == verdict
    assert [finding.subject.group for finding in report.findings] == ([group] if group else [])


def test_nothing_to_judge_is_no_answer(reader_of: ReaderOf) -> None:
    assert hang.detect(reader_of({})) == Report()


@pytest.fixture(scope="module")
def recorded(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Report, DuckDBStore]]:
    """A path below the recorded data -> what is found in it, over a real store."""

    def analyze(path: str) -> tuple[Report, DuckDBStore]:
        store = DuckDBStore(tmp_path_factory.mktemp("store"))
        store.append([Frame("test", "import", 1, time.time_ns(), tuple(read_paths([data / path]).batches))])
        return hang.detect(store), store

    return analyze


def shown(report: Report, store: DuckDBStore) -> tuple[Finding, ...]:
    """The findings, each with evidence that gives rows when it is asked again."""
    for finding in report.findings:
        assert all(store.query(evidence.sql).num_rows for evidence in finding.evidence)
    return report.findings


@pytest.mark.data
@pytest.mark.parametrize(("case", "must", "may"), [("gpu_error_1st", {12}, {14}), ("lock_gil_2nd", {10, 15}, set())])
def test_recorded_dumps_name_the_ranks_in_which_a_fault_was_put(
    recorded: Any, case: str, must: set[int], may: set[int]
) -> None:
    report, store = recorded(f"C-collectives/flight_recorder/{case}")
    found = shown(report, store)
    firm = {finding.subject.rank for finding in found if finding.severity == Severity.CRITICAL}
    assert firm == must
    assert {finding.subject.rank for finding in found} - must <= may
    store.close()


@pytest.mark.data
def test_recorded_monitors_and_ras_reports(recorded: Any) -> None:
    """All eight ranks hang; the normal scrape does not; six of 32 ranks are one operation behind."""
    for path, verdict, words in (
        ("C-collectives/xpu_timer/hang_metric_all.txt", Verdict.CRITICAL, "All 8 ranks"),
        ("C-collectives/xpu_timer/normal_metric_0.txt", Verdict.HEALTHY, ""),
        ("C-collectives/nccl-ras/ras_rst_line93.txt", Verdict.WARNING, "Ranks 0, 2, 3, 4, 5, 7"),
        ("C-collectives/nccl-ras/ras_rst_line223.txt", Verdict.CRITICAL, "process 1524345 on 172.16.64.245"),
    ):
        report, store = recorded(path)
        assert report.verdict == verdict, path
        assert all(words in finding.summary for finding in shown(report, store))
        assert all(finding.subject.rank is None for finding in report.findings)
        store.close()


def test_what_an_earlier_dump_had_pending_and_a_later_one_has_passed_is_done(reader_of: ReaderOf) -> None:
    """Dumps of one rank at two moments: the count of the later one is past the operation of the earlier."""
    job = one_stuck()
    tables = job.tables()
    passed = [row | {"last_enqueued": 99, "last_completed": 99} for row in tables["communicators"]]
    report = hang.detect(reader_of({**tables, "communicators": [*tables["communicators"], *passed]}))
    assert report.findings == ()


def test_a_dump_without_counts_says_by_its_entries_what_is_pending(reader_of: ReaderOf) -> None:
    tables = one_stuck().tables()
    uncounted = [row | {"last_completed": None} for row in tables["communicators"]]
    report = hang.detect(reader_of({**tables, "communicators": uncounted}))
    assert accused(report) == [5]
