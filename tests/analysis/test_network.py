"""A port that is worse than its siblings is named; a fabric that is alike everywhere, unused ports and other designs are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from warpline_agent.offline import read_paths
from warpline_analysis.detector import Reader
from warpline_analysis.detectors import network
from warpline_proto.finding import Finding, FindingKind, Report, Severity, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
Rows = list[dict[str, Any]]
START = 1_700_000_000_000_000_000
NODES, RAILS, READINGS, PERIOD = 4, 4, 40, 5
UNITS = {"rate": "bit/s", "state": "code", "phys_state": "code"}


def counters(node: int, rail: int, reading: int, random: np.random.Generator) -> dict[str, int]:
    """What a healthy port shows at one reading: traffic, a few packets out of order, hardly an error."""
    return {
        "state": 4, "phys_state": 5, "rate": 400_000_000_000, "symbol_error": 3, "link_downed": 1, "link_error_recovery": 0,
        "port_xmit_discards": 0, "port_xmit_wait": reading * 50_000 + int(random.integers(0, 5_000)),
        "out_of_sequence": reading * 40 + int(random.integers(0, 20)), "np_cnp_sent": reading * 100 + int(random.integers(0, 50)),
        "port_xmit_data": reading * 10**11, "port_rcv_data": reading * 10**11,
    }  # fmt: skip


def fabric(
    seed: int = 0,
    change: Callable[[int, int, int], dict[str, int]] = lambda node, rail, reading: {},
    nodes: int = NODES,
    readings: int = READINGS,
    timed: bool = True,
) -> Rows:
    """Readings of every port; `change(node, rail, reading)` replaces counters."""
    random = np.random.default_rng(seed)
    return [
        {"node": f"node{node}", "source": "infiniband", "time_ns": START + reading * PERIOD * 10**9 if timed else None,
         "link_kind": "infiniband", "device": f"mlx5_{rail}", "port": 1, "counter": name, "value": value,
         "unit": UNITS.get(name, "errors"), "saturated": value == 255 and name == "link_downed"}
        for reading in range(readings) for node in range(nodes) for rail in range(RAILS)
        for name, value in (counters(node, rail, reading, random) | change(node, rail, reading)).items()
    ]  # fmt: skip


def at(node: int, rail: int, values: Callable[[int], dict[str, int]]) -> Callable[[int, int, int], dict[str, int]]:
    """A change of one port."""
    return lambda n, r, reading: values(reading) if (n, r) == (node, rail) else {}


def judge(reader_of: ReaderOf, rows: Rows, **tables: Any) -> Report:
    return network.detect(reader_of({"link_counters": rows} | tables))


def only(report: Report) -> Finding:
    assert len(report.findings) == 1, [finding.summary for finding in report.findings]
    assert report.findings[0].kind == FindingKind.NETWORK_DEGRADATION
    return report.findings[0]


@pytest.mark.parametrize(
    ("values", "severity", "words"),
    [
        (lambda r: {"symbol_error": 3 + 20 * max(r - 10, 0)}, Severity.WARNING, "errors of the wire: symbol_error +580"),
        (lambda r: {"port_xmit_discards": 9 * max(r - 10, 0)}, Severity.WARNING, "lost or repeated packets: port_xmit_discards"),
        (lambda r: {"out_of_sequence": 900 * r}, Severity.WARNING, "out_of_sequence"),
        (lambda r: {"link_downed": 1 + (r > 10)}, Severity.WARNING, "went down once"),
        (lambda r: {"link_downed": 1 + r // 10}, Severity.WARNING, "went down 3 times"),
        (lambda r: {"state": 1 if r > 10 else 4}, Severity.CRITICAL, "went from ACTIVE to DOWN"),
        (lambda r: {"state": 2}, Severity.WARNING, "is INIT while 6 of 6"),
        (lambda r: {"state": 1, "phys_state": 3}, Severity.INFO, "may be meant so"),
        (lambda r: {"rate": 10**11 if r > 10 else 4 * 10**11}, Severity.WARNING, "fell from 400 Gb/s to 100 Gb/s"),
        (lambda r: {"rate": 10**11}, Severity.WARNING, "the same port of 3 other nodes at 400 Gb/s"),
        (lambda r: {"port_xmit_wait": 5_000_000 * r}, Severity.INFO, "is congested"),
        (lambda r: {"np_cnp_sent": 9_000 * r}, Severity.INFO, "np_cnp_sent"),
    ],
)  # fmt: skip
def test_a_port_worse_than_its_siblings_is_named(
    reader_of: ReaderOf, values: Callable[[int], dict[str, int]], severity: Severity, words: str
) -> None:
    finding = only(judge(reader_of, fabric(change=at(2, 1, values))))
    assert (finding.subject.node, finding.subject.link) == ("node2", "mlx5_1:1")
    assert finding.severity == severity and words in finding.summary, finding.summary
    first = finding.evidence[0].rows[0]
    assert (first["node"], first["device"]) == ("node2", "mlx5_1") and len(finding.evidence[0].rows) >= 7


def test_the_onset_job_and_communicators_are_told(reader_of: ReaderOf) -> None:
    members = [{"job": "train", "node": f"node{rank}", "rank": rank, "communicator": "0xab", "nranks": 4, "nnodes": 4}
               for rank in range(4)]  # fmt: skip
    rows = fabric(change=at(2, 1, lambda r: {"symbol_error": 3 + 20 * max(r - 10, 0)}))
    finding = only(judge(reader_of, rows, communicators=members))
    assert finding.subject.job == "train" and finding.onset.time_ns == START + 11 * PERIOD * 10**9
    assert finding.evidence[1].rows[0]["communicator"] == "0xab"


def slowly(change: Callable[[int, int, int], dict[str, int]], nodes: int = 2) -> Rows:
    """A fabric read every 60 s for 40 minutes, longer than ports are compared over."""
    rows = fabric(change=change, nodes=nodes)
    return [row | {"time_ns": START + (row["time_ns"] - START) // PERIOD * 60} for row in rows]


def test_a_fault_older_than_the_window_is_dated_by_when_it_began(reader_of: ReaderOf) -> None:
    """A cause that is dated later than what follows from it explains nothing."""
    errors = only(judge(reader_of, slowly(at(1, 1, lambda r: {"symbol_error": 3 + 20 * max(r - 10, 0)}))))
    assert errors.onset.time_ns == START + 11 * 60 * 10**9
    slower = only(judge(reader_of, slowly(at(1, 1, lambda r: {"rate": 10**11 if r > 10 else 4 * 10**11}))))
    assert slower.severity == Severity.WARNING and "fell from 400 Gb/s to 100 Gb/s" in slower.summary
    assert slower.onset.time_ns == START + 11 * 60 * 10**9


def test_errors_that_grew_all_along_have_no_known_beginning(reader_of: ReaderOf) -> None:
    assert only(judge(reader_of, slowly(at(1, 1, lambda r: {"symbol_error": 20 * r})))).onset.time_ns is None


def test_a_rate_that_was_lowered_everywhere_long_ago_is_meant_so(reader_of: ReaderOf) -> None:
    report = judge(reader_of, slowly(lambda node, rail, r: {"rate": 10**11 if r > 10 else 4 * 10**11}))
    assert (report.findings, report.verdict) == ((), Verdict.HEALTHY)


def test_fifty_healthy_fabrics_are_healthy(reader_of: ReaderOf) -> None:
    for seed in range(50):
        report = judge(reader_of, fabric(seed))
        assert (report.findings, report.verdict) == ((), Verdict.HEALTHY), seed


@pytest.mark.parametrize(
    "change",
    [
        lambda node, rail, r: {"symbol_error": 30 * r},
        lambda node, rail, r: {"port_xmit_discards": 30 * r} if rail == 0 or node < 2 else {},
        lambda node, rail, r: {"symbol_error": 9 if r > 20 else 0} if (node, rail) == (1, 1) else {},
        lambda node, rail, r: {"symbol_error": 5_000 if r > 20 else 0} if (node, rail) == (1, 1) else {},
        lambda node, rail, r: {"symbol_error": 500 - r} if (node, rail) == (1, 1) and r < 3 else {},
        lambda node, rail, r: {"out_of_sequence": 0, "port_xmit_data": r, "port_rcv_data": r} if rail else {},
    ],
    ids=["all alike", "half of them", "few", "one burst", "a reset", "siblings without traffic"],
)
def test_what_is_no_matter_of_one_port_is_healthy(reader_of: ReaderOf, change: Callable[[int, int, int], Any]) -> None:
    report = judge(reader_of, fabric(change=change))
    assert (report.findings, report.verdict) == ((), Verdict.HEALTHY)


def test_a_slower_port_by_design_is_no_fault(reader_of: ReaderOf) -> None:
    storage = fabric(change=lambda node, rail, r: {"rate": 10**11} if rail == 3 else {})
    assert judge(reader_of, storage).findings == ()
    alone = only(judge(reader_of, fabric(change=at(0, 3, lambda r: {"rate": 10**11}), nodes=1)))
    assert alone.severity == Severity.INFO and "may be meant so" in alone.summary
    other_kind = only(judge(reader_of, fabric(change=lambda node, rail, r: {"rate": 10**11} if node == 3 else {})))
    assert other_kind.severity == Severity.INFO and "as are all ports of its node" in other_kind.summary


def test_a_counter_at_its_ceiling_is_said_to_be_unknown(reader_of: ReaderOf) -> None:
    report = judge(reader_of, fabric(change=at(1, 1, lambda r: {"link_downed": 255})))
    finding = only(report)
    assert finding.severity == Severity.INFO and "not known" in finding.summary
    assert any("stands at its ceiling" in text for text in finding.missing)
    assert report.verdict == Verdict.HEALTHY


def test_one_reading_shows_states_and_rates_only(reader_of: ReaderOf) -> None:
    report = judge(reader_of, fabric(readings=1, timed=False))
    assert (report.findings, report.verdict) == ((), Verdict.UNKNOWN)
    assert "growth of errors needs two" in report.checks[0].detail
    stuck = judge(reader_of, fabric(change=at(0, 2, lambda r: {"state": 2}), readings=1, timed=False))
    assert only(stuck).severity == Severity.WARNING and "a second reading of the counters" in only(stuck).missing


def test_network_cards_and_other_links_are_not_ports_of_the_fabric(reader_of: ReaderOf) -> None:
    rows = [
        row | {"port": None, "link_kind": "ethernet"}
        for row in fabric(change=at(0, 1, lambda r: {"symbol_error": 90 * r}))
    ]
    report = judge(reader_of, rows)
    assert (report.findings, report.checks) == ((), ())


@pytest.mark.data
def test_the_recorded_h100_node_has_one_counter_without_a_history(data: Path, reader_of: ReaderOf) -> None:
    batches = read_paths([data / "E-kernel-ib/gpud/sys-class-infiniband-h100.tar.gz"]).batches
    rows = pa.Table.from_batches([batch.rows for batch in batches if batch.table == "link_counters"])
    report = network.detect(reader_of({"link_counters": rows}))
    finding = only(report)
    assert (finding.subject.link, finding.severity) == ("mlx5_1:1", Severity.INFO)
    assert "link_downed at its ceiling of 255" in finding.summary
    assert report.verdict != Verdict.WARNING
