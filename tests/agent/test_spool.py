"""What an operator relies on when the collector is away or the node dies: the spool loses only what it counts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warpline_agent.agent import new_boot
from warpline_agent.frame_file import HEADER_BYTES
from warpline_agent.spool import Spool
from warpline_agent.waiting import Key, Limits
from warpline_proto.batch import Batch
from warpline_proto.errors import ConfigError
from warpline_proto.tables import METRICS
from warpline_proto.wire import from_message

AGENT = "node-a"


def rows(value: float, padding: int = 0) -> list[Batch]:
    row = {"time_ns": 1, "metric": "m", "value": value, "labels": os.urandom(padding).hex()}
    return [Batch("metrics", "test", METRICS.from_rows([row]))]


class Clock:
    """Nanoseconds since the epoch, moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000_000_000_000
        self.set_by_ns = 0
        """How far somebody set it, while no time passed."""

    def set(self, seconds: int) -> None:
        self.set_by_ns += seconds * 10**9
        self.now_ns += seconds * 10**9

    def steady(self) -> int:
        """As a clock that nobody sets."""
        return self.now_ns - self.set_by_ns - 1_699_999_000_000_000_000

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


def open_spool(folder: Path, clock: Clock, boot: str | None = None, **limits: Any) -> Spool:
    return Spool(folder, AGENT, boot or new_boot(clock), clock, Limits(**limits), clock.steady)


def waiting(spool: Spool) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    key: Key | None = None
    while (item := spool.after(key)) is not None:
        key, message = item
        found.append((message.boot, message.sequence))
    return found


def test_frames_come_back_in_order_with_their_rows(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, Clock())
    assert [spool.put(rows(value)) for value in (1.0, 2.0, 3.0)] == [1, 2, 3]
    item = spool.after(None)
    assert item is not None
    frame = from_message(item[1])
    assert (frame.agent, frame.boot, frame.sequence, frame.lost) == (AGENT, spool.boot, 1, 0)
    assert frame.batches[0].rows.column("value").to_pylist() == [1.0]
    assert [sequence for _, sequence in waiting(spool)] == [1, 2, 3]


def test_an_acknowledgement_removes_all_frames_up_to_it(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, Clock())
    for value in range(4):
        spool.put(rows(value))
    spool.acknowledge(spool.boot, 3)
    assert [sequence for _, sequence in waiting(spool)] == [4]
    assert len(list(tmp_path.glob("*.frame"))) == 1


def test_frames_of_an_earlier_start_are_sent_first_with_their_own_boot(tmp_path: Path) -> None:
    clock = Clock()
    first = open_spool(tmp_path, clock, boot="z-sorts-last")
    first.put(rows(1.0))
    first.close()
    second = open_spool(tmp_path, clock, boot="a-sorts-first")
    second.put(rows(2.0))
    assert waiting(second) == [("z-sorts-last", 1), ("a-sorts-first", 1)]
    second.acknowledge("z-sorts-last", 1)
    assert waiting(second) == [("a-sorts-first", 1)]


def test_the_oldest_fall_off_and_the_count_travels(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, Clock(), bytes_max=6_000)
    for value in range(12):
        spool.put(rows(value, padding=500))
    kept = waiting(spool)
    assert 0 < len(kept) < 12
    assert kept[-1][1] == 12
    assert spool.lost(spool.boot) == 12 - len(kept)
    item = spool.after(None)
    assert item is not None and item[1].lost == 12 - len(kept)
    assert spool.waiting_bytes <= 6_000
    assert spool.take_losses() == 12 - len(kept)
    assert spool.take_losses() == 0


def test_old_frames_fall_off_by_age(tmp_path: Path) -> None:
    clock = Clock()
    spool = open_spool(tmp_path, clock, age_seconds_max=60.0)
    spool.put(rows(1.0))
    clock.now_ns += 61 * 10**9
    spool.put(rows(2.0))
    assert [sequence for _, sequence in waiting(spool)] == [2]
    assert spool.lost(spool.boot) == 1


@pytest.mark.parametrize("seconds", [86_400, 400 * 86_400, -400 * 86_400])
@pytest.mark.parametrize("restarts", [0, 1, 3])
def test_a_clock_that_is_set_lets_nothing_fall_off(tmp_path: Path, seconds: int, restarts: int) -> None:
    """Neither at once nor where the agent is started anew afterwards; what is old goes as ever."""
    clock = Clock()
    spool = open_spool(tmp_path, clock)
    first = spool.boot
    for value in range(3):
        spool.put(rows(value))
        clock.now_ns += 60 * 10**9
    clock.set(seconds)
    for value in range(restarts):
        spool.put(rows(value))
        spool.close()
        spool = open_spool(tmp_path, clock)
    spool.put(rows(4.0))
    assert (spool.waiting_frames, spool.lost(first), spool.take_losses()) == (3 + restarts + 1, 0, 0)
    assert spool.standing().oldest_seconds <= 180 + 3_600
    clock.now_ns += 25 * 3_600 * 10**9
    spool.put(rows(5.0))
    assert (spool.waiting_frames, spool.take_losses()) == (1, 3 + restarts + 1)


def test_what_waited_grows_old_from_start_to_start(tmp_path: Path) -> None:
    """Each start is short, and what waits through all of them falls off after a day as it would with one."""
    clock = Clock()
    kept = []
    for _ in range(60):
        spool = open_spool(tmp_path, clock)
        spool.put(rows(1.0))
        kept.append(spool.waiting_frames)
        clock.now_ns += 1_800 * 10**9
        spool.close()
    assert (kept[:3], max(kept), kept[-1]) == ([1, 2, 3], 48, 48)


def test_a_node_that_was_off_for_days_sends_what_it_saw_before(tmp_path: Path) -> None:
    """Also where one file tells a time that cannot be: it makes no other old."""
    clock = Clock()
    spool = open_spool(tmp_path, clock)
    for value in range(3):
        spool.put(rows(value))
    spool.close()
    second = sorted(tmp_path.glob("*.frame"))[1]
    data = bytearray(second.read_bytes())
    data[HEADER_BYTES - 1] ^= 0x40
    second.write_bytes(data)
    clock.now_ns += 3 * 86_400 * 10**9
    again = open_spool(tmp_path, clock)
    again.put(rows(3.0))
    assert [sequence for _, sequence in waiting(again)] == [1, 2, 3, 1]


def test_what_fell_off_before_a_restart_stays_counted(tmp_path: Path) -> None:
    clock = Clock()
    first = open_spool(tmp_path, clock, bytes_max=6_000)
    for value in range(12):
        first.put(rows(value, padding=500))
    lost, boot = first.lost(first.boot), first.boot
    first.close()
    second = open_spool(tmp_path, clock)
    assert second.lost(boot) == lost
    item = second.after(None)
    assert item is not None and item[1].lost == lost


@pytest.mark.parametrize("damage", [b"", b"WLF1", b"garbage that is long enough to be a header and more"])
def test_a_damaged_file_is_set_aside_and_counted(tmp_path: Path, damage: bytes) -> None:
    spool = open_spool(tmp_path, Clock())
    for value in range(3):
        spool.put(rows(value))
    sorted(tmp_path.glob("*.frame"))[1].write_bytes(damage)
    assert [sequence for _, sequence in waiting(spool)] == [1, 3]
    assert spool.lost(spool.boot) == 1
    assert len(list(tmp_path.glob("*.corrupt"))) == 1


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, Clock())
    spool.put(rows(1.0))
    path = next(tmp_path.glob("*.frame"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert waiting(spool) == []
    assert spool.lost(spool.boot) == 1


def test_a_full_disk_is_told_and_frames_wait_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = open_spool(tmp_path, Clock(), memory_bytes_max=6_000)
    spool.put(rows(0.0))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for value in range(12):
            spool.put(rows(value, padding=500))
        assert spool.health().state == "stale"
        assert "No space left on device" in spool.health().reason
        assert len(waiting(spool)) + spool.lost(spool.boot) == 13
        assert spool.lost(spool.boot) > 0
        held = waiting(spool)
    spool.put(rows(99.0))
    assert spool.health().state == "fresh"
    assert waiting(spool) == [*held, (spool.boot, 14)]
    assert len(list(tmp_path.glob("*.frame"))) == len(held) + 1


def test_a_directory_that_cannot_be_made_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    spool = open_spool(tmp_path / "file" / "spool", Clock())
    spool.put(rows(1.0))
    assert spool.health().state == "stale"
    assert [sequence for _, sequence in waiting(spool)] == [1]
    spool.acknowledge(spool.boot, 1)
    assert waiting(spool) == []


def test_two_agents_cannot_share_a_directory(tmp_path: Path) -> None:
    held = open_spool(tmp_path, Clock())
    with pytest.raises(ConfigError, match="another agent holds"):
        open_spool(tmp_path, Clock())
    held.close()
    open_spool(tmp_path, Clock()).close()


class Crash(BaseException):
    """The process dies in the middle of a call to the file system."""


@contextmanager
def crashing_after(calls: int) -> Iterator[None]:
    """Every call that changes the directory counts down; at zero the process is dead."""
    left = [calls]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Crash
            return real(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        for name in ("rename", "unlink", "write_text"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        yield


Step = tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 900)),
        st.tuples(st.just("acknowledge"), st.integers(1, 6)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("crash"), st.integers(0, 8)),
        st.tuples(st.just("age"), st.integers(1, 90)),
    ),
    max_size=25,
)


class Model:
    """What was put and acknowledged, beside the spool that must account for the difference."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.put: Counter[str] = Counter()
        self.acknowledged: dict[str, set[int]] = {}
        self.crash_in: int | None = None
        self.spool = self.open()

    def open(self) -> Spool:
        return open_spool(self.folder, self.clock, bytes_max=8_000, age_seconds_max=120.0)

    def do(self, step: Step) -> None:
        kind, value = step
        if kind == "put":
            self.spool.put(rows(1.0, padding=value))
            self.put[self.spool.boot] += 1
        elif kind == "acknowledge":
            for boot, sequence in waiting(self.spool)[:value]:
                self.acknowledged.setdefault(boot, set()).add(sequence)
                self.spool.acknowledge(boot, sequence)
        elif kind == "age":
            self.clock.now_ns += value * 10**9
        else:
            self.spool.close()
            self.spool = self.open()

    def check(self) -> None:
        held = waiting(self.spool)
        assert len(held) == len(set(held)), "no frame waits twice"
        for boot, count in self.put.items():
            here = {sequence for each, sequence in held if each == boot}
            gone = set(range(1, count + 1)) - here - self.acknowledged.get(boot, set())
            if here or boot == self.spool.boot:
                assert len(gone) <= self.spool.lost(boot)
        assert self.spool.waiting_bytes <= 8_000


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=STEPS)
def test_whatever_happens_only_counted_frames_are_lost(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    model = Model(tmp_path_factory.mktemp("spool"))
    calls: int | None = None
    for step in steps:
        if step[0] == "crash":
            calls = step[1]
            continue
        if calls is None:
            model.do(step)
        else:
            try:
                with crashing_after(calls):
                    model.do(step)
            except Crash:
                model.do(("restart", 0))
            calls = None
        model.check()


def test_without_crashes_the_count_is_exact(tmp_path: Path) -> None:
    model = Model(tmp_path)
    for step in range(40):
        model.do(("put", 300))
        if step % 9 == 8:
            model.do(("acknowledge", 2))
    held = {sequence for _, sequence in waiting(model.spool)}
    gone = set(range(1, 41)) - held - model.acknowledged[model.spool.boot]
    assert len(gone) == model.spool.lost(model.spool.boot) > 0


def test_a_full_disk_is_not_filled_further_by_halves_of_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = open_spool(tmp_path, Clock())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        spool.put(rows(1.0))
        assert spool.health().state == "stale"
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    spool.put(rows(2.0))
    assert spool.health().state == "fresh"
    assert len(list(tmp_path.glob("*.frame"))) == 2
