"""`warpline report`: a page that says what the other verbs say, loads nothing, and believes no name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import browser
from seen import Database

from warpline_cli.main import EXIT_USAGE, main
from warpline_cli.report import page, told
from warpline_cli.report.asked import Range
from warpline_collector.accounting import account_all
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.finding import (
    Cost,
    Evidence,
    Finding,
    FindingKind,
    FindingState,
    Onset,
    Severity,
    Subject,
    to_rows,
)
from warpline_proto.tables import COLLECTIVES, DEVICE_SAMPLES, PHASES, SOURCE_HEALTH, STEPS

NS = 10**9
BEGIN = 1_790_000_400 * NS
STEPS_TOLD = 120
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)> & \u202eevil\x07\ufffe"
STRAGGLER = Finding(
    FindingKind.COMPUTE_STRAGGLER, Severity.CRITICAL, 0.95, Subject(job=HOSTILE, rank=1, node="node-<b>1</b>", gpu="G1"),
    "Rank 1 computes 50 % longer than its peers", "Drain the node", Onset(BEGIN + 60 * NS, 60), Cost(0.5, 0.1, 3.6e5),
    (Evidence("SELECT '</pre><script>' AS x", tuple({"rank": rank, "name": HOSTILE} for rank in range(40))),),
    ("network: nobody waits for it",), ("temperature",),
)  # fmt: skip
RESOLVED = Finding(FindingKind.REGRESSION, Severity.WARNING, 0.7, Subject(job="calm"), "it got slower", "look")
BEFORE = Finding(FindingKind.HANG, Severity.WARNING, 0.7, Subject(job="calm"), "it hung", "look")


def steps() -> list[dict[str, Any]]:
    return [
        {
            "node": f"node-{rank}", "source": "hook", "job": job, "rank": rank, "pp": rank, "scope": "step", "step": step,
            "start_ns": BEGIN + step * NS, "clock": f"realtime@node-{rank}", "duration_ns": NS + (step >= 60) * NS // 2,
            "compute_ns": NS // 2, "exposed_communication_ns": NS // 4, "idle_ns": NS // 8, "data_wait_ns": NS // 8,
        }
        for job in (HOSTILE, "calm") for rank in range(2) for step in range(STEPS_TOLD)
    ]  # fmt: skip


def collectives() -> list[dict[str, Any]]:
    """Rank 0 comes last: 1 ms for 1 MB among 2, which is 1 GB/s of bus bandwidth; rank 1 has waited for it."""
    return [
        {
            "node": f"node-{rank}", "source": "kernels", "job": "calm", "rank": rank, "step": step, "communicator": "c",
            "sequence": step, "operation": "all_reduce", "message_bytes": 10**6, "nranks": 2, "timing": "kernel_gpu",
            "start_ns": BEGIN + step * NS, "duration_ns": 10**6 * (1 + 5 * rank),
        }
        for rank in range(2) for step in range(STEPS_TOLD)
    ]  # fmt: skip


def samples() -> list[dict[str, Any]]:
    made, joules = [], {"G0": 1e6, "G1": 2e6}
    for second in range(1500):
        for place, gpu in enumerate(joules):
            busy = second < 900 or place == 0
            made.append(
                {
                    "node": f"node-{place}", "source": "nvml", "gpu_uuid": gpu, "gpu_index": 0, "gpu_name": "H100", "job": "calm",
                    "time_ns": BEGIN + second * NS, "power_watts": 500.0 if busy else 100.0, "energy_joules": joules[gpu],
                    "gpu_utilization_percent": 99.0 if busy else 0.0, "resident_processes": 1,
                }
            )  # fmt: skip
            joules[gpu] += 500.0 if busy else 100.0
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report") / "store"
    made = DuckDBStore(directory)
    states = [
        FindingState(STRAGGLER, "open", BEGIN + 70 * NS, BEGIN + 100 * NS),
        FindingState(RESOLVED, "open", BEGIN, BEGIN + NS),
        FindingState(RESOLVED, "resolved", BEGIN, BEGIN + 200 * NS),
        FindingState(BEFORE, "resolved", BEGIN - 9000 * NS, BEGIN - 8000 * NS),
    ]
    phase = {
        "node": "node-0", "source": "hook", "job": "calm", "rank": 0, "pp": 0, "step": STEPS_TOLD - 1, "kind": HOSTILE,
        "phase": "forward", "duration_ns": 10**8,
    }  # fmt: skip
    denied = {
        "node": "node-0",
        "source": "nvml",
        "subject": "power",
        "state": "denied",
        "reason": HOSTILE,
        "time_ns": BEGIN,
    }
    made.write(
        [
            Batch("findings", "analysis", to_rows(states)),
            Batch("steps", "hook", STEPS.from_rows(steps())),
            Batch("phases", "hook", PHASES.from_rows([phase])),
            Batch("collectives", "kernels", COLLECTIVES.from_rows(collectives())),
            Batch("device_samples", "nvml", DEVICE_SAMPLES.from_rows(samples())),
            Batch("source_health", "nvml", SOURCE_HEALTH.from_rows([denied])),
        ]
    )
    with CatalogReader(directory) as reader:
        account_all(made, reader)
    made.close()
    (directory.parent / "prices.toml").write_text('[power]\nprice_per_kwh = 0.5\ncurrency = "EUR"\npue = 1.2\n')
    return directory


@pytest.fixture(scope="module")
def written(store: Path) -> Path:
    path = store.parent / "report.html"
    config = str(store.parent / "prices.toml")
    assert main(["report", "--store", str(store), "--since", "1h", "-o", str(path), "--config", config]) == 0
    return path


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def run(*words: str) -> Any:
        assert main(list(words)) == 0
        return json.loads(capsys.readouterr().out)

    return run


class Tables(HTMLParser):
    """Cells of the tables that have a name, by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self._table = ""
        self._within = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._table = dict(attrs).get("id") or self._table
        elif tag == "tr":
            self.rows.setdefault(self._table, []).append([])
        elif tag in ("td", "th"):
            self.rows[self._table][-1].append("")
            self._within = True

    def handle_endtag(self, tag: str) -> None:
        self._within = self._within and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._within:
            self.rows[self._table][-1][-1] += data


def test_findings_are_those_that_warpline_findings_names(
    store: Path, written: Path, answer: Callable[..., Any]
) -> None:
    """The same verdict and the same open ones; one that ended before the time is not there."""
    said = answer("findings", "--store", str(store), "--json")
    page_said = answer("report", "--store", str(store), "--since", "1h", "-o", str(written), "--json", "--config",
                       str(store.parent / "prices.toml"))  # fmt: skip
    assert page_said["verdict"] == said["verdict"] == "critical"
    assert page_said["findings"] == [STRAGGLER.id, RESOLVED.id]
    assert [finding["id"] for finding in said["findings"]] == [STRAGGLER.id]
    assert page_said["failed"] == []
    assert page_said["bytes"] == written.stat().st_size
    text = written.read_text()
    assert "Critical: open at the end: 1 critical; of this time 1 more is over." in text
    assert BEFORE.id not in text


def test_energy_is_that_of_the_power_report_to_the_last_digit(
    store: Path, written: Path, answer: Callable[..., Any]
) -> None:
    config = ["--config", str(store.parent / "prices.toml"), "--store", str(store), "--json"]
    whole = answer("power", "report", "--since", "1h", *config)["total"]
    rows = {row[0]: row[1:] for row in Tables(written.read_text()).rows["energy"]}
    assert rows["all"] == [f"{whole['gpu_hours']:,.2f}", f"{whole['kwh']:,.3f}", ""]
    idle = whole["joules"]["execution_idle"] / 3.6e6
    assert rows["idle under a program"][1] == f"{idle:,.3f}"
    assert idle == pytest.approx(100 * 600 / 3.6e6, rel=0.02)
    assert f"Together {whole['cost']:,.2f} EUR" in written.read_text()


def test_bandwidth_is_timed_on_the_rank_that_came_last(store: Path) -> None:
    with CatalogReader(store) as reader:
        [row] = reader.query(told._bandwidth({"calm": {"last_step": STEPS_TOLD - 1, "run_ns": None}})).to_pylist()
    assert row["middle"] == pytest.approx(1.0)
    assert row["operations"] == told.PHASE_STEPS


def test_a_browser_shows_it_without_a_script_a_network_or_a_complaint(written: Path) -> None:
    """Hostile names are text; the plots are there and as wide as the page; evidence unfolds without a script."""
    with browser() as shown:
        shown.goto(written.as_uri())
        assert shown.complaints == []
        assert "Report of all jobs" in shown.text()
        assert shown.evaluate("document.title").startswith("warpline report: all jobs")
        assert shown.evaluate("document.querySelectorAll('script, img, link, iframe, object').length") == 0
        assert shown.evaluate("document.querySelectorAll('b').length") == 1
        assert shown.evaluate("performance.getEntriesByType('resource').length") == 0
        widths = shown.evaluate(
            "[...document.querySelectorAll('figure svg')].map(e => e.getBoundingClientRect().width)"
        )
        assert len(widths) == 7
        assert min(widths) > 600
        assert shown.evaluate(
            "[...document.querySelectorAll('svg text')].some(e => e.textContent.includes('<script>'))"
        )
        assert not shown.evaluate("document.querySelector('details').open")
        shown.evaluate("document.querySelector('summary').click()")
        assert "network: nobody waits for it" in shown.text()
        target = written.with_suffix(".png")
        shown.resize(1200, 2600)
        shown.screenshot(target)
        assert target.stat().st_size > 50_000


def test_no_character_of_the_data_is_markup_or_moves_the_text(written: Path) -> None:
    text = written.read_text()
    assert "<script" not in text
    assert "\u202e" not in text and "\x07" not in text
    assert "&lt;script&gt;" in text
    identifiers = re.findall(r' id="([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers))


def test_a_page_of_one_job_speaks_of_no_other(store: Path, answer: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "one.html"
    said = answer("report", "--store", str(store), "--since", "1h", "--job", "calm", "-o", str(path), "--json")
    assert said["job"] == "calm"
    assert said["findings"] == [RESOLVED.id]
    assert "Report of job calm" in path.read_text()
    assert STRAGGLER.summary not in path.read_text()


def test_a_time_that_ends_before_it_begins_is_refused_and_no_file_is_left(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.html"
    words = ["report", "--store", str(store), "--since", "2026-01-01", "--until", "2025-01-01", "-o", str(path)]
    assert main(words) == EXIT_USAGE
    assert "--since is not before --until" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_judged_then_is_not_called_healthy(
    store: Path, answer: Callable[..., Any], tmp_path: Path
) -> None:
    """That all is well now is no word on another day, nor on another job."""
    judged = {
        "source": "analysis",
        "subject": "straggler of job calm",
        "state": "fresh",
        "reason": "even",
        "time_ns": BEGIN,
    }
    made = DuckDBStore(tmp_path / "store")
    made.write([Batch("source_health", "analysis", SOURCE_HEALTH.from_rows([judged]))])
    made.close()
    here = ("report", "--store", str(tmp_path / "store"), "-o", str(tmp_path / "page.html"), "--json", "--since", "1h")
    after, before = str(BEGIN + 10**9), str(BEGIN - 86_400 * 10**9)
    assert answer(*here, "--until", after)["verdict"] == "healthy"
    assert answer(*here, "--until", after, "--job", "calm")["verdict"] == "healthy"
    assert answer(*here, "--until", after, "--job", "other")["verdict"] == "unknown"
    assert answer(*here, "--until", before)["verdict"] == "unknown"


def test_where_nobody_answers_the_page_of_yesterday_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.html"
    path.write_text("yesterday")
    assert main(["report", "--collector", "127.0.0.1:1", "-o", str(path)]) == EXIT_USAGE
    assert "nothing could be asked: " in capsys.readouterr().err
    assert path.read_text() == "yesterday"


def test_what_is_no_file_is_written_to_and_a_link_goes_on_leading(store: Path, tmp_path: Path) -> None:
    """A pipe that is named, or /dev/stdout, is not replaced by a file."""
    pipe, link, target = tmp_path / "pipe", tmp_path / "link.html", tmp_path / "target.html"
    os.mkfifo(pipe)
    link.symlink_to(target)
    with ThreadPoolExecutor(1) as reading:
        read = reading.submit(pipe.read_text)
        assert main(["report", "--store", str(store), "-o", str(pipe)]) == 0
        assert read.result().startswith("<!DOCTYPE html>")
    assert pipe.is_fifo()
    assert main(["report", "--store", str(store), "-o", str(link)]) == 0
    assert link.is_symlink() and target.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("hours", [2, 5])
def test_a_job_that_was_started_again_is_told_of_by_the_run_that_goes_on(hours: int) -> None:
    """From step 1,500 again after it had come to 2,000: the newest steps are those told last, not those with the highest numbers.

    A long time is told from what is kept by ten minutes.
    """
    from warpline_analysis.energy.money import Money

    database = Database()
    end_ns = BEGIN - BEGIN % (600 * NS) + hours * 3600 * NS
    for first, steps, start_ns, seconds in ((0, 2_000, end_ns - 7_000 * NS, 1), (1_500, 100, end_ns - 2_000 * NS, 2)):
        database.connection.execute(f"""
INSERT INTO steps BY NAME SELECT 'train' AS job, r AS rank, 0 AS pp, 'node-' || r AS node, 'step' AS scope, {first} + s AS step,
  {start_ns} + s * {seconds * NS} AS start_ns, {seconds * NS}::BIGINT AS duration_ns, 'realtime@node-' || r AS clock
FROM range({steps}) x(s), range(2) y(r)""")
        database.connection.execute(f"""
INSERT INTO phases BY NAME SELECT job, rank, pp, node, step, start_ns, clock, duration_ns, 'compute' AS kind,
  'forward-{seconds}' AS phase FROM steps WHERE start_ns >= {start_ns}""")
    database.connection.execute(f"""
INSERT INTO steps_history BY NAME SELECT job, rank, 0 AS pp, node, start_ns - start_ns % {600 * NS} AS time_ns, 1 AS updated_ns,
  min(step) AS first_step, max(step) AS last_step, avg(duration_ns)::BIGINT AS duration_ns, min(duration_ns) AS min_ns,
  max(duration_ns) AS max_ns FROM steps GROUP BY ALL""")
    known = told.take(database.query, Range(end_ns - hours * 3600 * NS, end_ns), Money())
    rows = known.iterations["train"]
    assert rows[-1]["last_step"] == 1_599 and {row["seconds"] for row in rows} == {2.0}
    assert [row["phase"] for row in known.phases] == ["forward-2"]
    assert "it was started again, its run up to" in page.page(known, [])


def test_a_day_of_ten_thousand_gpus_is_a_page_of_bounded_size() -> None:
    """1,250 nodes, 10,000 ranks of one job, 1,000 findings, 24 hours: the page is under 2 MB and says what it leaves out."""
    from warpline_analysis.energy.money import Money

    database = Database()
    rows = "range(10000) AS g(gpu), range(24) AS h(hour)"
    at = f"{BEGIN} + hour * {3600 * NS}"
    database.connection.execute(f"""
INSERT INTO steps_history BY NAME SELECT 'node-' || (gpu // 8) AS node, 'big' AS job, gpu AS rank, gpu % 16 AS pp,
  {at} AS time_ns, hour * 1000 AS first_step, hour * 1000 + 999 AS last_step, 1000000000 AS duration_ns, 900000000 AS min_ns,
  1100000000 AS max_ns, 500000000 AS compute_ns, 100000000 AS exposed_communication_ns, 1 AS updated_ns FROM {rows}""")
    database.connection.execute(f"""
INSERT INTO energy_intervals BY NAME SELECT 'node-' || (gpu // 8) AS node, 'gpu-' || gpu AS gpu_uuid, 'H100' AS gpu_name,
  {at} AS start_ns, {at} + {600 * NS} AS end_ns, {at} - ({at}) % {600 * NS} AS window_ns, 'active' AS state, 600.0 AS seconds,
  300000.0 AS joules, 0.0 AS unmeasured_seconds, 'counter' AS joules_method, 0.0 AS error_joules, 'big' AS job, 1 AS updated_ns,
  [] AS missing FROM {rows}""")
    kinds = [*FindingKind]
    states = [
        FindingState(
            Finding(kinds[n % len(kinds)], Severity.WARNING, 0.5, Subject(job="big", rank=n), "slow" * 20, "look",
                    evidence=STRAGGLER.evidence), "open", BEGIN, BEGIN + n)
        for n in range(1000)
    ]  # fmt: skip
    database.add("findings", to_rows(states).to_pylist())
    known = told.take(database.query, Range(BEGIN, BEGIN + 86_400 * NS), Money())
    text = page.page(known, [])
    assert [each.trouble for each in known.asked if each.trouble] == []
    assert len(known.findings) == told.FINDINGS_MAX
    assert len(known.nodes) == told.NODES_MAX
    assert len(known.iterations["big"]) == 24
    assert "10000 GPUs drew 20.00 MWh" in text
    assert "Warning: open at the end: 1000 warning." in text
    assert f"Only the first {told.FINDINGS_MAX} of 1000" in text
    assert len(text) < 2_000_000
