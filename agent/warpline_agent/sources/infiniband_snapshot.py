"""Recorded sysfs as one JSON object, path to text: the InfiniBand ports in it, as health checks save them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from warpline_proto.errors import Refused
from warpline_proto.tables import LINK_COUNTERS

from ..parsers import values
from ..parsers.link_counters import Row, counter_row, port_facts, reading
from ..source import Input, Reading, Rows

SNAPSHOT_BYTES_MAX: Final = 64 * 1024 * 1024
COUNTERS_MAX: Final = 100_000
"""Counters of all ports together; a node has a few thousand."""
_RECOGNISED: Final = re.compile(rb'\A\s*+\{\s*+"/sys/[^"\n]{1,200}"\s*+:\s*+"')
_PORT_FILE: Final = re.compile(
    r".{0,200}/infiniband/(?P<device>[^/]{1,64})/ports/(?P<port>\d{1,3})/"
    r"(?:(?:hw_)?counters/)?(?P<name>[^/]{1,64})"
)


class InfinibandSnapshot:
    """One node's sysfs in one file."""

    name = "infiniband_snapshot"

    def recognises(self, candidate: Input) -> bool:
        """An object whose first member is a path below /sys and its text."""
        return _RECOGNISED.match(candidate.head) is not None

    def read(self, candidate: Input) -> Reading:
        """Every port -> link_counters; a snapshot has no time, so rows have none."""
        document = values.json_value(candidate.read_bytes(SNAPSHOT_BYTES_MAX))
        told = ((values.text(path), values.text(said)) for path, said in values.mapping(document).items())
        files = {path: said for path, said in told if path and said}
        rows = _rows(files)
        if not rows:
            raise Refused("a snapshot of sysfs without an InfiniBand port")
        kept = rows[:COUNTERS_MAX]
        return Reading([Rows("link_counters", LINK_COUNTERS.from_rows(kept), len(rows) - len(kept))], port_facts(kept))


def _rows(files: Mapping[str, str]) -> list[Row]:
    ports = [(match, said) for path, said in files.items() if (match := _PORT_FILE.fullmatch(path))]
    layers = {
        (match["device"], match["port"]): said.strip().lower() for match, said in ports if match["name"] == "link_layer"
    }
    rows = []
    for match, said in ports:
        if not _measured(match["name"], match[0]):
            continue
        device, port, name = match["device"], match["port"], match["name"]
        found = reading(name, said)
        kind = layers.get((device, port), "infiniband")
        if found is not None:
            rows.append(counter_row(kind, device, int(port), name, found))
    return rows


def _measured(name: str, path: str) -> bool:
    """Counters, and the three readings; other files of a port are settings."""
    return "counters/" in path or name in ("state", "phys_state", "rate")
