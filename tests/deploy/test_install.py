"""`deploy/install.sh`: what it puts where, and that an upgrade keeps settings and data, or is taken back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deployed import DEPLOY, another, offline

SCRIPT = DEPLOY / "install.sh"
BROKEN = {"warpline_cli/main.py": "raise SystemExit('this version is broken')\n"}
RUN_IN_PLACE = 'mount -t tmpfs tmpfs /opt && mkdir /opt/warpline && mount --bind "$0" /opt/warpline && exec "$@"'

pytestmark = [
    pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to the users of the services"),
]
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def call(libraries: Path) -> Call:
    """The script, in an environment without a network."""

    def called(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(SCRIPT), *map(str, words)]
        return subprocess.run(command, env=offline(libraries), capture_output=True, text=True, check=False)

    return called


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, wheel: Path, call: Call) -> Iterator[Path]:
    """A directory into which this tree was installed."""
    folder = tmp_path_factory.mktemp("root")
    options = ("--root", folder, "--python", sys.executable)
    done = call("install", "--wheel", wheel, "--collector", "collector.example.org:14716", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    yield folder
    shutil.rmtree(folder)


def version(root: Path, libraries: Path) -> str:
    """What the installed command says of itself, at the place where the units look for it."""
    return in_place(root, libraries, "--version").split()[1]


def in_place(root: Path, libraries: Path, *words: str) -> str:
    command = ["unshare", "--mount", "sh", "-c", RUN_IN_PLACE, f"{root}/opt/warpline", "/opt/warpline/bin/warpline"]
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody have mounts of their own")
    done = subprocess.run([*command, *words], env=offline(libraries), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def content(root: Path) -> dict[str, str]:
    """Settings and data."""
    folders = (root / "etc" / "warpline", root / "etc" / "default", root / "var")
    return {str(path): path.read_text() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_units_users_and_directories_are_there(root: Path) -> None:
    library = root / "usr" / "local" / "lib"
    for each in DEPLOY.glob("systemd/*.service"):
        assert (library / "systemd" / "system" / each.name).read_text() == each.read_text()
    users = {line.split(":")[0]: int(line.split(":")[2]) for line in (root / "etc/passwd").read_text().splitlines()}
    assert set(users) == {"warpline", "warpline-collector"}
    for name, user in users.items():
        status = (root / "var" / "lib" / name).stat()
        assert (status.st_uid, status.st_mode & 0o777) == (user, 0o750)
    for name, mode in (("warpline", 0o755), ("warpline/tls", 0o755), ("warpline/pki", 0o700)):
        status = (root / "etc" / name).stat()
        assert (status.st_uid, status.st_mode & 0o777) == (0, mode)


def test_shells_and_man_are_told_of_the_installed_version(root: Path) -> None:
    share = root / "usr" / "local" / "share"
    assert "findings" in (share / "bash-completion/completions/warpline").read_text()
    assert (share / "zsh/site-functions/_warpline").is_file()
    assert (share / "fish/vendor_completions.d/warpline.fish").is_file()
    assert ".TH WARPLINE" in (share / "man/man1/warpline-agent.1").read_text()


def test_the_installed_command_reads_the_installed_settings(root: Path, libraries: Path) -> None:
    """The collector's data lie where its unit lets it write."""
    told = in_place(root, libraries, "config", "print", "--config", f"{root}/etc/warpline/config.toml")
    assert 'collector = "collector.example.org:14716"' in told
    assert 'directory = "/var/lib/warpline-collector/store"' in told


def test_an_upgrade_keeps_settings_and_data_and_can_be_taken_back(
    root: Path, wheel: Path, libraries: Path, call: Call, tmp_path: Path
) -> None:
    (root / "var/lib/warpline/spool").write_text("not yet acknowledged")
    settings = root / "etc/warpline/config.toml"
    settings.write_text(settings.read_text() + '\n[power]\ncurrency = "EUR"\n')
    (root / "etc/default/warpline-agent").write_text("WARPLINE_AGENT_CLUSTER=mine\n")
    kept, before = content(root), version(root, libraries)
    newer = another(wheel, tmp_path, "99.0")
    done = call("upgrade", "--wheel", newer, "--root", root, "--python", sys.executable)
    assert done.returncode == 0, done.stderr
    assert version(root, libraries) == "99.0"
    assert content(root) == kept
    assert call("rollback", "--root", root).returncode == 0
    assert version(root, libraries) == before
    assert content(root) == kept
    assert call("rollback", "--root", root).returncode == 0
    assert version(root, libraries) == "99.0"
    assert call("rollback", "--root", root).returncode == 0


@pytest.mark.parametrize("why", ["broken", "settings"])
def test_a_version_that_cannot_work_here_changes_nothing(
    root: Path, wheel: Path, libraries: Path, call: Call, tmp_path: Path, why: str
) -> None:
    """It is asked before anything is stopped: whether it runs, and whether it reads the settings."""
    settings = root / "etc/warpline/config.toml"
    good = settings.read_text()
    if why == "settings":
        settings.write_text(good + "\n[collector.nonsense]\n")
    newer = another(wheel, tmp_path, "99.1", BROKEN if why == "broken" else {})
    before = version(root, libraries)
    done = call("install", "--wheel", newer, "--root", root, "--python", sys.executable)
    settings.write_text(good)
    assert done.returncode == 1
    assert ("does not run" if why == "broken" else "does not read the settings") in done.stderr
    assert version(root, libraries) == before
    assert not (root / "opt/warpline.new").exists()


def test_an_installation_that_was_killed_half_way_is_taken_up_again(root: Path, libraries: Path, call: Call) -> None:
    """Killed between the two renames, with a half-built version beside."""
    os.rename(root / "opt/warpline", root / "opt/warpline.held")
    shutil.rmtree(root / "opt/warpline.old", ignore_errors=True)
    os.rename(root / "opt/warpline.held", root / "opt/warpline.old")
    (root / "opt/warpline.new").mkdir()
    done = call("install", "--wheel", "/nowhere.whl", "--root", root)
    assert done.returncode == 64
    done = call("install", "--python", "/bin/false", "--root", root)
    assert done.returncode == 1
    assert sorted(path.name for path in (root / "opt").iterdir()) == ["warpline"]
    assert version(root, libraries)


def test_removal_keeps_settings_and_data_until_told_otherwise(
    tmp_path: Path, root: Path, libraries: Path, call: Call
) -> None:
    """By the script that the installation has kept, so that no checkout is needed."""
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, symlinks=True)
    script = tmp_path / "install.sh"
    shutil.copy(copy / "opt/warpline/share/warpline/install.sh", script)
    kept = content(copy)
    subprocess.run(["sh", str(script), "uninstall", "--root", str(copy)], check=True, capture_output=True)
    assert content(copy) == kept != {}
    assert not list((copy / "opt").iterdir())
    assert call("uninstall", "--root", copy, "--purge").returncode == 0
    left = {str(path.relative_to(copy)): path.read_text() for path in copy.rglob("*") if path.is_file()}
    accounts = {"etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"}
    assert set(left) - accounts <= {"etc/.pwd.lock", *(f"{name}-" for name in accounts)}
    assert not any("warpline" in left.get(name, "") for name in accounts)


def test_without_root_it_says_what_it_takes(call: Call, tmp_path: Path) -> None:
    """And what was mistyped."""
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "sh", str(SCRIPT), "install"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "takes root" in done.stderr
    for words in (
        ["instal"],
        ["install", "--wheel"],
        ["install", "--role", "king"],
        ["install", "--rot", str(tmp_path)],
    ):
        assert call(*words).returncode == 64
