"""What `py-spy dump --json` prints -> rows of stacks, equal ones counted together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from warpline_proto.errors import Refused

from .values import count, is_list, json_value, mapping, text

THREADS_MAX: Final = 512
"""Threads of one process that are told."""
FRAMES_MAX: Final = 128
"""Innermost frames of a stack that are kept."""
FRAME_CHARS_MAX: Final = 300


def stacks(dump: bytes, time_ns: int) -> list[dict[str, Any]]:
    """One dump -> one row a thread; Refused where it is no such dump."""
    threads = json_value(dump)
    if not is_list(threads):
        raise Refused("is no dump of py-spy: no list of threads")
    return [row for each in threads[:THREADS_MAX] if (row := _stack(mapping(each), time_ns)) is not None]


def counted(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one process, stacks that are the same in every respect as one row with how often they were seen."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["thread"], row["active"], row["owns_gil"], tuple(row["frames"]))
        if key in found:
            found[key]["count"] += row["count"]
        else:
            found[key] = dict(row)
    return list(found.values())


def _stack(thread: Mapping[Any, Any], time_ns: int) -> dict[str, Any] | None:
    frames = thread.get("frames")
    if not is_list(frames):
        return None
    return {
        "time_ns": time_ns,
        "pid": count(thread.get("pid")),
        "thread": count(thread.get("os_thread_id")),
        "thread_name": text(thread.get("thread_name")),
        "active": _flag(thread.get("active")),
        "owns_gil": _flag(thread.get("owns_gil")),
        "frames": [_frame(mapping(each)) for each in frames[:FRAMES_MAX]],
        "count": 1,
    }


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _frame(frame: Mapping[Any, Any]) -> str:
    name = text(frame.get("name")) or "?"
    file = text(frame.get("short_filename")) or text(frame.get("filename")) or "?"
    line = count(frame.get("line"))
    return f"{name} ({file}{'' if line is None else f':{line}'})"[:FRAME_CHARS_MAX]
