"""The life of a finding: opened once, updated when it matters, resolved when it stays away, ended when nobody can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from warpline_analysis.detector import Detector, Reader
from warpline_collector.continuous import Config, Continuous
from warpline_collector.incidents import (
    ABSENT_PASSES,
    REFRESH_NS,
    REOPEN_NS,
    SILENCE_NS,
    STANDING_SILENCE_NS,
    Incidents,
    after,
    restored,
)
from warpline_collector.pulse import FLEET_SILENCE_NS, LISTEN_NS
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.finding import (
    Check,
    Cost,
    Finding,
    FindingKind,
    FindingState,
    Report,
    Severity,
    Subject,
    Verdict,
)
from warpline_proto.tables import SOURCE_HEALTH, STEPS

SLOW = Finding(FindingKind.COMPUTE_STRAGGLER, Severity.WARNING, 0.8, Subject(job="j", rank=3), "slow", "look")
WELL = Check("question", Verdict.HEALTHY, "j", "largest excess 0.4 %, gate 10 %")
BLIND = Check("question", Verdict.UNKNOWN, "j", "no rows")
FAILED = Check("question", Verdict.UNKNOWN, None, "the detector failed: out of memory")


def found(*findings: Finding, checks: Sequence[Check] = ()) -> dict[str, Report]:
    """What one detector said."""
    return {"question": Report(tuple(findings), tuple(checks))}


HEALTHY = found(checks=[WELL])


def states_of(states: list[FindingState]) -> list[tuple[str, int, int]]:
    return [(state.state, state.opened_ns, state.updated_ns) for state in states]


def test_a_finding_is_opened_once() -> None:
    """The same accusation in every pass is one row."""
    known, states = after({}, found(SLOW), 100)
    assert states_of(states) == [("open", 100, 100)]
    assert [state.detector for state in states] == ["question"]
    known, states = after(known, found(SLOW), 200)
    assert states == []
    assert list(known) == [SLOW.id]


def test_a_graver_finding_is_told_at_once_and_keeps_its_age() -> None:
    """A change that an operator acts on is written; the moment of opening stays."""
    known, _ = after({}, found(SLOW), 100)
    _, states = after(known, found(replace(SLOW, severity=Severity.CRITICAL)), 200)
    assert states_of(states) == [("open", 100, 200)]


def test_figures_that_grow_are_told_once_a_minute_and_sooner_while_they_are_young() -> None:
    """Cost so far changes in every pass; it becomes fewer and fewer rows, the first of them soon."""
    known: Incidents = {}
    rows: list[int] = []
    for second in range(0, 600, 10):
        grown = replace(SLOW, cost=Cost(gpu_hours=float(second)))
        known, states = after(known, found(grown), second * 10**9)
        rows += [second] * len(states)
    assert rows[:6] == [0, 10, 20, 40, 80, 140]
    assert rows[-1] - rows[-2] == REFRESH_NS // 10**9


def test_an_incident_tells_how_many_alarms_it_spared_an_operator() -> None:
    """Each pass counts, with what the incident explains; that alone is written when it has doubled, and in the end."""
    folded = [f"regression by itself: step {number} took longer" for number in range(3)]
    root = replace(
        SLOW, ruled_out=("network: even", *folded, "4 more findings by itself: they follow from this as well")
    )
    known: Incidents = {}
    rows: list[tuple[int, int | None]] = []
    for pass_number in range(64):
        known, states = after(known, found(root), pass_number * REFRESH_NS)
        known = restored(state.written for state in known.values()) if pass_number == 3 else known
        rows += [(pass_number + 1, state.alarms) for state in states]
    assert rows == [(passes, 8 * passes) for passes in (1, 2, 4, 8, 16, 32, 64)]
    for _ in range(2):
        known, _ = after(known, found(root), 65 * REFRESH_NS)
    for _ in range(ABSENT_PASSES):
        known, states = after(known, HEALTHY, 66 * REFRESH_NS)
    assert [(state.state, state.alarms) for state in states] == [("resolved", 8 * 66)]
    _, [again] = after(known, found(root), 67 * REFRESH_NS)
    assert (again.state, again.opened_ns, again.alarms) == ("open", 0, 8 * 67)


def test_a_finding_is_resolved_only_after_it_stayed_away() -> None:
    """One quiet pass proves nothing, and one loud pass starts the count anew."""
    known: Incidents = after({}, found(SLOW), 100)[0]
    for _ in range(2):
        for _ in range(ABSENT_PASSES - 1):
            known, states = after(known, HEALTHY, 200)
            assert states == []
        known, states = after(known, found(SLOW), 300)
        assert states == []
    for _ in range(ABSENT_PASSES):
        known, states = after(known, HEALTHY, 400)
    assert states_of(states) == [("resolved", 100, 400)]
    assert after(known, HEALTHY, 500)[1] == []
    known, _ = after(known, HEALTHY, 400 + REOPEN_NS)
    assert known == {}


def test_a_finding_that_is_folded_into_its_root_is_not_told_beside_it() -> None:
    """What was an accusation of its own stands under its cause from the pass on that knows the cause."""
    root = replace(SLOW, kind=FindingKind.THROTTLING)
    known, _ = after({}, found(SLOW), 100)
    known, states = after(known, found(root), 200, asked=found(SLOW, root))
    assert sorted((state.finding.kind, state.state) for state in states) == [
        (FindingKind.COMPUTE_STRAGGLER, "resolved"),
        (FindingKind.THROTTLING, "open"),
    ]
    _, states = after(known, found(root), 300, asked=found(SLOW, root))
    assert states == []


def test_a_late_rank_that_goes_on_by_another_name_is_told_once() -> None:
    """On fewer rows one phase of a rank seemed slow alone, on more all of them are: no two accusations of one rank."""
    phase = replace(SLOW, kind=FindingKind.PIPELINE_BUBBLE)
    known, _ = after({}, found(phase), 100)
    known, states = after(known, found(SLOW), 200)
    assert sorted((state.finding.kind, state.state) for state in states) == [
        (FindingKind.COMPUTE_STRAGGLER, "open"),
        (FindingKind.PIPELINE_BUBBLE, "resolved"),
    ]
    unjudged, _ = after(after({}, found(phase), 100)[0], {"other": Report((SLOW,))}, 200)
    assert unjudged[phase.id].written.state == "open"


@pytest.mark.parametrize(
    "said", [found(), found(checks=[BLIND]), found(checks=[FAILED]), {}, {"other": HEALTHY["question"]}]
)
def test_a_pass_that_could_not_judge_resolves_nothing(said: dict[str, Report]) -> None:
    """The detector failed, had no rows of the job, or another question was answered: the accusation stands."""
    known, _ = after({}, found(SLOW), 100)
    for _ in range(ABSENT_PASSES + 1):
        known, states = after(known, said, 200)
        assert states == []
    assert list(known) == [SLOW.id]


def test_a_finding_is_resolved_when_its_job_is_judged_by_accusing_another() -> None:
    """The slow rank was replaced, and now another one is slow: two findings, one of them over."""
    other = replace(SLOW, subject=Subject(job="j", rank=5))
    known, _ = after({}, found(SLOW), 100)
    for _ in range(ABSENT_PASSES):
        known, states = after(known, found(other), 200)
    assert [(state.finding.subject.rank, state.state) for state in states] == [(3, "resolved")]


def test_a_finding_that_flaps_is_one_incident() -> None:
    """Gone and back within minutes: it keeps the moment it was opened. Back after long: another incident."""
    known, _ = after({}, found(SLOW), 100)
    for _ in range(ABSENT_PASSES):
        known, _ = after(known, HEALTHY, 400)
    again, states = after(known, found(SLOW), 400 + REOPEN_NS - 1)
    assert states_of(states) == [("open", 100, 400 + REOPEN_NS - 1)]
    assert again[SLOW.id].absent == 0
    _, states = after(known, found(SLOW), 400 + REOPEN_NS)
    assert states_of(states) == [("open", 400 + REOPEN_NS, 400 + REOPEN_NS)]


def test_a_finding_whose_job_fell_silent_has_ended_and_stays_so() -> None:
    """Its rows are still in the store and still accuse: it is neither open for ever nor called mended."""
    known, _ = after({}, found(SLOW), 100)
    known, states = after(known, found(SLOW), 200, lambda _: SILENCE_NS - 1)
    assert states == []
    known, states = after(known, found(SLOW), 300, lambda _: SILENCE_NS)
    assert states_of(states) == [("ended", 100, 300)]
    known, states = after(known, found(SLOW), 400, lambda _: SILENCE_NS)
    assert states == []
    _, states = after(known, found(SLOW), 500, lambda _: 0)
    assert states_of(states) == [("open", 500, 500)], "the job is back, and as slow"


def test_a_hang_does_not_end_because_the_job_is_silent() -> None:
    """Silence is what a hang looks like; after a day of it nobody looks at the job any more."""
    hang = replace(SLOW, kind=FindingKind.HANG)
    known, _ = after({}, found(hang), 100)
    known, states = after(known, found(hang), 200, lambda _: STANDING_SILENCE_NS - 1)
    assert states == []
    _, states = after(known, found(hang), 300, lambda _: STANDING_SILENCE_NS)
    assert states_of(states) == [("ended", 100, 300)]


def test_open_findings_are_remembered_over_a_restart() -> None:
    """What a store remembers as open is not opened again, and is resolved only by the detector that opened it."""
    known = restored([FindingState(SLOW, "open", 100, 100, "question")])
    assert after(known, found(SLOW), 200)[1] == []
    for _ in range(ABSENT_PASSES):
        known, states = after(known, {"other": HEALTHY["question"]}, 300)
        assert states == []


def test_two_detectors_that_agree_make_one_finding() -> None:
    """The graver of the two speaks."""
    graver = replace(SLOW, severity=Severity.CRITICAL, summary="very slow")
    _, states = after({}, {"one": Report((SLOW,)), "other": Report((graver,))}, 100)
    assert [(state.finding.summary, state.detector) for state in states] == [("very slow", "other")]


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 10**18

    def __call__(self) -> int:
        return self.now_ns


Opened = Callable[[Detector], Continuous]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckDBStore]:
    opened = DuckDBStore(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def analysis(store: DuckDBStore, clock: Clock) -> Iterator[Opened]:
    """A detector -> the continuous analysis over the store with it, as after a restart of the collector."""
    with CatalogReader(store.directory) as reader:
        yield lambda detector: Continuous(store, reader, clock=clock, detectors={"question": detector})


def sends(store: DuckDBStore, clock: Clock, *jobs: str) -> None:
    """A step of each job, recorded at some time long gone, and a live agent."""
    newest = store.query("SELECT coalesce(max(start_ns), 0) AS newest FROM steps").to_pylist()[0]["newest"]
    rows = [{"job": job, "rank": 0, "step": newest, "start_ns": newest + 1} for job in jobs]
    health = [{"source": "own", "node": "n", "time_ns": clock(), "state": "fresh"}]
    store.write(
        [Batch("steps", "t", STEPS.from_rows(rows)), Batch("source_health", "t", SOURCE_HEALTH.from_rows(health))]
    )


def slow_for_ever(reader: Reader) -> Report:
    """Rows that accused once accuse as long as they are there."""
    return Report((SLOW,))


def told(store: DuckDBStore) -> list[str]:
    return [row["state"] for row in store.query("SELECT state FROM findings ORDER BY updated_ns").to_pylist()]


def test_a_job_that_ended_takes_its_findings_with_it_and_a_restart_does_not_bring_them_back(
    store: DuckDBStore, clock: Clock, analysis: Opened
) -> None:
    """Over a real store: open while the job sends, ended ten minutes after it stopped, open again when it comes back."""

    def minutes(running: Continuous, count: int, *jobs: str) -> None:
        for _ in range(count):
            clock.now_ns += LISTEN_NS
            sends(store, clock, *jobs)
            running.one_pass()

    running = analysis(slow_for_ever)
    minutes(running, 15, "j", "other")
    assert set(told(store)) == {"open"}
    minutes(running, 15, "other")
    assert told(store)[-1] == "ended"
    assert store.query("SELECT id FROM current_findings").num_rows == 0
    restarted = analysis(slow_for_ever)
    minutes(restarted, 3, "other")
    assert told(store)[-1] == "ended"
    minutes(restarted, 2, "j", "other")
    assert told(store)[-1] == "open"


def test_a_collector_that_hears_of_nobody_ends_nothing(store: DuckDBStore, clock: Clock, analysis: Opened) -> None:
    """The network to all agents is down: that is no news of the job."""
    running = analysis(slow_for_ever)
    sends(store, clock, "j")
    for _ in range(2 * (SILENCE_NS + FLEET_SILENCE_NS) // LISTEN_NS):
        running.one_pass()
        clock.now_ns += LISTEN_NS
    assert set(told(store)) == {"open"}


def test_a_detector_that_fails_for_a_while_resolves_nothing(store: DuckDBStore, clock: Clock, analysis: Opened) -> None:
    """Out of memory in the middle of an incident: the incident goes on."""
    answers: list[Report | Exception] = [Report((SLOW,)), *[MemoryError("no room")] * 5, Report((), (WELL,))]

    def moody(reader: Reader) -> Report:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    running = analysis(moody)
    while answers:
        running.one_pass()
        clock.now_ns += 10**9
    assert told(store) == ["open"]


def test_long_passes_leave_most_of_the_time_to_others() -> None:
    """With many thousands of ranks a pass takes longer than the pause between two."""
    settings = Config(period_seconds=10.0)
    assert settings.rest_seconds(0.5) == 10.0
    assert settings.rest_seconds(1.9) == 10.0
    assert settings.rest_seconds(40.0) == 160.0
