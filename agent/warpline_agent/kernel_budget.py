"""Kernel budget: how finely the kernels of each rank are told within a share of a core; coarser under pressure, finer after it.

CPU time is set against the time in which the kernels ran, not against that in which they were read: a backlog that is read at
once is no pressure, and neither is a recording that is played fast.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

from .compressor import GRADES, STEP_ROWS_MAX, Compressed, compress
from .detail import Detail
from .kernels import Kernels
from .source import Health

WINDOW_SECONDS: Final = 10.0
"""Cost is judged over so much of the kernels' time."""
ROOM_SHARE: Final = 0.7
"""A finer grade must fit into this part of the budget, by what a record of it cost when it was last in use."""
ROOM_SECONDS: Final = 60.0
"""It must have fitted for so long, so that detail does not go to and fro."""
RANKS_MAX: Final = 1_024
"""Ranks of which cost is remembered, those told last."""
_SECOND_NS: Final = 1_000_000_000


@runtime_checkable
class TellsKernels(Protocol):
    """A Source that tells kernels as they come; it does so within the budget it is given before it is opened."""

    def tell_within(self, budget: KernelBudget) -> None: ...


@dataclass(frozen=True)
class KernelBudgetConfig:
    """What the clusters of one rank's kernels may cost the agent.

    `cpu_percent_max` is of one core, in the mean of ten seconds; `step_rows_max` bounds the rows of one step, of which each takes
    about 6 bytes of the wire. Beyond either, detail falls in the grades that `kernel_clusters.grade` names.
    """

    cpu_percent_max: float = 2.0
    step_rows_max: int = STEP_ROWS_MAX

    def __post_init__(self) -> None:
        if self.cpu_percent_max <= 0 or self.step_rows_max < 1:
            raise ValueError("cpu_percent_max and step_rows_max must be above 0")


@dataclass
class _Rank:
    """`costs` are CPU ns a record at each grade, when it was last in use; `spent` is (end of the kernels, CPU ns, records)."""

    grade: int = 0
    costs: list[float] = field(default_factory=lambda: [0.0] * len(GRADES))
    spent: deque[tuple[int, int, int]] = field(default_factory=deque)
    room_since_ns: int | None = None
    fell_at_percent: float = 0.0


class KernelBudget:
    """One for a source, used from its thread alone: `compress` in place of the compressor's own."""

    def __init__(
        self,
        config: KernelBudgetConfig = KernelBudgetConfig(),
        cpu_ns: Callable[[], int] = time.thread_time_ns,
        detail: Detail | None = None,
    ) -> None:
        """`cpu_ns` tells the CPU time of the thread that calls `compress`; no more is told than `detail` has."""
        self.config = config
        self._detail = detail or Detail()
        self._cpu_ns = cpu_ns
        self._ranks: OrderedDict[int | None, _Rank] = OrderedDict()

    def compress(self, kernels: Kernels, *, rank: int | None = None, clock: str | None = None) -> Compressed:
        """Clusters of one rank's kernels, as finely as its budget allows at present."""
        known = self._ranks.setdefault(rank, _Rank())
        self._ranks.move_to_end(rank)
        if len(self._ranks) > RANKS_MAX:
            self._ranks.popitem(last=False)
        begun_ns = self._cpu_ns()
        kernels = self._detail.chosen(kernels)
        grade = max(known.grade, self._detail.plan.grade)
        made = compress(kernels, rank=rank, clock=clock, grade=GRADES[grade], step_rows_max=self.config.step_rows_max)
        if len(kernels):
            self._weigh(known, grade, int(kernels.end_ns.max()), self._cpu_ns() - begun_ns, len(kernels))
        return made

    def health(self) -> Iterator[Health]:
        """Ranks whose kernels are told less finely than they might be."""
        for rank, known in self._ranks.items():
            if known.grade:
                yield Health(
                    "kernels" if rank is None else f"kernels of rank {rank}",
                    "busy",
                    f"told as {GRADES[known.grade]}: {GRADES[known.grade - 1]} took {known.fell_at_percent:.1f} % of a core, "
                    f"more than {self.config.cpu_percent_max:g} % (cpu_percent_max in [agent.kernels])",
                )

    def _weigh(self, known: _Rank, grade: int, end_ns: int, cpu_ns: int, records: int) -> None:
        """Count what was spent, and choose the grade of the next call."""
        if known.spent and end_ns < known.spent[-1][0]:
            known.spent.clear()  # another clock, or another run
            known.room_since_ns = None
        known.costs[grade] = cpu_ns / records
        known.spent.append((end_ns, cpu_ns, records))
        while known.spent[0][0] <= end_ns - int(WINDOW_SECONDS * _SECOND_NS):
            known.spent.popleft()
        percent = _percent(sum(spent for _, spent, _ in known.spent))
        if percent > self.config.cpu_percent_max:
            self._fall(known, percent)
        elif known.grade:
            self._rise_where_there_is_room(known, end_ns)

    def _fall(self, known: _Rank, percent: float) -> None:
        known.room_since_ns = None
        if known.grade < len(GRADES) - 1:
            known.grade += 1
            known.fell_at_percent = percent
            known.spent.clear()

    def _rise_where_there_is_room(self, known: _Rank, end_ns: int) -> None:
        finer = known.costs[known.grade - 1] * sum(records for _, _, records in known.spent)
        if _percent(finer) > ROOM_SHARE * self.config.cpu_percent_max:
            known.room_since_ns = None
        elif known.room_since_ns is None:
            known.room_since_ns = end_ns
        elif end_ns - known.room_since_ns >= int(ROOM_SECONDS * _SECOND_NS):
            known.grade -= 1
            known.room_since_ns = None
            known.spent.clear()


def _percent(cpu_ns: float) -> float:
    """Of a core, over the window."""
    return 100.0 * cpu_ns / (WINDOW_SECONDS * _SECOND_NS)
