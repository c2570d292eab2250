"""How much is captured: jobs of which it is known what capture costs them, each obeying the control word as the library does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from warpline_agent.capture_duty import (
    ALL,
    CALIBRATION,
    EPOCH_STEPS,
    FIRST_STEPS,
    GRAPHS,
    RATE_MAX,
    CaptureDuty,
    Level,
    level_of,
    word,
)
from warpline_agent.hook_rows import Identity
from warpline_agent.kernels import StepSpan
from warpline_agent.ring_file import RECORD, Standing
from warpline_agent.step_overhead import BLOCKS_MIN, Block, CaptureTimes, Steps, estimate
from warpline_hook import ring

STEP_NS = 200_000_000
TURN_NS = 50_000
START_NS = 1_700_000_000_000_000_000
LATE_STEPS = 10
"""Steps are told so much later than they end."""
LOOK_STEPS = 4
SEEDS = range(3)
JOBS: dict[str, dict[str, Any]] = {
    "steady": {},
    "noisy": {"noise": 0.06},
    "ever slower": {"drift": 0.3},
    "to and fro": {"wave": 0.1},
    "with checkpoints": {"every": 100, "long": 20.0},
    "that logs each tenth step": {"every": 10, "long": 1.3},
    "that accumulates gradients": {"every": 2, "long": 2.0},
    "with stalls": {"stalls": 0.01},
    "that waits for the GPU each tenth step": {"every": 10, "long": 90.0},
}
STANDING = Standing(
    counters=dict.fromkeys(ring.COUNTERS, 0),
    dropped={},
    channels={},
    heartbeat_ns=0,
    capturing=0,
    step=-1,
    last_record_ns=0,
    cupti_version=0,
    nccl_version=0,
    control=0,
)


def event(begun_ns: int, took_ns: int, mask: int, name: int = 0) -> Any:
    """A record that says that capture has changed."""
    record = np.zeros(1, RECORD)
    told = {"kind": ring.CAPTURE, "start_ns": begun_ns, "duration_ns": took_ns, "value": mask, "name": name}
    for field_, value in told.items():
        record[field_] = value
    return record


@dataclass
class Job:
    """One rank of a synchronous job: `cost` by mask is what a step takes more with capture, `turn` more where it changes."""

    seed: int = 0
    cost: dict[int, float] = field(default_factory=dict)
    turn: float = 0.0
    noise: float = 0.03
    drift: float = 0.0
    wave: float = 0.0
    every: int = 0
    long: float = 1.0
    stalls: float = 0.0
    kernels: int = 1_000
    graphs: float = 0.0
    step: int = 0
    captured: int = 0
    control: int = 0
    now_ns: int = START_NS
    records: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.waiting: list[StepSpan] = []
        self.events: list[Any] = []
        self.kernel_records = 0

    def run(self, duty: CaptureDuty, steps: int, key: str = "a", name: str = "train") -> Job:
        """So many steps more, with the agent's look at every fourth."""
        for number in range(steps):
            if number % LOOK_STEPS == 0:
                self._decide(duty, key, Identity(job=name, rank=0))
            self._step()
            if number % LOOK_STEPS and number < steps - 1:
                continue
            over, self.waiting = self.waiting[:-LATE_STEPS], self.waiting[-LATE_STEPS:]
            events = np.concatenate(self.events) if self.events else np.zeros(0, RECORD)
            for told in duty.take(key, events, self._new_records(), over, self.now_ns):
                self.rows += told.batch.to_pylist()
            self.events = []
        return self

    def standing(self) -> Standing:
        counters = {**STANDING.counters, "records": self.records}
        running = self.step if self.step else -1
        return replace(STANDING, counters=counters, step=running, control=self.control, capturing=self.captured)

    def _decide(self, duty: CaptureDuty, key: str, identity: Identity) -> None:
        self.control = duty.control(key, identity, self.standing(), self.now_ns)

    def _wanted(self) -> int:
        mode, what = self.control & 0xFF, self.control >> 8 & 0xFF
        length, period = self.control >> 32 & 0xFFFF, self.control >> 48 & 0x7FFF
        on = mode == ring.FULL or (mode == ring.STEPS and self.step % period < length)
        return what if on else 0

    def _step(self) -> None:
        wanted = self._wanted()
        turned = wanted != self.captured
        if turned:
            self.events.append(event(self.now_ns + 1_000, TURN_NS, wanted))
            self.captured = wanted
        usual = 1 + self.random.normal(0, self.noise) + self.drift * self.step / 1000
        usual += self.wave * math.sin(self.step / 60) + (3 if self.random.random() < self.stalls else 0)
        usual *= self.long if self.every and self.step % self.every == 0 else 1.0
        cost = self.cost.get(self.captured, 0.0) + (self.turn if turned else 0.0)
        duration_ns = max(int(STEP_NS * (usual + cost * max(usual, 1))), 1)
        self.waiting.append(StepSpan(self.step, self.now_ns, duration_ns))
        self.records += self.kernels if self.captured & ring.KERNELS else 0
        self.kernel_records = self.kernels if self.captured & ring.KERNELS else 0
        self.now_ns += duration_ns + 1_000
        self.step += 1

    def _new_records(self) -> Any:
        records = np.zeros(min(self.kernel_records, 100), RECORD)
        records["kind"] = ring.KERNEL
        records["extra"][: int(len(records) * self.graphs)] = 7
        return records

    def level(self) -> Level:
        """What it is asked for."""
        return level_of(self.control)


def falls(job: Job) -> list[dict[str, Any]]:
    """Rows that tell of less capture."""
    return [row for row in job.rows if row["action"] and "from now on" in row["action"]]


def tried(job: Job) -> list[dict[str, Any]]:
    """Rows that tell of more capture."""
    return [row for row in job.rows if row["action"] and row["action"].startswith("tried again")]


def jobs(**more: Any) -> Iterator[tuple[str, Job]]:
    for kind, settings in JOBS.items():
        for seed in SEEDS:
            yield kind, Job(seed, **settings, **more)


def test_a_job_that_capture_costs_nothing_is_captured_all_the_time() -> None:
    for kind, job in jobs():
        job.run(CaptureDuty(), 1_200)
        assert not falls(job), f"{kind}, {job.seed}"
        assert job.level() == Level.FULL


def test_half_a_percent_is_within_the_budget() -> None:
    for kind, job in jobs(cost={ALL: 0.005}):
        assert not falls(job.run(CaptureDuty(), 700)), f"{kind}, {job.seed}"


@pytest.mark.parametrize(
    ("cost", "kinds", "within_steps"),
    [
        (0.03, ("steady", "ever slower", "to and fro", "with checkpoints"), 580),
        (0.03, ("with stalls", "noisy"), 2_700),
        (0.2, ("steady", "noisy", "ever slower", "to and fro", "with checkpoints", "with stalls"), 340),
        (0.2, ("that logs each tenth step", "that accumulates gradients"), 340),
    ],
)
def test_what_costs_too_much_is_found_and_captured_less(cost: float, kinds: tuple[str, ...], within_steps: int) -> None:
    for kind in kinds:
        for seed in SEEDS:
            job = Job(seed, cost={ALL: cost}, **JOBS[kind]).run(CaptureDuty(), within_steps)
            assert falls(job), f"{kind}, {seed}"
            first = falls(job)[0]
            assert (first["mode"], first["verdict"]) == ("full", "over")
            assert first["low_percent"] > 1 and first["budget_percent"] == 1


def test_the_estimate_is_what_capture_costs() -> None:
    """The interval holds it; it is told with how many steps it rests on."""
    held = 0
    for seed in range(40):
        job = Job(seed, cost={ALL: 0.005}).run(CaptureDuty(percent_max=5), 660)
        row = job.rows[-1]
        held += bool(row["low_percent"] <= 0.5 <= row["high_percent"])
        assert row["on_steps"] > 50 and row["off_steps"] > 50
        assert (row["job"], row["rank"], row["mode"], row["verdict"]) == ("train", 0, "full", "within")
    assert held >= 38


def test_one_cheap_job_is_told_to_be_within_and_before_that_nothing_is_claimed() -> None:
    job = Job(noise=0.01).run(CaptureDuty(), 700)
    assert [row["verdict"] for row in job.rows] == ["cannot tell yet", "within"]
    assert job.rows[0]["overhead_percent"] is None


def test_without_steps_nothing_is_measured_and_capture_is_on() -> None:
    duty = CaptureDuty()
    assert duty.control("a", Identity(), STANDING, START_NS) == ring.control(ring.FULL, ALL)


def test_few_steps_go_without_capture_where_it_is_cheap() -> None:
    """3 % of them: every step of the first 64, half of the next 512, and all until 8,192."""
    duty, job, without = CaptureDuty(), Job(noise=0.01), 0
    for _ in range(EPOCH_STEPS):
        job.run(duty, 1)
        without += not job.captured
        assert job.captured or job.step > FIRST_STEPS
    assert without / EPOCH_STEPS < 0.035


def test_ranks_are_captured_in_the_same_steps() -> None:
    """Whenever their agents began."""
    early, late = Job(0), Job(1, step=100)
    first, second = CaptureDuty(), CaptureDuty()
    early.run(first, 100)
    for _ in range(400):
        assert early.run(first, 1).captured == late.run(second, 1).captured


def test_ranks_of_a_job_on_one_node_fall_together() -> None:
    duty = CaptureDuty()
    dear, other = Job(0, cost={ALL: 0.2}), Job(1)
    for _ in range(340):
        dear.run(duty, 1, "a")
        other.run(duty, 1, "b")
    assert other.level() == dear.level() == Level.WINDOWS
    assert Job(2).run(duty, 10, "c", name="another job").level() == Level.FULL


def test_what_costs_in_windows_too_is_captured_less_and_then_not_at_all() -> None:
    """Turning it on stalls the job for ten steps each time."""
    duty = CaptureDuty()
    job = Job(0, cost={ALL: 0.5}, turn=10.0).run(duty, 10_000)
    assert job.level() == Level.OFF
    assert [row["action"] for row in falls(job)][-1] == "captured not at all from now on"
    health = {each.subject: each for each in duty.health()}["capture of train"]
    assert health.state == "busy" and "overhead_percent_max" in health.reason
    begun = len(job.events)
    job.run(duty, 200)
    assert not job.captured and len(job.events) == begun


def test_a_job_of_cuda_graphs_is_captured_by_whole_graphs_before_not_at_all() -> None:
    duty = CaptureDuty()
    job = Job(0, cost={ALL: 0.5, GRAPHS: 0.001}, turn=0.0, graphs=0.9, noise=0.01)
    job.run(duty, 60)
    assert job.level() == Level.WINDOWS, "kernels of graphs may come damaged after too many"
    job.cost[ALL] = 5.0
    job.run(duty, 6_000)
    assert job.level() == Level.GRAPHS
    job.run(duty, 2 * EPOCH_STEPS)
    assert job.level() == Level.GRAPHS, "graphs stay: their kernels cannot be had again in this process"
    job.cost[GRAPHS] = 5.0
    assert job.run(duty, 6_000).level() == Level.OFF


def test_what_was_too_dear_is_captured_again_once_it_no_longer_is() -> None:
    """Windows go on to tell what it costs, so that nothing is tried that is known to fail."""
    duty = CaptureDuty()
    job = Job(0, cost={ALL: 0.03}).run(duty, 600)
    assert job.level() == Level.WINDOWS
    job.run(duty, 2 * EPOCH_STEPS)
    assert not tried(job)
    job.cost = {}
    job.run(duty, EPOCH_STEPS + 8)
    assert job.level() == Level.FULL
    assert len(tried(job)) == 1
    assert not list(duty.health())


def test_what_was_turned_off_is_tried_again_ever_more_rarely() -> None:
    job = Job(0, cost={ALL: 0.5}, turn=10.0).run(CaptureDuty(), 8 * EPOCH_STEPS)
    gaps = np.diff([row["step"] // EPOCH_STEPS for row in tried(job)])
    assert len(gaps) > 1
    assert (gaps[1:] >= 2 * gaps[:-1] - 1).all()


def test_an_agent_that_is_started_again_goes_on_as_before() -> None:
    job = Job(0, cost={ALL: 0.03}).run(CaptureDuty(), 600)
    assert job.level() == Level.WINDOWS
    again = CaptureDuty()
    again.control("a", Identity(), job.standing(), job.now_ns)  # who it is has not been read yet
    assert job.run(again, 600).level() == Level.WINDOWS
    for level in Level:
        assert level_of(word(level, 5, calibrate=False)) == level
    assert level_of(0) == Level.FULL


def test_too_many_kernels_are_captured_in_windows_and_fewer_all_the_time_again() -> None:
    duty = CaptureDuty()
    job = Job(0, kernels=RATE_MAX // 4).run(duty, 40)
    assert job.level() == Level.WINDOWS
    job.kernels = RATE_MAX // 20
    assert job.run(duty, 800).level() == Level.FULL


def test_a_mode_that_is_set_stays_and_its_cost_is_told() -> None:
    job = Job(0, cost={ALL: 0.5}).run(CaptureDuty("windows"), 3_000)
    assert job.level() == Level.WINDOWS
    assert job.rows and not falls(job)
    assert 40 < job.rows[-1]["on_percent"] < 60
    assert Job(0).run(CaptureDuty("full"), 600).level() == Level.FULL
    assert Job(0).run(CaptureDuty("off"), 600).level() == Level.OFF


def test_time_in_which_the_user_profiles_says_nothing_of_capture() -> None:
    times = CaptureTimes()
    times.take(np.concatenate([event(1_000, 10, ALL), event(2_000, 0, 0, name=5), event(3_000, 10, ALL)]))
    spans = [StepSpan(n, start, 100) for n, start in enumerate((500, 950, 1_200, 1_950, 2_500, 2_950, 3_500))]
    assert [times.mask(span) for span in spans] == [None, -1, ALL, None, None, -1, ALL]
    assert times.on_ns(3_510) == 1_990 - 1_000 + 500


def test_steps_that_are_missing_end_a_block() -> None:
    steps = Steps()
    for number in range(200):
        mask = (0, ALL)[number % 20 < 10]
        if number % 20 != 15:
            steps.take(StepSpan(number, number * 100, 100), mask)
    assert not steps.blocks


def test_wild_blocks_do_not_move_the_estimate_far() -> None:
    quiet = [Block(0.001 * (n % 5 - 2), 0.0, 10, 10) for n in range(20)]
    wild = estimate([*quiet, *[Block(9.0, 0.0, 10, 10)] * 2], 1.0, 0.0)
    assert wild is not None and wild.percent < 0.2
    assert estimate(quiet[: BLOCKS_MIN - 1], 1.0, 0.0) is None


def test_the_interval_is_that_of_the_signed_rank_test() -> None:
    """By table A.4 of Hollander and Wolfe: of 10 values, 99.02 % lie between the 4th Walsh average from either end."""
    values = [Block(v / 100, 0.0, 1, 1) for v in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)]
    averages = sorted((a.capturing + b.capturing) / 2 for n, a in enumerate(values) for b in values[n:])
    found = estimate(values, 1.0, 0.0)
    assert found is not None
    assert found.low == pytest.approx(100 * averages[3])
    assert found.high == pytest.approx(100 * averages[-4])


def test_calibration_does_not_beat_with_what_happens_every_so_many_steps() -> None:
    window, period = CALIBRATION
    assert all(math.gcd(period, each) == 1 for each in range(2, period))
    assert 0.4 < window / period < 0.6
