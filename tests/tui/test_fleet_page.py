"""The fleet page: what somebody sees of 10,000 GPUs, looks for among them, and where the keys lead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from seen import SIZES, Database, app_over, settle, take, words
from textual.geometry import Region
from textual.message import Message
from textual.pilot import Pilot

from warpline_proto.finding import Cost, Evidence, Finding, FindingKind, FindingState, Onset, Severity, Subject, to_rows
from warpline_tui.app import WarplineApp
from warpline_tui.fleet.layout import arranged, groups, rack
from warpline_tui.fleet.measures import MEASURES, STATES, states
from warpline_tui.place import Go, Place
from warpline_tui.views.fleet import FleetView
from warpline_tui.widgets.heat_grid import HeatGrid

NS = 10**9
NOW = 1_800_000_000 * NS
NODES = 1_250


def readings(database: Database, nodes: int, now_ns: int = NOW, seconds: int = 3) -> None:
    """A reading of each GPU a second. GPU 7 of each node is idle, and held; node 3 fell silent 40 s ago."""
    database.connection.execute(f"""
INSERT INTO device_samples BY NAME SELECT 'r' || (n // 16) || '-n' || n AS node, 'GPU-' || n || '-' || g AS gpu_uuid,
    g AS gpu_index, 'NVIDIA H100' AS gpu_name,
    'job-' || (n // 64) AS job, 'nvml' AS source, 700.0 AS power_limit_watts, 1 AS resident_processes,
    {now_ns} - (s + if(n = 3, 40, 0)) * {NS}::BIGINT AS time_ns, if(g = 7, 80.0, 500.0 + (n + g) % 100) AS power_watts,
    if(g = 7, 0.0, 95.0) AS sm_active_percent, 40.0 + n % 40 AS temperature_celsius, 1980.0 AS sm_clock_mhz
FROM range({nodes}) nodes(n), range(8) gpus(g), range({seconds}) seconds(s)
""")


def steps(database: Database, job: str, ranks: int) -> None:
    database.connection.execute(f"""
INSERT INTO steps BY NAME SELECT '{job}' AS job, r AS rank, 'step' AS scope, s AS step,
    {NOW - 100 * NS} + s * {NS}::BIGINT AS start_ns,
    {NS} AS duration_ns, if(r = 5, 800000000, 500000000) AS compute_ns, 200000000 AS communication_ns
FROM range({ranks}) ranks(r), range(20) steps(s)
""")


def accuse(database: Database, node: str, gpu: str, severity: Severity = Severity.CRITICAL) -> str:
    found = Finding(
        kind=FindingKind.COMPUTE_STRAGGLER, severity=severity, confidence=0.97, subject=Subject(job="job-1", node=node, gpu=gpu),
        summary="this GPU computes 40 % longer than its peers", next_step="drain the node", onset=Onset(step=12),
        cost=Cost(seconds_per_step=0.25), evidence=(Evidence("SELECT 1", ({"one": 1},)),),
    )  # fmt: skip
    database.connection.register("given", to_rows([FindingState(found, "open", NOW, NOW)]))
    database.connection.execute("INSERT INTO findings BY NAME FROM given")
    return found.id


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    yield made
    made.connection.close()


@pytest.fixture
def large(database: Database) -> Database:
    readings(database, NODES)
    steps(database, "job-1", 64)
    accuse(database, "r4-n70", "GPU-70-2")
    return database


async def ask_again(pilot: Pilot[None]) -> None:
    """As if a second had gone by."""
    assert isinstance(pilot.app, WarplineApp)
    pilot.app.ask(again=True)
    await settle(pilot)


def led_to(heard: list[Message]) -> list[Place]:
    """Places that keys led to; a message is heard again by whoever it passes."""
    return list(dict.fromkeys(each.place for each in heard if isinstance(each, Go)))


@pytest.mark.parametrize(("columns", "lines"), SIZES)
async def test_ten_thousand_gpus_the_accused_under_the_cursor(large: Database, columns: int, lines: int) -> None:
    async with app_over(large, NOW).run_test(size=(columns, lines)) as pilot:
        await settle(pilot)
        assert "10,000 GPUs" in words(pilot, "Status") and "1 open: critical" in words(pilot, "Status")
        grid = words(pilot, "#grid").splitlines()
        assert all(len(line) <= columns for line in grid)
        assert sum(line.count("◆") for line in grid) == 1, "the cursor is on the screen"
        said = words(pilot, "#chosen")
        assert "r4-n70 GPU 2" in said and "572 of 700 W" in said and "1980 MHz" in said
        assert "critical  compute_straggler: this GPU computes 40 % longer" in said
        assert "0 W ▁▁▂▃▄▅▆▇█ 700 W" in words(pilot, "#legend")
        assert "▶ job-1 | 64 | 19 | 1 s | 50%" in words(pilot, "#jobs") and "rank 5: 800 ms" in words(pilot, "#jobs")


async def test_what_is_typed_narrows_at_each_letter_and_escape_ends_it(large: Database) -> None:
    async with app_over(large, NOW).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("slash", *"temp>=70")
        await settle(pilot)
        hot = 8 * sum(40 + n % 40 >= 70 for n in range(NODES))
        assert f"{hot:,} of 10,000 GPUs" in words(pilot, "#legend")
        await pilot.press(*" r4-n7")
        await settle(pilot)
        assert "of 10,000 GPUs" in words(pilot, "#legend") and f"{hot:,} of" not in words(pilot, "#legend")
        await pilot.press("escape")
        await settle(pilot)
        assert "of 10,000 GPUs" not in words(pilot, "#legend")
        await pilot.press("slash", *"state:idle", "enter", "g")
        await settle(pilot)
        assert "1,249 of 10,000 GPUs" in words(pilot, "#legend"), "one node is silent: what it does is not known"
        assert "r0-n0 GPU 7" in words(pilot, "#chosen") and "held idle" in words(pilot, "#chosen")


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("powr>500", "did you mean 'power'?"),
        ("power>much", "'much' is no number"),
        ("nowhere", "Nothing is left of the fleet"),
    ],
)
async def test_a_search_that_finds_nothing_says_why(database: Database, typed: str, answer: str) -> None:
    readings(database, 4)
    async with app_over(database, NOW).run_test(size=(140, 30)) as pilot:
        await settle(pilot)
        await pilot.press("slash", *typed)
        await settle(pilot)
        assert answer in words(pilot, "#legend") + words(pilot, "#chosen")


async def test_the_cursor_goes_where_the_hand_expects_and_stays_on_its_gpu(database: Database) -> None:
    readings(database, 40)
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        places = []
        for key in ("g", "l", "right", "j", "k", "h", "G"):
            await pilot.press(key)
            await settle(pilot)
            places.append(words(pilot, "#chosen").split("  ")[0].strip())
        line = next(at for at, label in enumerate(words(pilot, "#grid").splitlines()) if label)
        assert line == 0
        assert places[0] == "◆ r0-n0 GPU 0" and places[1:3] == ["◆ r0-n0 GPU 1", "◆ r0-n0 GPU 2"]
        assert places[3] != places[2] and places[4] == places[2] and places[5] == places[1]
        assert places[6] == "◆ r2-n39 GPU 7"
        await pilot.press("o", "b")
        await settle(pilot)
        assert "r2-n39 GPU 7" in words(pilot, "#chosen"), "however the others are laid out"


async def test_a_click_is_as_good_as_the_keys(database: Database) -> None:
    readings(database, 4)
    heard: list[Message] = []
    async with app_over(database, NOW).run_test(size=(120, 30), message_hook=heard.append) as pilot:
        await settle(pilot)
        label = len("r0-n0") + 1
        await pilot.click("#grid", offset=(label + 3 * 2, 0))
        await settle(pilot)
        assert "r0-n0 GPU 3" in words(pilot, "#chosen")
        await pilot.click("#grid", offset=(label + 3 * 2, 0))
        await settle(pilot)
        assert led_to(heard) == [Place("node", node="r0-n0", gpu="GPU-0-3")]


async def test_keys_lead_to_node_incident_and_job(database: Database) -> None:
    readings(database, 4)
    steps(database, "job-0", 8)
    found = accuse(database, "r0-n2", "GPU-2-1")
    heard: list[Message] = []
    async with app_over(database, NOW).run_test(size=(120, 30), message_hook=heard.append) as pilot:
        await settle(pilot)
        for key in ("enter", "escape", "i", "escape", "g", "i", "tab", "enter"):
            await pilot.press(key)
            await settle(pilot)
        assert led_to(heard) == [
            Place("node", node="r0-n2", gpu="GPU-2-1"),
            Place("incident", incident=found),
            Place("job", job="job-0"),
        ], "nothing is found against the first GPU"


async def test_every_measure_is_told_by_signs_and_a_legend(database: Database) -> None:
    """In whatever theme: no state by colour alone."""
    readings(database, 6)
    accuse(database, "r0-n2", "GPU-2-1", Severity.WARNING)
    async with app_over(database, NOW).run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        await pilot.press("g")
        await settle(pilot)
        seen = {}
        for measure in MEASURES:
            legend = words(pilot, "#legend")
            assert legend.strip().startswith(measure.name)
            assert "! accused" in legend
            seen[measure.name] = words(pilot, "#grid")
            await pilot.press("c")
            await settle(pilot)
        assert len(set(seen.values())) >= 5
        assert "H" in seen["state"] and "?" in seen["state"]
        assert "!" in seen["power"] and "!" in seen["finding"]


async def test_groups_are_nodes_racks_or_jobs_in_an_order_of_ones_own(large: Database) -> None:
    async with app_over(large, NOW).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await pilot.press("g", "b")
        await settle(pilot)
        assert words(pilot, "#grid").startswith("r0 ")
        await pilot.press("b", "o", "o", "o", "g")
        await settle(pilot)
        assert "by job, accused first" in words(pilot, "#legend")
        assert words(pilot, "#grid").startswith("job-1 ")


async def test_only_cells_that_changed_are_drawn_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow line each cell counts: noise moves nothing, and one GPU's fall moves its cell."""
    readings(database, 40)
    async with app_over(database, NOW).run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        grid = pilot.app.screen.query_one(HeatGrid)
        drawn: list[Region] = []
        refresh = grid.refresh

        def noted(*regions: Region, **more: bool) -> HeatGrid:
            drawn.extend(regions)
            return refresh(*regions, **more)

        monkeypatch.setattr(grid, "refresh", noted)
        database.connection.execute("UPDATE device_samples SET power_watts = power_watts + 10")
        await ask_again(pilot)
        assert drawn == []
        database.connection.execute("UPDATE device_samples SET power_watts = 100 WHERE gpu_uuid = 'GPU-1-1'")
        await ask_again(pilot)
        assert [(region.width, region.height) for region in drawn] == [(2, 1)]


async def test_a_fleet_of_which_only_steps_are_known_shows_its_jobs(database: Database) -> None:
    steps(database, "trace", 4)
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        assert "No reading of a GPU is stored" in words(pilot, "#empty")
        assert "trace | 4" in words(pilot, "#jobs")


async def test_the_gpu_under_the_cursor_is_copied_as_text(database: Database, tmp_path: Path) -> None:
    readings(database, 2)
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        await pilot.press("g", "y")
        await settle(pilot)
        assert "r0-n0 GPU 0" in pilot.app.clipboard and "NVIDIA H100" in pilot.app.clipboard


def test_a_gpu_that_fell_silent_is_told_from_one_that_idles(database: Database) -> None:
    readings(database, 6)
    fleet = take(database, FleetView(), NOW)
    told = dict(zip(fleet.gpus.keys, (STATES[at] for at in states(fleet)), strict=True))
    assert told["r0-n3/GPU-3-0"] == "silent"
    assert told["r0-n0/GPU-0-0"] == "active"
    assert told["r0-n0/GPU-0-7"] == "held idle"


def test_in_the_past_only_what_was_known_then_is_shown(database: Database) -> None:
    readings(database, 2, NOW - 3600 * NS)
    readings(database, 4)
    accuse(database, "r0-n2", "GPU-2-1")
    assert len(take(database, FleetView(), NOW).gpus) == 32
    then = take(database, FleetView(), NOW, at_ns=NOW - 1800 * NS)
    assert len(then.gpus) == 16 and not then.gpus.accusations


def test_what_lies_where_is_lossless(database: Database) -> None:
    """Each GPU has one cell, whatever the window, the grouping and the order."""
    readings(database, 40)
    fleet = take(database, FleetView(), NOW)
    kept = np.ones(len(fleet.gpus), np.bool_)
    values = fleet.gpus.numbers("power_watts")
    for by in ("node", "rack", "job"):
        for order in ("name", "highest first", "lowest first", "accused first"):
            for room in ((80, 10), (200, 50), (12, 5)):
                layout = arranged(fleet.gpus, groups(fleet.gpus, by), kept, values, order, room)
                assert sorted(layout.slots[layout.slots >= 0]) == list(range(320))
                assert (layout.slots.ravel()[layout.spots] == np.arange(320)).all()
                assert layout.label_width + layout.slots.shape[1] * layout.columns <= max(
                    room[0], layout.label_width + 2
                )


@pytest.mark.parametrize(
    ("node", "name"),
    [("r12-n3", "r12"), ("rack4-node17", "rack4"), ("node-7", "node-7"), ("gpu", "gpu"), ("a1b2c3", "a1b2")],
)
def test_a_rack_is_what_the_names_of_nodes_tell(node: str, name: str) -> None:
    assert rack(node) == name
