"""A rank of a training job, without GPU, CUDA and NCCL: real files, a real pipe; one command a line, one answer a line.

cuda             initialises CUDA, which loads CUDA_INJECTION64_PATH
cupti LINE       what the fake libcupti does, FAKE_CUPTI
nccl LINE        what the fake NCCL host does, FAKE_NCCL
step SECONDS     a step that took so long has ended now
pipe             serves the pipe of the flight recorder as PyTorch does, with DUMP as the dump
slow             the same, but writes half of the dump first, and the rest on the next write to the pipe
spin | rest      a thread uses the CPU, or no longer
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from typing import Any

from warpline_hook import layout
from warpline_hook.step_ring import StepRing, create

LOOK_SECONDS = 0.02
UNKNOWN = [layout.UNKNOWN] * (len(layout.TIMES) - 2 + len(layout.STARTS))


class Rank:
    """What the lines are told to."""

    def __init__(self) -> None:
        self.libraries: dict[str, Any] = {}
        self.ring: StepRing | None = None
        self.steps = 0
        self.spinning = threading.Event()

    def library(self, name: str) -> Any:
        if name not in self.libraries:
            self.libraries[name] = ctypes.CDLL(os.environ[name], mode=os.RTLD_GLOBAL | os.RTLD_NOW)
        return self.libraries[name]

    def obey(self, line: str) -> int:
        verb, _, rest = line.partition(" ")
        if verb == "cuda":
            return int(self.library("CUDA_INJECTION64_PATH").InitializeInjection())
        if verb in ("cupti", "nccl"):
            call = getattr(self.library(f"FAKE_{verb.upper()}"), f"fake_{verb}")
            call.restype = ctypes.c_long
            return int(call(rest.encode()))
        if verb == "step":
            return self.step(float(rest))
        if verb in ("pipe", "slow"):
            return self.serve(slowly=verb == "slow")
        if verb == "spin":
            self.spinning.set()
            threading.Thread(target=self.spin, daemon=True).start()
        elif verb == "rest":
            self.spinning.clear()
        return 0

    def step(self, seconds: float) -> int:
        if self.ring is None:
            self.ring = create(os.environ["WARPLINE_DIRECTORY"], None, time.time_ns())
            self.ring.identify({"job": os.environ["WARPLINE_JOB"], "rank": int(os.environ["RANK"]), "world_size": 4})
        took_ns = int(seconds * 1e9)
        self.ring.step(self.steps, 0, (time.time_ns() - took_ns, took_ns, *UNKNOWN))
        self.steps += 1
        return self.steps

    def spin(self) -> None:
        while self.spinning.is_set():
            pass

    def serve(self, slowly: bool) -> int:
        path = f"{os.environ['TORCH_NCCL_DEBUG_INFO_PIPE_FILE']}{os.environ['RANK']}.pipe"
        if os.path.lexists(path):
            os.unlink(path)
        os.mkfifo(path, 0o666)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        threading.Thread(target=self.look_into, args=(descriptor, slowly), daemon=True).start()
        return 0

    def look_into(self, descriptor: int, slowly: bool) -> None:
        with open(os.environ["DUMP"], "rb") as stream:
            content = stream.read()
        target = f"{os.environ['TORCH_FR_DUMP_TEMP_FILE']}{os.environ['RANK']}"
        while True:
            time.sleep(LOOK_SECONDS)
            if os.read(descriptor, 128):
                with open(target, "wb") as stream:
                    stream.write(content[: len(content) // 2] if slowly else content)
                slowly = False


def main() -> None:
    rank = Rank()
    for line in sys.stdin:
        if line.strip() == "exit":
            break
        sys.stdout.write(f"{rank.obey(line.strip())}\n")
        sys.stdout.flush()


main()
