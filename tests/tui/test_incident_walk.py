"""What somebody sees and does who walks through one incident, with one key onward and one back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from seen import SIZES, Database, app_over, go, settle, take, words
from slow_rank import INCIDENT, JOB, NOW, ONSET, SECOND, open_incident, run
from textual.pilot import Pilot

from warpline_proto.finding import Onset, Subject
from warpline_tui.app import WarplineApp
from warpline_tui.place import Place
from warpline_tui.screens.page import Page
from warpline_tui.views.incident import KERNELS, NEXT, STEPS, WalkView

HERE = Place("incident", incident=INCIDENT.id)


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    run(made)
    open_incident(made)
    yield made
    made.connection.close()


def place(pilot: Pilot[None]) -> Place:
    page = pilot.app.screen
    assert isinstance(page, Page)
    return page.place


async def press(pilot: Pilot[None], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await settle(pilot)


@pytest.mark.parametrize("size", SIZES)
async def test_one_key_leads_onward_to_the_end_and_another_back(database: Database, size: tuple[int, int]) -> None:
    async with app_over(database, NOW).run_test(size=size) as pilot:
        await go(pilot, HERE)
        assert "[verdict]" in words(pilot, "#way")
        assert "CRITICAL: it stands" in words(pilot, "#said") and "└ explains regression" in words(pilot, "#said")
        await press(pilot, "n")
        shown = words(pilot, "#shown")
        assert (
            "network: transfer is even" in shown and "clocks of GPU-2" in shown and "regression by itself" not in shown
        )
        await press(pilot, "right")
        assert "rank 2 against 3 peers doing the same work: compute" in words(pilot, "#compared")
        assert "compute | 900 ms | 601 ms | ▲ 1.50×" in words(pilot, "#lines")
        assert f"▲ since {ONSET}" in words(pilot, "#chart")
        await press(pilot, "enter")
        assert words(pilot, "#timed").splitlines()[0].startswith("ampere_gemm | 3 ms | 2 ms | ▲ 1.50×")
        assert "100%" in words(pilot, "#mirror")
        await press(pilot, "enter")
        assert "SELECT rank, duration_ns FROM steps" in words(pilot, "#query")
        await press(pilot, "enter", "enter", "enter")
        assert "[what to do]" in words(pilot, "#way"), "the end is the end"
        assert "warpline capture kernels --job pretrain --rank 2" in words(pilot, "#looks")
        await press(pilot, "b", "left")
        assert "[kernels]" in words(pilot, "#way")


async def test_the_cursor_chooses_what_is_drawn(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(100, 30)) as pilot:
        await go(pilot, HERE)
        await press(pilot, "n", "n", "up")
        assert words(pilot, "#compared").rstrip().endswith(": step time")
        await press(pilot, "n", "down")
        assert "10 times a rank" in words(pilot, "#mirror"), "one attention in each of the ten steps since it began"


async def test_the_sql_under_the_cursor_is_copied_elsewhere_the_incident(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(100, 30)) as pilot:
        await go(pilot, HERE)
        await press(pilot, "y")
        assert pilot.app.clipboard.startswith("## [critical] compute_straggler")
        await press(pilot, "n", "n", "n", "n", "down", "y")
        assert pilot.app.clipboard == "SELECT 'two' AS second"


async def test_the_sql_opens_in_the_console_and_the_timeline_on_the_accused(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(100, 30)) as pilot:
        await go(pilot, HERE)
        await press(pilot, "n", "n", "n", "n", "e")
        assert place(pilot) == Place("sql", sql="SELECT rank, duration_ns FROM steps")
        pilot.app.pop_screen()
        await press(pilot, "t")
        assert place(pilot) == Place("timeline", node="node-b", job=JOB, rank=2)


async def test_an_incident_that_is_over_says_what_that_means(database: Database) -> None:
    """Resolved is not ended, and neither is called healthy without a reason."""
    async with app_over(database, NOW).run_test(size=(100, 30)) as pilot:
        for state, said in (("resolved", "RESOLVED: the question was asked again"), ("ended", "CANNOT TELL any more")):
            open_incident(database, state=state, updated_ns=NOW + (1 if state == "resolved" else 2))
            await go(pilot, HERE)
            assert said in words(pilot, "#said")


async def test_what_is_not_there_says_why_and_what_would_give_it(database: Database) -> None:
    for table in ("steps", "phases", "kernel_clusters"):
        database.connection.execute(f"DELETE FROM {table}")
    async with app_over(database, NOW).run_test(size=(100, 30)) as pilot:
        await go(pilot, HERE)
        await press(pilot, "n", "n")
        said = " ".join(words(pilot, "#compared").split())
        assert said.startswith("No step, phase or kernel of job pretrain is kept. Steps come from the hook")
        await press(pilot, "n")
        assert "No step, phase or kernel of job pretrain is kept" in words(pilot, "#durations")
        await press(pilot, "n", "n")
        assert "--rank 2" in words(pilot, "#looks"), "it can be asked of the node nonetheless"
        nobody = replace(INCIDENT, subject=Subject(node="node-b"))
        open_incident(database, nobody)
        await go(pilot, Place("incident", incident=nobody.id))
        await press(pilot, *["n"] * 5)
        assert "No rank is known by number" in words(pilot, "#next_step")
        await go(pilot, Place("incident", incident="hang-00000000"))
        assert "There is no incident hang-00000000" in words(pilot, "#whom")


async def test_nothing_is_sent_without_operator_rights(database: Database) -> None:
    sent: list[Sequence[str]] = []

    def command(words: Sequence[str]) -> str:
        sent.append(words)
        return "done: 239 rows"

    async with app_over(database, NOW, command=command).run_test(size=(120, 30)) as pilot:
        await go(pilot, HERE)
        await press(pilot, "left", "c", *["n"] * 5, "c", "c")
        assert sent == []
        assert any("--operator" in each.message for each in pilot.app._notifications)


async def test_an_operator_sends_the_request_by_pressing_twice(database: Database) -> None:
    sent: list[Sequence[str]] = []

    def command(words: Sequence[str]) -> str:
        sent.append(words)
        return "done: 239 rows"

    async with app_over(database, NOW, operator=True, command=command).run_test(size=(120, 30)) as pilot:
        await go(pilot, HERE)
        await press(pilot, *["n"] * 5, "c")
        assert sent == [], "the first time it is only told"
        await press(pilot, "down", "c")
        assert sent == [], "another one is under the cursor now"
        await press(pilot, "c")
        assert sent == [("capture", "trace", "--job", JOB, "--ranks", "2,0,1,3")]
        assert any("done: 239 rows" in each.message for each in pilot.app._notifications)


def test_how_far_requests_got_is_told_as_it_was_then(database: Database) -> None:
    asked = {"id": "a", "job": JOB, "rank": 2, "what": "kernels", "requested_ns": NOW - 9 * SECOND}
    database.add("captures", [asked | {"state": "requested", "updated_ns": NOW - 9 * SECOND}])
    database.add("captures", [asked | {"state": "done", "detail": "239 rows", "updated_ns": NOW - 2 * SECOND}])
    view = WalkView(INCIDENT.id, NEXT)
    assert [each.state for each in take(database, view, NOW).captures] == ["done"]
    open_incident(database, updated_ns=NOW - 8 * SECOND)
    assert [each.state for each in take(database, view, NOW, at_ns=NOW - 5 * SECOND).captures] == ["requested"]


def test_in_the_past_it_shows_the_steps_and_kernels_of_then(database: Database) -> None:
    open_incident(database, updated_ns=NOW - 8 * SECOND)
    past = NOW - 6 * SECOND
    line = take(database, WalkView(INCIDENT.id, STEPS), NOW, at_ns=past).steps.lines[0]
    assert [point[0] for point in line.points] == list(range(11))
    assert take(database, WalkView(INCIDENT.id, KERNELS), NOW, at_ns=past).durations.steps == (ONSET, 10)


@pytest.mark.parametrize(
    ("subject", "accused", "peers", "why"),
    [
        (Subject(job=JOB, dp=2, stage=0, group="four ranks"), (2,), (0, 1, 3), ""),
        (Subject(job=JOB, node="node-b"), (2, 3), (0, 1), ""),
        (Subject(job=JOB), (0, 1, 2, 3), (), "It accuses no rank"),
        (Subject(job=JOB, rank=9), (), (), "None of the 4 ranks"),
        (Subject(node="node-b"), (), (), "It accuses no job"),
        (Subject(job="gone", rank=1), (), (), "No step, phase or kernel of job gone"),
    ],
)
def test_whoever_is_accused_is_held_against_those_that_do_the_same(
    database: Database, subject: Subject, accused: tuple[int, ...], peers: tuple[int, ...], why: str
) -> None:
    other = replace(INCIDENT, subject=subject)
    open_incident(database, other)
    who = take(database, WalkView(other.id, STEPS), NOW).who
    assert (who.accused, who.peers) == (accused, peers)
    assert who.why.startswith(why) if why else not who.why


def test_steps_around_the_onset_are_shown_where_the_newest_are_far_from_it(database: Database) -> None:
    later = [
        {"job": "long", "rank": rank, "pp": 0, "scope": "step", "step": 10 * step, "duration_ns": 1_000}
        for rank in (0, 1)
        for step in range(400)
    ]
    database.add("steps", later)
    old = replace(INCIDENT, subject=Subject(job="long", rank=0), onset=Onset(step=500))
    open_incident(database, old)
    points = take(database, WalkView(old.id, STEPS), NOW).steps.lines[0].points
    assert (points[0][0], points[-1][0], len(points)) == (100, 2490, 240), "40 before it, 200 since"


async def test_the_app_is_whole_when_an_incident_goes_while_it_is_looked_at(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await go(pilot, HERE)
        database.connection.execute("DELETE FROM findings")
        assert isinstance(pilot.app, WarplineApp)
        pilot.app.ask(again=True)
        await settle(pilot)
        assert "There is no incident" in words(pilot, "#whom")
        await press(pilot, "n", "n", "y", "e", "c")
