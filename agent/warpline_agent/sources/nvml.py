"""NVIDIA GPUs through NVML: power, energy, clocks, utilisation, memory, links, ECC, Xid events, and GPM where offered.

NVML may block for ever when a GPU falls off the bus. So one child process makes the calls (`warpline_agent.nvml.child`); this
side never waits for it, says "driver unresponsive" after `soft_seconds` of silence and kills it after `hard_seconds`. The GPU
that hung is left out of the next child for a while. A child that does not die is left, and no second one is started on it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.errors import Denied, SourceError, Unsupported

from ..child import Child
from ..nvml.messages import Inbox
from ..nvml.plan import ALL_LINKS, Plan, call, counter, field, gpm
from ..source import Health, Rows

MEBIBYTE: Final = 2**20
POWER: Final = (
    field(186, scale=1e-3, power_method="instant"),
    field(185, scale=1e-3, power_method="average"),
    call("nvmlDeviceGetPowerUsage", scale=1e-3, power_method="unstated"),
)
REASONS: Final = (
    call("nvmlDeviceGetCurrentClocksEventReasons"),
    call("nvmlDeviceGetCurrentClocksThrottleReasons"),
)
PROCESSES: Final = (
    call("nvmlDeviceGetComputeRunningProcesses", part="count"),
    call("nvmlDeviceGetComputeRunningProcesses_v2", part="count"),
)
COUNTERS: Final = (
    counter("energy_joules", 1, field(83, scale=1e-3), call("nvmlDeviceGetTotalEnergyConsumption", scale=1e-3)),
    counter("power_watts", 1, *POWER),
    counter("sm_clock_mhz", 1, call("nvmlDeviceGetClockInfo", 1)),
    counter("memory_clock_mhz", 1, call("nvmlDeviceGetClockInfo", 2)),
    counter("clock_event_reasons", 1, *REASONS),
    counter("power_cap_ns", 1, field(74)),
    counter("sync_boost_ns", 1, field(76)),
    counter("thermal_ns", 1, field(269)),
    counter("hardware_thermal_ns", 1, field(270)),
    counter("power_brake_ns", 1, field(271)),
    counter("gpu_utilization_percent", 1, call("nvmlDeviceGetUtilizationRates", part="gpu")),
    counter("memory_utilization_percent", 1, call("nvmlDeviceGetUtilizationRates", part="memory")),
    counter("temperature_celsius", 5, call("nvmlDeviceGetTemperature", 0)),
    counter("memory_temperature_celsius", 5, field(82)),
    counter("memory_used_bytes", 5, call("nvmlDeviceGetMemoryInfo", part="used")),
    counter("memory_total_bytes", 5, call("nvmlDeviceGetMemoryInfo", part="total")),
    counter("power_limit_watts", 5, call("nvmlDeviceGetEnforcedPowerLimit", scale=1e-3)),
    counter("performance_state", 5, call("nvmlDeviceGetPerformanceState")),
    counter("pcie_tx_bytes", 5, field(197)),
    counter("pcie_rx_bytes", 5, field(198)),
    counter("pcie_replays", 5, field(94)),
    counter("pcie:recoveries", 5, field(169)),
    counter("pcie:correctable_errors", 5, field(173)),
    counter("pcie:naks_received", 5, field(174)),
    counter("pcie:receiver_errors", 5, field(175)),
    counter("pcie:bad_tlps", 5, field(176)),
    counter("pcie:naks_sent", 5, field(177)),
    counter("pcie:bad_dllps", 5, field(178)),
    counter("pcie:non_fatal_errors", 5, field(179)),
    counter("pcie:fatal_errors", 5, field(180)),
    counter("pcie:unsupported_requests", 5, field(181)),
    counter("pcie:lcrc_errors", 5, field(182)),
    counter("pcie:lane_errors", 5, field(183)),
    counter("nvlink_tx_bytes", 5, field(138, scope=ALL_LINKS, scale=1024), field(202, scope=ALL_LINKS)),
    counter("nvlink_rx_bytes", 5, field(139, scope=ALL_LINKS, scale=1024), field(204, scope=ALL_LINKS)),
    counter("nvlink_errors", 5, field(38, 45, 52, 59), field(208, 215)),
    counter("sm_active_percent", 5, gpm(2)),
    counter("tensor_active_percent", 5, gpm(5)),
    counter("dram_active_percent", 5, gpm(10)),
    counter("fp64_active_percent", 5, gpm(11)),
    counter("fp32_active_percent", 5, gpm(12)),
    counter("fp16_active_percent", 5, gpm(13)),
    counter("pcie_tx_bytes_per_second", 5, gpm(20, MEBIBYTE)),
    counter("pcie_rx_bytes_per_second", 5, gpm(21, MEBIBYTE)),
    counter("nvlink_rx_bytes_per_second", 5, gpm(60, MEBIBYTE)),
    counter("nvlink_tx_bytes_per_second", 5, gpm(61, MEBIBYTE)),
    counter("resident_processes", 30, *PROCESSES),
    counter("fan_percent", 60, call("nvmlDeviceGetFanSpeed")),
    counter("sm_clock_max_mhz", 60, call("nvmlDeviceGetMaxClockInfo", 1)),
    counter("pcie_generation", 60, call("nvmlDeviceGetCurrPcieLinkGeneration")),
    counter("pcie_width", 60, call("nvmlDeviceGetCurrPcieLinkWidth")),
    counter("ecc_corrected", 60, call("nvmlDeviceGetTotalEccErrors", 0, 0)),
    counter("ecc_uncorrected", 60, call("nvmlDeviceGetTotalEccErrors", 1, 0)),
    counter("remapped_rows", 60, field(142, 143)),
)
"""Every counter: column, seconds between readings, and the ways to get it, best first. In the seconds between it is NULL.

`nvmlDeviceGetPcieThroughput` is not among them: it blocks 20 ms for each direction.
"""

RESTART_SECONDS_MAX: Final = 60.0
AVOID_SECONDS: Final = 300.0
"""A GPU on which a call hung is left out this long; twice as long each time it happens again, up to AVOID_SECONDS_MAX."""
AVOID_SECONDS_MAX: Final = 3600.0
DRIVER: Final = "driver"
"""What health calls the driver and the process that speaks to it."""
COMMAND: Final = (sys.executable, "-m", "warpline_agent.nvml.child")


@dataclass(frozen=True)
class NvmlConfig:
    """Settings. `library_directory` is searched for libnvidia-ml.so.1 before the system's own places."""

    period_seconds: float = 1.0
    library_directory: str = ""
    open_seconds: float = 3.0
    soft_seconds: float = 3.0
    hard_seconds: float = 10.0
    restart_seconds: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.soft_seconds < self.hard_seconds:
            raise ValueError("soft_seconds must lie between 0 and hard_seconds")
        if self.period_seconds <= 0:
            raise ValueError("period_seconds must be above 0")


DEFAULTS: Final = NvmlConfig()


class Nvml:
    """The parent's side: keeps one child, listens without waiting, and judges its silence by `clock` (monotonic seconds)."""

    name = "nvml"
    Config = NvmlConfig

    def __init__(
        self,
        config: NvmlConfig = DEFAULTS,
        clock: Callable[[], float] = time.monotonic,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.period_seconds = config.period_seconds
        self._config = config
        self._clock = clock
        self._command = command
        self._child: Child | None = None
        self._inbox = Inbox()
        self._heard = 0.0
        self._killed = False
        self._start_at = 0.0
        self._pause = config.restart_seconds
        self._avoid: dict[int, tuple[float, float]] = {}
        self._left_out: tuple[int, ...] = ()
        self._trouble: Health | None = None

    @property
    def child_pid(self) -> int | None:
        """Process id of the child, where there is one."""
        return self._child.pid if self._child else None

    def open(self) -> None:
        """Start the child and give it `open_seconds` to say whether there is anything to read."""
        self.close()
        if self._child is None:
            self._start()
        deadline = time.monotonic() + self._config.open_seconds
        while self._child and not self._inbox.settled and (left := deadline - time.monotonic()) > 0:
            self._child.wait(left)
            ended = self._child.exit_code is not None
            self._listen()
            if ended:
                break
        if self._inbox.verdict:
            self.close()
            raise _no(*self._inbox.verdict)

    def read(self) -> Iterable[Rows]:
        """What the child has said since the last time; returns at once. Unsupported or Denied if NVML does not work any more."""
        if self._child is None and self._clock() >= self._start_at:
            self._start()
        self._listen()
        self._judge()
        return self._inbox.take()

    def health(self) -> Iterable[Health]:
        """The driver's silence, GPUs that are gone or left out, counters that a GPU does not offer, and NVML's own time."""
        if self._trouble:
            yield self._trouble
        for index in self._left_out:
            subject = self._inbox.subject(index)
            yield Health(subject, "dead", "driver unresponsive: a call on this GPU hung, it is left out for now")
        yield from self._inbox.health()

    def close(self) -> None:
        """End the child; one that does not die is kept in mind, so that no second one is started on it."""
        if self._child:
            self._child.close()
            self._killed = self._child.exit_code is None
            self._child = self._child if self._killed else None

    def _start(self) -> None:
        now = self._clock()
        self._left_out = tuple(index for index, (until, _) in self._avoid.items() if until > now)
        directory = self._config.library_directory
        known = os.environ.get("LD_LIBRARY_PATH", "")
        path = {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, (directory, known)))} if directory else {}
        plan = Plan(COUNTERS, self._config.period_seconds, self._left_out)
        self._inbox.begin()
        try:
            self._child = Child(self._command, {**os.environ, **path}, plan.to_line())
        except OSError as error:
            self._rest(Health(DRIVER, "dead", f"the NVML process cannot be started: {error.strerror or error}"))
            return
        self._heard = now
        self._killed = False

    def _listen(self) -> None:
        if self._child is None:
            return
        lines = self._child.lines()
        for line in lines:
            self._inbox.put(_message(line))
        if lines:
            self._heard = self._clock()
            self._trouble = None
        if self._inbox.samples_since_start:
            self._pause = self._config.restart_seconds

    def _judge(self) -> None:
        """What the child's silence or end means."""
        if self._child is None:
            return
        code, silent = self._child.exit_code, self._clock() - self._heard
        if code is not None:
            self._ended(code)
        elif self._killed:
            reason = f"driver unresponsive: process {self._child.pid} does not die, no second one is started"
            self._trouble = Health(DRIVER, "dead", reason)
        elif silent >= self._config.hard_seconds:
            self._give_up(silent)
        elif silent >= self._config.soft_seconds:
            self._trouble = Health(DRIVER, "stale", f"driver unresponsive: silent for {silent:.1f} s{self._where()}")
        elif any(self._avoid[index][0] <= self._clock() for index in self._left_out):
            self.close()
            self._start_at = self._clock()

    def _ended(self, code: int) -> None:
        """The child has ended: by a verdict, by our signal, or by itself."""
        complaint = self._child.complaint if self._child else ""
        if self._child:
            self._child.close()
        if self._inbox.verdict:
            self._child = None
            raise _no(*self._inbox.verdict)
        if self._killed:
            self._rest(Health(DRIVER, "stale", "driver unresponsive: the NVML process was killed and is started again"))
        else:
            why = f": {complaint}" if complaint else ""
            self._rest(Health(DRIVER, "dead", f"the NVML process ended with code {code}{why}, it is started again"))

    def _rest(self, trouble: Health) -> None:
        """No child for a while."""
        self._child = None
        self._killed = False
        self._trouble = trouble
        self._start_at = self._clock() + self._pause
        self._pause = min(RESTART_SECONDS_MAX, 2 * self._pause)

    def _give_up(self, silent: float) -> None:
        """Kill a child that has been silent too long and leave out the GPU on which it hung."""
        assert self._child is not None
        index = self._inbox.at
        if index is not None:
            length = min(AVOID_SECONDS_MAX, 2 * self._avoid[index][1]) if index in self._avoid else AVOID_SECONDS
            self._avoid[index] = (self._clock() + length, length)
        self._trouble = Health(DRIVER, "dead", f"driver unresponsive: silent for {silent:.1f} s{self._where()}, killed")
        self._child.kill()
        self._killed = True

    def _where(self) -> str:
        return "" if self._inbox.at is None else f" in a call on {self._inbox.subject(self._inbox.at)}"


def _no(state: str, reason: str) -> SourceError:
    return (Denied if state == "denied" else Unsupported)(reason, "the GPUs of this node are not watched through NVML")


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
