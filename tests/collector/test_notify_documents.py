"""What receivers of incidents get over real HTTP: a document, blocks for Slack, alerts for Alertmanager."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from courier_bench import NOW, OTHER, SECOND, SLOW, MakeBench, incidents, slack, webhook
from receiver import listening

from warpline_collector import config as collector_config
from warpline_collector.notifier import Item, Message, News
from warpline_collector.notifiers.alertmanager import Alertmanager
from warpline_collector.notifiers.slack import ITEMS_MAX, Slack
from warpline_collector.notifiers.webhook import Webhook
from warpline_collector.notify.config import Receiver
from warpline_proto.finding import (
    OPEN,
    RESOLVED,
    FindingState,
    Severity,
    Subject,
)


def test_a_webhook_gets_a_document_with_everything_but_rows(bench: MakeBench) -> None:
    with listening() as here:
        at = bench(webhook(here), cluster="east")
        at.known = incidents(SLOW, OTHER)
        at.turn()
        (told,) = here.told
        at.known = incidents(SLOW, OTHER, state=RESOLVED, updated_ns=NOW + SECOND)
        at.turn(10)
        at.turn(10)
    document = told.document
    assert told.path == "/hook"
    assert told.headers["Content-Type"] == "application/json"
    assert (document["version"], document["receiver"], document["cluster"]) == (1, "ops", "east")
    assert (document["status"], document["group"], document["test"]) == ("open", {"job": "train"}, False)
    assert document["text"] == "critical: rank 3 computes 40 % longer than its peers <!channel> (and 1 more)"
    first = document["incidents"][0]
    assert first["id"] == SLOW.id
    assert (first["news"], first["state"], first["opened_ns"], first["closed_ns"]) == ("opened", "open", NOW, None)
    assert first["subject"] == {"job": "train", "rank": 3, "node": "node-7", "gpu": "GPU-1"}
    assert (first["onset"]["step"], first["cost"]["gpu_hours"]) == (120, 12.5)
    assert "evidence" not in first
    assert set(first) == {
        "id", "news", "state", "opened_ns", "closed_ns", "detector", "kind", "severity", "confidence", "subject", "onset",
        "cost", "summary", "ruled_out", "missing", "next_step",
    }  # fmt: skip
    (_, last) = here.told
    assert last.document["status"] == "closed"
    assert [(each["state"], each["closed_ns"]) for each in last.document["incidents"]] == [(RESOLVED, NOW + SECOND)] * 2


def test_slack_gets_blocks_within_its_bounds_and_names_call_nobody(bench: MakeBench, tmp_path: Path) -> None:
    with listening() as here:
        at = bench(slack(here, tmp_path))
        many = [
            replace(SLOW, subject=Subject(job="train", rank=rank), summary="x" * 9_000) for rank in range(ITEMS_MAX + 3)
        ]
        at.known = incidents(SLOW, *many)
        at.turn()
    (told,) = here.told
    assert told.path == "/services/T0/SECRET"
    blocks = told.document["blocks"]
    assert blocks[0]["text"]["text"] == "job train: 14 open"
    sections = [block["text"]["text"] for block in blocks if block["type"] == "section"]
    assert len(sections) == ITEMS_MAX
    assert max(map(len, sections)) <= 3_000
    assert sections[0].startswith("*CRITICAL* compute_straggler, since <!date^1699999940^")
    assert "drain node-7" in sections[0]
    assert "12.5 GPU-hours" in sections[0]
    assert "<!channel>" not in json.dumps(told.document)
    assert told.document["text"].startswith("critical: rank 3 computes 40 % longer than its peers &lt;!channel&gt;")
    assert "and 4 more" in blocks[-1]["elements"][0]["text"]


def test_an_alert_has_labels_that_stay_and_ends_by_itself(bench: MakeBench) -> None:
    """What became worse ends under its old severity: that is a label."""
    with listening() as here:
        at = bench(Receiver(name="am", kind="alertmanager", url=f"{here.url}/prefix/"), cluster="east")
        at.known = incidents(replace(SLOW, severity=Severity.WARNING))
        at.turn()
        at.known = incidents(SLOW)
        at.turn(5)
        at.turn(60)
        at.known = incidents(SLOW, state=RESOLVED, updated_ns=NOW + 70 * SECOND)
        at.turn(10)
    assert {told.path for told in here.told} == {"/prefix/api/v2/alerts"}
    first, worse, again, closed = (told.document for told in here.told)
    labels = {
        "alertname": "WarplineComputeStraggler", "severity": "warning", "kind": "compute_straggler", "source": "warpline",
        "incident": SLOW.id, "cluster": "east", "job": "train", "rank": "3", "node": "node-7", "gpu": "GPU-1",
    }  # fmt: skip
    assert [alert["labels"] for alert in first] == [labels]
    assert set(first[0]["annotations"]) == {"summary", "description", "next_step"}
    assert (first[0]["startsAt"], first[0]["endsAt"]) == (
        "2023-11-14T22:13:20.000+00:00",
        "2023-11-14T22:18:20.000+00:00",
    )
    assert [(alert["labels"]["severity"], alert["endsAt"][11:19]) for alert in worse] == [
        ("critical", "22:18:25"), ("warning", "22:13:25"),
    ]  # fmt: skip
    assert [alert["endsAt"][11:19] for alert in again] == ["22:19:25"]
    assert [alert["endsAt"][11:19] for alert in closed] == ["22:14:30"]


def test_what_the_guide_shows_is_what_there_is(bench: MakeBench, tmp_path: Path) -> None:
    """Its settings are taken, and its document has the keys of a real one."""
    from warpline_proto.config import load

    text = (Path(__file__).parents[2] / "deploy" / "README.md").read_text().partition("## Notification of incidents")[2]
    (tmp_path / "config.toml").write_text(text.split("```toml\n")[1].partition("```")[0])
    config = load(collector_config.sections(), [tmp_path / "config.toml"], {})["collector.notify"]
    assert [each.kind for each in config.receivers] == ["alertmanager", "slack"]
    shown = json.loads(text.split("```json\n")[1].partition("```")[0])
    with listening() as here:
        at = bench(webhook(here))
        at.known = incidents(SLOW)
        at.turn()
    (told,) = here.told
    assert list(shown) == list(told.document)
    assert list(shown["incidents"][0]) == list(told.document["incidents"][0])


def test_a_made_up_incident_fits_every_kind() -> None:
    state = FindingState(SLOW, OPEN, NOW, NOW)
    message = Message("ops", {"job": "train"}, (Item(state, News.OPENED),), NOW, test=True)
    kinds: Sequence[Webhook | Slack | Alertmanager] = (Webhook(), Slack(), Alertmanager())
    assert all("test" in kind.body(message).decode().lower() for kind in kinds)
