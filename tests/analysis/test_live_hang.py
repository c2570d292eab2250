"""A watched job that hangs names the rank that is behind; one that is idle, works, is stopped or goes on does not hang."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import hang
from warpline_analysis.live_progress import STALE_NS
from warpline_proto.finding import FindingKind, Report, Severity, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
NOW = 1_800_000_000_000_000_000
SECOND = 10**9
RANKS = 8
WORLD = "0xabc"


class Job:
    """Eight ranks on two nodes, all at all_reduce 40 of one communicator, waiting since a minute."""

    def __init__(self, state: str = "in_collective") -> None:
        self.state = dict.fromkeys(range(RANKS), state)
        self.sequence: dict[tuple[int, str, str], int] = {(rank, WORLD, "all_reduce"): 40 for rank in range(RANKS)}
        self.elements = dict.fromkeys(range(RANKS), 1024)
        self.time = dict.fromkeys(range(RANKS), NOW)
        self.more: dict[str, Any] = {}

    def at(
        self, rank: int, state: str, sequence: int | None = None, operation: str = "all_reduce", of: str = WORLD
    ) -> Job:
        self.state[rank] = state
        if sequence is not None:
            self.sequence[rank, of, operation] = sequence
        return self

    def busy(self, percent: float, ranks: range = range(RANKS)) -> Job:
        self.more["device_samples"] = [
            {"gpu_uuid": f"GPU-{rank}", "time_ns": NOW - second * SECOND, "gpu_utilization_percent": percent}
            for rank in ranks
            for second in range(10)
        ]
        return self

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        rows = []
        for rank, state in self.state.items():
            common = {"job": "train", "rank": rank, "node": f"node{rank // 4}", "gpu_uuid": f"GPU-{rank}", "pid": 100 + rank,
                      "time_ns": self.time[rank], "state": state, "since_ns": NOW - 60 * SECOND,
                      "reason": f"it is {state}"}  # fmt: skip
            rows.append(common)
            if state in ("steps", "kernels", "starting", "gone", "ended"):
                continue
            rows += [
                common
                | {"communicator": of, "nranks": self.ranks_of(of), "operation": operation, "sequence": number,
                   "elements": self.elements[rank], "datatype": "bfloat16", "enqueued_ns": NOW - 60 * SECOND + rank}
                for (each, of, operation), number in self.sequence.items()
                if each == rank
            ]  # fmt: skip
        return {"progress": rows, "jobs": [{"job": "train", "world_size": RANKS}], **self.more}

    def ranks_of(self, communicator: str) -> int:
        return len({rank for rank, of, _ in self.sequence if of == communicator})


def judge(reader_of: ReaderOf, job: Job, **more: Any) -> Report:
    reader = reader_of(job.tables() | more)
    report = hang.detect(reader)
    for finding in report.findings:
        for evidence in finding.evidence:
            assert evidence.rows
            assert reader.query(evidence.sql).num_rows >= len(evidence.rows)
    return report


def verdicts(report: Report) -> list[Verdict]:
    assert report.findings == ()
    return [check.verdict for check in report.checks]


def behind(rank: int = 5, state: str = "silent") -> Job:
    return Job().at(rank, state, 39)


@pytest.mark.parametrize("rank", range(RANKS))
def test_the_rank_that_never_enqueued_the_operation_is_named(reader_of: ReaderOf, rank: int) -> None:
    (finding,) = judge(reader_of, behind(rank)).findings
    assert (finding.kind, finding.severity) == (FindingKind.HANG, Severity.CRITICAL)
    assert (finding.subject.rank, finding.subject.node, finding.subject.gpu) == (
        rank,
        f"node{rank // 4}",
        f"GPU-{rank}",
    )
    assert finding.subject.communicator == WORLD
    assert "has not joined all_reduce 40 of communicator 0xabc" in finding.summary
    assert str(100 + rank) in finding.next_step
    assert finding.evidence[0].rows[0]["rank"] == rank
    assert any("flight-recorder dumps" in text for text in finding.missing)
    assert finding.onset.time_ns is not None


def test_a_rank_that_is_blocked_in_the_operating_system_is_named_too(reader_of: ReaderOf) -> None:
    (finding,) = judge(reader_of, behind(2, "blocked")).findings
    assert finding.subject.rank == 2
    assert "it is blocked" in finding.summary


def test_victims_of_another_communicator_are_not_named(reader_of: ReaderOf) -> None:
    """Rank 4 waits for 5 in their pair, and so is missing in the world's operation: a victim."""
    job = Job().at(4, "in_collective", 39).at(5, "silent", 39)
    job.sequence |= {(4, "0xdef", "all_gather"): 7, (5, "0xdef", "all_gather"): 6}
    (finding,) = judge(reader_of, job).findings
    assert finding.subject.rank == 5


def test_a_rank_that_enqueued_nothing_on_a_communicator_is_behind(reader_of: ReaderOf) -> None:
    job = Job()
    del job.sequence[3, WORLD, "all_reduce"]
    job.sequence[3, WORLD, "broadcast"] = 0
    for rank in range(RANKS):
        job.sequence[rank, WORLD, "broadcast"] = 0
    (finding,) = judge(reader_of, job.at(3, "silent")).findings
    assert finding.subject.rank == 3


def test_a_process_that_is_gone_while_others_wait_is_named(reader_of: ReaderOf) -> None:
    job = Job().at(6, "gone")
    job.time[6] = NOW - 10 * STALE_NS  # told once
    tables = job.tables()
    for row in tables["progress"]:
        row["pid"] = None if row["rank"] == 6 else row["pid"]
    (finding,) = hang.detect(reader_of(tables)).findings
    assert (finding.subject.rank, finding.severity) == (6, Severity.CRITICAL)
    assert "gone without a word" in finding.summary


@pytest.mark.parametrize("state", ["ended", "gone"])
def test_a_job_that_is_over_does_not_hang(reader_of: ReaderOf, state: str) -> None:
    assert verdicts(judge(reader_of, Job(state))) == [Verdict.HEALTHY]


def test_a_job_whose_steps_end_does_not_hang(reader_of: ReaderOf) -> None:
    assert verdicts(judge(reader_of, Job("steps"))) == [Verdict.HEALTHY]


@pytest.mark.parametrize("state", ["kernels", "starting"])
def test_evaluation_and_the_start_are_no_hang(reader_of: ReaderOf, state: str) -> None:
    """Neither of all ranks, nor of one for which the others wait."""
    assert verdicts(judge(reader_of, Job(state))) == [Verdict.HEALTHY]
    assert verdicts(judge(reader_of, Job().at(0, state))) == [Verdict.UNKNOWN]


def test_a_long_checkpoint_of_one_rank_is_no_hang(reader_of: ReaderOf) -> None:
    """The others stand in a barrier that it has not joined; its CPU and files are busy."""
    report = judge(reader_of, behind(0, "working"))
    assert verdicts(report) == [Verdict.UNKNOWN]
    assert "wait for rank 0, whose host works" in report.checks[0].detail


def test_a_rank_that_somebody_has_stopped_is_no_hang(reader_of: ReaderOf) -> None:
    report = judge(reader_of, behind(3, "stopped"))
    assert verdicts(report) == [Verdict.UNKNOWN]
    assert "rank 3 is stopped by a signal" in report.checks[0].detail and "kill -CONT 103" in report.checks[0].detail


def test_a_job_that_is_paused_between_epochs_is_idle(reader_of: ReaderOf) -> None:
    """All stand at the same operation, and no GPU does anything."""
    report = judge(reader_of, Job("silent").busy(0.0))
    assert verdicts(report) == [Verdict.HEALTHY]
    assert "GPUs are idle" in report.checks[0].detail


def test_without_a_word_on_gpus_it_cannot_be_told_whether_it_is_idle(reader_of: ReaderOf) -> None:
    report = judge(reader_of, Job("silent"))
    assert verdicts(report) == [Verdict.UNKNOWN]
    assert "idle, or in an operation that does not end" in report.checks[0].detail


@pytest.mark.parametrize("job", [Job(), Job("silent").busy(100.0)])
def test_an_operation_that_all_have_joined_and_that_does_not_end_hangs(reader_of: ReaderOf, job: Job) -> None:
    """Known from kernels that do not end, or from GPUs that are in use while no kernel ends; nobody is singled out."""
    (finding,) = judge(reader_of, job).findings
    assert (finding.subject.rank, finding.subject.communicator) == (None, WORLD)
    assert "does not end though ranks 0, 1, 2" in finding.summary


def test_where_not_all_ranks_are_watched_nobody_is_accused_for_the_absent(reader_of: ReaderOf) -> None:
    job = Job()
    for rank in range(4, RANKS):
        job.time[rank] = NOW - 2 * STALE_NS
    tables = job.tables()
    report = hang.detect(reader_of(tables))
    assert verdicts(report) == [Verdict.UNKNOWN]
    assert any("word of ranks 4, 5" in text for text in report.checks[0].missing)


def test_a_child_that_bears_the_rank_of_its_parent_hides_no_hang(reader_of: ReaderOf) -> None:
    """Nor does a process of an earlier start of the same job."""
    tables = behind().tables()
    parent = next(row for row in tables["progress"] if row["rank"] == 5)
    child = parent | {"pid": 999, "state": "kernels", "watched": False, "time_ns": NOW + SECOND}
    earlier = parent | {"pid": 7, "state": "gone", "step": 10, "time_ns": NOW - 600 * SECOND}
    for row in tables["progress"]:
        row |= {"watched": True, "step": 17}
    report = hang.detect(reader_of({**tables, "progress": [*tables["progress"], child, earlier]}))
    assert [each.subject.rank for each in report.findings] == [5]


def test_different_operations_are_the_programs_fault(reader_of: ReaderOf) -> None:
    job = Job().at(1, "in_collective", 39)
    for rank in range(RANKS):
        job.sequence[rank, WORLD, "all_gather"] = 8 if rank == 1 else 7
    (finding,) = judge(reader_of, job).findings
    assert finding.subject.group == "the program"
    assert "rank 1: all_gather" in finding.summary


def test_different_sizes_are_the_programs_fault(reader_of: ReaderOf) -> None:
    job = Job()
    job.elements[2] = 512
    (finding,) = judge(reader_of, job).findings
    assert finding.subject.group == "the program"
    assert "rank 2: all_reduce of 512" in finding.summary


def pending_dump() -> dict[str, list[dict[str, Any]]]:
    """Dumps in which rank 0 has not joined what the others have: as they look during a checkpoint of rank 0 as well."""
    members = [
        {"source": "flight_recorder", "job": "train", "rank": rank, "communicator": "0[0-7]", "nranks": RANKS,
         "ranks": list(range(RANKS)), "last_enqueued": 40 - (rank == 0), "last_completed": 39}
        for rank in range(RANKS)
    ]  # fmt: skip
    rows = [
        {"source": "flight_recorder", "job": "train", "rank": rank, "communicator": "0[0-7]", "sequence": 40,
         "operation": "all_reduce", "state": "scheduled", "start_ns": NOW - 60 * SECOND}
        for rank in range(1, RANKS)
    ]  # fmt: skip
    return {"communicators": members, "collectives": rows}


def test_dumps_taken_on_suspicion_accuse_nobody_of_a_job_that_works(reader_of: ReaderOf) -> None:
    assert judge(reader_of, behind(0, "working"), **pending_dump()).findings == ()
    assert judge(reader_of, Job("steps"), **pending_dump()).findings == ()


def test_dumps_say_who_is_behind_where_the_processes_do_not(reader_of: ReaderOf) -> None:
    """Without the operations of NCCL, silence is all that is seen of the processes."""
    job = Job("silent")
    job.sequence = {}
    (finding,) = judge(reader_of, job, **pending_dump()).findings
    assert finding.subject.rank == 0
    assert "has not joined" in finding.summary


def test_a_hang_with_dumps_asks_for_none(reader_of: ReaderOf) -> None:
    (finding,) = judge(reader_of, behind(0), **pending_dump()).findings
    assert finding.subject.rank == 0
    assert finding.missing == ()
