"""Prometheus' Alertmanager, by its API v2: what stands is told each minute, and ends by itself where nobody tells any more.

Alertmanager groups, silences and repeats by its own rules; it is told everything, at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from warpline_proto.finding import Severity

from ..notifier import Item, Message

REPEAT_SECONDS: Final = 60.0
LASTS_NS: Final = 5 * 60 * 10**9
"""An alert ends so long after it was told last: four tellings may fail, and a collector may be started anew."""
LABELS: Final = ("job", "rank", "group", "node", "gpu", "link", "communicator")
"""What of the accused becomes a label; it is the same as long as the incident lasts."""


class Alertmanager:
    """POST to /api/v2/alerts below the URL."""

    secret: ClassVar[bool] = False
    repeat_seconds: ClassVar[float | None] = REPEAT_SECONDS
    together: ClassVar[bool] = True

    def url(self, base: str) -> str:
        """Where alerts are taken, also behind a prefix."""
        return f"{base.rstrip('/')}/api/v2/alerts"

    def body(self, message: Message) -> bytes:
        """One alert an incident; two where its severity, which is a label, became another."""
        return json.dumps([alert for item in message.items for alert in _alerts(item, message)]).encode()


def _alerts(item: Item, message: Message) -> Iterator[dict[str, Any]]:
    state = item.state
    ends_ns = message.time_ns + LASTS_NS if item.open else max(state.updated_ns, state.opened_ns)
    yield _alert(item, message, item.finding.severity, ends_ns)
    if item.before is not None and item.before != item.finding.severity:
        yield _alert(item, message, item.before, message.time_ns)


def _alert(item: Item, message: Message, severity: Severity, ends_ns: int) -> dict[str, Any]:
    finding = item.finding
    accused = finding.subject.named()
    labels = {
        "alertname": "Warpline" + "".join(word.capitalize() for word in finding.kind.split("_")),
        "severity": str(severity),
        "kind": str(finding.kind),
        "source": "warpline",
        "incident": finding.id,
        "cluster": message.cluster,
        "test": "true" if message.test else "",
    } | {key: str(accused[key]) for key in LABELS if key in accused}
    annotations = {
        "summary": finding.summary,
        "description": _description(item),
        "next_step": finding.next_step,
    }
    return {
        "labels": {key: value for key, value in labels.items() if value},
        "annotations": annotations,
        "startsAt": _moment(min(item.state.opened_ns, ends_ns)),
        "endsAt": _moment(ends_ns),
    }


def _description(item: Item) -> str:
    finding = item.finding
    began = finding.onset.time_ns or item.state.opened_ns
    words = [f"Since {_moment(began)[:19]}Z, {100 * finding.confidence:.0f} % sure."]
    if finding.onset.step is not None:
        words.append(f"First seen in step {finding.onset.step}.")
    if finding.cost.gpu_hours is not None:
        words.append(f"It cost {finding.cost.gpu_hours:.1f} GPU-hours so far.")
    if finding.missing:
        words.append(f"Not known: {'; '.join(finding.missing)}.")
    return " ".join(words)


def _moment(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
