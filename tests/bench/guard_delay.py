"""How long a GPU whose clocks the power guard has lowered waits for them once work comes: the real guard on the fake node.

    python tests/bench/guard_delay.py [--seconds N] [--period S] [--json]

The guard runs as an operator runs it (its settings' own periods, trigger and cooldown) over tests/fakes/nvml.c with the latencies
that were measured of a real driver; setting clocks takes 100 ms there (real ones take 1 to 500). Eight GPUs turn between work and
idleness, each with a period of its own, so that work begins at any phase of the guard's second. A GPU waits from the moment its
work begins to that at which its clocks are unlocked, both by the same clock.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from warpline_hook.native_build import system_compiler

FAKES: Final = Path(__file__).parents[1] / "fakes"
sys.path.insert(0, str(FAKES))
from guarded_machine import Machine  # noqa: E402  # lies beside the other stand-ins

GPUS: Final = 8
PERIODS: Final = tuple(22.0 + 1.37 * gpu for gpu in range(GPUS))
"""Seconds; the first half of each is work."""
CALL_MS: Final = 100
LOOK_SECONDS: Final = 0.002


def node() -> str:
    """The script of the fake node."""
    lines = [f"gpus {GPUS}", "latency on", "gpu * processes 1", "gpu * low_power 61 35"]
    lines += [f"gpu * slow call nvmlDevice{call}GpuLockedClocks {CALL_MS}" for call in ("Set", "Reset")]
    for gpu, period in enumerate(PERIODS):
        lines += [f"gpu {gpu} power square 184 105 {period}", f"gpu {gpu} util square 83 0 {period}"]
    return "\n".join(lines) + "\n"


def delays(machine: Machine, seconds: float) -> list[float]:
    """Seconds that each GPU waited, each time its clocks were low when work began."""
    waited: list[float] = []
    was_low = [False] * GPUS
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for gpu, period in enumerate(PERIODS):
            low = machine.clocks(gpu).low
            now = time.monotonic()
            if was_low[gpu] and not low:
                since_work = now % period
                if since_work < period / 2:  # else it was restored for another reason than work
                    waited.append(since_work)
            was_low[gpu] = low
        time.sleep(LOOK_SECONDS)
    return waited


def main() -> None:
    """Run the guard, watch the clocks, print how long they were waited for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument(
        "--period", type=float, default=1.0, help="seconds between two looks of the guard (%(default)s)"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="warpline-guard-") as name:
        library = Path(name) / "library" / "libnvidia-ml.so.1"
        library.parent.mkdir()
        compiler = system_compiler({}) or [sys.executable, "-m", "ziglang", "cc"]
        sources = [str(FAKES / "nvml.c"), "-lm", "-lpthread"]
        subprocess.run([*compiler, "-O2", "-shared", "-fPIC", "-o", str(library), *sources], check=True)
        machine = Machine(Path(name), library)
        machine.configure(period_seconds=options.period, trigger_seconds=3.0, cooldown_seconds=5.0)
        machine.say(node())
        guard = machine.guard("--live")
        try:
            waited = delays(machine, options.seconds)
        finally:
            guard.terminate()
            guard.wait(30)
            machine.close()
    told = {"wakes": len(waited), "period_seconds": options.period, "call_ms": CALL_MS}
    told |= {f"p{each}_seconds": round(float(np.percentile(waited, each)), 3) for each in (5, 50, 95, 100) if waited}
    if options.json:
        print(json.dumps(told))
    else:
        print("| wakes | look every | p5 | p50 | p95 | longest |\n|---|---|---|---|---|---|")
        shown = [f"{told.get(f'p{each}_seconds', float('nan')):.2f} s" for each in (5, 50, 95, 100)]
        print(f"| {told['wakes']} | {options.period:g} s | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
