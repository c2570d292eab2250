"""How a command gets the native library, and what Python tells it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from warpline_agent.ring_file import open_ring
from warpline_hook import library, profiler_marks
from warpline_hook.launch import environment_for


@pytest.fixture
def installed(native_library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(library, "library", lambda: native_library)
    return native_library


def with_torch(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    def told(package: str) -> str:
        if version is None:
            raise PackageNotFoundError(package)
        return version

    monkeypatch.setattr("importlib.metadata.version", told)


def test_a_command_gets_the_library_in_both_places(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_torch(monkeypatch, None)
    assert library.capture_variables({}) == {
        "CUDA_INJECTION64_PATH": str(installed),
        "NCCL_PROFILER_PLUGIN": str(installed),
        "TEARDOWN_CUPTI": "0",
    }


@pytest.mark.parametrize(("version", "holds"), [("2.6.0+cu124", False), ("2.7.0", True), ("2.13.0a0+git", True)])
def test_the_place_in_cupti_is_held_only_where_pytorch_can_leave_it(
    installed: Path, monkeypatch: pytest.MonkeyPatch, version: str, holds: bool
) -> None:
    with_torch(monkeypatch, version)
    found = library.capture_variables({})
    assert ("KINETO_USE_DAEMON" in found, "WARPLINE_HOLD_CUPTI" in found) == (holds, holds)


def test_a_tool_that_has_a_place_keeps_it(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_torch(monkeypatch, "2.9.0")
    found = library.capture_variables({"CUDA_INJECTION64_PATH": "/opt/nsight/libToolsInjection64.so"})
    assert found == {"NCCL_PROFILER_PLUGIN": str(installed)}
    assert "NCCL_PROFILER_PLUGIN" not in library.capture_variables({"NCCL_PROFILER_PLUGIN": ""})


def test_an_injection_that_is_to_be_chained_is_named_by_its_own_variable(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_torch(monkeypatch, None)
    theirs = "/opt/nsight/libToolsInjection64.so"
    chained = {"WARPLINE_CHAIN_INJECTION": theirs, "CUDA_INJECTION64_PATH": theirs}
    assert environment_for(chained, 1)["CUDA_INJECTION64_PATH"] == str(installed)
    other = {"WARPLINE_CHAIN_INJECTION": "/another.so", "CUDA_INJECTION64_PATH": theirs}
    assert environment_for(other, 1)["CUDA_INJECTION64_PATH"] == theirs
    assert library.places_taken(chained) == {}
    assert library.places_taken(other) == {"CUDA_INJECTION64_PATH": "kernels"}
    assert library.places_taken({"CUDA_INJECTION64_PATH": "", "NCCL_PROFILER_PLUGIN": str(installed)}) == {}


def test_what_the_user_preloads_stays_as_it_is(installed: Path) -> None:
    assert environment_for({"LD_PRELOAD": "/opt/theirs.so"}, 1)["LD_PRELOAD"] == "/opt/theirs.so"
    assert "LD_PRELOAD" not in environment_for({}, 1)


def test_where_the_hook_is_switched_off_nothing_is_captured(installed: Path) -> None:
    assert "CUDA_INJECTION64_PATH" not in environment_for({"WARPLINE_HOOK": "0"}, 1)
    assert environment_for({}, 1)["CUDA_INJECTION64_PATH"] == str(installed)


def test_without_a_library_a_command_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "library", lambda: None)
    assert library.capture_variables({}) == {}
    assert library.loaded() is None


def test_python_tells_the_library_the_step_once_something_else_has_loaded_it(
    native_library: Path, tmp_path: Path
) -> None:
    program = f"""
import ctypes, pathlib
from warpline_hook import library, profiler_marks
library.library = lambda: pathlib.Path({str(native_library)!r})
assert library.loaded() is None
injected = ctypes.CDLL({str(native_library)!r})
found = library.loaded()
found.step(3)  # no ring yet
assert injected.InitializeInjection() == 1
found.step(41)
found.profiler(True)
found.profiler(False)
found.end()
found.end()
import os; os._exit(0)
"""
    environment = {"WARPLINE_DIRECTORY": str(tmp_path), "WARPLINE_CUPTI": "/nowhere"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    (path,) = tmp_path.glob("*.ring")
    reader = open_ring(path)
    assert reader is not None
    assert reader.standing().step == 41


class Session:
    """torch.autograd.profiler.profile, as far as it is marked."""

    def _prepare_trace(self, told: list[str]) -> str:
        told.append("prepared")
        return "its result"


def test_the_users_profiler_is_told_of_before_it_takes_cupti_and_when_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []

    class Told:
        def profiler(self, running: bool) -> None:
            told.append("begins" if running else "ended")

    module = SimpleNamespace(
        profile=Session,
        _run_on_profiler_start=lambda: told.append("started"),
        _run_on_profiler_stop=lambda: told.append("stopped"),
    )
    monkeypatch.setattr(profiler_marks, "loaded", Told)
    profiler_marks.attach(module)
    assert Session()._prepare_trace(told) == "its result"
    module._run_on_profiler_start()
    module._run_on_profiler_stop()
    assert told == ["begins", "prepared", "begins", "started", "ended", "stopped"]
    monkeypatch.setattr(profiler_marks, "loaded", lambda: None)
    module._run_on_profiler_start()
    profiler_marks.attach(SimpleNamespace())
