"""What a reader of an exported trace relies on beside kernels: who waited, one clock, counters, states, marks, honest sums."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from seen import Database

from warpline_cli.trace import export as trace_export
from warpline_cli.trace import gpus
from warpline_cli.trace.export import Exported, export
from warpline_cli.trace.selection import Selection, of_finding
from warpline_proto.errors import ConfigError
from warpline_proto.finding import OPEN, RESOLVED, Finding, FindingKind, FindingState, Onset, Severity, Subject, to_rows
from warpline_proto.tables import KERNEL_CLUSTERS

BEGIN_NS = 1_700_000_000_000_000_000
MS = 1_000_000
SECOND = 1_000 * MS
Event = dict[str, Any]


def rank(number: int, **more: Any) -> dict[str, Any]:
    node = f"node{number // 2}"
    place = {"job": "train", "rank": number, "node": node, "clock": f"realtime@{node}", "dp": number, "pp": 0}
    return place | {"gpu_uuid": f"GPU-{number}", "source": "ring"} | more


@pytest.fixture
def database() -> Database:
    """Four ranks on two nodes, ten steps of a second each."""
    made = Database()
    made.add(
        "steps",
        [
            rank(number, scope="step", step=step, start_ns=BEGIN_NS + step * SECOND, duration_ns=SECOND)
            for number in range(4)
            for step in range(10)
        ],
    )
    return made


def drawn(database: Database, **chosen: Any) -> tuple[list[Event], Exported, dict[str, Any]]:
    """Events with `at`, ns since BEGIN_NS on the common clock, and `who`, the name of the process; what was told; the rest."""
    stream = io.StringIO()
    done = export(database.query, Selection(**({"job": "train"} | chosen)), stream)
    document = json.loads(stream.getvalue())
    events: list[Event] = document.pop("traceEvents")
    names = {each["pid"]: each["args"]["name"] for each in events if each["name"] == "process_name"}
    tracks = {(each["pid"], each["tid"]): each["args"]["name"] for each in events if each["name"] == "thread_name"}
    base = document["baseTimeNanoseconds"] - BEGIN_NS
    for each in events:
        each["who"], each["track"] = names[each["pid"]], tracks.get((each["pid"], each["tid"]))
        each["at"] = base + round(each.get("ts", 0) * 1_000)
        each["took"] = round(each.get("dur", 0) * 1_000)
    return events, done, document


def of(events: list[Event], category: str) -> list[Event]:
    return [each for each in events if each.get("cat") == category]


def reduces(
    numbers: range | tuple[int, ...], late_ns: dict[int, int] | None = None, nranks: int = 4
) -> list[dict[str, Any]]:
    """An all_reduce that all leave at 500 ms, which each enters at 100 ms or later."""
    late = late_ns or {}
    return [
        rank(
            number, communicator="c", sequence=7, step=0, operation="all_reduce", nranks=nranks, timing="kernel_gpu",
            start_ns=BEGIN_NS + 100 * MS + late.get(number, 0), duration_ns=400 * MS - late.get(number, 0),
        )
        for number in numbers
    ]  # fmt: skip


def test_waiting_and_transfer_stand_apart_within_a_collective_and_the_last_to_come_waits_for_nobody(
    database: Database,
) -> None:
    database.add("collectives", reduces(range(4), {2: 300 * MS}))
    events, done, _ = drawn(database)
    assert {(each["who"].split()[1], each["at"], each["took"]) for each in of(events, "wait")} == {
        (number, 100 * MS, 300 * MS) for number in "013"
    }
    assert {(each["at"], each["took"]) for each in of(events, "transfer")} == {(400 * MS, 100 * MS)}
    arrows = sorted(of(events, "collective"), key=lambda each: each["at"])
    assert [(each.get("flow_in"), each.get("flow_out")) for each in arrows] == [
        (None, True),
        (True, True),
        (True, True),
        (True, None),
    ]
    assert arrows[-1]["who"].startswith("rank 2")
    assert len({each["bind_id"] for each in arrows}) == done.flows == 1


def test_who_waited_is_not_said_where_a_rank_of_the_communicator_is_not_known(database: Database) -> None:
    database.add("collectives", reduces((0, 2), {2: 300 * MS}))
    events, done, _ = drawn(database)
    assert of(events, "wait") == of(events, "transfer") == []
    assert done.flows == 1


def test_one_rank_alone_still_knows_how_long_it_waited_for_the_others(database: Database) -> None:
    database.add("collectives", reduces(range(4), {2: 300 * MS}))
    events, done, _ = drawn(database, ranks=(1,))
    assert [each["took"] for each in of(events, "wait")] == [300 * MS]
    assert done.ranks == 1
    assert done.flows == 0


def test_a_send_is_joined_to_its_receive_and_to_no_other(database: Database) -> None:
    pairs = [(0, 1, "send"), (1, 0, "recv"), (2, 3, "send"), (3, 2, "recv")]
    database.add(
        "collectives",
        [
            rank(
                number,
                communicator="p",
                communicator_rank=number,
                peer=peer,
                sequence=1,
                operation=operation,
                start_ns=BEGIN_NS,
            )
            for number, peer, operation in pairs
        ],
    )
    events, done, _ = drawn(database)
    assert done.flows == 2
    joined: dict[str, set[str]] = {}
    for each in of(events, "collective"):
        joined.setdefault(each["bind_id"], set()).add(each["who"].split()[1])
    assert sorted(map(sorted, joined.values())) == [["0", "1"], ["2", "3"]]


def off_by_an_hour(database: Database, ahead_ns: int = 3_600 * SECOND, error_ns: int = MS) -> None:
    """Clock of node1."""
    measured = {"source": "clock", "boot": "b", "steady_ns": 1, "error_ns": error_ns}
    rows = [
        {"node": "node0", "time_ns": BEGIN_NS, "offset_ns": 0},
        {"node": "node1", "time_ns": BEGIN_NS, "offset_ns": ahead_ns},
    ]
    database.add("node_clocks", [measured | row for row in rows])


def test_nodes_whose_clocks_are_an_hour_apart_are_drawn_on_one() -> None:
    database = Database()
    off_by_an_hour(database)
    shown = [
        rank(n, start_ns=BEGIN_NS + n // 2 * 3_600 * SECOND, duration_ns=SECOND, scope="step", step=1) for n in range(4)
    ]
    database.add("steps", shown)
    events, done, document = drawn(database, start_ns=BEGIN_NS, end_ns=BEGIN_NS + SECOND)
    assert {each["at"] for each in of(events, "step")} == {0}
    assert done.ranks == 4
    assert done.clock_error_ns is not None and MS <= done.clock_error_ns <= 2 * MS + 3_600 * SECOND // 10_000
    assert document["otherData"]["clocks"]["node1"].startswith("moved by -3600000.000 ms, within")
    assert "clocks of nodes: within" in of(events, "clock")[0]["name"]


def test_a_clock_that_agrees_within_its_measurement_is_left_alone(database: Database) -> None:
    off_by_an_hour(database, ahead_ns=40 * MS, error_ns=50 * MS)
    events, done, _ = drawn(database)
    assert {each["at"] for each in of(events, "step")} == {step * SECOND for step in range(10)}
    assert done.clock_error_ns is not None and done.clock_error_ns >= 90 * MS


def test_clocks_that_nobody_compared_are_said_to_be_unknown(database: Database) -> None:
    events, done, document = drawn(database)
    assert done.clock_error_ns is None
    assert "not known" in of(events, "clock")[0]["name"]
    assert document["otherData"]["clock_error_ns"].startswith("not known")


def readings(count: int) -> list[dict[str, Any]]:
    each = [
        {"time_ns": BEGIN_NS + number * 100 * MS, "power_watts": 400.0 + number, "sm_clock_mhz": 1980.0}
        for number in range(count)
    ]
    place = {"node": "node0", "gpu_uuid": "GPU-1", "gpu_index": 5, "source": "nvml", "bus_id": "0000:18:00.0"}
    return [place | row for row in each]


def test_power_and_clocks_stand_on_the_process_of_the_rank_that_has_the_gpu(database: Database) -> None:
    database.add("device_samples", readings(20))
    events, done, _ = drawn(database)
    counters = [each for each in events if each["ph"] == "C"]
    assert {each["who"] for each in counters} == {"rank 1 on node0, GPU 5, dp 1"}
    power = [(each["at"], each["args"]["W"]) for each in counters if each["name"] == "power"]
    assert power == [(number * 100 * MS, 400.0 + number) for number in range(20)]
    assert [each["args"] for each in counters if each["name"] == "SM clock"] == [{"MHz": 1980.0}]
    assert done.counters == 21
    assert done.left_out == {}


def test_of_too_many_readings_every_nth_is_drawn_and_the_others_are_counted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "COUNTERS_MAX", 25)
    database.add("device_samples", readings(20))
    events, done, _ = drawn(database)
    assert [each["args"]["W"] for each in events if each["ph"] == "C" and each["name"] == "power"] == [
        400.0,
        404.0,
        408.0,
        412.0,
        416.0,
    ]
    assert done.left_out == {"readings": 15}


def test_what_a_gpu_did_with_its_power_is_a_track_of_its_rank(database: Database) -> None:
    state = {
        "node": "node1",
        "gpu_uuid": "GPU-2",
        "window_ns": BEGIN_NS,
        "updated_ns": 1,
        "cause": "data",
        "joules": 300.0,
    }
    idle = state | {"state": "execution_idle", "start_ns": BEGIN_NS + SECOND, "end_ns": BEGIN_NS + 8 * SECOND}
    database.add("energy_intervals", [idle, idle | {"state": "active", "updated_ns": 0}])
    (found,) = of(drawn(database)[0], "gpu_state")
    assert (found["name"], found["at"], found["took"], found["track"]) == (
        "execution_idle",
        SECOND,
        7 * SECOND,
        "GPU state",
    )
    assert found["who"].startswith("rank 2")
    assert found["args"] == {"joules": 300.0, "cause": "data"}


def accuse(
    database: Database, subject: Subject, onset_ns: int | None, state: str = OPEN, updated_ns: int = BEGIN_NS
) -> str:
    finding = Finding(
        FindingKind.COMPUTE_STRAGGLER,
        Severity.CRITICAL,
        0.9,
        subject,
        "Rank 2 is slow",
        "read its clocks",
        Onset(onset_ns, 3),
    )
    rows = to_rows([FindingState(finding, state, BEGIN_NS + 5 * SECOND, updated_ns, "straggler")])
    database.add("findings", rows.to_pylist())
    return finding.id


def test_a_finding_is_marked_through_all_ranks_with_what_to_do_next(database: Database) -> None:
    identifier = accuse(database, Subject(job="train", rank=2, node="node1"), BEGIN_NS + 3 * SECOND)
    (mark,) = of(drawn(database)[0], "finding")
    assert (mark["ph"], mark["s"], mark["at"]) == ("i", "g", 3 * SECOND)
    assert mark["name"] == "critical: Rank 2 is slow"
    told = mark["args"]
    assert (told["summary"], told["severity"], told["next_step"]) == ("Rank 2 is slow", "critical", "read its clocks")
    assert told["more"] == f"warpline explain {identifier}"
    (later,) = of(drawn(database, start_ns=BEGIN_NS + 6 * SECOND)[0], "finding")
    assert (later["at"], later["args"]["began_before_this_trace"]) == (6 * SECOND, "yes")
    assert of(drawn(database, end_ns=BEGIN_NS + 2 * SECOND)[0], "finding") == []
    assert of(drawn(database, ranks=(0,))[0], "finding") == []


def test_a_finding_that_was_over_before_is_not_marked(database: Database) -> None:
    accuse(database, Subject(job="train", rank=2), BEGIN_NS, RESOLVED, BEGIN_NS + SECOND)
    assert of(drawn(database, start_ns=BEGIN_NS + 5 * SECOND)[0], "finding") == []


def test_an_xid_is_marked_on_the_rank_whose_gpu_the_line_names_and_else_on_its_node(database: Database) -> None:
    database.add("device_samples", readings(1))
    line = {
        "node": "node0",
        "kind": "xid",
        "code": 79,
        "message": "NVRM: Xid 79, off the bus",
        "time_ns": BEGIN_NS + SECOND,
    }
    database.add(
        "log_events", [line | {"bus_id": "0000:18:00.0"}, line | {"bus_id": "0000:99:00.0"}, line | {"node": "node9"}]
    )
    marks = of(drawn(database)[0], "log")
    assert [(each["name"], each["who"], each["at"]) for each in marks] == [
        ("Xid 79", "rank 1 on node0, GPU 5, dp 1", SECOND),
        ("Xid 79", "node node0", SECOND),
    ]
    assert marks[0]["args"]["message"] == "NVRM: Xid 79, off the bus"


def clusters(step: int, *sums: tuple[int, int, int]) -> list[dict[str, Any]]:
    """(kernel, count, duration of each): two kernels of one duration are one row."""
    numbers = ("min_ns", "p10_ns", "p50_ns", "p90_ns", "p99_ns", "max_ns")
    begin = BEGIN_NS + step * SECOND
    place = {
        "step": step,
        "start_ns": begin,
        "end_ns": begin + SECOND,
        "stream": 7,
        "category": "compute",
        "grade": "clusters",
    }
    return [
        rank(
            1,
            kernel_id=kernel,
            cluster_index=index,
            count=count,
            sum_ns=count * each,
            run_counts=[count],
            run_means_ns=[each],
        )
        | place
        | dict.fromkeys(numbers, each)
        for index, (kernel, count, each) in enumerate(sums)
    ]


def test_kernels_of_which_clusters_alone_are_kept_are_drawn_as_sums_that_say_so(database: Database) -> None:
    assert set(clusters(0, (1, 1, 1))[0]) <= set(KERNEL_CLUSTERS.schema.names)
    database.add("kernel_clusters", clusters(0, (1, 90, MS), (1, 10, 9 * MS), (2, 4, 5 * MS)))
    database.add("kernel_names", [{"kernel_id": 1, "name": "gemm", "category": "compute"}])
    events, done, _ = drawn(database)
    sums = of(events, "compute_sum")
    assert [(each["name"], each["at"], each["took"]) for each in sums] == [
        ("sum of 100 × gemm", 0, 180 * MS),
        ("sum of 4 × kernel 2", 180 * MS, 20 * MS),
    ]
    told = sums[0]["args"]
    assert (told["count"], told["sum_ns"], told["p50_ns"], told["p99_ns"]) == (100, 180 * MS, MS, 9 * MS)
    assert sums[0]["track"] == "sums of stream 7"
    assert "when each ran within the step is not kept" in told["drawn"]
    assert (done.kernels, done.kernel_sums) == (0, 2)


def test_a_step_whose_kernels_are_kept_one_by_one_has_no_sums(database: Database) -> None:
    database.add("kernel_clusters", clusters(0, (1, 1, MS)) + clusters(1, (1, 1, MS)))
    raw = {
        "step": 1,
        "start_ns": BEGIN_NS + SECOND,
        "duration_ns": MS,
        "stream": 7,
        "kernel_id": 1,
        "category": "compute",
    }
    database.add("raw_kernels", [rank(1, **raw)])
    events, done, _ = drawn(database)
    assert [each["args"]["step"] for each in of(events, "compute_sum")] == [0]
    assert [each["args"]["step"] for each in of(events, "compute")] == [1]
    assert (done.kernels, done.kernel_sums) == (1, 1)


def test_kernels_beyond_the_longest_of_a_step_are_one_slice(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warpline_cli.trace.sums.NAMES_OF_STEP", 2)
    database.add("kernel_clusters", clusters(0, *((kernel, 1, kernel * MS) for kernel in range(1, 6))))
    events, _, _ = drawn(database)
    assert [each["name"] for each in of(events, "compute_sum")] == ["sum of 1 × kernel 5", "sum of 1 × kernel 4"]
    (rest,) = of(events, "other_sum")
    assert (rest["name"], rest["took"]) == ("sum of 3 × 3 other kernels", 6 * MS)


def test_a_finding_chooses_whom_it_accuses_some_peers_and_the_time_around_its_onset(database: Database) -> None:
    identifier = accuse(database, Subject(job="train", rank=2), BEGIN_NS + 5 * SECOND)
    chosen = of_finding(database.query, identifier, None, None)
    assert (chosen.job, chosen.ranks) == ("train", (0, 1, 2, 3))
    assert (chosen.start_ns, chosen.end_ns) == (BEGIN_NS, BEGIN_NS + 20 * SECOND)
    named = of_finding(database.query, identifier, BEGIN_NS + SECOND, BEGIN_NS + 2 * SECOND)
    assert (named.start_ns, named.end_ns) == (BEGIN_NS + SECOND, BEGIN_NS + 2 * SECOND)
    assert drawn(database, finding=identifier, ranks=(2,))[2]["otherData"]["finding"] == identifier


def test_the_beginning_of_an_identifier_is_enough_where_one_finding_has_it(database: Database) -> None:
    identifiers = sorted(accuse(database, Subject(job="train", rank=number), BEGIN_NS) for number in (1, 2))
    assert of_finding(database.query, identifiers[0][:-1], None, None).finding == identifiers[0]
    with pytest.raises(ConfigError) as caught:
        of_finding(database.query, "compute", None, None)
    assert "2 findings begin with 'compute'" in str(caught.value) and ", ".join(identifiers) in str(caught.value)
    with pytest.raises(ConfigError, match=r"there is no finding 'compute_strangler' \(open now: compute_straggler-"):
        of_finding(database.query, "compute_strangler", None, None)


def test_a_finding_of_a_node_chooses_the_job_that_runs_there(database: Database) -> None:
    identifier = accuse(database, Subject(node="node1"), None)
    chosen = of_finding(database.query, identifier, None, None)
    assert (chosen.job, chosen.ranks) == ("train", (0, 1, 2, 3))
    assert chosen.end_ns is not None and chosen.end_ns > BEGIN_NS + 5 * SECOND


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        (Subject(job="train", rank=77), "no step of whom"),
        (Subject(node="elsewhere"), "is of no job whose steps are kept"),
    ],
)
def test_a_finding_of_which_nothing_is_kept_says_so(database: Database, subject: Subject, said: str) -> None:
    identifier = accuse(database, subject, BEGIN_NS)
    with pytest.raises(ConfigError, match=said):
        of_finding(database.query, identifier, None, None)
    with pytest.raises(ConfigError, match="there is no finding 'nobody'"):
        of_finding(database.query, "nobody", None, None)


def test_slices_that_do_not_fit_are_counted_by_kind(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_export, "SLICES_MAX", 25)
    database.add("collectives", reduces(range(4)))
    _, done, document = drawn(database)
    assert done.left_out == {"steps": 15, "collectives": 4}
    assert document["otherData"]["left_out"] == {"steps": "15", "collectives": "4"}
