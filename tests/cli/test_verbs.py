"""What every verb keeps to: help on standard output, mistakes on standard error with 64, settings that read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warpline_cli.json_keys import LIFE
from warpline_cli.main import EXIT_USAGE, VERBS, main
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.finding import Finding, FindingKind, FindingState, Severity, Subject, to_rows

FOUND = Finding(FindingKind.HANG, Severity.CRITICAL, 0.9, Subject(job="j"), "the job hangs", "look at rank 3")


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_each_verb_says_what_it_takes(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    said = capsys.readouterr()
    assert stop.value.code == 0
    assert said.out.startswith(f"usage: warpline {verb}")
    assert VERBS[verb] in " ".join(said.out.split())
    assert said.err == ""


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_each_verb_refuses_what_it_does_not_take(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--no-such-flag"])
    said = capsys.readouterr()
    assert stop.value.code == EXIT_USAGE
    assert said.out == ""
    assert f"warpline {verb}" in said.err


def test_a_verb_that_is_not_there_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finding"]) == EXIT_USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert "did you mean 'findings'" in said.err


def test_printed_settings_are_valid_and_print_the_same_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`config print > file` is a file to start from: every section of agent, sources and collector."""
    assert main(["config", "print"]) == 0
    printed = capsys.readouterr().out
    path = tmp_path / "config.toml"
    path.write_text(printed)
    assert main(["config", "validate", "--config", str(path)]) == 0
    assert capsys.readouterr().out == f"valid: {path}\n"
    assert main(["config", "print", "--config", str(path)]) == 0
    assert capsys.readouterr().out == printed
    for section in (
        "[agent]",
        "[power]",
        "[sources.nvml]",
        "[collector]",
        "[collector.store]",
        "[collector.sql]",
        "[collector.analysis]",
    ):
        assert section in printed


def test_prices_are_printed_as_they_are_set_and_the_example_of_the_manual_is_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Section [power] of deploy/README.md goes into a file as it is."""
    manual = (Path(__file__).parents[2] / "deploy" / "README.md").read_text()
    path = tmp_path / "config.toml"
    path.write_text(manual.split("```toml\n[power]", 1)[1].split("```", 1)[0].join(("[power]", "")))
    assert main(["config", "print", "--config", str(path)]) == 0
    printed = capsys.readouterr().out.split("[power]\n", 1)[1]
    assert printed.splitlines()[:7] == [
        "price_per_kwh = 0.21",
        "price_per_gpu_hour = 2.5",
        'currency = "EUR"',
        "carbon_grams_per_kwh = 380.0",
        "pue = 1.3",
        'tariffs = ["mon-fri 08:00-20:00 0.31", "22:00-06:00 0.14"]',
        'time_zone = "Europe/Berlin"',
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('price_per_kwh = 0.2\ntariffs = ["mon-fri 8-20 0.31"]', "write it as 'mon-fri 08:00-20:00 0.31'"),
        ("price_per_kwh = -1", "not negative"),
        ('time_zone = "Berlin"', "Europe/Berlin"),
        ("price_kwh = 0.3", "did you mean 'price_per_kwh'"),
    ],
)
def test_a_price_that_cannot_be_meant_is_refused_with_what_to_write(
    line: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"[power]\n{line}\n")
    assert main(["config", "validate", "--config", str(path)]) == EXIT_USAGE
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('theme = "colourblind"', "did you mean 'colour-blind'?"),
        ('keys = {"fleet.serch" = "s"}', "did you mean 'fleet.search'?"),
        ('keys = {"fleet.search" = "q"}', "'q' would be fleet.search and quit"),
    ],
)
def test_config_validate_knows_the_settings_of_the_screen(
    written: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[tui]\nkeys = {"fleet.search" = "s"}\n', encoding="utf-8")
    assert main(["config", "validate", "--config", str(path)]) == 0
    path.write_text(f"[tui]\n{written}\n", encoding="utf-8")
    assert main(["config", "validate", "--config", str(path)]) == EXIT_USAGE
    assert said in capsys.readouterr().err


def test_doctor_answers_for_each_part_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The same checks, and the exit code is the worst of them."""
    code = main(["doctor", "--json", "--collector", "127.0.0.1:1"])
    document = json.loads(capsys.readouterr().out)
    assert document["exit"] == code
    states = {check["id"]: check["state"] for check in document["checks"]}
    assert states["collector"] == "absent"
    assert {"python", "config", "clock", "capture", "source.nvml", "source.host"} <= set(states)
    assert main(["doctor", "--collector", "127.0.0.1:1"]) == code
    said = capsys.readouterr().out
    assert all(name in said for name in states)


def test_a_finding_has_the_same_form_in_findings_and_in_analyze(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script written for one reads the other; a live finding has its life besides."""
    store = DuckDBStore(tmp_path)
    store.write([Batch("findings", "analysis", to_rows([FindingState(FOUND, "open", 1, 2)]))])
    store.close()
    assert main(["findings", "--json", "--store", str(tmp_path)]) == 0
    [told] = json.loads(capsys.readouterr().out)["findings"]
    published = list(json.loads(json.dumps(FOUND.to_json())))
    assert list(told) == [*published, *LIFE]
