"""Where training processes stand, as judged beside real processes: hung, working, evaluating, stopped, gone or ended."""

from __future__ import annotations

import json
import os
import pickle
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from warpline_agent.dump_pipe import DumpFiles, ask, dump_files, fetch, sweep, take_away
from warpline_agent.process_states import process_state, thread_states
from warpline_agent.progress import SILENT_SECONDS, STARTING_SECONDS, Sight, Watch
from warpline_agent.ring_file import open_ring
from warpline_agent.ring_peek import lately, newest_enqueued
from warpline_agent.sources.kernels import KernelsConfig, TrainingKernels
from warpline_agent.sources.progress import Progress, ProgressConfig
from warpline_analysis.detectors import hang
from warpline_hook import ring
from warpline_hook.flight_recorder import PREFIX, flight_recorder_variables
from warpline_hook.launch import environment_for
from warpline_proto.capture import Capture
from warpline_proto.errors import Busy, Denied, Refused, Unsupported

SECOND = 10**9
NOW = 1_800_000_000 * SECOND
PATIENCE_SECONDS = 60.0
HASH = "9f3c"
RANK = Path(__file__).parents[1] / "fakes" / "rank.py"
NCCL = "ncclDevKernel_AllReduce"


def dump(rank: int, reached: int = 41, completed: int = 40) -> dict[str, Any]:
    """A dump as PyTorch 2.13 writes it: four ranks, one all-reduce pending."""
    entry = {
        "frames": [{"name": "all_reduce", "filename": "train.py", "line": 7}], "record_id": 0, "pg_id": 0,
        "process_group": ("0", "default_pg"), "collective_seq_id": reached, "p2p_seq_id": 0, "op_id": reached,
        "profiling_name": "nccl:all_reduce", "time_created_ns": NOW, "input_sizes": [[4]], "input_dtypes": ["Float"],
        "output_sizes": [[4]], "output_dtypes": ["Float"], "state": "scheduled", "time_discovered_started_ns": None,
        "time_discovered_completed_ns": None, "retired": False, "timeout_ms": 600000, "is_p2p": False,
    }  # fmt: skip
    status = {
        "last_enqueued_collective": reached,
        "last_started_collective": -1,
        "last_completed_collective": completed,
    }
    groups = {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1, 2, 3]"}}
    return {
        "version": "2.10",
        "pg_config": groups,
        "pg_status": {"0": status},
        "entries": [entry] * (reached > completed),
    }


# --- the judgement alone ---


def sight(at: float, **known: Any) -> Sight:
    """A look `at` seconds from NOW; times in `known` are seconds from NOW too."""
    named = {"step_at": "step_end_ns", "kernel_at": "last_kernel_ns", "captured_at": "captured_from_ns",
             "enqueued_at": "enqueued_ns", "begun_at": "begun_ns"}  # fmt: skip
    told: dict[str, Any] = {
        named.get(name, name): NOW + int(value * SECOND) if name in named and value is not None else value
        for name, value in known.items()
    }
    standing: dict[str, Any] = {"os_state": "sleeping"}
    return Sight(NOW + int(at * SECOND), **(standing | told))


def state(*sights: Sight) -> str:
    watch = Watch()
    return [watch.see(each).state for each in sights][-1]


STOOD: dict[str, Any] = {"step_at": -60, "usual_step_ns": SECOND, "begun_at": -4000}
"""It has trained for an hour, and ended its last step a minute ago."""


def test_steps_that_end_are_all_that_is_asked_for() -> None:
    assert state(sight(0, step_at=-1, usual_step_ns=SECOND)) == "steps"


def test_a_job_with_long_steps_is_given_ten_of_them() -> None:
    assert state(sight(0, step_at=-500, usual_step_ns=60 * SECOND)) == "steps"
    assert state(sight(0, step_at=-601, usual_step_ns=60 * SECOND, begun_at=-4000)) == "silent"


def test_kernels_that_end_after_the_last_step_are_evaluation() -> None:
    assert state(sight(0, **STOOD, kernel_at=-0.5)) == "kernels"


def test_operations_that_are_enqueued_without_kernels_go_on_too() -> None:
    assert state(sight(0, **STOOD, enqueued_at=-0.5)) == "kernels"


def test_an_operation_whose_kernel_has_not_ended_is_waited_for() -> None:
    assert state(sight(0, **STOOD, enqueued_at=-50, kernel_at=-51, captured_at=-3000)) == "in_collective"


@pytest.mark.parametrize("captured", [None, -40])
def test_without_kernels_watched_before_it_nobody_knows_whether_it_has_ended(captured: float | None) -> None:
    assert state(sight(0, **STOOD, enqueued_at=-50, kernel_at=-51, captured_at=captured)) == "silent"


def test_a_host_that_works_is_told_by_two_looks() -> None:
    first, second = sight(0, **STOOD, cpu_ns=0), sight(5, **STOOD, cpu_ns=SECOND)
    assert state(first) == "silent"
    assert state(first, second) == "working"
    assert state(first, sight(5, **STOOD, cpu_ns=SECOND // 100)) == "silent"


def test_a_host_that_writes_files_works() -> None:
    assert state(sight(0, **STOOD, io_bytes=0), sight(5, **STOOD, io_bytes=50_000_000)) == "working"


def test_a_host_that_works_and_waits_for_an_operation_waits() -> None:
    """NCCL's own threads use the CPU meanwhile."""
    waits = {**STOOD, "enqueued_at": -50, "kernel_at": -51, "captured_at": -3000}
    assert state(sight(0, **waits, cpu_ns=0), sight(5, **waits, cpu_ns=5 * SECOND)) == "in_collective"


def test_the_first_steps_may_take_long() -> None:
    """Compilation, loading and connecting, with an operation enqueued long ago."""
    young = {"begun_at": 1 - STARTING_SECONDS, "enqueued_at": -250, "captured_at": -290}
    assert state(sight(0, **young)) == "starting"
    assert state(sight(2, **young)) == "in_collective"


@pytest.mark.parametrize(
    ("os_state", "told"), [("stopped", "stopped"), ("zombie", "gone"), ("dead", "gone"), (None, "gone")]
)
def test_what_the_operating_system_says_comes_first(os_state: str | None, told: str) -> None:
    assert state(sight(0, step_at=-1, usual_step_ns=SECOND, os_state=os_state)) == told


def test_a_process_that_said_so_has_ended() -> None:
    assert state(sight(0, os_state=None, in_order=True)) == "ended"


def test_a_process_in_the_kernel_is_blocked_when_it_is_so_twice() -> None:
    first, second = sight(0, **STOOD, os_state="disk"), sight(5, **STOOD, os_state="disk")
    assert state(first) == "silent"
    assert state(first, second) == "blocked"
    assert state(first, sight(5, **STOOD), sight(6, **STOOD, os_state="disk")) != "blocked"


# --- real processes ---


class Node:
    """An agent's two sources, all they have told, and a clock that can be moved on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ahead_ns = 0
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.kernels = TrainingKernels(KernelsConfig(directories=(str(folder),), containers=False), node="n1")
        self.kernels.open()
        self.start()

    def start(self) -> None:
        """An agent begins, as one does that was restarted."""
        config = ProgressConfig(directories=(str(self.folder),), containers=False)
        self.progress = Progress(config, clock_ns=lambda: time.time_ns() + self.ahead_ns)
        self.progress.open()

    def look(self, later_seconds: float = 0.0) -> list[dict[str, Any]]:
        """New rows of progress, so much later."""
        self.ahead_ns += int(later_seconds * 1e9)
        before = len(self.rows.setdefault("progress", []))
        for table, batch, _ in self.progress.read():
            self.rows.setdefault(table, []).extend(row | {"node": "n1"} for row in batch.to_pylist())
        return self.rows["progress"][before:]

    def states(self, later_seconds: float = 0.0) -> dict[int, str]:
        """What each rank is said to be at; only those of which something is told."""
        return {row["rank"]: row["state"] for row in self.look(later_seconds)}

    def until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert time.monotonic() < end, f"did not happen: {list(self.progress.health())} {self.rows.keys()}"
            threading.Event().wait(0.02)
            list(self.kernels.read())

    def captures(self, ranks: int) -> bool:
        followed = self.kernels._followed.values()
        return len(followed) == ranks and all(each.file.standing().capturing for each in followed)

    def recorded(self, kernels: int) -> bool:
        return all(each.file.standing().counters["records"] >= kernels for each in self.kernels._followed.values())

    def close(self) -> None:
        self.progress.close()
        self.kernels.close()


@pytest.fixture
def job(
    compile_fake: Callable[[str, str], Path], native_library: Path, drive: Callable[..., Any], tmp_path: Path
) -> Iterator[Callable[..., tuple[Node, list[Any]]]]:
    """Four ranks that have set up a communicator, with five operations enqueued and ended, and an agent that captures."""
    (tmp_path / "rings").mkdir()
    nodes: list[Node] = []

    def start(ranks: int = 4, **more: str) -> tuple[Node, list[Any]]:
        cupti = compile_fake("cupti", "libcupti.so.12")
        told = {
            "FAKE_CUPTI": str(cupti), "WARPLINE_CUPTI": str(cupti), "CUDA_INJECTION64_PATH": str(native_library),
            "FAKE_NCCL": str(compile_fake("nccl_host", "libnccl_fake.so")), "NCCL_PROFILER_PLUGIN": str(native_library),
            "FAKE_NCCL_API": "6", "WARPLINE_DIRECTORY": str(tmp_path / "rings"), "WARPLINE_JOB": "night",
            "WORLD_SIZE": str(ranks), **more,
        }  # fmt: skip
        started = [drive([sys.executable, RANK], told | {"RANK": str(rank)}) for rank in range(ranks)]
        for rank, process in enumerate(started):
            assert process.ask("cuda") == "1"
            process.ask(f"nccl comm {HASH} {rank} {ranks} 1 world")
        nodes.append(Node(tmp_path / "rings"))
        nodes[-1].until(lambda: nodes[-1].captures(ranks))
        for process in started:
            for _ in range(3):
                process.ask("step 0.1")
            process.ask("nccl coll 0 5 1000 0")
            process.ask(f"cupti kernels 5 {NCCL}")
        nodes[-1].until(lambda: nodes[-1].recorded(5))
        return nodes[-1], started

    yield start
    for each in nodes:
        each.close()


def hang_of(reader_of: Any, node: Node) -> Any:
    return hang.detect(
        reader_of({name: node.rows.get(name, []) for name in ("progress", "communicators", "collectives")})
    )


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
    used_ns = cpu_ns(ranks[0].pid)
    node.until(lambda: cpu_ns(ranks[0].pid) - used_ns > SECOND)
    assert node.states(9)[0] == "working"
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


# --- dumps of the flight recorder ---


@pytest.fixture
def recording(job: Any, tmp_path: Path) -> Callable[..., tuple[Node, list[Any]]]:
    """A job whose ranks hang, with the variables of the launcher and a dump that each writes when its pipe is written to."""

    def start(serve: str = "pipe", content: bytes | None = None, **more: str) -> tuple[Node, list[Any]]:
        (tmp_path / "dump").write_bytes(pickle.dumps(dump(0), protocol=2) if content is None else content)
        variables = flight_recorder_variables({"TMPDIR": str(tmp_path)}, str(tmp_path / "rings"), "run/1")
        node, ranks = job(**variables, DUMP=str(tmp_path / "dump"), **more)
        for process in ranks if serve else ():
            process.ask(serve)
        for process in ranks[:3]:
            process.ask("nccl coll 0 1 1000 5")
        return node, ranks

    return start


def wait_for_dumps(node: Node, count: int) -> None:
    def there() -> bool:
        node.look()
        return len(node.rows.get("communicators", [])) >= count

    node.until(there)


def test_on_a_hang_every_rank_of_the_node_is_asked_for_its_dump_once(
    recording: Any, tmp_path: Path, reader_of: Any
) -> None:
    node, ranks = recording()
    node.look(SILENT_SECONDS + 1)
    wait_for_dumps(node, 4)
    members = node.rows["communicators"]
    assert {row["rank"] for row in members} == set(range(4))
    assert {(row["source"], row["job"], row["last_enqueued"]) for row in members} == {("flight_recorder", "night", 41)}
    assert {row["pid"] for row in members} == {process.pid for process in ranks}
    assert [(row["operation"], row["state"]) for row in node.rows["collectives"]] == [("all_reduce", "scheduled")] * 4
    assert not list(tmp_path.glob(f"{PREFIX}*")), "what was read is taken away"
    node.look(60)
    node.look(1)
    assert len(node.rows["communicators"]) == 4
    assert list(node.progress.health()) == []
    (finding,) = hang_of(reader_of, node).findings
    assert (finding.subject.rank, finding.missing) == (3, ())


@pytest.mark.data
def test_dumps_that_nccl_jobs_have_left_are_delivered_whole(recording: Any, data: Path) -> None:
    """The recorded dump of rank 0 of sixteen: 20 operations, all scheduled."""
    recorded = data / "C-collectives/flight_recorder/gpu_error_1st/_dump_0"
    node, _ = recording(content=recorded.read_bytes())
    node.look(SILENT_SECONDS + 1)
    wait_for_dumps(node, 4)
    of_rank = [row for row in node.rows["collectives"] if row["rank"] == 0]
    assert len(of_rank) == 20
    assert {row["state"] for row in of_rank} == {"scheduled"}


def test_a_dump_that_is_being_written_is_waited_for(recording: Any) -> None:
    node, ranks = recording("slow")
    node.look(SILENT_SECONDS + 1)
    node.until(lambda: all(Path(f"{files(each.pid).dump}").exists() for each in ranks))
    node.look()
    assert "communicators" not in node.rows
    for each in ranks:
        ask(files(each.pid))
    wait_for_dumps(node, 4)


def files(pid: int) -> DumpFiles:
    return dump_files(pid, None)


def test_a_dump_that_wants_to_run_code_is_refused(recording: Any) -> None:
    node, _ = recording(content=b"cposix\nsystem\n(S'true'\ntR.")
    node.look(SILENT_SECONDS + 1)
    node.until(lambda: bool(node.look() or list(node.progress.health())) and len(list(node.progress.health())) == 4)
    assert {each.state for each in node.progress.health()} == {"refused"}
    assert "communicators" not in node.rows


def test_without_a_pipe_it_is_said_why(recording: Any) -> None:
    node, ranks = recording("")
    node.look(SILENT_SECONDS + 1)
    told = {each.subject: each for each in node.progress.health()}
    assert told[f"flight recorder of pid {ranks[0].pid}"].state == "unsupported"
    assert "no process group of NCCL has made it" in told[f"flight recorder of pid {ranks[0].pid}"].reason


def test_a_job_that_was_not_started_for_it_is_told_what_to_do(job: Any) -> None:
    node, ranks = job()
    for process in ranks[:3]:
        process.ask("nccl coll 0 1 1000 5")
    node.look(SILENT_SECONDS + 1)
    assert {each.state for each in node.progress.health()} == {"unsupported"}
    assert all("start it with warpline run" in each.reason for each in node.progress.health())


def test_a_closer_look_asks_one_rank(recording: Any) -> None:
    node, _ = recording()
    request = Capture("c1", "night", 1, "flight_recorder", 0, SECOND, "hang-1")
    tables = [each.table for each in node.progress.capture(request)]
    assert tables == ["collectives", "communicators"]
    with pytest.raises(Denied, match="no process on this node trains as rank 9 of job night"):
        list(node.progress.capture(Capture("c2", "night", 9, "flight_recorder", 0, SECOND, "hang-1")))


def test_a_closer_look_without_an_answer_says_why(recording: Any) -> None:
    node, _ = recording("")
    with pytest.raises(Busy, match="there is no"):
        list(node.progress.capture(Capture("c1", "night", 1, "flight_recorder", 0, SECOND, "hang-1")))


# --- what a process may say of its files ---


def test_a_pipe_behind_a_link_is_not_written_to(tmp_path: Path) -> None:
    """Neither where the pipe itself is a link, nor where a folder on the way is one."""
    (tmp_path / "real").mkdir()
    os.mkfifo(tmp_path / "real/p0.pipe")
    (tmp_path / "p0.pipe").symlink_to(tmp_path / "real/p0.pipe")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    reading = os.open(tmp_path / "real/p0.pipe", os.O_RDONLY | os.O_NONBLOCK)
    for pipe in ("p", "link/p"):
        with pytest.raises(Refused, match="cannot be opened"):
            ask(DumpFiles(os.getpid(), f"{tmp_path}/{pipe}0.pipe", f"{tmp_path}/d0"))
    assert os.read(reading, 10) == b""
    os.close(reading)


def contained(folder: Path) -> Path:
    """A made-up /proc in which process 7 lives in a container, whose files lie in `7/root`."""
    proc = folder / "proc"
    (proc / "7/root/dev/shm").mkdir(parents=True)
    (proc / "7/root/tmp").mkdir()
    variables = {
        "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": "/dev/shm/p",
        "TORCH_FR_DUMP_TEMP_FILE": "/tmp/d",
        "TORCH_FR_BUFFER_SIZE": "9",
    }
    (proc / "7/environ").write_bytes(b"\0".join(f"{name}={value}".encode() for name, value in variables.items()))
    return proc


def test_a_process_in_a_container_is_asked_through_its_own_root(tmp_path: Path) -> None:
    proc = contained(tmp_path)
    os.mkfifo(proc / "7/root/dev/shm/p3.pipe")
    reading = os.open(proc / "7/root/dev/shm/p3.pipe", os.O_RDONLY | os.O_NONBLOCK)
    named = dump_files(7, 3, str(proc))
    before = ask(named, str(proc))
    assert os.read(reading, 64)
    assert fetch(named, before, str(proc)) is None
    (proc / "7/root/tmp/d3").write_bytes(pickle.dumps(dump(3)))
    found = fetch(named, before, str(proc))
    assert found is not None and found[0].name == "d3"
    os.close(reading)


@pytest.mark.parametrize("way", ["absolute", "upwards"])
def test_no_link_leads_out_of_a_container(tmp_path: Path, way: str) -> None:
    """A link in a container that was followed by the agent would lead to files of the host."""
    proc = contained(tmp_path)
    (tmp_path / "host").mkdir()
    (tmp_path / "host/d3").write_bytes(pickle.dumps(dump(3)))
    os.mkfifo(tmp_path / "host/p3.pipe")
    reading = os.open(tmp_path / "host/p3.pipe", os.O_RDONLY | os.O_NONBLOCK)
    for folder in ("dev/shm", "tmp"):
        (proc / "7/root" / folder).rmdir()
        depth = "../" * (2 + folder.count("/") + 1)
        (proc / "7/root" / folder).symlink_to(tmp_path / "host" if way == "absolute" else f"{depth}host")
    named = dump_files(7, 3, str(proc))
    with pytest.raises(Refused, match="cannot be opened"):
        ask(named, str(proc))
    assert fetch(named, None, str(proc)) is None
    assert os.read(reading, 64) == b""
    os.close(reading)


@pytest.mark.parametrize(
    ("without", "told"),
    [
        ("TORCH_NCCL_DEBUG_INFO_PIPE_FILE", "has no pipe"),
        ("TORCH_FR_BUFFER_SIZE", "is off"),
        ("TORCH_FR_DUMP_TEMP_FILE", "where it writes dumps is not known"),
    ],
)
def test_what_is_not_set_is_said(tmp_path: Path, without: str, told: str) -> None:
    proc = contained(tmp_path)
    content = (proc / "7/environ").read_bytes().split(b"\0")
    (proc / "7/environ").write_bytes(b"\0".join(each for each in content if not each.startswith(without.encode())))
    with pytest.raises(Unsupported, match=told):
        dump_files(7, 3, str(proc))


def test_only_pipes_are_written_to_and_only_files_are_read(tmp_path: Path) -> None:
    me = os.getpid()
    (tmp_path / "p0.pipe").write_text("precious")
    with pytest.raises(Refused, match="is no pipe"):
        ask(DumpFiles(me, f"{tmp_path}/p0.pipe", f"{tmp_path}/d0"))
    assert (tmp_path / "p0.pipe").read_text() == "precious"
    os.mkfifo(tmp_path / "d0")
    with pytest.raises(Refused, match="no regular file"):
        fetch(DumpFiles(me, f"{tmp_path}/p0.pipe", f"{tmp_path}/d0"), None)
    with pytest.raises(Refused, match="no absolute path"):
        ask(DumpFiles(me, f"{tmp_path}/../p0.pipe", f"{tmp_path}/d0"))
    with pytest.raises(Refused, match="no absolute path"):
        ask(DumpFiles(me, "p0.pipe", "d0"))


def test_a_pipe_that_nobody_reads_is_not_waited_at(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p0.pipe")
    with pytest.raises(Unsupported, match="nobody reads the pipe"):
        ask(DumpFiles(os.getpid(), f"{tmp_path}/p0.pipe", f"{tmp_path}/d0"))


def test_a_dump_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "d0", "wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(Refused, match="holds more than"):
        fetch(DumpFiles(os.getpid(), f"{tmp_path}/p0.pipe", f"{tmp_path}/d0"), None)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have files of another user")
def test_files_of_another_user_than_the_process_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "d0").write_bytes(pickle.dumps({}))
    os.chown(tmp_path / "d0", 12345, 12345)
    with pytest.raises(Refused, match="belongs to another user"):
        fetch(DumpFiles(os.getpid(), f"{tmp_path}/p0.pipe", f"{tmp_path}/d0"), None)


def test_a_dump_that_the_user_has_named_is_left_where_it_is(tmp_path: Path) -> None:
    for name in ("mine0", f"{PREFIX}r-dump_0"):
        (tmp_path / name).write_bytes(b".")
        take_away(DumpFiles(os.getpid(), "/nowhere", f"{tmp_path}/{name}"))
    assert [each.name for each in tmp_path.iterdir()] == ["mine0"]


def test_pipes_that_nobody_reads_any_more_are_swept(tmp_path: Path) -> None:
    """Only ours, only old ones, and never a file."""
    for name in (f"{PREFIX}a-0.pipe", f"{PREFIX}b-0.pipe", "other-0.pipe"):
        os.mkfifo(tmp_path / name)
    (tmp_path / f"{PREFIX}c").write_text("")
    reading = os.open(tmp_path / f"{PREFIX}b-0.pipe", os.O_RDONLY | os.O_NONBLOCK)
    sweep(str(tmp_path), time.time_ns())
    assert len(list(tmp_path.iterdir())) == 4
    sweep(str(tmp_path), time.time_ns() + 3600 * SECOND)
    assert {each.name for each in tmp_path.iterdir()} == {f"{PREFIX}b-0.pipe", "other-0.pipe", f"{PREFIX}c"}
    os.close(reading)
    assert stat.S_ISFIFO(os.stat(tmp_path / "other-0.pipe").st_mode)


# --- the launcher ---


def test_the_launcher_asks_for_dumps_under_both_names(tmp_path: Path) -> None:
    found = environment_for({"WARPLINE_DIRECTORY": "/mem", "WARPLINE_RUN": "r1"}, 1)
    assert found["TORCH_FR_BUFFER_SIZE"] == found["TORCH_NCCL_TRACE_BUFFER_SIZE"] == "2000"
    assert found["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "1"
    assert found["TORCH_NCCL_DEBUG_INFO_PIPE_FILE"] == f"/mem/{PREFIX}r1-"
    assert found["TORCH_FR_DUMP_TEMP_FILE"] == found["TORCH_NCCL_DEBUG_INFO_TEMP_FILE"] == f"/tmp/{PREFIX}r1-dump_"


@pytest.mark.parametrize(
    "own",
    [
        {"TORCH_NCCL_TRACE_BUFFER_SIZE": "0"},
        {"TORCH_FR_BUFFER_SIZE": "50000"},
        {"TORCH_NCCL_DEBUG_INFO_TEMP_FILE": "/scratch/x"},
        {"TORCH_NCCL_DEBUG_INFO_PIPE_FILE": ""},
        {"TORCH_NCCL_DUMP_ON_TIMEOUT": "0"},
    ],
)
def test_what_the_user_has_set_stays_under_whichever_name(own: dict[str, str]) -> None:
    found = environment_for(own, 1)
    assert json.dumps({name: found[name] for name in own}) == json.dumps(own)
    pairs = (("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE"),
             ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"))  # fmt: skip
    for pair in pairs:
        if any(name in own for name in pair):
            assert len([name for name in pair if name in found]) == 1


def test_where_the_hook_is_off_nothing_of_it_is_set() -> None:
    assert not any(name.startswith("TORCH") for name in environment_for({"WARPLINE_HOOK": "0"}, 1))


# --- what the operating system tells ---


def test_threads_of_a_process_are_told_with_what_they_wait_in() -> None:
    """This process: its first thread runs, another one sleeps."""
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    found = {each.thread: each for each in thread_states(os.getpid())}
    assert found[os.getpid()].os_state == "running"
    assert other.native_id in found
    done.set()
    other.join()
    assert list(thread_states(2**22 + 1)) == []
    assert process_state(2**22 + 1) is None


def test_a_process_may_call_itself_what_it_likes(tmp_path: Path) -> None:
    """Brackets and spaces in its name move no field."""
    folder = tmp_path / "7/task/7"
    folder.mkdir(parents=True)
    fields = " ".join(["D", *["0"] * 10, "100", "50", "0", "0", *["0"] * 30])
    (tmp_path / "7/stat").write_text(f"7 (a) R (b) {fields}\n")
    (tmp_path / "7/io").write_text("rchar: 5\nwchar: 7\nsyscr: 1\n")
    (tmp_path / "7/wchan").write_text("0")
    (folder / "stat").write_text(f"7 (a) R (b) {fields}\n")
    (folder / "comm").write_text("a) R\x1b[0m\n")
    (folder / "wchan").write_text("nfs_wait_bit_killable")
    (folder / "stack").write_text("[<0>] nfs_wait_bit_killable+0x1/0x2\n[<0>] nfs_file_read+0x9/0xa [nfs]\n")
    found = process_state(7, str(tmp_path))
    assert found is not None
    assert (found.os_state, found.cpu_ns, found.io_bytes, found.waits_in) == ("disk", 1_500_000_000, 12, None)
    (thread,) = thread_states(7, str(tmp_path))
    assert (thread.os_state, thread.waits_in) == ("disk", "nfs_wait_bit_killable")
    assert thread.kernel_frames == ["nfs_wait_bit_killable", "nfs_file_read"]
    assert "\x1b" not in (thread.name or "")
