"""Where training processes stand, as judged beside real processes: hung, working, evaluating, stopped, gone or ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from ranks import NCCL, SECOND, hang_of

from warpline_agent.process_states import process_state
from warpline_agent.progress import SILENT_SECONDS, Sight
from warpline_agent.ring_file import open_ring
from warpline_agent.ring_peek import lately, newest_enqueued
from warpline_hook import ring


def test_the_rank_that_stops_enqueueing_is_named(job: Any, reader_of: Any) -> None:
    """From rings alone: three processes have enqueued what the fourth has not, and no kernel of it ends."""
    node, ranks = job()
    assert node.states() == dict.fromkeys(range(4), "steps")
    for rank in (0, 1, 3):
        ranks[rank].ask("nccl coll 0 1 1000 5")
    node.look(SILENT_SECONDS + 1)
    node.look(10)
    states = {row["rank"]: row["state"] for row in node.rows["progress"][-20:]}
    assert states == {0: "in_collective", 1: "in_collective", 2: "silent", 3: "in_collective"}
    (finding,) = hang_of(reader_of, node).findings
    assert (finding.subject.job, finding.subject.rank, finding.subject.node) == ("night", 2, "n1")
    assert finding.subject.communicator == "0x9f3c"
    assert "Rank 2 has not joined all_reduce 5 of world" in finding.summary
    newest = {row["rank"]: row["sequence"] for row in node.rows["progress"] if row["operation"] == "all_reduce"}
    assert newest == {0: 5, 1: 5, 2: 4, 3: 5}
    for process in ranks:
        process.ask("step 0.1")
        process.ask(f"cupti kernels 1 {NCCL}")
    node.ahead_ns = 0
    assert set(node.states(0).values()) == {"steps"}, "told at once that it goes on"


def test_an_agent_that_is_started_anew_finds_the_same_hang(job: Any, reader_of: Any) -> None:
    node, ranks = job()
    for rank in (0, 1, 3):
        ranks[rank].ask("nccl coll 0 1 1000 5")
    node.ahead_ns = int(SILENT_SECONDS + 1) * SECOND
    node.progress.close()
    node.rows.clear()
    node.start()
    assert node.states() == {0: "in_collective", 1: "in_collective", 2: "silent", 3: "in_collective"}
    (finding,) = hang_of(reader_of, node).findings
    assert finding.subject.rank == 2


def cpu_ns(pid: int) -> int:
    found = process_state(pid)
    assert found is not None
    return found.cpu_ns


def test_a_rank_that_works_while_others_wait_for_it_does_not_hang(job: Any, reader_of: Any) -> None:
    """A checkpoint, or a compilation: real CPU time of a real process."""
    node, ranks = job()
    for rank in (1, 2, 3):
        ranks[rank].ask("nccl coll 0 1 1000 5")
    ranks[0].ask("spin")
    node.look(SILENT_SECONDS + 1)
    looked_ns, used_ns = node.now_ns(), cpu_ns(ranks[0].pid)
    node.until(lambda: cpu_ns(ranks[0].pid) - used_ns > SECOND)
    node.at(looked_ns + 10 * SECOND)
    assert node.states()[0] == "working"
    ranks[0].ask("rest")
    report = hang_of(reader_of, node)
    assert report.findings == ()
    assert "wait for rank 0, whose host works" in report.checks[0].detail


def test_an_evaluation_without_steps_does_not_hang(job: Any) -> None:
    """Kernels have ended a moment ago; that the last step did a minute ago is made up."""
    node, ranks = job()
    for process in ranks:
        process.ask("cupti kernels 1 evaluate")
    node.until(lambda: node.recorded(6))
    node.look()
    for each in node.progress._watched.values():
        assert each.sight is not None
        late = Sight(**(vars(each.sight) | {"step_end_ns": each.sight.at_ns - 60 * SECOND}))
        assert each.watch.see(late).state == "kernels"


def test_a_job_that_pauses_is_not_called_hung(job: Any, reader_of: Any) -> None:
    """All stand at the same operation, and all of it has ended."""
    node, _ = job()
    node.look(SILENT_SECONDS + 1)
    assert set(node.states(10).values()) == {"silent"}
    report = hang_of(reader_of, node)
    assert report.findings == ()
    assert "nobody is behind" in report.checks[0].detail


def test_a_process_that_is_stopped_is_called_stopped(job: Any, reader_of: Any) -> None:
    node, ranks = job()
    for rank in (0, 1, 3):
        ranks[rank].ask("nccl coll 0 1 1000 5")
    os.kill(ranks[2].pid, signal.SIGSTOP)
    node.until(lambda: Path(f"/proc/{ranks[2].pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    assert node.states(SILENT_SECONDS + 1)[2] == "stopped"
    report = hang_of(reader_of, node)
    assert report.findings == ()
    assert f"kill -CONT {ranks[2].pid}" in report.checks[0].detail
    os.kill(ranks[2].pid, signal.SIGCONT)


def test_a_process_that_was_killed_while_others_wait_is_gone(job: Any, reader_of: Any) -> None:
    node, ranks = job()
    node.look()
    for rank in (0, 1, 3):
        ranks[rank].ask("nccl coll 0 1 1000 5")
    ranks[2].kill()
    assert node.states(SILENT_SECONDS + 1)[2] == "gone"
    (finding,) = hang_of(reader_of, node).findings
    assert finding.subject.rank == 2
    assert "gone without a word" in finding.summary


def test_a_job_that_has_ended_in_order_is_over(job: Any, reader_of: Any) -> None:
    node, ranks = job()
    node.look()
    for process in ranks:
        process._process.stdin.write("exit\n")
        assert process.end() == 0
    assert set(node.states(1).values()) == {"ended"}
    report = hang_of(reader_of, node)
    assert report.findings == ()


def test_a_ring_that_lies_of_itself_is_survived(job: Any) -> None:
    """Each word of the header in turn, with numbers that no ring has; and a lane full of nonsense."""
    node, ranks = job(ranks=1)
    ranks[0].kill()
    (path,) = node.folder.glob("*.ring")
    opened = open_ring(path)
    assert opened is not None
    good = path.read_bytes()
    assert [row["sequence"] for row in lately(opened).operations] == [4]
    for at in range(ring.LANES_AT, ring.LANES_AT + 2 * ring.LANE_BYTES, 8):
        for value in (1, 2**20, 2**31, 2**63, 2**64 - 1):
            with open(path, "r+b") as stream:
                stream.seek(at)
                stream.write(value.to_bytes(8, "little"))
            lately(opened)
            newest_enqueued(opened)
        path.write_bytes(good)
    with open(path, "r+b") as stream:
        stream.seek(ring.HEADER_BYTES)
        stream.write(os.urandom(len(good) - ring.HEADER_BYTES))
    assert lately(opened).enqueued_ns is None
    opened.close()
