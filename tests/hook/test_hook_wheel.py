"""What `pip install warpline` puts into a training image: the hook where interpreters look, asleep until it is asked for."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel's files and nothing else."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("builds the wheel with hatchling: pip install hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    (wheel,) = folder.glob("*.whl")
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    return folder / "env" / "bin" / "python"


def loaded(python: Path, *flags: str, **variables: str) -> list[str]:
    """Names of modules of warpline that an interpreter has loaded at its start."""
    program = "import sys; print(*sorted(name for name in sys.modules if name.startswith('warpline')))"
    environment = {"PATH": os.environ["PATH"]} | variables
    done = subprocess.run(
        [str(python), *flags, "-c", program], env=environment, check=True, capture_output=True, text=True, cwd="/"
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_an_interpreter_of_the_image_loads_the_hook_only_when_asked(python: Path) -> None:
    assert loaded(python) == []
    assert loaded(python, WARPLINE_HOOK="0") == []
    own = ["warpline_hook", "warpline_hook.environment", "warpline_hook.on_import", "warpline_hook.start"]
    assert loaded(python, WARPLINE_HOOK="1") == own
    assert loaded(python, "-I", WARPLINE_HOOK="1") == own


def test_without_site_packages_there_is_no_hook(python: Path) -> None:
    assert loaded(python, "-S", WARPLINE_HOOK="1") == []


def test_the_command_runs_without_any_dependency(python: Path) -> None:
    """`warpline run` in an image that has nothing but the wheel."""
    done = subprocess.run(
        [str(python.with_name("python")), "-m", "warpline_cli.main", "run", "--", "sh", "-c", "echo $WARPLINE_HOOK"],
        env={"PATH": os.environ["PATH"]},
        check=True,
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_the_doctor_says_whether_a_python_has_the_hook(python: Path) -> None:
    """Of the image's, that it has; of one without the file, what to do."""
    command = [str(python), "-m", "warpline_cli.main", "doctor", "--json"]

    def told() -> str:
        done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, cwd="/")
        states: dict[str, str] = {each["id"]: each["state"] for each in json.loads(done.stdout)["checks"]}
        return states["hook"]

    assert told() == "ok"
    (path,) = python.parents[1].glob("lib/python*/site-packages/warpline_hook.pth")
    path.rename(path.with_suffix(".away"))
    assert told() == "absent"
    path.with_suffix(".away").rename(path)
