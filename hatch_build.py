"""Puts the native library into a wheel.

An installation from source takes the C compiler of the machine; without one, or where it fails, the wheel is made without the
library and says so. With WARPLINE_WHEEL=x86_64 or aarch64 the wheel is one for that processor and any glibc from 2.17 on,
compiled by ziglang, and cannot be made without the library.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "agent"))

from warpline_hook.library import LIBRARY  # noqa: E402
from warpline_hook.native_build import compile_library, system_compiler, wheel_compiler  # noqa: E402

MACHINES = ("x86_64", "aarch64")


class NativeLibrary(BuildHookInterface[Any]):
    """Compiles before the wheel is packed; an editable installation gets the library beside the sources."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name the platform that the wheel is then for."""
        machine = os.environ.get("WARPLINE_WHEEL")
        if machine and machine not in MACHINES:
            raise ValueError(f"WARPLINE_WHEEL is {machine!r}: it may be {' or '.join(MACHINES)}")
        if version == "editable":
            self._compile(HERE / "agent" / "warpline_hook" / LIBRARY, None)
            return
        self._folder = Path(tempfile.mkdtemp(prefix="warpline-"))
        target = self._folder / LIBRARY
        if self._compile(target, machine):
            platform = f"manylinux2014_{machine}" if machine else sysconfig.get_platform().replace("-", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform.replace('.', '_')}"
            build_data["force_include"][str(target)] = f"warpline_hook/{LIBRARY}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Take away what was compiled."""
        if version != "editable":
            shutil.rmtree(self._folder, ignore_errors=True)

    def _compile(self, target: Path, machine: str | None) -> bool:
        compiler = wheel_compiler(sys.executable, machine) if machine else system_compiler(os.environ)
        why = "there is no C compiler on this machine"
        if compiler and sys.platform == "linux":
            try:
                compile_library(compiler, target)
                return True
            except (OSError, subprocess.SubprocessError) as error:
                why = str(getattr(error, "stderr", "") or error).strip()
                if machine:
                    raise RuntimeError(f"the native library does not compile for {machine}: {why}") from error
        self.app.display_warning(f"warpline is built without its capture library: {why}")
        return False
