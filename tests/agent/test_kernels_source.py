"""The source `kernels` beside real processes with the native library in them: what of a step is told, and what is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import warpline_hook.step_ring
from warpline_agent.capture_duty import CALIBRATION, FIRST_STEPS, RATE_MAX, Level, level_of
from warpline_agent.raw_ring import RawRing, RawRingConfig
from warpline_agent.ring_records import readable
from warpline_agent.source import Health
from warpline_agent.sources.kernels import KernelsConfig, TrainingKernels
from warpline_hook import layout, ring
from warpline_hook.process import Process, start_ticks
from warpline_hook.step_ring import StepRing, create
from warpline_proto.capture import Capture
from warpline_proto.errors import Unsupported

PATIENCE_SECONDS = 60.0
NCCL = "_Z40ncclDevKernel_AllReduce_Sum_bf16_RING_LL24ncclDevKernelArgsStorageILm4096EE"
GEMM = "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64"
ALL = ring.KERNELS | ring.COPIES | ring.SETS
UNKNOWN = [layout.UNKNOWN] * (len(layout.TIMES) - 2 + len(layout.STARTS))


class Node:
    """A source, all it has told, and a clock that can be moved on."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.ahead_ns = 0
        config = KernelsConfig(directories=(str(folder),), containers=False, **settings)
        self.source = TrainingKernels(config, clock_ns=lambda: time.time_ns() + self.ahead_ns, node="n1")
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.dropped: dict[str, int] = {}

    def round(self) -> None:
        for table, batch, dropped in self.source.read():
            self.rows.setdefault(table, []).extend(batch.to_pylist())
            self.dropped[table] = self.dropped.get(table, 0) + dropped

    def until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert time.monotonic() < end, f"did not happen: {list(self.source.health())} {self.rows.keys()}"
            threading.Event().wait(0.01)
            self.round()

    def later(self) -> None:
        """All that was going to come has come."""
        self.ahead_ns += 60_000_000_000
        self.round()
        self.ahead_ns -= 60_000_000_000

    def health(self) -> dict[str, Health]:
        return {each.subject: each for each in self.source.health()}


class Trainer:
    """A process that uses CUDA, and the file of its hook, which this test writes for it."""

    def __init__(self, process: Any, steps: StepRing | None) -> None:
        self.process = process
        self.steps = steps

    def ask(self, line: str) -> int:
        return int(self.process.ask(line))

    def step(self, number: int, *lines: str) -> tuple[int, int]:
        """Run kernels as one step; from when on, and for how long."""
        begun = time.time_ns()
        for line in lines:
            self.ask(line)
        end = max(time.time_ns(), begun + 1_000_000)
        while time.time_ns() < end:
            pass
        assert self.steps is not None
        self.steps.step(number, 0, (begun, end - begun, *UNKNOWN))
        return begun, end - begun


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    started: list[Node] = []

    def start(**settings: Any) -> Node:
        folder = tmp_path / "rings"
        folder.mkdir(exist_ok=True)
        started.append(Node(folder, **settings))
        started[-1].source.open()
        return started[-1]

    yield start
    for each in started:
        each.source.close()


@pytest.fixture
def train(
    compile_fake: Callable[[str, str], Path],
    compile_program: Callable[..., Path],
    native_library: Path,
    drive: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Trainer]:
    """Start a process that has initialised CUDA, with a file of steps or without."""
    fake, program = compile_fake("cupti", "libcupti.so.12"), compile_program("trainer")

    def start(hooked: bool = True, **environment: str) -> Trainer:
        folder = tmp_path / "rings"
        folder.mkdir(exist_ok=True)
        told = {
            "FAKE_CUPTI": str(fake),
            "WARPLINE_CUPTI": str(fake),
            "CUDA_INJECTION64_PATH": str(native_library),
            "WARPLINE_DIRECTORY": str(folder),
        }
        process = drive([program], {**told, **environment})
        assert process.ask("cuda") == "1"
        if not hooked:
            return Trainer(process, None)
        namespace = Path("/proc/self/ns/pid").stat().st_ino
        its = Process(process.pid, start_ticks(process.pid), namespace)
        monkeypatch.setattr(warpline_hook.step_ring, "this_process", lambda: its)
        steps = create(str(folder), None, time.time_ns())
        steps.identify({"job": "train", "evidence": "a test", "rank": 3, "world_size": 8})
        return Trainer(process, steps)

    return start


def capturing(node: Node, mask: int = ALL) -> None:
    """Wait until the processes that are followed capture."""
    node.round()

    def reached() -> bool:
        followed = node.source._followed.values()
        return bool(followed) and all(each.file.standing().capturing == mask for each in followed)

    node.until(reached)


def arrived(node: Node, records: int) -> None:
    def counted() -> list[int]:
        return [each.file.standing().counters["records"] for each in node.source._followed.values()]

    node.until(lambda: min(counted(), default=0) >= records)


def test_a_step_is_told_with_its_kernels_once_all_of_them_have_come(node: Any, train: Any) -> None:
    here, trainer = node(), train()
    capturing(here)
    spans = [trainer.step(number, f"kernels 10 {GEMM}", f"kernels 4 {NCCL}", "copies 2 4096") for number in range(5)]
    arrived(here, 80)
    assert "steps" not in here.rows
    here.later()
    steps = here.rows["steps"]
    assert [row["step"] for row in steps] == list(range(5))
    assert [(row["start_ns"], row["duration_ns"]) for row in steps] == spans
    for row in steps:
        assert (row["job"], row["rank"], row["scope"], row["clock"]) == ("train", 3, "step", "realtime@n1")
        assert (row["kernels"], row["device"]) == (16, 0)
        assert row["compute_ns"] > 0
        assert row["communication_ns"] > 0
        assert row["memcpy_ns"] > 0
    clusters = here.rows["kernel_clusters"]
    assert sum(row["count"] for row in clusters) == 80
    assert {row["step"] for row in clusters} == set(range(5))
    assert {(row["job"], row["rank"]) for row in clusters} == {("train", 3)}
    names = {row["name"]: row["category"] for row in here.rows["kernel_names"]}
    assert names == {
        GEMM: "compute",
        "ncclDevKernel_AllReduce_Sum_bf16_RING_LL": "communication",
        "Memcpy HtoD": "memcpy",
    }


def test_of_a_step_that_was_captured_in_part_only_the_kernels_are_told(node: Any, train: Any) -> None:
    here, trainer = node(), train()
    begun = time.time_ns()
    capturing(here)
    trainer.ask(f"kernels 10 {GEMM}")
    trainer.steps.step(0, 0, (begun, time.time_ns() - begun, *UNKNOWN))
    arrived(here, 10)
    here.later()
    assert "steps" not in here.rows
    assert sum(row["count"] for row in here.rows["kernel_clusters"]) == 10
    assert {row["step"] for row in here.rows["kernel_clusters"]} == {None}


def test_without_a_hook_kernels_are_told_by_rank_and_job_of_the_environment(node: Any, train: Any) -> None:
    here = node()
    trainer = train(hooked=False, RANK="5", WORLD_SIZE="8", SLURM_JOB_ID="4711")
    capturing(here)
    trainer.ask(f"kernels 10 {GEMM}")
    arrived(here, 10)
    here.later()
    assert {(row["job"], row["rank"], row["step"]) for row in here.rows["kernel_clusters"]} == {("4711", 5, None)}


def test_kernels_do_not_wait_for_ever_for_a_step(node: Any, train: Any) -> None:
    """While a checkpoint is written, say, or where the hook has given up."""
    here, trainer = node(), train()
    capturing(here)
    trainer.ask(f"kernels 10 {GEMM}")
    arrived(here, 10)
    here.later()
    assert "kernel_clusters" not in here.rows
    here.ahead_ns += 180_000_000_000
    here.round()
    assert {(row["step"], row["count"]) for row in here.rows["kernel_clusters"]} == {(None, 10)}


def test_what_a_process_leaves_behind_is_told_and_its_ring_taken_away(node: Any, train: Any) -> None:
    here, trainer = node(), train()
    capturing(here)
    trainer.step(0, f"kernels 10 {GEMM}")
    arrived(here, 10)
    trainer.process.kill()
    here.until(lambda: not list(here.folder.glob("*.ring")))
    assert sum(row["count"] for row in here.rows["kernel_clusters"]) == 10
    assert [row["step"] for row in here.rows["steps"]] == [0]


def test_raw_records_are_kept_and_given_on_request(node: Any, train: Any, tmp_path: Path) -> None:
    here, trainer = node(), train()
    here.source.keep_raw_in(RawRing(RawRingConfig(), tmp_path / "raw"))
    here.source.open()
    capturing(here)
    begun, duration = trainer.step(0, f"kernels 10 {GEMM}")
    arrived(here, 10)
    here.later()
    request = Capture("c1", "train", 3, "kernels", begun, duration, "a finding")
    rows = [each for each in here.source.capture(request) if hasattr(each, "batch")]
    raw = [row for each in rows if each.table == "raw_kernels" for row in each.batch.to_pylist()]
    assert len(raw) == 10
    assert {(row["job"], row["rank"], row["duration_ns"]) for row in raw} == {("train", 3, 500)}


def test_nccl_operations_are_told_with_their_communicator_and_step(
    node: Any, compile_program: Any, native_library: Path, drive: Any
) -> None:
    here = node()
    told = {"FAKE_NCCL_API": "6", "NCCL_PROFILER_PLUGIN": str(native_library), "WARPLINE_DIRECTORY": str(here.folder)}
    process = drive([compile_program("nccl_host")], {**told, "RANK": "2", "FAKE_NCCL_VERSION": "22907"})
    process.ask("comm 9f3c 2 8 1 world")
    process.ask("coll 0 3 1000 40")
    process.ask("p2p 0 1 77 6")
    here.round()
    here.later()
    rows = here.rows["collectives"]
    assert [(row["operation"], row["sequence"]) for row in rows] == [
        ("all_reduce", 40),
        ("all_reduce", 41),
        ("all_reduce", 42),
        ("send", 0),
    ]
    first, last = rows[0], rows[-1]
    assert (first["communicator"], first["communicator_rank"], first["nranks"]) == ("0x9f3c", 2, 8)
    assert (first["datatype"], first["elements"], first["message_bytes"]) == ("bfloat16", 1000, 2000)
    assert (first["algorithm"], first["protocol"], first["channels"]) == ("ring", "simple", 16)
    assert (first["timing"], first["state"], first["duration_ns"]) == ("enqueue", "scheduled", None)
    assert (last["peer"], last["elements"]) == (6, 77)
    (communicator,) = here.rows["communicators"]
    assert (communicator["communicator"], communicator["nranks"], communicator["group_name"]) == ("0x9f3c", 8, "world")
    assert (communicator["library_version"], communicator["rank"]) == ("2.29.7", 2)


def test_a_channel_that_gives_nothing_says_why(node: Any, train: Any) -> None:
    here = node()
    trainer = train(FAKE_CUPTI_TAKEN="1")
    here.round()
    told = here.health()[f"kernels of pid {trainer.process.pid}"]
    assert told.state == "busy"
    assert "held by another tool" in told.reason


def test_what_found_no_room_travels_with_the_data(node: Any, train: Any) -> None:
    here, trainer = node(), train(hooked=False, WARPLINE_RING_RECORDS="4096")
    capturing(here)
    trainer.ask(f"kernels 10000 {GEMM}")
    here.until(lambda: here.dropped.get("kernel_clusters", 0) > 0)
    arrived(here, 10000)
    here.later()
    told = sum(row["count"] for row in here.rows["kernel_clusters"])
    assert told + here.dropped["kernel_clusters"] == 10000


def test_a_process_with_too_many_kernels_is_captured_in_windows(node: Any, train: Any) -> None:
    here, trainer = node(), train()
    capturing(here)
    (followed,) = here.source._followed.values()
    for _ in range(4):
        trainer.ask(f"kernels {RATE_MAX * 5} {GEMM}")
    arrived(here, RATE_MAX * 20 - 1)
    here.ahead_ns += 5_500_000_000
    here.round()
    assert followed.file.standing().control == ring.control(ring.TIME, ALL, window=20, period=200)
    trainer.ask("step 7")
    here.round()
    assert followed.file.standing().control == ring.control(ring.STEPS, ALL, window=3, period=53)


def test_nothing_is_lost_between_two_agents(node: Any, train: Any) -> None:
    first, trainer = node(), train(hooked=False)
    capturing(first)
    trainer.ask(f"kernels 100 {GEMM}")
    arrived(first, 100)
    first.later()
    first.source.close()
    trainer.ask(f"kernels 50 {GEMM}")
    second = node()
    second.round()
    arrived(second, 150)
    second.later()
    told = [sum(row["count"] for row in each.rows["kernel_clusters"]) for each in (first, second)]
    assert told[0] == 100
    assert told[1] in (50, 150), "what the first had not yet handed over is told again"


def test_a_file_that_is_no_ring_is_told_of_and_does_no_harm(node: Any, train: Any) -> None:
    here = node()
    (here.folder / "warpline-1-2-3.ring").write_bytes(b"no ring" * 1000)
    trainer = train()
    capturing(here)
    trainer.ask(f"kernels 10 {GEMM}")
    assert {each.state for each in here.source.health()} == {"refused"}
    assert list(here.folder.glob("warpline-1-2-3.ring"))


def test_where_there_is_no_such_directory_the_source_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unsupported):
        TrainingKernels(KernelsConfig(directories=(str(tmp_path / "absent"),))).open()
    for wrong in (
        {"mode": "sometimes"},
        {"overhead_percent_max": 0},
        {"period_seconds": 0},
        {"directories": ("relative",)},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            KernelsConfig(**wrong)


@pytest.mark.parametrize(
    ("mangled", "name"),
    [
        (NCCL, "ncclDevKernel_AllReduce_Sum_bf16_RING_LL"),
        (GEMM, GEMM),
        (
            "_ZN2at6native29vectorized_elementwise_kernelILi4EEEvv",
            "at::native::vectorized_elementwise_kernel _ZN2at6native29vectorized_elementwise_kernelILi4EEEvv",
        ),
        ("_Z6kernelPf", "kernel"),
        ("_ZN12_GLOBAL__N_13addEPf", "(anonymous)::add"),
        ("_Z999short", "_Z999short"),
        ("_ZL3fooi", "_ZL3fooi"),
        ("_Z", "_Z"),
        ("", ""),
    ],
)
def test_mangled_names_can_be_read_and_stay_apart(mangled: str, name: str) -> None:
    assert readable(mangled) == name


def test_capture_that_costs_too_much_is_found_on_the_steps_of_the_process_and_becomes_less(
    node: Any, train: Any
) -> None:
    """Here a step takes a third longer while its kernels are captured."""
    here, trainer = node(), train()
    capturing(here)
    for number in range(FIRST_STEPS + 12 * CALIBRATION[1]):
        trainer.ask(f"step {number}")
        here.round()
        captured = trainer.ask("enabled")
        begun = time.time_ns()
        trainer.ask(f"kernels 10 {GEMM}")
        lasts_ns = 4_000_000 if captured else 3_000_000
        trainer.steps.step(number, 0, (begun, lasts_ns, *UNKNOWN))
        while time.time_ns() < begun + lasts_ns:
            pass
    here.later()
    here.round()
    (row,) = [row for row in here.rows["capture_overhead"] if row["action"]]
    assert (row["job"], row["rank"], row["mode"], row["verdict"]) == ("train", 3, "full", "over")
    assert 20 < row["overhead_percent"] < 50
    (followed,) = here.source._followed.values()
    assert level_of(followed.file.standing().control) > Level.FULL
    assert "more than 1 %" in here.health()["capture of train"].reason
