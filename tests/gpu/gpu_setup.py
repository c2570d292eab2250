"""What the scripts of this folder share: where they run, what is missing, progress, intervals, and one way to write figures."""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
FAKES: Final = ROOT / "tests" / "fakes"
if importlib.util.find_spec("warpline_hook") is None or importlib.util.find_spec("warpline_proto") is None:
    sys.path[:0] = [str(ROOT / "agent"), str(ROOT / "proto")]  # a bare copy of the tree: nothing need be installed

import warpline_hook  # noqa: E402
from warpline_hook.library import LIBRARY, library  # noqa: E402
from warpline_hook.native_build import compile_library, system_compiler  # noqa: E402

HOOK_FOLDER: Final = str(Path(str(warpline_hook.__file__)).parents[1])
"""The worker takes the hook from where the library lies, so that each finds the other."""
SECONDS_MAX: Final = 540
"""No script takes longer, whatever it finds."""
DRY_NODE: Final = "gpus 1\ngpu * power noise 400 50 1\ngpu * util noise 80 15 2\ngpu * processes 1\ngpu * gpm 2 40\n"
DRY: Final = "WARPLINE_GPU_DRY"
"""Set for the worker in a dry run: the path of the fake libcupti."""

Figures = dict[str, Any]


class Missing(Exception):
    """Something that this measurement needs is not there; the sentence says what."""


@dataclass
class Setup:
    """Where the measurement runs. `folder` is on memory and holds rings; `python` has torch, in a dry run perhaps not."""

    dry: bool
    folder: Path
    python: str
    library: Path
    fake_cupti: Path | None = None
    notes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def pick(self, real: float, dry: float) -> float:
        """A length or number: what is measured, or just enough to have run everything once."""
        return dry if self.dry else real

    def left(self) -> float:
        """Seconds until this script must be through."""
        return SECONDS_MAX - (time.monotonic() - self.began)

    def note(self, text: str) -> None:
        """Something that the reader of the figures must know."""
        self.notes.append(text)
        say(text)

    def attempt(self, what: str, part: Callable[[], Any]) -> Any:
        """What a part gives; None where something is missing for it, which becomes a note: the other parts go on."""
        try:
            return part()
        except Missing as missing:
            self.note(f"{what}: {missing}")
            return None

    def demand(self, found: object) -> None:
        """Missing, with all that was noted, where nothing at all could be measured."""
        if not found:
            raise Missing("; ".join(self.notes) or "there was no time")

    def say(self, text: str) -> None:
        """Progress, with the seconds since the start."""
        say(f"{time.monotonic() - self.began:6.1f} s  {text}")


def say(text: str) -> None:
    """Print at once: whoever waits sees what goes on."""
    print(text, file=sys.stderr, flush=True)


def compiler() -> list[str]:
    """The C compiler of this machine, or ziglang."""
    return system_compiler(os.environ) or [sys.executable, "-m", "ziglang", "cc"]


def compile_fake(name: str, target: Path) -> Path:
    """A shared library out of tests/fakes that goes by the name of the file."""
    flags = [
        "-O2",
        "-shared",
        "-fPIC",
        f"-Wl,-soname,{target.name}",
        "-o",
        str(target),
        str(FAKES / f"{name}.c"),
        "-lpthread",
    ]
    subprocess.run([*compiler(), *flags], check=True, capture_output=True, text=True)
    return target


def native_library(given: str | None, dry: bool, folder: Path) -> Path:
    """The library to inject: the one given, the installed one, or one compiled now; Missing without a compiler."""
    if given:
        return Path(given).resolve()
    if not dry and (found := library()):
        return found
    target = (folder if dry else Path(str(warpline_hook.__file__)).parent) / LIBRARY
    try:
        compile_library(compiler(), target)
    except (OSError, subprocess.SubprocessError) as error:
        why = str(getattr(error, "stderr", "") or error).strip()
        raise Missing(f"the native library is not installed and cannot be compiled: {why}") from None
    return target


def nvml() -> Any:
    """pynvml with NVML initialised and the first device; Missing where that cannot be."""
    try:
        import pynvml
    except ImportError:
        raise Missing("nvidia-ml-py is not installed (pip install nvidia-ml-py)") from None
    try:
        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError as error:
        raise Missing(f"NVML does not start: {error}") from None


def used_bytes() -> int | None:
    """Memory in use on the first GPU, by NVML; None where it does not tell."""
    try:
        pynvml, device = nvml()
    except Missing:
        return None
    return int(pynvml.nvmlDeviceGetMemoryInfo(device).used)


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and its 95 % interval by order statistics (exact for any distribution); below six values their whole range."""
    ordered = sorted(values)
    count = len(ordered)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    below, chance = 0, 0.5**count
    total = chance
    while total <= 0.025 and below < count // 2:
        below += 1
        chance *= (count - below + 1) / below
        total += chance
    at = max(0, below - 1) if count >= 6 else 0
    return middle, ordered[at], ordered[count - 1 - at]


def quantile(values: Sequence[float], part: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def rows(header: Sequence[str], listed: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *listed]
    return "\n".join("| " + " | ".join(str(each) for each in line) + " |" for line in lines)


def main(
    document: str | None, name: str, measure: Callable[[Setup], Figures], table: Callable[[Mapping[str, Any]], str]
) -> None:
    """The command line of one script: writes NAME.json and NAME.md to --out; exit 0, or 75 where something is missing."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="the same code against the fakes: no figures, no GPU")
    parser.add_argument("--out", type=Path, default=Path("gpu-figures"), help="folder of the results")
    parser.add_argument("--library", help="the native library, where not the installed one")
    parser.add_argument("--python", default=os.environ.get("WARPLINE_TEST_TORCH") or sys.executable)
    options = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="warpline-gpu-", dir=memory) as folder:
        figures = _figures(options, Path(folder), measure)
    options.out.mkdir(parents=True, exist_ok=True)
    text = f"**{name}**: {figures['missing']}" if "missing" in figures else table(figures)
    if options.dry:
        text = f"*A dry run against fakes: its figures mean nothing.*\n\n{text}"
    text = "\n\n".join(filter(None, (text, "\n".join(f"- {each}" for each in figures["notes"]))))
    (options.out / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
    (options.out / f"{name}.md").write_text(f"{text}\n")
    print(text)
    sys.exit(75 if "missing" in figures else 0)


def _figures(options: argparse.Namespace, folder: Path, measure: Callable[[Setup], Figures]) -> Figures:
    setup = None
    try:
        given = native_library(options.library, options.dry, folder)
        setup = Setup(options.dry, folder, options.python, given)
        if options.dry:
            _fake_machine(setup)
        figures = measure(setup)
    except Missing as missing:
        figures = {"missing": str(missing)}
    notes = setup.notes if setup else []
    return (
        {"dry": options.dry, "seconds": round(time.monotonic() - setup.began, 1) if setup else 0.0}
        | figures
        | {"notes": notes}
    )


def _fake_machine(setup: Setup) -> None:
    """A libcupti and a libnvidia-ml.so.1 of our own; pynvml finds the latter because this process has loaded it already."""
    setup.fake_cupti = compile_fake("cupti", setup.folder / "libcupti.so.12")
    (setup.folder / "node").write_text(DRY_NODE)
    os.environ["FAKE_NVML_SCRIPT"] = str(setup.folder / "node")
    ctypes.CDLL(str(compile_fake("nvml", setup.folder / "libnvidia-ml.so.1")), mode=ctypes.RTLD_GLOBAL)
