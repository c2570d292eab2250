"""Rules for Prometheus and dashboards for Grafana: valid to their tools, and every query run against a collector with rows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from deployed import DEPLOY
from grafana import Range
from monitored import JOB, NODE, NS, SECONDS, Monitored, collector

from warpline_cli.processes import free_address

RULES = DEPLOY / "prometheus"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
EMPTY = {"Callers turned away": "on loopback nobody is"}
"""Panels that show nothing where all is well, and why."""
UNITS = {
    "short", "watt", "percentunit", "percent", "hertz", "celsius", "bytes", "Bps", "s", "h", "joule", "kwatth", "cps",
    "dateTimeAsIso", "dateTimeFromNow", "bool_yes_no",
}  # fmt: skip
"""Identifiers of Grafana's units, as its list of categories has them."""


def promtool(*words: str) -> None:
    """It has nothing to say."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(["promtool", *words], cwd=RULES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_the_example_are_what_prometheus_reads() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", "warpline.rules.yml")
    promtool("check", "config", "prometheus.yml")


def test_each_alert_goes_off_when_it_should_and_none_where_nothing_is_wrong() -> None:
    promtool("test", "rules", "warpline.tests.yml")
    alerts = re.findall(r"- alert: (\w+)", (RULES / "warpline.rules.yml").read_text())
    told = set(re.findall(r"alertname(?:: |=\")(\w+)", (RULES / "warpline.tests.yml").read_text()))
    assert len(alerts) > 25
    assert set(alerts) - told == set()


def test_however_prometheus_finds_the_collector_the_rules_know_it() -> None:
    """By the name of its job: an operator's own would be that of the service."""
    assert 'up{job="warpline"}' in (RULES / "warpline.rules.yml").read_text()
    assert "job_name: warpline " in (RULES / "prometheus.yml").read_text()
    monitor = (DEPLOY / "kubernetes" / "service-monitor.yaml").read_text()
    assert "{targetLabel: job, replacement: warpline}" in monitor


def test_every_alert_says_what_to_do_and_how_soon() -> None:
    text = (RULES / "warpline.rules.yml").read_text()
    alerts = text.count("- alert: ")
    assert len(re.findall(r"labels: \{severity: (?:info|warning|critical)\}", text)) == alerts
    assert len(re.findall(r"\n +summary: ", text)) == len(re.findall(r"\n +next_step: ", text)) == alerts


def loaded(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_sound(path: Path) -> None:
    """Panels with ids of their own that do not overlap, a unit, and the data source that a variable chooses."""
    board = loaded(path)
    panels = board["panels"]
    assert board["uid"] == f"warpline-{path.stem}"
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    assert len({panel["title"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    sources = {each["name"]: each["query"] for each in board["templating"]["list"] if each["type"] == "datasource"}
    asked = [panel["datasource"] for panel in panels]
    asked += [target["datasource"] for panel in panels for target in panel["targets"]]
    asked += [each["datasource"] for each in board["templating"]["list"] if each["type"] == "query"]
    assert {(each["uid"], each["type"]) for each in asked} == {(f"${{{name}}}", kind) for name, kind in sources.items()}
    for panel in panels:
        units = [panel["fieldConfig"]["defaults"]["unit"]]
        units += [
            item["value"]
            for each in panel["fieldConfig"]["overrides"]
            for item in each["properties"]
            if item["id"] == "unit"
        ]
        assert set(units) <= UNITS, panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs)) > 0


def test_links_between_dashboards_lead_somewhere() -> None:
    boards = {loaded(path)["uid"]: loaded(path) for path in DASHBOARDS}
    assert len(boards) == len(DASHBOARDS) == 5
    links = {match for path in DASHBOARDS for match in re.findall(r'"/d/([\w-]+)\?var-(\w+)=', path.read_text())}
    assert links == {("warpline-job", "job"), ("warpline-node", "node")}
    for uid, name in links:
        assert name in {each["name"] for each in boards[uid]["templating"]["list"]}


def test_provisioning_names_what_the_dashboards_ask_for() -> None:
    text = (DEPLOY / "grafana" / "provisioning" / "datasources" / "warpline.yaml").read_text()
    wanted = {
        each["query"]
        for path in DASHBOARDS
        for each in loaded(path)["templating"]["list"]
        if each["type"] == "datasource"
    }
    assert wanted == set(re.findall(r"^    type: (\S+)", text, re.M))
    assert "grafana/dashboards" in (DEPLOY / "grafana" / "provisioning" / "dashboards" / "warpline.yaml").read_text()


def targets(kind: str) -> list[tuple[str, str, dict[str, Any], Any]]:
    """Dashboard, panel, target and panel of every query to one kind of data source."""
    return [
        (path.stem, panel["title"], target, panel)
        for path in DASHBOARDS
        for panel in loaded(path)["panels"]
        for target in panel["targets"]
        if target["datasource"]["type"] == kind
    ]


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    """One for all queries."""
    with collector(tmp_path_factory.mktemp("monitored")) as each:
        yield each


def test_every_question_in_sql_has_rows(monitored: Monitored) -> None:
    """Over the PostgreSQL door, with variables and macros expanded as Grafana does."""
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    seen = Range(monitored.now_ns - SECONDS * NS, monitored.now_ns + 3_600 * NS, {"job": JOB, "node": NODE})
    where = f"host=127.0.0.1 port={monitored.port} user=grafana dbname=warpline"
    with psycopg.connect(where, autocommit=True) as connection:
        until_accounted(connection)
        for board, title, target, panel in targets("grafana-postgresql-datasource"):
            check_sql(connection, seen, f"{board}: {title}", target, panel)
        for path in DASHBOARDS:
            check_choices(connection, seen, loaded(path))


def test_every_question_in_promql_has_rows(monitored: Monitored, tmp_path: Path) -> None:
    """Of a real Prometheus that scrapes the collector and has the rules."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    seen = Range(0, 0, {"job": JOB, "node": NODE})
    with scraping(tmp_path, monitored.metrics) as own:
        for board, title, target, _ in targets("prometheus"):
            if title not in EMPTY:
                answered(own, seen.variables(target["expr"]), f"{board}: {title}")
        for record in re.findall(r"record: (\S+)", (RULES / "warpline.rules.yml").read_text()):
            answered(own, record, record)


def test_rules_speak_of_metrics_that_there_are(monitored: Monitored) -> None:
    """But for certificates, which a collector on loopback has none of."""
    page = urllib.request.urlopen(f"http://{monitored.metrics}/metrics", timeout=30).read().decode()
    rules = re.sub(r"#.*|(?:summary|next_step|record):.*|warpline:\S+", "", (RULES / "warpline.rules.yml").read_text())
    asked = set(re.findall(r"\bwarpline_\w+", rules))
    assert len(asked) > 20
    assert {
        name for name in asked - set(re.findall(r"^(warpline_\w+)", page, re.M)) if "certificate" not in name
    } == set()


def check_sql(connection: Any, seen: Range, where: str, target: Mapping[str, Any], panel: Any) -> None:
    """Rows come; a series has a time first, and columns that are spoken of exist."""
    cursor = connection.execute(seen.sql(target["rawSql"]))
    found, names = cursor.fetchall(), [column.name for column in cursor.description]
    assert found, f"{where}: no rows"
    assert any(value is not None for row in found for value in row), where
    spoken = {each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]}
    assert spoken <= set(names), f"{where}: no columns {spoken - set(names)}"
    if target["format"] == "time_series":
        assert names[0] == "time", where
        assert names == ["time", "metric", "value"] or "metric" not in names, where
        begin, end = seen.from_ns / NS - 600, seen.to_ns / NS
        assert all(begin <= float(row[0]) <= end for row in found), where
        assert [row[0] for row in found] == sorted(row[0] for row in found), where


def check_choices(connection: Any, seen: Range, board: Any) -> None:
    """Variables that are chosen from SQL offer the job."""
    for each in board["templating"]["list"]:
        if each["type"] == "query" and each["datasource"]["uid"] == "${sql}":
            assert (JOB,) in connection.execute(seen.sql(each["query"])).fetchall()


def until_accounted(connection: Any) -> None:
    """The energy account, and what is judged of agents, are made in passes of their own."""
    pause, end = threading.Event(), time.monotonic() + 60
    tables = ("energy_states", "agents")
    wanted = "SELECT " + " AND ".join(f"(SELECT count(*) FROM {name}) > 0" for name in tables)
    while connection.execute(wanted).fetchone() != (True,):
        assert time.monotonic() < end
        pause.wait(0.1)


@contextmanager
def scraping(folder: Path, address: str) -> Iterator[str]:
    """A real Prometheus that scrapes every two seconds; its address."""
    own = free_address()
    (folder / "prometheus.yml").write_text(
        f"global: {{evaluation_interval: 1s}}\nrule_files: ['{RULES / 'warpline.rules.yml'}']\nscrape_configs:\n"
        f"- {{job_name: warpline, scrape_interval: 2s, scrape_timeout: 2s, static_configs: [{{targets: ['{address}']}}]}}\n"
    )
    words = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={own}",
    ]
    with (
        (folder / "prometheus.log").open("wb") as log,
        subprocess.Popen(["prometheus", *words], stdout=log, stderr=log) as process,
    ):
        try:
            yield own
        finally:
            process.terminate()


def answered(own: str, question: str, where: str) -> None:
    """As soon as there is an answer; two scrapes are needed for a rate."""
    pause, end = threading.Event(), time.monotonic() + 120
    said = ""
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(
                f"http://{own}/api/v1/query?query={urllib.parse.quote(question)}", timeout=10
            ) as reply:
                said = reply.read().decode()
        except urllib.error.HTTPError as error:
            assert error.code >= 500, f"{where}: {question}: {error.read().decode()}"  # 503 until it is ready
            said = ""
        except OSError:
            said = ""
        if said and json.loads(said)["data"]["result"]:
            return
        pause.wait(0.1)
    raise AssertionError(f"{where}: nothing for {question}: {said}")
