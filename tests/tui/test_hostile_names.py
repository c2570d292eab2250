"""Names come from outside: whatever stands in them is shown as text, moves nothing on the terminal, and ends no screen."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from seen import Database, app_over, go, settle, take, words
from textual.pilot import Pilot

from warpline_proto.finding import Evidence, Finding, FindingKind, FindingState, Onset, Severity, Subject, to_rows
from warpline_tui.app import WarplineApp
from warpline_tui.place import Place
from warpline_tui.screens import SCREENS
from warpline_tui.views.headline import HeadlineView
from warpline_tui.views.job import JobView
from warpline_tui.views.power import PowerView

NS = 10**9
NOW = 1_800_000_000 * NS
NAME = "a[/][bold]b\x1b[2J\x9b31m\u202e\r\n名"
"""Markup that closes nothing, two escape sequences, a change of direction, ends of lines, a wide character."""
WINDOW = NOW // (600 * NS) * 600 * NS
ENERGY = {
    "window_ns": WINDOW, "start_ns": WINDOW, "end_ns": WINDOW + 9 * NS, "state": "active", "seconds": 9.0, "joules": 900.0,
    "updated_ns": NOW - NS,
}  # fmt: skip
KEYS = {"kernels": "enter", "node": "tab", "job": "tab", "sources": "tab", "timeline": "j", "power": "b"}
FINDING = Finding(
    FindingKind.COMPUTE_STRAGGLER, Severity.CRITICAL, 0.9, Subject(job=NAME, rank=0, node=NAME, gpu=NAME), NAME, NAME,
    Onset(time_ns=NOW - 60 * NS, step=3), evidence=(Evidence("SELECT 1", ({NAME: NAME},)),),
    ruled_out=(NAME, f"hang by itself: {NAME}"), missing=(NAME,),
)  # fmt: skip


@pytest.fixture
def database() -> Iterator[Database]:
    """Everything is called NAME."""
    made = Database()
    place = {"node": NAME, "gpu_uuid": NAME, "job": NAME}
    who = {**place, "clock": f"realtime@{NAME}", "rank": 0}
    span = {"start_ns": NOW - 9 * NS, "duration_ns": 2 * NS, "step": 3}
    kernel = {"kernel_id": 1, "stream": 7, "category": NAME}
    sums = {"start_ns": NOW - 9 * NS, "end_ns": NOW - 7 * NS, "step": 3, "count": 2, "sum_ns": NS}
    reading = {"time_ns": NOW - NS, "gpu_index": 0, "gpu_name": NAME, "bus_id": NAME, "power_watts": 100.0}
    line = {"node": NAME, "time_ns": NOW - NS, "kind": NAME, "severity": "critical", "message": NAME}
    for name, row in (
        ("device_samples", {**place, **reading}),
        ("steps", {**who, **span, "scope": "step", "compute_ns": NS}),
        ("steps", {**who, **span, "scope": "step", "compute_ns": NS, "rank": 1}),
        ("phases", {**who, **span, "phase": NAME, "kind": "compute"}),
        ("raw_kernels", {**who, **span, **kernel}),
        ("kernel_clusters", {**who, **sums, **kernel}),
        ("kernel_names", {"kernel_id": 1, "name": NAME, "time_ns": NOW - NS}),
        ("collectives", {**who, **span, "communicator": NAME, "group_name": NAME, "operation": NAME}),
        ("log_events", line),
        (
            "link_counters",
            {"node": NAME, "time_ns": NOW, "link_kind": NAME, "device": NAME, "counter": NAME, "value": 1},
        ),
        (
            "source_health",
            {"node": NAME, "source": NAME, "subject": NAME, "state": NAME, "reason": NAME, "time_ns": NOW},
        ),
        ("source_health", {"source": "analysis", "subject": NAME, "state": NAME, "reason": NAME, "time_ns": NOW}),
        ("gpu_processes", {**place, "time_ns": NOW - NS, "state": "resident", "process": NAME, "user": NAME}),
        ("energy_intervals", ENERGY | {"node": NAME, "job": NAME, "user": NAME, "gpu_uuid": NAME}),
    ):
        made.add(name, [row])
    made.connection.register("given", to_rows([FindingState(FINDING, "open", NOW - 60 * NS, NOW - NS)]))
    made.connection.execute("INSERT INTO findings BY NAME FROM given")
    yield made
    made.connection.close()


def drawn(pilot: Pilot[None]) -> str:
    """The whole screen as it goes to the terminal."""
    return "\n".join("".join(part.text for part in strip) for strip in pilot.app.screen._compositor.render_strips())


@pytest.mark.parametrize("screen", SCREENS)
async def test_names_are_text_on_every_screen(database: Database, screen: str) -> None:
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        identifier = FINDING.id if screen == "incident" else None
        await go(pilot, Place(screen, node=NAME, job=NAME, rank=0, incident=identifier, sql="SELECT * FROM log_events"))
        for key in ("", KEYS.get(screen, "y"), "y", *(["n"] * 5 if screen == "incident" else [])):
            if key:
                await pilot.press(key)
                await settle(pilot)
            assert not [sign for sign in drawn(pilot).replace("\n", "") if not sign.isprintable()], key
        if screen != "sql":
            assert "[/]" in drawn(pilot), "brackets stand as they are"


async def test_what_is_told_for_a_moment_holds_brackets(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(80, 24), notifications=True) as pilot:
        await settle(pilot)
        pilot.app.screen.notify("told of [/][bold]")
        await settle(pilot)
        assert "told of [/][bold]" in drawn(pilot)


async def test_the_parts_of_one_source_are_named_as_it_is(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await pilot.press("4")
        await settle(pilot)
        await pilot.press("shift+tab", "enter")
        await settle(pilot)
        assert "Parts of source" in words(pilot, "#of")


def test_a_finding_of_a_severity_that_is_not_known_is_counted_last() -> None:
    database = Database()
    rows = [("a", "fatal"), ("b", None), ("c", "warning")]
    document = json.dumps(FINDING.to_json())
    database.add(
        "findings",
        [{"id": name, "severity": severity, "state": "open", "updated_ns": NOW, "document": document} for name, severity in rows],
    )  # fmt: skip
    found = take(database, HeadlineView(), NOW)
    assert next(iter(found.open)) == "warning" and sum(found.open.values()) == 3


def test_energy_that_was_charged_to_another_job_anew_leaves_none() -> None:
    database = Database()
    gpu = ENERGY | {"node": "node-1", "gpu_uuid": "GPU-1"}
    database.add("energy_intervals", [{**gpu, "job": "a"}, {**gpu, "job": "b", "updated_ns": NOW}])
    database.add("steps", [{"job": "a", "rank": 0, "step": 1, "scope": "step", "start_ns": NOW, "duration_ns": NS}])
    assert take(database, JobView("a"), NOW).energy.states == ()
    assert [each.state for each in take(database, JobView("b"), NOW).energy.states] == ["active"]


def test_what_nothing_is_known_of_is_in_no_sum_of_energy() -> None:
    database = Database()
    database.add("energy_intervals", [{"node": "node-1", "window_ns": WINDOW, "updated_ns": NOW}])
    assert take(database, PowerView(), NOW).states == ()


async def test_the_palette_finds_names_beside_those_with_brackets(database: Database) -> None:
    for node in ("node-1", "node[/]"):
        database.add("device_samples", [{"node": node, "gpu_uuid": node, "time_ns": NOW - NS}])
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        await pilot.press("ctrl+p")
        await settle(pilot)
        await pilot.press(*"node[/]")
        await settle(pilot)
        await pilot.press("enter", "enter")
        await settle(pilot)
        assert isinstance(pilot.app, WarplineApp)
        page = pilot.app.page
        assert page is not None and page.place == Place("node", node="node[/]")
