"""The shipped units are valid where the package is installed, and stay sandboxed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[1] / "deploy" / "systemd"
EXPOSURE_MAX = {"warpline-agent": 4.0, "warpline-collector": 2.0, "warpline-power-guard": 2.0}

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with the prefix of this installation in place of /opt/warpline."""
    command = Path(sys.executable).parent / "warpline"
    assert command.exists(), "the command is installed beside the interpreter"
    for unit in UNITS.glob("*.service"):
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/warpline/bin/warpline", str(command)))
    return tmp_path


@pytest.mark.parametrize("name", sorted(EXPOSURE_MAX))
def test_the_unit_is_valid(installed: Path, name: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", str(installed / f"{name}.service")], capture_output=True, text=True, check=False
    )
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if name in line]
    assert complaints == []


@pytest.mark.parametrize("dropped_in", [False, True], ids=["alone", "with all drop-ins"])
@pytest.mark.parametrize(("name", "most"), sorted(EXPOSURE_MAX.items()))
def test_the_unit_is_sandboxed(installed: Path, name: str, most: float, dropped_in: bool) -> None:
    """Also with every right that its drop-ins give."""
    for path in UNITS.glob(f"{name}-*.conf") if dropped_in else ():
        folder = installed / f"{name}.service.d"
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(installed / f"{name}.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= most


@pytest.mark.parametrize("name", sorted(EXPOSURE_MAX))
def test_the_unit_calls_a_verb_that_exists(name: str) -> None:
    from warpline_cli.main import VERBS

    found = re.search(r"^ExecStart=/opt/warpline/bin/warpline (\w+)", (UNITS / f"{name}.service").read_text(), re.M)
    assert found is not None
    assert found[1] in VERBS


def test_the_power_guard_is_a_dry_run_until_told_otherwise_and_restores_however_it_ends() -> None:
    unit = (UNITS / "warpline-power-guard.service").read_text()
    assert re.search(r"^ExecStart=/opt/warpline/bin/warpline power guard \$GUARD_FLAGS$", unit, re.M)
    assert re.search(r"^ExecStopPost=/opt/warpline/bin/warpline power restore$", unit, re.M)
    assert not re.search(r"^[^#]*--live", unit, re.M)
