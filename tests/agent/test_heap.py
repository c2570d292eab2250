"""What the agent asks of the allocator: bounded, and no matter where it cannot be asked."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from warpline_agent.heap import keep_freed

WORK = """
import resource, sys
import numpy as np
from warpline_agent.heap import keep_freed
if sys.argv[1] == "kept" and not keep_freed():
    sys.exit(3)
def work():
    arrays = [np.ones(60_000) for _ in range(8)]
    return sum(each[-1] for each in arrays)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", WORK, how], capture_output=True, text=True, timeout=60)
    if done.returncode == 3:
        pytest.skip("the C library has no mallopt")
    return int(done.stdout)


def test_memory_of_one_round_serves_the_next() -> None:
    """Half-megabyte arrays come from the same pages again and again."""
    assert faults("kept") < 50


def test_another_c_library_is_left_alone() -> None:
    class Other:
        def __getattr__(self, name: str) -> object:
            raise AttributeError(name)

    library: ctypes.CDLL = Other()  # type: ignore[assignment]
    assert not keep_freed(library=library)
