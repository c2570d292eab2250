"""Times the steps of this process from the marks that others set, and hands each to the ring when it ends.

Marks count from one thread, the one in which steps end; those of others are passed over. Whatever goes wrong ends the recording
and is told in the file, and nothing else: training goes on as if the hook were not there.
"""

from __future__ import annotations

import atexit
import gc
import os
import time
from _thread import get_ident
from collections.abc import Callable
from resource import RUSAGE_THREAD, getrusage
from typing import Any, Concatenate, Final, ParamSpec

from . import layout
from .boundary import Boundary
from .environment import GROUP, directory
from .identity import identity
from .library import Loaded, loaded
from .step_ring import StepRing, create

STRANGERS_MAX: Final = 32
"""Steps in a row that end in another thread than before until that one is the thread that counts."""
PHASES_PER_STEP_MAX: Final = 256
"""Phases with names of the user's that one step may have; more are refused and counted."""
IDENTITY_STEPS: Final = 1024
"""Who this process is, is asked at the 1st, 2nd, 4th, ... step, and every so many."""
UNKNOWN: Final = layout.UNKNOWN
Parameters = ParamSpec("Parameters")


def _quietly(
    mark: Callable[Concatenate[Recorder, Parameters], None],
) -> Callable[Concatenate[Recorder, Parameters], None]:
    """The one place that catches everything: no error of the hook may reach the training program."""

    def quiet(self: Recorder, /, *given: Parameters.args, **named: Parameters.kwargs) -> None:
        if self.alive:
            try:
                mark(self, *given, **named)
            except Exception as error:
                self.give_up(f"{type(error).__name__}: {error}")

    return quiet


def _gave_way() -> int:
    """How often the calling thread has left the CPU to wait for something."""
    return getrusage(RUSAGE_THREAD).ru_nvcsw


class Recorder:
    """One process; a forked child gets one of its own. The file is made when the first step ends, never before."""

    def __init__(self) -> None:
        self.alive = True
        self.status = "on: no step has ended yet"
        self._ring: StepRing | None = None
        self._library: Loaded | None = None
        self._owner = 0
        self._strangers = 0
        self._boundary: Boundary | None = Boundary()
        self._number = self._steps = 0
        self._on_cpu = self._next_on_cpu = False
        self._began = self._cpu_began = self._cpu_from = self._gave_way = self._collection_from = 0
        self._backward_depth = 0
        self._begin(0, 0)

    def _begin(self, now: int, cpu: int) -> None:
        """A step begins, of which nothing is known yet."""
        self._began = self._from = self._ready = now
        self._cpu_began = cpu
        self._data = self._forward = self._backward = self._optimizer = UNKNOWN
        self._data_at = self._forward_at = self._backward_at = self._optimizer_at = UNKNOWN
        self._data_cpu = self._collecting = self._waited = self._phases = 0
        self._on_cpu = self._next_on_cpu

    @_quietly
    def data_enter(self) -> None:
        """The data loader is asked for a batch."""
        if get_ident() == self._owner:
            if self._on_cpu:
                self._cpu_from, self._gave_way = time.thread_time_ns(), _gave_way()
            self._from = time.monotonic_ns()

    @_quietly
    def data_leave(self) -> None:
        """It has given one. On the CPU, what others ran meanwhile is no waiting where the thread never gave way by itself."""
        if get_ident() != self._owner:
            return
        self._ready = now = time.monotonic_ns()
        waited = now - self._from
        if self._on_cpu:
            computed = time.thread_time_ns() - self._cpu_from
            self._data_cpu += computed
            if _gave_way() == self._gave_way:
                waited = min(waited, computed)
        if self._data < 0:
            self._data, self._data_at = 0, self._from - self._began
        self._data += waited

    @_quietly
    def backward_enter(self) -> None:
        """A backward pass begins: what was since the batch came, or since the last such mark, was the forward pass."""
        if get_ident() != self._owner:
            return
        self._backward_depth += 1
        if self._backward_depth > 1:
            return
        self._from = now = time.monotonic_ns()
        if self._on_cpu:
            self._cpu_from = time.thread_time_ns()
        if self._forward < 0:
            self._forward, self._forward_at = 0, self._ready - self._began
        self._forward += now - self._ready

    @_quietly
    def backward_leave(self) -> None:
        """It is over; those within another one count with it."""
        if get_ident() != self._owner or not self._backward_depth:
            return
        self._backward_depth -= 1
        if self._backward_depth:
            return
        self._ready = now = time.monotonic_ns()
        if self._backward < 0:
            self._backward, self._backward_at = 0, self._from - self._began
        self._backward += now - self._from
        if self._on_cpu:
            computed = time.thread_time_ns() - self._cpu_from
            self._waited += max(now - self._from - computed, 0)  # the two clocks are not read at once

    @_quietly
    def optimizer_enter(self) -> None:
        """An optimizer begins to change the parameters."""
        if get_ident() == self._owner:
            self._from = time.monotonic_ns()

    @_quietly
    def optimizer_leave(self, optimizer: int, on_cpu: Callable[[], bool]) -> None:
        """It has; `on_cpu` tells whether the model is computed on the CPU."""
        if not self._steps_here():
            return
        self._ready = now = time.monotonic_ns()
        if self._optimizer < 0:
            self._optimizer, self._optimizer_at = 0, self._from - self._began
        self._optimizer += now - self._from
        if self._looks():
            self._next_on_cpu = on_cpu()
        if self._boundary is not None and self._boundary.ends_step(optimizer):
            self._end_step(now, self._number)

    @_quietly
    def told_step(self, number: int | None) -> None:
        """The program itself says that a step has ended."""
        if self._steps_here():
            self._boundary = None
            self._end_step(time.monotonic_ns(), self._number if number is None else int(number))

    def _steps_here(self) -> bool:
        """Whether steps end in the calling thread: the first in which one does, until they have long ended in another."""
        me = get_ident()
        self._strangers = 0 if me == self._owner else self._strangers + 1
        if not self._owner or self._strangers > STRANGERS_MAX:
            self._owner, self._strangers, self._backward_depth = me, 0, 0
            self._begin(0, 0)
        return me == self._owner

    @_quietly
    def phase(self, name: str, kind: str, began: int, ended: int) -> None:
        """A phase that the program names, from and to on the monotonic clock; from any thread."""
        ring = self._ring or self._open()
        self._phases += 1
        if self._phases > PHASES_PER_STEP_MAX:
            ring.refuse()
        else:
            start_ns = time.time_ns() - (time.monotonic_ns() - began)
            ring.phase(str(name), kind, self._number, start_ns, ended - began)

    def give_up(self, reason: str) -> None:
        """End the recording for good, and say why, in the file too where there can be one."""
        self.alive = False
        try:
            (self._ring or self._open()).end(layout.GIVEN_UP, reason)
        except OSError:
            self._ring = None
        self.status = f"given up: {reason}"

    def _looks(self) -> bool:
        """Whether it is time to look again who this process is and where it computes."""
        return self._steps & (self._steps - 1) == 0 or self._steps % IDENTITY_STEPS == 0

    def _end_step(self, now: int, number: int) -> None:
        cpu = time.thread_time_ns() if self._on_cpu or self._next_on_cpu else 0
        ring = self._ring or self._open()
        if self._looks():
            ring.identify(identity(os.environ))
            self._library = loaded()
        if self._began:  # else it is the first one, of which nobody knows when it began
            start_ns = time.time_ns() - (time.monotonic_ns() - self._began)
            ring.step(number, layout.ON_CPU if self._on_cpu else 0, (start_ns, now - self._began, *self._times(cpu)))
        self._number = number + 1
        self._steps += 1
        if self._library is not None:
            self._library.step(self._number)
        self._begin(now, cpu)

    def _times(self, cpu: int) -> tuple[int, ...]:
        """TIMES of the layout from the third on, and STARTS."""
        computed = max(cpu - self._cpu_began - self._data_cpu, 0)
        on_cpu = (computed, self._waited) if self._on_cpu else (UNKNOWN, UNKNOWN)
        return (
            *(self._data, self._forward, self._backward, self._optimizer, self._collecting),
            *on_cpu,
            *(self._data_at, self._forward_at, self._backward_at, self._optimizer_at),
        )

    def _open(self) -> StepRing:
        self._ring = ring = create(directory(os.environ), os.environ.get(GROUP), time.time_ns())
        self.status = f"recorded in {ring.path}"
        gc.callbacks.append(self._collection)
        atexit.register(self._exit)
        return ring

    def _collection(self, moment: str, about: dict[str, Any]) -> None:
        """Called by the garbage collector: time in which the program stands still."""
        if get_ident() != self._owner or not self.alive:
            return
        now = time.monotonic_ns()
        if moment == "start":
            self._collection_from = now
        elif self._collection_from:
            self._collecting += now - self._collection_from

    @_quietly
    def _exit(self) -> None:
        self.alive = False
        if self._ring is not None:
            self._ring.end(layout.ENDED)
        library = self._library or loaded()
        if library is not None:
            library.end()

    def leave_to_parent(self) -> None:
        """This process is a forked child: the file and the marks so far are its parent's."""
        self.alive = False
        if self._collection in gc.callbacks:
            gc.callbacks.remove(self._collection)
        atexit.unregister(self._exit)
