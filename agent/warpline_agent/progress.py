"""Hung or idle: what one training process is at, judged from when it last did what, and from what the operating system says.

A kernel is known only once it has ended, so that a hang shows as silence. Silence alone is no hang: a process may load data,
write a checkpoint, compile, evaluate or be stopped on purpose. From one process alone it is certain only that it waits in a
collective where the kernel of an operation that it enqueued has not ended although kernels are watched. Who is behind is seen
by comparing the ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from warpline_proto.progress_table import (
    BLOCKED,
    ENDED,
    GONE,
    IN_COLLECTIVE,
    KERNELS,
    SILENT,
    STARTING,
    STEPS,
    STOPPED,
    WORKING,
)

SILENT_STEPS: Final = 10.0
SILENT_SECONDS: Final = 30.0
"""A process that did nothing for so many of its usual steps, and for so long, has stopped doing it."""
STARTING_SECONDS: Final = 300.0
"""Before the second step has ended it may take so long: it loads, compiles and connects."""
WORKING_PERCENT: Final = 5.0
"""CPU of one core from which on a process works; one that waits, with the threads that watch over it, takes under 1 %."""
WORKING_BYTES_PER_SECOND: Final = 1_000_000.0
"""Read and written from which on it works with files."""
LOOKED_NS: Final = 4_000_000_000
"""CPU time over less than so long says nothing."""


@dataclass(frozen=True)
class Sight:
    """One look at a process. Times are CLOCK_REALTIME; None is not known, or has never been.

    `steps_told` says whether its steps are told at all; `usual_step_ns` is known from the second step on. `last_kernel_ns` is
    the end of the newest kernel, `captured_from_ns` since when kernels are watched without a break, `enqueued_ns` when the newest
    operation of NCCL was enqueued that other ranks take part in. `os_state` None says that the process is gone, `in_order` that
    it said so before.
    """

    at_ns: int
    os_state: str | None
    in_order: bool = False
    steps_told: bool = False
    step_end_ns: int | None = None
    usual_step_ns: int | None = None
    last_kernel_ns: int | None = None
    captured_from_ns: int | None = None
    enqueued_ns: int | None = None
    cpu_ns: int = 0
    io_bytes: int | None = None
    begun_ns: int | None = None


@dataclass(frozen=True)
class Standing:
    """What the process is at, since when, and why that is said; its CPU and files since the look before, None without one."""

    state: str
    since_ns: int | None
    reason: str
    cpu_percent: float | None = None
    io_bytes_per_second: float | None = None

    @property
    def goes_on(self) -> bool:
        """Whether nothing needs to be asked."""
        return self.state in (STEPS, KERNELS, STARTING) or self.over

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in (ENDED, GONE)


class Watch:
    """One process; `see` it now and then. All that a judgement rests on is told by the process's own files and by the operating
    system, but for CPU and files, which two looks tell: so that an agent that was started anew judges alike."""

    def __init__(self) -> None:
        self._before: Sight | None = None
        self._rates: tuple[float | None, float | None] = (None, None)
        self._blocked_since_ns: int | None = None

    def see(self, sight: Sight) -> Standing:
        """What it is at."""
        self._measure(sight)
        self._blocked_since_ns = (self._blocked_since_ns or sight.at_ns) if sight.os_state == "disk" else None
        state, since_ns, reason = self._judge(sight)
        return Standing(state, since_ns, reason, *self._rates)

    def _measure(self, sight: Sight) -> None:
        before = self._before
        if before is None:
            self._before = sight
            return
        took_ns = sight.at_ns - before.at_ns
        if took_ns < LOOKED_NS:
            return
        cpu = max(sight.cpu_ns - before.cpu_ns, 0) * 100.0 / took_ns
        io = None
        if sight.io_bytes is not None and before.io_bytes is not None:
            io = max(sight.io_bytes - before.io_bytes, 0) * 1e9 / took_ns
        self._rates = cpu, io
        self._before = sight

    def _judge(self, sight: Sight) -> tuple[str, int | None, str]:
        if sight.os_state in (None, "zombie", "dead"):
            return _over(sight)
        if sight.os_state == "stopped":
            return STOPPED, sight.step_end_ns, "it is stopped by a signal, or by a debugger"
        patience_ns = patience(sight)
        step_ns, gpu_ns = _ago(sight, sight.step_end_ns), _ago(sight, _newest(sight.last_kernel_ns, sight.enqueued_ns))
        if step_ns is not None and step_ns < patience_ns:
            return STEPS, sight.step_end_ns, "steps end"
        if gpu_ns is not None and gpu_ns < patience_ns:
            return KERNELS, sight.step_end_ns, _without_steps(sight, step_ns)
        if self._blocked_since_ns is not None and sight.at_ns - self._blocked_since_ns >= LOOKED_NS:
            return (
                BLOCKED,
                self._blocked_since_ns,
                "it cannot be interrupted: it waits in the kernel for a disk, or a driver",
            )
        return self._quiet(sight, step_ns, gpu_ns)

    def _quiet(self, sight: Sight, step_ns: int | None, gpu_ns: int | None) -> tuple[str, int | None, str]:
        """Neither steps nor kernels for long."""
        last_ns = _newest(sight.step_end_ns, sight.last_kernel_ns, sight.enqueued_ns)
        quiet = _silence(step_ns, gpu_ns)
        begun_ns = _ago(sight, sight.begun_ns)
        if sight.usual_step_ns is None and (begun_ns is None or begun_ns < STARTING_SECONDS * 1e9):
            return STARTING, sight.begun_ns, "its second step has not ended yet"
        if _outstanding(sight):
            return IN_COLLECTIVE, sight.enqueued_ns, f"{quiet}; the kernel of what it enqueued last has not ended"
        cpu, io = self._rates
        if cpu is None:
            return SILENT, last_ns, f"{quiet}; how busy the host is, is not known yet"
        host = f"{cpu:.1f} % of a core" + ("" if io is None else f", {io / 1e6:.1f} MB/s of files")
        if cpu >= WORKING_PERCENT or (io or 0.0) >= WORKING_BYTES_PER_SECOND:
            return WORKING, last_ns, f"{quiet}; the host works ({host})"
        return SILENT, last_ns, f"{quiet}; the host sleeps ({host})"


def patience(sight: Sight) -> float:
    """Nanoseconds of silence that say nothing."""
    if sight.usual_step_ns is not None:
        return max(SILENT_STEPS * sight.usual_step_ns, SILENT_SECONDS * 1e9)
    return SILENT_SECONDS * 1e9


def _over(sight: Sight) -> tuple[str, int | None, str]:
    if sight.in_order:
        return ENDED, sight.step_end_ns, "the process has ended in order"
    last_ns = _newest(sight.step_end_ns, sight.last_kernel_ns, sight.enqueued_ns)
    if sight.os_state is not None:
        return GONE, last_ns, "the process is a zombie: it has ended and its parent has not noticed"
    return GONE, last_ns, "the process is gone and did not say that it ends"


def _outstanding(sight: Sight) -> bool:
    """Whether the kernel of the newest operation has surely not ended."""
    enqueued, captured = sight.enqueued_ns, sight.captured_from_ns
    if enqueued is None or captured is None or captured > enqueued:
        return False
    return sight.last_kernel_ns is None or sight.last_kernel_ns < enqueued


def _ago(sight: Sight, time_ns: int | None) -> int | None:
    return None if time_ns is None else max(sight.at_ns - time_ns, 0)


def _newest(*times: int | None) -> int | None:
    return max((each for each in times if each is not None), default=None)


def _without_steps(sight: Sight, step_ns: int | None) -> str:
    if not sight.steps_told or step_ns is None:
        return "kernels or operations go on; no steps are told"
    return f"no step has ended for {step_ns / 1e9:.0f} s, but kernels or operations go on"


def _silence(step_ns: int | None, gpu_ns: int | None) -> str:
    steps = "" if step_ns is None else f"no step has ended for {step_ns / 1e9:.0f} s"
    gpu = "" if gpu_ns is None else f"no kernel and no operation for {gpu_ns / 1e9:.0f} s"
    return ", ".join(filter(None, (steps, gpu))) or "neither a step nor a kernel is known"
