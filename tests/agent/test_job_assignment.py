"""Files belong to one job only on evidence: what joins them, and what must not."""

from __future__ import annotations

import zlib
from typing import Any

from warpline_agent.recordings.jobs import Piece, assign, job_rows
from warpline_agent.source import Origin, Reading, Rows
from warpline_proto.tables import COMMUNICATORS, JOBS, STEPS

DEFAULT_PG = ("default_pg", tuple(range(8)))
EXPERTS = ("EXPERT_MODEL_PARALLEL_GROUP", (0, 1, 2, 3))
COMM_ID = ("0x8ba7c4b5d3b6d7ef", ())


def piece(
    name: str, origin: Origin, *, folder: str = "run", kind: str = "kineto", salt: int = 0, **sizes: Any
) -> Piece:
    """A file of one rank with three steps; `salt` makes its measurements different."""
    seed = zlib.crc32(f"{folder}/{name}".encode()) + salt
    rows = [Rows("steps", STEPS.from_rows([{"rank": origin.rank, "duration_ns": seed + step} for step in range(3)]))]
    if sizes:
        rows.append(Rows("jobs", JOBS.from_rows([sizes])))
    return Piece(f"{folder}/{name}", folder, kind, name, Reading(rows, origin=origin))


def members(*pieces: Piece) -> list[tuple[int, ...]]:
    return sorted(job.members for job in assign(pieces).jobs)


def test_a_run_id_joins_files_wherever_they_lie() -> None:
    """Other folders, other kinds."""
    first = piece("a", Origin(run_id="r1", rank=0), folder="x")
    second = piece("b", Origin(run_id="r1", rank=1), folder="y", kind="nccl_log")
    other = piece("c", Origin(run_id="r2", rank=1), folder="x")
    assert members(first, second, other) == [(0, 1), (2,)]


def test_an_nccl_communicator_id_joins_files_wherever_they_lie() -> None:
    """It is a 64-bit hash of one bootstrap; an address in its place proves nothing."""
    ranks = [piece("a", Origin(rank=rank, communicators=(COMM_ID,)), folder=str(rank)) for rank in range(2)]
    assert members(*ranks) == [(0, 1)]
    pointer = ("0x7f35d4002a10", ())
    ranks = [piece("a", Origin(rank=rank, communicators=(pointer,)), folder=str(rank)) for rank in range(2)]
    assert members(*ranks) == [(0,), (1,)]


def test_files_written_together_are_one_job() -> None:
    """Same folder, same stem, same world size, distinct ranks."""
    ranks = [piece(f"worker{rank}", Origin(rank=rank, world_size=8, sibling="worker")) for rank in range(8)]
    assert members(*ranks) == [tuple(range(8))]


def test_a_stem_alone_is_no_evidence() -> None:
    """Another folder, another world size, or none known: apart."""
    here = piece("worker0", Origin(rank=0, world_size=8, sibling="worker"))
    assert members(here, piece("worker1", Origin(rank=1, world_size=8, sibling="worker"), folder="else")) == [
        (0,),
        (1,),
    ]
    assert members(here, piece("worker1", Origin(rank=1, world_size=4, sibling="worker"))) == [(0,), (1,)]
    assert members(here, piece("worker1", Origin(rank=1, sibling="worker"))) == [(0,), (1,)]


def test_traces_of_equal_size_in_one_folder_are_not_one_job() -> None:
    """Everybody's eight ranks are called default_pg."""
    first = piece("b200_rank0", Origin(rank=0, world_size=8, communicators=(DEFAULT_PG,), sibling="b200"))
    second = piece("a100_rank3", Origin(rank=3, world_size=8, communicators=(DEFAULT_PG,), sibling="a100"))
    assert members(first, second) == [(0,), (1,)]


def test_named_groups_of_the_same_ranks_join_files_of_one_folder_only() -> None:
    """The same model started again in another folder has the same groups."""
    ranks = [piece(f"h{rank}", Origin(rank=rank, world_size=8, communicators=(EXPERTS,))) for rank in range(2)]
    assert members(*ranks) == [(0, 1)]
    other = piece("h1", Origin(rank=1, world_size=8, communicators=(EXPERTS,)), folder="again")
    assert members(ranks[0], other) == [(0,), (1,)]


def test_a_rank_recorded_twice_parts_what_a_stem_would_join() -> None:
    """Two runs lie in one folder: which file belongs to which cannot be told, and that is said."""
    pieces = [
        piece(f"w{number}", Origin(rank=rank, world_size=2, sibling="w")) for number, rank in enumerate((0, 1, 0, 1))
    ]
    result = assign(pieces)
    assert sorted(job.members for job in result.jobs) == [(0,), (1,), (2,), (3,)]
    assert "rank 0, 1 is in several of them" in result.notes[0][0]


def test_under_one_run_id_only_the_ranks_recorded_twice_stay_out() -> None:
    """The run id still holds for the others."""
    pieces = [piece(f"w{number}", Origin(run_id="r", rank=rank)) for number, rank in enumerate((0, 1, 2, 0))]
    result = assign(pieces)
    assert sorted(job.members for job in result.jobs) == [(0,), (1, 2), (3,)]
    assert set(result.notes) == {0, 3}
    assert len({job.id for job in result.jobs}) == 3


def test_sizes_that_differ_part_a_job() -> None:
    """A file that speaks of another data-parallel size is of another job."""
    trace = piece("trace", Origin(world_size=64, sibling="AR"), dp_size=4)
    meta = piece("meta", Origin(world_size=64, sibling="AR"), kind="run_meta", dp_size=8)
    result = assign([trace, meta])
    assert len(result.jobs) == 2
    assert "dp_size differs (4, 8)" in result.notes[0][0]


def test_two_kinds_of_recording_of_one_rank_are_no_conflict() -> None:
    """A trace and a log of rank 0 belong together when the run id says so."""
    pieces = [piece("trace", Origin(run_id="r", rank=0)), piece("log", Origin(run_id="r", rank=0), kind="nccl_log")]
    assert members(*pieces) == [(0, 1)]


def test_what_the_files_of_a_job_say_is_put_together() -> None:
    """One row, with the sizes of all; ranks per record follow from places and recorded ranks."""
    ranks = [piece(f"w{rank}", Origin(rank=rank, world_size=8, sibling="w"), dp_size=2, pp_size=1) for rank in range(2)]
    meta = piece("meta", Origin(world_size=8, sibling="w"), kind="run_meta", tp_size=4)
    (job,) = assign([*ranks, meta]).jobs
    (row,) = job_rows(job, [*ranks, meta]).to_pylist()
    assert (row["world_size"], row["dp_size"], row["tp_size"], row["ranks_per_record"]) == (8, 2, 4, 4)
    assert row["evidence"] == "written together as w, world size 8"


def test_equal_content_is_recognised_but_not_across_ranks() -> None:
    """A trace with its rank rewritten is another rank's trace."""
    same = [piece("a", Origin(rank=0, content="x")), piece("b", Origin(rank=0, content="x"), salt=5)]
    assert assign(same).repeats == {1: 0}
    ranks = [piece("a", Origin(rank=0, content="x")), piece("b", Origin(rank=1, content="x"), salt=5)]
    assert assign(ranks).repeats == {}


def test_empty_dumps_of_two_runs_are_not_the_same_data() -> None:
    """Nothing was measured in either; they differ in where they come from."""
    rows = [Rows("communicators", COMMUNICATORS.from_rows([{"rank": 3, "communicator": "0"}]))]
    pieces = [
        Piece(f"{run}/_dump_3", run, "flight_recorder", "d", Reading(rows, origin=Origin(rank=3, content="x")))
        for run in ("first", "second")
    ]
    assert assign(pieces).repeats == {}
