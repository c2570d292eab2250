"""`warpline power report`: lines that add up to the counters, priced by the hour, however they are grouped."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from warpline_cli.main import main
from warpline_collector.accounting import account_all
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.tables import DEVICE_SAMPLES

NS = 10**9
BEGIN = int(datetime(2026, 11, 20, 7, 30, tzinfo=UTC).timestamp())
"""Half an hour before the dear hours of a Friday begin."""
SECONDS = 3600
GPUS = {"G0": ("train", "a"), "G1": ("train", "a"), "G2": (None, "b")}
CONFIG = """
[power]
price_per_kwh = 0.2
currency = "EUR"
carbon_grams_per_kwh = 400.0
pue = 1.5
tariffs = ["mon-fri 08:00-20:00 0.4"]
"""


def state_of(gpu: str, second: int) -> tuple[bool, float]:
    """Whether it computes, and watts: G0 and G1 by turns of a minute, G2 holds a session that does nothing from 300 s on."""
    busy = second < 300 if gpu == "G2" else second // 60 % 2 == 0
    return busy, (500.0 if busy else 110.0) + int(gpu[1])


def rows() -> list[dict[str, Any]]:
    made = []
    for gpu, (job, node) in GPUS.items():
        joules = 5e6
        for second in range(SECONDS + 1):
            busy, watts = state_of(gpu, second)
            made.append(
                {
                    "node": node, "source": "nvml", "gpu_uuid": gpu, "gpu_index": 0, "gpu_name": "H100", "job": job,
                    "time_ns": (BEGIN + second) * NS, "power_watts": watts, "energy_joules": joules,
                    "gpu_utilization_percent": 98.0 if busy else 0.0, "resident_processes": 1,
                }
            )  # fmt: skip
            joules += watts
    empty = {"node": "c", "source": "nvml", "gpu_uuid": "G9", "gpu_index": 0, "gpu_name": "H100"}
    for second in range(120):
        idle = {"power_watts": 70.0, "gpu_utilization_percent": 0.0, "resident_processes": 0}
        made.append({**empty, **idle, "time_ns": (BEGIN + second) * NS})
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("power") / "store"
    (directory.parent / "warpline.toml").write_text(CONFIG)
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
        code = main(["power", "report", "--store", str(store), "--since", "2h", "--config", config, *words])
        assert code == 0
        return capsys.readouterr().out

    return run


def lines(ask: Callable[..., str], by: str) -> dict[str | None, dict[str, Any]]:
    return {line["key"]: line for line in json.loads(ask("--by", by, "--json"))["lines"]}


def drawn(gpu: str, busy: bool | None = None, dear: bool | None = None) -> float:
    """Joules by the plain definition: one second after the other."""
    return sum(
        state_of(gpu, second)[1]
        for second in range(SECONDS)
        if busy in (None, state_of(gpu, second)[0]) and dear in (None, second >= 1800)
    )


@pytest.mark.parametrize("by", ["job", "node", "gpu", "model", "cause", "user", "all"])
def test_however_it_is_grouped_it_adds_up_to_the_counters(ask: Callable[..., str], by: str) -> None:
    document = json.loads(ask("--by", by, "--json"))
    total = sum(sum(line["joules"].values()) for line in document["lines"])
    counted = sum(drawn(gpu) for gpu in GPUS) + 119 * 70.0
    assert total == pytest.approx(counted, abs=0.5)
    assert sum(document["total"]["joules"].values()) == pytest.approx(counted, abs=0.5)


def test_idle_time_energy_and_money_are_those_of_a_plain_count(ask: Callable[..., str]) -> None:
    train = lines(ask, "job")["train"]
    assert train["joules"]["execution_idle"] == pytest.approx(
        drawn("G0", busy=False) + drawn("G1", busy=False), abs=0.5
    )
    assert train["execution_idle_share"]["5s"] == pytest.approx(0.5)
    kwh = {dear: (drawn("G0", dear=dear) + drawn("G1", dear=dear)) / 3.6e6 for dear in (False, True)}
    assert train["cost"] == pytest.approx(1.5 * (0.2 * kwh[False] + 0.4 * kwh[True]), rel=1e-6)
    assert train["carbon_grams"] == pytest.approx(1.5 * 400 * (kwh[False] + kwh[True]), rel=1e-6)


def test_what_belongs_to_no_job_is_a_line_of_its_own(ask: Callable[..., str]) -> None:
    nobody = lines(ask, "job")[None]
    assert sum(nobody["joules"].values()) == pytest.approx(drawn("G2") + 119 * 70.0, abs=0.5)
    assert "(no job known)" in ask("--by", "job")


def test_avoidable_is_what_was_drawn_above_an_empty_gpu_of_the_model(ask: Callable[..., str]) -> None:
    train = lines(ask, "job")["train"]
    seconds = sum(not state_of(gpu, second)[0] for gpu in ("G0", "G1") for second in range(SECONDS))
    assert train["avoidable_joules"] == pytest.approx(train["joules"]["execution_idle"] - 70.0 * seconds, abs=0.5)


def test_causes_name_what_went_before_and_sessions_that_were_forgotten(ask: Callable[..., str]) -> None:
    by_cause = lines(ask, "cause")
    assert by_cause["forgotten_session"]["seconds"]["execution_idle"] == 3300.0
    assert by_cause["compute_to_idle"]["seconds"]["execution_idle"] == 3600.0
    assert by_cause["not idle"]["seconds"]["execution_idle"] == 0.0


def test_the_text_and_the_table_say_the_same(ask: Callable[..., str]) -> None:
    text = ask("--by", "node")
    assert "EUR" in text and "kg CO2" in text and "100.0% of the energy is by the GPUs' counters" not in text
    [first, *_] = csv.DictReader(io.StringIO(ask("--by", "node", "--csv")))
    assert first["key"] == "a" and float(first["joules_execution_idle"]) > 0
    assert "execution-idle over the time in which a program ran: " in text


def test_a_time_of_which_nothing_is_known_is_said_so(
    ask: Callable[..., str], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["power", "report", "--store", str(store), "--since", "2020-01-01", "--until", "2020-01-02"]) == 0
    assert "the account knows 2026-11-20 07:30 to 2026-11-20 08:30 UTC" in capsys.readouterr().err
