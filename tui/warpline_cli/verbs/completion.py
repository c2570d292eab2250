"""`warpline completion SHELL`: what a shell needs to complete verbs, flags and files, made from what the verbs take."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

PLACES: Final = {
    "bash": "bash-completion/completions/warpline",
    "zsh": "zsh/site-functions/_warpline",
    "fish": "fish/vendor_completions.d/warpline.fish",
}
"""Where each shell looks, below a directory such as /usr/local/share."""
PAGES: Final = "man/man1"
FILES: Final = frozenset({"FILE", "PATH"})
DIRECTORIES: Final = frozenset({"DIR", "DEST"})


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which shell, or where a system keeps such things."""
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("shell", nargs="?", choices=tuple(PLACES), help="print the script for this shell")
    chosen.add_argument(
        "--install", metavar="DIR", type=Path,
        help="write the scripts of all shells, and the manual pages, below DIR, such as /usr/local/share or ~/.local/share",
    )  # fmt: skip
    parser.epilog = (
        'For this shell alone: eval "$(warpline completion bash)". There is no --json: it prints a script for a shell.'
    )


def run(options: argparse.Namespace) -> int:
    """Print the script, or write them all."""
    if options.shell is not None:
        print(script(options.shell))
        return 0
    from importlib.metadata import version

    from warpline_cli.manual import pages
    from warpline_cli.parsers import whole

    files = {place: script(shell) + "\n" for shell, place in PLACES.items()}
    files |= {f"{PAGES}/{name}": page for name, page in pages(whole(), version("warpline")).items()}
    for name, content in files.items():
        path = options.install / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        print(path)
    return 0


def script(shell: str) -> str:
    """The script for bash, zsh or fish."""
    import shtab

    from warpline_cli.parsers import leaves, options, whole

    parser = whole()
    for each in leaves(parser):
        for option in options(each):
            if option.metavar in FILES | DIRECTORIES:
                option.complete = shtab.DIRECTORY if option.metavar in DIRECTORIES else shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell=shell))
