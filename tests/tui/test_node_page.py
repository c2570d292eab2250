"""The node page: what somebody sees of one machine, as with nvitop, and what is odd about its links, log and agent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from seen import Database, app_over, go, settle, take, words

from warpline_analysis.xid import XIDS
from warpline_tui.answers import Answers
from warpline_tui.held import reasons
from warpline_tui.place import Place
from warpline_tui.spans import DAY, MONTH, RECENT
from warpline_tui.view import Ask
from warpline_tui.views.node import NodeView
from warpline_tui.widgets.parts import Parts
from warpline_tui.xids import XIDS as TOLD
from warpline_tui.xids import meaning

NS = 10**9
NOW = 1_800_000_000 * NS
SIZES = [(80, 24), (200, 60)]


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    yield made
    made.connection.close()


def reading(gpu: int, seconds_ago: int, **more: Any) -> dict[str, Any]:
    row = {
        "node": "node-7", "source": "nvml", "gpu_uuid": f"GPU-{gpu}", "gpu_index": gpu, "gpu_name": "NVIDIA H100 80GB HBM3",
        "bus_id": f"0000:{gpu:02x}:00.0", "time_ns": NOW - seconds_ago * NS,
        "power_watts": 600.0 + gpu, "power_limit_watts": 700.0,
        "sm_clock_mhz": 1980.0, "sm_clock_max_mhz": 1980.0, "clock_event_reasons": 0, "gpu_utilization_percent": 99.0,
        "sm_active_percent": 84.0, "temperature_celsius": 61.0, "memory_used_bytes": 60 * 2**30, "memory_total_bytes": 80 * 2**30,
        "ecc_corrected": 0, "ecc_uncorrected": 0,
    }  # fmt: skip
    return row | more


def counter(device: str, name: str, value: int, seconds_ago: int = 0, unit: str = "errors") -> dict[str, Any]:
    place = {"node": "node-7", "source": "infiniband", "link_kind": "infiniband", "device": device, "port": 1}
    return place | {
        "counter": name,
        "value": value,
        "unit": unit,
        "saturated": False,
        "time_ns": NOW - seconds_ago * NS,
    }


def rails(database: Database) -> None:
    """Four rails of 400 Gbit/s: one is down, one was trained slower, has errors and carries little."""
    rows = []
    for rail in range(4):
        device = f"mlx5_{rail}"
        rows += [counter(device, "state", 1 if rail == 3 else 4, 1, "code")]
        rows += [counter(device, "rate", (100 if rail == 2 else 400) * 10**9, 1, "bit/s")]
        for seconds_ago in (20, 1):
            sent = (20 - seconds_ago) * (4 if rail == 2 else 20) * 10**9
            rows.append(counter(device, "port_xmit_data", 0 if rail == 3 else sent, seconds_ago, "B"))
            rows.append(counter(device, "symbol_error", 4 if rail == 2 and seconds_ago == 1 else 0, seconds_ago))
    database.add("link_counters", rows)


def fill(database: Database, gpus: int = 8) -> None:
    hot = {"clock_event_reasons": 0x40, "sm_clock_mhz": 990.0, "temperature_celsius": 91.0}
    rows = []
    for gpu in range(gpus):
        for seconds_ago in range(0, 600, 10):
            more = hot if gpu == 3 else {}
            held = {"hardware_thermal_ns": (600 - seconds_ago) * NS // 2} if gpu == 3 else {"hardware_thermal_ns": 0}
            rows.append(reading(gpu, seconds_ago, **held, **more))
    database.add("device_samples", rows)
    database.add("device_samples", [reading(0, 5, node="node-8", gpu_uuid="GPU-other")])
    database.add(
        "steps",
        [
            {"job": "train", "rank": 8 + gpu, "node": "node-7", "gpu_uuid": f"GPU-{gpu}", "scope": "step", "step": step,
             "start_ns": NOW - (20 - step) * NS, "duration_ns": NS}
            for gpu in range(gpus) for step in range(20)
        ],
    )  # fmt: skip
    database.add(
        "gpu_processes",
        [{"node": "node-7", "gpu_uuid": f"GPU-{gpu}", "gpu_index": gpu, "time_ns": NOW - 60 * NS, "state": "resident",
          "pid": 4000 + gpu, "process": "python3", "user": "ada", "job": "train", "rank": 8 + gpu, "memory_bytes": 59 * 2**30}
         for gpu in range(gpus)]
        + [{"node": "node-7", "gpu_uuid": "GPU-0", "gpu_index": 0, "time_ns": NOW - seconds * NS, "state": state, "pid": 77}
           for seconds, state in ((90, "resident"), (30, "gone"))],
    )  # fmt: skip
    database.add(
        "log_events",
        [{"node": "node-7", "time_ns": NOW - 300 * NS, "kind": "xid", "code": 79, "severity": "critical",
          "bus_id": "0000:03:00.0", "message": "NVRM: Xid (PCI:0000:03:00): 79, GPU has fallen off the bus."}],
    )  # fmt: skip
    rails(database)


def agent(database: Database, **more: Any) -> None:
    row = {
        "node": "node-7", "agent": "node-7", "version": "0.1.0", "time_ns": NOW - 10 * NS, "heard_ns": NOW - 2 * NS,
        "troubles": [],
        "detail": "", "clock_offset_ns": 400_000, "clock_error_ns": 90_000, "cpu_percent": 0.7, "rss_bytes": 80 * 2**20,
        "waiting_bytes": 0, "detail_level": 0,
    }  # fmt: skip
    database.add("agents", [row | more])


@pytest.mark.parametrize(("columns", "lines"), SIZES)
async def test_an_operator_sees_every_gpu_and_what_is_odd(database: Database, columns: int, lines: int) -> None:
    fill(database)
    agent(database, troubles=["dropping"], detail="12 rows fell off in the last minute")
    async with app_over(database, NOW).run_test(size=(columns, lines)) as pilot:
        await settle(pilot)
        await go(pilot, Place("node", node="node-7"))
        heading = words(pilot, "#node")
        assert "node-7  8 × NVIDIA H100 80GB HBM3" in heading and "train: ranks 8-15" in heading
        assert "node 1 of 2" in " ".join(heading.split())
        gpus = words(pilot, "#node-gpus").splitlines()
        assert len(gpus) == 8
        assert gpus[0].startswith("0 | 600/700 | 99% | 84% | 1980 | nothing | 61 | 60/80 GiB | ▇▇▇▇▇▇▇▇▇▇▇▇")
        assert "990 | HW thermal | 91" in gpus[3] and "train 11" in gpus[3]
        said = words(pilot, "#part-overview")
        assert "Clocks are held on GPU 3: HW thermal." in said
        assert "Link mlx5_2:1 (infiniband): 100 Gbit/s, others have 400; sends 20% of what the other rails send" in said
        assert "4 symbol_error in 10 min" in said
        assert "Link mlx5_3:1 (infiniband): DOWN, 3 others carry traffic" in said
        assert "5 min ago: Xid 79: fell off the bus" in said
        assert "Agent: dropping. 12 rows fell off in the last minute" in said
        assert pilot.app.screen.query_one(Parts).size.height >= 6, "there is room for it"


async def test_each_part_is_a_key_away(database: Database) -> None:
    fill(database)
    agent(database)
    async with app_over(database, NOW).run_test(size=(140, 40)) as pilot:
        await settle(pilot)
        await go(pilot, Place("node", node="node-7", gpu="GPU-3"))
        await pilot.press("tab")
        await settle(pilot)
        told = words(pilot, "#part-gpu")
        assert "GPU 3" in told and "held: HW thermal: too hot: the hardware at least halves its clocks" in told
        assert "held by HW thermal for 50.0% of the last 10 min" in told
        assert "last 10 min, of readings, a mark is 10 s" in told and "  990 MHz" in told
        await pilot.press("tab")
        await settle(pilot)
        programs = words(pilot, "#part-programs")
        assert "python3" in programs and "4007" in programs and "ada" in programs
        assert " 77 " not in programs, "it is gone"
        await pilot.press("tab")
        await settle(pilot)
        links = words(pilot, "#part-links").splitlines()
        assert "mlx5_2:1" in links[1] and "mlx5_3:1" in links[2] and links[3].rstrip().endswith("nothing"), (
            "the odd ones first"
        )
        await pilot.press("tab")
        await settle(pilot)
        assert "fallen off the bus" in words(pilot, "#part-log")
        await pilot.press("tab")
        await settle(pilot)
        assert "CPU 0.7 % of one core, memory 80.0 MiB" in words(pilot, "#part-agent")
        assert "400 µs ± 90 µs off the collector's" in words(pilot, "#part-agent")
        await pilot.press("shift+tab", "shift+tab", "shift+tab", "shift+tab", "enter")
        await settle(pilot)
        assert pilot.app.screen.query_one(Parts).chosen == "gpu", "enter on a GPU tells all of it"


async def test_sixteen_gpus_fit_and_the_rest_stays_in_sight(database: Database) -> None:
    fill(database, 16)
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        await go(pilot, Place("node", node="node-7"))
        assert len(words(pilot, "#node-gpus").splitlines()) == 16
        assert pilot.app.screen.query_one("#node-gpus").size.height >= 8
        assert pilot.app.screen.query_one(Parts).size.height >= 5


async def test_keys_go_to_other_nodes_and_over_a_longer_time(database: Database) -> None:
    fill(database)
    mean = {"node": "node-7", "gpu_uuid": "GPU-0", "gpu_index": 0, "power_watts": 333.0, "updated_ns": NOW}
    database.add("device_history", [mean | {"time_ns": NOW - hour * 3600 * NS} for hour in range(1, 500)])
    async with app_over(database, NOW).run_test(size=(140, 40)) as pilot:
        await settle(pilot)
        await go(pilot, Place("node", node="node-7"))
        for span in (DAY, MONTH, RECENT):
            await pilot.press("w")
            await settle(pilot)
            assert words(pilot, "#grain").strip() == f"past: {span.grain}"
        await pilot.press("right_square_bracket")
        await settle(pilot)
        assert words(pilot, "#node").startswith("node-8  1 ×")
        await pilot.press("right_square_bracket")
        await settle(pilot)
        assert words(pilot, "#node").startswith("node-7")


async def test_a_store_without_nodes_says_what_to_do(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        await pilot.press("7")
        await settle(pilot)
        assert "No node has been heard of yet" in words(pilot, "#node")


def test_months_ago_the_history_is_shown_and_says_its_grain(database: Database) -> None:
    fill(database)
    then = NOW - 90 * 86_400 * NS
    mean = {
        "node": "node-7",
        "gpu_uuid": "GPU-0",
        "gpu_index": 0,
        "gpu_name": "H100",
        "power_watts": 333.0,
        "updated_ns": NOW,
    }
    database.add("device_history", [mean | {"time_ns": then - each * 600 * NS} for each in range(1, 100)])
    node = take(database, NodeView("node-7"), NOW, then)
    assert [(gpu.gpu_index, gpu.power_watts) for gpu in node.gpus] == [(0, 333.0)]
    assert node.span == DAY and node.lines["GPU-0"].power_watts[-2] == 333.0
    assert node.heard_ns is None and node.processes == () and node.events == ()


def test_a_past_moment_knows_nothing_of_what_came_after(database: Database) -> None:
    fill(database)
    node = take(database, NodeView("node-7"), NOW, NOW - 310 * NS)
    assert node.heard_ns == NOW - 310 * NS and node.events == () and node.ports == ()


def test_a_silent_node_is_shown_as_it_was_last(database: Database) -> None:
    database.add("device_samples", [reading(0, 7200), reading(0, 1, node="node-8")])
    node = take(database, NodeView("node-7"), NOW)
    assert node.heard_ns == NOW - 7200 * NS and len(node.gpus) == 1


def test_what_was_replaced_is_told_from_when_to_when(database: Database) -> None:
    place = {"node": "node-7", "source": "own", "kind": "gpu", "slot": "0000:03:00.0", "gpu_index": 3}
    database.add(
        "inventory",
        [
            place | {"identity": "GPU-old", "time_ns": NOW - 900 * NS, "first_ns": NOW - 900 * NS},
            place
            | {"identity": "GPU-new", "replaced": "GPU-old", "time_ns": NOW - 100 * NS, "first_ns": NOW - 100 * NS},
        ],
    )
    fill(database)
    tenures = take(database, NodeView("node-7"), NOW).tenures
    assert [(each.identity, each.replaced_by) for each in tenures] == [("GPU-new", None), ("GPU-old", "GPU-new")]


def test_what_is_said_of_an_xid_is_what_the_analysis_says() -> None:
    assert {code: xid.meaning for code, xid in XIDS.items()} == TOLD
    assert meaning("xid", 79) == "Xid 79: fell off the bus"
    assert meaning("off_bus", None) == "off bus"


def test_the_gravest_reason_comes_first() -> None:
    assert [each.short for each in reasons(0x40 | 0x8 | 0x1)] == ["HW thermal", "HW slowdown", "idle"]
    assert reasons(None) == () and reasons(0) == ()


def test_what_changes_slowly_is_asked_for_rarely(database: Database) -> None:
    """Each second only the newest readings and what was found; the rest every few seconds."""
    fill(database)
    answers = Answers(database.query, lambda: NOW + later[0] * NS)
    later, asked = [0], []
    for second in range(8):
        later[0] = second
        database.add("device_samples", [reading(0, -second)])
        database.asked.clear()
        NodeView("node-7").take(Ask(answers, NOW + second * NS))
        asked.append(len(database.asked))
    assert asked[0] >= 12 and sorted(asked)[:4] == [4] * 4
