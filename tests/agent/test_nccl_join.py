"""Operations of NCCL get the time of the kernel that did them, or none; with it late ranks and slow links are told, live."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.nccl_join import JOINED, SHARED, NcclJoin
from warpline_agent.nccl_names import Asked, may_run
from warpline_agent.parsers import nccl
from warpline_agent.ring_file import RECORD, Records
from warpline_agent.ring_records import RingKernels
from warpline_agent.sources.kernels import KernelsConfig, TrainingKernels
from warpline_analysis.detector import Reader
from warpline_analysis.detectors import link, straggler
from warpline_hook import ring
from warpline_hook.process import Process
from warpline_proto.finding import FindingKind

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from nccl_traffic import BEGIN_NS, Loss, Score, Texts, made_up

ReaderOf = Callable[[Mapping[str, Any]], Reader]
ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
RANKS = 8
STEPS = 130
STEP_NS = 100_000_000
TRANSFER_NS = 6_000_000
ELEMENTS = 1 << 26


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.001, 0.01, 0.05]), st.booleans())
def test_no_operation_is_given_the_kernel_of_another(seed: int, rate: float, windows: bool) -> None:
    """Whatever the streams, groups, losses and windows."""
    score = Score()
    score.add(made_up(seed, Loss(rate), seconds=14, windows=windows))
    assert score.wrong <= score.joined * 0.0005


def test_without_losses_nearly_all_operations_are_joined() -> None:
    score = Score()
    for seed in (20, 23):
        score.add(made_up(seed, seconds=14))
    assert score.wrong == 0
    assert score.joined > 0.99 * score.told


class Traffic:
    """Records written one by one, and what is told of them."""

    def __init__(self) -> None:
        self.texts, self.operations, self.kernels = Texts(), [], []  # type: ignore[var-annotated]

    def operation(self, at_ns: int, number: int, launch: int = 0, name: str = "AllReduce") -> None:
        text = self.texts.number
        self.operations.append(
            _record(kind=ring.COLLECTIVE, start_ns=BEGIN_NS + at_ns, duration_ns=launch, number=number, extra=1,
                    name=text(name), context=text("ncclFloat32"), device=text("RING"), commit=len(self.operations) + 1)
        )  # fmt: skip

    def kernel(self, at_ns: int, graph: int = 0, name: str = ALL_REDUCE) -> None:
        place = {"extra": graph, "stream": 20, "correlation": len(self.kernels), "name": self.texts.number(name)}
        self.kernels.append(_record(kind=ring.KERNEL, start_ns=BEGIN_NS + at_ns, duration_ns=50_000, **place))

    def joined(self, windows: Any = ((BEGIN_NS - 1, None),)) -> list[tuple[int, int | None, int]]:
        """Of each operation: outcome, when its kernel began, how many share it."""
        join, file = NcclJoin(), self.texts
        kernels = np.array(self.kernels, RECORD) if self.kernels else np.zeros(0, RECORD)
        join.take_kernels(kernels, RingKernels().kernels(kernels, file), file)  # type: ignore[arg-type]
        join.take_operations(np.array(self.operations, RECORD), missing=False)
        join.advance(1 << 61, windows, file, final=True)  # type: ignore[arg-type]
        given = join.ripe(1 << 62)
        assert given is not None and join.waiting == 0
        assert join.joined + join.unjoined.total() == len(self.operations)
        return [
            (outcome, start - BEGIN_NS if outcome in (JOINED, SHARED) else None, together)
            for outcome, start, together in given.about[["outcome", "start", "together"]].tolist()
        ]


def _record(**fields: int) -> tuple[int, ...]:
    return tuple(fields.get(name, 0) for name in RECORD.names or ())


def test_operations_of_one_group_share_one_kernel_and_say_so() -> None:
    traffic = Traffic()
    for number in range(3):
        traffic.operation(1_000_000 + 300 * number, number)
    traffic.operation(3_000_000, 3)
    traffic.kernel(1_010_000)
    traffic.kernel(3_010_000)
    assert traffic.joined() == [
        (JOINED, 1_010_000, 3), (SHARED, 1_010_000, 3), (SHARED, 1_010_000, 3), (JOINED, 3_010_000, 1)
    ]  # fmt: skip


def test_where_nccl_tells_launches_apart_time_does_not_matter() -> None:
    traffic = Traffic()
    for number, (at_ns, launch) in enumerate([(1_000_000, 1), (1_000_300, 2), (1_090_000, 2), (3_000_000, 3)]):
        traffic.operation(at_ns, number, launch)
    for at_ns in (1_010_000, 1_100_000, 3_010_000):
        traffic.kernel(at_ns)
    assert [together for _, _, together in traffic.joined()] == [1, 2, 2, 1]


def test_a_captured_graph_is_never_joined_and_does_not_mislead() -> None:
    """Its operations are told once, when it is captured, and its kernels run again and again."""
    traffic = Traffic()
    traffic.operation(1_000_000, 0)
    for replay in range(10):
        traffic.kernel(2_000_000 + replay * 100_000, graph=4)
    assert [start for _, start, _ in traffic.joined()] == [None]


def test_a_kernel_of_another_operation_is_not_taken() -> None:
    traffic = Traffic()
    traffic.operation(1_000_000, 0, name="AllGather")
    traffic.kernel(1_010_000)
    assert [start for _, start, _ in traffic.joined()] == [None]


def test_what_was_not_captured_has_no_kernel() -> None:
    traffic = Traffic()
    traffic.operation(1_000_000, 0)
    assert [start for _, start, _ in traffic.joined(windows=())] == [None]


@pytest.mark.parametrize(
    ("operation", "kernel", "fits"),
    [
        (("all_reduce", "float32", "ring"), "ncclDevKernel_AllReduce_Sum_f32_RING_LL", True),
        (("all_reduce", "float32", "nvls"), "ncclDevKernel_AllReduce_Sum_f32_RING_LL", True),
        (("all_reduce", "float32", "tree"), "ncclDevKernel_AllReduce_Sum_f32_RING_LL", False),
        (("all_reduce", "int64", "ring"), "ncclDevKernel_AllReduce_Sum_u64_RING_LL", True),
        (("all_reduce", "bfloat16", "ring"), "ncclDevKernel_AllReduce_Sum_f32_RING_LL", False),
        (("all_gather", "float32", "ring"), "ncclDevKernel_Generic", True),
        (("send", "float32", None), "ncclDevKernel_SendRecv", True),
        (("broadcast", "float32", "ring"), "ncclDevKernel_SendRecv", False),
    ],
)
def test_names_say_which_kernel_may_run_what(operation: Any, kernel: str, fits: bool) -> None:
    assert may_run(Asked(*operation), nccl.kernel(kernel)) is fits


class Rank:
    """What one rank of a training job leaves in its ring: steps of compute, then two all-reduces."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.texts = [(0, b"")]
        self.words = {
            name: self._text(ring.NAME, name.encode())
            for name in ("AllReduce", "ncclFloat32", "RING", "SIMPLE", ALL_REDUCE, "gemm")
        }
        head = ring.COMMUNICATOR_HEAD.pack(0xABC, rank, RANKS, 1, 6)
        self.communicator = self._text(ring.COMMUNICATOR, head + b"world")
        self._text(ring.ENVIRONMENT, f"WARPLINE_JOB=train\nRANK={rank}\nWORLD_SIZE={RANKS}\n".encode())
        begun = _record(kind=ring.CAPTURE, start_ns=BEGIN_NS - 10**9, value=ring.KERNELS)
        self.lanes: dict[str, list[tuple[int, ...]]] = {"kernels": [], "nccl": [], "events": [begun]}

    def _text(self, kind: int, content: bytes) -> int:
        at = 8 + sum(8 + (len(each) + 7) // 8 * 8 for _, each in self.texts[1:])
        self.texts.append((kind, content))
        return at // 8

    def kernel(self, name: str, start_ns: int, end_ns: int, stream: int) -> None:
        made = {"stream": stream, "correlation": len(self.lanes["kernels"]), "name": self.words[name]}
        duration_ns = end_ns - start_ns
        self.lanes["kernels"].append(_record(kind=ring.KERNEL, start_ns=start_ns, duration_ns=duration_ns, **made))

    def operation(self, at_ns: int) -> None:
        words = {"name": "AllReduce", "context": "ncclFloat32", "device": "RING", "stream": "SIMPLE"}
        told = {field: self.words[word] for field, word in words.items()}
        number = len(self.lanes["nccl"])
        self.lanes["nccl"].append(
            _record(kind=ring.COLLECTIVE, start_ns=at_ns, value=ELEMENTS, number=number, flags=16,
                    extra=self.communicator, **told)
        )  # fmt: skip

    def write(self, folder: Path) -> None:
        """The ring of a process that has ended."""
        process = Process(os.getpid(), self.rank + 1, Path("/proc/self/ns/pid").stat().st_ino)
        heap = bytes(8) + b"".join(
            (len(content) + 1 | kind << 32).to_bytes(8, "little") + content.ljust((len(content) + 7) // 8 * 8, b"\0")
            for kind, content in self.texts[1:]
        )
        header, body, at = bytearray(ring.HEADER_BYTES), b"", ring.HEADER_BYTES
        for number, lane in enumerate(ring.LANES):
            records: Records = np.array(self.lanes[lane], RECORD)
            records["commit"] = np.arange(1, len(records) + 1)
            capacity = 1 << max(len(records) - 1, 1).bit_length()
            place = ring.LANES_AT + number * ring.LANE_BYTES
            ring.LANE.pack_into(header, place, at, capacity, len(records), 0, 0)
            body += records.tobytes().ljust(capacity * ring.RECORD_BYTES, b"\0")
            at = ring.HEADER_BYTES + len(body)
        told = (ring.MAGIC, ring.VERSION, ring.HEADER_BYTES, at + len(heap), at, len(heap), ring.RECORD_BYTES)
        ring.IDENTITY.pack_into(
            header, 0, *told, len(ring.LANES), process.pid, 0, process.start_ticks, process.namespace, BEGIN_NS
        )
        header[ring.TEXTS_HEAD_AT : ring.TEXTS_HEAD_AT + 8] = len(heap).to_bytes(8, "little")
        (folder / ring.file_name(process)).write_bytes(bytes(header) + body + heap)


def train(folder: Path, slow_rank: int | None = None, slow_link_from: int = STEPS) -> None:
    """Eight ranks whose hosts launch a whole step at its begin, and wait for its end."""
    draw = np.random.default_rng(7)
    ranks = [Rank(each) for each in range(RANKS)]
    for step in range(STEPS):
        begin = BEGIN_NS + step * 2 * STEP_NS
        for half in range(2):
            compute = STEP_NS // 2 * np.exp(draw.normal(0, 0.01, RANKS))
            if slow_rank is not None:
                compute[slow_rank] *= 1.3
            arrived = (begin + 20_000 + compute).astype(np.int64)
            transfer = int(TRANSFER_NS * (1.8 if step >= slow_link_from else 1) * np.exp(draw.normal(0, 0.02)))
            end = int(arrived.max()) + transfer
            for each, at in zip(ranks, arrived.tolist(), strict=True):
                each.kernel("gemm", begin + 20_000, at, 7)
                each.operation(BEGIN_NS + step * 2 * STEP_NS + 15_000 * (half + 1))
                each.kernel(ALL_REDUCE, at + 2_000, end, 20)
            begin = end
    for each in ranks:
        each.write(folder)


def told(folder: Path) -> pa.Table:
    """Rows of `collectives` as the source tells them."""
    source = TrainingKernels(KernelsConfig(directories=(str(folder),), containers=False), node="n1")
    source.open()
    batches = [batch for _ in range(3) for table, batch, _ in source.read() if table == "collectives"]
    source.close()
    return pa.Table.from_batches(batches)


def test_a_late_rank_is_named_from_what_rings_tell(tmp_path: Path, reader_of: ReaderOf) -> None:
    train(tmp_path, slow_rank=5)
    rows = told(tmp_path)
    assert rows.num_rows == RANKS * STEPS * 2
    assert rows.column("timing").to_pylist().count("kernel_gpu") > 0.98 * rows.num_rows
    assert set(rows.column("job").to_pylist()) == {"train"}
    reader = reader_of({"collectives": rows})
    found = straggler.detect(reader).findings
    assert [finding.subject.rank for finding in found] == [5]
    assert [finding.kind for finding in link.detect(reader).findings] == []


def test_a_slow_link_is_named_from_what_rings_tell(tmp_path: Path, reader_of: ReaderOf) -> None:
    train(tmp_path, slow_link_from=80)
    reader = reader_of({"collectives": told(tmp_path)})
    assert [finding.kind for finding in link.detect(reader).findings] == [FindingKind.LINK_DEGRADATION]
    assert not straggler.detect(reader).findings


def test_a_healthy_job_accuses_nobody(tmp_path: Path, reader_of: ReaderOf) -> None:
    train(tmp_path)
    reader = reader_of({"collectives": told(tmp_path)})
    assert not straggler.detect(reader).findings
    assert not link.detect(reader).findings
