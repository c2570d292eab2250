"""What a loss of power may not take: a frame that was put, the folders it lies in, and the count of what fell off."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from warpline_agent.spool import Spool
from warpline_agent.waiting import Limits
from warpline_proto.batch import Batch
from warpline_proto.tables import METRICS

BOOT = "boot"
ROWS = [Batch("metrics", "test", METRICS.from_rows([{"time_ns": 1, "metric": "m", "value": 1.0}]))]


class Disk:
    """What is forced to disk, renamed and removed, in order, by names relative to a folder."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self._root = root
        sync, rename, unlink = os.fsync, Path.rename, Path.unlink

        def synced(descriptor: int) -> None:
            sync(descriptor)
            self._tell("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")))

        def renamed(path: Path, target: Path) -> Path:
            self._tell("rename to", target)
            return rename(path, target)

        def unlinked(path: Path, missing_ok: bool = False) -> None:
            if path.exists():
                self._tell("remove", path)
            unlink(path, missing_ok)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(Path, "rename", renamed)
        monkeypatch.setattr(Path, "unlink", unlinked)

    def _tell(self, what: str, path: Path) -> None:
        self.told.append(f"{what} {path.relative_to(self._root)}")


def test_a_frame_is_on_the_disk_by_name_and_content_when_it_is_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes first, then the name, then the folder that holds the name; a new folder's own name before that."""
    disk = Disk(tmp_path, monkeypatch)
    spool = Spool(tmp_path / "state" / "spool", "node", BOOT, lambda: 1)
    assert disk.told == ["sync .", "sync state"]
    disk.told.clear()
    spool.put(ROWS)
    frame = f"state/spool/{BOOT}-000000000001"
    assert disk.told == [f"sync {frame}.tmp", f"rename to {frame}.frame", "sync state/spool"]
    spool.close()


def test_what_falls_off_is_counted_on_the_disk_before_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of frames that grew too old together is counted at once, not file by file while the sender waits."""
    now = [1]
    spool = Spool(tmp_path, "node", BOOT, lambda: now[0], Limits(age_seconds_max=10.0), lambda: now[0])
    for _ in range(50):
        spool.put(ROWS)
    now[0] += 11 * 10**9
    disk = Disk(tmp_path, monkeypatch)
    spool.put(ROWS)
    count = [f"sync {BOOT}.tmp", f"rename to {BOOT}.lost", "sync ."]
    assert disk.told[: len(count) + 1] == [*count, f"remove {BOOT}-000000000001.frame"]
    assert sum(each.startswith("remove") for each in disk.told) == 50
    assert sum(each.startswith("sync") for each in disk.told) == 4, "two for the count, two for the frame"
    assert (spool.lost(BOOT), spool.waiting_frames) == (50, 1)
    spool.close()


def test_a_full_disk_does_not_take_the_count_of_what_falls_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count finds no room before the frames go; it is written when they are gone, and a restart knows it."""
    now = [1]
    spool = Spool(tmp_path, "node", BOOT, lambda: now[0], Limits(age_seconds_max=10.0), lambda: now[0])
    for _ in range(3):
        spool.put(ROWS)
    now[0] += 11 * 10**9
    real = os.fsync

    def full(descriptor: int) -> None:
        if list(tmp_path.glob("*.frame")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    spool.put(ROWS)
    monkeypatch.setattr(os, "fsync", real)
    spool.close()
    after = Spool(tmp_path, "node", "next", lambda: now[0])
    assert (after.lost(BOOT), after.waiting_frames) == (3, 1)
    after.close()
