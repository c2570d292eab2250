"""Recorded fabric state: perfquery's counters and snapshots of sysfs, with the facts of the recorded files."""

from __future__ import annotations

import contextlib
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.source import Format, Input, Reading, memory_input
from warpline_agent.sources.infiniband_snapshot import InfinibandSnapshot
from warpline_agent.sources.perfquery import Perfquery
from warpline_proto.errors import Refused

Key = tuple[str, int | None, str]


def read(kind: Format, candidate: Input) -> Reading:
    assert kind.recognises(candidate)
    return kind.read(candidate)


def values_of(reading: Reading) -> dict[Key, Any]:
    """(device, port, counter) -> value."""
    rows = [row for each in reading.rows for row in each.batch.to_pylist()]
    assert {row["link_kind"] for row in rows} == {"infiniband"}
    return {(row["device"], row["port"], row["counter"]): row["value"] for row in rows}


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (
            "0x506b4b03005c2740",
            {(1, "link_downed"): 1, (1, "port_xmit_discards"): 20046, (1, "port_xmit_wait"): 41864608},
        ),
        ("0x7cfe9003003b4b96", {}),
        ("0x7cfe9003003b4bde", {}),
        ("0x7cfe9003009ce5b0", {(1, "port_xmit_wait"): 22730501, (2, "port_xmit_wait"): 36510964}),
    ],
)
def test_counters_of_ports_are_those_of_the_catalogue(data: Path, name: str, facts: dict[tuple[int, str], int]) -> None:
    """Errors are zero but for those that the catalogue names; data words are bytes."""
    path = data / "E-kernel-ib" / "perfquery" / f"{name}.out"
    reading = read(Perfquery(), memory_input(str(path), path.read_bytes()))
    found = values_of(reading)
    assert {device for device, _, _ in found} == {name}
    assert reading.facts["ports"] == (2 if name.endswith("ce5b0") else 1)
    assert {(port, counter): found[name, port, counter] for port, counter in facts} == facts
    quiet = ("symbol_error", "link_error_recovery", "port_rcv_errors", "VL15_dropped", "link_downed")
    assert all(found[key] == 0 for key in found if key[2] in quiet and (key[1], key[2]) not in facts)
    if name.endswith("ce5b0"):
        assert found[name, 1, "port_xmit_data"] == 36298026860928 * 4


def test_a_full_counter_is_known_by_the_width_of_its_attribute() -> None:
    """255 links down is a ceiling in the old attribute and a plain count in the extended one."""
    for kind, full in (("", True), ("extended ", False)):
        text = f"# Port {kind}counters: Lid 5 port 1 (CapMask: 0x5300)\nLinkDownedCounter:...............255\n"
        reading = read(Perfquery(), memory_input("out.txt", text.encode()))
        (row,) = reading.rows[0].batch.to_pylist()
        assert (row["device"], row["saturated"]) == ("lid 5", full)


def test_a_heading_alone_is_refused() -> None:
    """A cut file is no port without errors."""
    with pytest.raises(Refused, match="without a counter"):
        Perfquery().read(memory_input("x", b"# Port counters: Lid 5 port 1 (CapMask: 0x0)\n"))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "active", "gigabits", "stuck"),
    [
        ("learn_good", 8, 200, set()),
        ("learn_ib_intf_bad_rate", 8, 100, set()),
        ("learn_stuck_ib_intf", 6, 200, {"mlx5_6", "mlx5_8"}),
    ],
)
def test_snapshots_hold_the_ports_of_the_catalogue(
    data: Path, name: str, active: int, gigabits: int, stuck: set[str]
) -> None:
    """Eight ports: all up, all up at half the rate, two stuck in INIT with the link up."""
    content = gzip.decompress((data / "E-kernel-ib" / "gcm_sysfs" / f"{name}.json.gz").read_bytes())
    reading = read(InfinibandSnapshot(), memory_input(f"{name}.json", content))
    found = values_of(reading)
    assert (reading.facts["ports"], reading.facts["ports_active"]) == (8, active)
    assert reading.facts["rates_bits_per_second"] == [gigabits * 10**9]
    assert {device for (device, _, counter), value in found.items() if counter == "state" and value == 2} == stuck
    assert {value for (_, _, counter), value in found.items() if counter == "phys_state"} == {5}


def test_counters_of_a_snapshot_are_read_and_settings_are_not() -> None:
    """Counters at their ceiling are told; a port of Ethernet says so."""
    port = "/sys/class/infiniband/mlx5_0/ports/1"
    files = {
        f"{port}/link_layer": "Ethernet\n",
        f"{port}/state": "4: ACTIVE\n",
        f"{port}/counters/link_downed": "255\n",
        f"{port}/lid": "7\n",
        f"{port}/rate": 3,
    }
    reading = read(InfinibandSnapshot(), memory_input("x.json", json.dumps(files).encode()))
    rows = {row["counter"]: row for row in reading.rows[0].batch.to_pylist()}
    assert set(rows) == {"state", "link_downed"}
    assert (rows["state"]["link_kind"], rows["link_downed"]["saturated"]) == ("ethernet", True)
    with pytest.raises(Refused, match="without an InfiniBand port"):
        InfinibandSnapshot().read(memory_input("x.json", b'{"/sys/a": "b"}'))


@given(st.binary(max_size=200), st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_read_or_refused(content: bytes, text: str) -> None:
    """Never anything but Refused."""
    said = text.encode("utf-8", "surrogatepass")
    for body in (
        content,
        said,
        b"# Port counters: Lid 5 port 1 (\nLinkDownedCounter:..." + content,
        b'{"/sys/x": "y", "/sys/infiniband/m/ports/1/state": "' + said + b'"}',
        b'{"/sys/x": "y", "/sys/infiniband/m/ports/1/link_layer": "\\ud800", "/sys/infiniband/m/ports/1/state": "4: A"}',
    ):
        candidate = memory_input("x", body)
        for kind in (Perfquery(), InfinibandSnapshot()):
            kind.recognises(candidate)
            with contextlib.suppress(Refused):
                kind.read(candidate)
