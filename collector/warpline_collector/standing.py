"""Judges agents: late, dropping, skewed, over budget; and keeps what was judged as rows of table agents."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.batch import Batch
from warpline_proto.errors import WarplineError
from warpline_proto.tables import AGENTS, INVENTORY

from .fleet import FORGET_NS, Fleet, Seen
from .inventory import REMEMBERED as PLACES
from .passes import Passes
from .steady import passed
from .store import Store

LATE: Final = "late"
DROPPING: Final = "dropping"
SKEWED: Final = "skewed"
OVER_BUDGET: Final = "over_budget"
REFUSED: Final = "refused"
REDUCED: Final = "reduced"
TROUBLES: Final = (LATE, DROPPING, SKEWED, OVER_BUDGET, REFUSED, REDUCED)
BACKLOG_BYTES: Final = 1024 * 1024
"""Where more waits in an agent's spool its frames are old because they waited, whatever its clock says."""
NUMBER_MAX: Final = 2**62
TEXT_CHARS_MAX: Final = 1_000
LEVEL_MAX: Final = 3
"""The level of an agent that tells nothing but what a diagnosis cannot do without."""
LOOK_SECONDS: Final = 5.0
KEEP_NS: Final = 60 * 10**9
"""What does not change is written so often."""
SOURCE: Final = "collector"
_REMEMBERED: Final = (
    "SELECT agent, boot, node, cluster, version, heard_ns, lost FROM agents WHERE time_ns > ? AND agent IS NOT NULL AND "
    "boot IS NOT NULL AND heard_ns IS NOT NULL AND lost IS NOT NULL "
    "QUALIFY row_number() OVER (PARTITION BY agent ORDER BY time_ns DESC) = 1"
)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """From when on something is wrong with an agent.

    Silence for `late_seconds`; rows or frames lost within the last `dropping_seconds`; a clock that is `skew_seconds` away from
    the collector's, or that jumped within the last `jump_seconds`; more than `cpu_percent_max` of one core or `rss_bytes_max` of
    memory, children included.
    """

    late_seconds: float = 30.0
    dropping_seconds: float = 600.0
    skew_seconds: float = 1.0
    jump_seconds: float = 600.0
    cpu_percent_max: float = 25.0
    rss_bytes_max: int = 384 * 1024 * 1024

    def __post_init__(self) -> None:
        bounds = ("late_seconds", "dropping_seconds", "skew_seconds", "jump_seconds", "cpu_percent_max")
        if min(getattr(self, name) for name in bounds) <= 0:
            raise ValueError(f"{', '.join(bounds[:-1])} and {bounds[-1]} are more than 0")
        if self.rss_bytes_max < 1:
            raise ValueError("rss_bytes_max is at least 1")


@dataclass(frozen=True)
class Standing:
    """One agent with what is wrong with it: names of TROUBLES -> a sentence each."""

    seen: Seen
    troubles: dict[str, str]

    def row(self, now_ns: int) -> dict[str, Any]:
        """As a row of table agents."""
        names = {column.name for column in AGENTS.columns}
        return {name: _kept(value) for name, value in vars(self.seen).items() if name in names} | {
            "node": self.seen.node or self.seen.agent,
            "source": SOURCE,
            "time_ns": now_ns,
            "clock_offset_ns": _kept(self.seen.clock_offset_ns),
            "clock_error_ns": _kept(self.seen.clock_error_ns),
            "troubles": list(self.troubles),
            "detail": "; ".join(self.troubles.values()),
        }


def _kept(value: Any) -> Any:
    """What an agent says of itself may be anything; one that cannot be written would keep all others from being written."""
    if isinstance(value, int):
        return max(-NUMBER_MAX, min(value, NUMBER_MAX))
    return value[:TEXT_CHARS_MAX] if isinstance(value, str) else value


def judge(seen: Seen, config: Config, now_ns: int) -> Standing:
    """What is wrong with one agent now."""
    return Standing(seen, dict(_troubles(seen, config, now_ns)))


class Keeper:
    """Judges the whole fleet again and again in a thread of its own: `start`, `close`, or `keep` by itself."""

    def __init__(self, fleet: Fleet, store: Store, config: Config, clock: Callable[[], int] = time.time_ns) -> None:
        self._fleet = fleet
        self._store = store
        self._config = config
        self._clock = clock
        self._written: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._passes = Passes("fleet", self._turn, lambda: None, lambda took: LOOK_SECONDS)
        fleet.remember(store.query(_REMEMBERED, [clock() - FORGET_NS]).to_pylist(), clock())
        fleet.inventory.remember(store.query(PLACES).to_pylist())

    def start(self) -> None:
        """Begin to look."""
        self._passes.start()

    def close(self) -> None:
        """Let the thread end."""
        self._passes.close()

    def standings(self) -> Sequence[Standing]:
        """All agents as they stand now."""
        now_ns = self._clock()
        return [judge(seen, self._config, now_ns) for seen in self._fleet.seen(now_ns)]

    def keep(self) -> int:
        """Write what is new or due; how many agents that were. StoreError if the store refuses."""
        self._keep_inventory()
        now_ns = self._clock()
        standings = self.standings()
        due = [each for each in standings if self._due(each, now_ns)]
        if due:
            rows = AGENTS.from_rows([each.row(now_ns) for each in due])
            self._store.write([Batch(AGENTS.name, SOURCE, rows)])
        self._written = {each.seen.agent: self._written.get(each.seen.agent, (0, ())) for each in standings} | {
            each.seen.agent: (now_ns, tuple(each.troubles)) for each in due
        }
        return len(due)

    def _keep_inventory(self) -> None:
        rows = self._fleet.inventory.take()
        if not rows:
            return
        try:
            self._store.write([Batch(INVENTORY.name, SOURCE, INVENTORY.from_rows(rows))])
        except WarplineError:
            self._fleet.inventory.give_back(rows)
            raise

    def _due(self, standing: Standing, now_ns: int) -> bool:
        written_ns, troubles = self._written.get(standing.seen.agent, (0, ()))
        return tuple(standing.troubles) != troubles or passed(written_ns, now_ns, KEEP_NS)

    def _turn(self) -> None:
        try:
            self.keep()
        except WarplineError as error:
            _LOG.error("how agents stand could not be kept, and is tried again: %s", error)


def _troubles(seen: Seen, config: Config, now_ns: int) -> Iterator[tuple[str, str]]:
    if (now_ns - max(seen.heard_ns, seen.awaited_ns)) / 1e9 > config.late_seconds:
        yield LATE, f"nothing came of it for {_span((now_ns - seen.heard_ns) / 1e9)}"
    if seen.loss_ns is not None and (now_ns - seen.loss_ns) / 1e9 <= config.dropping_seconds:
        lost = f"{seen.dropped} rows and {seen.lost} frames fell off there"
        yield DROPPING, f"{lost}, the last {_span((now_ns - seen.loss_ns) / 1e9)} ago"
    if seen.refused_ns is not None and (now_ns - seen.refused_ns) / 1e9 <= config.dropping_seconds:
        counted = f"{seen.refused_frames} frames and {seen.refused_rows} rows of it were not taken"
        yield REFUSED, f"{counted}, the last {_span((now_ns - seen.refused_ns) / 1e9)} ago: {seen.refusal}"
    if seen.detail_level:
        told = f"it tells less, level {seen.detail_level} of {LEVEL_MAX}, as too little of it was taken"
        yield REDUCED, f"{told}: {seen.kernels_left_out or 0} kernels left out"
    if skewed := "; ".join(_skew(seen, config, now_ns)):
        yield SKEWED, skewed
    if (seen.cpu_percent or 0.0) > config.cpu_percent_max:
        yield OVER_BUDGET, f"it uses {seen.cpu_percent:.0f} % of a core, over {config.cpu_percent_max:g} %"
    elif (seen.rss_bytes or 0) > config.rss_bytes_max:
        size, most = (value / 2**20 for value in (seen.rss_bytes or 0, config.rss_bytes_max))
        yield OVER_BUDGET, f"it uses {size:.0f} MiB of memory, over {most:.0f} MiB"


def _skew(seen: Seen, config: Config, now_ns: int) -> Iterator[str]:
    """What is wrong with its clock. Old frames are no clock that is behind."""
    offset, error = (seen.clock_offset_ns or 0) / 1e9, (seen.clock_error_ns or 0) / 1e9
    side = f"{_span(abs(offset))} {'ahead of' if offset > 0 else 'behind'} the collector's"
    if seen.measured is not None:
        if abs(offset) - error > config.skew_seconds:
            yield f"its clock is {side}, give or take {_span(error)}"
    elif abs(offset) > config.skew_seconds:
        waited = offset < 0 and (seen.waiting_bytes is None or seen.waiting_bytes > BACKLOG_BYTES)
        if not waited:
            yield f"its clock is {side}"
    if seen.jump is not None and (now_ns - seen.jump.heard_ns) / 1e9 <= config.jump_seconds:
        ago, by = _span((now_ns - seen.jump.heard_ns) / 1e9), seen.jump.jump_ns / 1e9
        yield f"its clock jumped {_span(abs(by))} {'forward' if by > 0 else 'back'} {ago} ago ({seen.jump.detail})"


def _span(seconds: float) -> str:
    """A length of time as people say it."""
    if seconds < 0.1:
        return f"{seconds * 1e3:.1f} ms"
    for size, unit in ((172_800, 86_400), (7_200, 3_600), (120, 60)):
        if seconds >= size:
            return f"{seconds / unit:.0f} {({86_400: 'days', 3_600: 'h', 60: 'min'})[unit]}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
