"""InfiniBand, RoCE and Ethernet ports: counters, state and rate from sysfs, of this machine or of a recorded tree.

On a restricted function each read of a counter leaves an ACCESS_REG failure in the kernel log (node_exporter#3434), so a
port is given up at its first error and told in health.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warpline_proto.errors import Refused, Unsupported
from warpline_proto.tables import LINK_COUNTERS

from ..parsers.link_counters import Row, card_reading, counter_row, port_facts, reading
from ..source import Health, Reading, Rows, Tree

CARD_FILES: Final = {"operstate": "state", "speed": "rate", "carrier_changes": "carrier_changes"}
"""Files of a network card beside its statistics, and what they are called as counters."""
RESCAN_SECONDS: Final = 60.0
"""Ports that appear later are found this often."""
PORTS_MAX: Final = 512
COUNTERS_MAX: Final = 256
"""Ports of a machine, and counters of a port, beyond which no more are read; there are never so many."""
FILE_BYTES_MAX: Final = 4096
FOLDERS: Final = ("counters", "hw_counters")
_PORT: Final = re.compile(r"(?:(?P<top>.*)/)?(?P<device>[^/]+)/ports/(?P<port>\d{1,3})/(?:state|rate|counters/[^/]+)")


@dataclass(frozen=True)
class InfinibandConfig:
    """Settings. `sys` is where the sys file system is mounted; another one when the agent runs in a container."""

    period_seconds: float = 5.0
    sys: str = "/sys"

    def __post_init__(self) -> None:
        if self.period_seconds <= 0:
            raise ValueError("period_seconds must be above 0")


DEFAULTS: Final = InfinibandConfig()


@dataclass(frozen=True)
class Port:
    """One port: `folder` holds its files; a network card has none of the subfolders of a fabric port."""

    device: str
    number: int | None
    folder: Path
    card: bool = False

    @property
    def subject(self) -> str:
        """What health calls it."""
        return self.device if self.number is None else f"{self.device}/{self.number}"


class Infiniband:
    """Live ports below `sys`."""

    name = "infiniband"
    Config = InfinibandConfig

    def __init__(
        self,
        config: InfinibandConfig = DEFAULTS,
        clock: Callable[[], float] = time.monotonic,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.period_seconds = config.period_seconds
        self._root = Path(config.sys)
        self._clock = clock
        self._clock_ns = clock_ns
        self._ports: dict[str, Port] = {}
        self._given_up: dict[str, Health] = {}
        self._scan_at = 0.0

    def open(self) -> None:
        """Find the ports."""
        self._scan()
        if not self._ports:
            raise Unsupported(
                f"there is no network port below {self._root}/class", "set `sys` to where sysfs is mounted"
            )

    def read(self) -> Iterable[Rows]:
        """All counters of all ports that are not given up."""
        if self._clock() >= self._scan_at:
            self._scan()
        rows: list[Row] = []
        for subject, port in self._ports.items():
            if subject not in self._given_up:
                rows += self._read_port(port)
        return [Rows("link_counters", LINK_COUNTERS.from_rows(rows))] if rows else []

    def health(self) -> Iterable[Health]:
        """Ports that are given up."""
        return tuple(self._given_up.values())

    def close(self) -> None:
        """Forget the ports."""
        self._ports, self._given_up = {}, {}

    def _read_port(self, port: Port) -> list[Row]:
        time_ns = self._clock_ns()
        try:
            return [{**row, "time_ns": time_ns} for row in port_rows(port)]
        except OSError as error:
            state = "denied" if isinstance(error, PermissionError) else "dead"
            reason = f"not read any more after an error, since each try would leave a line in the kernel log: {error}"
            self._given_up[port.subject] = Health(port.subject, state, reason)
            return []

    def _scan(self) -> None:
        """Ports of now; one that has gone and come back gets another chance."""
        self._scan_at = self._clock() + RESCAN_SECONDS
        found = [*fabric_ports(self._root / "class" / "infiniband"), *cards(self._root / "class" / "net")][:PORTS_MAX]
        self._ports = {port.subject: port for port in found}
        self._given_up = {subject: told for subject, told in self._given_up.items() if subject in self._ports}


class InfinibandTree:
    """A recorded copy of /sys/class/infiniband."""

    name = "infiniband"

    def recognises_tree(self, candidate: Tree) -> bool:
        """Whether it holds the adapters of one node and nothing else."""
        found = [match for name in candidate.names if (match := _PORT.fullmatch(name))]
        adapters = {f"{match['top']}/{match['device']}" if match["top"] else match["device"] for match in found}
        alone = len({match["top"] for match in found}) == 1
        return alone and all(_below(name, adapters) for name in candidate.names)

    def read_tree(self, candidate: Tree) -> Reading:
        """Every port below the root; a recorded tree has no time, so rows have none."""
        ports = [port for top in _tops(candidate) for port in fabric_ports(candidate.root / top)][:PORTS_MAX]
        result = Reading()
        rows: list[Row] = []
        for port in ports:
            try:
                rows += port_rows(port)
            except OSError as error:
                result.notes.append(f"port {port.subject} is left out: {error.strerror or error}")
        if not rows:
            raise Refused("holds no readable InfiniBand port", "a copy of /sys/class/infiniband is expected")
        result.rows.append(Rows("link_counters", LINK_COUNTERS.from_rows(rows)))
        result.facts.update(port_facts(rows))
        return result


def _below(name: str, folders: set[str]) -> bool:
    return any(name.startswith(folder + "/") for folder in folders)


def _tops(candidate: Tree) -> list[str]:
    """Folders below the root, never outside of it, that hold adapters."""
    found = {match["top"] or "" for name in candidate.names if (match := _PORT.fullmatch(name))}
    return sorted(top for top in found if not top.startswith("/") and ".." not in top.split("/"))


def fabric_ports(folder: Path) -> Iterator[Port]:
    """Ports of the adapters below a copy of /sys/class/infiniband, in name order."""
    for path in sorted(folder.glob("*/ports/*")):
        if path.name.isdigit():
            yield Port(path.parent.parent.name, int(path.name), path)


def cards(folder: Path) -> Iterator[Port]:
    """Network cards below a copy of /sys/class/net, loopback left out, in name order."""
    for path in sorted(folder.glob("*/statistics")):
        if path.parent.name != "lo":
            yield Port(path.parent.name, None, path.parent, card=True)


def port_rows(port: Port) -> list[Row]:
    """Rows of one port without time; OSError at the first file that cannot be read."""
    if port.card:
        return _card_rows(port)
    layer = _text(port.folder / "link_layer").strip().lower() if (port.folder / "link_layer").exists() else "infiniband"
    rows = []
    for path in _port_files(port.folder):
        found = reading(path.name, _text(path))
        if found:
            rows.append(counter_row(layer, port.device, port.number, path.name, found))
    return rows


def _card_rows(port: Port) -> list[Row]:
    rows = []
    for path in sorted((port.folder / "statistics").iterdir())[:COUNTERS_MAX]:
        found = card_reading(path.name, _text(path))
        if found:
            rows.append(counter_row("ethernet", port.device, port.number, path.name, found))
    for name, counter in CARD_FILES.items():
        try:
            found = card_reading(name, _text(port.folder / name))
        except OSError:  # the kernel answers so for a card that is down
            continue
        if found:
            rows.append(counter_row("ethernet", port.device, port.number, counter, found))
    return rows


def _port_files(folder: Path) -> list[Path]:
    files = [folder / name for name in ("state", "phys_state", "rate") if (folder / name).exists()]
    for name in FOLDERS:
        if (folder / name).is_dir():
            files += sorted((folder / name).iterdir())[:COUNTERS_MAX]
    return files


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(FILE_BYTES_MAX).decode("utf-8", "replace")
