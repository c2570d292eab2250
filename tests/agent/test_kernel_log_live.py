"""The kernel log live: from a pipe that stands for /dev/kmsg, from a journal, and over restarts."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from warpline_agent.sources.kernel_log import KernelLog, KernelLogConfig
from warpline_proto.errors import Denied, Unsupported

PATIENCE_SECONDS = 60.0


class Ring:
    """A pipe in the place of /dev/kmsg."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "kmsg"
        os.mkfifo(self.path)
        self._keep = os.open(self.path, os.O_RDWR)

    def write(self, sequence: int, text: str, microseconds: int = 5_000_000) -> None:
        os.write(self._keep, f"4,{sequence},{microseconds},-;{text}\n SUBSYSTEM=pci\n".encode())

    def close(self) -> None:
        os.close(self._keep)


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    made = Ring(tmp_path)
    yield made
    made.close()


def live(ring: Ring, **settings: Any) -> KernelLog:
    source = KernelLog(
        KernelLogConfig(path=str(ring.path), **settings),
        wall_ns=lambda: 1_000_000_000_000,
        monotonic_ns=lambda: 10_000_000_000,
        boot_id=lambda: "boot-1",
    )
    source.open()
    return source


def read(source: KernelLog) -> list[dict[str, Any]]:
    return [row for rows in source.read() for row in rows.batch.to_pylist()]


XID_79 = "NVRM: Xid (PCI:0000:05:00): 79, pid=1, GPU has fallen off the bus."


def test_live_records_have_the_time_at_which_they_were_written(ring: Ring) -> None:
    source = live(ring)
    assert read(source) == []
    ring.write(1, "usb 1-1: new device")
    ring.write(2, XID_79)
    (row,) = read(source)
    assert (row["code"], row["time_ns"]) == (79, 1_000_000_000_000 - 10_000_000_000 + 5_000_000_000)
    assert read(source) == []
    source.close()
    source.close()


def test_a_restarted_agent_goes_on_where_it_stopped(ring: Ring, tmp_path: Path) -> None:
    state = str(tmp_path / "state.json")
    source = live(ring, state_file=state)
    ring.write(1, XID_79)
    assert len(read(source)) == 1
    source.close()
    source = live(ring, state_file=state)
    ring.write(1, XID_79)
    ring.write(2, XID_79.replace("05", "06"))
    assert [row["bus_id"] for row in read(source)] == ["0000:06:00.0"]
    source.close()


@pytest.mark.parametrize("text", ["", "junk", "[]", '{"boot": "boot-0", "sequence": 5}', '{"sequence": "x"}'])
def test_a_state_that_says_nothing_of_this_start_is_passed_over(ring: Ring, tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    source = live(ring, state_file=str(tmp_path / "state.json"))
    ring.write(1, XID_79)
    assert len(read(source)) == 1
    source.close()


def test_records_that_were_overwritten_are_counted(ring: Ring) -> None:
    source = live(ring)
    ring.write(1, "first")
    read(source)
    ring.write(11, XID_79)
    (rows,) = source.read()
    assert rows.dropped == 9
    source.close()


def test_the_kernel_log_of_this_machine_can_be_read_or_says_why() -> None:
    source = KernelLog(KernelLogConfig(journal=False))
    try:
        source.open()
    except (Denied, Unsupported) as refusal:
        assert "/dev/kmsg" in refusal.message and refusal.hint
    else:
        source.read()
    source.close()


def test_without_kmsg_and_journal_the_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="cannot be read"):
        KernelLog(KernelLogConfig(path=str(tmp_path / "none"), journal=False)).open()
    nothing = KernelLogConfig(path=str(tmp_path / "none"), journal_command=(str(tmp_path / "no-journalctl"),))
    with pytest.raises(Unsupported, match="cannot be read"):
        KernelLog(nothing).open()


def test_a_ring_that_may_not_be_read_explains_what_would_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("warpline_agent.sources.kernel_log.os.open", refuse)
    with pytest.raises(Denied, match="CAP_SYSLOG"):
        KernelLog(KernelLogConfig(path=str(tmp_path / "kmsg"), journal=False)).open()


def journal(tmp_path: Path, program: str) -> KernelLog:
    command = (sys.executable, "-c", program)
    config = KernelLogConfig(path=str(tmp_path / "none"), journal_command=command, state_file=str(tmp_path / "state"))
    source = KernelLog(config, boot_id=lambda: "boot-1")
    source.open()
    return source


def until(source: KernelLog, reached: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    end = time.monotonic() + PATIENCE_SECONDS
    while not reached(rows):
        assert time.monotonic() < end
        threading.Event().wait(0.02)
        rows += read(source)
    return rows


def test_the_journal_is_followed_where_kmsg_is_not_to_be_had(tmp_path: Path) -> None:
    entry = {"MESSAGE": XID_79, "__REALTIME_TIMESTAMP": "1740327858000000", "__CURSOR": "s=1", "_TRANSPORT": "kernel"}
    program = f"import sys; print({json.dumps(json.dumps(entry))}, flush=True); sys.stdin.read()"
    source = journal(tmp_path, program)
    (row,) = until(source, lambda rows: bool(rows))
    assert (row["code"], row["time_ns"]) == (79, 1_740_327_858 * 10**9)
    (told,) = source.health()
    assert told.state == "denied" and "journal" in told.reason
    source.close()
    assert json.loads((tmp_path / "state").read_text())["positions"]["cursor"] == "s=1"


def test_a_journal_that_may_not_be_read_says_what_it_said(tmp_path: Path) -> None:
    source = journal(tmp_path, "import sys; sys.exit('No journal files were opened due to insufficient permissions.')")
    with pytest.raises(Denied, match="insufficient permissions"):
        until(source, lambda rows: False)
    source.close()
