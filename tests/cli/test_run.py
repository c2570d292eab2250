"""`warpline run`: a command in the environment that the hook asks for, and else as if it had been started by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from warpline_cli.main import EXIT_USAGE
from warpline_cli.verbs.run import EXIT_NOT_FOUND, EXIT_NOT_RUN
from warpline_hook.flight_recorder import flight_recorder_variables
from warpline_hook.library import capture_variables

WARPLINE = [sys.executable, "-m", "warpline_cli.main", "run"]


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WARPLINE_", "GRPC_"))}
    return subprocess.run([*WARPLINE, *words], env=environment | variables, capture_output=True, text=True, timeout=60)


def environment_of(*words: str, **variables: str) -> dict[str, str]:
    """Variables that a command sees and that this process does not have."""
    program = "import os; print(*(f'{key}={value}' for key, value in os.environ.items()), sep='\\n')"
    lines = run(*words, "--", sys.executable, "-S", "-c", program, **variables).stdout.splitlines()
    seen = dict(line.split("=", 1) for line in lines if "=" in line)
    return {key: value for key, value in seen.items() if os.environ.get(key) != value}


def test_the_command_sees_the_hook_asked_for_and_nothing_else_new() -> None:
    found = environment_of()
    capture = set(capture_variables({})) | set(flight_recorder_variables({}, "", ""))
    assert set(found) - {"LC_CTYPE"} == {"WARPLINE_HOOK", "WARPLINE_RUN"} | capture
    assert found["WARPLINE_HOOK"] == "1"


def test_what_the_user_has_set_stays_and_a_named_job_is_passed_on() -> None:
    found = environment_of("--job", "night 7", WARPLINE_HOOK="0", WARPLINE_RUN="outer")
    assert (found["WARPLINE_HOOK"], found["WARPLINE_RUN"], found["WARPLINE_JOB"]) == ("0", "outer", "night 7")


def test_a_tool_of_the_users_that_keeps_its_place_is_named() -> None:
    theirs = {"CUDA_INJECTION64_PATH": "/opt/nsight.so", "NCCL_PROFILER_PLUGIN": "inspector"}
    done = run("--", "sh", "-c", "echo $CUDA_INJECTION64_PATH $NCCL_PROFILER_PLUGIN", **theirs)
    assert done.stdout == "/opt/nsight.so inspector\n"
    assert done.stderr.splitlines() == [
        "warpline run: CUDA_INJECTION64_PATH names /opt/nsight.so, which keeps its place: kernels are not captured",
        "warpline run: NCCL_PROFILER_PLUGIN names inspector, which keeps its place: collective operations are not captured",
    ]


@pytest.mark.parametrize("code", [0, 3, 255])
def test_exit_code_and_output_are_the_commands_own(code: int) -> None:
    done = run("--", "sh", "-c", f"echo out; echo err >&2; exit {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "out\n", "err\n")


def test_words_after_the_command_are_its_own() -> None:
    """With or without `--`, also where they look like flags of warpline's."""
    for separator in ([], ["--"]):
        assert run(*separator, "echo", "--job", "-h", "--").stdout == "--job -h --\n"


def test_the_command_is_the_process_that_was_started() -> None:
    """So that a scheduler's signals reach it, and its end is the end."""
    started = subprocess.Popen(
        [*WARPLINE, "--", "sh", "-c", "echo $$; exec sleep 60"], stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert int(started.stdout.readline()) == started.pid
    started.send_signal(signal.SIGTERM)
    assert started.wait(timeout=60) == -signal.SIGTERM
    started.stdout.close()


def test_the_command_meets_a_broken_pipe_as_ever() -> None:
    """This interpreter ignores SIGPIPE; a command that inherited that would write on into nothing."""
    (before,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("SigIgn"))
    ours = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1  # this test's own interpreter ignores them too
    found = int(run("--", "grep", "SigIgn", "/proc/self/status").stdout.split()[-1], 16)
    assert found == int(before.split()[-1], 16) & ~ours


def test_a_command_that_is_not_there_is_said_as_a_shell_says_it(tmp_path: Path) -> None:
    done = run("--", "no-such-command")
    assert (done.returncode, done.stderr) == (EXIT_NOT_FOUND, "warpline run: there is no command 'no-such-command'\n")
    (tmp_path / "data").write_text("no program")
    done = run("--", str(tmp_path / "data"))
    assert done.returncode == EXIT_NOT_RUN
    assert "cannot be executed: Permission denied" in done.stderr


def test_no_command_at_all_is_a_usage_error() -> None:
    done = run("--job", "x")
    assert done.returncode == EXIT_USAGE
    assert "there is no command to run" in done.stderr
