"""Compiles the native library: for this machine with its own compiler, for wheels with PyPI's ziglang against glibc 2.17."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parent / "native"
COMPILE_SECONDS_MAX: Final = 300
FLAGS: Final = (
    *("-std=gnu11", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-s"),
    # NCCL closes its plugin while records of it may still be on their way: once loaded it stays.
    "-Wl,-z,nodelete",
)
LIBRARIES: Final = ("-lpthread", "-ldl")
GLIBC: Final = "2.17"
"""What manylinux2014 promises."""


def system_compiler(environment: Mapping[str, str]) -> list[str] | None:
    """The C compiler of this machine: what CC names, else cc, gcc or clang; None where there is none."""
    if environment.get("CC"):
        return shlex.split(environment["CC"])
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    return [found] if found else None


def wheel_compiler(python: str, machine: str) -> list[str]:
    """ziglang of the interpreter `python`, for x86_64 or aarch64 and any glibc from 2.17 on."""
    return [python, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu.{GLIBC}"]


def compile_library(compiler: Sequence[str], target: Path) -> None:
    """Compile into `target`; CalledProcessError or OSError with what the compiler says."""
    sources = sorted(map(str, SOURCES.glob("*.c")))
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    command = [*compiler, *FLAGS, "-o", str(fresh), *sources, *LIBRARIES]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS_MAX)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
