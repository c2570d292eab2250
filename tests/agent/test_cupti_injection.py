"""The CUDA injection in real processes, driven by a libcupti of our own: what it captures, when, and whom it gives way to."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ring_programs import ALL, AT_ONCE, Start

from warpline_hook import ring


@pytest.mark.parametrize("record_bytes", [200, 208, 216, 248])
def test_kernels_are_read_whatever_length_this_cupti_gives_them(inject: Start, record_bytes: int) -> None:
    trainer = inject(FAKE_CUPTI_RECORD_BYTES=str(record_bytes))
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


def test_copies_and_sets_come_with_their_bytes(inject: Start) -> None:
    trainer = inject()
    trainer.capture()
    trainer.ask("copies 3 4096")
    trainer.ask("sets 2 1024")
    trainer.counted("records", 5)
    found = trainer.take()
    assert list(found["kind"]) == [ring.MEMCPY] * 3 + [ring.MEMSET] * 2
    assert list(found["value"]) == [4096] * 3 + [1024] * 2
    assert list(found["flags"][:3]) == [1, 1, 1]
    assert set(found["duration_ns"]) == {100}


def test_every_kernel_has_its_own_name_also_where_there_are_many(inject: Start) -> None:
    trainer = inject()
    trainer.capture()
    for each in range(300):
        trainer.ask(f"kernels 2 kernel_{each}_{'x' * each}")
    trainer.counted("records", 600)
    kernels = trainer.take(ring.KERNEL)
    names = [trainer.reader.text(name) for name in kernels["name"]]
    assert names == [f"kernel_{each}_{'x' * each}" for each in range(300) for _ in range(2)]
    assert len(set(kernels["name"])) == 300


def test_an_address_that_comes_to_stand_for_another_name_is_not_believed_for_long(inject: Start) -> None:
    """As when the module of a kernel is unloaded and its memory used again."""
    trainer = inject(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("kernels 10 first")
    trainer.counted("records", 10)
    trainer.ask("rename 0 other")

    def told() -> bool:
        trainer.ask("kernels 1 other")
        return "other" in {trainer.reader.text(name) for name in trainer.take(ring.KERNEL)["name"]}

    trainer.until(told)


def test_nothing_is_captured_until_an_agent_asks_and_nothing_once_it_says_off(inject: Start) -> None:
    trainer = inject()
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


def test_capture_stops_when_the_agent_falls_silent(inject: Start) -> None:
    trainer = inject()
    trainer.capture()
    long_ago = time.monotonic_ns() - ring.READER_SILENT_SECONDS * 1_000_000_000 - 1
    trainer.reader.say(max(1, long_ago))
    trainer.until(lambda: trainer.standing().capturing == 0)
    assert trainer.ask("enabled") == 0
    trainer.capture()
    assert trainer.ask("enabled") == ALL


def test_without_an_agent_what_finds_no_room_is_counted_and_the_program_goes_on(inject: Start) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE, WARPLINE_RING_RECORDS="4096")
    assert trainer.ask("kernels 200000 k") == 200000
    trainer.counted("records", 200000)
    standing = trainer.standing()
    assert standing.dropped["kernels"] == 200000 - 4096
    assert len(trainer.take(ring.KERNEL)) == 4096
    trainer.ask("kernels 1 k")
    trainer.counted("records", 200001)
    assert trainer.take(ring.GAP)["value"].sum() == 200000 - 4096


def test_nothing_is_lost_when_the_agent_is_killed_and_started_again(inject: Start) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE, WARPLINE_RING_RECORDS="131072")
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


def test_what_a_killed_process_had_delivered_is_still_read(inject: Start) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("kernels 5000 k")
    trainer.counted("records", 5000)
    trainer.process.kill()
    assert len(trainer.take(ring.KERNEL)) == 5000
    assert trainer.state()[0] == "ok"


def test_a_process_that_ends_in_order_hands_over_its_last_records(inject: Start) -> None:
    trainer = inject()
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
    inject: Start, environment: dict[str, str], state: str, reason: str
) -> None:
    trainer = inject(**{"WARPLINE_CONTROL": AT_ONCE, **environment})
    assert trainer.ask("kernels 100 k") == 0
    trainer.until(lambda: trainer.state()[0] == state)
    assert reason in (trainer.state()[1] or "")
    trainer.process.ask("exit")
    assert trainer.process.end() == 0


def test_the_place_of_the_subscriber_is_held_only_where_pytorch_leaves_it_free(inject: Start) -> None:
    assert inject().ask("subscribed") == 0
    assert inject(WARPLINE_HOLD_CUPTI="1").ask("subscribed") == 1


def test_the_libcupti_that_is_loaded_already_is_used(inject: Start, compile_fake: Callable[[str, str], Path]) -> None:
    """By its name alone, as in a process into which PyTorch has brought its own."""
    fake = compile_fake("cupti", "libcupti.so.12")
    trainer = inject(
        FAKE_CUPTI="libcupti.so.12",
        WARPLINE_CUPTI="",
        LD_LIBRARY_PATH=str(fake.parent),
        WARPLINE_CONTROL=AT_ONCE,
    )
    assert trainer.ask("kernels 10 k") == 10
    trainer.counted("records", 10)
