"""Scripts, images and manifests of deploy/, as the tools judge them that know their formats, and held against the product."""

from __future__ import annotations

import re
import shutil
import subprocess
import textwrap
import tomllib
from pathlib import Path

import pytest
from deployed import DEPLOY, ROOT

from warpline_cli.main import VERBS
from warpline_cli.verbs.config import sections
from warpline_proto.config import load
from warpline_proto.notify import ALIVE_FILE

SCRIPTS = sorted([*DEPLOY.rglob("*.sh"), *DEPLOY.glob("deb/*"), Path(__file__).parents[1] / "fakes" / "machine.sh"])
MANIFESTS = sorted(
    path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.stem not in ("kustomization", "service-monitor")
)
OLDEST = "1.29"
"""The oldest Kubernetes whose schema the manifests are held against, beside the newest that the tool knows."""
CONTAINERFILE = DEPLOY / "container" / "Containerfile"


def judged(tool: str, *words: str | Path) -> None:
    """The tool has nothing to say."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run([tool, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scripts_are_sound_for_any_posix_shell() -> None:
    judged("shellcheck", "--shell=sh", *[path for path in SCRIPTS if path.read_text().startswith("#!/bin/sh")])


def test_the_image_is_built_as_images_should_be() -> None:
    judged("hadolint", CONTAINERFILE)


def test_the_image_is_pinned_and_runs_without_root() -> None:
    text = CONTAINERFILE.read_text()
    assert re.search(r"^ARG PYTHON=\S+:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", text, re.M)
    assert re.findall(r"^FROM (\S+)", text, re.M) == ["${PYTHON}", "${PYTHON}"]
    assert re.findall(r"^USER (\S+)", text, re.M) == ["14716:14716"]


@pytest.mark.parametrize("version", [OLDEST, None], ids=["oldest", "newest"])
def test_manifests_are_what_the_schema_of_kubernetes_allows(version: str | None) -> None:
    known = ["--kubernetes-version", version] if version else []
    judged("kubernetes-validate", "--strict", "--no-warn", *known, *MANIFESTS)


def test_the_settings_of_the_manifests_are_settings(tmp_path: Path) -> None:
    text = (DEPLOY / "kubernetes" / "configuration.yaml").read_text()
    (tmp_path / "config.toml").write_text(textwrap.dedent(text.split("config.toml: |\n")[1]))
    loaded = load(sections()[0], [tmp_path / "config.toml"], {})
    host, _, port = loaded["agent"].collector.rpartition(":")
    collector = (DEPLOY / "kubernetes" / "collector.yaml").read_text()
    assert (host, loaded["collector"].listen) == ("warpline-collector.warpline.svc", f"0.0.0.0:{port}")
    assert f"containerPort: {port}" in collector
    assert f"containerPort: {loaded['collector.metrics'].listen.rpartition(':')[2]}" in collector


def test_probes_look_for_the_file_that_the_image_names() -> None:
    found = re.search(rf"{ALIVE_FILE}=(\S+)", CONTAINERFILE.read_text())
    assert found is not None
    for name in ("agent", "collector"):
        text = (DEPLOY / "kubernetes" / f"{name}.yaml").read_text()
        assert text.count(found[1]) == 2


def test_images_bear_the_version_of_this_tree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for path in (DEPLOY / "kubernetes").glob("*.yaml"):
        for tag in re.findall(r"(?:image: \S+:|newTag: )([\w.]+)", path.read_text()):
            assert tag == version, path


def test_the_guide_names_what_exists() -> None:
    """Files of this folder, verbs of the script and of the command, and drop-ins."""
    guide = (DEPLOY / "README.md").read_text()
    for path in re.findall(r"deploy/[\w./-]*\w", guide):
        assert (ROOT / path).exists(), path
    script = (DEPLOY / "install.sh").read_text()
    called = re.findall(r"^\S*install\.sh (\w+)(?: (--\w+))?", guide, re.M)
    assert {verb for verb, _ in called} == {"install", "rollback", "uninstall"}
    for verb, option in called:
        assert re.search(rf"install\.sh {verb}", script) and option in script
    for name in re.findall(r"`([\w-]+\.conf)`", guide):
        assert (DEPLOY / "systemd" / name).exists(), name
    for verb in re.findall(r"^warpline (\w+)", guide, re.M):
        assert verb in VERBS


def test_settings_of_a_new_installation_are_settings() -> None:
    loaded = load(sections()[0], [DEPLOY / "config.toml"], {})
    assert loaded["collector"].directory.startswith("/var/lib/warpline-collector/")
