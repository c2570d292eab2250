"""The CUDA injection through the life of a process: forks, other tools, windows of steps, and every kind of end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ring_programs import ALL, AT_ONCE, Start

from warpline_hook import ring


def test_a_child_by_fork_captures_nothing_and_harms_nothing(inject: Start) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("kernels 100 parent")
    trainer.counted("records", 100)
    assert trainer.ask("fork kernels 50 child") == 7
    trainer.ask("kernels 100 parent")
    trainer.counted("records", 200)
    names = {trainer.reader.text(name) for name in trainer.take(ring.KERNEL)["name"]}
    assert names == {"parent"}
    assert len(list(trainer.folder.glob("*.ring"))) == 1
    assert trainer.state()[0] == "ok"


def test_a_program_that_becomes_another_begins_a_new_ring(inject: Start) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("kernels 100 first")
    trainer.counted("records", 100)
    trainer.ask("exec")
    assert trainer.ask("cuda") == 1
    trainer._reader = None
    trainer.ask("kernels 10 second")
    trainer.counted("records", 10)
    assert {trainer.reader.text(name) for name in trainer.take(ring.KERNEL)["name"]} == {"second"}


def test_the_users_profiler_has_cupti_for_itself_and_capture_resumes_after_it(inject: Start) -> None:
    trainer = inject()
    trainer.capture()
    trainer.ask("kernels 100 before")
    trainer.counted("records", 100)
    trainer.ask("profiler 1")
    trainer.until(lambda: trainer.state()[0] == "paused")
    trainer.ask("steal")
    flushes = trainer.ask("flushes")
    assert trainer.ask("kernels 100 theirs") == 100, "nothing that the profiler enabled is disabled"
    for _ in range(20):
        trainer.say(ring.control(ring.FULL, ALL, flush_ms=20))
    registered = trainer.ask("registered")
    trainer.ask("profiler 0")
    trainer.until(lambda: trainer.ask("registered") == registered + 1)
    trainer.until(lambda: trainer.standing().capturing == ALL)
    assert trainer.state() == ("ok", None)
    trainer.ask("kernels 100 after")
    trainer.until(lambda: "after" in {trainer.reader.text(name) for name in trainer.take(ring.KERNEL)["name"]})
    assert flushes < trainer.ask("flushes")
    assert [int(value) for value in trainer.events(ring.CAPTURE)["value"]] == [ALL, 0, ALL]


def test_windows_follow_the_steps_that_the_hook_tells(inject: Start) -> None:
    trainer = inject()
    trainer.capture(ring.STEPS, window=2, period=10)
    for step in range(25):
        trainer.ask(f"step {step}")
        wanted = ALL if step % 10 < 2 else 0
        trainer.until(lambda wanted=wanted: trainer.standing().capturing == wanted)  # type: ignore[misc]
        assert trainer.ask(f"kernels 10 in_step_{step}") == (10 if wanted else 0)
    windows = trainer.events(ring.CAPTURE)
    assert [(int(found["number"]) - 1, int(found["value"])) for found in windows] == [
        (0, ALL),
        (2, 0),
        (10, ALL),
        (12, 0),
        (20, ALL),
        (22, 0),
    ]


def test_windows_of_time_begin_and_end_by_the_clock_that_nodes_share(inject: Start) -> None:
    trainer = inject()
    trainer.capture(ring.TIME, window=2, period=4)
    seen: list[tuple[int, int]] = []

    def told() -> bool:
        seen.extend((int(found["start_ns"]), int(found["value"])) for found in trainer.events(ring.CAPTURE))
        return len(seen) >= 5

    trainer.until(told)
    assert [value for _, value in seen] == [ALL if index % 2 == 0 else 0 for index in range(len(seen))]
    inside = [(start // 100_000_000) % 4 for start, value in seen[1:] if value]
    assert set(inside) <= {0, 1}


def test_an_injection_that_was_there_before_comes_first_and_keeps_cupti(
    inject: Start, compile_fake: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """It is begun once, here, with CUPTI free; what it answers does not end the program's use of CUDA."""
    theirs, told = compile_fake("other_injection", "libother_injection.so"), tmp_path / "told"
    trainer = inject(WARPLINE_CONTROL=AT_ONCE, WARPLINE_CHAIN_INJECTION=str(theirs), FAKE_INJECTION_TOLD=str(told))
    assert trainer.state() == ("busy", f"CUPTI is left to the injection {theirs}")
    assert told.read_text() == f"{trainer.process.pid} subscribed 0\n"
    assert (trainer.ask("registered"), trainer.ask("subscribed"), trainer.ask("kernels 10 k")) == (0, 1, 0)
    trainer.process.ask("exit")
    assert trainer.process.end() == 0


@pytest.mark.parametrize("theirs", ["/nowhere/theirs.so", "libc.so.6"])
def test_an_injection_that_is_none_is_told_and_the_program_goes_on(inject: Start, theirs: str) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE, WARPLINE_CHAIN_INJECTION=theirs)
    assert trainer.state() == ("denied", f"the injection {theirs} that was there before cannot be loaded")
    assert trainer.ask("registered") == 0


def test_a_plugin_of_another_tool_keeps_its_place_in_nccl_and_that_is_told(inject: Start, native_library: Path) -> None:
    def nccl(**environment: str) -> tuple[str, str | None]:
        trainer = inject(**environment)
        trainer.reader.read_texts()
        state, reason = trainer.standing().channels["nccl"]
        return state, trainer.reader.text(reason)

    why = "NCCL has room for one profiler plugin, and NCCL_PROFILER_PLUGIN names inspector"
    assert nccl(NCCL_PROFILER_PLUGIN="inspector") == ("busy", why)
    assert nccl(NCCL_PROFILER_PLUGIN=str(native_library)) == ("none", None)
    assert nccl(NCCL_PROFILER_PLUGIN="none") == ("none", None)


@pytest.mark.parametrize("how", ["exit", "quit 1", "_exit 3", "signal 9", "signal 6"])
def test_however_a_process_ends_what_was_delivered_is_there_and_its_end_is_its_own(inject: Start, how: str) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("kernels 5000 k")
    trainer.counted("records", 5000)
    trainer.process.ask(how)
    ended = {"exit": 0, "quit 1": 1, "_exit 3": 3, "signal 9": -9, "signal 6": -6}
    assert trainer.process.end() == ended[how]
    assert len(trainer.take(ring.KERNEL)) == 5000
    assert trainer.state()[0] == ("ended" if how in ("exit", "quit 1") else "ok")


def test_a_process_without_a_place_for_its_ring_goes_on(inject: Start) -> None:
    trainer = inject(WARPLINE_DIRECTORY="/nowhere", WARPLINE_CONTROL=AT_ONCE)
    assert trainer.ask("kernels 10 k") == 0
    assert trainer.ask("registered") == 0
    trainer.process.ask("exit")
    assert trainer.process.end() == 0


def test_clocks_are_told_together_so_that_a_clock_that_is_set_can_be_undone(inject: Start) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE)
    trainer.until(lambda: trainer.standing().counters["flushes"] > 1)
    (clocks,) = trainer.events(ring.CLOCK)[:1]
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    assert 0 < now - int(clocks["value"]) < 60_000_000_000
    assert 0 < time.clock_gettime_ns(time.CLOCK_BOOTTIME) - int(clocks["number"]) < 60_000_000_000
    assert trainer.standing().cupti_version == 28
