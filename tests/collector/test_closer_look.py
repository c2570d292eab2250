"""What an operator relies on in closer looks: the right agent is asked, once, within the budget, and what came of it is told."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import served

from warpline_agent.agent import Agent, new_boot
from warpline_agent.capture_watch import CaptureWatch
from warpline_agent.config import AgentConfig
from warpline_agent.exporters.collector import CollectorExporter
from warpline_agent.kernels import Kernels
from warpline_agent.raw_block import Process
from warpline_agent.raw_capture import deliver
from warpline_agent.raw_ring import RawRing, RawRingConfig
from warpline_agent.source import Delivered, Health, Rows, Source
from warpline_agent.spool import Spool
from warpline_analysis.detector import Detector
from warpline_cli import standing
from warpline_cli.main import main
from warpline_collector import closer_look, config, continuous, pool
from warpline_collector.closer_look import HOUR_NS, CloserLook
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.capture import Capture
from warpline_proto.client import QueryClient
from warpline_proto.errors import Denied
from warpline_proto.finding import Check, Evidence, Finding, FindingKind, Report, Severity, Subject, Verdict
from warpline_proto.tables import CAPTURES, STACKS, STEPS

SECOND_NS = 10**9
NOW_NS = 1_700_000_000_000_000_001
WAIT_SECONDS = 60.0
ALL = "SELECT * FROM current_captures ORDER BY requested_ns, rank"
Detect = Detector


def accused(rank: int = 5, job: str = "train", **how: Any) -> Finding:
    """A slow rank of whose kernels nothing is known."""
    finding = Finding(
        FindingKind.COMPUTE_STRAGGLER, Severity.WARNING, 0.9, Subject(job=job, rank=rank), "rank is slow", "look at it"
    )
    return dataclasses.replace(finding, **how)


def steps_of(jobs: Iterable[str], ranks: int = 8, per_node: int = 4) -> list[Batch]:
    rows = [
        {
            "job": job,
            "rank": rank,
            "node": f"node{rank // per_node}",
            "scope": "step",
            "step": 1,
            "start_ns": 1,
            "dp": rank,
        }
        for job in jobs
        for rank in range(ranks)
    ]
    return [Batch(STEPS.name, "test", STEPS.from_rows(rows))]


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_700_000_000 * SECOND_NS

    def __call__(self) -> int:
        return self.now_ns

    def later(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND_NS)


class Passes:
    """Passes of the analysis over a real store, on a clock moved by hand; `restart` forgets everything but the store."""

    def __init__(self, folder: Path, detect: Detect, budget: closer_look.Config) -> None:
        self.clock, self.folder, self.detect, self.budget = Clock(), folder, detect, budget
        self.open()

    def open(self) -> None:
        self.store = DuckDBStore(self.folder, clock=self.clock)
        self.reader = CatalogReader(self.folder)
        self.analysis = continuous.Continuous(
            self.store, self.reader, clock=self.clock, detectors={"test": self.detect},
            closer=CloserLook(self.store, self.budget),
        )  # fmt: skip

    def close(self) -> None:
        self.reader.close()
        self.store.close()

    def restart(self) -> None:
        self.close()
        self.open()

    def turn(self, seconds: float = 10.0) -> list[dict[str, Any]]:
        """A pass, `seconds` after the one before; gives all captures."""
        self.clock.later(seconds)
        self.analysis.one_pass()
        found: list[dict[str, Any]] = self.store.query(ALL).to_pylist()
        return found

    def told(self) -> dict[str, Any]:
        """What source_health says of closer looks now."""
        rows = self.store.query(
            "SELECT state, reason, dropped FROM source_health WHERE subject = 'captures' ORDER BY time_ns DESC LIMIT 1"
        ).to_pylist()
        return rows[0] if rows else {}


@pytest.fixture
def passes(tmp_path: Path) -> Iterator[Callable[..., Passes]]:
    opened: list[Passes] = []

    def make(detect: Detect, **budget: Any) -> Passes:
        opened.append(Passes(tmp_path, detect, closer_look.Config(**budget)))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def says(*findings: Finding, checks: Sequence[Check] = ()) -> Detect:
    return lambda reader: Report(tuple(findings), tuple(checks))


def test_a_suspect_and_a_healthy_peer_on_another_node_are_asked_over_the_same_time(
    passes: Callable[..., Passes],
) -> None:
    here = passes(says(accused(5), accused(0, kind=FindingKind.THROTTLING)))
    here.store.write(steps_of(["train"]))
    peer, suspect = here.turn()
    assert (suspect["rank"], suspect["node"], suspect["what"], suspect["state"]) == (5, "node1", "kernels", "requested")
    assert (peer["rank"], peer["node"]) == (1, "node0"), "rank 0 is accused itself"
    assert (suspect["start_ns"], suspect["duration_ns"]) == (peer["start_ns"], peer["duration_ns"])
    assert suspect["reason"] == peer["reason"] == accused(5).id


def test_a_finding_asks_once_also_after_a_restart(passes: Callable[..., Passes]) -> None:
    here = passes(says(accused()))
    here.store.write(steps_of(["train"]))
    first = here.turn()
    assert here.turn() == first
    here.restart()
    assert here.turn() == first
    here.restart()
    assert [row["id"] for row in here.turn(5_000)] == [row["id"] for row in first], "expired, and not asked for again"


def test_requests_nobody_answers_expire(passes: Callable[..., Passes]) -> None:
    here = passes(says(accused()), answer_seconds=60.0)
    here.store.write(steps_of(["train"]))
    here.turn()
    assert {row["state"] for row in here.turn(30)} == {"requested"}
    rows = here.turn(60)
    assert {row["state"] for row in rows} == {"expired"}
    assert all("no agent" in row["detail"] for row in rows)


def test_a_thousand_findings_keep_to_the_budget(passes: Callable[..., Passes]) -> None:
    """Looks per job and hour, captures of a node and of all nodes at once; what has to wait is counted and told."""
    jobs = [f"job{number}" for number in range(10)]
    findings = [accused(rank, job) for job in jobs for rank in range(100)]
    here = passes(says(*findings), per_job_per_hour=2, per_node_at_once=2, at_once=12, answer_seconds=100.0)
    here.store.write(steps_of(jobs, ranks=200, per_node=8))
    begun = here.clock.now_ns
    while here.clock.now_ns - begun < HOUR_NS / 2:
        rows = here.turn(40)
        live = [row for row in rows if row["state"] == "requested"]
        assert len(live) <= 12
        assert max(sum(row["node"] == node for row in live) for node in {row["node"] for row in rows}) <= 2
        for job in jobs:
            assert len({row["reason"] for row in rows if row["job"] == job}) <= 2
    assert len({row["reason"] for row in rows}) == 20, "every job had its turn"
    assert here.told()["state"] == "refused"
    assert "per_job_per_hour" in here.told()["reason"]
    assert here.told()["dropped"] >= 980


def test_switched_off_asks_nobody(passes: Callable[..., Passes]) -> None:
    here = passes(says(accused()), enabled=False)
    here.store.write(steps_of(["train"]))
    assert here.turn() == []


def test_only_what_is_missing_is_asked_for(passes: Callable[..., Passes]) -> None:
    kernels = Evidence("SELECT 1 FROM kernel_clusters")
    findings = (
        accused(1, evidence=(kernels,)),
        accused(2, kind=FindingKind.HOST_STRAGGLER),
        accused(3, kind=FindingKind.HANG, missing=("flight-recorder dumps: who is behind",)),
        accused(4, kind=FindingKind.LINK_DEGRADATION),
    )
    here = passes(says(*findings), per_node_at_once=8)
    here.store.write(steps_of(["train"], ranks=16))
    rows = here.turn()
    assert {(row["rank"], row["what"]) for row in rows if row["rank"] in (1, 2, 3, 4)} == {
        (2, "stacks"),
        (3, "flight_recorder"),
    }


def test_a_question_that_cannot_be_answered_asks_too_and_not_again_for_hours(passes: Callable[..., Passes]) -> None:
    check = Check("straggler", Verdict.UNKNOWN, "train", "collectives wait for rank 3", ("launch times",), 3)
    here = passes(says(checks=(check,)))
    here.store.write(steps_of(["train"]))
    assert {row["rank"] for row in here.turn()} == {3, 4}
    assert len(here.turn(3_600)) == 2
    assert len(here.turn(7 * 3_600)) == 4


def test_a_rank_whose_node_nobody_names_is_told(passes: Callable[..., Passes]) -> None:
    here = passes(says(accused()))
    assert here.turn() == []
    assert "node of the rank" in here.told()["reason"]


# --- over real gRPC -----------------------------------------------------------------------------------------------------------


class Watched:
    """A source that is asked to look closer; `act` gives rows or raises."""

    period_seconds = 0.05
    captures = frozenset({"kernels"})

    def __init__(self, name: str, act: Callable[[Capture], Iterable[Rows | Delivered]]) -> None:
        self.name, self._act = name, act
        self.asked: list[Capture] = []

    def open(self) -> None: ...

    def read(self) -> Iterable[Rows]:
        return ()

    def health(self) -> Iterable[Health]:
        return ()

    def close(self) -> None: ...

    def capture(self, request: Capture) -> Iterable[Rows | Delivered]:
        self.asked.append(request)
        return self._act(request)


def no_ring(request: Capture) -> Iterable[Rows]:
    raise Denied("the training process records no kernels", "start it with warpline run")


def rows_of(request: Capture) -> Iterable[Rows]:
    yield Rows("stacks", STACKS.from_rows([{"job": request.job, "rank": request.rank, "time_ns": request.start_ns}]))


@contextmanager
def collector(directory: Path, detect: Detect) -> Iterator[str]:
    settings = config.Settings(
        collector=config.Config(listen="127.0.0.1:0", directory=str(directory)),
        sql=pool.Config(workers=1, seconds_max=60.0),
        analysis=continuous.Config(period_seconds=0.1),
        captures=closer_look.Config(seconds=0.2),
    )
    with served(settings, {"test": detect}, wait_seconds=WAIT_SECONDS) as told:
        yield told[0]


@contextmanager
def agent(folder: Path, node: str, address: str, source: Source) -> Iterator[None]:
    """A whole agent with one source, in a thread."""
    spool = Spool(folder / node, node, new_boot(), time.time_ns)
    made = Agent(
        AgentConfig(node=node, drain_seconds=1.0), {source.name: source}, spool, CollectorExporter(spool, address, seed=1),
        requests=CaptureWatch(node, address, seed=1),
    )  # fmt: skip
    stop = threading.Event()
    thread = threading.Thread(target=made.run, args=(stop.is_set,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(WAIT_SECONDS)


def until(client: QueryClient, sql: str, rows: int) -> list[dict[str, Any]]:
    pause, end = threading.Event(), time.monotonic() + WAIT_SECONDS
    while True:
        found: list[dict[str, Any]] = client.query(sql).to_pylist()
        if len(found) >= rows:
            return found
        assert time.monotonic() < end, f"{found}: {client.query(ALL).to_pylist()}"
        pause.wait(0.1)


def test_from_finding_to_the_right_agent_and_back(tmp_path: Path) -> None:
    """The suspect's agent denies with a reason, the peer's gives rows, a third is never asked; all of it answers SQL."""
    store = DuckDBStore(tmp_path / "store")
    store.write(steps_of(["train"], ranks=12))
    store.close()
    sources = {"node0": Watched("ring", rows_of), "node1": Watched("ring", no_ring), "node2": Watched("ring", rows_of)}
    finding = accused(5)
    with collector(tmp_path / "store", says(finding)) as address, QueryClient(address) as client:
        with (
            agent(tmp_path, "node0", address, sources["node0"]),
            agent(tmp_path, "node1", address, sources["node1"]),
            agent(tmp_path, "node2", address, sources["node2"]),
        ):
            rows = until(client, "SELECT * FROM current_captures WHERE state IN ('done', 'denied') ORDER BY rank", 2)
            assert [(row["rank"], row["node"], row["state"]) for row in rows] == [
                (0, "node0", "done"),
                (5, "node1", "denied"),
            ]
            assert "records no kernels" in rows[1]["detail"]
            assert until(client, "SELECT rank, node FROM stacks", 1) == [{"rank": 0, "node": "node0"}]
            states = client.query("SELECT state FROM captures WHERE rank = 5").to_pylist()
            assert {row["state"] for row in states} == {"requested", "sent", "denied"}
        known = standing.take(lambda sql: client.query(sql))
    assert [len(sources[name].asked) for name in ("node0", "node1", "node2")] == [1, 1, 0]
    assert sources["node1"].asked[0].reason == finding.id
    text = standing.text(known, time.time_ns())
    assert "closer    kernels of rank 5 on node1: denied: ring: the training process records no kernels" in text
    assert "closer    kernels of rank 0 on node0: arrived: ring: 1 rows" in text


def test_a_node_without_a_source_that_can_denies_at_once(tmp_path: Path) -> None:
    store = DuckDBStore(tmp_path / "store")
    store.write(steps_of(["train"], ranks=4))
    wanted = Capture("c1", "train", 2, "stacks", 1, 1, "by hand").row("requested", node="node0", requested_ns=1)
    store.write([Batch(CAPTURES.name, "test", CAPTURES.from_rows([wanted]))])
    store.close()
    source = Watched("ring", rows_of)
    with (
        collector(tmp_path / "store", says()) as address,
        QueryClient(address) as client,
        agent(tmp_path, "node0", address, source),
    ):
        (row,) = until(client, "SELECT state, detail FROM current_captures WHERE state = 'denied'", 1)
    assert row["detail"] == "no source of this node can take stacks (it reads: ring)"
    assert source.asked == []


def kernels_of(rank: int, count: int) -> Kernels:
    random = np.random.default_rng(rank)
    return Kernels(
        start_ns=NOW_NS + np.cumsum(random.integers(0, 10_000, count)),
        duration_ns=random.integers(1, 10**6, count),
        name_id=random.integers(0, 2, count).astype(np.int32),
        category=np.zeros(count, dtype=np.uint8),
        device=np.zeros(count, dtype=np.int32),
        stream=random.integers(7, 20, count),
        step=random.integers(0, 9, count),
        names=("gemm", "relu"),
    )


def test_kernels_asked_for_are_in_the_store_to_the_nanosecond_or_denied_where_they_are_gone(tmp_path: Path) -> None:
    """Over real sockets: a range that is held, one that is held in part, one that is not; each says what it got."""
    fed = kernels_of(2, 120_000)
    end_ns = int(fed.end_ns.max())
    ranges = {
        "whole": (int(fed.start_ns[0]), end_ns),
        "part": (NOW_NS - 10**9, NOW_NS + 10**8),
        "gone": (NOW_NS - 10**9, NOW_NS - 1),
    }
    store = DuckDBStore(tmp_path / "store")
    for name, (start_ns, until_ns) in ranges.items():
        wanted = Capture(name, "train", 2, "kernels", start_ns, until_ns - start_ns, "by hand")
        row = wanted.row("requested", node="node0", requested_ns=start_ns)
        store.write([Batch(CAPTURES.name, "test", CAPTURES.from_rows([row]))])
    store.close()
    ring = RawRing(RawRingConfig(), tmp_path / "ring")
    ring.append(Process.of("realtime@node0", job="train", rank=2), fed)
    with collector(tmp_path / "store", says()) as address, QueryClient(address) as client:
        with agent(tmp_path, "node0", address, Watched("ring", lambda request: deliver(ring, request))):
            states = until(client, "SELECT * FROM current_captures WHERE state IN ('done', 'denied') ORDER BY id", 3)
        told = {row["id"]: row for row in states}
        found = client.query(
            "SELECT start_ns, duration_ns, stream, step, any_value(name) AS name FROM raw_kernels "
            "JOIN kernel_names USING (kernel_id) WHERE capture_id = 'whole' "
            "GROUP BY ALL ORDER BY start_ns, duration_ns, stream, step LIMIT 100000"
        ).to_pylist()
        counts = client.query("SELECT capture_id, count(*) AS n, sum(duration_ns) AS ns FROM raw_kernels GROUP BY ALL")
    expected = sorted(
        zip(
            *(each.tolist() for each in (fed.start_ns, fed.duration_ns, fed.stream, fed.step)),
            (fed.names[index] for index in fed.name_id),
            strict=True,
        )
    )
    assert [tuple(row.values()) for row in found] == expected[: len(found)]
    early = fed.start_ns < NOW_NS + 10**8
    assert {(row["capture_id"], row["n"], row["ns"]) for row in counts.to_pylist()} == {
        ("whole", len(fed), int(fed.duration_ns.sum())),
        ("part", int(early.sum()), int(fed.duration_ns[early].sum())),
    }
    assert told["whole"]["detail"].endswith("all of the time asked for")
    assert (told["whole"]["records"], told["whole"]["missing_ns"]) == (len(fed), 0)
    assert told["part"]["missing_ns"] == 10**9 + int(fed.start_ns[0]) - NOW_NS
    assert (told["part"]["delivered_start_ns"], told["part"]["delivered_end_ns"]) == (fed.start_ns[0], NOW_NS + 10**8)
    assert "the first 1 s are not held" in told["part"]["detail"]
    assert (told["gone"]["state"], told["gone"]["records"]) == ("denied", None)
    assert "that time is not held" in told["gone"]["detail"]
    ring.close()


def test_a_user_fetches_kernels_by_hand_and_is_told_what_came(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By job and rank alone: the node and the time are those of the newest step."""
    fed = kernels_of(2, 5_000)
    end_ns = int(fed.end_ns.max())
    store = DuckDBStore(tmp_path / "store")
    step = {"job": "train", "rank": 2, "node": "node0", "step": 0, "scope": "step", "start_ns": NOW_NS}
    store.write([Batch("steps", "test", STEPS.from_rows([step | {"duration_ns": end_ns - NOW_NS}]))])
    store.close()
    ring = RawRing(RawRingConfig(), tmp_path / "ring")
    ring.append(Process.of("realtime@node0", job="train", rank=2), fed)
    with (
        collector(tmp_path / "store", says()) as address,
        QueryClient(address) as client,
        agent(tmp_path, "node0", address, Watched("ring", lambda request: deliver(ring, request))),
    ):
        asked = ["capture", "--collector", address, "--job", "train", "--rank"]
        assert main([*asked, "2"]) == 0
        said = capsys.readouterr()
        found = client.query(
            f"SELECT count(*) AS n FROM raw_kernels WHERE capture_id = '{said.out.strip()}'"
        ).to_pylist()
        assert found == [{"n": 5_000}]
        assert said.err.startswith("done: ring: ")
        assert main([*asked, "2", "--from", str(NOW_NS - 10**9), "--seconds", "0.5"]) == 1
        assert "denied: ring: that time is not held" in capsys.readouterr().err
        assert main([*asked, "3"]) == 64
        assert "no step of rank 3 of job train is kept" in capsys.readouterr().err
    ring.close()
