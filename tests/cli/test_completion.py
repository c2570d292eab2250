"""Completions and manual pages, made from what the verbs take: a shell completes them, man shows them without a warning."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from warpline_cli.main import EXIT_USAGE, VERBS, main
from warpline_cli.verbs.completion import PAGES, PLACES


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("share")
    assert main(["completion", "--install", str(folder)]) == 0
    return folder


def completed(share: Path, *words: str) -> set[str]:
    """What bash offers for the last word."""
    ask = f"""
source {share / PLACES["bash"]}
COMP_WORDS=(warpline {" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words)}
function_of=$(complete -p warpline | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function_of" warpline '{words[-1]}' ''
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "--norc", "-c", ask], capture_output=True, text=True, check=True, cwd=share)
    return {line.strip() for line in done.stdout.splitlines() if line.strip()}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["fin"], {"findings"}),
        (["power", "re"], {"report", "restore"}),
        (["findings", "--js"], {"--json"}),
        (["power", "report", "--b"], {"--by"}),
        (["power", "report", "--by", "no"], {"node"}),
        (["completion", "z"], {"zsh"}),
    ],
)
def test_bash_completes_verbs_flags_and_values(words: list[str], offered: set[str], share: Path) -> None:
    assert completed(share, *words) == offered


def test_bash_completes_every_verb(share: Path) -> None:
    assert set(VERBS) <= completed(share, "")


def test_bash_completes_the_name_of_a_file_where_one_is_wanted(share: Path) -> None:
    assert "bash-completion" in {each.rstrip("/") for each in completed(share, "config", "print", "--config", "bash")}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("warpline fin", "findings"), ("warpline power report --by no", "node"), ("warpline findings --js", "--json")],
)
def test_fish_completes_verbs_flags_and_values(typed: str, offered: str, share: Path, tmp_path: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    command = ["fish", "--no-config", "-c", f"source {share / PLACES['fish']}; complete -C '{typed}'"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "HOME": str(tmp_path)}
    )
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [offered]


def test_zsh_finds_its_function_and_reads_it(share: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    script = share / PLACES["zsh"]
    assert script.read_text().startswith("#compdef warpline")
    found = f"fpath=({script.parent} $fpath); autoload -Uz compinit; compinit -u -D; print $_comps[warpline]"
    done = subprocess.run(["zsh", "-f", "-c", found], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "_warpline"
    subprocess.run(["zsh", "-n", str(script)], check=True)


def test_there_is_a_page_of_the_command_and_of_each_verb(share: Path) -> None:
    assert {path.name for path in (share / PAGES).iterdir()} == {
        "warpline.1",
        *(f"warpline-{verb}.1" for verb in VERBS),
    }


def test_pages_are_set_without_a_warning_and_say_what_the_help_says(share: Path) -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    pages = sorted((share / PAGES).iterdir())
    command = ["groff", "-man", "-Tutf8", "-P-cbou", "-ww", *map(str, pages)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert all(f"warpline-{verb} - " in done.stdout for verb in VERBS)
    assert "--spool-directory DIR" in done.stdout
    assert "(p95 latency +160 %" in " ".join(done.stdout.split())
    assert "analysed_ns" in done.stdout


def test_a_page_of_a_verb_that_is_not_there_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["man", "finding"]) == EXIT_USAGE
    assert "did you mean 'findings'" in capsys.readouterr().err
