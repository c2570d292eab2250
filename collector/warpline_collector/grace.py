"""Files on their way out: unlisted now, unlinked once no reader can still hold a catalog that names them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from pathlib import Path


class Grace:
    """Unlinks files `grace_ns` after they were retired. `clock` gives nanoseconds."""

    def __init__(self, directory: Path, grace_ns: int, clock: Callable[[], int]) -> None:
        self._directory = directory
        self._grace_ns = grace_ns
        self._clock = clock
        self._waiting: deque[tuple[int, str]] = deque()

    def retire(self, path: str) -> None:
        """Let `path` (relative to the directory) go after the grace period."""
        self._waiting.append((self._clock() + self._grace_ns, path))

    def sweep(self) -> int:
        """Unlink what is due; returns how many."""
        now_ns, count = self._clock(), 0
        latest_ns = now_ns + self._grace_ns
        if self._waiting and self._waiting[0][0] > latest_ns:  # the clock was set back
            self._waiting = deque((min(due_ns, latest_ns), path) for due_ns, path in self._waiting)
        while self._waiting and self._waiting[0][0] <= now_ns:
            (self._directory / self._waiting.popleft()[1]).unlink(missing_ok=True)
            count += 1
        return count


def orphans(directory: Path, folders: Iterable[str], listed: Collection[str]) -> list[Path]:
    """Parquet files, whole or partial, below `folders` that `listed` (relative paths) does not name."""
    return [
        path
        for folder in folders
        for path in sorted((directory / folder).glob("*/*"))
        if path.suffix in (".parquet", ".tmp") and str(path.relative_to(directory)) not in listed
    ]
