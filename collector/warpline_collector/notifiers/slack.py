"""Slack's incoming webhooks (and what understands them: Mattermost, Rocket.Chat): blocks, with plain text for what shows none."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from ..notifier import Item, Message

HEADER_CHARS_MAX: Final = 150
SECTION_CHARS_MAX: Final = 3_000
"""Slack refuses longer texts."""
SUMMARY_CHARS_MAX: Final = 1_200
ITEMS_MAX: Final = 10
"""Incidents that a message spells out; further ones are counted."""


class Slack:
    """POST to the URL of the incoming webhook, which is a password: whoever has it may write there."""

    secret: ClassVar[bool] = True
    repeat_seconds: ClassVar[float | None] = None
    together: ClassVar[bool] = False

    def url(self, base: str) -> str:
        """As it is named."""
        return base

    def body(self, message: Message) -> bytes:
        """A header, a section for each incident, a line with what is left out."""
        return json.dumps({"text": _escaped(message.headline), "blocks": list(_blocks(message))}).encode()


def _blocks(message: Message) -> Any:
    yield {"type": "header", "text": {"type": "plain_text", "text": _header(message)[:HEADER_CHARS_MAX]}}
    for item in message.items[:ITEMS_MAX]:
        yield {"type": "section", "text": {"type": "mrkdwn", "text": _section(item)[:SECTION_CHARS_MAX]}}
    left = len(message.items) - ITEMS_MAX
    words = [f"and {left} more: `warpline findings` lists them"] if left > 0 else []
    words.append(f"warpline, {_moment(message.time_ns)}")
    yield {"type": "context", "elements": [{"type": "mrkdwn", "text": " | ".join(words)}]}


def _header(message: Message) -> str:
    count = len(message.open)
    closed = len(message.items) - count
    told = [f"{number} {word}" for number, word in ((count, "open"), (closed, "closed")) if number]
    return f"{'TEST: ' if message.test else ''}{message.where}: {', '.join(told)}"


def _section(item: Item) -> str:
    finding, state = item.finding, item.state
    word = f"{finding.severity.upper()}" if item.open else state.state.upper()
    since = f"{'since' if item.open else 'began'} {_moment(finding.onset.time_ns or state.opened_ns)}"
    lines = [f"*{word}* {finding.kind}, {since}, {item.news}", _escaped(finding.summary[:SUMMARY_CHARS_MAX])]
    if item.open:
        lines.append(f"*Next:* {_escaped(finding.next_step[:SUMMARY_CHARS_MAX])}")
    if finding.cost.gpu_hours is not None:
        lines.append(f"Cost so far: {finding.cost.gpu_hours:.1f} GPU-hours")
    return "\n".join([*lines, f"`{finding.id}`"])


def _moment(time_ns: int) -> str:
    """The reader's own time of day, UTC where that is not to be had."""
    seconds = time_ns // 10**9
    plain = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"<!date^{seconds}^{{date_short_pretty}} {{time}}|{plain}>"


def _escaped(text: str) -> str:
    """Nothing that a node or a job is called may call a channel or link anywhere."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
