"""The commands of a closer look at ranks, and whoever may send them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

TRACED_MAX: Final = 4
"""Ranks that are traced together: the accused and some of its peers."""


@runtime_checkable
class Operates(Protocol):
    """An app that was started with operator rights can run a command of warpline; others have `operator` false."""

    operator: bool

    def run_command(self, words: Sequence[str]) -> None:
        """Start `warpline WORDS` beside the screen; what it says is told when it ends."""
        ...


@dataclass(frozen=True)
class Look:
    """One request that can be made, what it is good for, and its words after `warpline`."""

    about: str
    words: tuple[str, ...]

    @property
    def command(self) -> str:
        """As it is typed."""
        return shlex.join(("warpline", *self.words))


def looks(job: str | None, accused: Sequence[int | None], peers: Sequence[int | None]) -> tuple[Look, ...]:
    """What can be asked of these ranks; nothing where no rank is known by number."""
    ranks = [rank for rank in accused if rank is not None]
    if job is None or not ranks:
        return ()
    beside = [*ranks[: TRACED_MAX - 1], *(rank for rank in peers if rank is not None)][:TRACED_MAX]
    return (
        Look(
            "the kernels of its last seconds one by one, which its node still holds",
            ("capture", "kernels", "--job", job, "--rank", str(ranks[0])),
        ),
        Look(
            "a trace of the next steps by PyTorch's profiler, of it and its peers",
            ("capture", "trace", "--job", job, "--ranks", ",".join(map(str, beside))),
        ),
    )
