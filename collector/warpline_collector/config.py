"""What a user may set for the collector, and the map of its sections in the TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from warpline_analysis.energy.money import Money
from warpline_proto.config import check_address
from warpline_proto.defaults import COLLECTOR_ADDRESS, STATE_DIRECTORY
from warpline_proto.tls import SECTION, Tls

from . import accounting, closer_look, continuous, limits, pool, retention, standing
from .metrics import config as metrics_config
from .notify import config as notify_config
from .postgres import config as postgres_config
from .stores import duckdb as duckdb_store


@dataclass(frozen=True)
class Config:
    """Settings of the collector: where it listens (loopback unless told otherwise) and where it keeps its store."""

    listen: str = COLLECTOR_ADDRESS
    directory: str = f"{STATE_DIRECTORY}/store"

    def __post_init__(self) -> None:
        if not self.directory:
            raise ValueError("directory is empty: name one")
        check_address(self.listen, "listen")


@dataclass(frozen=True)
class Settings:
    """Everything a collector is told."""

    collector: Config = field(default_factory=Config)
    store: duckdb_store.Config = field(default_factory=duckdb_store.Config)
    sql: pool.Config = field(default_factory=pool.Config)
    analysis: continuous.Config = field(default_factory=continuous.Config)
    captures: closer_look.Config = field(default_factory=closer_look.Config)
    energy: accounting.Config = field(default_factory=accounting.Config)
    power: Money = field(default_factory=Money)
    agents: standing.Config = field(default_factory=standing.Config)
    limits: limits.Config = field(default_factory=limits.Config)
    metrics: metrics_config.Config = field(default_factory=metrics_config.Config)
    retention: retention.Config = field(default_factory=retention.Config)
    tls: Tls = field(default_factory=Tls)
    postgres: postgres_config.Config = field(default_factory=postgres_config.Config)
    notify: notify_config.Config = field(default_factory=notify_config.Config)


def sections() -> dict[str, type[Any]]:
    """Section name -> the dataclass that holds its settings."""
    return {
        "collector": Config,
        "collector.store": duckdb_store.Config,
        "collector.sql": pool.Config,
        "collector.analysis": continuous.Config,
        "collector.captures": closer_look.Config,
        "collector.energy": accounting.Config,
        "power": Money,
        "collector.agents": standing.Config,
        "collector.limits": limits.Config,
        "collector.metrics": metrics_config.Config,
        "collector.retention": retention.Config,
        SECTION: Tls,
        "collector.postgres": postgres_config.Config,
        "collector.notify": notify_config.Config,
    }


def from_sections(loaded: Mapping[str, Any]) -> Settings:
    """What `warpline_proto.config.load` gave for `sections()`."""
    return Settings(*(loaded[name] for name in sections()))
