"""Runs one command of warpline beside the terminal screen, against the collector that the screen asks."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final

SECONDS_MAX: Final = 300.0
"""A command that takes longer is ended: a trace waits for steps to come."""
LINES_SHOWN: Final = 4


def commands(options: argparse.Namespace) -> Callable[[Sequence[str]], str]:
    """The words of a verb -> the last lines that it said."""
    where = ["--collector", options.collector, *(["--tls", options.tls] if options.tls else [])]

    def run(words: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "warpline_cli.main", *words, *where],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                timeout=SECONDS_MAX, check=False, text=True, errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"no answer in {SECONDS_MAX:g} s: warpline {' '.join(words)}"
        lines = [line for line in done.stdout.splitlines() if line]
        return "\n".join(lines[-LINES_SHOWN:]) or f"ended with {done.returncode} and said nothing"

    return run
