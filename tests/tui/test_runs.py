"""A job that is started again under its name counts its steps anew: every screen shows the run that goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from seen import Database, take

from warpline_proto.finding import Onset
from warpline_tui.answers import Answers
from warpline_tui.beside import steps as walk
from warpline_tui.beside.ranks import Compared
from warpline_tui.view import Ask, Moment
from warpline_tui.views.fleet import FleetView
from warpline_tui.views.job import JobView
from warpline_tui.views.kernels import KernelsView
from warpline_tui.views.roster import RosterView

NS = 10**9
NOW = 1_800_000_000 * NS
FIRST_ENDED = NOW - 4200 * NS


@pytest.fixture
def database() -> Iterator[Database]:
    """Four ranks for 3,000 steps of 1 s up to number 52,999; an hour later two for 100 of 2 s, from 0 on."""
    made = Database()
    for ranks, steps, first, start_ns, seconds in (
        (4, 3_000, 50_000, FIRST_ENDED - 3_000 * NS, 1),
        (2, 100, 0, NOW - 200 * NS, 2),
    ):
        made.connection.execute(f"""
INSERT INTO steps BY NAME SELECT 'train' AS job, r AS rank, 'node-' || r AS node, 'step' AS scope, {first} + s AS step,
    {start_ns} + s * {seconds * NS} + r * 1_000_000::BIGINT AS start_ns, {seconds * NS}::BIGINT AS duration_ns,
    'realtime@node-' || r AS clock FROM range({steps}) x(s), range({ranks}) y(r)""")
    yield made
    made.connection.close()


def test_the_fleet_tells_of_the_run_that_goes_on(database: Database) -> None:
    [job] = take(database, FleetView(), NOW).jobs
    assert (job.ranks, job.step, job.step_ns) == (2, 99, 2 * NS)
    assert [(rank.rank, rank.step, rank.step_ns) for rank in take(database, RosterView(), NOW).ranks] == [
        (0, 99, 2 * NS),
        (1, 99, 2 * NS),
    ]


def test_the_job_tells_of_the_run_that_goes_on(database: Database) -> None:
    shown = take(database, JobView("train"), NOW)
    assert shown.size is not None and (shown.size.last_step, shown.size.ranks) == (99, 2)
    assert [mark.step for mark in shown.course.marks] == list(range(100))
    assert {mark.median_ns for mark in shown.course.marks} == {2 * NS}
    assert [rank.rank for rank in shown.ranks] == [0, 1]


def test_kernels_are_those_of_the_newest_steps(database: Database) -> None:
    kernel = {"job": "train", "rank": 0, "kernel_id": 1, "category": "compute", "sum_ns": NS, "count": 1}
    old = {**kernel, "step": 52_999, "start_ns": FIRST_ENDED - NS, "end_ns": FIRST_ENDED}
    new = {**kernel, "step": 99, "start_ns": NOW - 2 * NS, "end_ns": NOW, "count": 5}
    database.add("kernel_clusters", [old, new])
    found = take(database, KernelsView(("train", 0)), NOW).durations
    assert found.steps == (36, 99) and found.items[0].mine.count == 5


def test_an_incident_shows_the_steps_of_the_run_in_which_it_began(database: Database) -> None:
    """The run that goes on came from step 52,900 again."""
    database.connection.execute("UPDATE steps SET step = step + 52_900 WHERE step < 100")
    ask = Ask(Answers(database.query, lambda: NOW), NOW, Moment())
    who = Compared("train", accused=(1,), peers=(0,))
    for onset, wall_ns in ((Onset(NOW - 100 * NS, 52_950), 2 * NS), (Onset(FIRST_ENDED - 50 * NS, 52_950), NS)):
        whole = walk.steps(ask, who, onset).lines[0]
        assert {point[1] for point in whole.points} == {wall_ns}
        assert (whole.points[0][0] == 52_900) == (wall_ns == 2 * NS)


def test_then_the_run_of_then_is_told_of(database: Database) -> None:
    at_ns = FIRST_ENDED - 1_000 * NS
    [job] = take(database, FleetView(), NOW, at_ns).jobs
    assert (job.ranks, job.step, job.step_ns) == (4, 52_000, NS)
    shown = take(database, JobView("train"), NOW, at_ns)
    assert shown.size is not None and (shown.size.last_step, shown.size.ranks) == (52_000, 4)
