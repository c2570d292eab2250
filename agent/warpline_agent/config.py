"""What a user may set for the agent, and the map of its sections in the TOML file."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from warpline_proto.config import check_address, nearest
from warpline_proto.defaults import COLLECTOR_ADDRESS, FRAME_BYTES_MAX, STATE_DIRECTORY
from warpline_proto.errors import ConfigError
from warpline_proto.tls import SECTION, Tls

from .detail import Detail, Heeds
from .gpu_activity import GpuActivity, SeesActivity, TellsActivity
from .guard.settings import GuardConfig
from .kernel_budget import KernelBudget, KernelBudgetConfig, TellsKernels
from .raw_ring import OFF, KeepsRaw, RawRing, RawRingConfig
from .source import Source
from .sources import SOURCES
from .traced import GivesWay, Traced, Traces
from .waiting import AGE_SECONDS_MAX, BYTES_MAX, MEMORY_BYTES_MAX, Limits

MADE_UP: Final = frozenset({"synthetic"})
"""Sources that invent rows: never on unless they are named."""
DRAIN_SECONDS: Final = 5.0


@dataclass(frozen=True)
class AgentConfig:
    """`sources` empty means every source that reads this machine; `node` is its host name unless it is set.

    `spool_*` bound what waits while the collector is away; `drain_seconds` bounds the wait for it at the end.
    """

    cluster: str = ""
    node: str = field(default_factory=platform.node)
    collector: str = COLLECTOR_ADDRESS
    sources: tuple[str, ...] = ()
    spool_directory: str = f"{STATE_DIRECTORY}/spool"
    spool_bytes_max: int = BYTES_MAX
    spool_memory_bytes_max: int = MEMORY_BYTES_MAX
    spool_age_seconds_max: float = AGE_SECONDS_MAX
    drain_seconds: float = DRAIN_SECONDS

    def __post_init__(self) -> None:
        if not self.node:
            raise ValueError("node is empty: give the node a name")
        if not self.spool_directory:
            raise ValueError("spool_directory is empty: name a directory")
        check_address(self.collector, "collector")
        if self.spool_bytes_max < FRAME_BYTES_MAX or self.spool_memory_bytes_max < FRAME_BYTES_MAX:
            raise ValueError(f"the spool must hold one frame: at least {FRAME_BYTES_MAX} bytes on disk and in memory")
        if self.spool_age_seconds_max <= 0 or self.drain_seconds < 0:
            raise ValueError("spool_age_seconds_max must be above 0 and drain_seconds not below")

    def limits(self) -> Limits:
        """Bounds of the spool."""
        return Limits(self.spool_bytes_max, self.spool_memory_bytes_max, self.spool_age_seconds_max)


def sections() -> dict[str, type[Any]]:
    """Section name -> the dataclass that holds its settings: `agent` and what is below it, `sources.NAME` for each source."""
    kinds: Mapping[str, Any] = SOURCES
    own: dict[str, type[Any]] = {
        "agent": AgentConfig,
        "agent.kernels": KernelBudgetConfig,
        "agent.raw_ring": RawRingConfig,
        "agent.guard": GuardConfig,
        SECTION: Tls,
    }
    return own | {f"sources.{name}": kind.Config for name, kind in kinds.items()}


def build_sources(settings: Mapping[str, Any], detail: Detail | None = None) -> dict[str, Source]:
    """The sources that are on, by name, each with its settings, raw ring and budget; ConfigError for a name that is none.

    They tell no more than `detail` has.
    """
    detail = detail or Detail()
    config: AgentConfig = settings["agent"]
    names = config.sources or tuple(name for name in SOURCES if name not in MADE_UP)
    kinds: Mapping[str, Any] = SOURCES
    for name in names:
        if name not in kinds:
            raise ConfigError(f"[agent] sources: there is no source {name!r}", nearest(name, kinds))
    sources: dict[str, Source] = {name: kinds[name](settings[f"sources.{name}"]) for name in names}
    ring: RawRingConfig = settings["agent.raw_ring"]
    directory = Path(ring.directory or Path(config.spool_directory) / "raw")
    traced, activity = Traced(), GpuActivity()
    for name, source in sources.items():
        if isinstance(source, KeepsRaw) and ring.grade != OFF:
            source.keep_raw_in(RawRing(ring, directory / name))
        if isinstance(source, TellsKernels):
            source.tell_within(KernelBudget(settings["agent.kernels"], detail=detail))
        if isinstance(source, Heeds):
            source.heed(detail)
        if isinstance(source, Traces):
            source.tell_traced(traced)
        if isinstance(source, GivesWay):
            source.give_way_to(traced)
        if isinstance(source, TellsActivity):
            source.tell_activity(activity)
        if isinstance(source, SeesActivity):
            source.see_activity(activity)
    return sources
