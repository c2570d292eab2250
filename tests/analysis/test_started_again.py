"""A job that is started again under its name, from an older checkpoint, is judged by the run that goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from warpline_agent.identity import stamp
from warpline_agent.sources.synthetic import Synthetic, SyntheticConfig
from warpline_analysis.detector import Reader, show
from warpline_analysis.detectors import DETECTORS
from warpline_analysis.ongoing import Ongoing
from warpline_analysis.remembered import Pass
from warpline_analysis.runner import run
from warpline_analysis.self_time import coverage_of, load
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import Config, DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.finding import FindingKind
from warpline_proto.newest_run import RUN_NS
from warpline_proto.tables import TABLES

ReaderOf = Callable[[Mapping[str, Any]], Reader]
Rows = dict[str, list[dict[str, Any]]]
NS = 10**9
BEGIN = 1_700_000_000 * NS
ASKED = {"straggler": DETECTORS["straggler"]}


def told(
    first: int, steps: int, start_ns: int, slow: int | None, *, ranks: int = 8, ahead: Mapping[int, int] | None = None
) -> Rows:
    """Steps of a second with their phases, one rank slow or none; `ahead` are clocks of ranks, ns."""
    random = np.random.default_rng(first)
    rows: Rows = {"steps": [], "phases": []}
    for step in range(steps):
        for rank in range(ranks):
            own = int(5e8 * (1.4 if rank == slow else 1.0) * random.lognormal(0, 0.01))
            begin_ns = start_ns + step * NS + (ahead or {}).get(rank, 0)
            place = {"job": "train", "rank": rank, "dp": rank, "node": f"n{rank}", "step": first + step,
                     "clock": f"realtime@n{rank}"}  # fmt: skip
            rows["steps"].append(
                place | {"scope": "step", "start_ns": begin_ns, "duration_ns": NS, "compute_ns": own, "busy_ns": own}
            )
            phase = {"phase": "forward", "kind": "compute", "start_ns": begin_ns + NS // 4, "duration_ns": own}
            rows["phases"].append(place | phase)
    return rows


def both(*runs: Rows) -> Rows:
    return {name: [row for rows in runs for row in rows[name]] for name in runs[0]}


def accused(rows: Rows, reader_of: ReaderOf) -> list[int | None]:
    found = run(reader_of(rows), ASKED).findings
    assert {finding.kind for finding in found} <= {FindingKind.COMPUTE_STRAGGLER}
    return [finding.subject.rank for finding in found]


OLD = told(0, 700, BEGIN, 3)
LATER = BEGIN + 1_200 * NS


def test_the_rank_that_was_slow_before_is_accused_no_more(reader_of: ReaderOf) -> None:
    """Of its node, which was replaced, nothing is said that the run that goes on does not show."""
    assert accused(OLD, reader_of) == [3]
    assert accused(both(OLD, told(400, 250, LATER, None)), reader_of) == []
    assert accused(both(OLD, told(400, 250, LATER, 5)), reader_of) == [5]


def test_it_is_judged_as_if_the_run_before_had_not_been_kept(reader_of: ReaderOf) -> None:
    new = told(400, 250, LATER, 5)
    [apart], [together] = (run(reader_of(rows), ASKED).findings for rows in (new, both(OLD, new)))
    assert together.to_json() | {"evidence": []} == apart.to_json() | {"evidence": []}
    assert [each.rows for each in together.evidence] == [each.rows for each in apart.evidence]


def synthetic(start_ns: int, steps: int, **fault: Any) -> dict[str, list[pa.RecordBatch]]:
    """All that two nodes with four ranks each tell in a second a step."""
    found: dict[str, list[pa.RecordBatch]] = {}
    for index in range(2):
        now = [start_ns]
        config = SyntheticConfig(
            node=f"node{index}", node_index=index, stages=2, seed=1, start_ns=start_ns, origin_ns=start_ns, **fault
        )
        source = Synthetic(config, clock_ns=lambda now=now: now[0])  # type: ignore[misc]
        source.open()
        for _ in range(steps // 20):
            now[0] += 20 * NS
            for rows in source.read():
                found.setdefault(rows.table, []).append(stamp(rows.batch, node=config.node, source="synthetic"))
    return found


def test_no_question_fails_of_a_job_that_was_started_again(reader_of: ReaderOf) -> None:
    """All detectors, over all that a node tells of."""
    runs = [
        synthetic(BEGIN, 100, fault="compute_straggler", victim=5, factor=1.4, start_step=40),
        synthetic(BEGIN + 3_600 * NS, 80, fault="link_degradation", victim=1, factor=2.0, start_step=40),
    ]
    report = run(reader_of({name: pa.Table.from_batches(runs[0][name] + runs[1][name]) for name in runs[0]}))
    assert not [check.detail for check in report.checks if "failed" in check.detail]
    assert [(str(each.kind), each.onset.step) for each in report.findings] == [("link_degradation", 40)]


def test_a_run_that_has_just_begun_is_told_apart_once_it_is_clear_that_it_is_one(reader_of: ReaderOf) -> None:
    """A clock that was set, and rows that came late, are none."""
    short = told(650, 30, BEGIN + 705 * NS, None)
    assert max(row["start_ns"] for row in short["steps"]) < BEGIN + 699 * NS + RUN_NS
    assert accused(both(OLD, short), reader_of) == [3]


def test_of_many_runs_only_the_last_counts(reader_of: ReaderOf) -> None:
    runs = [told(first, 300, BEGIN + at * 5_000 * NS, at) for at, first in enumerate((900, 600, 300, 0))]
    assert accused(both(*runs), reader_of) == [3]


def test_clocks_of_nodes_that_are_an_hour_apart_hide_neither_run(reader_of: ReaderOf) -> None:
    """One node that is ahead is no job that was started again."""
    ahead = {2: 3_600 * NS}
    old = told(0, 700, BEGIN, 3, ahead=ahead)
    assert accused(old, reader_of) == [3]
    assert accused(both(old, told(400, 250, LATER, 5, ahead=ahead)), reader_of) == [5]
    assert accused(both(old, told(400, 250, LATER, 2, ahead=ahead)), reader_of) == [2]


def test_ranks_that_only_the_run_before_had_are_none_of_its_peers(reader_of: ReaderOf) -> None:
    reader = Pass(Ongoing(reader_of(both(OLD, told(400, 250, LATER, 1, ranks=4)))))
    covered = coverage_of(reader, "train")
    assert covered is not None and (covered.ranks, covered.steps) == (4, 250)
    times = load(reader, covered)
    assert [member.rank for member in times.groups[0].members] == [0, 1, 2, 3]
    assert times.groups[0].steps.tolist() == list(range(450, 650))


@pytest.mark.parametrize("sql", [
    "SELECT max(step) AS step, count(*) AS rows FROM steps",
    "WITH told AS (SELECT step FROM steps) SELECT max(step) AS step, count(*) AS rows FROM told",
    "SELECT max(step) AS step, count(*) AS rows FROM (SELECT step FROM steps UNION ALL SELECT step FROM steps WHERE false)",
])  # fmt: skip
def test_evidence_shows_without_the_analysis_what_it_showed_within(sql: str, reader_of: ReaderOf) -> None:
    rows = reader_of(both(OLD, told(400, 250, LATER, 5)))
    evidence = show(Pass(Ongoing(rows)), sql)
    assert evidence.rows == ({"step": 649, "rows": 2_000},)
    assert rows.query(evidence.sql).to_pylist() == list(evidence.rows)


def test_a_job_that_was_never_started_again_is_asked_about_in_the_same_words(reader_of: ReaderOf) -> None:
    reader = Ongoing(reader_of(OLD))
    assert reader.narrowed("SELECT * FROM steps") == "SELECT * FROM steps"


def test_a_collector_that_has_it_in_parts_says_the_same(tmp_path: Path, reader_of: ReaderOf) -> None:
    """Pass after pass as rows come, while files of both runs are sealed and merged."""
    store = DuckDBStore(tmp_path, Config(seal_rows=1_000, compact_files=3, chunks_max=4, grace_seconds=0.0))
    new = told(400, 250, LATER, 5)
    try:
        with CatalogReader(tmp_path) as reader:
            for rows, wanted in ((OLD, [3]), (new, [5])):
                for name, listed in rows.items():
                    for at in range(0, len(listed), 700):
                        store.write([Batch(name, "hook", TABLES[name].from_rows(listed[at : at + 700]))])
                found = run(reader, ASKED)
                assert [finding.subject.rank for finding in found.findings] == wanted
        everything = run(reader_of(both(OLD, new)), ASKED)
        assert [each.to_json() for each in found.findings] == [each.to_json() for each in everything.findings]
    finally:
        store.close()
