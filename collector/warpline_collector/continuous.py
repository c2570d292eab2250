"""The analysis that never stops: one pass after another over the store, findings with a life, and what could not be told."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import pyarrow as pa

from warpline_analysis.detector import Detector
from warpline_analysis.grouping import group
from warpline_analysis.runner import ask
from warpline_proto.batch import Batch
from warpline_proto.errors import QueryError, StoreError, WarplineError
from warpline_proto.finding import ENDED, OPEN, Check, FindingState, Report, Verdict, from_json, to_rows
from warpline_proto.tables import FINDINGS, SOURCE_HEALTH

from . import incidents
from .analyst import Analyst
from .closer_look import CloserLook
from .passes import Passes
from .pulse import Pulse
from .reader import CatalogReader
from .store import Store

SOURCE: Final = "analysis"
PASS: Final = "pass"
"""Subject of the row of source_health that each pass writes."""
READER_MEMORY: Final = "256MB"
"""For the engine that is asked who still sends and where to look closer; the detectors' process has its own."""
LONG_PASS_SECONDS: Final = 2.0
REST_LONG: Final = 4.0
"""After a pass that took longer than that, the analysis rests so many times as long: cores are wanted for taking frames in."""
CHECKS_REFRESH_NS: Final = 60 * 10**9
"""Answers that did not change are written anew at most so often."""
_NEWEST: Final = """
SELECT document, state, opened_ns, updated_ns, detector, alarms FROM findings
QUALIFY row_number() OVER (PARTITION BY id ORDER BY updated_ns DESC) = 1
"""
_LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Config:
    """Settings of the analysis: seconds from the end of one pass to the start of the next, where passes are shorter."""

    period_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.period_seconds <= 0:
            raise ValueError("period_seconds is more than 0")

    def rest_seconds(self, pass_seconds: float) -> float:
        """How long to rest after a pass: long ones take at most a fifth of one core's time, however many ranks there are."""
        times = REST_LONG if pass_seconds > LONG_PASS_SECONDS else 1.0
        return max(self.period_seconds, times * pass_seconds)


@dataclass(frozen=True)
class Pass:
    """One pass: when it ended, how long it took, why it failed ("" if it did not), open findings by kind and severity.

    `rest_seconds`: how long the analysis rests after it.
    """

    ended_ns: int
    seconds: float
    failed: str
    open: Mapping[tuple[str, str], int]
    rest_seconds: float = 0.0


class _Stopped(BaseException):
    """The collector stops in the middle of a pass. No Exception: no failure of a detector is to be made of it."""


class _Stoppable:
    """A Reader whose questions end the pass once `stop` is set, those that run and those that follow."""

    def __init__(self, reader: CatalogReader, stop: threading.Event) -> None:
        self._reader = reader
        self._stop = stop

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        return self.unless_stopped(lambda: self._reader.query(sql, parameters))

    def by_part(self, table: str, sql: str, skipped: Container[str] = ()) -> Mapping[str, pa.Table]:
        return self.unless_stopped(lambda: self._reader.by_part(table, sql, skipped))

    def unless_stopped(self, ask: Callable[[], Answer]) -> Answer:
        """What `ask` answers, unless no answer is wanted any more."""
        if self._stop.is_set():
            raise _Stopped
        try:
            return ask()
        except (QueryError, StoreError):
            if self._stop.is_set():
                raise _Stopped from None
            raise


class Continuous:
    """`start` and `close`, or `one_pass` by itself. `clock` gives nanoseconds since the epoch."""

    def __init__(
        self,
        store: Store,
        reader: CatalogReader,
        config: Config = Config(),
        clock: Callable[[], int] = time.time_ns,
        detectors: Mapping[str, Detector] | None = None,
        closer: CloserLook | None = None,
    ) -> None:
        """Without `closer` no closer look is asked for. `detectors` are asked within this process, instead of all in another."""
        self._store = store
        self._closer = closer
        self._clock = clock
        self._detectors = detectors
        self._analyst = Analyst(reader.directory)
        self._known = incidents.restored(_states(store.query(_NEWEST).to_pylist()))
        self._pulse = Pulse(
            each.written.finding.subject for each in self._known.values() if each.written.state == ENDED
        )
        self._checks: dict[str, tuple[str, int]] = {}
        self.newest: Pass | None = None
        """The newest pass, for any thread to read."""
        self.failures = 0
        self._config = config
        self._passes = Passes("analysis", self._turn, self._interrupt, config.rest_seconds)
        self._interrupts = (reader.interrupt, self._analyst.interrupt)
        self._reader = _Stoppable(reader, self._passes.stop)

    def start(self) -> None:
        """Begin with the passes, in a thread of their own."""
        self._passes.start()

    def close(self) -> None:
        """Stop the pass that runs, and let the thread end."""
        self._passes.close()
        self._analyst.close()

    @property
    def known(self) -> incidents.Incidents:
        """The incidents as the newest pass left them in the store; replaced as a whole, for any thread to read."""
        return self._known

    def one_pass(self) -> Report:
        """Ask every detector, and make what changed durable."""
        started_ns = self._clock()
        asked = self._asked()
        reports = group(asked)
        now_ns = self._clock()
        report = sum(reports.values(), Report())
        self._pulse.listen(self._reader, (each.written.finding.subject for each in self._known.values()), now_ns)
        following, states = incidents.after(
            self._known, reports, now_ns, lambda finding: self._pulse.silence_ns(finding.subject, now_ns), asked
        )
        health = [_health(PASS, "fresh", "", now_ns, now_ns - started_ns), *self._answers(report.checks, now_ns)]
        batches = [Batch(SOURCE_HEALTH.name, SOURCE, SOURCE_HEALTH.from_rows(health))]
        if states:
            batches.append(Batch(FINDINGS.name, SOURCE, to_rows(states)))
        if self._closer is not None:
            batches += self._closer.turn(self._reader, report, partial(_opened, following), now_ns)
        self._store.write(batches)
        self._known = following
        took = (now_ns - started_ns) / 1e9
        self.newest = Pass(now_ns, took, "", _open_by_kind(following), self._config.rest_seconds(took))
        return report

    def _asked(self) -> Mapping[str, Report]:
        """What each detector says by itself."""
        if self._detectors is not None:
            return ask(self._reader, self._detectors)
        return self._reader.unless_stopped(self._analyst.reports)

    def _interrupt(self) -> None:
        for end in self._interrupts:
            end()

    def _turn(self) -> None:
        try:
            self.one_pass()
        except _Stopped:
            return
        except Exception as error:  # one broken detector must not end the analysis of everything else for ever
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if self._passes.stop.is_set():
            return
        self.failures += 1
        took = self.newest.seconds if self.newest else 0.0
        rest_seconds = self._config.rest_seconds(took)
        self.newest = Pass(self._clock(), took, str(error), _open_by_kind(self._known), rest_seconds)
        _LOG.error("the analysis pass failed: %s", error, exc_info=None if isinstance(error, WarplineError) else error)
        row = _health(PASS, "dead", f"{type(error).__name__}: {error}"[:1_000], self._clock())
        try:
            self._store.write([Batch(SOURCE_HEALTH.name, SOURCE, SOURCE_HEALTH.from_rows([row]))])
        except WarplineError as second:
            _LOG.error("%s", second)

    def _answers(self, checks: Sequence[Check], now_ns: int) -> list[Mapping[str, Any]]:
        """Questions asked without accusing anyone, where the answer is new or was not written for a while."""
        rows = []
        for check in checks:
            subject = check.detector if check.job is None else f"{check.detector} of job {check.job}"
            state = "fresh" if check.verdict == Verdict.HEALTHY else "unsupported"
            missing = ", ".join(each for each in check.missing if each not in check.detail)
            reason = "; missing: ".join(filter(None, (check.detail, missing)))
            before, written_ns = self._checks.get(subject, ("", 0))
            if before != state or now_ns - written_ns >= CHECKS_REFRESH_NS:
                self._checks[subject] = (state, now_ns)
                rows.append(_health(subject, state, reason, now_ns))
        return rows


def _opened(known: incidents.Incidents, name: str) -> int | None:
    """Since when a finding is open."""
    incident = known.get(name)
    return None if incident is None or incident.written.state != OPEN else incident.written.opened_ns


def _open_by_kind(known: incidents.Incidents) -> Mapping[tuple[str, str], int]:
    findings = (each.written.finding for each in known.values() if each.written.state == OPEN)
    return Counter((str(finding.kind), str(finding.severity)) for finding in findings)


def _health(subject: str, state: str, reason: str, now_ns: int, duration_ns: int | None = None) -> Mapping[str, Any]:
    return {
        "source": SOURCE,
        "time_ns": now_ns,
        "subject": subject,
        "state": state,
        "reason": reason,
        "duration_ns": duration_ns,
    }


def _states(rows: Sequence[Mapping[str, Any]]) -> list[FindingState]:
    """Stored states as objects; a document that this version cannot read is told and left out."""
    states = []
    for row in rows:
        try:
            finding = from_json(json.loads(row["document"]))
        except (KeyError, TypeError, ValueError) as error:
            _LOG.warning("a stored finding cannot be read and will be opened anew: %s", error)
            continue
        life = (row["state"], row["opened_ns"], row["updated_ns"], row["detector"], row["alarms"])
        states.append(FindingState(finding, *life))
    return states
