"""Kinds of receivers that are built in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..notifier import Notifier
from .alertmanager import Alertmanager
from .slack import Slack
from .webhook import Webhook

NOTIFIERS: Final[Mapping[str, Notifier]] = {
    "webhook": Webhook(),
    "slack": Slack(),
    "alertmanager": Alertmanager(),
}
