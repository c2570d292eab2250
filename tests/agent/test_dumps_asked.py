"""Dumps of the flight recorder: asked of hung ranks over their pipes, read with care, and what the launcher sets for it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ranks import SECOND, Node, dump, hang_of

from warpline_agent.dump_pipe import DumpFiles, ask, dump_files
from warpline_agent.progress import SILENT_SECONDS
from warpline_hook.flight_recorder import PREFIX, flight_recorder_variables
from warpline_hook.launch import environment_for
from warpline_proto.capture import Capture
from warpline_proto.errors import Busy, Denied


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
