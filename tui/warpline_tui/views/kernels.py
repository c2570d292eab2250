"""What the kernels screen shows: the kernels of one rank beside its peers', another rank's or those of other steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from ..beside.durations import Durations, Span, sides_of, told
from ..beside.ranks import Compared, beside, ranks_of
from ..incident import newest, open_ones
from ..view import Ask

RANKS_MAX: Final = 20_000
RANKS_SECONDS: Final = 10.0
"""Which ranks there are is asked so rarely."""

RankKey = tuple[str, int | None]


@dataclass(frozen=True)
class Against:
    """What a rank's kernels are held against: its peers, or `rank`, or the rank itself; there `steps` (first, last) of it."""

    rank: int | None = None
    steps: tuple[int, int] | None = None

    def __str__(self) -> str:
        said = [] if self.rank is None else [f"rank {self.rank}"]
        said += [] if self.steps is None else [f"steps {self.steps[0]}-{self.steps[1]}"]
        return " ".join(said) or "peers"


PEERS: Final = Against()


@dataclass(frozen=True)
class Kernels:
    """The rank that is shown (None where there is none), all ranks, its kernels, and who they are held against."""

    selected: RankKey | None = None
    ranks: tuple[RankKey, ...] = ()
    who: Compared = field(default_factory=Compared)
    against: str = ""
    durations: Durations = field(default_factory=Durations)


@dataclass(frozen=True)
class KernelsView:
    """The kernels of `rank`, None for the one most worth a look; `chosen` is whose distribution is looked at."""

    rank: RankKey | None = None
    against: Against = PEERS
    chosen: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None

    def take(self, ask: Ask) -> Kernels:
        """Ask for ranks, and for the kernels of one."""
        found = ask.rows(_ranks(ask), RANKS_SECONDS).to_pylist()
        keys = tuple((str(row["job"]), row["rank"]) for row in found)
        selected = self.rank if self.rank is not None else _worth_a_look(ask, keys)
        if selected is None:
            return Kernels(ranks=keys)
        job, number = selected
        ranks = ranks_of(ask, job)
        mine = [row for row in ranks if row["rank"] == number]
        if not mine:
            return Kernels(selected, keys, Compared(job, why=f"Nothing of {_named(number)} of job {job} is kept."))
        who = beside(job, ranks, mine)
        return Kernels(selected, keys, who, *self._held(ask, who))

    def _held(self, ask: Ask, who: Compared) -> tuple[str, Durations]:
        """What they are held against, in words; and both."""
        span = Span(start_ns=self.start_ns, end_ns=self.end_ns)
        sides = sides_of(ask, who, span)
        said = who.peers_said or "nobody: the job has no other rank"
        if self.against != PEERS:
            other = Compared(who.job, who.accused if self.against.rank is None else (self.against.rank,))
            first, last = self.against.steps or (None, None)
            there = sides_of(ask, other, Span(first, last) if self.against.steps else span)
            sides, said = sides.against(there), str(self.against)
            if self.against.rank is None:
                said = f"itself in {said}"
        return said, told(ask, sides, self.chosen)


def against(words: str) -> Against | None:
    """What somebody typed: `peers`, `rank 5`, `steps 10-20`, `rank 5 steps 10-20`; None where it is none of these."""
    rest = words.lower().replace("steps", "step").split()
    rank: int | None = None
    steps: tuple[int, int] | None = None
    while rest:
        name, *rest = rest
        if name == "peers" and not rest:
            return PEERS if rank is None and steps is None else None
        if not rest:
            return None
        value, *rest = rest
        first, _, last = value.partition("-")
        if not all(each.isascii() and each.isdigit() and len(each) < 16 for each in (first, last or first)):
            return None
        if name == "rank" and not last:
            rank = int(first)
        elif name == "step":
            steps = int(first), int(last or first)
        else:
            return None
    return Against(rank, steps) if rank is not None or steps is not None else None


def _ranks(ask: Ask) -> str:
    return f"""
SELECT DISTINCT job, rank FROM steps WHERE job IS NOT NULL AND {ask.until("start_ns")}
ORDER BY job, rank LIMIT {RANKS_MAX}
"""


def _worth_a_look(ask: Ask, keys: tuple[RankKey, ...]) -> RankKey | None:
    """The rank that an open finding accuses, else the first."""
    accused = {(each.finding.subject.job, each.finding.subject.rank) for each in open_ones(newest(ask))}
    return next((key for key in keys if key in accused), keys[0] if keys else None)


def _named(rank: Any) -> str:
    return "the only rank" if rank is None else f"rank {rank}"
