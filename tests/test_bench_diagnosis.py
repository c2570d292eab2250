"""The benchmark of diagnosis keeps its promises: same keys at every size, truth that its own scoring recognises."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

from cluster.durations import summary
from cluster.episode import CLOCK_ERRORS_MS, LARGE, LAYOUTS, Episode, added, draw_episodes, episode, record, run
from cluster.faults import SIZES
from cluster.layout import Layout
from cluster.timing import schedule
from diagnosis import Size, measure
from journal import FILE, Journal, code_of, run_all
from known_answers import cases, failures
from page import HEADINGS, page
from scoring import score
from tables import poisson_upper

from warpline_proto.finding import Finding, FindingKind, Severity, Subject

REAL = summary()


def made(kind: str, size: float, seed: int = 5, layout: Layout | None = None) -> Episode:
    return episode(seed, kind, size, 2, (layout or Layout(8),))


def test_a_slow_rank_makes_the_others_wait_and_its_own_collectives_look_short() -> None:
    each = made("compute_straggler", 0.5)
    timeline = run(each, REAL)
    victim, after = each.faults[0].ranks[0], slice(each.onset, None)
    spent = sum((operation.end - operation.start)[after].mean(axis=0) for operation in timeline.operations)
    assert int(np.argmin(spent)) == victim
    assert 0.3 < added(each, timeline, REAL) < 0.6


def test_the_same_seed_gives_the_same_rows_and_faults_change_nothing_before_their_onset() -> None:
    each = made("throttling", 0.5)
    first, again = (record(each, run(each, REAL), REAL).until(each.onset - 1) for _ in range(2))
    assert {name: rows.num_rows for name, rows in first.items()} == {
        name: rows.num_rows for name, rows in again.items()
    }
    assert all(first[name].equals(again[name]) for name in first)
    healthy = run(made("healthy", 0.0), REAL)
    assert np.allclose(run(each, REAL).length[: each.onset], healthy.length[: each.onset])


def test_clock_error_moves_starts_by_no_more_than_it_says_and_durations_not_at_all() -> None:
    each = made("healthy", 0.0, layout=Layout(16))
    rows = record(each, run(each, REAL), REAL).until(10**9)["collectives"]
    error_ns = CLOCK_ERRORS_MS[2] * 1e6
    ends = rows.column("start_ns").to_numpy() + rows.column("duration_ns").to_numpy()
    norm = np.array(rows.column("communicator").to_pylist()) == "world"
    steps = rows.column("step").to_numpy()[norm]
    spread = [np.ptp(ends[norm][steps == step]) for step in np.unique(steps)]
    assert 0 < max(spread) <= 1.1 * error_ns


def test_a_pipeline_runs_every_pass_once_and_after_what_it_needs() -> None:
    order = schedule(4, 6)
    assert len(order) == len(set(order)) == 2 * 4 * 6
    place = {each: at for at, each in enumerate(order)}
    assert all(place[stage, True, at] > place[stage - 1, True, at] for stage in range(1, 4) for at in range(6))
    assert all(place[stage, False, at] > place[stage + 1, False, at] for stage in range(3) for at in range(6))


def test_every_kind_of_fault_can_be_drawn_and_tells_its_truth() -> None:
    count = sum(len(sizes) for sizes in SIZES.values())
    drawn = draw_episodes(0, count, 2)
    assert {each.kind for each in drawn} == {*SIZES, "healthy"}
    assert all(each.expected for each in drawn if each.faults)
    assert len({each.name for each in drawn}) == count + 2


def test_a_plain_straggler_is_found_named_and_called_by_its_kind() -> None:
    each = made("compute_straggler", 0.5)
    timeline = run(each, REAL)
    outcome = score(each, timeline, record(each, timeline, REAL), 0.4, (), 0.0)
    assert (outcome.detected, outcome.top1, outcome.classed, outcome.accused) == (True, True, True, ())
    assert outcome.observed_steps is not None


def test_a_judge_that_accuses_nobody_is_scored_as_a_miss() -> None:
    each = made("compute_straggler", 0.5)
    timeline = run(each, REAL)
    outcome = score(each, timeline, record(each, timeline, REAL), 0.4, (), 0.0, judge=lambda recording, step: ())
    assert (outcome.detected, outcome.top1, outcome.classed) == (False, False, False)


def test_the_bound_on_false_alarms_is_the_rule_of_three_when_there_was_none() -> None:
    assert poisson_upper(0) == pytest.approx(2.996, abs=0.01)
    assert poisson_upper(1) == pytest.approx(4.744, abs=0.01)


def test_required_verdicts_are_complete_and_a_wrong_one_is_told() -> None:
    for case in cases():
        assert case["paths"] and (case.get("unlabelled") or case["verdict"])
    answer = {"verdict": "healthy", "findings": []}
    wrong = failures({"verdict": ["critical"], "kinds": ["hang"], "subject": {"rank": 4}, "words": ["12"]}, answer)
    assert wrong == ["verdict healthy", "no hang", "nobody is {'rank': 4}", "12 is not named"]


def test_a_run_of_any_size_has_the_promised_keys() -> None:
    figures = measure(Size(faulty=1, healthy=1, transplanted=1, beside=0, clocks=1, known=0), 0, 1, "spawn")
    promised = {
        "detection_rate", "top1", "class_accuracy", "healthy_accused", "false_alarms_per_job_day", "verdict_steps_p95",
        "episodes", "by_kind", "by_size", "by_clock_error_ms", "misses",
    }  # fmt: skip
    assert promised <= set(figures)
    assert all(set(HEADINGS) <= set(row) for row in figures["by_kind"].values())
    assert all(word in page(figures) for word in ("top-1 culprit", "per job-day", "clock error, ms", "Missed"))


def test_a_run_that_was_cut_goes_on_where_it_was_and_other_code_starts_anew(tmp_path: Path) -> None:
    asked: list[int] = []

    def doubled(value: int) -> int:
        asked.append(value)
        return 2 * value

    jobs = [(str(value), value) for value in range(4)]
    with ThreadPoolExecutor(1) as executor:
        journal = Journal(tmp_path)
        run_all("part", "code", doubled, jobs[:2], executor, journal)
        journal.close()
        with (tmp_path / FILE).open("a") as cut:
            cut.write('{"code":"code","part":"part","name":"2","outc')
        again = Journal(tmp_path)
        assert run_all("part", "code", doubled, jobs, executor, again) == [0, 2, 4, 6]
        again.close()
        assert sorted(asked) == [0, 1, 2, 3]
        third = Journal(tmp_path)
        assert run_all("part", "code", doubled, jobs, executor, third) == [0, 2, 4, 6]
        assert len(asked) == 4
        run_all("part", "other code", doubled, jobs, executor, third)
        third.close()
    assert len(asked) == 8


def test_the_hash_of_the_code_changes_with_any_source(tmp_path: Path) -> None:
    before = code_of(Path(__file__).parent / "bench" / "cluster")
    assert before == code_of(Path(__file__).parent / "bench" / "cluster")
    assert before != code_of(Path(__file__).parent / "bench" / "cluster", Path(__file__))


def test_an_alarm_that_is_true_but_no_matter_of_the_fault_does_not_count_as_seeing_it() -> None:
    each = made("masked_straggler", 0.5, layout=Layout(16))
    timeline = run(each, REAL)
    node = each.expected[0].alarmed
    port_down = Finding(
        FindingKind.NETWORK_DEGRADATION, Severity.WARNING, 0.5, Subject(node=node), "port down", "look at the port"
    )
    outcome = score(
        each, timeline, record(each, timeline, REAL), 0.4, (), 0.0, judge=lambda recording, step: (port_down,)
    )
    assert (outcome.detected, outcome.top1, outcome.accused) == (False, False, ())


def test_clocks_differ_within_the_smallest_jobs_too() -> None:
    assert all(layout.nodes > 1 for layout in (*LAYOUTS, *LARGE))
