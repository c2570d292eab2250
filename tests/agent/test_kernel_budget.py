"""What an operator relies on of the kernels' budget: it is kept, what it costs in detail is told, and detail comes back."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.compressor import GRADES, compress
from warpline_agent.config import build_sources, sections
from warpline_agent.kernel_budget import ROOM_SECONDS, WINDOW_SECONDS, KernelBudget, KernelBudgetConfig
from warpline_agent.kernels import Kernels
from warpline_proto import wire
from warpline_proto.batch import Batch, Frame
from warpline_proto.config import load
from warpline_proto.errors import ConfigError
from warpline_proto.stream import Packer, Unpacker

SECOND_NS = 1_000_000_000


class Cpu:
    """CPU time that passes by `per_call_ns` with each pair of looks: what one call of the compressor takes."""

    def __init__(self) -> None:
        self.ns = 0
        self.per_call_ns = 0
        self._looks = 0

    def __call__(self) -> int:
        self._looks += 1
        self.ns += self.per_call_ns * (self._looks % 2 == 0)
        return self.ns


def made_up(second: float, durations: tuple[int, ...] = (1_000,) * 20 + (9_000,) * 20, step: int = 0) -> Kernels:
    """Two modes of one kernel."""
    count = len(durations)
    return Kernels(
        start_ns=int(second * SECOND_NS) + 10_000 * np.arange(count),
        duration_ns=np.array(durations, dtype=np.int64),
        name_id=np.zeros(count, dtype=np.int32),
        category=np.zeros(count, dtype=np.uint8),
        device=np.zeros(count, dtype=np.int32),
        stream=np.full(count, 7),
        step=np.full(count, step),
        names=("gemm",),
    )


def grades(budget: KernelBudget, seconds: range, rank: int = 0) -> list[str]:
    """The grade of each second's rows."""
    return [budget.compress(made_up(second), rank=rank).rows.column("grade")[0].as_py() for second in seconds]


def test_cheap_kernels_stay_clusters() -> None:
    cpu = Cpu()
    cpu.per_call_ns = int(0.019 * SECOND_NS)  # 1.9 % of a core
    budget = KernelBudget(KernelBudgetConfig(cpu_percent_max=2.0), cpu)
    assert set(grades(budget, range(100))) == {"clusters"}
    assert not list(budget.health())


def test_detail_falls_grade_by_grade_and_is_told_in_rows_and_health() -> None:
    cpu = Cpu()
    cpu.per_call_ns = int(0.05 * SECOND_NS)
    budget = KernelBudget(KernelBudgetConfig(cpu_percent_max=2.0), cpu)
    told = grades(budget, range(30))
    assert list(dict.fromkeys(told)) == list(GRADES)
    assert told.index("kernels") <= WINDOW_SECONDS
    (health,) = budget.health()
    assert (health.subject, health.state) == ("kernels of rank 0", "busy")
    assert "told as sums" in health.reason and "cpu_percent_max in [agent.kernels]" in health.reason


def test_one_rank_under_pressure_costs_the_others_no_detail() -> None:
    cpu = Cpu()
    budget = KernelBudget(KernelBudgetConfig(cpu_percent_max=2.0), cpu)
    for second in range(10):
        for rank, cost in ((0, 0.05), (1, 0.001)):
            cpu.per_call_ns = int(cost * SECOND_NS)
            last = budget.compress(made_up(second), rank=rank).rows.column("grade")[0].as_py()
    assert last == "clusters"
    assert [part.subject for part in budget.health()] == ["kernels of rank 0"]


def test_detail_comes_back_when_it_has_fitted_for_a_minute_and_not_before() -> None:
    """What counts is what the finer grade would cost, not what the coarse one does."""
    cpu = Cpu()
    cpu.per_call_ns = int(0.05 * SECOND_NS)
    budget = KernelBudget(KernelBudgetConfig(cpu_percent_max=2.0), cpu)
    assert grades(budget, range(6))[-1] == "kernels"
    cpu.per_call_ns = int(0.001 * SECOND_NS)
    assert set(grades(budget, range(6, 300))) == {"kernels"}  # as many records as before: clusters would not fit
    calm = 300 + 5 * np.arange(60)  # a fifth of them: 1 % of a core fits into 70 % of 2 %
    told = [budget.compress(made_up(float(at)), rank=0).rows.column("grade")[0].as_py() for at in calm]
    back = told.index("clusters")
    assert calm[back] - calm[0] >= ROOM_SECONDS
    assert calm[back] - calm[0] <= ROOM_SECONDS + 3 * WINDOW_SECONDS
    assert not list(budget.health())


def test_a_backlog_read_at_once_is_no_pressure() -> None:
    """Cost is set against the time in which kernels ran."""
    cpu = Cpu()
    cpu.per_call_ns = int(0.01 * SECOND_NS)
    budget = KernelBudget(KernelBudgetConfig(cpu_percent_max=2.0), cpu)
    assert set(grades(budget, range(1_000))) == {"clusters"}


def test_a_clock_that_goes_back_begins_the_window_anew() -> None:
    cpu = Cpu()
    cpu.per_call_ns = int(0.15 * SECOND_NS)
    budget = KernelBudget(KernelBudgetConfig(cpu_percent_max=2.0), cpu)
    assert set(grades(budget, range(100, 0, -1))) == {"clusters"}


def test_settings_name_their_section_and_refuse_nonsense() -> None:
    found = load(sections(), (), {"WARPLINE_AGENT_KERNELS_CPU_PERCENT_MAX": "0.5"})
    assert found["agent.kernels"] == KernelBudgetConfig(cpu_percent_max=0.5)
    with pytest.raises(ConfigError, match="cpu_percent_max"):
        load(sections(), (), {"WARPLINE_AGENT_KERNELS_CPU_PERCENT_MAX": "0"})
    given_sources = build_sources(load(sections(), (), {"WARPLINE_AGENT_SOURCES": '["synthetic"]'}))
    assert list(given_sources) == ["synthetic"]


DURATIONS = st.lists(st.integers(-5, 2**40), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(st.lists(DURATIONS, min_size=1, max_size=6), st.sampled_from(GRADES))
def test_counts_and_sums_are_exact_at_every_grade_and_over_the_wire(steps: list[list[int]], grade: str) -> None:
    packer, unpacker = Packer(), Unpacker()
    for number, durations in enumerate(steps * 2):
        kernels = made_up(float(number), tuple(durations), number)
        rows = compress(kernels, rank=3, grade=grade).rows
        frame = Frame("n", "b" * 24, number + 1, number, (Batch("kernel_clusters", "kineto", rows),))
        packed = packer.pack(wire.to_message(frame))
        for found in ([rows], [batch.rows for batch in unpacker.unpack(packed).batches]):
            assert {each for part in found for each in part.column("grade").to_pylist()} == {grade}
            assert sum(pc.sum(part["count"]).as_py() for part in found) == len(durations)
            assert sum(pc.sum(part["sum_ns"]).as_py() for part in found) == sum(durations)


def test_rows_without_a_shape_say_nothing_of_one_and_cost_less_on_the_wire() -> None:
    """Unknown quantiles stay NULL on both sides; later messages are differences like those of any grade."""
    packer, unpacker = Packer(), Unpacker()
    for number in range(3):
        rows = compress(made_up(float(number), step=number), rank=3, grade="sums").rows
        frame = Frame("n", "b" * 24, number + 1, number, (Batch("kernel_clusters", "kineto", rows),))
        packed = packer.pack(wire.to_message(frame))
        (batch,) = unpacker.unpack(packed).batches
        (sent,), (row,) = rows.to_pylist(), batch.rows.to_pylist()
        assert (row["count"], row["sum_ns"]) == (40, 200_000) == (sent["count"], sent["sum_ns"])
        assert (sent["min_ns"], sent["max_ns"]) == (1_000, 9_000)
        assert [row[name] for name in ("p10_ns", "p50_ns", "p90_ns", "p99_ns", "run_counts", "run_means_ns")] == [
            None
        ] * 6
        assert all(part.encoding for part in packed.parts) == (number > 0)
