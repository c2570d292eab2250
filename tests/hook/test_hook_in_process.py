"""The hook inside a training process: real interpreters, a made-up `torch` that is imported as the real one, real files."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

from made_up_torch import TRAINING, write

from warpline_agent.hook_file import HookFile, Recorded, open_file
from warpline_hook import layout

Start = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def python(hooked_python: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the hook and the made-up torch."""
    return hooked_python(write(tmp_path_factory.mktemp("made-up")))


@pytest.fixture
def start(python: Path, tmp_path: Path) -> Start:
    """Runs a program with the hook on, with files in `tmp_path`; variables of launchers are not inherited."""

    def run(program: str, *flags: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "WARPLINE_HOOK": "1", "WARPLINE_DIRECTORY": str(tmp_path)}
        command = [str(python), *flags, "-c", program]
        return subprocess.run(
            command, env=environment | variables, check=check, capture_output=True, text=True, timeout=60
        )

    return run


def files(folder: Path) -> Iterator[HookFile]:
    """Every file of the hook in a folder, in the order of their names."""
    for path in sorted(folder.glob("*.steps")):
        yield HookFile(open_file(str(path), None))


def only(folder: Path) -> tuple[tuple[Recorded, ...], Mapping[str, Any], int]:
    """Records, identity and state of the one file in a folder."""
    (file,) = files(folder)
    taken, identity, state = file.take(), file.identity(), file.state
    assert (taken.overwritten, taken.invalid, taken.refused) == (0, 0, 0)
    file.close()
    return taken.records, identity, state


def test_steps_of_an_unchanged_program_are_recorded_with_their_phases(start: Start, tmp_path: Path) -> None:
    """Every step but the first, of which nobody knows when it began; times add up to no more than the step."""
    assert start(TRAINING.format(steps=20)).stderr == ""
    records, identity, state = only(tmp_path)
    assert [record.step for record in records] == list(range(1, 20))
    for record in records:
        assert record.on_cpu
        parts = [record.times[key] or 0 for key in ("data", "forward", "backward", "optimizer")]
        assert 0 < sum(parts) <= (record.times["duration"] or 0)
        assert (record.times["backward"] or 0) > 0
        assert record.times["cpu"] is not None
    for before, after in itertools.pairwise(records):
        assert abs((after.times["start"] or 0) - (before.times["start"] or 0) - (before.times["duration"] or 0)) < 10**7
    assert (identity["rank"], identity["world_size"], identity["framework"]) == (0, 1, "torch 9.9.0")
    assert state == layout.ENDED


def test_of_a_model_on_a_gpu_no_time_is_called_compute(start: Start, tmp_path: Path) -> None:
    """Its host launches and waits; what it spends in its phases is told, what it computes is not known."""
    start(TRAINING.format(steps=5), MADE_UP_DEVICE="cuda")
    for record in only(tmp_path)[0]:
        assert not record.on_cpu
        assert (record.times["cpu"], record.times["waited"]) == (None, None)
        assert (record.times["backward"] or 0) > 0


def test_a_data_loader_that_sleeps_is_waited_for(start: Start, tmp_path: Path) -> None:
    """And what it takes is no compute time of the model."""
    program = "import time\ndef rows():\n    for each in range(5):\n        time.sleep(0.02)\n        yield each\n"
    start(program + TRAINING.format(steps=5).replace("range(5)", "rows()"))
    for record in only(tmp_path)[0]:
        assert (record.times["data"] or 0) >= 20_000_000
        assert (record.times["cpu"] or 0) <= (record.times["duration"] or 0) - 20_000_000


def test_without_the_variable_nothing_is_loaded_and_nothing_recorded(start: Start, tmp_path: Path) -> None:
    """Absent or 0: an interpreter that has the hook installed loads what one without it does."""
    listing = (
        "import sys, torch; print([name for name in sys.modules if name.startswith('warpline')], len(sys.meta_path))"
    )
    for off in ("", "0"):
        loaded = start(listing + "\n" + TRAINING.format(steps=3), WARPLINE_HOOK=off).stdout
        assert loaded.startswith("[] ")
    assert start("import warpline_hook; print(warpline_hook.status())", WARPLINE_HOOK="0").stdout.startswith("off: ")
    assert not list(tmp_path.iterdir())


def test_a_process_without_torch_loads_a_few_small_modules_and_makes_no_file(start: Start, tmp_path: Path) -> None:
    """Every shell script of a job may start an interpreter: none pays for typing, json or mmap."""
    program = "import sys; print(*sorted(sys.modules))"
    told = set(start(program).stdout.split()) - set(start(program, WARPLINE_HOOK="0").stdout.split())
    own = {"warpline_hook", "warpline_hook.start", "warpline_hook.environment", "warpline_hook.on_import"}
    assert own <= told
    assert not {name for name in told if name.startswith("warpline")} - own
    assert not told & {"typing", "json", "mmap", "struct", "dataclasses", "functools", "re"}
    assert not list(tmp_path.iterdir())


def test_modules_keep_their_own_loader(start: Start) -> None:
    """What a program sees of torch's modules is what it sees without the hook."""
    program = (
        "import sys, torch\n"
        "for name in ('torch', 'torch.autograd', 'torch.utils.data.dataloader'):\n"
        "    module = sys.modules[name]\n"
        "    print(type(module.__loader__).__name__, type(module.__spec__.loader).__name__)\n"
        "print(torch.autograd.backward.__qualname__, torch.autograd.backward(lambda: 7))"
    )
    assert start(program).stdout == start(program, WARPLINE_HOOK="0").stdout


def test_a_data_loader_imported_later_is_marked_too(start: Start, tmp_path: Path) -> None:
    """`import torch` alone may leave it out."""
    later = (
        "import sys, torch\n"
        "for name in [each for each in sys.modules if each.startswith('torch.utils')]: del sys.modules[name]\n"
    )
    start(later + TRAINING.format(steps=3))
    assert [record.times["data"] is not None for record in only(tmp_path)[0]] == [True, True]


def test_what_a_compiler_follows_has_no_marks(start: Start, tmp_path: Path) -> None:
    """A mark would break its graph, or fail where no break is allowed."""
    start("import torch\ntorch.compiler.compiling = True\n" + TRAINING.format(steps=5))
    assert not list(tmp_path.iterdir())


LIBRARY = """
import warpline_hook.library
class Loaded:
    def step(self, number): print("step", number)
warpline_hook.library.loaded = Loaded
"""


def test_the_native_library_is_told_of_each_step_that_begins(start: Start) -> None:
    """So that windows of capture lie on the same steps of all ranks."""
    told = start(LIBRARY + TRAINING.format(steps=3)).stdout.splitlines()
    assert told == ["step 1", "step 2", "step 3"]


def test_an_error_of_the_program_passes_unchanged(start: Start, tmp_path: Path) -> None:
    """One in a backward pass, and the end of a data loader."""
    failing = TRAINING.format(steps=5).replace("sum(range(20_000))", "1 // (3 - batch)")
    done = start(failing, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    records, _, state = only(tmp_path)
    assert [record.step for record in records] == [1, 2]
    assert state == layout.ENDED


def test_the_public_face_records_steps_and_phases_of_any_framework(start: Start, tmp_path: Path) -> None:
    program = (
        "import warpline_hook\n"
        "for number in range(100, 104):\n"
        "    with warpline_hook.phase('collate', 'data'):\n"
        "        pass\n"
        "    with warpline_hook.phase('loss', 'no such kind'):\n"
        "        pass\n"
        "    warpline_hook.step(number)\n"
        "print(warpline_hook.status())"
    )
    assert start(program).stdout.startswith("recorded in ")
    records, _, _ = only(tmp_path)
    assert [record.step for record in records if record.phase is None] == [101, 102, 103]
    phases = [(record.phase, record.kind, record.step) for record in records if record.phase is not None]
    assert phases[2:4] == [("collate", "data", 101), ("loss", "host", 101)]


def test_a_step_that_the_program_tells_counts_and_no_optimizer_beside_it(start: Start, tmp_path: Path) -> None:
    """From the first time it does: after two steps of the optimizer, one for each three of its calls."""
    start("import warpline_hook\n" + TRAINING.format(steps=12) + "    if batch % 3 == 2: warpline_hook.step()\n")
    records, _, _ = only(tmp_path)
    assert [record.step for record in records] == [1, 2, 3, 4, 5, 6]


def test_two_optimizers_in_turn_make_one_step(start: Start, tmp_path: Path) -> None:
    program = TRAINING.format(steps=100).replace("optimizer.step()", "optimizer.step(); other.step()")
    start(program.replace("optimizer = torch", "other = torch.optim.SGD()\noptimizer = torch"))
    assert [record.step for record in only(tmp_path)[0]] == list(range(1, 100))


def test_of_optimizers_called_unevenly_the_rarest_ends_a_step(start: Start, tmp_path: Path) -> None:
    """Five calls of one to one of the other: once that has been seen, steps are those of the other."""
    program = TRAINING.format(steps=300).replace("optimizer.step()", "(other if batch % 6 == 5 else optimizer).step()")
    start(program.replace("optimizer = torch", "other = torch.optim.SGD()\noptimizer = torch"))
    records, _, _ = only(tmp_path)
    assert [record.step for record in records] == list(range(1, 27 + 45))


def test_a_forked_child_has_a_file_of_its_own(start: Start, tmp_path: Path) -> None:
    """What it does before its own first step appears nowhere; the parent's file holds the parent's steps."""
    program = TRAINING.format(steps=4) + "import os\npid = os.fork()\n"
    child = "".join(f"    {line}\n" for line in TRAINING.format(steps=6).splitlines())
    start(program + f"if not pid:\n{child}    os._exit(0)\nos.waitpid(pid, 0)\noptimizer.step()\n")
    found = sorted(len(file.take().records) for file in files(tmp_path))
    assert found == [4, 5]
    states = {file.process.pid: file.state for file in files(tmp_path)}
    assert sorted(states.values()) == [layout.RUNNING, layout.ENDED]


def test_a_forked_child_that_does_not_train_is_silent(start: Start, tmp_path: Path) -> None:
    """Workers of a data loader, for example; the parent's file is not touched by their end."""
    program = TRAINING.format(steps=4) + (
        "import gc, multiprocessing\n"
        "context = multiprocessing.get_context('fork')\n"
        "workers = [context.Process(target=gc.collect) for _ in range(3)]\n"
        "for worker in workers: worker.start()\n"
        "for worker in workers: worker.join()\n"
        "optimizer.step()\n"
    )
    start(program)
    records, _, state = only(tmp_path)
    assert (len(records), state) == (4, layout.ENDED)


def test_a_killed_process_leaves_all_its_steps(start: Start, tmp_path: Path) -> None:
    program = TRAINING.format(steps=50) + "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert start(program, check=False).returncode == -signal.SIGKILL
    records, _, state = only(tmp_path)
    assert (len(records), state) == (49, layout.RUNNING)


def test_more_steps_than_the_file_holds_are_the_newest(start: Start, tmp_path: Path) -> None:
    start(TRAINING.format(steps=5000).replace("20_000", "2"))
    (file,) = files(tmp_path)
    taken = file.take()
    assert taken.records[-1].step == 4999
    assert taken.overwritten + len(taken.records) == 4999
    assert len(taken.records) >= layout.CAPACITY - 16
    file.close()


@pytest.mark.parametrize("folder", ["/nonexistent", "/proc/self"])
def test_without_room_for_the_file_training_goes_on(start: Start, folder: str) -> None:
    """Absent or not writable: said where it is asked for, and nowhere else."""
    program = TRAINING.format(steps=5) + "import warpline_hook; print(warpline_hook.status())"
    done = start(program, WARPLINE_DIRECTORY=folder)
    assert done.stdout.startswith("given up: ")
    assert done.stderr == ""


def test_on_a_full_file_system_training_goes_on_and_no_file_is_left(start: Start, tmp_path: Path) -> None:
    """The room is asked for beforehand; a limit on file sizes refuses it as a full file system does."""
    program = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"{TRAINING.format(steps=5)}\n"
        "import warpline_hook; print(warpline_hook.status())"
    )
    assert start(program).stdout.startswith("given up: OSError")
    assert not list(tmp_path.iterdir())


def test_a_memory_that_is_nearly_full_is_left_to_others(start: Start, tmp_path: Path) -> None:
    """Less than sixteen files would fit: NCCL may need what is left."""
    if os.geteuid() != 0:
        pytest.skip("mounts a small file system: needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounts a small file system: not allowed here")
    try:
        told = start(TRAINING.format(steps=5) + "import warpline_hook; print(warpline_hook.status())").stdout
        assert "has less than 16 times the room" in told
        assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_cut_short_by_somebody_else_is_not_noticed_before_it_is_read(start: Start, tmp_path: Path) -> None:
    """Another program's file in the way of ours is left alone; ours gets another name."""
    program = (
        "import os\n"
        "from warpline_hook import layout\n"
        "from warpline_hook.process import this_process\n"
        "me = this_process()\n"
        "name = layout.file_name(me.namespace, me.pid, me.start_ticks)\n"
        "open(os.path.join(os.environ['WARPLINE_DIRECTORY'], name), 'w').write('mine')\n"
    )
    start(program + TRAINING.format(steps=3))
    sizes = sorted(path.stat().st_size for path in tmp_path.iterdir())
    assert sizes == [4, layout.FILE_BYTES]


def test_files_of_processes_long_gone_are_removed_and_others_are_not(start: Start, tmp_path: Path) -> None:
    """Another pid namespace's cannot be judged from here; a young one may still be read by an agent."""
    namespace = os.stat("/proc/self/ns/pid").st_ino
    gone, young = (tmp_path / layout.file_name(namespace, 2**22 + number, 1) for number in (1, 2))
    elsewhere = tmp_path / layout.file_name(7, 2**22 + 1, 1)
    for path in (gone, young, elsewhere):
        path.write_bytes(b"")
    for path in (gone, elsewhere):
        os.utime(path, (1, 1))
    start(TRAINING.format(steps=2))
    assert not gone.exists()
    assert young.exists()
    assert elsewhere.exists()


def test_a_program_that_dies_again_and_again_does_not_fill_the_memory(start: Start, tmp_path: Path) -> None:
    """Without an agent that takes the files away: the newest are left."""
    namespace = os.stat("/proc/self/ns/pid").st_ino
    left = [tmp_path / layout.file_name(namespace, 2**22 + number, 1) for number in range(40)]
    for number, path in enumerate(left):
        path.write_bytes(b"")
        os.utime(path, (time.time() - number, time.time() - number))
    start(TRAINING.format(steps=2))
    assert [path.exists() for path in left] == [True] * 32 + [False] * 8


@pytest.mark.parametrize("flag", ["-I", "-E", "-s", "-O"])
def test_flags_that_leave_site_packages_leave_the_hook(start: Start, tmp_path: Path, flag: str) -> None:
    """Isolated mode too; with -S there are no site-packages, and the hook is not there."""
    start(TRAINING.format(steps=3), flag)
    assert len(only(tmp_path)[0]) == 2


def test_the_hook_is_named_by_the_group_that_may_read(start: Start, tmp_path: Path) -> None:
    """The owner alone, or a group where one is named that the user is in; one that is not known changes nothing."""
    start(TRAINING.format(steps=2))
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    start(TRAINING.format(steps=2), WARPLINE_GROUP="no-such-group")
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("variables", "rank", "size", "job", "evidence"),
    [
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "night",
          "TORCHELASTIC_RESTART_COUNT": "0"}, 3, 8, "night", "TORCHELASTIC_RUN_ID"),
        ({"RANK": "3", "WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "a", "MASTER_PORT": "29500",
          "TORCHELASTIC_RESTART_COUNT": "2"}, 3, 8, "a:29500-r2", "MASTER_ADDR, MASTER_PORT"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none", "WARPLINE_RUN": "r"},
         1, 2, "r", "WARPLINE_RUN"),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"},
         5, 16, "77.0", "SLURM_JOB_ID, SLURM_STEP_ID"),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "PMIX_NAMESPACE": "prterun-a-1@1"},
         2, 4, "prterun-a-1@1", "PMIX_NAMESPACE"),
        ({"PMI_RANK": "0", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "WARPLINE_JOB": "mine"}, 0, 4, "mine", "WARPLINE_JOB"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"},
         0, 2, "job-master-0:23456", "MASTER_ADDR, MASTER_PORT"),
        ({"RANK": "x", "WARPLINE_RUN": "r"}, 0, 1, "", ""),
    ],
)  # fmt: skip
def test_rank_and_job_are_told_as_the_launcher_tells_them(
    start: Start, tmp_path: Path, variables: dict[str, str], rank: int, size: int, job: str, evidence: str
) -> None:
    """torchrun, Slurm, Open MPI, MPICH, the operators of Kubernetes; what is no number is nobody's rank."""
    start(TRAINING.format(steps=2), **variables)
    _, identity, _ = only(tmp_path)
    assert (identity["rank"], identity["world_size"]) == (rank, size)
    assert (identity["job"], identity["evidence"]) == (job, evidence)


def test_groups_are_told_once_torch_distributed_knows_them(start: Start, tmp_path: Path) -> None:
    """Its own rank is believed before the environment's; groups that this rank is not in are left out."""
    program = (
        "import torch\n"
        "from torch.distributed import distributed_c10d as c10d\n"
        "torch.distributed.ranks = (5, 8)\n"
        "mesh, other = c10d.Group('mesh_tp'), c10d.Group('mesh_dp')\n"
        "c10d._world.pg_group_ranks = {mesh: {4: 0, 5: 1}, other: {0: 0, 2: 1}}\n"
        "c10d._world.pg_names = {mesh: '7', other: '8'}\n"
    )
    start(program + TRAINING.format(steps=2), RANK="1", WORLD_SIZE="8")
    _, identity, _ = only(tmp_path)
    assert (identity["rank"], identity["world_size"]) == (5, 8)
    assert identity["groups"] == [{"name": "7", "description": "mesh_tp", "index": 1, "size": 2}]


def test_a_framework_that_answers_with_errors_costs_its_part_of_the_identity(start: Start, tmp_path: Path) -> None:
    """And nothing of the program."""
    broken = (
        "import torch, types, sys\n"
        "def no(*given): raise RuntimeError('no')\n"
        "sys.modules['torch.distributed'].is_available = no\n"
    )
    assert start(broken + TRAINING.format(steps=3), RANK="2", WORLD_SIZE="4").stderr == ""
    records, identity, _ = only(tmp_path)
    assert (len(records), identity["rank"]) == (2, 2)


def test_an_error_of_the_hook_ends_the_recording_and_is_told_in_the_file(start: Start, tmp_path: Path) -> None:
    """Training goes on; the agent reads why there is nothing more."""
    broken = "import sys, torch\ndef no(): raise RuntimeError('no')\nsys.modules['torch.cuda'].is_initialized = no\n"
    assert start(broken + TRAINING.format(steps=3)).stderr == ""
    (file,) = files(tmp_path)
    assert (file.state, file.reason) == (layout.GIVEN_UP, "RuntimeError: no")
    file.close()


def test_a_torch_that_lacks_what_is_hooked_runs_without_marks(start: Start, tmp_path: Path) -> None:
    """Older or newer than what is known."""
    lacking = "import torch.optim.optimizer as module\ndel module.before, module.after\n"
    without = (
        "import sys, types\nfor name in ('torch', 'torch.autograd'):\n    sys.modules[name] = types.ModuleType(name)\n"
    )
    assert start(without + "import warpline_hook; print(warpline_hook.status())").stderr == ""
    assert start(lacking + "print('there')").stdout == "there\n"
    assert not list(tmp_path.iterdir())
