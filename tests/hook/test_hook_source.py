"""The agent's side of the hook: files found, read once, taken away; files that lie, files of others, agents that restart."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.hook_file import HookFile, open_file
from warpline_agent.hook_rows import identity_of
from warpline_agent.sources.hook import Hook, HookConfig
from warpline_hook import layout
from warpline_hook.identity import identity
from warpline_hook.process import start_ticks
from warpline_hook.step_ring import StepRing, create
from warpline_proto.errors import Refused, Unsupported

NOW: int = 1_800_000_000_000_000_000
UNKNOWN = layout.UNKNOWN
IDENTITY: dict[str, Any] = {
    "job": "night",
    "evidence": "TORCHELASTIC_RUN_ID",
    "rank": 3,
    "world_size": 8,
    "device": 1,
    "gpu_uuid": "GPU-1",
    "framework": "torch 2.9",
    "groups": [
        {"name": "0", "description": "default_pg", "index": 3, "size": 8},
        {"name": "5", "description": "mesh_tp", "index": 1, "size": 2},
    ],
    "axes": {"dp": [1, 4]},
}


def write(ring: StepRing, steps: int, first: int = 1, flags: int = layout.ON_CPU) -> None:
    """Steps of 100 ms with 10 ms of waiting for data and 40 of CPU time."""
    for step in range(first, first + steps):
        times = (NOW + step * 10**8, 10**8, 10**7, 3 * 10**7, UNKNOWN, 10**6, 0, 4 * 10**7, 2 * 10**7)
        ring.step(step, flags, (*times, 0, 10**7, UNKNOWN, 9 * 10**7))


@pytest.fixture
def ring(tmp_path: Path) -> StepRing:
    """A file of this very process."""
    made = create(str(tmp_path), None, NOW)
    made.identify(IDENTITY)
    return made


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[Callable[..., Hook]]:
    """Sources that read `tmp_path`; the clock moves a minute with each look at it when told to hurry."""
    opened: list[Hook] = []

    def make(positions: str = "", hurry: bool = False, containers: bool = False, proc: str = "/proc") -> Hook:
        moments = iter(range(NOW, NOW + 10**18, 61 * 10**9 if hurry else 1))
        config = HookConfig(directories=(str(tmp_path),), positions=positions, containers=containers)
        source = Hook(config, lambda: next(moments), proc, "node1")
        source.open()
        opened.append(source)
        return source

    yield make
    for source in opened:
        source.close()


def rows(source: Hook, table: str) -> list[dict[str, Any]]:
    """One round -> rows of one table."""
    return [row for each in source.read() if each.table == table for row in each.batch.to_pylist()]


def dropped(source: Hook) -> tuple[int, int]:
    """One round -> rows of steps, and how many were lost."""
    read = [each for each in source.read() if each.table == "steps"]
    return sum(each.batch.num_rows for each in read), sum(each.dropped for each in read)


def test_a_record_becomes_a_step_with_its_phases_and_its_job(ring: StepRing, hook: Callable[..., Hook]) -> None:
    """Times that are not known are NULL, a measured zero makes no phase, groups become places along their axes."""
    write(ring, 1)
    read = {each.table: each.batch.to_pylist() for each in hook().read()}
    (step,), (job,) = read["steps"], read["jobs"]
    place = {"job": "night", "rank": 3, "dp": 1, "tp": 1, "pp": None, "ep": None, "gpu_uuid": "GPU-1", "device": 1}
    told = {"scope": "step", "step": 1, "start_ns": NOW + 10**8, "clock": "realtime@node1", "duration_ns": 10**8}
    assert {key: step[key] for key in place | told} == place | told
    assert (step["data_wait_ns"], step["compute_ns"], step["busy_ns"]) == (10**7, 4 * 10**7, None)
    assert [
        (each["phase"], each["kind"], each["start_ns"] - step["start_ns"], each["duration_ns"])
        for each in read["phases"]
    ] == [
        ("forward", "host", 10**7, 3 * 10**7),
        ("optimizer", "host", 9 * 10**7, 10**6),
    ]
    (wait,) = read["collectives"]
    named = (wait["communicator"], wait["operation"], wait["timing"])
    assert (*named, wait["sequence"], wait["nranks"]) == ("the backward pass", "gradient_reduction", "host", 1, 8)
    assert wait["duration_ns"] == step["communication_ns"] == 2 * 10**7
    sizes = (job["world_size"], job["dp_size"], job["tp_size"], job["pp_size"])
    assert (job["job"], *sizes, job["framework"]) == ("night", 8, 4, 2, None, "torch 2.9")


def test_a_place_that_a_process_gave_to_another_tool_is_told(ring: StepRing, hook: Callable[..., Hook]) -> None:
    source = hook()
    list(source.read())
    assert list(source.health()) == []
    theirs = {
        "CUDA_INJECTION64_PATH": "/opt/nsight/libToolsInjection64.so",
        "NCCL_PROFILER_PLUGIN": 7,
        "LD_PRELOAD": "x",
    }
    ring.identify(IDENTITY | {"taken": theirs})
    (told,) = source.health()
    assert (told.subject, told.state) == (f"kernels of pid {os.getpid()}", "busy")
    assert told.reason.startswith(
        "CUDA_INJECTION64_PATH names /opt/nsight/libToolsInjection64.so, and there is room for one"
    )
    ring.identify(IDENTITY | {"taken": ["made up"]})
    assert list(source.health()) == []


def test_a_process_says_who_has_the_place_of_its_library() -> None:
    assert "taken" not in identity({"CUDA_INJECTION64_PATH": "/x/libwarpline_hook.so", "NCCL_PROFILER_PLUGIN": ""})
    taken = {"CUDA_INJECTION64_PATH": "/opt/theirs.so"}
    assert identity(taken)["taken"] == taken


def test_a_model_on_a_gpu_has_no_compute_time_from_its_host(ring: StepRing, hook: Callable[..., Hook]) -> None:
    """What the host spends in forward and backward there is launching and waiting."""
    write(ring, 1, flags=0)
    read = {each.table: each.batch.to_pylist() for each in hook().read()}
    assert [(row["compute_ns"], row["communication_ns"]) for row in read["steps"]] == [(None, None)]
    assert ("data", "data") in {(row["phase"], row["kind"]) for row in read["phases"]}
    assert "collectives" not in read


def test_phases_that_a_program_names_keep_name_and_kind(ring: StepRing, hook: Callable[..., Hook]) -> None:
    ring.phase("reward model", "compute", 7, NOW, 5)
    ring.phase("bad\nname" + "x" * 100, "nonsense", 7, NOW, 5)
    read = rows(hook(), "phases")
    assert [(row["phase"], row["kind"], row["step"]) for row in read] == [
        ("reward model", "compute", 7),
        ("bad?name" + "x" * 55, "host", 7),
    ]


def test_each_record_is_read_once_over_rounds_and_over_restarts_of_the_agent(
    ring: StepRing, hook: Callable[..., Hook], tmp_path: Path
) -> None:
    positions = str(tmp_path / "positions.json")
    write(ring, 10)
    first = hook(positions)
    assert [row["step"] for row in rows(first, "steps")] == list(range(1, 11))
    assert rows(first, "steps") == []
    write(ring, 5, first=11)
    assert [row["step"] for row in rows(first, "steps")] == list(range(11, 16))
    first.close()
    write(ring, 5, first=16)
    second = hook(positions)
    assert [row["step"] for row in rows(second, "steps")] == list(range(16, 21))


def test_an_agent_that_was_killed_reads_its_last_round_again_and_loses_nothing(
    ring: StepRing, hook: Callable[..., Hook], tmp_path: Path
) -> None:
    """Positions are written down once the rows of a round have been taken over, a round later."""
    positions = str(tmp_path / "positions.json")
    killed = hook(positions)
    for first in (1, 11, 21):
        write(ring, 10, first=first)
        assert len(rows(killed, "steps")) == 10
    assert [row["step"] for row in rows(hook(positions), "steps")] == list(range(21, 31))


def test_what_was_overwritten_before_it_was_read_is_counted(ring: StepRing, hook: Callable[..., Hook]) -> None:
    """Not on first sight: what an agent was not there for was not lost on its way."""
    write(ring, 3 * layout.CAPACITY)
    source = hook()
    read, lost = dropped(source)
    assert layout.CAPACITY - 16 <= read <= layout.CAPACITY
    assert lost == 0
    write(ring, 2 * layout.CAPACITY, first=3 * layout.CAPACITY + 1)
    read, lost = dropped(source)
    assert read + lost == 2 * layout.CAPACITY


def test_many_names_and_many_phases_are_refused_and_counted(ring: StepRing, hook: Callable[..., Hook]) -> None:
    for number in range(layout.NAMES_MAX + 5):
        ring.phase(f"phase {number}", "host", 1, NOW, 1)
    source = hook()
    read = list(source.read())
    assert sum(each.batch.num_rows for each in read if each.table == "phases") == layout.NAMES_MAX
    assert sum(each.dropped for each in read) == 5


def test_a_process_that_ended_is_read_to_its_end_and_its_file_is_gone(
    ring: StepRing, hook: Callable[..., Hook]
) -> None:
    write(ring, 3)
    ring.end(layout.ENDED)
    source = hook()
    assert len(rows(source, "steps")) == 3
    assert rows(source, "steps") == []
    assert not Path(ring.path).exists()
    assert list(source.health()) == []


def killed_process(folder: Path, steps: int) -> int:
    """A process that writes so many steps and is killed; its pid."""
    program = (
        "import os, signal, sys\n"
        "from warpline_hook.step_ring import create\n"
        f"ring = create(sys.argv[1], None, {NOW})\n"
        f"ring.identify({IDENTITY!r})\n"
        f"for step in range({steps}): ring.step(step, 0, ({NOW},) + (1,) * 12)\n"
        "print(os.getpid(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    return int(done.stdout)


def test_a_killed_process_is_told_of_with_its_last_step(hook: Callable[..., Hook], tmp_path: Path) -> None:
    """Its steps all arrive first; after a while nothing more is said."""
    pid = killed_process(tmp_path, 4)
    source = hook()
    assert len(rows(source, "steps")) == 4
    assert rows(source, "steps") == []
    (told,) = source.health()
    assert (told.subject, told.state) == (f"pid {pid}, rank 3 of job night", "dead")
    assert told.reason == "it ended without a word after step 3"
    assert not list(tmp_path.glob("*.steps"))


def test_words_of_a_hook_that_gave_up_are_passed_on(ring: StepRing, hook: Callable[..., Hook]) -> None:
    ring.end(layout.GIVEN_UP, "ValueError: what it was")
    source = hook()
    source.read()
    assert [(each.state, each.reason) for each in source.health()] == [
        ("dead", "the hook gave up: ValueError: what it was")
    ]


def test_what_is_said_of_a_file_ends_after_a_minute(hook: Callable[..., Hook], tmp_path: Path) -> None:
    killed_process(tmp_path, 1)
    source = hook(hurry=True)
    source.read()
    source.read()
    assert list(source.health()) == []


@pytest.mark.parametrize(
    "content", [b"", b"warp", b"WARPSTEP", bytes(layout.FILE_BYTES), os.urandom(layout.FILE_BYTES)]
)
def test_a_file_that_is_something_else_is_refused_with_a_reason(
    ring: StepRing, hook: Callable[..., Hook], tmp_path: Path, content: bytes
) -> None:
    """The others are read all the same."""
    (tmp_path / "warpline-1-2-3.steps").write_bytes(content)
    write(ring, 2)
    source = hook()
    assert len(rows(source, "steps")) == 2
    (told,) = source.health()
    assert told.state == "refused"
    assert "does not begin as a file of the hook" in told.reason


def test_links_pipes_and_folders_under_such_a_name_are_not_read(
    ring: StepRing, hook: Callable[..., Hook], tmp_path: Path
) -> None:
    """A pipe would hold the agent for ever, a link could show it any file of the machine."""
    (tmp_path / "warpline-link.steps").symlink_to(ring.path)
    os.mkfifo(tmp_path / "warpline-pipe.steps")
    (tmp_path / "warpline-folder.steps").mkdir()
    write(ring, 2)
    source = hook()
    assert len(rows(source, "steps")) == 2
    assert [each.state for each in source.health()] == ["refused"] * 3


def test_a_file_cut_short_under_the_reader_is_refused_and_not_a_fault(
    ring: StepRing, hook: Callable[..., Hook]
) -> None:
    write(ring, 2)
    source = hook()
    source.read()
    os.truncate(ring.path, 5000)
    assert rows(source, "steps") == []
    os.truncate(ring.path, 10)
    source.read()
    assert [each.state for each in source.health()] == ["refused"]


def test_another_version_is_named(ring: StepRing, hook: Callable[..., Hook]) -> None:
    with open(ring.path, "r+b") as stream:
        stream.seek(len(layout.MAGIC))
        stream.write(struct.pack("<I", layout.VERSION + 1))
    source = hook()
    source.read()
    assert [each.reason for each in source.health()] == [f"it is of version 2, this agent reads {layout.VERSION}"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(64, layout.FILE_BYTES - 1), st.binary(min_size=1, max_size=64)), max_size=30))
def test_no_bytes_in_a_file_make_the_reader_fail(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, bytes]]
) -> None:
    """Rows fit their tables, or the file is refused; nothing else is ever raised."""
    folder = tmp_path_factory.mktemp("damaged")
    made = create(str(folder), None, NOW)
    made.identify(IDENTITY)
    write(made, 20)
    with open(made.path, "r+b") as stream:
        for place, data in damage:
            stream.seek(place)
            stream.write(data[: layout.FILE_BYTES - place])
    source = Hook(HookConfig(directories=(str(folder),), positions="", containers=False), lambda: NOW)
    source.open()
    for _ in range(2):
        for each in source.read():
            each.batch.validate(full=True)
    list(source.health())
    source.close()


def test_counters_that_go_back_are_refused(ring: StepRing) -> None:
    write(ring, 5)
    file = HookFile(open_file(ring.path, None))
    assert len(file.take().records) == 5
    with open(ring.path, "r+b") as stream:
        stream.seek(layout.COUNTERS_AT)
        stream.write(struct.pack("<Q", 2))
    with pytest.raises(Refused, match="holds 2 records, and held 5 before"):
        file.take()
    file.close()


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"rank": -1, "world_size": 0, "job": 7, "groups": "x", "axes": []},
        {"rank": 9, "world_size": 8},
        {"rank": 1e300, "device": [], "groups": [[], {}, {"description": "mesh_tp", "index": 5, "size": 2}]},
        {"axes": {"dp": [1], "tp": "ab", "pp": [None, None]}},
    ],
)
def test_an_identity_that_makes_no_sense_is_not_known(told: dict[str, Any]) -> None:
    found = identity_of(told)
    assert (found.rank, found.job, dict(found.place)) == (None, None, {})


def test_of_a_job_with_many_ranks_on_a_node_one_row_is_sent(hook: Callable[..., Hook], tmp_path: Path) -> None:
    for rank in range(4):
        made = create(str(tmp_path), None, NOW)
        made.identify(IDENTITY | {"rank": rank})
        write(made, 3)
    source = hook()
    read = list(source.read())
    assert sum(each.batch.num_rows for each in read if each.table == "jobs") == 1
    ranks = {row["rank"] for each in read if each.table == "steps" for row in each.batch.to_pylist()}
    assert ranks == {0, 1, 2, 3}


def test_files_of_containers_are_read_through_their_processes(hook: Callable[..., Hook], tmp_path: Path) -> None:
    """A made-up /proc: two processes in one container, whose own pids are 7 and 8. Nothing is removed there."""
    inside = tmp_path / "container" / str(tmp_path).lstrip("/")
    inside.mkdir(parents=True)
    for number, inner in ((101, 7), (102, 8)):
        process = tmp_path / "proc" / str(number)
        process.mkdir(parents=True)
        (process / "root").symlink_to(tmp_path / "container")
        (process / "status").write_text(f"Name:\tpython\nNSpid:\t{number}\t{inner}\n")
    made = create(str(inside), None, NOW)
    made.identify(IDENTITY)
    write(made, 3)
    with open(made.path, "r+b") as stream:  # as it looks from another pid namespace
        stream.seek(24)
        stream.write(struct.pack("<QQQ", 7, 1, 12345))
    source = hook(containers=True, hurry=True, proc=str(tmp_path / "proc"))
    assert [row["step"] for row in rows(source, "steps")] == [1, 2, 3]
    for number in (101, 102):
        (tmp_path / "proc" / str(number) / "root").unlink()
    assert rows(source, "steps") == []
    assert Path(made.path).exists()


def test_a_process_of_another_pid_namespace_that_shares_the_folder_is_followed_to_its_end(
    ring: StepRing, hook: Callable[..., Hook], tmp_path: Path
) -> None:
    """A made-up /proc: a pod that shares the node's /dev/shm; its process is known by its namespace and its pid there."""
    outside = tmp_path / "proc" / "77"
    for path, content in (("status", "NSpid:\t77\t7\n"), ("ns/pid", ""), ("stat", "")):
        (outside / path).parent.mkdir(parents=True, exist_ok=True)
        (outside / path).write_text(content)
    write(ring, 3)
    with open(ring.path, "r+b") as stream:
        stream.seek(24)
        stream.write(struct.pack("<QQQ", 7, 1, os.stat(outside / "ns/pid").st_ino))
    source = hook(containers=True, hurry=True, proc=str(tmp_path / "proc"))
    assert len(rows(source, "steps")) == 3
    assert rows(source, "steps") == []
    assert Path(ring.path).exists()
    shutil.rmtree(outside)
    source.read()
    assert not Path(ring.path).exists()


def test_a_process_younger_than_the_last_look_at_all_of_them_is_not_given_up(
    ring: StepRing, hook: Callable[..., Hook], tmp_path: Path
) -> None:
    """Of another pid namespace: its file is found before it is itself."""
    write(ring, 3)
    with open(ring.path, "r+b") as stream:
        stream.seek(24)
        stream.write(struct.pack("<QQQ", 7, 1, 12345))
    (tmp_path / "proc").mkdir()
    source = hook(containers=True, proc=str(tmp_path / "proc"))
    for _ in range(3):
        source.read()
    assert Path(ring.path).exists()


def test_containers_that_are_closed_to_the_agent_are_told(hook: Callable[..., Hook], tmp_path: Path) -> None:
    """A process that says it is in a container, and whose files this user may not see."""
    process = tmp_path / "proc" / "55"
    process.mkdir(parents=True)
    (process / "cgroup").write_text("0::/kubepods.slice/pod1/cri-containerd-1.scope\n")
    if os.geteuid() == 0:
        pytest.skip("root may look into every process")
    (process / "root").mkdir(mode=0)
    source = hook(containers=True, proc=str(tmp_path / "proc"))
    source.read()
    assert [each.state for each in source.health()] == ["denied"]


def test_a_link_out_of_a_container_is_not_followed(ring: StepRing, hook: Callable[..., Hook], tmp_path: Path) -> None:
    """Else a container could have the agent read, and as root remove, files of the machine."""
    write(ring, 3)
    process = tmp_path / "proc" / "9"
    process.mkdir(parents=True)
    root = tmp_path / "container"
    inside = root / str(tmp_path).lstrip("/")
    inside.parent.mkdir(parents=True)
    inside.symlink_to(tmp_path)
    (process / "root").symlink_to(root)
    source = hook(containers=True, proc=str(tmp_path / "proc"))
    read, _ = dropped(source)
    assert read == 3


def test_a_machine_without_the_directory_has_no_such_source() -> None:
    with pytest.raises(Unsupported, match="there is no /nonexistent"):
        Hook(HookConfig(directories=("/nonexistent",))).open()


def test_the_start_of_a_process_is_read_past_any_name() -> None:
    """Names of processes may hold spaces and brackets."""
    assert start_ticks("self") == start_ticks(os.getpid()) > 0
