"""The native library in wheels: for any Linux with glibc 2.17, for this machine, or, where nothing compiles it, left out."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import warpline_hook.library
from warpline_cli.verbs import doctor
from warpline_hook.library import LIBRARY, library
from warpline_hook.native_build import compile_library, system_compiler, wheel_compiler

ROOT = Path(__file__).parents[2]
MACHINES = {"x86_64": 62, "aarch64": 183}
"""ELF's numbers."""
EXPORTED = {
    "InitializeInjection", "warpline_step", "warpline_profiler", "warpline_end",
    *(f"ncclProfiler_v{n}" for n in range(1, 7)),
}  # fmt: skip

needs_hatchling = pytest.mark.skipif(find_spec("hatchling") is None, reason="no hatchling to build a wheel with")
needs_ziglang = pytest.mark.skipif(find_spec("ziglang") is None, reason="no ziglang to build for other machines with")


def built(folder: Path, **environment: str) -> Path:
    """The wheel that this tree gives in an environment."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    told = {**{name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}, **environment}
    done = subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def content(wheel: Path) -> bytes | None:
    """The native library of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"warpline_hook/{LIBRARY}") if f"warpline_hook/{LIBRARY}" in archive.namelist() else None


def exported(elf: bytes) -> set[str]:
    """Names that a 64-bit library gives to others: those of its dynamic symbols that have a section."""
    sections_at, entry, count = (*struct.unpack_from("<Q", elf, 40), *struct.unpack_from("<HH", elf, 58))
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, sections_at + each * entry) for each in range(count)]
    symbols = next(section for section in sections if section[1] == 11)
    texts = sections[symbols[6]]
    found = set()
    for at in range(symbols[4], symbols[4] + symbols[5], 24):
        name, _, _, section = struct.unpack_from("<IBBH", elf, at)
        if section:
            start = texts[4] + name
            found.add(elf[start : elf.index(b"\0", start)].decode())
    return found - {""}


@needs_hatchling
@needs_ziglang
@pytest.mark.parametrize("machine", MACHINES)
def test_a_wheel_for_a_processor_runs_on_any_linux_with_glibc_2_17(tmp_path: Path, machine: str) -> None:
    wheel = built(tmp_path, WARPLINE_WHEEL=machine)
    assert wheel.name.endswith(f"-py3-none-manylinux2014_{machine}.whl")
    elf = content(wheel)
    assert elf is not None
    assert struct.unpack_from("<H", elf, 18)[0] == MACHINES[machine]
    asked = {tuple(map(int, found.split(b"."))) for found in re.findall(rb"GLIBC_([\d.]+)", elf)}
    assert max(asked) <= (2, 17)
    assert exported(elf) == EXPORTED
    assert len(elf) < 100_000


@needs_hatchling
def test_an_installation_from_source_takes_the_compiler_of_the_machine(tmp_path: Path) -> None:
    if system_compiler({}) is None:
        pytest.skip("no C compiler on this machine")
    wheel = built(tmp_path)
    assert re.search(r"-py3-none-linux_\w+\.whl$", wheel.name)
    elf = content(wheel)
    assert elf is not None
    assert exported(elf) == EXPORTED


@needs_hatchling
@pytest.mark.parametrize("environment", [{"PATH": "/nowhere"}, {"CC": f"{shutil.which('false')}"}])
def test_without_a_compiler_that_works_there_is_a_wheel_without_the_library(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    wheel = built(tmp_path, **environment)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert content(wheel) is None


@needs_ziglang
def test_a_compiler_that_is_named_is_the_one_that_is_used(tmp_path: Path) -> None:
    assert system_compiler({"CC": "zig cc -O1"}) == ["zig", "cc", "-O1"]
    target = tmp_path / "sub" / LIBRARY
    compile_library(wheel_compiler(sys.executable, "aarch64"), target)
    assert exported(target.read_bytes()) == EXPORTED
    assert [path.name for path in target.parent.iterdir()] == [LIBRARY]


def test_an_installation_knows_whether_it_has_the_library() -> None:
    found = library()
    assert found is None or found.read_bytes().startswith(b"\x7fELF")


def test_doctor_says_whether_there_is_a_library_that_this_machine_can_load(
    native_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / LIBRARY
    broken.write_bytes(b"no library")
    states = {}
    for found in (None, broken, native_library):
        monkeypatch.setattr(warpline_hook.library, "library", lambda found=found: found)
        check = doctor._capture()
        states[found] = check.state
        assert check.hint or check.state == "ok"
    assert states == {None: "absent", broken: "broken", native_library: "ok"}
