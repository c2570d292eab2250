"""The verbs collector, sql and findings as a user runs them."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from warpline_cli.json_keys import LIFE
from warpline_cli.main import EXIT_USAGE, main
from warpline_collector.continuous import Continuous
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch, Frame
from warpline_proto.finding import (
    Check,
    Cost,
    Evidence,
    Finding,
    FindingKind,
    Onset,
    Report,
    Severity,
    Subject,
    Verdict,
)
from warpline_proto.tables import STEPS

SLOW = Finding(
    FindingKind.COMPUTE_STRAGGLER,
    Severity.CRITICAL,
    0.9,
    Subject(job="j", rank=3),
    "rank 3 computes 31 % longer than its replicas",
    "drain the node",
    onset=Onset(step=120),
    cost=Cost(seconds_per_step=0.25),
    evidence=(Evidence("SELECT 1", ({"one": 1},)),),
)
WELL = Check("link", Verdict.HEALTHY, "j", "largest excess 0.4 %, gate 10 %")
BLIND = Check("hang", Verdict.UNKNOWN, "j", "no collectives", ("NCCL logs",))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckDBStore]:
    """A store with two rows."""
    opened = DuckDBStore(tmp_path)
    rows = STEPS.from_rows([{"job": "é", "rank": 0, "step": 1}, {"job": None, "rank": 1, "step": 1}])
    opened.append([Frame("n", "b", 1, 1, (Batch("steps", "test", rows),))])
    yield opened
    opened.close()


def analysed(store: DuckDBStore, *reports: Report) -> None:
    """One pass of the analysis for each report."""
    given = iter(reports)
    with CatalogReader(store.directory) as reader:
        continuous = Continuous(store, reader, detectors={"test": lambda _: next(given)})
        for _ in reports:
            continuous.one_pass()


def test_sql_prints_columns_with_a_dash_for_unknown(store: DuckDBStore, capsys: pytest.CaptureFixture[str]) -> None:
    """Readable at a glance; NULL is not mistaken for an empty name."""
    assert main(["sql", "SELECT job, rank FROM steps ORDER BY rank", "--store", str(store.directory)]) == 0
    assert capsys.readouterr().out == "job  rank\n---  ----\né       0\n-       1\n"


def test_names_and_values_do_not_move_the_terminal(store: DuckDBStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "SELECT 'a\x1b[2J\nb' AS \"c\x1b[2J\nd\"", "--store", str(store.directory)]) == 0
    assert capsys.readouterr().out == "c [2J d\n-------\na [2J b\n"


@pytest.mark.parametrize(
    ("form", "wanted"),
    [("json", '[{"job": "\\u00e9", "rank": 0},\n {"job": null, "rank": 1}]\n'), ("csv", "job,rank\né,0\n,1\n")],
)
def test_sql_prints_forms_for_programs(
    store: DuckDBStore, capsys: pytest.CaptureFixture[str], form: str, wanted: str
) -> None:
    """Standard output is data and nothing else."""
    sql = "SELECT job, rank FROM steps ORDER BY rank"
    assert main(["sql", sql, "--store", str(store.directory), "--format", form]) == 0
    assert capsys.readouterr().out == wanted


def test_sql_prints_arrow(store: DuckDBStore, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """An Arrow stream that any reader takes."""
    assert (
        main(["sql", "SELECT rank FROM steps ORDER BY rank", "--store", str(store.directory), "--format", "arrow"]) == 0
    )
    sys.stdout.flush()
    read = pa.ipc.open_stream(io.BytesIO(capfdbinary.readouterr().out)).read_all()
    assert read.to_pydict() == {"rank": [0, 1]}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["sql", "DROP TABLE steps", "--store", "{store}"], "DROP is not allowed"),
        (["sql", "SELECT 1", "--store", "{store}/nowhere"], "no store at"),
        (["sql", "SELECT 1", "--collector", "127.0.0.1:1"], "no collector answers"),
        (["findings", "--collector", "127.0.0.1:1"], "no collector answers"),
        (["collector", "--store", "{store}", "--listen", "127.0.0.1:0"], "another collector writes to"),
        (["collector", "--listen", "nonsense"], "is not host:port"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    store: DuckDBStore, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    """Exit 64 and a reason on standard error, no traceback."""
    assert main([word.format(store=store.directory) for word in words]) == EXIT_USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert reason in said.err
    assert "Traceback" not in said.err


def test_findings_say_who_since_when_what_it_costs_and_what_to_do(
    store: DuckDBStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything that somebody who was woken up needs."""
    analysed(store, Report((SLOW,), (WELL,)))
    assert main(["findings", "--store", str(store.directory)]) == 0
    said = capsys.readouterr().out
    for words in (
        "critical",
        "compute_straggler",
        "rank 3",
        "31 %",
        "step 120",
        "250 ms a step",
        "0.90",
        "drain the node",
        "opened ",
    ):
        assert words in said
    assert "Nothing is wrong" not in said


def test_findings_as_json_are_the_published_form(store: DuckDBStore, capsys: pytest.CaptureFixture[str]) -> None:
    """One object: verdict, findings with their life, what was judged and what could not be."""
    analysed(store, Report((SLOW,), (WELL, BLIND)))
    assert main(["findings", "--store", str(store.directory), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "critical"
    assert document["findings"][0] == json.loads(json.dumps(SLOW.to_json())) | {
        key: document["findings"][0][key] for key in LIFE
    }
    assert document["healthy"] == [{"question": "link of job j", "answer": WELL.detail}]
    assert document["unknown"] == [{"question": "hang of job j", "answer": "no collectives; missing: NCCL logs"}]


def test_resolved_findings_are_shown_on_demand(store: DuckDBStore, capsys: pytest.CaptureFixture[str]) -> None:
    """What is over is not in the way, and not forgotten."""
    analysed(store, Report((SLOW,)), *[Report(checks=(WELL,))] * 3)
    assert main(["findings", "--store", str(store.directory)]) == 0
    assert "drain the node" not in capsys.readouterr().out
    assert main(["findings", "--store", str(store.directory), "--all"]) == 0
    assert "RESOLVED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reports", "wanted"),
    [
        ([], "Nobody could tell: no analysis has run"),
        ([Report()], "Nobody could tell: the analysis ran, and found no rows it could judge"),
        ([Report(checks=(BLIND,))], "Nobody could tell whether something is wrong:\n  hang of job j: no collectives"),
        ([Report(checks=(WELL, BLIND))], "Nothing is wrong: 1 questions asked, nobody accused."),
    ],
)
def test_nothing_found_is_told_from_nobody_could_tell(
    store: DuckDBStore, capsys: pytest.CaptureFixture[str], reports: list[Report], wanted: str
) -> None:
    """Silence is never taken for health."""
    analysed(store, *reports)
    assert main(["findings", "--store", str(store.directory)]) == 0
    assert wanted in capsys.readouterr().out


def test_a_collector_starts_answers_and_stops_on_sigterm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A ready line with the address, an answer, and a clean end that leaves the store whole."""
    command = [
        sys.executable,
        "-m",
        "warpline_cli.main",
        "collector",
        "--store",
        str(tmp_path),
        "--listen",
        "127.0.0.1:0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        ready = process.stderr.readline()
        assert ready.startswith("collector ready: listens on 127.0.0.1:")
        address = ready.split("listens on ")[1].split(",")[0]
        assert main(["sql", "SELECT 1 AS one", "--collector", address, "--format", "csv"]) == 0
        assert capsys.readouterr().out == "one\n1\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    DuckDBStore(tmp_path).close()
