"""Certificates for tests, made by the product's own authority; and a collector in a thread that asks for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from served import served

from warpline_cli.pki.keeping import Keeping
from warpline_collector import config, continuous, pool
from warpline_collector.metrics import config as metrics_config
from warpline_proto.tls import Tls

HOST = "collector.test"


@dataclass
class Authority:
    """An authority in `folder`, and the certificates that it issued, by whose they are."""

    folder: Path
    kept: Keeping = field(init=False)

    def __post_init__(self) -> None:
        self.kept = Keeping(self.folder)
        self.kept.start(100)

    def of(self, role: str, name: str, hosts: Sequence[str] = (), days: int = 10) -> Tls:
        """The certificate of `name`, issued when it is first asked for; it moves when it is renewed."""
        path = self.folder / "issued" / f"{role}-{name}"
        return Tls.within(str(path if path.exists() else self.kept.issue(role, name, hosts, days)))

    def collector(self) -> Tls:
        """That of the collector."""
        return self.of("collector", HOST, [HOST])


@contextmanager
def running(
    directory: Path,
    tls: Tls,
    listen: str = "127.0.0.1:0",
    metrics: str = "",
    clock: Callable[[], int] = time.time_ns,
    insecure: bool = False,
) -> Iterator[Sequence[str]]:
    """A collector with this certificate; gives its address, and that of its metrics."""
    settings = config.Settings(
        collector=config.Config(listen=listen, directory=str(directory)),
        sql=pool.Config(workers=1),
        analysis=continuous.Config(period_seconds=600.0),
        metrics=metrics_config.Config(listen=metrics, insecure=insecure),
        tls=tls,
    )
    with served(settings, {}, clock) as told:
        yield told
