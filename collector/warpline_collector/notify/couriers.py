"""All couriers of a collector: started, ended and looked at together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..incidents import Incidents
from ..store import Store
from .config import Config
from .courier import Courier, Standing


class Couriers:
    """One thread a receiver; ConfigError where a file of a URL cannot be read."""

    def __init__(
        self,
        config: Config,
        directory: Path,
        known: Callable[[], Incidents],
        store: Store,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        config.check_files()
        self._couriers = [Courier(each, config, directory, known, store, clock) for each in config.receivers]

    def start(self) -> None:
        """Begin to look."""
        for courier in self._couriers:
            courier.start()

    def close(self) -> None:
        """End all at once: none waits for another."""
        if self._couriers:
            with ThreadPoolExecutor(len(self._couriers)) as closing:
                list(closing.map(Courier.close, self._couriers))

    def standings(self) -> Sequence[Standing]:
        """How each receiver fares."""
        return [courier.standing for courier in self._couriers]
