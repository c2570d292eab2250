"""What the hook costs: a training step, and the start of an interpreter, with it and without it, in turn.

    python tests/bench/hook.py [--rounds N] [--json]

Steps are those of a program whose model does nothing, so that what is left is the marks themselves: a batch from the data
loader, a backward pass, an optimizer's step; once with parameters that say they are on a GPU, once on the CPU, where the CPU time
of the thread is read as well. WARPLINE_TEST_TORCH=PYTHON adds real torch, a small model on the CPU. Steps are in CPU time of the
process, medians over rounds; each round runs both, the first of them by turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "fakes"))

from made_up_torch import write  # noqa: E402  # the folder is no package

STEPS: Final = {"made-up": 20_000, "torch": 1_000}
STARTS: Final = 10
"""Interpreters that are started in a round."""
MADE_UP: Final = """
import time, torch, torch.utils.data
optimizer, model = torch.optim.SGD(), lambda: None
"""
REAL: Final = """
import time, torch, torch.utils.data
torch.set_num_threads(1)
layer = torch.nn.Linear(64, 64)
optimizer, rows = torch.optim.SGD(layer.parameters(), lr=1e-3), torch.randn(16, 64)
"""
LOOP: Final = """
began = None
for batch in torch.utils.data.DataLoader(range({steps} + 100){more}):
    if batch == 100: began = time.process_time_ns()
    torch.autograd.backward({work})
    optimizer.step()
print((time.process_time_ns() - began) / {steps})
"""


def environment(folder: Path, base: str | None) -> Path:
    """A Python with the hook installed as the wheel installs it, and torch, made up or that of `base`."""
    made_from = base or sys.executable
    subprocess.run([made_from, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    asked = [made_from, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    found = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    torch = found if base else str(write(folder / "made-up"))
    (site / "_paths.pth").write_text(f"{ROOT / 'agent'}\n{torch}\n")
    shutil.copy(ROOT / "agent" / "warpline_hook.pth", site)
    return folder / "env" / "bin" / "python"


def step_ns(python: Path, program: str, folder: Path, device: str, on: bool) -> float:
    """Nanoseconds of CPU time of one step of a fresh process."""
    variables = {"WARPLINE_HOOK": "1" if on else "0", "WARPLINE_DIRECTORY": str(folder), "MADE_UP_DEVICE": device}
    environment = {"PATH": os.environ["PATH"]} | variables
    done = subprocess.run([str(python), "-c", program], env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def start_ns(python: Path, on: bool) -> float:
    """Nanoseconds from start to end of an interpreter that does nothing, the least of STARTS."""
    variables = {"PATH": os.environ["PATH"], "WARPLINE_HOOK": "1" if on else "0"}
    taken = []
    for _ in range(STARTS):
        began = time.perf_counter_ns()
        subprocess.run([str(python), "-c", ""], env=variables, check=True)
        taken.append(time.perf_counter_ns() - began)
    return float(min(taken))


def compare(python: Path, program: str, device: str, rounds: int) -> dict[str, Any]:
    """One step with the hook beside one without it."""
    steps: dict[bool, list[float]] = {True: [], False: []}
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        for number in range(rounds):
            for on in (True, False) if number % 2 else (False, True):
                steps[on].append(step_ns(python, program, Path(folder), device, on))
    bare, hooked = statistics.median(steps[False]), statistics.median(steps[True])
    told = {"step_ns_bare": round(bare), "step_ns_hooked": round(hooked), "hook_ns_per_step": round(hooked - bare)}
    return told | {"ratio": round(hooked / bare, 4)}


def measure(rounds: int) -> dict[str, Any]:
    """Figures by what is trained."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = environment(folder / "made-up", None)
        program = MADE_UP + LOOP.format(steps=STEPS["made-up"], more="", work="model")
        figures: dict[str, Any] = {
            f"made-up model, {device}": compare(python, program, device, rounds) for device in ("cuda", "cpu")
        }
        figures["start of an interpreter"] = {
            "ms_bare": round(start_ns(python, False) / 1e6, 2),
            "ms_hooked": round(start_ns(python, True) / 1e6, 2),
        }
        base = os.environ.get("WARPLINE_TEST_TORCH")
        if base:
            python = environment(folder / "torch", base)
            real = {"more": ", batch_size=None", "work": "layer(rows).square().mean()"}
            program = REAL + LOOP.format(steps=STEPS["torch"], **real)
            figures["torch, small model, cpu"] = compare(python, program, "cpu", rounds)
    return figures


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    figures = measure(options.rounds)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, told in figures.items():
        print(f"{name:26} " + "  ".join(f"{key} {value}" for key, value in told.items()))


if __name__ == "__main__":
    main()
