"""Per-operation traces of the form ByteDance publishes: what the recorded ones hold, and what bad ones say."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from warpline_agent.offline import Import, read_paths
from warpline_agent.source import Reading, memory_input
from warpline_agent.sources.bytedance import OperationTimeline, OperationTrace, RunMeta, parse_meta
from warpline_proto.errors import Refused


def rows_of(imported: Import, table: str) -> pa.Table:
    return pa.Table.from_batches([batch.rows for batch in imported.batches if batch.table == table])


def compute_seconds(phases: pa.Table, steps: int) -> dict[tuple[int, int], float]:
    """(dp, stage) -> computing seconds a step."""
    computing = phases.filter(pc.field("kind") == "compute")
    sums = computing.group_by(["dp", "pp"]).aggregate([("duration_ns", "sum")]).to_pylist()
    return {(row["dp"], row["pp"]): row["duration_ns_sum"] / 1e9 / steps for row in sums}


def written(**columns: Any) -> bytes:
    """A Parquet file of two ranks and two operations each."""
    whole = {
        "dp_rank": [0, 0, 1, 1], "stage": [0] * 4, "rank": [0, 0, 2, 2], "step": [7] * 4,
        "optype": ["forward-compute", "params-all-gather"] * 2, "start_ts": [0.5, 0.0, 0.5, 0.1],
        "duration": [1.0, 0.5, 1.0, 0.4], "seq_id": [0] * 4,
    } | columns  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({key: value for key, value in whole.items() if value is not None}), sink)
    return bytes(sink.getvalue())


def read(data: bytes) -> Reading:
    return OperationTrace().read(memory_input("trace-X.parquet", data))


def table(reading: Reading, name: str) -> list[dict[str, Any]]:
    return [row for rows in reading.rows if rows.table == name for row in rows.batch.to_pylist()]


def test_the_injected_slow_worker_is_there_to_be_seen(data: Path) -> None:
    """Trace AR: 117,216 operations; worker (0, 0) computes 45.29 s a step, the others 19.1 to 20.2 s."""
    imported = read_paths([data / "G-stragglers" / "bytedance" / "trace-AR.parquet"])
    facts = imported.inputs[0].facts
    counts = (facts["operations"], facts["steps"], facts["ranks"], facts["operation_types"])
    assert counts == (117_216, 44, 16, 13)
    seconds = compute_seconds(rows_of(imported, "phases"), 44)
    assert seconds.pop((0, 0)) == pytest.approx(45.29, abs=0.01)
    assert 19.05 < min(seconds.values()) <= max(seconds.values()) < 20.2
    (job,) = rows_of(imported, "jobs").to_pylist()
    assert (job["dp_size"], job["pp_size"], job["world_size"], job["ranks_per_record"]) == (4, 4, 64, 4)


def test_the_heavy_stage_is_there_to_be_seen(data: Path) -> None:
    """Trace ST: stage 3 computes 1.369 and 1.377 s a step on its two replicas, the others 0.84."""
    imported = read_paths([data / "G-stragglers" / "bytedance" / "trace-ST.parquet"])
    facts = imported.inputs[0].facts
    assert (facts["operations"], facts["steps"], facts["ranks"]) == (6_784, 32, 8)
    seconds = compute_seconds(rows_of(imported, "phases"), 32)
    assert [seconds.pop((dp, 3)) for dp in range(2)] == pytest.approx([1.369, 1.377], abs=0.001)
    assert all(each == pytest.approx(0.84, abs=0.015) for each in seconds.values())
    (job,) = rows_of(imported, "jobs").to_pylist()
    assert job["ranks_per_record"] == 1


def test_times_count_from_the_start_of_each_step(data: Path) -> None:
    """So steps have a length and no date, and phases a clock that is good within one step only."""
    imported = read_paths([data / "G-stragglers" / "bytedance" / "trace-AR.parquet"])
    phases, steps = rows_of(imported, "phases"), rows_of(imported, "steps")
    assert pc.unique(phases["clock"]).to_pylist()[0].startswith("step@")
    assert pc.min(phases["start_ns"]).as_py() == 0
    assert steps.num_rows == 44 * 16
    assert steps["start_ns"].null_count == steps.num_rows
    seconds = steps["duration_ns"].to_numpy() / 1e9
    assert 45 < seconds.min() <= seconds.max() < 48


def test_collectives_have_the_replicas_of_a_stage_for_their_group(data: Path) -> None:
    """Groups that the trace does not state are not invented: the other all-reduces stay phases."""
    imported = read_paths([data / "G-stragglers" / "bytedance" / "trace-AR.parquet"])
    collectives = rows_of(imported, "collectives")
    assert sorted(pc.unique(collectives["operation"]).to_pylist()) == ["all_gather", "reduce_scatter"]
    keys = collectives.group_by(["communicator", "sequence"]).aggregate([("rank", "count_distinct"), ("step", "max")])
    assert set(keys["rank_count_distinct"].to_pylist()) == {4}
    assert keys.num_rows == 4 * 44 * 2
    members = {row["communicator"]: row["ranks"] for row in rows_of(imported, "communicators").to_pylist()}
    assert members["dp@stage1"] == [16, 20, 24, 28]


def test_trace_timeline_and_meta_of_one_run_are_one_job_stored_once(data: Path) -> None:
    """The timeline is recognised as the same data, whichever comes first; the meta file brings the sizes."""
    folder = data / "G-stragglers" / "bytedance"
    imported = read_paths([folder / f"{name}" for name in ("timeline-ST.json.gz", "meta-ST.yaml", "trace-ST.parquet")])
    timeline, meta, trace = imported.inputs
    assert (timeline.reason or "").endswith(f"same data as {folder}/trace-ST.parquet")
    assert timeline.facts["job"] == meta.facts["job"] == trace.facts["job"]
    assert rows_of(imported, "phases").num_rows == 6_784
    (job,) = rows_of(imported, "jobs").to_pylist()
    assert (job["tp_size"], job["world_size"], job["run_id"]) == (1, 8, "ST/0")


def test_the_timeline_alone_has_the_same_compute_times(data: Path) -> None:
    """Without the wait in its communication, which is why that is kept as phases only."""
    imported = read_paths([data / "G-stragglers" / "bytedance" / "timeline-ST.json.gz"])
    seconds = compute_seconds(rows_of(imported, "phases"), 32)
    assert seconds[1, 3] == pytest.approx(1.377, abs=0.001)
    assert not [batch for batch in imported.batches if batch.table == "collectives"]


def test_two_runs_in_one_folder_are_two_jobs(data: Path) -> None:
    """AR and ST lie side by side."""
    imported = read_paths([data / "G-stragglers" / "bytedance"])
    assert len({row["job"] for row in rows_of(imported, "jobs").to_pylist()}) == 2


def test_gaps_between_recorded_ranks_tell_what_a_record_stands_for() -> None:
    """Ranks 0 and 2 of two replicas stand for two ranks each; uneven gaps say nothing."""
    (job,) = table(read(written()), "jobs")
    assert (job["ranks_per_record"], job["world_size"]) == (2, 4)
    (job,) = table(read(written(rank=[1, 1, 4, 4])), "jobs")
    assert (job["ranks_per_record"], job["world_size"], job["dp_size"]) == (None, None, None)


def test_operations_without_a_time_or_a_place_are_counted_not_guessed() -> None:
    """NaN, infinite, negative, NULL, beyond 64 bits of nanoseconds."""
    reading = read(written(duration=[1.0, float("nan"), float("inf"), 0.4]))
    assert [rows.dropped for rows in reading.rows if rows.table == "phases"] == [2]
    reading = read(written(start_ts=[1e30, 0.0, 0.5, 0.1], rank=[0, -1, 2, 2]))
    assert [rows.dropped for rows in reading.rows if rows.table == "phases"] == [2]
    with pytest.raises(Refused, match="no operation with a place and a time"):
        read(written(duration=[float("nan")] * 4))


def test_a_parquet_file_of_something_else_names_what_is_missing() -> None:
    """And damage, or a list where a name should be, is one sentence."""
    with pytest.raises(Refused, match="not a readable operation trace"):
        read(written(optype=[["forward-compute"]] * 4))
    with pytest.raises(Refused, match="optype, start_ts missing"):
        read(written(optype=None, start_ts=None))
    with pytest.raises(Refused, match="not a readable operation trace"):
        read(written()[:-20])
    with pytest.raises(Refused, match="not a readable operation trace"):
        read(written(rank=["a", "b", "c", "d"]))
    with pytest.raises(Refused, match="not a readable operation trace"):
        read(written(step=np.array([2**64 - 1] * 4, dtype=np.uint64)))


def event(**changes: Any) -> dict[str, Any]:
    args = {"step": 1, "model_chunk": 0, "mb_id": 0, "seq_id": 0}
    return {"name": "x", "cat": "gc", "pid": 0, "tid": 4, "ts": 0, "dur": 1.0, "ph": "X", "args": args} | changes


THREAD = {"name": "thread_name", "pid": 0, "tid": 4, "ph": "M", "args": {"name": "PP rank 0, TP rank 0, misc"}}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([event(), THREAD, event(tid=9)], "thread 9 of process 0 has no name"),
        ([event(args={"step": 2**70, "model_chunk": 0, "mb_id": 0, "seq_id": 0}), THREAD], "does not fit 64 bits"),
        ([event(args={}), THREAD], "not a readable operation timeline"),
        ([event(ts="soon"), THREAD], "a number that is none"),
        ([THREAD], "without operations"),
        ([event(), {**THREAD, "tid": 3}], "its rank cannot be told"),
        ({"traceEvents": 3}, "not a readable operation timeline"),
        (["text"], "not a readable operation timeline"),
    ],
)
def test_a_bad_timeline_is_refused_with_one_sentence(document: Any, words: str) -> None:
    """Ids beyond 64 bits included."""
    with pytest.raises(Refused, match=words):
        OperationTimeline().read(memory_input("timeline-X.json", json.dumps(document).encode()))


@pytest.mark.parametrize("change", [{"ts": [1.0]}, {"dur": {}}, {"cat": "\ud800"}, {"cat": 7}, {"pid": 2**70}])
def test_a_timeline_of_odd_values_is_read_or_refused(change: dict[str, Any]) -> None:
    """Lists for numbers, text that cannot be written and huge ids in every event alike."""
    events = [THREAD, *({**event(), **change} for _ in range(3))]
    with contextlib.suppress(Refused):
        OperationTimeline().read(memory_input("timeline-X.json", json.dumps(events).encode()))


def test_one_long_name_in_many_rows_does_not_fill_the_memory() -> None:
    """A few kilobytes of Parquet that stand for gigabytes of text are refused by the length of one name."""
    with pytest.raises(Refused, match="names an operation in 1,000,000 bytes"):
        read(written(optype=["x" * 1_000_000] * 4))


def test_numbers_that_fit_no_column_are_unknown() -> None:
    """A micro-batch beyond 32 bits does not cost the file."""
    (phases,) = [rows.batch for rows in read(written(mb_id=[2**40] * 4)).rows if rows.table == "phases"]
    assert set(phases.column("microbatch").to_pylist()) == {None}


def test_a_meta_file_beyond_its_bound_is_refused() -> None:
    """It holds a dozen lines."""
    with pytest.raises(Refused, match="holds more than 65,536 bytes"):
        RunMeta().read(memory_input("meta-X.yaml", b"pp_size: 1\nworld_size: 8\n" + b"# \n" * 30_000))


def test_a_meta_file_is_key_value_lines_only() -> None:
    """Nested YAML is not guessed at."""
    assert parse_meta(["# note", "trial_name: 'X'", "world_size: 8  # ranks", ""]) == {
        "trial_name": "X",
        "world_size": "8",
    }
    with pytest.raises(Refused, match="line 2"):
        parse_meta(["a: 1", "  b: 2"])
    with pytest.raises(Refused, match="world_size of the meta file is 'eight'"):
        RunMeta().read(memory_input("meta-X.yaml", b"pp_size: 1\nworld_size: eight\n"))
