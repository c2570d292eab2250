"""What a newcomer relies on: `warpline demo` shows the fault it injected, accuses nobody else, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from warpline_cli.main import main
from warpline_cli.processes import ChildEnded, Processes
from warpline_cli.scenario import FAULTS, HEALTHY, SICK, scenario
from warpline_cli.verbs import demo as demo_verb

SECONDS_MAX = 400.0
TRIES_MAX = 3
BUSY = ("this machine is too busy", "not everything was there within")
"""What it says where it could not play, or not judge what was said."""
COMMAND = [sys.executable, "-m", "warpline_cli.main", "demo"]


def finding(kind: str, **subject: Any) -> dict[str, Any]:
    return {"id": f"{kind}-1", "kind": kind, "severity": "warning", "subject": subject}


def played(seed: int) -> subprocess.CompletedProcess[str]:
    """The demonstration to its end, again where it says itself that the machine was too busy for it."""
    command = [*COMMAND, "--seed", str(seed), "--seconds", "14"]
    for _ in range(TRIES_MAX):
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
        if not any(words in done.stdout + done.stderr for words in BUSY):
            break
    return done


@pytest.mark.parametrize(
    ("seed", "last"), [(1, "Found what was injected"), (2, "Found what"), (4, "Nothing was wrong")]
)
def test_the_demonstration_finds_what_it_injected(seed: int, last: str) -> None:
    done = played(seed)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, injected, sentence = done.stdout.splitlines()
    assert injected.startswith("injected: ")
    assert sentence.startswith(last)
    assert HEALTHY not in done.stdout
    assert "energy, of made-up readings: 13 GPUs drew " in done.stdout
    assert done.stderr == ""


def test_a_machine_that_is_too_busy_is_not_called_a_miss(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no pass of the analysis saw the end of the run, nothing is known of what it would have found."""
    monkeypatch.setattr(demo_verb, "LAST_PASS_SECONDS_MAX", 0.0)
    assert main(["demo", "--seconds", "10", "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["judged"] is False
    assert "this machine is too busy" in printed.err
    assert "Not found" not in printed.err


def _hear_ctrl_c() -> None:
    """In the child: as a terminal would start it. A shell that puts these tests in the background has SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        preexec_fn=_hear_ctrl_c,
    ) as child:
        yield child
        child.kill()


def test_ctrl_c_leaves_no_process_and_no_file_behind(tmp_path: Path, demo: subprocess.Popen[str]) -> None:
    assert demo.stdout is not None
    with demo.stdout as said:
        assert "starting a collector and 3 agents" in said.readline()
        assert "3 agents send" in said.readline()
        assert len(running(tmp_path)) >= 4
        demo.send_signal(signal.SIGINT)
        assert demo.wait(SECONDS_MAX) == 130
    assert running_at_last(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_its_processes_end_when_it_is_killed(tmp_path: Path, demo: subprocess.Popen[str]) -> None:
    assert demo.stdout is not None
    with demo.stdout as said:
        assert "starting a collector and 3 agents" in said.readline()
        assert "3 agents send" in said.readline()
        demo.kill()
        demo.wait()
    assert running_at_last(tmp_path) == []


def test_a_child_that_ends_by_itself_is_told_with_its_last_words(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("odd", ["no-such-verb"])
        end = time.monotonic() + SECONDS_MAX
        with pytest.raises(ChildEnded, match=r"odd ended with exit code 64: .*there is no verb 'no-such-verb'"):
            while time.monotonic() < end:
                processes.check()


def test_a_folder_in_use_is_not_touched(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "in-the-way").write_text("")
    refused = subprocess.run([*COMMAND, "--keep", str(kept)], capture_output=True, text=True, timeout=SECONDS_MAX)
    assert refused.returncode == 64
    assert "the folder is not empty" in refused.stderr


def running(folder: Path) -> list[str]:
    """Command lines of the processes that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


def running_at_last(folder: Path) -> list[str]:
    """The same once none is left, or none ends any more."""
    pause, end = threading.Event(), time.monotonic() + SECONDS_MAX
    while (left := running(folder)) and time.monotonic() < end:
        pause.wait(0.05)
    return left


def test_seeds_move_fault_and_victim_and_some_are_healthy() -> None:
    plans = [scenario(seed) for seed in range(1, 37)]
    assert plans[0].fault == "compute_straggler"
    assert {plan.fault for plan in plans} == set(FAULTS)
    assert len({plan.victim for plan in plans if plan.fault == "compute_straggler"}) > 2
    assert scenario(9) == scenario(9)


def test_the_judge_wants_the_victim_and_nobody_else() -> None:
    plan = scenario(1)
    right = finding("compute_straggler", job=SICK, rank=plan.victim)
    other = finding("compute_straggler", job=SICK, rank=plan.victim + 1)
    assert plan.judge([right]).right
    assert not plan.judge([]).right
    assert not plan.judge([other]).found
    assert plan.judge([right, other]).wrong == ("compute_straggler-1",)
    assert not plan.judge([right, finding("link_degradation", job=HEALTHY)]).right


def test_a_healthy_run_accuses_nobody() -> None:
    plan = scenario(4)
    assert plan.expectation() is None
    assert plan.judge([]).right
    assert not plan.judge([finding("compute_straggler", job=SICK, rank=0)]).right


def test_only_the_sick_job_is_told_of_a_fault_and_time_ends_now() -> None:
    start_ns = time.time_ns()
    nodes = scenario(1).nodes(start_ns, 10.0)
    assert [node.node for node in nodes] == ["pretrain-0", "pretrain-1", "finetune-0"]
    assert [node.fault for node in nodes] == ["compute_straggler", "compute_straggler", "none"]
    assert {node.origin_ns + int(160e9) for node in nodes} == {start_ns + 16 * 10**9}
