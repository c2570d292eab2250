"""Every verb can speak JSON, one document on standard output with keys that stay, or says why it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warpline_cli.json_keys import FINDING, KEYS, LIFE
from warpline_cli.main import EXIT_USAGE, main
from warpline_cli.parsers import leaves, options, whole
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.finding import Finding, FindingKind, FindingState, Severity, Subject, to_rows

FOUND = Finding(FindingKind.HANG, Severity.CRITICAL, 0.9, Subject(job="j", rank=3), "the job hangs", "look at rank 3")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The one document on standard output."""

    def run(*words: str) -> Any:
        main(list(words))
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("json") / "store"
    made = DuckDBStore(directory)
    made.write([Batch("findings", "analysis", to_rows([FindingState(FOUND, "open", 1, 2)]))])
    made.close()
    return directory


def test_each_verb_takes_it_or_says_why_not() -> None:
    """What is typed as a verb and does something has the flag, or a sentence in its help; its keys are documented."""
    without, undocumented = [], []
    for parser in leaves(whole()):
        name = parser.prog.removeprefix("warpline ")
        if any("--json" in option.option_strings for option in options(parser)):
            undocumented += [] if name in KEYS else [name]
        elif "There is no --json:" not in (parser.epilog or ""):
            without.append(name)
    assert without == []
    assert undocumented == []


def test_no_keys_are_documented_of_what_is_no_verb() -> None:
    assert set(KEYS) <= {parser.prog.removeprefix("warpline ") for parser in leaves(whole())}


@pytest.mark.parametrize(
    "words",
    [
        "status",
        "findings",
        "explain hang",
        "power report",
        "power plan",
        "store check",
        "store repair",
        "store compact",
    ],
)
def test_documents_of_a_store_have_the_keys_of_the_manual(words: str, store: Path, say: Callable[..., Any]) -> None:
    document = say(*words.split(), "--store", str(store), "--json")
    verb = " ".join(words.split()[:2]) if words.split()[0] in ("power", "store") else words.split()[0]
    assert set(KEYS[verb]) <= set(document)


def test_a_finding_has_the_keys_of_the_manual(store: Path, say: Callable[..., Any]) -> None:
    [found] = say("findings", "--store", str(store), "--json")["findings"]
    assert set(found) == set(FINDING) | set(LIFE)


def test_rows_and_what_tables_are_come_as_json(store: Path, say: Callable[..., Any]) -> None:
    assert say("sql", "SELECT id, rank FROM findings", "--store", str(store), "--json") == [{"id": FOUND.id, "rank": 3}]
    assert {
        "name": "findings",
        "meaning": "one state of one finding; the view current_findings has the newest state of each",
    } in (say("sql", "--describe", "--json"))
    assert "summary" in say("sql", "--describe", "findings", "--json")["columns"]


def test_settings_are_printed_and_checked_as_json(tmp_path: Path, say: Callable[..., Any]) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[power]\nprice_per_kwh = 0.25\ntariffs = ["22:00-06:00 0.1"]\n')
    printed = say("config", "print", "--config", str(path), "--json")
    assert set(printed) == set(KEYS["config"])
    assert printed["settings"]["power"]["price_per_kwh"] == 0.25
    assert printed["settings"]["power"]["tariffs"] == ["22:00-06:00 0.1"]
    assert say("config", "validate", "--config", str(path), "--json") == {"files": [str(path)], "absent": []}
    assert say("config", "path", "--config", str(path), "--json")["files"] == [str(path)]


def test_certificates_are_made_and_shown_as_json(tmp_path: Path, say: Callable[..., Any]) -> None:
    where = ["--directory", str(tmp_path / "pki"), "--json"]
    assert say("pki", "init", *where) == {"directory": str(tmp_path / "pki")}
    [first, second] = say("pki", "issue", "--agent", "a", "b", *where)["folders"]
    assert Path(first, "key.pem").is_file() and Path(second, "key.pem").is_file()
    assert len(say("pki", "rotate", *where)["folders"]) == 2
    assert [each["role"] for each in say("pki", "show", *where)["certificates"]] == ["authority", "agent", "agent"]


def test_a_screen_and_json_do_not_share_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--tui", "--json"]) == EXIT_USAGE
    assert "--json prints" in capsys.readouterr().err
