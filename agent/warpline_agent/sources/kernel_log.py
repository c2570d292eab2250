"""The kernel log: Xid and SXid errors, GPUs off the bus, mlx5 link trouble, killed and crashed processes; live and from files.

Live it reads /dev/kmsg from the sequence number it stopped at. Where that is not allowed (dmesg_restrict without CAP_SYSLOG) it
follows the journal through `journalctl`, a child process that it never waits for.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from warpline_proto.errors import Denied, Refused, SourceError, Unsupported
from warpline_proto.tables import LOG_EVENTS

from ..child import Child
from ..parsers.kernel_events import KernelEvents, Row, fold
from ..parsers.kernel_records import ZONELESS, Record, records
from ..positions import Positions, WasPut
from ..source import Health, Input, Origin, Reading, Rows, Settlement

RECORDS_PER_ROUND_MAX: Final = 5_000
"""Records read in one round; the rest waits in the kernel."""
RECORD_BYTES_MAX: Final = 64 * 1024
STATE_BYTES_MAX: Final = 64 * 1024
"""Size of the state file beyond which it is not believed."""
EVENTS_MAX: Final = 50_000
"""Events kept of one file; further ones are dropped and counted."""
HEAD_LINES: Final = 40
"""Lines of the head by which a file is recognised."""
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
JOURNAL: Final = ("journalctl", "--dmesg", "--output=json", "--follow", "--no-tail")
DENIED_HINT: Final = (
    "kernel.dmesg_restrict is set: give the agent CAP_SYSLOG, or let it read the journal (group systemd-journal)"
)


@dataclass(frozen=True)
class KernelLogConfig:
    """Settings.

    `state_file` keeps the place at which reading stopped; without it the whole ring of the kernel is read at each start.
    `journal` allows the journal instead of `path`; `journal_command` is how it is followed.
    """

    period_seconds: float = 1.0
    path: str = "/dev/kmsg"
    state_file: str = ""
    journal: bool = True
    journal_command: tuple[str, ...] = JOURNAL

    def __post_init__(self) -> None:
        if self.period_seconds <= 0:
            raise ValueError("period_seconds must be above 0")


DEFAULTS: Final = KernelLogConfig()


class KernelLog:
    """Live; `wall_ns` and `monotonic_ns` turn the kernel's stamps into times, `boot_id` names this start of the machine."""

    name = "kernel_log"
    Config = KernelLogConfig

    def __init__(
        self,
        config: KernelLogConfig = DEFAULTS,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        boot_id: Callable[[], str] = lambda: Path(BOOT_ID).read_text().strip(),
    ) -> None:
        self.period_seconds = config.period_seconds
        self._config = config
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._boot_id = boot_id
        self._events = KernelEvents()
        self._kmsg: int | None = None
        self._journal: Child | None = None
        self._instead = ""
        self._book = Positions(config.state_file, STATE_BYTES_MAX)
        self._place: dict[str, Any] | None = None
        self._dropped = 0

    def keep_until_settled(self, was_put: WasPut) -> None:
        """Let no place hold before the rows of its records are on disk."""
        self._book.keep_until_settled(was_put)

    def so_far(self) -> Settlement:
        """Where reading stopped."""
        return self._book.so_far(self._read_to)

    def open(self) -> None:
        """Open /dev/kmsg, else follow the journal."""
        self.close()
        try:
            self._kmsg = os.open(self._config.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            self._follow(self._refusal(error))

    def read(self) -> Iterable[Rows]:
        """New events; returns at once. Denied or Unsupported when the journal has turned out not to be readable."""
        self._book.begins(self._read_to)
        heard = self._from_kmsg() if self._kmsg is not None else self._from_journal()
        rows = fold(row for record in heard for row in self._events.rows(record))
        if not rows:
            return []
        dropped, self._dropped = self._dropped, 0
        return [Rows("log_events", LOG_EVENTS.from_rows(rows), dropped)]

    def health(self) -> Iterable[Health]:
        """Whether the journal is read instead of the kernel's own ring, and a place that cannot be remembered."""
        if self._instead:
            yield Health(self._config.path, "denied", self._instead)
        if self._book.trouble is not None:
            yield Health("state_file", "denied", self._book.trouble)

    def close(self) -> None:
        """Remember where reading stopped, and give back the file or the child."""
        self._book.begins(self._read_to)
        if self._kmsg is not None:
            os.close(self._kmsg)
        if self._journal is not None:
            self._journal.close()
        self._kmsg = self._journal = None
        self._instead = ""

    def _refusal(self, error: OSError) -> SourceError:
        if isinstance(error, PermissionError):
            return Denied(f"{self._config.path} may not be read", DENIED_HINT)
        return Unsupported(f"{self._config.path} cannot be read: {error.strerror}", "in a container, pass it in")

    def _follow(self, refusal: SourceError) -> None:
        """Follow the journal from where reading stopped, or from the start of the machine."""
        if not self._config.journal:
            raise refusal
        cursor = self._read_to.get("cursor")
        place = (f"--after-cursor={cursor}",) if isinstance(cursor, str) else ()
        try:
            self._journal = Child((*self._config.journal_command, *place))
        except OSError:
            raise refusal from None
        self._instead = f"{refusal}; the journal is followed instead"

    def _from_kmsg(self) -> list[Record]:
        heard: list[Record] = []
        started_ns = self._wall_ns() - self._monotonic_ns()
        for _ in range(RECORDS_PER_ROUND_MAX):
            try:
                piece = os.read(self._kmsg or 0, RECORD_BYTES_MAX)
            except BrokenPipeError:  # overwritten before it was read; the gap in the sequence says how many
                continue
            except BlockingIOError:
                break
            if not piece:
                break
            for line in piece.decode("utf-8", "replace").splitlines():
                heard += [self._placed(record, started_ns) for record in records(line) if self._is_new(record)]
        return heard

    def _placed(self, record: Record, started_ns: int) -> Record:
        return record._replace(time_ns=None if record.boot_ns is None else started_ns + record.boot_ns)

    def _is_new(self, record: Record) -> bool:
        """Whether it comes after what was read before; counts what was overwritten in between."""
        last, sequence = self._read_to.get("sequence"), record.sequence
        if sequence is None or (isinstance(last, int) and sequence <= last):
            return False
        if isinstance(last, int):
            self._dropped += sequence - last - 1
        self._read_to["sequence"] = sequence
        return True

    def _from_journal(self) -> list[Record]:
        if self._journal is None:
            return []
        ended = self._journal.exit_code is not None
        heard = []
        for line in self._journal.lines():
            said = line.decode("utf-8", "replace")
            heard += records(said)
            self._read_to["cursor"] = _cursor(said) or self._read_to.get("cursor")
        if ended and not heard:
            complaint = self._journal.complaint or "it ended"
            raise Denied(f"neither {self._config.path} nor the journal can be read: {complaint}", DENIED_HINT)
        return heard

    @property
    def _read_to(self) -> dict[str, Any]:
        """Where reading stopped, at first as an agent before this one left it in the same start of the machine."""
        if self._place is None:
            found, boot = self._book.found(), self._boot()
            self._place = dict(found) if found.get("boot") == boot else {"boot": boot}
        return self._place

    def _boot(self) -> str:
        try:
            return self._boot_id()
        except OSError:
            return ""


class KernelLogFile:
    """Recorded: dmesg in its forms, /dev/kmsg records, the journal, syslog, and the fabric manager's log."""

    name = "kernel_log"

    def recognises(self, candidate: Input) -> bool:
        """Whether most of the first lines are records, and the kernel's own among them."""
        head = candidate.head.decode("utf-8", "replace").splitlines()[:HEAD_LINES]
        lines = [line for line in head if line.strip() and not line.startswith(" ")]
        found = [record for line in lines for record in records(line)[:1]]
        return 2 * len(found) >= len(lines) > 0 and any(record.kernel for record in found)

    def read(self, candidate: Input) -> Reading:
        """Events, folded; a log without any is read and says so in its facts."""
        events, heard, shapes, hosts = KernelEvents(), 0, Counter[str](), set[str]()
        rows: list[Row] = []
        dropped = 0
        for line in candidate.lines():
            for record in records(line):
                heard += 1
                shapes[record.shape] += 1
                if record.host and len(hosts) < 2:  # one is the node, two are no answer
                    hosts.add(record.host)
                found = events.rows(record)
                rows += found if len(rows) < EVENTS_MAX else []
                dropped += len(found) if len(rows) >= EVENTS_MAX else 0
        if not heard:
            raise Refused(
                "holds no kernel record", "expected: dmesg, /dev/kmsg, the journal, or the fabric manager's log"
            )
        result = Reading(facts=_facts(rows, heard, shapes), notes=_notes(shapes))
        if dropped:
            result.notes.append(f"{dropped} events beyond the first {EVENTS_MAX} are left out")
        if len(hosts) == 1:
            result.origin = Origin(node=next(iter(hosts)))
        if rows:
            result.rows.append(Rows("log_events", LOG_EVENTS.from_rows(fold(rows)), dropped))
        return result


def _cursor(line: str) -> str | None:
    try:
        cursor = json.loads(line).get("__CURSOR")
    except (AttributeError, ValueError):
        return None
    return cursor if isinstance(cursor, str) else None


def _facts(rows: list[Row], heard: int, shapes: Counter[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {"records": heard, "events": len(rows), "shapes": sorted(shapes)}
    for kind in ("xid", "sxid"):
        codes = Counter(row["code"] for row in rows if row["kind"] == kind)
        if codes:
            facts[kind] = {str(code): count for code, count in sorted(codes.items())}
    others = Counter(row["kind"] for row in rows if row["kind"] not in ("xid", "sxid"))
    return facts | dict(sorted(others.items()))


def _notes(shapes: Counter[str]) -> list[str]:
    notes = []
    if shapes["kmsg"] or shapes["boot"]:
        notes.append("times count from the start of the machine, which the file does not name: rows have no time")
    if shapes["syslog"]:
        notes.append("times have no year: rows have no time")
    if ZONELESS & set(shapes):
        notes.append("times have no zone and are read as UTC")
    return notes
