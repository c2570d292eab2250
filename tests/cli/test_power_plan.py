"""`warpline power plan`: replays of a store's account, held against a plain count over the samples themselves."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warpline_analysis.energy.money import Money
from warpline_analysis.energy.plan import plan
from warpline_analysis.energy.proposal import Settings
from warpline_analysis.energy.workloads import workloads
from warpline_cli.main import main
from warpline_collector.accounting import account_all
from warpline_collector.pool import Config, WorkerPool
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.tables import DEVICE_SAMPLES

NS = 10**9
BEGIN = 1_700_000_400
SECONDS = 1800
IDLE, BUSY, EMPTY, LIMIT = 105.0, 184.0, 35.0, 350.0


def busy_seconds(gpu: int) -> list[bool]:
    """Bursts of work with gaps of 1 to 30 s."""
    draw = random.Random(gpu)
    made: list[bool] = []
    while len(made) <= SECONDS:
        made += [True] * draw.randint(2, 6) + [False] * draw.choice((1, 3, 6, 9, 15, 30))
    return made[: SECONDS + 1]


def rows() -> list[dict[str, Any]]:
    """Four GPUs that serve, the last of which never tells of its programs; one that is empty."""
    made = []
    for gpu in range(5):
        joules = 1e6
        for second, busy in enumerate(busy_seconds(gpu)):
            watts = EMPTY if gpu == 4 else BUSY if busy else IDLE
            made.append(
                {
                    "node": f"n{gpu // 2}", "source": "nvml", "gpu_uuid": f"G{gpu}", "gpu_index": gpu, "gpu_name": "L40S",
                    "job": None if gpu == 4 else "serve", "time_ns": (BEGIN + second) * NS, "power_watts": watts,
                    "energy_joules": joules, "power_limit_watts": LIMIT if second == 0 else None,
                    "gpu_utilization_percent": 90.0 if busy and gpu < 4 else 0.0,
                    "resident_processes": {3: None, 4: 0}.get(gpu, 1),
                }
            )  # fmt: skip
            joules += watts
    return made


def low_runs(gpu: int) -> list[tuple[int, int]]:
    """Times of low activity of 5 s and more, as first and last second, counted without warpline."""
    found, begin = [], None
    for second, busy in enumerate([*busy_seconds(gpu)[:SECONDS], True]):
        if not busy and begin is None:
            begin = second
        elif busy and begin is not None:
            found.append((begin, second))
            begin = None
    return [(begin, end) for begin, end in found if end - begin >= 5]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plan") / "store"
    (directory.parent / "warpline.toml").write_text("[power]\nprice_per_kwh = 0.5\npue = 2.0\n")
    made = DuckDBStore(directory)
    made.write([Batch(DEVICE_SAMPLES.name, "nvml", DEVICE_SAMPLES.from_rows(rows()))])
    with CatalogReader(directory) as reader:
        account_all(made, reader)
    made.close()
    return directory


@pytest.fixture
def ask(store: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: str) -> str:
        config = str(store.parent / "warpline.toml")
        assert main(["power", "plan", "--store", str(store), "--since", "2h", "--config", config, *words]) == 0
        return capsys.readouterr().out

    return run


def proposals(ask: Callable[..., str], *words: str) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(ask("--json", *words))["proposals"]}


def test_the_guards_saving_is_what_a_count_over_the_samples_gives(ask: Callable[..., str]) -> None:
    """Joules, wake-ups, waits and money, with and without the GPU that never tells of its programs."""
    seconds, wakes = dict.fromkeys(range(4), 0.0), dict.fromkeys(range(4), 0)
    for gpu in range(4):
        cool = 0
        for begin, end in low_runs(gpu):
            down = max(begin + 3, cool)
            seconds[gpu] += max(0, end - down)
            wakes[gpu] += down < end
            cool = end + 5 if down < end else cool
    known, all_of = sum(seconds[gpu] for gpu in range(3)), sum(seconds.values())
    found = proposals(ask)
    for name, low in (("guard_sm", 61.0), ("guard_sm_memory", 35.0)):
        assert found[name]["saved_joules"] == pytest.approx([known * (IDLE - low), all_of * (IDLE - low)], rel=1e-6)
        assert found[name]["wakes"] == [sum(wakes[gpu] for gpu in range(3)), sum(wakes.values())]
        assert found[name]["wait_seconds"] == pytest.approx(
            [found[name]["wakes"][0] * 0.001, found[name]["wakes"][1] * 0.5]
        )
        cost = [joules / 3.6e6 * 0.5 * 2.0 for joules in found[name]["saved_joules"]]
        assert found[name]["saved_cost"] == pytest.approx(cost)
        assert found[name]["unknown_joules"] == 0


def test_fewer_gpus_would_have_done_the_same_work(ask: Callable[..., str]) -> None:
    """No window needs more GPUs at once than worked at once; the energy is that of parked GPUs at 61 instead of 105 W."""
    found = proposals(ask)["consolidation"]
    parked = 0
    for first in range(0, SECONDS, 600):
        at_once = max(sum(_working(gpu, second) for gpu in range(4)) for second in range(first, first + 600))
        parked += 600 * (4 - at_once)
    least, most = found["saved_joules"]
    assert least == pytest.approx(parked * 44.0) and most >= least
    assert any("training job may not" in words for words in found["assumptions"])


def _working(gpu: int, second: int) -> bool:
    return not any(begin <= second < end for begin, end in low_runs(gpu))


def test_caps_are_bounded_by_what_lies_above_them(ask: Callable[..., str]) -> None:
    """Nothing is above 184 W, 53 % of the limit: no cap that is tried cuts anything."""
    found = proposals(ask)
    assert {found[f"cap_{share}"]["saved_joules"][1] for share in (90, 80, 70, 60)} == {0.0}


def test_watts_and_delay_may_be_given(ask: Callable[..., str]) -> None:
    plain, given = proposals(ask), proposals(ask, "--low-watts", "61", "--wake-ms", "100")
    assert given["guard_sm"]["saved_joules"] == pytest.approx(plain["guard_sm"]["saved_joules"])
    assert given["guard_sm"]["wait_seconds"][1] == pytest.approx(given["guard_sm"]["wakes"][1] * 0.1)
    assert any("61 W" in words for words in given["guard_sm"]["assumptions"])


def test_a_longer_trigger_wakes_and_saves_less(ask: Callable[..., str]) -> None:
    short, long = proposals(ask)["guard_sm"], proposals(ask, "--trigger", "10")["guard_sm"]
    assert long["wakes"][1] < short["wakes"][1] and long["saved_joules"][1] < short["saved_joules"][1]


def test_jobs_are_told_their_class_and_headroom(ask: Callable[..., str]) -> None:
    (job,) = json.loads(ask("--json"))["jobs"]
    assert (job["job"], job["gpus"], job["p99_watts"], job["headroom_watts"]) == ("serve", 4, BUSY, LIMIT - BUSY)
    assert (job["near_share"], job["kind"], job["cluster"], job["alike"]) == (0, "low-spike", 0, [])


def test_jobs_whose_power_spikes_alike_are_named_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two jobs near the limit of 400 W, one far below it, one that is too short to tell."""
    levels = {"near-a": 380.0, "near-b": 384.0, "far": 250.0, "short": 380.0}
    made = [
        {
            "node": "n", "source": "nvml", "gpu_uuid": job, "gpu_name": "A100", "job": job, "time_ns": (BEGIN + second) * NS,
            "power_watts": watts + second % 5, "power_limit_watts": 400.0, "gpu_utilization_percent": 90.0,
        }
        for job, watts in levels.items()
        for second in range(20 if job == "short" else 300)
    ]  # fmt: skip
    store = DuckDBStore(tmp_path / "store")
    store.write([Batch(DEVICE_SAMPLES.name, "nvml", DEVICE_SAMPLES.from_rows(made))])
    with CatalogReader(tmp_path / "store") as reader:
        account_all(store, reader)
    store.close()
    assert main(["power", "plan", "--store", str(tmp_path / "store"), "--json"]) == 0
    jobs = {job["job"]: job for job in json.loads(capsys.readouterr().out)["jobs"]}
    assert [jobs[name]["kind"] for name in levels] == ["high-spike", "high-spike", "low-spike", None]
    assert jobs["near-a"]["cluster"] == jobs["near-b"]["cluster"] != jobs["far"]["cluster"]
    assert (
        jobs["near-a"]["alike"][0][0] == "near-b" and jobs["short"]["alike"] == [] and jobs["short"]["cluster"] is None
    )
    assert jobs["near-a"]["near_share"] == 1.0 and jobs["far"]["headroom_watts"] == 400 - 254


def test_csv_and_text_carry_the_same_and_all_assumptions(ask: Callable[..., str]) -> None:
    found = proposals(ask)
    lines = {line["name"]: line for line in csv.DictReader(io.StringIO(ask("--csv")))}
    assert {name: float(line["saved_joules_at_most"]) for name, line in lines.items()} == {
        name: each["saved_joules"][1] for name, each in found.items()
    }
    shown = ask()
    for each in found.values():
        assert each["meaning"] in shown and all(words in shown for words in each["assumptions"])


def test_runs_at_several_limits_are_weighed(ask: Callable[..., str], tmp_path: Path) -> None:
    table = tmp_path / "curves.csv"
    table.write_text("network,power_limit,time_per_epoch,average_power\nnet,300,10,290\nnet,200,10.4,195\n")
    assert "200 W 30.1%" in ask("--curves", str(table))
    found = json.loads(ask("--json", "--curves", str(table)))["curves"]["net"]
    assert [each["limit_watts"] for each in found] == [300, 300, 200, 200]


def test_a_collector_that_answers_few_rows_at_once_gives_the_same_plan(store: Path) -> None:
    """Its workers check each question, and cut answers at 300 rows: asked for by halves, nothing is lost or counted twice."""
    end_ns = (BEGIN + SECONDS) * NS
    with CatalogReader(store) as reader:
        whole = plan(reader.query, BEGIN * NS, end_ns, Money(), Settings())
        assert len(reader.query("SELECT 1 FROM energy_states WHERE state IN ('execution_idle', 'low_unknown')")) > 300
    pool = WorkerPool(store, Config(workers=1, rows_max=300))
    try:
        parts = plan(lambda sql: pool.query(sql).rows(), BEGIN * NS, end_ns, Money(), Settings())
        (job,) = workloads(lambda sql: pool.query(sql).rows(), BEGIN * NS, end_ns)
    finally:
        pool.close()
    for one, other in zip(whole.proposals, parts.proposals, strict=True):
        assert one.saved_joules == pytest.approx(other.saved_joules) and one.wakes == other.wakes
    assert (job.cut, job.samples) == (True, 300)


@pytest.mark.parametrize("words", [("--trigger", "0"), ("--low-watts", "-1"), ("--curves", "/nowhere")])
def test_what_cannot_be_is_refused_in_a_sentence(
    store: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(["power", "plan", "--store", str(store), *words]) == 64
    assert "Traceback" not in capsys.readouterr().err
