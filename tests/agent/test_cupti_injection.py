"""The CUDA injection in real processes, driven by a libcupti of our own: what it captures, and that it never does harm."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warpline_agent.ring_file import Records, RingFile, Standing, open_ring
from warpline_hook import ring

PATIENCE_SECONDS = 20.0
ALL = ring.KERNELS | ring.COPIES | ring.SETS
JUDGED_RECORDS = 1000
"""Fewer records say nothing of whether this CUPTI's are damaged."""
AT_ONCE = str(ring.control(ring.FULL, ALL, flush_ms=20, unread=True))


class Trainer:
    """A training process with the injection loaded, and the agent's end of its ring."""

    def __init__(self, process: Any, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.taken: list[Records] = []
        self._reader: RingFile | None = None

    def ask(self, line: str) -> int:
        answer = self.process.ask(line)
        assert answer, f"the process ended at {line!r}"
        return int(answer)

    @property
    def reader(self) -> RingFile:
        if self._reader is None:
            (path,) = self.folder.glob("*.ring")
            self._reader = open_ring(path)
            assert self._reader is not None
        return self._reader

    def capture(self, mode: int = ring.FULL, what: int = ALL, **how: Any) -> None:
        """Ask for capture and wait until it is as asked."""
        self.say(ring.control(mode, what, **{"flush_ms": 20, **how}))
        if mode == ring.FULL:
            self.until(lambda: self.standing().capturing == what)

    def say(self, control: int) -> None:
        self.reader.say(time.monotonic_ns(), control)

    def standing(self) -> Standing:
        return self.reader.standing()

    def until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert time.monotonic() < end, f"did not happen: {self.standing()}"
            threading.Event().wait(0.005)

    def counted(self, name: str, value: int) -> None:
        """Wait until a counter has reached a value."""
        self.until(lambda: self.standing().counters[name] >= value)

    def take(self, *kinds: int) -> Records:
        """All records of the kernel lane since the start, of these kinds, released as they come."""
        self.taken.append(self.reader.read("kernels"))
        self.reader.release()
        self.reader.read_texts()
        every: Records = np.concatenate(self.taken)
        chosen: Records = every[np.isin(every["kind"], kinds)] if kinds else every
        return chosen

    def events(self, kind: int) -> Records:
        found = self.reader.read("events")
        self.reader.read_texts()
        chosen: Records = found[found["kind"] == kind]
        return chosen

    def state(self) -> tuple[str, str | None]:
        state, reason = self.standing().channels["kernels"]
        self.reader.read_texts()
        return state, self.reader.text(reason)


Start = Callable[..., Trainer]


@pytest.fixture
def train(
    compile_fake: Callable[[str, str], Path],
    compile_program: Callable[..., Path],
    native_library: Path,
    drive: Callable[..., Any],
    tmp_path: Path,
) -> Start:
    """Start a program that uses CUDA; `cuda` is asked for unless told otherwise."""
    fake = compile_fake("cupti", "libcupti.so.12")
    program = compile_program("trainer")

    def start(cuda: bool = True, **environment: str) -> Trainer:
        folder = tmp_path / f"ring{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        told = {
            "FAKE_CUPTI": str(fake),
            "FAKE_CUPTI_CHECK": "1",
            "WARPLINE_CUPTI": str(fake),
            "CUDA_INJECTION64_PATH": str(native_library),
            "WARPLINE_DIRECTORY": str(folder),
            **environment,
        }
        trainer = Trainer(drive([program], {name: value for name, value in told.items() if value}), folder)
        if cuda:
            assert trainer.ask("cuda") == 1
        return trainer

    return start


@pytest.mark.parametrize("record_bytes", [200, 208, 216, 248])
def test_kernels_are_read_whatever_length_this_cupti_gives_them(train: Start, record_bytes: int) -> None:
    trainer = train(FAKE_CUPTI_RECORD_BYTES=str(record_bytes))
    trainer.capture()
    before = time.time_ns()
    assert trainer.ask("kernels 20000 ampere_sgemm_128x64_tn") == 20000
    trainer.counted("records", 20000)
    kernels = trainer.take(ring.KERNEL)
    assert len(kernels) == 20000
    assert set(kernels["duration_ns"]) == {500}
    assert np.all((kernels["start_ns"] >= before) & (kernels["start_ns"] <= time.time_ns()))
    assert np.all(np.diff(kernels["start_ns"].astype(np.int64)) == 1)
    assert {trainer.reader.text(name) for name in set(kernels["name"])} == {"ampere_sgemm_128x64_tn"}
    assert set(kernels["stream"]) == {7}
    assert np.all(np.diff(kernels["correlation"].astype(np.int64)) == 1)
    counters = trainer.standing().counters
    assert (counters["records"], counters["invalid"], counters["unknown"]) == (20000, 0, 0)
    assert trainer.ask("unclean") == 0


def test_copies_and_sets_come_with_their_bytes(train: Start) -> None:
    trainer = train()
    trainer.capture()
    trainer.ask("copies 3 4096")
    trainer.ask("sets 2 1024")
    trainer.counted("records", 5)
    found = trainer.take()
    assert list(found["kind"]) == [ring.MEMCPY] * 3 + [ring.MEMSET] * 2
    assert list(found["value"]) == [4096] * 3 + [1024] * 2
    assert list(found["flags"][:3]) == [1, 1, 1]
    assert set(found["duration_ns"]) == {100}


def test_every_kernel_has_its_own_name_also_where_there_are_many(train: Start) -> None:
    trainer = train()
    trainer.capture()
    for each in range(300):
        trainer.ask(f"kernels 2 kernel_{each}_{'x' * each}")
    trainer.counted("records", 600)
    kernels = trainer.take(ring.KERNEL)
    names = [trainer.reader.text(name) for name in kernels["name"]]
    assert names == [f"kernel_{each}_{'x' * each}" for each in range(300) for _ in range(2)]
    assert len(set(kernels["name"])) == 300


def test_an_address_that_comes_to_stand_for_another_name_is_not_believed_for_long(train: Start) -> None:
    """As when the module of a kernel is unloaded and its memory used again."""
    trainer = train(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("kernels 10 first")
    trainer.counted("records", 10)
    trainer.ask("rename 0 other")

    def told() -> bool:
        trainer.ask("kernels 1 other")
        return "other" in {trainer.reader.text(name) for name in trainer.take(ring.KERNEL)["name"]}

    trainer.until(told)


def test_nothing_is_captured_until_an_agent_asks_and_nothing_once_it_says_off(train: Start) -> None:
    trainer = train()
    assert trainer.ask("enabled") == 0
    assert trainer.ask("kernels 100 k") == 0
    trainer.capture()
    assert trainer.ask("enabled") == ALL
    trainer.ask("kernels 100 k")
    trainer.say(ring.control(ring.OFF, 0))
    trainer.until(lambda: trainer.standing().capturing == 0)
    assert trainer.ask("enabled") == 0
    assert len(trainer.take(ring.KERNEL)) == 100
    assert list(trainer.events(ring.CAPTURE)["value"]) == [ALL, 0]


def test_capture_stops_when_the_agent_falls_silent(train: Start) -> None:
    trainer = train()
    trainer.capture()
    long_ago = time.monotonic_ns() - ring.READER_SILENT_SECONDS * 1_000_000_000 - 1
    trainer.reader.say(max(1, long_ago))
    trainer.until(lambda: trainer.standing().capturing == 0)
    assert trainer.ask("enabled") == 0
    trainer.capture()
    assert trainer.ask("enabled") == ALL


def test_without_an_agent_what_finds_no_room_is_counted_and_the_program_goes_on(train: Start) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE, WARPLINE_RING_RECORDS="4096")
    assert trainer.ask("kernels 200000 k") == 200000
    trainer.counted("records", 200000)
    standing = trainer.standing()
    assert standing.dropped["kernels"] == 200000 - 4096
    assert len(trainer.take(ring.KERNEL)) == 4096
    trainer.ask("kernels 1 k")
    trainer.counted("records", 200001)
    assert trainer.take(ring.GAP)["value"].sum() == 200000 - 4096


def test_nothing_is_lost_when_the_agent_is_killed_and_started_again(train: Start) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE, WARPLINE_RING_RECORDS="131072")
    trainer.ask("kernels 30000 k")
    trainer.counted("records", 30000)
    first = len(trainer.take(ring.KERNEL))
    trainer.reader.read("kernels")
    trainer.reader.close()
    trainer._reader = None
    trainer.ask("kernels 70000 k")
    trainer.counted("records", 100000)
    while len(trainer.take(ring.KERNEL)) < 100000:
        pass
    assert first == 30000
    assert trainer.standing().dropped["kernels"] == 0


def test_what_a_killed_process_had_delivered_is_still_read(train: Start) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("kernels 5000 k")
    trainer.counted("records", 5000)
    trainer.process.kill()
    assert len(trainer.take(ring.KERNEL)) == 5000
    assert trainer.state()[0] == "ok"


def test_a_process_that_ends_in_order_hands_over_its_last_records(train: Start) -> None:
    trainer = train()
    trainer.capture(flush_ms=5000)
    trainer.ask("kernels 40 last")
    trainer.process.ask("exit")
    assert trainer.process.end() == 0
    assert len(trainer.take(ring.KERNEL)) == 40
    assert trainer.state()[0] == "ended"


@pytest.mark.parametrize(
    ("environment", "state", "reason"),
    [
        ({"FAKE_CUPTI_TAKEN": "1"}, "busy", "held by another tool"),
        ({"FAKE_CUPTI_FAIL": "cuptiGetVersion=999"}, "denied", "CUPTI does not start: CUPTI_ERROR_UNKNOWN (999)"),
        ({"FAKE_CUPTI_FAIL": "cuptiSubscribe=999"}, "denied", "refuses to be used"),
        ({"FAKE_CUPTI_FAIL": "cuptiActivityRegisterCallbacks=1"}, "denied", "takes no buffers"),
        ({"FAKE_CUPTI_FAIL": "cuptiActivityEnable=999"}, "denied", "records no kernels"),
        ({"FAKE_CUPTI_FAIL": "cuptiActivityEnable=39"}, "busy", "MULTIPLE_SUBSCRIBERS"),
        ({"WARPLINE_CUPTI": "/nowhere/libcupti.so"}, "denied", "there is no libcupti"),
        ({"WARPLINE_CUPTI": "libc.so.6"}, "denied", "lacks what is needed"),
    ],
)
def test_a_cupti_that_refuses_is_told_with_its_reason_and_the_program_goes_on(
    train: Start, environment: dict[str, str], state: str, reason: str
) -> None:
    trainer = train(**{"WARPLINE_CONTROL": AT_ONCE, **environment})
    assert trainer.ask("kernels 100 k") == 0
    trainer.until(lambda: trainer.state()[0] == state)
    assert reason in (trainer.state()[1] or "")
    trainer.process.ask("exit")
    assert trainer.process.end() == 0


def test_the_place_of_the_subscriber_is_held_only_where_pytorch_leaves_it_free(train: Start) -> None:
    assert train().ask("subscribed") == 0
    assert train(WARPLINE_HOLD_CUPTI="1").ask("subscribed") == 1


def test_the_libcupti_that_is_loaded_already_is_used(train: Start, compile_fake: Callable[[str, str], Path]) -> None:
    """By its name alone, as in a process into which PyTorch has brought its own."""
    fake = compile_fake("cupti", "libcupti.so.12")
    trainer = train(
        FAKE_CUPTI="libcupti.so.12",
        WARPLINE_CUPTI="",
        LD_LIBRARY_PATH=str(fake.parent),
        WARPLINE_CONTROL=AT_ONCE,
    )
    assert trainer.ask("kernels 10 k") == 10
    trainer.counted("records", 10)


@pytest.mark.parametrize("how", ["zero", "backwards", "future"])
def test_impossible_times_are_left_out_and_counted(train: Start, how: str) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("kernels 500 good")
    trainer.ask(f"damaged 3 {how} 0")
    trainer.counted("records", 503)
    trainer.counted("invalid", 3)
    assert len(trainer.take(ring.KERNEL)) == 500
    assert trainer.state()[0] == "ok"


def test_kernels_that_had_not_ended_are_counted_apart(train: Start) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("damaged 3 unfinished 0")
    trainer.counted("unfinished", 3)
    assert trainer.standing().counters["invalid"] == 0


def be_damaged(trainer: Trainer, invalid: int, graph: int) -> None:
    """As many damaged records as are judged at once, and everything off and on again for them."""
    told = 0

    def was_switched() -> bool:
        nonlocal told
        told += len(trainer.events(ring.CAPTURE))
        return told >= 2

    trainer.until(lambda: len(trainer.events(ring.CAPTURE)) == 0)
    trainer.ask(f"damaged {JUDGED_RECORDS} zero {graph}")
    trainer.counted("invalid", invalid)
    trainer.until(was_switched)


def test_where_damage_does_not_end_kernels_are_given_up(train: Start) -> None:
    """After more than one record in a hundred is damaged, and again after everything was switched off and on."""
    trainer = train(WARPLINE_CONTROL=AT_ONCE)
    be_damaged(trainer, JUDGED_RECORDS, graph=0)
    assert trainer.state()[0] == "ok"
    trainer.ask(f"damaged {JUDGED_RECORDS} zero 0")
    trainer.until(lambda: trainer.state()[0] == "dead")
    assert trainer.state()[1] == "CUPTI goes on delivering damaged records"
    assert trainer.ask("enabled") == 0
    assert trainer.ask("kernels 10 k") == 0


def test_where_kernels_of_cuda_graphs_come_damaged_whole_graphs_are_captured(train: Start) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE)
    be_damaged(trainer, JUDGED_RECORDS, graph=7)
    trainer.ask(f"damaged {JUDGED_RECORDS} zero 7")
    trainer.until(lambda: trainer.standing().capturing == ring.COPIES | ring.SETS | ring.GRAPHS)
    why = trainer.events(ring.CAPTURE)["name"][-1]
    assert "whole graphs are captured" in (trainer.reader.text(why) or "")
    trainer.ask("graph 5 k")
    trainer.until(lambda: len(trainer.take(ring.GRAPH)) == 5)
    graphs = trainer.take(ring.GRAPH)
    assert (set(graphs["extra"]), set(graphs["duration_ns"])) == ({7}, {5000})


def test_one_spell_of_damage_is_got_over(train: Start) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE)
    for turn in range(3):
        be_damaged(trainer, (turn + 1) * JUDGED_RECORDS, graph=0)
        good = trainer.standing().counters["records"]
        trainer.ask(f"kernels {JUDGED_RECORDS} good")
        trainer.counted("records", good + JUDGED_RECORDS)
    assert trainer.state()[0] == "ok"


def test_a_record_that_is_cut_or_of_another_kind_or_never_ends_does_no_harm(train: Start) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("kernels 5 before")
    trainer.ask("stray")
    trainer.counted("unknown", 1)
    trainer.ask("kernels 5 middle")
    trainer.ask("cut")
    trainer.counted("invalid", 1)
    trainer.ask("loop")
    trainer.ask("kernels 5 endless")
    trainer.counted("invalid", 2)
    trainer.ask("kernels 5 after")
    trainer.until(lambda: "after" in [trainer.reader.text(name) for name in trainer.take(ring.KERNEL)["name"]])


def test_buffers_may_come_late_and_last_first(train: Start) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("hold 1")
    trainer.ask("kernels 50000 k")
    trainer.until(lambda: trainer.ask("flushes") > 2)
    assert trainer.standing().counters["records"] == 0
    trainer.ask("hold 0")
    trainer.counted("records", 50000)
    kernels = trainer.take(ring.KERNEL)
    assert sorted(kernels["correlation"]) == list(range(1, 50001))
    assert trainer.ask("unclean") == 0


def test_many_threads_may_launch_at_once(train: Start) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE, WARPLINE_RING_RECORDS="262144")
    assert trainer.ask("threads 8 kernels 20000 k") == 160000
    trainer.counted("records", 160000)
    found: list[int] = []
    while len(found) < 160000:
        found = sorted(trainer.take(ring.KERNEL)["correlation"])
    assert found == list(range(1, 160001))
    assert trainer.ask("unclean") == 0


def resident_bytes(trainer: Trainer) -> int:
    return int(Path(f"/proc/{trainer.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_thirty_million_records_are_all_read_or_counted_and_memory_does_not_grow(train: Start) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE, WARPLINE_RING_RECORDS="131072", FAKE_CUPTI_CHECK="")
    recorded = read = settled = 0
    for turn in range(300):
        recorded += trainer.ask("kernels 100000 k")
        while len(found := trainer.reader.read("kernels")):
            read += int((found["kind"] == ring.KERNEL).sum())
            trainer.reader.release()
        if turn == 20:
            settled = resident_bytes(trainer)
    trainer.counted("records", recorded)
    trainer.counted("dropped_cupti", 30_000_000 - recorded)
    while len(found := trainer.reader.read("kernels")):
        read += int((found["kind"] == ring.KERNEL).sum())
        trainer.reader.release()
    standing = trainer.standing()
    assert read + standing.dropped["kernels"] == standing.counters["records"] == recorded
    assert standing.counters["dropped_cupti"] == 30_000_000 - recorded
    assert standing.counters["invalid"] == 0
    assert resident_bytes(trainer) < settled + 64 * (1 << 20)


@pytest.mark.parametrize("version", ["28", "18"])
def test_memory_is_bounded_where_buffers_do_not_come_back(train: Start, version: str) -> None:
    """64 buffers of 1 MiB; then nothing, or for an old CUPTI, which takes no for no answer, a little that is thrown away."""
    trainer = train(WARPLINE_CONTROL=AT_ONCE, FAKE_CUPTI_VERSION=version, FAKE_CUPTI_CHECK="")
    trainer.ask("hold 1")
    records = 80 * (1 << 20) // 216
    trainer.ask(f"kernels {records} k")
    trainer.counted("dropped_pool", 1)
    assert resident_bytes(trainer) < 64 * (1 << 20) + 32 * (1 << 20)
    trainer.ask("hold 0")
    trainer.until(lambda: trainer.ask("kernels 100 again") == 100)
    trainer.until(lambda: trainer.standing().counters["records"] > 50 * (1 << 20) // 216)
    if version == "28":
        trainer.counted("dropped_cupti", 1)
        assert trainer.events(ring.GAP)["value"].sum() == trainer.standing().counters["dropped_cupti"]


def test_a_child_by_fork_captures_nothing_and_harms_nothing(train: Start) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("kernels 100 parent")
    trainer.counted("records", 100)
    assert trainer.ask("fork kernels 50 child") == 7
    trainer.ask("kernels 100 parent")
    trainer.counted("records", 200)
    names = {trainer.reader.text(name) for name in trainer.take(ring.KERNEL)["name"]}
    assert names == {"parent"}
    assert len(list(trainer.folder.glob("*.ring"))) == 1
    assert trainer.state()[0] == "ok"


def test_a_program_that_becomes_another_begins_a_new_ring(train: Start) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("kernels 100 first")
    trainer.counted("records", 100)
    trainer.ask("exec")
    assert trainer.ask("cuda") == 1
    trainer._reader = None
    trainer.ask("kernels 10 second")
    trainer.counted("records", 10)
    assert {trainer.reader.text(name) for name in trainer.take(ring.KERNEL)["name"]} == {"second"}


def test_the_users_profiler_has_cupti_for_itself_and_capture_resumes_after_it(train: Start) -> None:
    trainer = train()
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


def test_windows_follow_the_steps_that_the_hook_tells(train: Start) -> None:
    trainer = train()
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


def test_windows_of_time_begin_and_end_by_the_clock_that_nodes_share(train: Start) -> None:
    trainer = train()
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
    train: Start, compile_fake: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """It is begun once, here, with CUPTI free; what it answers does not end the program's use of CUDA."""
    theirs, told = compile_fake("other_injection", "libother_injection.so"), tmp_path / "told"
    trainer = train(WARPLINE_CONTROL=AT_ONCE, WARPLINE_CHAIN_INJECTION=str(theirs), FAKE_INJECTION_TOLD=str(told))
    assert trainer.state() == ("busy", f"CUPTI is left to the injection {theirs}")
    assert told.read_text() == f"{trainer.process.pid} subscribed 0\n"
    assert (trainer.ask("registered"), trainer.ask("subscribed"), trainer.ask("kernels 10 k")) == (0, 1, 0)
    trainer.process.ask("exit")
    assert trainer.process.end() == 0


@pytest.mark.parametrize("theirs", ["/nowhere/theirs.so", "libc.so.6"])
def test_an_injection_that_is_none_is_told_and_the_program_goes_on(train: Start, theirs: str) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE, WARPLINE_CHAIN_INJECTION=theirs)
    assert trainer.state() == ("denied", f"the injection {theirs} that was there before cannot be loaded")
    assert trainer.ask("registered") == 0


def test_a_plugin_of_another_tool_keeps_its_place_in_nccl_and_that_is_told(train: Start, native_library: Path) -> None:
    def nccl(**environment: str) -> tuple[str, str | None]:
        trainer = train(**environment)
        trainer.reader.read_texts()
        state, reason = trainer.standing().channels["nccl"]
        return state, trainer.reader.text(reason)

    why = "NCCL has room for one profiler plugin, and NCCL_PROFILER_PLUGIN names inspector"
    assert nccl(NCCL_PROFILER_PLUGIN="inspector") == ("busy", why)
    assert nccl(NCCL_PROFILER_PLUGIN=str(native_library)) == ("none", None)
    assert nccl(NCCL_PROFILER_PLUGIN="none") == ("none", None)


@pytest.mark.parametrize("how", ["exit", "quit 1", "_exit 3", "signal 9", "signal 6"])
def test_however_a_process_ends_what_was_delivered_is_there_and_its_end_is_its_own(train: Start, how: str) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("kernels 5000 k")
    trainer.counted("records", 5000)
    trainer.process.ask(how)
    ended = {"exit": 0, "quit 1": 1, "_exit 3": 3, "signal 9": -9, "signal 6": -6}
    assert trainer.process.end() == ended[how]
    assert len(trainer.take(ring.KERNEL)) == 5000
    assert trainer.state()[0] == ("ended" if how in ("exit", "quit 1") else "ok")


def test_a_process_without_a_place_for_its_ring_goes_on(train: Start) -> None:
    trainer = train(WARPLINE_DIRECTORY="/nowhere", WARPLINE_CONTROL=AT_ONCE)
    assert trainer.ask("kernels 10 k") == 0
    assert trainer.ask("registered") == 0
    trainer.process.ask("exit")
    assert trainer.process.end() == 0


def test_clocks_are_told_together_so_that_a_clock_that_is_set_can_be_undone(train: Start) -> None:
    trainer = train(WARPLINE_CONTROL=AT_ONCE)
    trainer.until(lambda: trainer.standing().counters["flushes"] > 1)
    (clocks,) = trainer.events(ring.CLOCK)[:1]
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    assert 0 < now - int(clocks["value"]) < 60_000_000_000
    assert 0 < time.clock_gettime_ns(time.CLOCK_BOOTTIME) - int(clocks["number"]) < 60_000_000_000
    assert trainer.standing().cupti_version == 28
