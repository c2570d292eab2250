"""The pool of SQL workers: pre-started processes, one query each at a time, killed past their bound and replaced.

Limits inside the engine do not hold one long scalar call (`lpad('x', 2e9, 'y')`), so the bound on time is SIGKILL from here
and the bound on memory is the process's own.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from warpline_proto.defaults import QUERY_ROWS_MAX, QUERY_SECONDS_MAX, QUERY_WAIT_SECONDS_MAX
from warpline_proto.errors import QueryError
from warpline_proto.wire import from_ipc

from .audit import DENIED, FAILED, REFUSED, Audit
from .child import Worker
from .question import BUSY, CANCELLED, DOORS, ENDED, Question, Unanswered
from .shares import Bounds, Full, Shares
from .turns import Turns

WORKERS_MAX: Final = 32
"""Each worker is a process of some hundred megabytes."""
QUESTIONS: Final = Bounds(most=64, of_one=16, kept=16, few=4)
"""Questions that wait, are answered, or whose answer is not read to its end: through all doors, each held by a thread."""
ANSWER_BYTES: Final = Bounds(most=256 * 1024**2, of_one=128 * 1024**2, kept=64 * 1024**2, few=16 * 1024**2)
"""Answers that are not read to their end, through all doors."""
KINDS: Final = ("busy", "cancelled", "denied", "memory", "refused", "statement", "time")
"""Why a question had no answer: too many of them, taken back, not for this role, more memory than it may have, does more than
read, wrong in itself, ran too long."""
_KINDS: Final = {BUSY: "busy", CANCELLED: "time", "42501": "denied", ENDED: "memory", "25006": "refused"}
_OUTCOMES: Final = {"42501": DENIED, "25006": REFUSED}
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Settings of the SQL workers: how many processes, and the bounds of each question."""

    workers: int = 2
    rows_max: int = QUERY_ROWS_MAX
    seconds_max: float = QUERY_SECONDS_MAX
    memory_bytes: int = 2 * 1024**3

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= WORKERS_MAX:
            raise ValueError(f"workers = {self.workers} is not within 1 and {WORKERS_MAX}")
        if self.rows_max < 1 or self.seconds_max <= 0:
            raise ValueError("rows_max is at least 1, seconds_max is more than 0")
        if self.memory_bytes < 1024**3:
            raise ValueError("memory_bytes is at least 1073741824: a worker needs half of that to start")


@dataclass(frozen=True)
class Answer:
    """An Arrow IPC stream; `truncated` if there were more rows."""

    payload: bytes
    truncated: bool

    def rows(self) -> pa.Table:
        """The rows; `truncated` is in the schema's metadata as a QueryClient gives it."""
        rows = from_ipc(self.payload)
        return (
            rows.replace_schema_metadata({**(rows.schema.metadata or {}), "truncated": "true"})
            if self.truncated
            else rows
        )


@dataclass(frozen=True)
class Rows:
    """Rows as PostgreSQL's clients read them: each field's name, type and size, and one message a row in `payload`."""

    fields: Sequence[tuple[str, int, int]]
    payload: bytes
    rows: int
    truncated: bool


@dataclass(frozen=True)
class Described:
    """What a statement would answer: its fields as in Rows, and how many `$n` it wants."""

    fields: Sequence[tuple[str, int, int]]
    parameters: int


@dataclass
class Tally:
    """What became of the questions of one door since the start: how many, how many of them had no answer and why, how long all
    took, waiting included."""

    asked: int = 0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(KINDS, 0)))


class WorkerPool:
    """SQL of users over one store. Safe to call from several threads. A worker that ended is replaced by a new one."""

    def __init__(
        self,
        directory: Path,
        config: Config = Config(),
        audit: Audit | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._config = config
        self._audit = audit
        self.threads = ThreadPoolExecutor(QUESTIONS.most, thread_name_prefix="question")
        """Where doors wait for answers: one for each question that has its place."""
        self.unread = Shares(ANSWER_BYTES)
        """Bytes of answers that are not read to their end."""
        self._places = Shares(QUESTIONS)
        self._turns: Turns[Worker | None] = Turns(monotonic)
        self._monotonic = monotonic
        self._closed = False
        self.tallies: Mapping[str, Tally] = {door: Tally() for door in DOORS}
        self._mutex = threading.Lock()
        self._all: set[Worker] = set()
        for _ in range(config.workers):
            self._turns.add(self._started())

    @contextlib.contextmanager
    def place(self, question: Question) -> Iterator[None]:
        """A place for one question until its answer is read; QueryError where all are taken, or the caller's share of them is."""
        try:
            self._places.take(question.who)
        except Full as full:
            error = _crowded(full)
            with self._mutex:
                self.tallies[question.door].asked += 1
            self._failed(question, "", error)
            raise error from None
        try:
            yield
        finally:
            self._places.give(question.who)

    def query(
        self, sql: str, rows_max: int | None = None, seconds_max: float | None = None, question: Question | None = None
    ) -> Answer:
        """The answer to one statement; QueryError with a sentence if it was refused, failed or ran past a bound."""
        header, payload = self._asked({"sql": sql}, rows_max, seconds_max, question or Question())
        return Answer(payload, header["truncated"])

    def rows(self, sql: str, question: Question, parameters: Sequence[Any] = (), formats: Sequence[int] = ()) -> Rows:
        """The same for PostgreSQL's clients: `parameters` are each None or a kind and its text, `formats` 0 or 1 a column."""
        request = {"sql": sql, "form": "rows", "parameters": list(parameters), "formats": list(formats)}
        header, payload = self._asked(request, None, None, question)
        return Rows(
            [(name, oid, size) for name, oid, size in header["fields"]], payload, header["rows"], header["truncated"]
        )

    def copied(self, sql: str, question: Question, csv: bool, header: bool) -> Rows:
        """The rows of a COPY: lines of text with tabs, or of CSV."""
        told, payload = self._asked({"sql": sql, "form": "copy", "csv": csv, "header": header}, None, None, question)
        return Rows([(name, oid, size) for name, oid, size in told["fields"]], payload, told["rows"], told["truncated"])

    def describe(self, sql: str, question: Question) -> Described:
        """What a statement for PostgreSQL's clients would answer; nothing is counted or told to the audit."""
        header, _ = self._bounded({"sql": sql, "form": "describe"}, None, None, question)
        return Described([(name, oid, size) for name, oid, size in header["fields"]], header["parameters"])

    def _asked(
        self, request: Mapping[str, Any], rows_max: int | None, seconds_max: float | None, question: Question
    ) -> tuple[dict[str, Any], bytes]:
        """`_bounded`, counted and told to the audit."""
        tally, began = self.tallies[question.door], self._monotonic()
        try:
            answer = self._bounded(request, rows_max, seconds_max, question)
        except QueryError as error:
            self._failed(question, request["sql"], error)
            raise
        finally:
            with self._mutex:
                tally.asked += 1
                tally.seconds += self._monotonic() - began
        if self._audit is not None:
            self._audit.answered(question.caller, question.door)
        return answer

    def _failed(self, question: Question, sql: str, error: QueryError) -> None:
        """Count it by its kind, and tell the audit."""
        state = getattr(error, "sqlstate", "")
        kind = "cancelled" if question.cancelled else _KINDS.get(state, "statement")
        with self._mutex:
            self.tallies[question.door].failures[kind] += 1
        if self._audit is not None:
            self._audit.note(question.caller, question.door, "question", _OUTCOMES.get(state, FAILED), sql, str(error))

    def _bounded(
        self, request: Mapping[str, Any], rows_max: int | None, seconds_max: float | None, question: Question
    ) -> tuple[dict[str, Any], bytes]:
        rows = min(rows_max or self._config.rows_max, self._config.rows_max)
        seconds = min(seconds_max or self._config.seconds_max, self._config.seconds_max)
        if not (rows > 0 and seconds > 0):  # "not" also catches what is no number
            raise QueryError(f"{rows} rows in {seconds} s cannot be had", "ask for more than none")
        bounds = {"rows_max": rows, "seconds_max": seconds, "role": str(question.caller.role)}
        return self._answered({**request, **bounds}, seconds, question)

    @property
    def asked(self) -> int:
        """Questions since the start."""
        return sum(tally.asked for tally in self.tallies.values())

    @property
    def failed(self) -> int:
        """Those of them that had no answer."""
        return sum(tally.failures.total() for tally in self.tallies.values())

    @property
    def busy(self) -> int:
        """Workers that answer now."""
        return max(self._config.workers - self._turns.idle, 0)

    @property
    def waiting(self) -> int:
        """Questions that wait for a worker."""
        return self._turns.waiting

    @property
    def places(self) -> int:
        """Questions that have a place."""
        return self._places.total

    @property
    def workers(self) -> int:
        """Workers there are to be."""
        return self._config.workers

    def _answered(self, request: Mapping[str, Any], seconds: float, question: Question) -> tuple[dict[str, Any], bytes]:
        worker = self._free_worker(question)
        try:
            with question.ended_by(worker.interrupt):
                return worker.ask(request, seconds)
        except QueryError:
            question.insist()
            raise
        finally:
            self._turns.give(question.who, worker if worker.usable else self._replaced(worker))

    def close(self) -> None:
        """End all workers, also those that answer; safe to call twice."""
        with self._mutex:
            self._closed = True
            workers, self._all = self._all, set()
        for worker in workers:
            worker.kill()
        self.threads.shutdown(wait=False, cancel_futures=True)

    def _free_worker(self, question: Question) -> Worker:
        """The next one that is free and alive: one that was ended from outside costs no question."""
        try:
            worker = self._turns.take(question, QUERY_WAIT_SECONDS_MAX)
        except TimeoutError:
            busy = f"all {self._config.workers} SQL workers are busy"
            raise Unanswered(busy, "ask again in a moment", BUSY) from None
        if worker is None or not worker.alive:
            worker = self._replaced(worker)
        if worker is None:
            self._turns.give(question.who, None)
            raise Unanswered("no SQL worker could be started", "has the machine memory and processes left?", BUSY)
        return worker

    def _replaced(self, worker: Worker | None) -> Worker | None:
        if worker is not None:
            with self._mutex:
                self._all.discard(worker)
            worker.kill()
        return self._started()

    def _started(self) -> Worker | None:
        """A new worker; None, to be tried again by the next question, where there can be none."""
        with self._mutex:
            if self._closed:
                return None
            try:
                worker = Worker(self._directory, self._config.memory_bytes)
            except OSError as error:
                _LOG.error("a SQL worker could not be started: %s", error)
                return None
            self._all.add(worker)
        return worker


def _crowded(full: Full) -> Unanswered:
    if full.own:
        said = f"{QUESTIONS.of_one} of your questions wait, are answered or are not read to their end: more is not your share"
        return Unanswered(said, "wait for one of them", BUSY)
    return Unanswered("too many questions at once", "ask again in a moment", BUSY)
