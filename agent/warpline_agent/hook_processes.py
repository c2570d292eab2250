"""The training processes of this node as their hooks tell of them: who they are, and when each last ended a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Final

from warpline_hook import layout
from warpline_proto.errors import Refused, SourceError

from .hook_file import HookFile, open_file
from .hook_rows import Identity, identity_of
from .hook_search import Found, Search, opened

RECENT_STEPS: Final = 20
"""Newest steps of a process from which its usual step is taken."""


@dataclass(frozen=True)
class Training:
    """One process: `pid` as this agent sees it, when its newest step ended, and what a step usually takes, ns."""

    pid: int
    identity: Identity
    step_end_ns: int | None
    usual_step_ns: int | None


def training_processes(search: Search, folders: Iterable[Found]) -> Iterator[Training]:
    """All of these folders that live."""
    for found in folders:
        with opened(found.path) as folder:
            for name in found.names if folder is not None else ():
                training = _training(search, found, name, folder)
                if training is not None:
                    yield training


def steps_within(search: Search, folders: Iterable[Found], pid: int, start_ns: int, end_ns: int) -> list[int]:
    """Numbers of the steps of one process that began and ended between two times, as far as its file still holds them."""
    for found in folders:
        with opened(found.path) as folder:
            for name in found.names if folder is not None else ():
                steps = _steps_of(search, found, name, folder, pid)
                if steps is not None:
                    return [step for step, begun, took in steps if start_ns <= begun and begun + took <= end_ns]
    return []


def _steps_of(
    search: Search, found: Found, name: str, folder: int | None, pid: int
) -> list[tuple[int, int, int]] | None:
    """Number, start and duration of the steps in a file; None where it is not the file of that process."""
    try:
        file = HookFile(open_file(name, folder))
    except (SourceError, Refused, OSError):
        return None
    try:
        if search.pid_of(file.process, found) != pid:
            return None
        steps = [each for each in file.newest(layout.CAPACITY) if each.phase is None]
        return [(each.step, each.times["start"] or 0, each.times["duration"] or 0) for each in steps]
    except (Refused, OSError):
        return None
    finally:
        file.close()


def _training(search: Search, found: Found, name: str, folder: int | None) -> Training | None:
    try:
        file = HookFile(open_file(name, folder))
    except (SourceError, Refused, OSError):
        return None  # the source of steps tells why
    try:
        pid = search.pid_of(file.process, found)
        if pid is None or file.state != layout.RUNNING:
            return None
        steps = [each for each in file.newest(RECENT_STEPS) if each.phase is None]
        took = [each.times["duration"] or 0 for each in steps]
        end = steps[-1].times["start"] if steps else None
        return Training(
            pid,
            identity_of(file.identity()),
            None if end is None else end + took[-1],
            int(median(took)) if took else None,
        )
    except (Refused, OSError):
        return None
    finally:
        file.close()
