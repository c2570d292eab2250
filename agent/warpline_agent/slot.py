"""Slot: one source in the loop, when it is due, how it fares, and what of that is worth a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.batch import Batch

from .capturing import Asked
from .source import Delivered, Health, Settlement, Source
from .worker import Worker

BACKOFF_SECONDS_MIN: Final = 2.0
BACKOFF_SECONDS_MAX: Final = 300.0
"""A source that fails is tried again after a pause that doubles up to this."""
HANG_SECONDS_MIN: Final = 10.0
HANG_PERIODS: Final = 3.0
"""A round that takes longer than both is reported as hanging; it goes on, and the others with it."""
DEAD_FAILURES: Final = 5
"""Failures in a row after which a source is called dead; it is still tried again."""
HEALTH_SECONDS: Final = 10.0
"""A state that does not change is reported this often, with what was read and lost since."""
PART_HEALTH_SECONDS: Final = 60.0
"""The same for the parts of a source."""


@dataclass(frozen=True)
class Round:
    """What one round of a source gave. `state` is fresh, or says what it could not do; `failed` for an error nobody foresaw.

    `delivered` is what a closer look gave of the time range it was asked for; `so_far` is to be told when all that was given is
    on disk.
    """

    state: str
    reason: str
    batches: Sequence[Batch]
    parts: Sequence[Health]
    opened: bool
    duration_ns: int
    failed: bool = False
    delivered: Delivered | None = None
    so_far: Settlement | None = None


class Slot:
    """Times are seconds of the loop's monotonic clock. `asked` is the closer look that the source is at, None in a round."""

    def __init__(self, name: str, source: Source, worker: Worker[Round], due: float) -> None:
        self.name = name
        self.source = source
        self.worker = worker
        self.due = due
        self.opened = False
        self.asked: Asked | None = None
        self._started: float | None = None
        self._failures = 0
        self._state = ""
        self._reason = ""
        self._rows = self._dropped = self._longest_ns = 0
        self._reported = 0.0
        self._parts: dict[str, tuple[Health, float]] = {}

    @property
    def refusal(self) -> str | None:
        """Why the source cannot work, as far as it was tried and cannot."""
        return None if self._state in ("", "fresh") else f"{self._state}: {self._reason}"

    def start(self, now: float) -> None:
        """A round begins."""
        self._started = now

    def pass_over(self) -> None:
        """The round that is due is left out."""
        self.due += self.source.period_seconds

    def finish(self, result: Round, now: float) -> Iterator[Mapping[str, Any]]:
        """A round ended: when the next is due, and rows of source_health without place and time."""
        self._started = None
        self.opened = result.opened
        self._rows += sum(batch.rows.num_rows for batch in result.batches)
        self._dropped += sum(batch.dropped for batch in result.batches)
        self._longest_ns = max(self._longest_ns, result.duration_ns)
        state = self._schedule(result, now)
        yield from self._report(state, result.reason, now)
        if state == "fresh":
            yield from self._report_parts(result.parts, now)

    def hanging(self, now: float) -> Iterator[Mapping[str, Any]]:
        """A row once a round has taken too long."""
        bound = max(HANG_SECONDS_MIN, HANG_PERIODS * self.source.period_seconds)
        if self._started is not None and now - self._started > bound:
            self._longest_ns = int((now - self._started) * 1e9)
            yield from self._report("stale", f"hangs: no answer within {bound:g} s", now)

    def _schedule(self, result: Round, now: float) -> str:
        if result.state == "fresh":
            self._failures = 0
            missed = max((now - self.due) // self.source.period_seconds, 0.0)
            self.due += (missed + 1.0) * self.source.period_seconds
            return "fresh"
        self._failures += 1
        self.due = now + min(BACKOFF_SECONDS_MIN * 2.0 ** min(self._failures - 1, 16), BACKOFF_SECONDS_MAX)
        return "dead" if result.failed and self._failures >= DEAD_FAILURES else result.state

    def _report(self, state: str, reason: str, now: float) -> Iterator[Mapping[str, Any]]:
        same = (state, reason) == (self._state, self._reason)
        if same and now - self._reported < HEALTH_SECONDS:
            return
        yield {
            "subject": self.name,
            "state": state,
            "reason": reason or None,
            "rows": self._rows,
            "dropped": self._dropped,
            "duration_ns": self._longest_ns,
        }
        self._state, self._reason, self._reported = state, reason, now
        self._rows = self._dropped = self._longest_ns = 0

    def _report_parts(self, parts: Sequence[Health], now: float) -> Iterator[Mapping[str, Any]]:
        """Parts that are new, changed or due again; a part no longer told of is fresh again."""
        told = {part.subject: part for part in parts}
        for subject in [each for each in self._parts if each not in told]:
            del self._parts[subject]
            yield {"subject": subject, "state": "fresh"}
        for subject, part in told.items():
            known = self._parts.get(subject)
            if known is None or known[0] != part or now - known[1] >= PART_HEALTH_SECONDS:
                self._parts[subject] = (part, now)
                yield part._asdict()
