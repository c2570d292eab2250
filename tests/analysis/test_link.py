"""A link that carries less than it did, or than its siblings, is found; lateness, warm-up and sweeps are not mistaken for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import link
from warpline_proto.finding import FindingKind, Report, Severity, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
MESSAGE = 256 << 20
RANKS = 4
HEALTHY_NS = 5_000_000


def operations(
    transfer: Any, communicator: str = "dp0", first: int = 0, waits: Any = None, **extra: Any
) -> list[dict[str, Any]]:
    """One all-reduce for each transfer time (ns) on four ranks; `waits` (n, 4) ns are added to the ranks' durations."""
    late = np.zeros((len(transfer), RANKS)) if waits is None else waits
    return [
        {"job": "train", "rank": first + rank, "communicator": communicator, "operation": "all_reduce", "sequence": number,
         "step": number // 2, "message_bytes": MESSAGE, "nranks": RANKS,
         "duration_ns": int(transfer[number] + late[number, rank]),
         "timing": "kernel_gpu", "node": f"node{(first + rank) // 4}", "clock": "realtime@node0",
         "start_ns": 1_700_000_000_000_000_000 + number * 10**9} | extra
        for number in range(len(transfer)) for rank in range(RANKS)
    ]  # fmt: skip


def noisy(seed: int, count: int, level: float = HEALTHY_NS, noise: float = 0.05) -> Any:
    return level * np.exp(np.random.default_rng(seed).normal(0, noise, count))


def judge(reader_of: ReaderOf, rows: list[dict[str, Any]]) -> Report:
    return link.detect(reader_of({"collectives": rows}))


def test_a_lasting_drop_is_found_with_onset_bandwidth_and_cost(reader_of: ReaderOf) -> None:
    transfer = np.concatenate([noisy(1, 60), noisy(2, 40, 1.8 * HEALTHY_NS)])
    report = judge(reader_of, operations(transfer))
    (finding,) = report.findings
    assert (finding.kind, finding.severity) == (FindingKind.LINK_DEGRADATION, Severity.WARNING)
    assert (finding.subject.communicator, finding.subject.group, finding.subject.rank) == (
        "dp0",
        "ranks 0, 1, 2, 3",
        None,
    )
    assert finding.subject.node == "node0"
    assert finding.onset.step == 30 and finding.onset.time_ns == 1_700_000_060_000_000_000
    assert finding.cost.seconds_per_step == pytest.approx(2 * 0.004, rel=0.1)
    rows = {row["period"]: row for row in finding.evidence[0].rows}
    assert rows["before"]["bus_gigabytes_per_second"] == pytest.approx(MESSAGE * 1.5 / HEALTHY_NS, rel=0.05)
    assert (rows["before"]["operations"], rows["after"]["operations"]) == (60, 40)


@pytest.mark.parametrize(("factor", "found"), [(1.1, False), (1.2, False), (1.5, True), (3.0, True)])
def test_the_gate_is_a_quarter_of_the_bandwidth(reader_of: ReaderOf, factor: float, found: bool) -> None:
    for seed in range(10):
        transfer = np.concatenate([noisy(seed, 50), noisy(seed + 100, 20, factor * HEALTHY_NS)])
        assert bool(judge(reader_of, operations(transfer)).findings) == found, seed


def test_fifty_healthy_links_are_healthy(reader_of: ReaderOf) -> None:
    for seed in range(50):
        rows = [
            row for place in range(4) for row in operations(noisy(seed * 10 + place, 60), f"dp{place}", place * RANKS)
        ]
        assert judge(reader_of, rows).verdict == Verdict.HEALTHY, seed


def test_a_straggler_makes_others_wait_and_is_no_link_fault(reader_of: ReaderOf) -> None:
    waits = np.zeros((80, RANKS))
    waits[40:, 1:] = 50_000_000
    assert judge(reader_of, operations(noisy(3, 80), waits=waits)).verdict == Verdict.HEALTHY


def test_a_slow_start_and_single_spikes_are_no_fault(reader_of: ReaderOf) -> None:
    warm = noisy(4, 80)
    warm[:8] *= 20
    spiky = noisy(5, 80)
    spiky[::9] *= 6
    for transfer in (warm, spiky):
        assert judge(reader_of, operations(transfer)).verdict == Verdict.HEALTHY


def test_a_link_that_recovered_is_not_accused(reader_of: ReaderOf) -> None:
    transfer = np.concatenate([noisy(6, 30), noisy(7, 20, 2 * HEALTHY_NS), noisy(8, 50)])
    assert judge(reader_of, operations(transfer)).verdict == Verdict.HEALTHY


def test_a_group_slower_than_its_siblings_from_the_start_is_found(reader_of: ReaderOf) -> None:
    rows = [
        row
        for place in range(4)
        for row in operations(noisy(place, 30, HEALTHY_NS * (2 if place == 2 else 1)), f"dp{place}", place * RANKS)
    ]
    (finding,) = judge(reader_of, rows).findings
    assert finding.subject.communicator == "dp2" and finding.onset.step is None
    assert "3 sibling communicators" in finding.summary and finding.confidence < 0.85


def test_half_of_the_siblings_slow_are_all_found_and_the_healthy_half_is_not(reader_of: ReaderOf) -> None:
    rows = [
        row
        for place in range(4)
        for row in operations(noisy(place, 30, HEALTHY_NS * (2 if place < 2 else 1)), f"dp{place}", place * RANKS)
    ]
    assert {finding.subject.communicator for finding in judge(reader_of, rows).findings} == {"dp0", "dp1"}


def test_siblings_that_span_more_nodes_are_not_compared(reader_of: ReaderOf) -> None:
    rows = [row for place in range(4) for row in operations(noisy(place, 30), f"in{place}", place * RANKS)]
    across = operations(noisy(9, 30, 4 * HEALTHY_NS), "across", 16)
    for row in across:
        row["node"] = f"node{row['rank']}"
    assert judge(reader_of, rows + across).verdict == Verdict.HEALTHY


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"timing": "summary"}, "published summaries only"),
        ({"message_bytes": 1024}, "64 KiB"),
        ({"message_bytes": None}, "64 KiB"),
        ({"sequence": None}, "sequence numbers"),
        ({"nranks": 64}, "all their ranks recorded"),
        ({"duration_ns": None}, "no durations"),
    ],
)
def test_what_cannot_be_judged_is_unknown_and_says_why(reader_of: ReaderOf, change: dict[str, Any], text: str) -> None:
    transfer = np.concatenate([noisy(1, 60), noisy(2, 40, 3 * HEALTHY_NS)])
    report = judge(reader_of, operations(transfer, **change))
    assert report.findings == () and report.verdict == Verdict.UNKNOWN
    assert text in report.checks[0].detail


def test_a_sweep_over_sizes_has_no_history(reader_of: ReaderOf) -> None:
    rows = [
        row
        for size in range(20)
        for row in operations(noisy(size, 3), message_bytes=MESSAGE << (size % 4) | size * 4096)
    ]
    for number, row in enumerate(rows):
        row["sequence"] = number // RANKS
    report = judge(reader_of, rows)
    assert report.findings == () and report.verdict == Verdict.UNKNOWN


def test_clocks_and_names_of_ranks_do_not_matter(reader_of: ReaderOf) -> None:
    rows = operations(np.concatenate([noisy(1, 60), noisy(2, 40, 2 * HEALTHY_NS)]))
    plain = judge(reader_of, rows).findings[0]
    for row in rows:
        row["start_ns"] += row["rank"] * 3_600_000_000_000
    assert judge(reader_of, rows).findings[0] == plain
    for row in rows:
        row["rank"] = 3 - row["rank"]
    assert judge(reader_of, rows).findings[0].summary == plain.summary


def crossing(slow: set[str], groups: Mapping[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    """Communicators of four ranks on the nodes given; those in `slow` carry half from their 60th operation on."""
    rows = []
    for at, (name, nodes) in enumerate(groups.items()):
        late = noisy(at + 50, 40, HEALTHY_NS * (2 if name in slow else 1))
        for row in operations(np.concatenate([noisy(at, 60), late]), name, at * RANKS):
            rows.append(row | {"node": f"node{nodes[row['rank'] % len(nodes)]}"})
    return rows


PAIRS = {"a01": (0, 1), "b02": (0, 2), "c13": (1, 3), "d23": (2, 3), "inside0": (0,)}


def test_all_communicators_that_cross_one_node_are_told_as_its_network(reader_of: ReaderOf) -> None:
    (finding,) = judge(reader_of, crossing({"a01", "b02"}, PAIRS)).findings
    assert (finding.kind, finding.severity) == (FindingKind.NETWORK_DEGRADATION, Severity.WARNING)
    assert (finding.subject.node, finding.subject.communicator, finding.onset.step) == ("node0", None, 30)
    assert {row["communicator"] for row in finding.evidence[0].rows} == {"a01", "b02"}
    assert any("node1, node2" in text for text in finding.ruled_out)


@pytest.mark.parametrize(
    ("slow", "groups"),
    [
        ({"a01"}, PAIRS),
        ({"a01", "b02"}, PAIRS | {"e04": (0, 4)}),
        ({"a01", "also01"}, {"a01": (0, 1), "also01": (0, 1), "c13": (1, 3), "d23": (2, 3)}),
        ({"a01", "d23"}, PAIRS),
        ({"inside0", "a01"}, PAIRS),
    ],
    ids=[
        "one alone",
        "another one of the node is fine",
        "two nodes explain as much",
        "nothing shared",
        "within the node",
    ],
)
def test_communicators_are_told_by_themselves_where_no_one_node_explains_them(
    reader_of: ReaderOf, slow: set[str], groups: Mapping[str, tuple[int, ...]]
) -> None:
    findings = judge(reader_of, crossing(slow, groups)).findings
    assert {finding.subject.communicator for finding in findings} == slow
