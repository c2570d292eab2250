"""The benchmark of recall keeps its promise: both ways begin with the same records, and what is shipped keeps counts and sums."""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).parent / "bench"))

from cluster.durations import durations
from cluster.episode import Episode, episode, run
from cluster.layout import Layout
from recall import CODECS, FIRST_SEED, RAW, WINDOWED_EVERY, judged, kernel_rows, page, sample, summed
from scoring import Outcome

from warpline_agent.compressor import GRADES

STEPS, ONSET = 16, 4


def short() -> Episode:
    """A job of few steps, so that its records are few."""
    each = episode(5, "compute_straggler", 0.5, 0, (Layout(8),))
    return replace(
        each,
        conditions=replace(each.conditions, steps=STEPS),
        sight=replace(each.sight, mode="kernels", clusters=True, window=None, loss=0.0),
        faults=tuple(replace(fault, start=ONSET) for fault in each.faults),
    )


@lru_cache(maxsize=1)
def said_of_it() -> dict[str, Any]:
    return judged(short())


def test_every_grade_holds_the_counts_and_sums_of_the_raw_records() -> None:
    each = short()
    tables, records = kernel_rows(each, run(each, durations()))
    assert set(tables) == {RAW, *GRADES}
    time = {codec: pc.sum(rows["kernel_clusters"][0]["sum_ns"]).as_py() for codec, rows in tables.items()}
    count = {codec: pc.sum(rows["kernel_clusters"][0]["count"]).as_py() for codec, rows in tables.items()}
    assert set(count.values()) == {records}
    assert len(set(time.values())) == 1
    rows, ended = tables["clusters"]["kernel_clusters"]
    assert rows.num_rows < records / 10
    assert np.array_equal(np.unique(ended), np.arange(STEPS))


def test_a_plain_straggler_is_judged_alike_both_ways() -> None:
    said = said_of_it()
    assert {sight: tuple(codecs) for sight, codecs in said["outcomes"].items()} == CODECS
    figures = summed([said], 1.0)
    assert figures["kernels"][RAW]["recall"] == figures["kernels"]["clusters"]["recall"] == 1.0
    assert figures["differing"]["kernels"] == {"clusters": []}
    assert "clusters differs from raw: 0" in page(figures)


def test_an_episode_of_which_something_else_is_said_is_named() -> None:
    said = deepcopy(said_of_it())
    outcome = said["outcomes"]["alone"]["sums"]
    outcome["detected"] = not outcome["detected"]
    (named,) = summed([said], 1.0)["differing"]["alone"]["sums"]
    assert named.startswith(Outcome(**outcome).name) and "detected" in named


def test_jobs_are_watched_in_windows_now_and_then_and_no_seed_is_one_of_the_report() -> None:
    drawn = sample(FIRST_SEED, 6, 3)
    assert [each.sight.window is not None for each in drawn] == [
        at % WINDOWED_EVERY == WINDOWED_EVERY - 1 for at in range(9)
    ]
    assert all(each.seed < 1_000_000 and each.layout.ranks <= 32 for each in drawn)
    assert [each.kind for each in drawn[6:]] == ["healthy"] * 3
