"""What tests share: the recorded data sets, and a compiler for the fake libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FAKES = Path(__file__).parent / "fakes"
DATA = Path(os.environ.get("WARPLINE_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")).resolve()


@pytest.fixture(scope="session")
def data() -> Path:
    """The recorded data sets; skips where they are not at hand."""
    if not DATA.is_dir():
        pytest.skip(f"no recorded data at {DATA}: set WARPLINE_TEST_DATA")
    return DATA


@pytest.fixture(scope="session")
def compile_fake(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Compile tests/fakes/NAME.c into a shared library, with the system compiler or PyPI's ziglang."""
    folder = tmp_path_factory.mktemp("fakes")

    def build(name: str, library: str) -> Path:
        target = folder / library
        if not target.exists():
            command = [
                *_compiler(),
                "-O1",
                "-shared",
                "-fPIC",
                "-o",
                str(target),
                str(FAKES / f"{name}.c"),
                "-lpthread",
            ]
            subprocess.run(command, check=True, capture_output=True, text=True)
        return target

    return build


def _compiler() -> list[str]:
    system = shutil.which("cc")
    return [system] if system else [sys.executable, "-m", "ziglang", "cc"]
