"""Prolog, epilog and task prolog of Slurm, called as slurmd and slurmstepd call them, with a made-up job."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deployed import DEPLOY

from warpline_hook.exports import exports, lines
from warpline_hook.layout import file_name
from warpline_hook.process import start_ticks, this_process

SCRIPTS = DEPLOY / "slurm"
SOMEBODY = 54321
"""A user who has no process here."""
JOB = {"SLURM_JOB_ID": "42", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_JOB_UID": str(SOMEBODY)}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def called(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A script stops at the first error that it does not expect."""
    told = {"PATH": os.environ["PATH"], "WARPLINE_SETTLE_SECONDS": "0", **JOB, **environment}
    return subprocess.run(["/bin/sh", "-eu", str(SCRIPTS / name)], env=told, capture_output=True, text=True, timeout=60)


def set_by_task_prolog(folder: Path, **environment: str) -> dict[str, str]:
    """What Slurm would set for a task whose python3 is this one."""
    (folder / "python3").symlink_to(sys.executable)
    done = called("task_prolog.sh", PATH=f"{folder}:{os.environ['PATH']}", PYTHONPATH=":".join(sys.path), **environment)
    assert (done.returncode, done.stderr) == (0, "")
    words = [line.removeprefix("export ").partition("=") for line in done.stdout.splitlines()]
    return {name: value for name, _, value in words}


def test_a_task_is_recorded_as_by_the_launcher(tmp_path: Path) -> None:
    """Without a name of its launch, which each outermost process gives itself."""
    told = set_by_task_prolog(tmp_path)
    assert told["WARPLINE_HOOK"] == "1"
    assert told["TORCH_NCCL_DEBUG_INFO_PIPE_FILE"] == "/dev/shm/warpline-flight-42.0-"
    assert "WARPLINE_RUN" not in told


def test_a_task_that_wants_no_recording_is_left_alone(tmp_path: Path) -> None:
    assert set_by_task_prolog(tmp_path, WARPLINE_HOOK="0") == {}


def test_what_a_task_has_set_stays(tmp_path: Path) -> None:
    told = set_by_task_prolog(tmp_path, CUDA_INJECTION64_PATH="/other.so", TORCH_FR_BUFFER_SIZE="7")
    assert not {"CUDA_INJECTION64_PATH", "TORCH_FR_BUFFER_SIZE"} & set(told)


def test_a_task_without_warpline_or_without_python_starts_as_it_would(tmp_path: Path) -> None:
    (tmp_path / "python3").write_text("#!/bin/sh\necho 'No module named warpline_hook' >&2\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    done = called("task_prolog.sh", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "python3").unlink()
    for tool in ("timeout", "env", "sh"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    done = called("task_prolog.sh", PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "")


def test_a_value_of_several_lines_is_not_handed_to_slurm() -> None:
    assert lines({"A": "1", "B": "2\nexport LD_PRELOAD=/evil.so"}) == ["export A=1"]
    assert exports({"WARPLINE_HOOK": ""}) == {}


@needs_root
def test_the_epilog_removes_what_the_job_left_and_nothing_else(tmp_path: Path) -> None:
    """Files of processes that are gone; never those of other users, or of a process that lives."""
    here = this_process()
    elsewhere = file_name(here.namespace + 1, 7, 7)
    alive, gone = file_name(here.namespace, here.pid, here.start_ticks), file_name(here.namespace, here.pid, 1)
    kept = {alive, "other-42", "warpline-notes"}
    for name in (alive, gone, gone.replace(".steps", ".ring"), elsewhere, *kept):
        (tmp_path / name).write_bytes(b"")
        os.chown(tmp_path / name, SOMEBODY, -1)
    os.mkfifo(tmp_path / "warpline-flight-42.0-3.pipe")
    os.chown(tmp_path / "warpline-flight-42.0-3.pipe", SOMEBODY, -1)
    strange = file_name(here.namespace, here.pid, 2)
    (tmp_path / strange).write_bytes(b"")
    assert start_ticks(here.pid) == here.start_ticks
    done = called("epilog.sh", WARPLINE_DIRECTORY=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, strange}


@pytest.mark.parametrize("user", ["", "0", "me"])
def test_the_epilog_of_nobody_in_particular_removes_nothing(tmp_path: Path, user: str) -> None:
    name = file_name(1, 2, 3)
    (tmp_path / name).write_bytes(b"")
    assert called("epilog.sh", WARPLINE_DIRECTORY=str(tmp_path), SLURM_JOB_UID=user).returncode == 0
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("fails", [False, True])
def test_the_prolog_unlocks_clocks_that_nobody_looks_after(tmp_path: Path, fails: bool) -> None:
    """Where there is a record of some; a job starts even where that cannot be done, and somebody is told."""
    command = tmp_path / "warpline"
    command.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/called\nexit {int(fails)}\n')
    command.chmod(0o755)
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "systemctl").chmod(0o755)
    told = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "WARPLINE_COMMAND": str(command),
        "WARPLINE_GUARD_RECORD": str(tmp_path / "lowered.json"),
    }
    assert called("prolog.sh", **told).returncode == 0
    assert not (tmp_path / "called").exists()
    (tmp_path / "lowered.json").write_text("{}")
    done = called("prolog.sh", **told)
    assert done.returncode == 0
    assert (tmp_path / "called").read_text() == "power restore\n"
    assert ("clocks may still be low" in done.stderr) is fails
