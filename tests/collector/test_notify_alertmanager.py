"""A real Alertmanager: it takes what it is told, groups it by its own rules, and says when it is over."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import until
from receiver import Listening, listening

from warpline_cli.processes import free_address
from warpline_collector.incidents import Incident, Incidents
from warpline_collector.notify.config import Config, Receiver
from warpline_collector.notify.courier import Courier
from warpline_collector.notify.trial import tried
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.finding import OPEN, RESOLVED, Finding, FindingKind, FindingState, Severity, Subject

COMMAND = "prometheus-alertmanager"
TEMPLATES = Path("/usr/share/prometheus/alertmanager")
"""Debian's looks for them nowhere else."""
SETTINGS = """
route: {{receiver: there, group_by: [job], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}
receivers: [{{name: there, webhook_configs: [{{url: '{url}', send_resolved: true}}]}}]
"""


@pytest.fixture
def behind() -> Iterator[Listening]:
    """Whom Alertmanager tells."""
    with listening() as here:
        yield here


@pytest.fixture
def alertmanager(tmp_path: Path, behind: Listening) -> Iterator[str]:
    """Its URL."""
    if shutil.which(COMMAND) is None or not TEMPLATES.exists():
        pytest.skip(f"{COMMAND} is not installed")
    address = free_address()
    (tmp_path / "alertmanager.yml").write_text(SETTINGS.format(url=behind.url))
    command = [
        COMMAND, f"--config.file={tmp_path / 'alertmanager.yml'}", f"--storage.path={tmp_path / 'data'}",
        f"--web.listen-address={address}", "--cluster.listen-address=",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until(lambda: asked(f"http://{address}/-/ready") is not None, "it is ready")
            yield f"http://{address}"
        finally:
            process.terminate()


def asked(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return bytes(reply.read())
    except OSError:
        return None


def alerts(url: str) -> dict[str, dict[str, Any]]:
    """What stands there now, by incident."""
    found = json.loads(asked(f"{url}/api/v2/alerts") or b"[]")
    return {each["labels"]["incident"]: each for each in found}


def found(rank: int, severity: Severity = Severity.WARNING) -> Finding:
    subject = Subject(job="train", rank=rank, node=f"node-{rank}")
    return Finding(FindingKind.COMPUTE_STRAGGLER, severity, 0.9, subject, f"rank {rank} is late", "drain it")


def test_incidents_arrive_are_grouped_and_are_resolved(tmp_path: Path, alertmanager: str, behind: Listening) -> None:
    """Two in one job are one notification of Alertmanager's; one becomes worse, then it is over, then it is resolved there."""
    one, two = found(1), found(2)
    receiver = Receiver(name="am", kind="alertmanager", url=alertmanager)
    known: Incidents = {}
    store = DuckDBStore(tmp_path / "store")
    config = Config(closed_seconds=0.0, receivers=(receiver,))
    courier = Courier(receiver, config, tmp_path / "store", lambda: known, store)
    now_ns = time.time_ns()

    def incident(finding: Finding, state: str = OPEN) -> Incident:
        return Incident(FindingState(finding, state, now_ns, time.time_ns()))

    known = {each.id: incident(each) for each in (one, two)}
    courier.one_pass()
    assert set(alerts(alertmanager)) == {one.id, two.id}
    assert alerts(alertmanager)[one.id]["annotations"]["next_step"] == "drain it"

    def told_together() -> list[dict[str, Any]]:
        """Notifications of both: Alertmanager takes alerts in one by one, and may tell the first before it has the second."""
        documents = [told.document for told in list(behind.told)]
        return [
            each for each in documents if {alert["labels"]["incident"] for alert in each["alerts"]} == {one.id, two.id}
        ]

    until(lambda: bool(told_together()), "both are told as one group")
    both = told_together()[0]
    assert (both["status"], both["groupLabels"]) == ("firing", {"job": "train"})
    assert {each["labels"]["alertname"] for each in both["alerts"]} == {"WarplineComputeStraggler"}

    known = {one.id: incident(found(1, Severity.CRITICAL)), two.id: incident(two)}
    courier.one_pass()
    until(lambda: alerts(alertmanager)[one.id]["labels"]["severity"] == "critical", "it is critical")

    known = {one.id: incident(found(1, Severity.CRITICAL)), two.id: incident(two, RESOLVED)}
    courier.one_pass()
    until(lambda: set(alerts(alertmanager)) == {one.id}, "the other is over")

    def told_resolved() -> bool:
        last = {
            (each["labels"]["incident"], each["labels"]["severity"]): each["status"]
            for told in list(behind.told)
            for each in told.document["alerts"]
        }
        return last.get((two.id, "warning")) == "resolved" and last.get((one.id, "critical")) == "firing"

    until(told_resolved, "whoever Alertmanager tells hears that one is over and the other stands")
    assert (courier.standing.failures, courier.standing.dropped) == (0, 0)
    store.close()


def test_a_made_up_incident_is_marked_as_such(alertmanager: str) -> None:
    answer = tried(Receiver(name="am", kind="alertmanager", url=alertmanager), "east", time.time_ns())
    assert answer.taken
    (alert,) = alerts(alertmanager).values()
    assert (alert["labels"]["test"], alert["labels"]["cluster"]) == ("true", "east")
