"""Kernels that are missing of a busy GPU were not recorded: real processes with the native library, on a fake CUPTI and NVML."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import warpline_hook.step_ring
from warpline_agent.gpu_activity import GpuActivity
from warpline_agent.source import Health
from warpline_agent.sources.kernels import KernelsConfig, TrainingKernels
from warpline_agent.sources.nvml import Nvml, NvmlConfig
from warpline_agent.traced import Traced
from warpline_hook import layout, ring
from warpline_hook.process import Process, start_ticks
from warpline_hook.step_ring import create

PATIENCE_SECONDS = 60.0
GPU = "GPU-fa4e0003-0000-4000-8000-000000000000"
ALL = ring.KERNELS | ring.COPIES | ring.SETS
LOOK_NS = 1_000_000_000
UNKNOWN = [layout.UNKNOWN] * (len(layout.TIMES) - 2 + len(layout.STARTS))


class Watched:
    """A source of kernels on a clock that a test moves on, beside one process that uses CUDA."""

    def __init__(self, folder: Path, process: Any, **settings: Any) -> None:
        self.ahead_ns = 0
        self.process = process
        self.activity, self.traced = GpuActivity(), Traced()
        config = KernelsConfig(directories=(str(folder),), containers=False, **{"mode": "full", **settings})
        self.source = TrainingKernels(config, clock_ns=self.now_ns, node="n1")
        self.source.see_activity(self.activity)
        self.source.give_way_to(self.traced)
        self.source.open()

    def now_ns(self) -> int:
        return time.time_ns() + self.ahead_ns

    def round(self) -> None:
        list(self.source.read())

    def until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert time.monotonic() < end, f"did not happen: {list(self.source.health())}"
            threading.Event().wait(0.01)
            self.round()

    def standing(self) -> Any:
        (followed,) = self.source._followed.values()
        return followed.file.standing()

    def capturing(self) -> None:
        self.round()
        self.until(lambda: self.standing().capturing == ALL)

    def pass_by(self, seconds: int, percent: float | None, processes: int = 1) -> None:
        """So long, with the GPU that busy."""
        for _ in range(seconds):
            self.ahead_ns += LOOK_NS
            self.activity.tell(GPU, self.now_ns(), percent, processes=processes)
            self.round()

    def health(self) -> Health | None:
        subject = f"kernels of pid {self.process.pid}"
        return next((each for each in self.source.health() if each.subject == subject), None)


@pytest.fixture
def watch(
    compile_fake: Callable[[str, str], Path],
    compile_program: Callable[..., Path],
    native_library: Path,
    drive: Callable[..., Any],
    tmp_path: Path,
) -> Iterator[Callable[..., Watched]]:
    """Start a process that has initialised CUDA, and the source beside it."""
    fake, program = compile_fake("cupti", "libcupti.so.12"), compile_program("trainer")
    started: list[Watched] = []

    def start(**settings: Any) -> Watched:
        told = {
            "FAKE_CUPTI": str(fake),
            "WARPLINE_CUPTI": str(fake),
            "CUDA_INJECTION64_PATH": str(native_library),
            "WARPLINE_DIRECTORY": str(tmp_path),
        }
        process = drive([program], told)
        assert process.ask("cuda") == "1"
        started.append(Watched(tmp_path, process, **settings))
        return started[-1]

    yield start
    for each in started:
        each.source.close()


def test_a_busy_gpu_without_records_is_a_dead_channel_until_they_come_again(watch: Callable[..., Watched]) -> None:
    """Another tool takes the records: the program goes on step by step."""
    here = watch()
    here.capturing()
    here.process.ask("kernels 100 before")
    here.until(lambda: bool(here.standing().counters["records"] == 100))
    here.process.ask("steal")
    for step in range(40):
        here.process.ask(f"step {step}")
        here.process.ask("kernels 10 unseen")
        here.pass_by(1, 96.0)
    told = here.health()
    assert told is not None and told.state == "dead"
    assert "no kernel has been recorded since" in told.reason and "the channel is dead, not the GPU" in told.reason
    here.process.ask("profiler 1")
    here.until(lambda: (told := here.health()) is not None and told.state == "busy")  # why nothing comes is known


def test_a_channel_that_gives_records_again_is_well(watch: Callable[..., Watched]) -> None:
    here = watch()
    here.capturing()
    here.pass_by(40, 96.0)
    assert here.health() is not None
    here.process.ask("kernels 100 again")
    here.until(lambda: here.health() is None)


@pytest.mark.parametrize(("percent", "processes"), [(0.0, 1), (7.0, 1), (None, 1), (96.0, 2)])
def test_silence_is_no_death_where_the_gpu_is_idle_unknown_or_shared(
    watch: Callable[..., Watched], percent: float | None, processes: int
) -> None:
    here = watch()
    here.capturing()
    here.pass_by(120, percent, processes)
    assert here.health() is None


def test_silence_is_no_death_where_capture_is_off(watch: Callable[..., Watched]) -> None:
    here = watch(mode="off")
    here.round()
    here.pass_by(120, 96.0)
    assert here.health() is None


def test_a_process_that_stands_still_is_no_proof_of_a_dead_channel(watch: Callable[..., Watched]) -> None:
    """A collective that hangs keeps the GPU busy, and its kernel is recorded only once it has ended."""
    here = watch()
    here.capturing()
    here.process.ask("step 1")
    here.pass_by(40, 100.0)
    told = here.health()
    assert told is not None and told.state == "stale"
    assert "a kernel that does not end" in told.reason


def test_capture_gives_way_to_a_trace_that_was_asked_for(watch: Callable[..., Watched]) -> None:
    """It pauses, says why, takes its place again afterwards, and is not called dead meanwhile."""
    here = watch()
    here.capturing()
    registered = int(here.process.ask("registered"))
    here.traced.begin(here.process.pid, here.now_ns() + 300_000_000_000)
    here.until(lambda: (told := here.health()) is not None and told.reason == "a trace was asked for")
    here.pass_by(40, 96.0)
    told = here.health()
    assert told is not None and told.state == "busy"
    here.traced.end(here.process.pid)
    here.until(lambda: here.standing().capturing == ALL)
    assert int(here.process.ask("registered")) == registered + 1
    here.process.ask("kernels 100 after")
    here.until(lambda: here.health() is None)


def test_a_step_without_one_record_is_not_told_as_an_idle_one(
    watch: Callable[..., Watched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernels were taken by another tool: how busy the GPU was is not known."""
    here = watch()
    process = Process(here.process.pid, start_ticks(here.process.pid), Path("/proc/self/ns/pid").stat().st_ino)
    monkeypatch.setattr(warpline_hook.step_ring, "this_process", lambda: process)
    steps = create(str(tmp_path), None, time.time_ns())
    steps.identify({"job": "train", "evidence": "a test", "rank": 3, "world_size": 8})
    here.capturing()
    for step in range(3):
        begun = time.time_ns()
        here.process.ask("kernels 100 gemm" if step < 2 else "kernels 0 gemm")
        threading.Event().wait(0.001)
        steps.step(step, 0, (begun, time.time_ns() - begun, *UNKNOWN))
    here.until(lambda: bool(here.standing().counters["records"] == 200))
    here.ahead_ns += 60_000_000_000
    told = [row for table, batch, _ in here.source.read() if table == "steps" for row in batch.to_pylist()]
    assert [(row["step"], row["kernels"]) for row in told] == [(0, 100), (1, 100)]


def test_how_busy_gpus_are_is_told_as_they_are_read(
    compile_fake: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = compile_fake("nvml", "libnvidia-ml.so.1")
    script = tmp_path / "node.txt"
    script.write_text("gpus 1\ngpu 0 util 96\n")
    monkeypatch.setenv("FAKE_NVML_SCRIPT", str(script))
    activity = GpuActivity()
    source = Nvml(NvmlConfig(library_directory=str(library.parent), period_seconds=0.05, open_seconds=PATIENCE_SECONDS))
    source.tell_activity(activity)
    source.open()
    end = time.monotonic() + PATIENCE_SECONDS
    while activity.percent(None, now_ns := time.time_ns()) is None:
        assert time.monotonic() < end
        threading.Event().wait(0.02)
        list(source.read())
    source.close()
    assert activity.percent(None, now_ns) == 96.0
    assert activity.percent("GPU-another", now_ns) is None
    assert activity.percent(None, time.time_ns() + 60_000_000_000) is None, "an old reading says nothing"
