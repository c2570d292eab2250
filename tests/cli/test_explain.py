"""`warpline explain`: one finding for a ticket, by as much of its identifier as tells it apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from seen import Database

from warpline_cli.explaining import explain
from warpline_cli.main import EXIT_USAGE, main
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.finding import Cost, Finding, FindingKind, FindingState, Onset, Severity, Subject, to_rows
from warpline_proto.tables import DEVICE_SAMPLES, STEPS

NS = 10**9
BEGIN = 1_790_000_000 * NS
SLOW = Finding(
    FindingKind.COMPUTE_STRAGGLER, Severity.CRITICAL, 0.9, Subject(job="train", rank=1, stage=0, node="a", gpu="G1"),
    "rank 1 is slow", "drain a", Onset(BEGIN, 3), Cost(joules=3.6e6),
)  # fmt: skip
OVER = Finding(FindingKind.REGRESSION, Severity.INFO, 0.7, Subject(job="train"), "it got slower", "look")
ELSEWHERE = Finding(FindingKind.REGRESSION, Severity.WARNING, 0.7, Subject(job="other"), "so did this", "look")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("explain") / "store"
    made = DuckDBStore(directory)
    states = [
        FindingState(SLOW, "open", BEGIN, BEGIN + 1),
        FindingState(OVER, "open", BEGIN, BEGIN + 1),
        FindingState(OVER, "resolved", BEGIN, BEGIN + 2),
        FindingState(ELSEWHERE, "open", BEGIN, BEGIN + 1),
    ]
    steps = [
        {
            "node": "a", "source": "hook", "job": "train", "rank": rank, "pp": 0, "scope": "step", "step": step,
            "start_ns": BEGIN + step * NS, "duration_ns": NS, "compute_ns": (900 if rank == 1 else 500) * 10**6,
        }
        for rank in range(12) for step in range(60)
    ]  # fmt: skip
    sample = {"node": "a", "source": "nvml", "gpu_uuid": "G1", "gpu_index": 1, "time_ns": BEGIN, "power_watts": 650.0}
    made.write(
        [
            Batch("findings", "analysis", to_rows(states)),
            Batch("steps", "hook", STEPS.from_rows(steps)),
            Batch("device_samples", "nvml", DEVICE_SAMPLES.from_rows([sample])),
        ]
    )
    made.close()
    (directory.parent / "prices.toml").write_text('[power]\nprice_per_kwh = 0.5\ncurrency = "EUR"\n')
    return directory


def test_the_beginning_of_an_identifier_is_enough(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rank, its peers and its GPU stand beside the finding, another finding of its job below."""
    assert main(["explain", "compute", "--store", str(store), "--config", str(store.parent / "prices.toml")]) == 0
    told = capsys.readouterr().out
    assert told.startswith("## [critical] compute_straggler: rank 1, stage 0, GPU G1, on a of job train\n")
    assert "| cost | 1.00 kWh, 0.50 EUR of energy |" in told
    assert "### Its newest 50 steps beside its peers'" in told
    rows = [line for line in told.splitlines() if line.startswith("| ") and "| a | 50 | 1000 |" in line]
    assert len(rows) == 8
    assert rows[0].startswith("| 1 | a | 50 | 1000 | 900 |")
    assert "### Its GPU when last read" in told
    assert f"- {OVER.id}, info, resolved: the whole job of job train" in told
    assert ELSEWHERE.id not in told


def test_as_json_it_is_the_finding_in_its_published_form_and_what_stands_beside_it(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", SLOW.id, "--store", str(store), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    published = json.loads(json.dumps(SLOW.to_json()))
    assert {key: document[key] for key in published} == published
    assert document["state"] == "open"
    assert [other["id"] for other in document["related"]] == [OVER.id]
    assert [fact["title"] for fact in document["beside"]] == [
        "Its newest 50 steps beside its peers'",
        "Its GPU when last read",
    ]
    assert document["markdown"].startswith("## [critical]")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("compute_strangler", f"there is no finding 'compute_strangler' (open now: {SLOW.id} (rank 1"),
        ("zzz", f"open now: {SLOW.id}"),
        ("regression", "2 findings begin with 'regression'"),
    ],
)
def test_an_identifier_that_names_none_or_several_says_which_there_are(
    typed: str, words: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", typed, "--store", str(store)]) == EXIT_USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err


def test_a_name_moves_nothing_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not in an error that lists what there is, either."""
    made = DuckDBStore(tmp_path / "store")
    named = Finding(
        FindingKind.HANG, Severity.CRITICAL, 0.9, Subject(job="\x1b[2Jtrain\u202e", rank=1), "it hangs", "look"
    )
    made.write([Batch("findings", "analysis", to_rows([FindingState(named, "open", BEGIN, BEGIN)]))])
    made.close()
    assert main(["explain", "none", "--store", str(tmp_path / "store")]) == EXIT_USAGE
    assert main(["explain", "hang", "--store", str(tmp_path / "store")]) == 0
    printed = capsys.readouterr()
    assert "of job ?[2Jtrain?" in printed.err
    assert "\x1b" not in printed.out + printed.err and "\u202e" not in printed.out + printed.err


def test_beside_a_job_that_was_started_again_stand_the_steps_and_kernels_of_the_run_that_goes_on() -> None:
    """It began with step 0 an hour after the run before had come to step 5,000."""
    database = Database()
    for first, begin_ns, milliseconds in ((4_900, BEGIN, 1_000), (0, BEGIN + 3_600 * NS, 2_000)):
        place = [{"job": "train", "rank": rank, "pp": 0, "node": "a", "step": first + step,
                  "start_ns": begin_ns + step * milliseconds * 10**6} for rank in range(4) for step in range(100)]  # fmt: skip
        database.add("steps", [{**each, "scope": "step", "duration_ns": milliseconds * 10**6} for each in place])
        kernel = {"kernel_id": milliseconds, "category": "compute", "count": 1}
        ran = [{**each, **kernel, "sum_ns": 4_000 if each["rank"] == 1 else 2_000} for each in place]
        database.add("kernel_clusters", ran)
    database.add("findings", to_rows([FindingState(SLOW, "open", BEGIN, BEGIN)]).to_pylist())
    steps, kernels = explain(database.query, SLOW.id, None).beside
    assert [(row["rank"], row["steps"], row["step_ms"]) for row in steps.rows] == [
        (n, 50, 2000.0) for n in (1, 0, 2, 3)
    ]
    assert [(row["kernel"], row["ratio"], row["launches"]) for row in kernels.rows] == [("2000", 2.0, 20)]
