"""What somebody sees of incidents: what stands, what it explains and costs, and what is over; filtered and sorted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from seen import SIZES, Database, app_over, settle, take, words
from slow_rank import INCIDENT, NOW, SECOND, open_incident

from warpline_analysis.energy.money import Money
from warpline_proto.finding import Cost, FindingKind, FindingState, Severity, Subject, to_rows
from warpline_tui.app import WarplineApp
from warpline_tui.views.incidents import IncidentsView

SPINS = replace(
    INCIDENT, kind=FindingKind.IDLE_SPIN, severity=Severity.WARNING, subject=Subject(job="tune", node="node-z"), ruled_out=(),
    summary="node-z spins", cost=Cost(gpu_hours=9.0), confidence=0.99,
)  # fmt: skip
OVER = replace(INCIDENT, subject=Subject(job="old", rank=5), summary="it was rank 5", ruled_out=())


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    yield made
    made.connection.close()


def three(database: Database) -> None:
    open_incident(database, INCIDENT)
    open_incident(database, SPINS)
    open_incident(database, OVER, "open", NOW - 60 * SECOND)
    open_incident(database, OVER, "resolved", NOW - 30 * SECOND)


def answer(subject: str, state: str, reason: str) -> dict[str, object]:
    return {"source": "analysis", "subject": subject, "state": state, "reason": reason, "time_ns": NOW}


@pytest.mark.parametrize("size", SIZES)
async def test_one_key_leads_to_what_stands_what_it_explains_and_what_to_do(
    database: Database, size: tuple[int, int]
) -> None:
    three(database)
    async with app_over(database, NOW).run_test(size=size) as pilot:
        await settle(pilot)
        await pilot.press("2")
        await settle(pilot)
        rows = words(pilot, "#incidents").splitlines()
        assert [("critical" in row, "warning" in row, "resolved" in row) for row in rows] == [
            (True, False, False), (False, True, False), (False, False, True),
        ]  # fmt: skip
        assert "1 regression" in rows[0] and "itself" in rows[1]
        assert "2 open, 1 over" in words(pilot, "#said")
        shown = words(pilot, "#incident")
        assert INCIDENT.next_step in shown and "└ regression: Iteration time rose" in shown
        assert "rows of evidence kept: 1; stands for alarms that were not counted" in shown


async def test_it_is_filtered_by_each_letter_and_sorted_by_a_key(database: Database) -> None:
    three(database)
    async with app_over(database, NOW, first="incidents").run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        await pilot.press("slash", *"NODE-Z")
        await settle(pilot)
        assert len(words(pilot, "#incidents").splitlines()) == 1 and "idle_spin" in words(pilot, "#incidents")
        assert "1 shown" in words(pilot, "#said")
        await pilot.press("escape")
        await settle(pilot)
        assert len(words(pilot, "#incidents").splitlines()) == 3
        await pilot.press("o")
        await settle(pilot)
        assert len(words(pilot, "#incidents").splitlines()) == 2
        await pilot.press("s", "s")
        await settle(pilot)
        assert "dearest first" in words(pilot, "#said")
        assert "idle_spin" in words(pilot, "#incidents").splitlines()[0]


async def test_what_it_cost_is_told_in_money_where_a_gpu_hour_has_a_price(database: Database) -> None:
    """GPU time where its price is set, else energy; nothing where neither is."""
    three(database)
    prices = Money(price_per_kwh=0.5, price_per_gpu_hour=3.0, currency="EUR")
    lost = [each.lost for each in take(database, IncidentsView(), NOW, prices=prices).listed]
    assert [None if each is None else (each.amount, each.of) for each in lost[:2]] == [
        (6.0, "GPU time"),
        (27.0, "GPU time"),
    ]
    energy = [each.lost for each in take(database, IncidentsView(), NOW, prices=Money(price_per_kwh=0.5)).listed]
    assert [None if each is None else str(each) for each in energy[:2]] == ["1.00 USD of energy", None]
    assert all(each.lost is None for each in take(database, IncidentsView(), NOW).listed)
    async with app_over(database, NOW, first="incidents", prices=prices).run_test(size=(160, 30)) as pilot:
        await settle(pilot)
        assert "6.00" in words(pilot, "#incidents").splitlines()[0]


def test_in_the_past_it_shows_what_was_open_then(database: Database) -> None:
    three(database)
    past = take(database, IncidentsView(), NOW, at_ns=NOW - 45 * SECOND)
    assert [(each.incident.finding.summary, each.incident.state) for each in past.listed] == [("it was rank 5", "open")]


async def test_healthy_and_cannot_tell_are_not_the_same(database: Database) -> None:
    now_ns = [NOW]
    async with WarplineApp(database.query, clock=lambda: now_ns[0], first="incidents").run_test(
        size=(100, 30)
    ) as pilot:
        await settle(pilot)
        assert words(pilot, "#incident").startswith("CANNOT TELL")
        database.add("source_health", [answer("faults", "unsupported", "no kernel log was read")])
        database.add("source_health", [answer("straggler of job tune", "fresh", "largest excess 0.6 %, gate 5.0 %")])
        assert isinstance(pilot.app, WarplineApp)
        now_ns[0] += 6 * 10**9
        pilot.app.ask(again=True)
        await settle(pilot)
        shown = words(pilot, "#incident")
        assert shown.startswith("HEALTHY") and "largest excess 0.6 %" in shown
        assert "cannot tell  faults: no kernel log was read" in shown


async def test_a_key_copies_the_incident_as_markdown(database: Database) -> None:
    open_incident(database)
    async with app_over(database, NOW, first="incidents").run_test(size=(100, 30)) as pilot:
        await settle(pilot)
        await pilot.press("y")
        await settle(pilot)
        assert pilot.app.clipboard.startswith("## [critical] compute_straggler: rank 2")
        assert "drain node-b" in pilot.app.clipboard


def test_a_finding_of_another_version_is_counted_and_the_others_are_shown(database: Database) -> None:
    open_incident(database)
    database.add(
        "findings", [{"id": "x", "state": "open", "updated_ns": NOW, "document": '{"kind": "invented_later"}'}]
    )
    shown = take(database, IncidentsView(), NOW)
    assert [each.incident.finding.id for each in shown.listed] == [INCIDENT.id] and shown.unread == 1


def test_incidents_are_bounded_and_what_is_left_out_is_counted(database: Database) -> None:
    wide = [replace(INCIDENT, subject=Subject(job="wide", rank=rank), evidence=()) for rank in range(510)]
    states = to_rows([FindingState(finding, "open", NOW, NOW) for finding in wide])
    database.add("findings", states.to_pylist())
    shown = take(database, IncidentsView(), NOW)
    assert (len(shown.listed), shown.total) == (500, 510)
