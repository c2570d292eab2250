"""A JSON document of warpline's own, as deploy/README.md describes it: version 1 only ever gains keys."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Final

from warpline_proto.finding import OPEN

from ..notifier import Item, Message

VERSION: Final = 1


class Webhook:
    """POST to the URL itself."""

    secret: ClassVar[bool] = False
    repeat_seconds: ClassVar[float | None] = None
    together: ClassVar[bool] = False

    def url(self, base: str) -> str:
        """As it is named."""
        return base

    def body(self, message: Message) -> bytes:
        """Every incident with all that the finding says but its rows of evidence, which the store has."""
        return json.dumps(
            {
                "version": VERSION,
                "id": message.id,
                "receiver": message.receiver,
                "cluster": message.cluster or None,
                "test": message.test,
                "time_ns": message.time_ns,
                "status": "open" if message.open else "closed",
                "group": dict(message.group),
                "text": message.headline,
                "incidents": [_incident(item) for item in message.items],
            }
        ).encode()


def _incident(item: Item) -> dict[str, Any]:
    state = item.state
    document = state.finding.to_json()
    del document["evidence"]
    return {
        "id": document.pop("id"),
        "news": item.news,
        "state": state.state,
        "opened_ns": state.opened_ns,
        "closed_ns": None if state.state == OPEN else state.updated_ns,
        "detector": state.detector,
    } | document
