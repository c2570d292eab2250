"""The NVML process: reads the plan on standard input, then writes one line of JSON for each thing it learns, until told to end.

NVML may block for ever when a GPU falls off the bus, so it lives here, where it can be killed. Messages, by `kind`:
`verdict` (no GPU to be read, and why), `node` (driver and number of GPUs), `gpu` (identity), `at` (the GPU about to be read,
so that a hang has a name), `sample`, `processes` (who is resident, in `pieces`),
`part` (a counter without a value, once a change), `gone` and `event`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from ctypes import c_void_p, cast
from typing import Any, Final

from ..parsers.bus_id import normal_bus_id
from .device import GONE, NO_PERMISSION, NOT_OFFERED, Device, Gone, Visit
from .plan import Plan, plan_from_line

MESSAGE_BYTES_MAX: Final = 4096
"""PIPE_BUF: up to here a write to a pipe is whole or does not happen."""
PROCESSES_MAX: Final = 1024
"""Processes of one GPU that are told; MPS takes 60 of them, time-slicing has no limit."""
PROCESSES_OF_MESSAGE: Final = 100
"""Of 36 bytes each at most."""
EVENT_WAIT_MS: Final = 2000
GONE_ROUNDS: Final = 30
"""A lost GPU is asked again once in so many rounds."""
EVENTS: Final = {
    0x8: "xid",
    0x1000: "poison_error",
    0x2000: "poison_error",
    0x4000: "gpu_unavailable",
    0x8000: "recovery_action",
}
"""NVML event types that speak of a fault."""
NO_VERDICT: Final = {
    9: "the NVIDIA driver is not loaded",
    12: "libnvidia-ml.so.1 is not there: no NVIDIA driver on this machine",
    18: "the NVIDIA driver and its library are of different versions: reload the driver or restart the machine",
}

Message = dict[str, Any]


class Mouth:
    """Writes messages to a pipe without ever waiting; samples that do not fit are counted and told with the next one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._dropped = 0
        os.set_blocking(descriptor, False)

    def __call__(self, message: Message) -> None:
        with self._lock:
            if message["kind"] == "sample":
                message["dropped"] = self._dropped
            line = json.dumps(message, allow_nan=False).encode() + b"\n"
            written = len(line) <= MESSAGE_BYTES_MAX and self._write(line)
            if message["kind"] == "sample":
                self._dropped = 0 if written else self._dropped + 1

    def _write(self, line: bytes) -> bool:
        try:
            return os.write(self._descriptor, line) == len(line)
        except BlockingIOError:
            return False
        except BrokenPipeError:
            os._exit(0)


class Node:
    """All GPUs of this machine, each visited once a round, spread evenly over it."""

    def __init__(self, nvml: Any, plan: Plan, say: Callable[[Message], None]) -> None:
        self._nvml = nvml
        self._plan = plan
        self._say = say
        self._devices: dict[int, Device] = {}
        self._gone: dict[int, tuple[int, int]] = {}
        self._parts: dict[tuple[int, str], int] = {}
        self._handles: dict[int, Any] = {}
        self._round = 0
        self.indices: list[int] = []

    def open(self) -> str | None:
        """Find the GPUs; the reason if there is nothing to read."""
        count = self._nvml.nvmlDeviceGetCount()
        self.indices = [index for index in range(count) if index not in self._plan.avoid]
        self._say({"kind": "node", "driver": self._nvml.nvmlSystemGetDriverVersion(), "gpus": count})
        for index in tuple(self.indices):
            self._find(index)
        return None if count else "the NVIDIA driver sees no GPU"

    def visit(self, index: int, now: float) -> None:
        """Read one GPU at `now` (monotonic seconds)."""
        self._say({"kind": "at", "gpu": index})
        if index in self._gone:
            code, since = self._gone[index]
            if (self._round - since) % GONE_ROUNDS == GONE_ROUNDS - 1:
                self._find(index)
            if index in self._gone:
                self._say({"kind": "gone", "gpu": index, "code": code, "state": GONE[code], "again": True})
                return
        begin = time.perf_counter_ns()
        try:
            visit = self._devices[index].visit(now)
        except Gone as gone:
            self._lose(index, gone.code)
            return
        spent = time.perf_counter_ns() - begin
        sample: Message = {"time_ns": time.time_ns(), "values": visit.values, "spent_ns": spent}
        self._say({"kind": "sample", "gpu": index, **sample})
        if visit.processes is not None:
            self._tell_processes(index, sample["time_ns"], visit.processes)
        self._tell_parts(index, visit)

    def end_round(self) -> None:
        """Count a round."""
        self._round += 1

    def watch(self) -> None:
        """Wait for events for ever; for a thread of its own."""
        watched = self._nvml.nvmlEventSetCreate()
        registered = [index for index, handle in self._handles.items() if self._register(handle, watched)]
        while registered:
            try:
                event = self._nvml.nvmlEventSetWait(watched, EVENT_WAIT_MS)
            except self._nvml.NVMLError as error:
                if error.value != self._nvml.NVML_ERROR_TIMEOUT:
                    threading.Event().wait(EVENT_WAIT_MS / 1000)
                continue
            self._say(self._event(event))

    def _event(self, event: Any) -> Message:
        at = cast(event.device, c_void_p).value
        index = next((i for i, handle in self._handles.items() if cast(handle, c_void_p).value == at), None)
        state = EVENTS.get(int(event.eventType), "gpu_event")
        code = int(event.eventData)
        return {"kind": "event", "gpu": index, "time_ns": time.time_ns(), "state": state, "code": code}

    def _register(self, handle: Any, watched: Any) -> bool:
        try:
            wanted = sum(EVENTS) & self._nvml.nvmlDeviceGetSupportedEventTypes(handle)
            if wanted:
                self._nvml.nvmlDeviceRegisterEvents(handle, wanted, watched)
        except self._nvml.NVMLError:
            return False
        return bool(wanted)

    def _find(self, index: int) -> None:
        """Get the handle and the identity of a GPU, or note that it is gone."""
        self._say({"kind": "at", "gpu": index})
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            identity = {
                "uuid": self._nvml.nvmlDeviceGetUUID(handle),
                "name": self._nvml.nvmlDeviceGetName(handle),
                "bus_id": normal_bus_id(self._nvml.nvmlDeviceGetPciInfo(handle).busId),
            }
        except self._nvml.NVMLError as error:
            if error.value in GONE:
                self._lose(index, error.value)
            else:
                self.indices = [each for each in self.indices if each != index]
                self._tell(index, "", error.value)
            return
        self._gone.pop(index, None)
        self._handles[index] = handle
        self._devices[index] = Device(self._nvml, handle, self._plan.counters, self._plan.round_seconds)
        self._say({"kind": "gpu", "gpu": index, **identity})

    def _lose(self, index: int, code: int) -> None:
        if index not in self._gone:
            self._gone[index] = (code, self._round)
            told = {"time_ns": time.time_ns(), "state": GONE[code], "again": False}
            self._say({"kind": "gone", "gpu": index, "code": code, **told})

    def _tell_processes(self, index: int, time_ns: int, processes: list[tuple[int, int | None]]) -> None:
        """Who is resident, as many to a message as one holds; one that does not fit into the pipe makes all of them unknown."""
        told = processes[:PROCESSES_MAX]
        pieces = [told[at : at + PROCESSES_OF_MESSAGE] for at in range(0, len(told), PROCESSES_OF_MESSAGE)] or [[]]
        common = {"kind": "processes", "gpu": index, "time_ns": time_ns, "pieces": len(pieces), "all": len(processes)}
        for piece, listed in enumerate(pieces):
            self._say({**common, "piece": piece, "processes": listed})

    def _tell_parts(self, index: int, visit: Visit) -> None:
        """Say which counters have no value, once for each change."""
        for column in [name for at, name in self._parts if at == index and name in visit.values]:
            del self._parts[index, column]
            self._say({"kind": "part", "gpu": index, "column": column, "state": "fresh", "reason": ""})
        for column, code in visit.failed.items():
            if self._parts.get((index, column)) != code:
                self._parts[index, column] = code
                self._tell(index, column, code)

    def _tell(self, index: int, column: str, code: int) -> None:
        state = "denied" if code == NO_PERMISSION else "unsupported" if code in NOT_OFFERED else "stale"
        reason = f"NVML: {self._nvml.NVMLError(code)}"
        self._say({"kind": "part", "gpu": index, "column": column, "state": state, "reason": reason})


def rounds(node: Node, round_seconds: float, stop: threading.Event) -> None:
    """Visit the GPUs of the node in turn until `stop`; sleeps in between."""
    start = time.monotonic()
    while not stop.is_set():
        for position, index in enumerate(tuple(node.indices)):
            slot = start + round_seconds * position / max(1, len(node.indices))
            stop.wait(max(0.0, slot - time.monotonic()))
            node.visit(index, time.monotonic())
        node.end_round()
        start = max(start + round_seconds, time.monotonic() - round_seconds)
        if not node.indices:
            stop.wait(round_seconds)


def connect(say: Callable[[Message], None]) -> Any | None:
    """pynvml with NVML initialised; None after a verdict."""
    try:
        import pynvml
    except ImportError:
        say({"kind": "verdict", "state": "unsupported", "reason": "the library nvidia-ml-py is not installed"})
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        state = "denied" if error.value == NO_PERMISSION else "unsupported"
        reason = NO_VERDICT.get(error.value, f"NVML does not start: {error}")
        say({"kind": "verdict", "state": state, "reason": reason})
        return None
    return pynvml


def main() -> None:
    """Run until standard input ends."""
    plan = plan_from_line(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    say = Mouth(sys.stdout.fileno())
    nvml = connect(say)
    if nvml is None:
        return
    node = Node(nvml, plan, say)
    reason = node.open()
    if reason:
        say({"kind": "verdict", "state": "unsupported", "reason": reason})
        return
    threading.Thread(target=node.watch, daemon=True).start()
    rounds(node, plan.round_seconds, threading.Event())


def _end_with_parent() -> None:
    """The parent's end of the pipe closes when it ends, however it ends; a call that hangs does not keep this from ending."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
