"""The CUDA injection beside a libcupti that delivers damage, late buffers, or more than there is room for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ring_programs import AT_ONCE, Start, Trainer

from warpline_hook import ring

JUDGED_RECORDS = 1000
"""Fewer records say nothing of whether this CUPTI's are damaged."""


@pytest.mark.parametrize("how", ["zero", "backwards", "future"])
def test_impossible_times_are_left_out_and_counted(inject: Start, how: str) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("kernels 500 good")
    trainer.ask(f"damaged 3 {how} 0")
    trainer.counted("records", 503)
    trainer.counted("invalid", 3)
    assert len(trainer.take(ring.KERNEL)) == 500
    assert trainer.state()[0] == "ok"


def test_kernels_that_had_not_ended_are_counted_apart(inject: Start) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE)
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


def test_where_damage_does_not_end_kernels_are_given_up(inject: Start) -> None:
    """After more than one record in a hundred is damaged, and again after everything was switched off and on."""
    trainer = inject(WARPLINE_CONTROL=AT_ONCE)
    be_damaged(trainer, JUDGED_RECORDS, graph=0)
    assert trainer.state()[0] == "ok"
    trainer.ask(f"damaged {JUDGED_RECORDS} zero 0")
    trainer.until(lambda: trainer.state()[0] == "dead")
    assert trainer.state()[1] == "CUPTI goes on delivering damaged records"
    assert trainer.ask("enabled") == 0
    assert trainer.ask("kernels 10 k") == 0


def test_where_kernels_of_cuda_graphs_come_damaged_whole_graphs_are_captured(inject: Start) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE)
    be_damaged(trainer, JUDGED_RECORDS, graph=7)
    trainer.ask(f"damaged {JUDGED_RECORDS} zero 7")
    trainer.until(lambda: trainer.standing().capturing == ring.COPIES | ring.SETS | ring.GRAPHS)
    why = trainer.events(ring.CAPTURE)["name"][-1]
    assert "whole graphs are captured" in (trainer.reader.text(why) or "")
    trainer.ask("graph 5 k")
    trainer.until(lambda: len(trainer.take(ring.GRAPH)) == 5)
    graphs = trainer.take(ring.GRAPH)
    assert (set(graphs["extra"]), set(graphs["duration_ns"])) == ({7}, {5000})


def test_one_spell_of_damage_is_got_over(inject: Start) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE)
    for turn in range(3):
        be_damaged(trainer, (turn + 1) * JUDGED_RECORDS, graph=0)
        good = trainer.standing().counters["records"]
        trainer.ask(f"kernels {JUDGED_RECORDS} good")
        trainer.counted("records", good + JUDGED_RECORDS)
    assert trainer.state()[0] == "ok"


def test_a_record_that_is_cut_or_of_another_kind_or_never_ends_does_no_harm(inject: Start) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE)
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


def test_buffers_may_come_late_and_last_first(inject: Start) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE)
    trainer.ask("hold 1")
    trainer.ask("kernels 50000 k")
    trainer.until(lambda: trainer.ask("flushes") > 2)
    assert trainer.standing().counters["records"] == 0
    trainer.ask("hold 0")
    trainer.counted("records", 50000)
    kernels = trainer.take(ring.KERNEL)
    assert sorted(kernels["correlation"]) == list(range(1, 50001))
    assert trainer.ask("unclean") == 0


def test_many_threads_may_launch_at_once(inject: Start) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE, WARPLINE_RING_RECORDS="262144")
    assert trainer.ask("threads 8 kernels 20000 k") == 160000
    trainer.counted("records", 160000)
    found: list[int] = []
    while len(found) < 160000:
        found = sorted(trainer.take(ring.KERNEL)["correlation"])
    assert found == list(range(1, 160001))
    assert trainer.ask("unclean") == 0


def resident_bytes(trainer: Trainer) -> int:
    return int(Path(f"/proc/{trainer.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_thirty_million_records_are_all_read_or_counted_and_memory_does_not_grow(inject: Start) -> None:
    trainer = inject(WARPLINE_CONTROL=AT_ONCE, WARPLINE_RING_RECORDS="131072", FAKE_CUPTI_CHECK="")
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
def test_memory_is_bounded_where_buffers_do_not_come_back(inject: Start, version: str) -> None:
    """64 buffers of 1 MiB; then nothing, or for an old CUPTI, which takes no for no answer, a little that is thrown away."""
    trainer = inject(WARPLINE_CONTROL=AT_ONCE, FAKE_CUPTI_VERSION=version, FAKE_CUPTI_CHECK="")
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
