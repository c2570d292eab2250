"""The training process of these measurements: one command a line as JSON, one answer a line.

Started by `gpu_job.py` with the Python that has torch. In a dry run (WARPLINE_GPU_DRY names a fake libcupti) nothing of CUDA is
used: the fake records kernels, and where torch is at hand its models run on the CPU beside.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from itertools import pairwise
from typing import Any, Final, Protocol

DRY: Final = "WARPLINE_GPU_DRY"
FAILURES: Final = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, OSError, ImportError)
"""What torch raises where it cannot do something: mostly RuntimeError."""
if os.environ.get("WARPLINE_HOOK") == "1":
    from warpline_hook.start import activate

    activate()

try:
    import torch
except ImportError:
    torch = None
from gpu_workloads import Fake, Torch, Workload  # noqa: E402  # after the hook, as its .pth has it


class Machine(Protocol):
    """Where the workloads run."""

    def start(self) -> dict[str, Any]:
        """Initialise CUDA, which loads the injection; what there is."""

    def workload(self, name: str) -> Workload:
        """One of the workloads by its name, made anew."""

    def profile(self, work: Workload, steps: int) -> int:
        """Steps under torch.profiler; how many kernels its user gets."""

    def used_bytes(self) -> int:
        """GPU memory in use by everybody."""


class Gpu:
    """The real one."""

    def start(self) -> dict[str, Any]:
        if torch is None:
            return {"missing": f"{sys.executable} has no torch"}
        if not torch.cuda.is_available():
            return {"missing": "torch finds no CUDA device"}
        torch.cuda.init()
        torch.zeros(1, device="cuda")
        found = torch.cuda.get_device_properties(0)
        nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else "none"
        told = {"gpu": found.name, "torch": torch.__version__, "cuda": torch.version.cuda, "nccl": nccl}
        return told | {"gpus": torch.cuda.device_count(), "python": sys.version.split()[0]}

    def workload(self, name: str) -> Workload:
        return Torch(torch, name, "cuda")

    def profile(self, work: Workload, steps: int) -> int:
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            for _ in range(steps):
                work.step()
            work.finish()
        on_gpu = torch.autograd.DeviceType.CUDA
        return sum(each.device_type == on_gpu for each in profile.events())

    def used_bytes(self) -> int:
        free, total = torch.cuda.mem_get_info()
        return int(total - free)


class Pretended:
    """The fake libcupti, and the injection loaded as the driver loads it."""

    def __init__(self) -> None:
        self._cupti = ctypes.CDLL(os.environ[DRY], mode=ctypes.RTLD_GLOBAL)
        self._injected: ctypes.CDLL | None = None

    def start(self) -> dict[str, Any]:
        path = os.environ.get("CUDA_INJECTION64_PATH")
        if path:
            self._injected = ctypes.CDLL(path)
            self._injected.InitializeInjection()
        return {"gpu": "none: a dry run", "torch": torch.__version__ if torch else "none", "gpus": 1}

    def workload(self, name: str) -> Workload:
        return Fake(self._cupti, name, Torch(torch, name, "cpu") if torch else None)

    def profile(self, work: Workload, steps: int) -> int:
        if self._injected:
            self._injected.warpline_profiler(ctypes.c_int(1))
        self._cupti.fake_cupti(b"steal 0 x")
        begun = time.monotonic()
        if torch:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
                work.step()
        for _ in range(steps):
            work.step()
        if self._injected:
            self._injected.warpline_profiler(ctypes.c_int(0))
        return steps if time.monotonic() > begun else 0

    def used_bytes(self) -> int:
        return 0


class Worker:
    """Obeys."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._made: dict[str, Workload] = {}

    def obey(self, told: dict[str, Any]) -> dict[str, Any]:
        """One command."""
        do = told["do"]
        if do == "start":
            return self._machine.start()
        if do == "make":
            work = self._made[told["workload"]] = self._machine.workload(told["workload"])
            self._run(work, told.get("warm", 3))
            return {"used_bytes": self._machine.used_bytes()}
        if do == "window":
            return self._window(
                self._made[told["workload"]], told["steps"], told.get("warm", 2), told.get("each", False)
            )
        if do == "profile":
            return {"kernels": self._machine.profile(self._made[told["workload"]], told["steps"])}
        if do == "nccl":
            from gpu_nccl import operations

            return operations(torch, told)
        return {"used_bytes": self._machine.used_bytes()}

    def _run(self, work: Workload, steps: int) -> None:
        for _ in range(steps):
            work.step()
        work.finish()

    def _window(self, work: Workload, steps: int, warm: int, each: bool) -> dict[str, Any]:
        """Nanoseconds from the first to the end of the last step; with `each` every step waits for the GPU and is told."""
        self._run(work, warm)
        ends = [time.perf_counter_ns()]
        for _ in range(steps):
            work.step()
            if each:
                work.finish()
                ends.append(time.perf_counter_ns())
        work.finish()
        took = time.perf_counter_ns() - ends[0]
        return {"ns": took, "each_ns": [after - before for before, after in pairwise(ends)]}


def main() -> None:
    """Until the end of standard input."""
    worker = Worker(Pretended() if os.environ.get(DRY) else Gpu())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        try:
            said = worker.obey(json.loads(line))
        except FAILURES as error:  # told to the other side, which knows what was asked
            said = {"missing": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(said) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
