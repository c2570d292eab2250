"""The units under a real systemd, booted in a copy of this machine, in which the script installs, upgrades and removes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from deployed import DEPLOY, OURS, another

MACHINE = Path(__file__).parents[1] / "fakes" / "machine.sh"
ASKED = "WARPLINE_TEST_MACHINE"
ENDS_AT_ONCE = '''"""This version gives up."""
def arguments(parser): ...
def run(options): return 70
'''
CHECK = """
set -u
export PIP_NO_DEPS=1 PIP_NO_INDEX=1 PYTHONPATH=/check/libraries
tell() { printf '%s\\n' "$2" >"/check/told-$1"; }
show() { systemctl show "$1" --property="$2" --value; }
await() {
    until=$(($(date +%s) + 60))
    while [ "$(date +%s)" -lt $until ]; do ! eval "$1" || return 0; sleep 0.2; done
    return 1
}
both='warpline-collector warpline-agent'
heard() { /opt/warpline/bin/warpline status --json --all 2>/dev/null | grep -q '"agent": "node-7"'; }
systemctl set-environment PYTHONPATH=$PYTHONPATH
sh /check/deploy/install.sh install --wheel /check/first/*.whl --python "$PYTHON" || exit 1
tell enabled "$(systemctl is-enabled $both | sort -u)"
systemctl preset-all 2>/dev/null
tell preset "$(systemctl is-enabled $both | sort -u)"
echo WARPLINE_AGENT_NODE=node-7 >>/etc/default/warpline-agent
for unit in $both; do
    mkdir -p /etc/systemd/system/$unit.service.d
    printf '[Service]\\nWatchdogSec=20\\nTimeoutStopSec=5\\nRestartSec=0\\n' >/etc/systemd/system/$unit.service.d/quick.conf
done
systemctl daemon-reload
systemctl enable --now $both
tell active "$(systemctl is-active $both | sort -u)"
tell status "$(show warpline-collector StatusText); $(show warpline-agent StatusText)"
tell users "$(stat -c %U /proc/"$(show warpline-collector MainPID)"); $(stat -c %U /proc/"$(show warpline-agent MainPID)")"
tell writable "$(stat -c '%U %a %n' /var/lib/warpline* /run/warpline*)"
await heard && tell heard yes || journalctl --no-pager -u warpline-collector -u warpline-agent
/opt/warpline/bin/warpline doctor >/check/doctor

sed -i 's/^schema_version/shema_version/' /etc/warpline/config.toml
systemctl restart warpline-agent && tell bad_settings started
tell bad_settings "$(show warpline-agent Result) $(show warpline-agent ExecMainStatus) $(show warpline-agent NRestarts)"
sed -i 's/^shema_version/schema_version/' /etc/warpline/config.toml
systemctl reset-failed; systemctl start warpline-agent

sh /check/deploy/install.sh install --wheel /check/broken/*.whl --python "$PYTHON" 2>/check/told-taken_back
tell after_broken "$? $(/opt/warpline/bin/warpline --version) $(systemctl is-active $both | sort -u)"
count='SELECT count(*) AS n FROM steps UNION ALL SELECT count(*) FROM host_samples'
sh /check/deploy/install.sh install --wheel /check/second/*.whl --python "$PYTHON"
tell after_upgrade "$? $(/opt/warpline/bin/warpline --version) $(systemctl is-active $both | sort -u)"
await heard && tell heard_again yes
sh /check/deploy/install.sh rollback
tell after_rollback "$? $(/opt/warpline/bin/warpline --version) $(systemctl is-active $both | sort -u)"

kill -STOP "$(show warpline-agent MainPID)"
await '[ "$(show warpline-agent NRestarts)" = 1 ] && systemctl is-active --quiet warpline-agent' && tell watchdog yes
journalctl --no-pager -o cat -u warpline-agent | grep -i watchdog >/check/told-watchdog_log

systemctl stop warpline-agent
ip address add 10.7.7.7/32 dev lo
warpline=/opt/warpline/bin/warpline
$warpline pki init --directory /check/pki
folder=$($warpline pki issue --collector collector.example.org,10.7.7.7 --directory /check/pki)
viewer=$($warpline pki issue --viewer anna --directory /check/pki)
install -m 644 "$folder/certificate.pem" "$folder/authority.pem" /etc/warpline/tls/
install -m 600 -o warpline-collector "$folder/key.pem" /etc/warpline/tls/
sed -i 's/^listen = .*/listen = "0.0.0.0:14716"/' /etc/warpline/config.toml
printf '[tls]\n' >>/etc/warpline/config.toml
for each in certificate key authority; do
    printf '%s = "/etc/warpline/tls/%s.pem"\\n' $each $each >>/etc/warpline/config.toml
done
fleet=/opt/warpline/share/warpline/systemd/warpline-collector-fleet.conf
install -D -m 644 -t /etc/systemd/system/warpline-collector.service.d $fleet
systemctl daemon-reload
systemctl restart warpline-collector
HOME=/nowhere $warpline status --collector 10.7.7.7:14716 --tls "$viewer" --all >/check/told-fleet
tell fleet_status "$?"
journalctl --no-pager -o cat -u warpline-agent -u warpline-collector >/check/journal

sh /opt/warpline/share/warpline/install.sh uninstall --purge
tell removed "$?"
left() {
    find /etc /opt /usr/local /usr/lib/systemd /usr/lib/tmpfiles.d /var/lib /run -xdev -name '*warpline*'
    getent passwd warpline warpline-collector
    systemctl list-units --all --no-legend 'warpline*'
}
tell left "$(left)"

sh /check/deploy/deb/build.sh /check/first/*.whl /check/packages
dpkg --install /check/packages/*.deb
tell packaged "$? $(systemctl is-enabled $both | sort -u)"
sh /check/deploy/install.sh uninstall 2>/check/told-refused
systemctl start $both
tell packaged_active "$(systemctl is-active $both | sort -u)"
echo '[power]' >>/etc/warpline/config.toml
before=$(show warpline-collector MainPID)
dpkg --force-confold --install /check/packages/*.deb
tell packaged_again "$? $(systemctl is-active $both | sort -u)"
[ "$(show warpline-collector MainPID)" = "$before" ] || tell packaged_anew yes
tell packaged_settings "$(tail -1 /etc/warpline/config.toml)"
dpkg --remove warpline
tell packaged_kept "$(ls -d /var/lib/warpline-collector/store /etc/warpline/config.toml)"
dpkg --purge warpline
tell packaged_left "$(left)"
"""


def interpreter() -> str | None:
    """A Python of this version that services may see."""
    this = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (f"/usr/bin/{this}", f"/usr/local/bin/{this}", os.path.realpath(sys.executable)):
        if path.startswith(("/root/", "/home/")) or not os.access(path, os.X_OK):
            continue
        if subprocess.run([path, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0:
            return path
    return None


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> dict[str, str]:
    """What was seen in the copy, by name."""
    if not os.environ.get(ASKED):
        pytest.skip(f"boots a copy of this machine, as root and for a minute or more: set {ASKED}=1")
    if shutil.which("systemd-nspawn") is None:
        pytest.skip("systemd-nspawn is not installed")
    if os.geteuid() != 0 or Path("/opt/warpline").exists():
        pytest.skip("only root can boot a copy of this machine, and warpline must not be installed here")
    python = interpreter()
    if python is None:
        pytest.skip("there is no Python of this version that a service may see")
    folder = tmp_path_factory.mktemp("booted")
    site = Path(sysconfig.get_path("purelib"))
    (folder / "libraries").mkdir()
    for path in site.iterdir():
        if not OURS.match(path.name):
            (folder / "libraries" / path.name).symlink_to(f"/usr/lib/warpline-site/{path.name}")
    shutil.copytree(DEPLOY, folder / "deploy")
    for name in ("first", "second", "broken"):
        (folder / name).mkdir()
    shutil.copy(wheel, folder / "first")
    another(wheel, folder / "second", "99.0")
    another(wheel, folder / "broken", "99.1", {"warpline_cli/verbs/agent.py": ENDS_AT_ONCE})
    (folder / "check.sh").write_text(f"PYTHON={python}\n{CHECK}")
    folder.chmod(0o755)
    done = subprocess.run(
        [MACHINE, folder, site], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=660, check=False
    )
    found = {path.name.removeprefix("told-"): path.read_text().strip() for path in folder.glob("told-*")}
    if not (folder / "log").exists():
        pytest.skip(f"this machine boots no copy of itself: {done.stderr.strip()[-300:]}")
    log = (folder / "log").read_text()
    assert "packaged_left" in found, log
    return found


def test_nothing_starts_by_itself(told: dict[str, str]) -> None:
    assert (told["enabled"], told["preset"]) == ("disabled", "disabled")


def test_both_start_say_so_and_work_within_their_sandbox(told: dict[str, str]) -> None:
    """As users of their own; the agent's rows arrive in the collector's store."""
    assert told["active"] == "active"
    assert told["status"].startswith("listens on 127.0.0.1:14716")
    assert "node node-7 reads " in told["status"]
    assert told["users"] == "warpline-collector; warpline"
    assert told["heard"] == "yes"


def test_settings_that_cannot_be_used_are_not_tried_again_and_again(told: dict[str, str]) -> None:
    assert told["bad_settings"] == "exit-code 64 0"


def test_a_version_that_does_not_start_is_taken_back(told: dict[str, str], wheel: Path) -> None:
    version = wheel.name.split("-")[1]
    assert told["after_broken"] == f"1 warpline {version} active"
    assert "warpline 99.1 does not start, and was taken back" in told["taken_back"]


def test_an_upgrade_and_the_way_back_leave_the_services_running(told: dict[str, str], wheel: Path) -> None:
    assert told["after_upgrade"] == "0 warpline 99.0 active"
    assert told["heard_again"] == "yes"
    assert told["after_rollback"] == f"0 warpline {wheel.name.split('-')[1]} active"


def test_an_agent_that_stands_still_is_started_anew(told: dict[str, str]) -> None:
    assert told["watchdog"] == "yes"
    assert "Watchdog timeout" in told["watchdog_log"]


def test_a_collector_for_other_machines_reads_its_key_and_is_reached_at_its_address(told: dict[str, str]) -> None:
    """With the key readable by its user alone, and the drop-in that lets in private networks."""
    assert told["fleet_status"] in ("0", "1")
    assert "node-7" in told["fleet"]


def test_removal_leaves_nothing(told: dict[str, str]) -> None:
    assert (told["removed"], told["left"]) == ("0", "")


def test_the_package_installs_disabled_works_and_keeps_settings_when_it_is_installed_again(
    told: dict[str, str],
) -> None:
    assert told["packaged"] == "0 disabled"
    assert told["packaged_active"] == "active"
    assert (told["packaged_again"], told["packaged_anew"]) == ("0 active", "yes")
    assert told["packaged_settings"] == "[power]"
    assert "the Debian package is installed" in told["refused"]


def test_the_package_leaves_data_when_it_is_removed_and_nothing_when_it_is_purged(told: dict[str, str]) -> None:
    assert told["packaged_kept"].split() == ["/etc/warpline/config.toml", "/var/lib/warpline-collector/store"]
    assert told["packaged_left"] == ""
