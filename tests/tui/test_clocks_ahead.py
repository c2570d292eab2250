"""Clocks of nodes differ: one that is ahead hides nobody else, and a viewer's clock that is behind hides nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from seen import Database, take

from warpline_tui.views.fleet import FleetView
from warpline_tui.views.headline import HeadlineView
from warpline_tui.views.names import NamesView
from warpline_tui.views.node import NodeView
from warpline_tui.views.power import PowerView
from warpline_tui.views.roster import RosterView
from warpline_tui.views.sources import SourcesView

NS = 10**9
NOW = 1_800_000_000 * NS
AHEAD_NS = 3 * 3600 * NS
NODES = ["node-0", "node-1", "node-2"]


@pytest.fixture
def database() -> Iterator[Database]:
    """Three nodes of a GPU; the clock of the first is three hours ahead."""
    made = Database()
    for number, node in enumerate(NODES):
        last_ns = NOW - NS + (0 if number else AHEAD_NS)
        made.add(
            "device_samples",
            [
                {"node": node, "gpu_uuid": f"GPU-{number}", "time_ns": last_ns - at * NS, "power_watts": 100.0}
                for at in range(20)
            ],
        )
        step = {"job": "train", "rank": number, "node": node, "step": 1, "scope": "step", "start_ns": last_ns}
        made.add("steps", [{**step, "duration_ns": NS}])
        made.add("source_health", [{"node": node, "source": "nvml", "state": "fresh", "time_ns": last_ns}])
    yield made
    made.connection.close()


@pytest.mark.parametrize("behind_seconds", [0, 600])
def test_every_node_is_seen(database: Database, behind_seconds: int) -> None:
    now_ns = NOW - behind_seconds * NS
    if behind_seconds:
        database.connection.execute("DELETE FROM device_samples WHERE node = 'node-0'")
        database.connection.execute("DELETE FROM source_health WHERE node = 'node-0'")
    nodes = NODES[1:] if behind_seconds else NODES
    fleet = take(database, FleetView(), now_ns)
    assert fleet.gpus.texts("node") == nodes and fleet.newest_ns == NOW - NS
    headline = take(database, HeadlineView(), now_ns)
    assert (headline.nodes, headline.gpus, headline.newest_ns) == (3, len(nodes), NOW - NS)
    assert (headline.jobs, headline.ranks) == (1, 3)
    assert list(take(database, NamesView(), now_ns).nodes) == nodes
    assert [gpu.node for gpu in take(database, RosterView(), now_ns).gpus] == nodes
    live = take(database, PowerView(), now_ns).live
    assert live is not None and (live.gpus, live.watts) == (len(nodes), 100.0 * len(nodes))
    assert sorted(group.key for group in take(database, SourcesView("node"), now_ns).groups) == nodes


def test_the_node_that_is_ahead_shows_what_it_tells(database: Database) -> None:
    shown = take(database, NodeView("node-0"), NOW)
    assert [gpu.power_watts for gpu in shown.gpus] == [100.0]
