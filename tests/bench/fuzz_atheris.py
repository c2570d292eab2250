"""Fuzzing guided by coverage, with atheris (libFuzzer), which is installed beside: `pip install atheris`."""

from __future__ import annotations

import inspect
import os
import sys
import time
from pathlib import Path
from random import Random
from typing import Final

import atheris  # type: ignore[import-untyped]
from fuzz_engine import Runner, Target, write

SEEDS: Final = 60
STRETCH_SECONDS: Final = 60.0


def run(target: Target, runner: Runner, random: Random, seconds: float, state: Path) -> None:
    """One session of libFuzzer, which ends this process; its corpus stays in the state folder."""
    corpus = state / f"{target.name}-corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        for number in range(SEEDS):
            (corpus / f"seed{number}").write_bytes(target.draw(random)[: 256 * 1024])

    def mutate(data: bytes, size_max: int, its_seed: int) -> bytes:
        chance = Random(its_seed)
        if chance.random() < 0.5:
            return bytes(atheris.Mutate(data, size_max))[:size_max]
        return target.mutate(data, chance)[:size_max]

    _instrument()
    end = time.monotonic() + seconds
    stretch_end = time.monotonic() + STRETCH_SECONDS

    def one(data: bytes) -> None:
        nonlocal stretch_end
        runner.one(data)
        if time.monotonic() >= min(stretch_end, end):
            write(state, runner.finish())
            runner.begin_anew()
            stretch_end += STRETCH_SECONDS
        if time.monotonic() >= end:
            sys.stdout.flush()
            os._exit(0)

    options = (
        f"-seed={random.getrandbits(31)} -max_len=262144 -rss_limit_mb=0 -timeout=300 -print_final_stats=0 -verbosity=0"
    )
    arguments = [sys.argv[0], str(corpus), f"-artifact_prefix={state}/", *options.split()]
    atheris.Setup(arguments, one, custom_mutator=mutate)
    atheris.Fuzz()


def _instrument() -> None:
    """Have the functions of warpline tell which of their branches are taken."""
    for name, module in list(sys.modules.items()):
        if not name.startswith("warpline_") or "_pb2" in name:
            continue
        for value in vars(module).values():
            owned = vars(value).values() if inspect.isclass(value) else (value,)
            for each in owned:
                if inspect.isfunction(each) and each.__module__ == name:
                    atheris.instrument_func(each)
