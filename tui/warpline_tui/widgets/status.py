"""The line on top: what is watched, how many findings are open, how old the data is."""

from __future__ import annotations

from rich.text import Text
from textual.reactive import reactive
from textual.widgets import Static

from ..snapshot import Snapshot
from ..words import age

STALE_SECONDS = 30
"""From this age on, the data's age is shown as a warning."""


class Status(Static):
    """Redrawn with each snapshot."""

    snapshot: reactive[Snapshot] = reactive(Snapshot)

    def watch_snapshot(self, snapshot: Snapshot) -> None:
        """Write the line."""
        self.update(line(snapshot))


def line(snapshot: Snapshot) -> Text:
    """The words of the line."""
    nodes = {gpu.node for gpu in snapshot.gpus} | {rank.node for rank in snapshot.ranks if rank.node}
    jobs = {rank.job for rank in snapshot.ranks} | {gpu.job for gpu in snapshot.gpus if gpu.job}
    text = Text.assemble(
        (" warpline ", "bold reverse"),
        f"  {len(nodes)} nodes  {len(snapshot.gpus)} GPUs  {len(jobs)} jobs  {len(snapshot.ranks)} ranks  ",
    )
    text.append_text(_verdict(snapshot))
    text.append_text(_freshness(snapshot))
    return text


def _verdict(snapshot: Snapshot) -> Text:
    worst = [str(incident.finding.severity) for incident in snapshot.open_incidents]
    if worst:
        style = {"critical": "bold white on red", "warning": "bold black on yellow"}.get(worst[0], "bold")
        return Text(f" {len(worst)} open: {worst[0]} ", style)
    if snapshot.gpus or snapshot.ranks:
        return Text(" nothing is accused ", "bold green")
    return Text(" no data yet ", "bold")


def _freshness(snapshot: Snapshot) -> Text:
    if snapshot.error is not None:
        return Text(f"  {snapshot.error}", "bold red")
    if snapshot.newest_ns is None:
        return Text("")
    stale = snapshot.taken_ns - snapshot.newest_ns > STALE_SECONDS * 1_000_000_000
    return Text(f"  data {age(snapshot.newest_ns, snapshot.taken_ns)}", "yellow" if stale else "dim")
