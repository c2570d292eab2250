"""Whom energy is charged to: who held the GPU, nobody where several did, and every joule once."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.energy.account import account
from warpline_analysis.energy.attribution import HOLD_SECONDS, NO_PROGRAM, NOT_SEEN, NOT_TOLD

ReaderOf = Callable[[Mapping[str, Any]], Reader]
BEGIN = 1_700_000_400
NS = 10**9
PEOPLE = {"process": "python3", "user": "ann", "account": "physics", "pod": None, "job": "a"}
Row = dict[str, Any]


def sample(second: float, joules: float | None = None, gpu: str = "G", **changed: Any) -> Row:
    """A GPU at work."""
    return {
        "node": "n0", "source": "nvml", "gpu_uuid": gpu, "gpu_index": 0, "gpu_name": "H100",
        "time_ns": int((BEGIN + second) * NS),
        "power_watts": 300.0, "energy_joules": second * 300.0 if joules is None else joules, "gpu_utilization_percent": 97.0,
        "resident_processes": 1, **changed,
    }  # fmt: skip


def process(
    second: float, pid: int = 70, state: str = "resident", gpu: str = "G", ticks: int = 1, **changed: Any
) -> Row:
    place = {"node": "n0", "gpu_uuid": gpu, "gpu_index": 0, "time_ns": int((BEGIN + second) * NS)}
    return {**place, "state": state, "pid": pid, "start_ticks": ticks, **PEOPLE, **changed}


def charged(reader_of: ReaderOf, samples: Sequence[Row], processes: Sequence[Row], **tables: Any) -> list[Row]:
    reader = reader_of({"device_samples": samples, "gpu_processes": processes, **tables})
    rows: list[Row] = account(reader, BEGIN * NS // (600 * NS) * 600 * NS, {}, 1).to_pylist()
    return rows


def brief(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    return [(row["seconds"], row["job"], row["user"], row["unattributed"]) for row in rows]


def seconds(count: int, **changed: Any) -> list[Row]:
    return [sample(second, **changed) for second in range(count)]


def test_a_run_is_cut_where_the_gpu_changes_hands(reader_of: ReaderOf) -> None:
    told = [process(0), process(30, state="gone"), process(40, pid=71, job="b", user="bob")]
    assert brief(charged(reader_of, seconds(61), told)) == [
        (30.0, "a", "ann", None),
        (10.0, None, None, NOT_TOLD),
        (20.0, "b", "bob", None),
    ]


def test_several_processes_of_one_job_are_that_job_and_telling_them_again_cuts_nothing(reader_of: ReaderOf) -> None:
    told = [process(0), process(0, pid=71), process(300), process(300, pid=71)]
    assert brief(charged(reader_of, seconds(401), told)) == [(400.0, "a", "ann", None)]


def test_what_two_jobs_share_is_charged_to_neither_but_to_whom_they_have_in_common(reader_of: ReaderOf) -> None:
    told = [process(0), process(10, pid=71, job="b"), process(20, pid=71, job="b", state="gone")]
    assert brief(charged(reader_of, seconds(31), told)) == [
        (10.0, "a", "ann", None),
        (10.0, None, "ann", "shared by a, b"),
        (10.0, "a", "ann", None),
    ]


def test_a_process_of_no_known_job_beside_one_with_a_job_leaves_both_without(reader_of: ReaderOf) -> None:
    nameless: Row = {"job": None, "user": None, "account": None, "process": "nvidia-cuda-mps-server"}
    [row] = charged(reader_of, seconds(11), [process(0), process(0, pid=71, **nameless)])
    assert (row["job"], row["user"]) == (None, None)
    assert row["unattributed"] == "shared by a, and by processes of no known job: nvidia-cuda-mps-server"
    [alone] = charged(reader_of, seconds(11), [process(0, **nameless)])
    assert alone["unattributed"] == "no job is known of: nvidia-cuda-mps-server"


def test_an_empty_gpu_is_nobodys_whatever_was_told(reader_of: ReaderOf) -> None:
    idle = {"resident_processes": 0, "gpu_utilization_percent": 0.0, "job": "a"}
    [row] = charged(reader_of, seconds(11, **idle), [process(0), process(5, state="gone")])
    assert (row["state"], row["job"], row["user"], row["unattributed"]) == ("deep_idle", None, None, NO_PROGRAM)


def test_a_process_of_a_silent_agent_holds_its_gpu_no_longer_than_it_is_told_again(reader_of: ReaderOf) -> None:
    found = brief(charged(reader_of, seconds(501), [process(0)]))
    assert found == [(HOLD_SECONDS, "a", "ann", None), (500.0 - HOLD_SECONDS, None, None, NOT_TOLD)]


def test_a_pid_that_is_used_again_is_another_owner(reader_of: ReaderOf) -> None:
    told = [process(0, ticks=1), process(20, ticks=1, state="gone"), process(20, ticks=2, job="b", user="bob")]
    assert brief(charged(reader_of, seconds(31), told)) == [(20.0, "a", "ann", None), (10.0, "b", "bob", None)]


def test_what_samples_say_counts_where_no_process_was_told_and_its_user_is_the_jobs(reader_of: ReaderOf) -> None:
    jobs = [{"job": "recorded", "user": "eve", "time_ns": 1}]
    [row] = charged(reader_of, seconds(11, job="recorded"), [], jobs=jobs)
    assert (row["job"], row["user"]) == ("recorded", "eve")
    two = [*jobs, {"job": "recorded", "user": "bob", "time_ns": 2}]
    [unsure] = charged(reader_of, seconds(11, job="recorded"), [], jobs=two)
    assert (unsure["job"], unsure["user"]) == ("recorded", None)


def test_a_time_without_samples_is_charged_only_where_the_same_job_is_at_both_ends(reader_of: ReaderOf) -> None:
    samples = [sample(second) for second in (*range(5), *range(60, 65))]
    assert {row["job"] for row in charged(reader_of, samples, [process(0)])} == {"a"}
    told = [process(0), process(60, state="gone"), process(60, pid=71, job="b")]
    gap = next(row for row in charged(reader_of, samples, told) if row["state"] == "unobserved")
    assert (gap["joules"], gap["job"], gap["unattributed"]) == (56 * 300.0, None, NOT_SEEN)


def test_a_process_that_is_told_in_a_window_before_still_holds_its_gpu(reader_of: ReaderOf) -> None:
    assert {row["job"] for row in charged(reader_of, seconds(61), [process(-290)])} == {"a"}


@pytest.mark.parametrize("seed", range(6))
def test_every_joule_is_charged_once_to_whom_a_plain_count_charges_it(reader_of: ReaderOf, seed: int) -> None:
    draw = random.Random(seed)
    processes, alive = made_up(draw)
    samples, counter = [], {"G": 5e6, "H": 5e6}
    expected: dict[str | None, float] = {}
    for second in range(541):
        for gpu in counter:
            samples.append(sample(second, counter[gpu], gpu, resident_processes=int(bool(alive(gpu, second)))))
            if second < 540:
                watts = draw.uniform(80, 700)
                counter[gpu] += watts
                owners = set(alive(gpu, second))
                job = next(iter(owners)) if len(owners) == 1 else None
                expected[job] = expected.get(job, 0.0) + watts
    rows = charged(reader_of, samples, processes)
    found: dict[str | None, float] = {}
    for row in rows:
        found[row["job"]] = found.get(row["job"], 0.0) + row["joules"]
        assert (row["job"] is None) == (row["unattributed"] is not None)
    assert found.keys() == expected.keys() and len(found) > 2
    for job, joules in expected.items():
        assert found[job] == pytest.approx(joules, abs=0.5)
    assert sum(found.values()) == pytest.approx(sum(counter.values()) - 1e7, abs=0.5)


def made_up(draw: random.Random) -> tuple[list[Row], Callable[[str, int], list[str | None]]]:
    """Processes that come and go on two GPUs, told as agents tell them; and the jobs on a GPU at a second."""
    lives = [
        (draw.choice("GH"), 70 + number, begin, begin + draw.randint(1, 250), draw.choice(["a", "b", "c", None]))
        for number, begin in enumerate(sorted(draw.randrange(0, 540) for _ in range(12)))
    ]
    rows = []
    for gpu, pid, begin, end, job in lives:
        rows += [process(at, pid, gpu=gpu, job=job) for at in range(begin, end, draw.choice([90, 300]))]
        rows.append(process(end, pid, "gone", gpu=gpu, job=job))
    draw.shuffle(rows)
    return rows, lambda gpu, at: [job for on, _, begin, end, job in lives if on == gpu and begin <= at < end]
