"""The judgement of where a training process stands, by what was seen of it, and what the operating system tells."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from ranks import NOW, SECOND

from warpline_agent.process_states import process_state, thread_states
from warpline_agent.progress import STARTING_SECONDS, Sight, Watch


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
