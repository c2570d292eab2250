"""The Perfetto UI opens what `warpline export trace` writes: real builds of it in a headless browser, asked by their own engines.

Skipped without Chromium or without a build of the UI; tests/fakes/perfetto.py says where to get them. With WARPLINE_SCREENSHOT
naming a folder, pictures are left there.
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Page, browser
from perfetto import BUILDS, Opened, folder, opened
from seen import Database

from warpline_agent.parsers.kineto import read_trace
from warpline_agent.recordings.archive import Limits, file_input
from warpline_cli.main import main
from warpline_cli.trace.export import Exported, export
from warpline_cli.trace.selection import Selection
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.finding import OPEN, Finding, FindingKind, FindingState, Onset, Severity, Subject, to_rows

BEGIN_NS = 1_700_000_000_000_000_000
MS = 1_000_000
STEP_NS = 100 * MS
TROUBLE = "SELECT name, value FROM stats WHERE severity != 'info' AND value > 0"


@pytest.fixture
def page() -> Iterator[Page]:
    with browser() as found:
        yield found


def look(shown: Opened, name: str) -> None:
    """Leave a picture where one is asked for."""
    if target := os.environ.get("WARPLINE_SCREENSHOT"):
        shown.expand()
        shown.page.wait_for("new Promise(done => setTimeout(() => done(true), 2500))")
        shown.page.screenshot(Path(target) / f"{name}-{shown.build}.png")


def job() -> Database:
    """Four ranks of which one comes late to every all_reduce, with all that is drawn beside."""
    made = Database()
    for step in range(10):
        work(made, step, BEGIN_NS + step * STEP_NS)
    made.add("kernel_names", [{"kernel_id": 1, "name": 'gemm<float, "bf16">', "category": "compute"}])
    idle = {"node": "node1", "gpu_uuid": "GPU-3", "state": "execution_idle", "window_ns": BEGIN_NS, "updated_ns": 1}
    made.add("energy_intervals", [idle | {"start_ns": BEGIN_NS, "end_ns": BEGIN_NS + 5 * STEP_NS}])
    line = {"kind": "xid", "code": 48, "message": "NVRM: Xid 48", "time_ns": BEGIN_NS + 2 * STEP_NS}
    made.add("log_events", [{"job": "train", "rank": 2, "node": "node1"} | line])
    slow = Finding(
        FindingKind.COMPUTE_STRAGGLER, Severity.CRITICAL, 0.9, Subject(job="train", rank=2), "Rank 2 computes 150 % longer",
        "Read its clocks", Onset(BEGIN_NS + 3 * STEP_NS, 3),
    )  # fmt: skip
    made.add(
        "findings", to_rows([FindingState(slow, OPEN, BEGIN_NS + 8 * STEP_NS, BEGIN_NS + 8 * STEP_NS)]).to_pylist()
    )
    return made


def work(made: Database, step: int, at_ns: int) -> None:
    """One step: kernels one by one of ranks 0 and 1, sums of ranks 2 and 3."""
    late = [0, 0, 30 * MS, 0]
    place: list[dict[str, Any]] = [
        {"job": "train", "rank": rank, "node": f"node{rank // 2}", "clock": f"realtime@node{rank // 2}", "dp": rank}
        | {"gpu_uuid": f"GPU-{rank}", "source": "ring", "step": step}
        for rank in range(4)
    ]
    made.add("steps", [each | {"scope": "step", "start_ns": at_ns, "duration_ns": STEP_NS} for each in place])
    took = [{"duration_ns": 20 * MS + late[rank]} for rank in range(4)]
    phase = {"phase": "forward-compute", "start_ns": at_ns + MS}
    made.add("phases", [each | phase | took[each["rank"]] for each in place])
    reduce = {"communicator": "c", "group_name": "dp", "sequence": step, "operation": "all_reduce", "nranks": 4}
    entered = [{"start_ns": at_ns + 25 * MS + each, "duration_ns": 70 * MS - each} for each in late]
    made.add("collectives", [each | reduce | entered[each["rank"]] for each in place])
    gemm = {"stream": 7, "kernel_id": 1, "category": "compute"}
    alone = [gemm | {"start_ns": at_ns + begin * MS, "duration_ns": 9 * MS} for begin in (1, 11)]
    made.add("raw_kernels", [each | kernel for each in place[:2] for kernel in alone])
    shape = dict.fromkeys(("min_ns", "p10_ns", "p50_ns", "p90_ns", "p99_ns", "max_ns"), 9 * MS)
    sums = {"start_ns": at_ns, "end_ns": at_ns + STEP_NS, "count": 2, "sum_ns": 18 * MS, "cluster_index": 0}
    made.add("kernel_clusters", [each | gemm | shape | sums for each in place[2:]])
    read = {"time_ns": at_ns, "power_watts": 400.0 + 30 * step, "sm_clock_mhz": 1980.0 - 15 * step, "gpu_index": 0}
    made.add("device_samples", [{key: each[key] for key in ("node", "gpu_uuid", "source")} | read for each in place])


@pytest.fixture(scope="module")
def written() -> tuple[bytes, Exported]:
    stream = io.StringIO()
    done = export(job().query, Selection(job="train"), stream)
    return stream.getvalue().encode(), done


@pytest.mark.parametrize("build", BUILDS)
def test_the_perfetto_ui_shows_ranks_arrows_counters_states_and_marks(
    build: str, page: Page, written: tuple[bytes, Exported]
) -> None:
    """The file as it is written where its name ends in .gz."""
    trace, done = written
    with opened(build, page, gzip.compress(trace)) as shown:
        assert shown.ask(TROUBLE) == []
        look(shown, "job")
        assert shown.ask("SELECT count(*) AS n FROM slice") == [[done.slices + done.marks]]
        assert shown.ask("SELECT count(*) AS n FROM counter") == [[done.counters]]
        names = [name for (name,) in shown.ask("SELECT name FROM process WHERE name LIKE 'rank %' ORDER BY name")]
        assert names == [f"rank {each} on node{each // 2}, GPU 0, dp {each}" for each in range(4)]
        joined = shown.ask(
            "SELECT s.name AS a, r.name AS b, s.depth AS c, r.depth AS d, r.ts >= s.ts AS e, count(*) AS n FROM flow "
            "JOIN slice AS s ON slice_out = s.id JOIN slice AS r ON slice_in = r.id GROUP BY 1, 2, 3, 4, 5"
        )
        assert joined == [["all_reduce", "all_reduce", 0, 0, 1, 3 * done.flows]]
        waited = "SELECT count(*) AS n, sum(dur) AS total, min(depth) AS depth FROM slice WHERE name = 'waiting for other ranks'"
        assert shown.ask(waited) == [[30, 30 * 30 * MS, 1]]
        power = "FROM counter JOIN counter_track ON track_id = counter_track.id WHERE name = 'power W'"
        assert shown.ask(f"SELECT max(value) AS most, count(*) AS n {power}") == [[670.0, 40]]
        first = "(SELECT min(ts) FROM slice)"
        marks = shown.ask(
            f"SELECT name, ts - {first} AS at FROM slice WHERE category IN ('finding', 'log') ORDER BY ts"
        )
        assert marks == [["Xid 48", 2 * STEP_NS], ["critical: Rank 2 computes 150 % longer", 3 * STEP_NS]]
        assert shown.ask("SELECT name, dur FROM slice WHERE category = 'gpu_state'") == [
            ["execution_idle", 5 * STEP_NS]
        ]
        sums = shown.ask("SELECT name, count(*) AS n FROM slice WHERE category = 'compute_sum' GROUP BY 1")
        assert sums == [['sum of 2 × gemm<float, "bf16">', 20]]
        if build == "pypi":
            page.wait_for("document.body.innerText.includes('rank 2 on node1, GPU 0, dp 2')")
        assert [each for each in page.complaints if "LiveReload" not in each] == []


def test_the_perfetto_ui_shows_every_kernel_to_the_nanosecond(tmp_path: Path, data: Path, page: Page) -> None:
    """A recorded trace with times below the microsecond, imported, exported, opened."""
    folder("pypi")
    path = next((data / "A-kineto").rglob("ns_resolution_rank-0.pt.trace.json.gz"))
    with file_input(path, str(path), Limits()).open() as stream:
        kernels = read_trace(stream).kernels
    main(["analyze", str(path), "--store", str(tmp_path / "store")])
    held = DuckDBStore(tmp_path / "store")
    name = held.query("SELECT job FROM raw_kernels LIMIT 1").column("job")[0].as_py()
    held.close()
    out = tmp_path / "trace.json"
    assert main(["export", "trace", "--job", name, "--store", str(tmp_path / "store"), "-o", str(out)]) == 0
    base_ns = json.loads(out.read_text())["baseTimeNanoseconds"]
    kinds = "('compute', 'communication', 'memcpy', 'memset')"
    with opened("pypi", page, out.read_bytes()) as shown:
        found: list[list[Any]] = shown.ask(f"SELECT name, ts, dur FROM slice WHERE category IN {kinds}")
        assert shown.ask(TROUBLE) == []
        look(shown, "kernels")
    names = [kernels.names[index] for index in kernels.name_id]
    fed = zip(names, (kernels.start_ns - base_ns).tolist(), kernels.duration_ns.tolist(), strict=True)
    assert sorted(map(tuple, found)) == sorted(fed)
    assert len(found) == 6_095
