"""What tests of the installation share: the wheel of this tree, the same as another version, and libraries that are at hand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OURS = re.compile(r"_?warpline|__editable__|pip\b|setuptools|_distutils|distutils|.*\.pth$")
"""What of this environment an installation brings itself."""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that this tree gives."""
    if find_spec("hatchling") is None:
        pytest.skip("no hatchling to build a wheel with")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the libraries of this environment, and nothing of warpline."""
    folder = tmp_path_factory.mktemp("libraries")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not OURS.match(path.name):
            (folder / path.name).symlink_to(path)
    return folder


def another(wheel: Path, folder: Path, version: str, files: Mapping[str, str] = {}) -> Path:
    """The same wheel as another version, with some files replaced."""
    old = wheel.name.split("-")[1]
    target = folder / wheel.name.replace(f"-{old}-", f"-{version}-")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w") as made:
        record = next(name for name in source.namelist() if name.endswith("/RECORD"))
        for name in source.namelist():
            if name == record:
                continue
            content = files.get(name, "").encode() or source.read(name)
            if name.endswith(".dist-info/METADATA"):
                content = content.replace(f"\nVersion: {old}\n".encode(), f"\nVersion: {version}\n".encode(), 1)
            made.writestr(name.replace(f"-{old}.", f"-{version}."), content)
        made.writestr(
            record.replace(f"-{old}.", f"-{version}."), "".join(f"{name},,\n" for name in [*made.namelist(), record])
        )
    return target


def offline(libraries: Path) -> dict[str, str]:
    """An environment in which pip takes the libraries that are at hand, and asks nobody."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PYTHONPATH": str(libraries)}
