"""`perfquery` of InfiniBand diagnostics: the counters of one or several ports of an adapter or a switch."""

from __future__ import annotations

import re
from typing import Final

from warpline_proto.errors import Refused
from warpline_proto.tables import LINK_COUNTERS

from ..parsers.link_counters import Row, counter_row, extended_reading, port_facts, reading
from ..source import Input, Reading, Rows

COUNTERS_MAX: Final = 100_000
"""Counters of one file; a port has two dozen."""
_PORT: Final = re.compile(r"# Port (extended )?counters: Lid (\d{1,6}) port (\d{1,3})\b.*")
_COUNTER: Final = re.compile(r"([A-Z][A-Za-z0-9]{1,40}):\.{0,60}(\d{1,20})")
_GUID: Final = re.compile(r"0x[0-9a-f]{16}")
_NAMES: Final = {
    "PortXmitData": "port_xmit_data",
    "PortRcvData": "port_rcv_data",
    "PortXmitPkts": "port_xmit_packets",
    "PortRcvPkts": "port_rcv_packets",
    "PortUnicastXmitPkts": "unicast_xmit_packets",
    "PortUnicastRcvPkts": "unicast_rcv_packets",
    "PortMulticastXmitPkts": "multicast_xmit_packets",
    "PortMulticastRcvPkts": "multicast_rcv_packets",
    "SymbolErrorCounter": "symbol_error",
    "LinkErrorRecoveryCounter": "link_error_recovery",
    "LinkDownedCounter": "link_downed",
    "PortRcvErrors": "port_rcv_errors",
    "PortRcvRemotePhysicalErrors": "port_rcv_remote_physical_errors",
    "PortRcvSwitchRelayErrors": "port_rcv_switch_relay_errors",
    "PortXmitDiscards": "port_xmit_discards",
    "PortXmitConstraintErrors": "port_xmit_constraint_errors",
    "PortRcvConstraintErrors": "port_rcv_constraint_errors",
    "LocalLinkIntegrityErrors": "local_link_integrity_errors",
    "ExcessiveBufferOverrunErrors": "excessive_buffer_overrun_errors",
    "VL15Dropped": "VL15_dropped",
    "PortXmitWait": "port_xmit_wait",
    "QP1Dropped": "qp1_dropped",
}
"""perfquery's name -> the kernel's, so that rows of either can be compared."""


class Perfquery:
    """What one call printed."""

    name = "perfquery"

    def recognises(self, candidate: Input) -> bool:
        """By the heading of a port in the first lines."""
        lines = candidate.head[:4096].decode("utf-8", "replace").splitlines()
        return any(_PORT.fullmatch(line.strip()) for line in lines)

    def read(self, candidate: Input) -> Reading:
        """Counters -> link_counters. The port is named by the file where that is a GUID, else by its local identifier."""
        named = _GUID.search(candidate.name)
        device, port, extended = "", -1, False
        rows: list[Row] = []
        dropped = 0
        for line in candidate.lines():
            if heading := _PORT.fullmatch(line.strip()):
                device, port, extended = named[0] if named else f"lid {heading[2]}", int(heading[3]), bool(heading[1])
            elif port >= 0 and (counter := _COUNTER.fullmatch(line.strip())) and counter[1] in _NAMES:
                name = _NAMES[counter[1]]
                found = extended_reading(name, counter[2]) if extended else reading(name, counter[2])
                if found is not None and len(rows) < COUNTERS_MAX:
                    rows.append(counter_row("infiniband", device, port, name, found))
                else:
                    dropped += 1
        if not rows:
            raise Refused("a heading of perfquery without a counter", "the file is cut off")
        facts = {name: value for name, value in port_facts(rows).items() if name in ("ports", "saturated_counters")}
        return Reading([Rows("link_counters", LINK_COUNTERS.from_rows(rows), dropped)], facts)
