"""What the collector asks of the allocators: a process that runs for weeks keeps no heap for each thread."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest

from warpline_collector.heap import HEAPS_MAX, share

WORK = """
import sys, threading
from pathlib import Path
import pyarrow as pa
from warpline_collector.heap import share
if sys.argv[1] == "shared" and not share():
    sys.exit(3)
gate = threading.Barrier(12)
def work():
    gate.wait()
    held = [bytearray(50_000) for _ in range(20)]
    gate.wait()
threads = [threading.Thread(target=work) for _ in range(12)]
for each in threads: each.start()
for each in threads: each.join()
print(pa.default_memory_pool().backend_name)
print(Path("/proc/self/maps").read_text())
"""
HEAP_BYTES = 64 * 1024 * 1024


def heaps(how: str) -> tuple[str, int]:
    """Arrow's pool, and how many heaps there are beside the first: used at its begin, and reserved up to its largest size."""
    done = subprocess.run([sys.executable, "-c", WORK, how], capture_output=True, text=True, timeout=60)
    if done.returncode == 3:
        pytest.skip("the C library has no mallopt")
    pool, *maps = done.stdout.splitlines()
    told = [re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) 0+ 00:00 0\s*$", line) for line in maps]
    areas = [(int(each[1], 16), int(each[2], 16), each[3]) for each in told if each]
    return pool, sum(
        used == "rw-p"
        and reserved == "---p"
        and middle == begun
        and begin % HEAP_BYTES == 0
        and end == begin + HEAP_BYTES
        for (begin, middle, used), (begun, end, reserved) in pairwise(areas)
    )


def test_twelve_threads_share_a_few_heaps_and_arrow_has_none_of_its_own() -> None:
    pool, shared = heaps("shared")
    assert pool == "system" and shared <= HEAPS_MAX
    assert heaps("apart")[1] >= shared


def test_where_the_library_has_no_such_call_nothing_is_asked() -> None:
    class Other:
        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name)

    other: Any = Other()
    library: ctypes.CDLL = other
    pool = pa.default_memory_pool()
    try:
        assert share(library) is False
    finally:
        pa.set_memory_pool(pool)
