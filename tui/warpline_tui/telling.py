"""An incident as text that is copied into a ticket."""

from __future__ import annotations

from warpline_proto.finding import FindingState

from .incident_text import markdown
from .views.incidents import Listed


def ticket(listed: Listed) -> str:
    """Markdown, as `warpline explain` writes it, of what the screen knows."""
    incident = listed.incident
    life = (incident.state, incident.opened_ns or 0, incident.updated_ns or 0, None, incident.alarms)
    state = FindingState(incident.finding, *life)
    return markdown(state, money=None if listed.lost is None else str(listed.lost))
