"""The process that sets clocks: reads one line of JSON for each thing to do, answers each with one, until its input ends.

Calls that set clocks may hang, so they are made here, a thread for each GPU, where they can be killed. It holds NVML open, so
that the driver stays loaded while clocks are low. `look` asks for the lowest clocks of a GPU, `lower` sets, `restore` unlocks.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from warpline_proto.errors import SourceError

from ..nvml.child import Mouth, connect
from ..nvml.device import NOT_OFFERED
from .record import LOW, Record, gpu_lock

SM: Final = 1
MEMORY: Final = 2
BUSY: Final = -1
"""Code of an answer: an earlier call on this GPU has not come back, or the files of the guard cannot be used."""
TAKEN_BACK: Final = -2
"""Code of an answer: the record no longer wants this GPU lowered."""
Answer = dict[str, Any]


def work(nvml: Any, directory: Path, wait_seconds: float, order: Mapping[str, Any]) -> Answer:
    """Do what one line asks for; the answer holds `code` (0: done, else NVML's or one of these), `touched` and `call_ns`."""
    answer: Answer = {
        "kind": "answer",
        "number": order["number"],
        "code": 0,
        "reason": "",
        "touched": False,
        "call_ns": 0,
    }
    lock = gpu_lock(directory, order["gpu_uuid"])
    if order["do"] != "look" and not lock.take(str(os.getpid()), wait_seconds):
        return {**answer, "code": BUSY, "reason": "an earlier call on this GPU has not come back"}
    begin = time.perf_counter_ns()
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(order["gpu_uuid"])
        {"look": _look, "lower": _lower, "restore": _restore}[order["do"]](nvml, handle, directory, order, answer)
    except nvml.NVMLError as error:
        answer["code"], answer["reason"] = int(error.value), f"NVML: {error}"
    finally:
        answer["call_ns"] = time.perf_counter_ns() - begin
        lock.give_back()
    return answer


def _look(nvml: Any, handle: Any, directory: Path, order: Mapping[str, Any], answer: Answer) -> None:
    """The lowest clocks: of the SMs at the memory clock that they will have, of the memory if that is to be lowered."""
    memory = nvml.nvmlDeviceGetSupportedMemoryClocks(handle)
    lowest = min(memory) if order["memory"] and len(memory) > 1 else None
    sm = nvml.nvmlDeviceGetSupportedGraphicsClocks(handle, max(memory) if lowest is None else lowest)
    answer.update(sm_clock_mhz=min(sm), memory_clock_mhz=lowest, usual_mhz=_usual(nvml, handle))


def _usual(nvml: Any, handle: Any) -> int | None:
    """The SM clock that it has when nobody locks it: its highest, or its applications clock where that is lower."""
    known = []
    for call in (nvml.nvmlDeviceGetMaxClockInfo, nvml.nvmlDeviceGetApplicationsClock):
        try:
            known.append(int(call(handle, SM)))
        except nvml.NVMLError as error:
            if int(error.value) not in NOT_OFFERED:
                raise
    return min(known, default=None)


def _lower(nvml: Any, handle: Any, directory: Path, order: Mapping[str, Any], answer: Answer) -> None:
    record = Record(directory)
    record.load()
    entry = record.entries.get(order["gpu_uuid"])
    if entry is None or entry.phase != LOW:
        answer["code"], answer["reason"] = TAKEN_BACK, "it is no longer to be lowered"
        return
    nvml.nvmlDeviceSetGpuLockedClocks(handle, entry.sm_clock_mhz, entry.sm_clock_mhz)
    answer["touched"] = True
    if entry.memory_clock_mhz is not None:
        nvml.nvmlDeviceSetMemoryLockedClocks(handle, entry.memory_clock_mhz, entry.memory_clock_mhz)


def _restore(nvml: Any, handle: Any, directory: Path, order: Mapping[str, Any], answer: Answer) -> None:
    """Unlock the SMs, and the memory where it may be locked, even if the first fails; the first failure is the answer's."""
    failed = []
    try:
        nvml.nvmlDeviceResetGpuLockedClocks(handle)
    except nvml.NVMLError as error:
        failed.append(error)
    try:
        if order["memory"]:
            nvml.nvmlDeviceResetMemoryLockedClocks(handle)
    except nvml.NVMLError as error:
        if int(error.value) not in NOT_OFFERED:  # what cannot be unlocked was never locked
            failed.append(error)
    if failed:
        raise failed[0]


def main() -> None:
    """Work until standard input ends; the rest of an end (signals for a whole group) is left to whoever holds the other end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    directory, wait_seconds = Path(sys.argv[1]), float(sys.argv[2])
    say = Mouth(sys.stdout.fileno())
    nvml = connect(say)
    if nvml is None:
        return
    say({"kind": "ready", "gpus": _uuids(nvml)})
    for line in sys.stdin.buffer:
        order = json.loads(line)
        threading.Thread(target=_answer, args=(nvml, directory, wait_seconds, order, say), daemon=True).start()
    os._exit(0)


def _uuids(nvml: Any) -> list[str]:
    found = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            found.append(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index)))
        except nvml.NVMLError as error:
            print(f"GPU {index}: {error}", file=sys.stderr)  # noqa: T201  # a child's complaint
    return found


def _answer(
    nvml: Any, directory: Path, wait_seconds: float, order: Mapping[str, Any], say: Callable[[Answer], None]
) -> None:
    try:
        say(work(nvml, directory, wait_seconds, order))
    except (OSError, SourceError, ValueError) as error:
        say(
            {
                "kind": "answer",
                "number": order["number"],
                "code": BUSY,
                "reason": str(error),
                "touched": False,
                "call_ns": 0,
            }
        )


if __name__ == "__main__":
    main()
