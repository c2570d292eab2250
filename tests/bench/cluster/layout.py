"""Where each rank of a job sits: in its tensor, data, pipeline and expert-parallel groups, and on which node and rail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

GPUS_PER_NODE: Final = 8
SMALL_RANKS: Final = 8
SMALL_GPUS_PER_NODE: Final = 4
"""Jobs of so few ranks sit on nodes of so few GPUs, so that their clocks differ, too."""


@dataclass(frozen=True)
class Group:
    """One communicator: `kind` is world, dp, tp, ep or edp; `ranks` are global."""

    name: str
    kind: str
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """rank = tp + T * (dp + D * pp), as Megatron orders them; the expert-parallel index is dp modulo `experts`.

    Arrays of the model are (pipeline stage, dp, tp), so that ravel() gives them by rank.
    """

    replicas: int
    tensor: int = 1
    stages: int = 1
    experts: int = 1

    @property
    def ranks(self) -> int:
        """All ranks."""
        return self.replicas * self.tensor * self.stages

    @property
    def shape(self) -> tuple[int, int, int]:
        """(stages, replicas, tensor)."""
        return (self.stages, self.replicas, self.tensor)

    @property
    def per_node(self) -> int:
        """Ranks on a node."""
        return SMALL_GPUS_PER_NODE if self.ranks <= SMALL_RANKS else GPUS_PER_NODE

    @property
    def nodes(self) -> int:
        """Whole and begun nodes."""
        return -(-self.ranks // self.per_node)

    @cached_property
    def places(self) -> tuple[Ints, Ints, Ints]:
        """(pp, dp, tp) of every rank."""
        pp, dp, tp = np.unravel_index(np.arange(self.ranks), self.shape)
        return pp.astype(np.int64), dp.astype(np.int64), tp.astype(np.int64)

    @cached_property
    def node_of(self) -> Ints:
        """Index of the node of every rank."""
        return np.arange(self.ranks, dtype=np.int64) // self.per_node

    def rank(self, stage: int, dp: int, tp: int) -> int:
        """The rank at a place."""
        return tp + self.tensor * (dp + self.replicas * stage)

    def dp_group(self, stage: int, tp: int) -> Group:
        """Ranks that reduce the gradients of one part of the model."""
        ranks = tuple(self.rank(stage, dp, tp) for dp in range(self.replicas))
        return Group(f"dp-s{stage}-t{tp}", "dp", ranks)

    def tp_group(self, stage: int, dp: int) -> Group:
        """Ranks that share every layer."""
        return Group(f"tp-s{stage}-d{dp}", "tp", tuple(self.rank(stage, dp, tp) for tp in range(self.tensor)))

    def ep_group(self, stage: int, block: int, tp: int) -> Group:
        """Ranks that exchange tokens of the experts."""
        members = range(block * self.experts, (block + 1) * self.experts)
        return Group(f"ep-s{stage}-b{block}-t{tp}", "ep", tuple(self.rank(stage, dp, tp) for dp in members))

    def edp_group(self, stage: int, expert: int, tp: int) -> Group:
        """Ranks that hold the same experts, and reduce their gradients."""
        members = range(expert, self.replicas, self.experts)
        return Group(f"edp-s{stage}-e{expert}-t{tp}", "edp", tuple(self.rank(stage, dp, tp) for dp in members))

    def groups(self) -> Iterator[Group]:
        """Every communicator of more than one rank, the world first."""
        yield Group("world", "world", tuple(range(self.ranks)))
        for stage in range(self.stages):
            if self.replicas > 1:
                yield from (self.dp_group(stage, tp) for tp in range(self.tensor))
            if self.tensor > 1:
                yield from (self.tp_group(stage, dp) for dp in range(self.replicas))
            if self.experts > 1:
                blocks = range(self.replicas // self.experts)
                yield from (self.ep_group(stage, block, tp) for block in blocks for tp in range(self.tensor))
                alike = range(self.experts if len(blocks) > 1 else 0)
                yield from (self.edp_group(stage, expert, tp) for expert in alike for tp in range(self.tensor))

    def spans_nodes(self, group: Group) -> bool:
        """Whether the group needs the network."""
        return len({rank // self.per_node for rank in group.ranks}) > 1

    def __str__(self) -> str:
        parts = [(self.replicas, "dp"), (self.tensor, "tp"), (self.stages, "pp"), (self.experts, "ep")]
        return "·".join(f"{name}{size}" for size, name in parts if size > 1)
