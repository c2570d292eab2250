"""The pool of SQL workers: pre-started processes, one query each at a time, killed past their bound and replaced.

Limits inside the engine do not hold one long scalar call (`lpad('x', 2e9, 'y')`), so the bound on time is SIGKILL from here
and the bound on memory is the process's own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from warpline_proto.defaults import QUERY_ROWS_MAX, QUERY_SECONDS_MAX, QUERY_WAIT_SECONDS_MAX
from warpline_proto.errors import QueryError
from warpline_proto.wire import from_ipc

from .audit import DENIED, FAILED, REFUSED, Audit
from .callers import LOCAL, Caller
from .desk import RESULT_BYTES_MAX
from .worker import HEADER, HEADER_BYTES_MAX, send

START_SECONDS_MAX: Final = 30.0
QUERIES_PER_WORKER_MAX: Final = 1_000
WORKERS_MAX: Final = 32
"""Each worker is a process of some hundred megabytes."""
CANCELLED: Final = "57014"
BUSY: Final = "53000"
ENDED: Final = "53200"
"""How PostgreSQL's clients know a question that was stopped, one that nobody was free for, one that ended its worker."""
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


class Unanswered(QueryError):
    """A question without an answer; `sqlstate` is how PostgreSQL's clients know the reason."""

    def __init__(self, message: str, hint: str = "", sqlstate: str = "42000") -> None:
        super().__init__(message, hint)
        self.sqlstate = sqlstate


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


class Question:
    """One question on its way through the pool, so that whoever no longer wants the answer can say so from any thread.

    It carries who asks and by which door, for what may be seen and for the audit.
    """

    def __init__(self, caller: Caller = LOCAL, door: str = "grpc") -> None:
        self.caller = caller
        self.door = door
        self._mutex = threading.Lock()
        self._worker: _Worker | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """End it, with the worker that answers it. Nothing happens where it is answered already."""
        with self._mutex:
            self._cancelled = True
            if self._worker is not None:
                self._worker.interrupt()

    def insist(self) -> None:
        """QueryError if nobody wants the answer any more."""
        if self._cancelled:
            raise Unanswered("the question was taken back", sqlstate=CANCELLED)

    @contextlib.contextmanager
    def answered_by(self, worker: _Worker) -> Iterator[None]:
        """While the worker is this question's own; QueryError if nobody wants the answer any more."""
        with self._mutex:
            self.insist()
            self._worker = worker
        try:
            yield
        finally:
            with self._mutex:
                self._worker = None


class WorkerPool:
    """SQL of users over one store. Safe to call from several threads. A worker that ended is replaced by a new one."""

    def __init__(self, directory: Path, config: Config = Config(), audit: Audit | None = None) -> None:
        self._directory = directory
        self._config = config
        self._audit = audit
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._closed = False
        self.asked = self.failed = 0
        """Questions since the start, and those of them that had no answer."""
        self._mutex = threading.Lock()
        self._all: set[_Worker] = set()
        for _ in range(config.workers):
            self._idle.put(self._started())

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
        with self._mutex:
            self.asked += 1
        try:
            answer = self._bounded(request, rows_max, seconds_max, question)
        except QueryError as error:
            with self._mutex:
                self.failed += 1
            if self._audit is not None:
                outcome = _OUTCOMES.get(getattr(error, "sqlstate", ""), FAILED)
                self._audit.note(question.caller, question.door, "question", outcome, request["sql"], str(error))
            raise
        if self._audit is not None:
            self._audit.answered(question.caller, question.door)
        return answer

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
    def busy(self) -> int:
        """Workers that answer now."""
        return max(self._config.workers - self._idle.qsize(), 0)

    @property
    def workers(self) -> int:
        """Workers there are to be."""
        return self._config.workers

    def _answered(self, request: Mapping[str, Any], seconds: float, question: Question) -> tuple[dict[str, Any], bytes]:
        worker = self._free_worker()
        try:
            with question.answered_by(worker):
                return worker.ask(request, seconds)
        except QueryError:
            question.insist()
            raise
        finally:
            self._idle.put(worker if worker.usable else self._replaced(worker))

    def close(self) -> None:
        """End all workers, also those that answer; safe to call twice."""
        with self._mutex:
            self._closed = True
            workers, self._all = self._all, set()
        for worker in workers:
            worker.kill()

    def _free_worker(self) -> _Worker:
        """The next one that is free and alive: one that was ended from outside costs no question."""
        try:
            worker = self._idle.get(timeout=QUERY_WAIT_SECONDS_MAX)
        except queue.Empty:
            busy = f"all {self._config.workers} SQL workers are busy"
            raise Unanswered(busy, "ask again in a moment", BUSY) from None
        if worker is None or not worker.alive:
            worker = self._replaced(worker)
        if worker is None:
            self._idle.put(None)
            raise Unanswered("no SQL worker could be started", "has the machine memory and processes left?", BUSY)
        return worker

    def _replaced(self, worker: _Worker | None) -> _Worker | None:
        if worker is not None:
            with self._mutex:
                self._all.discard(worker)
            worker.kill()
        return self._started()

    def _started(self) -> _Worker | None:
        """A new worker; None, to be tried again by the next question, where there can be none."""
        with self._mutex:
            if self._closed:
                return None
            try:
                worker = _Worker(self._directory, self._config.memory_bytes)
            except OSError as error:
                _LOG.error("a SQL worker could not be started: %s", error)
                return None
            self._all.add(worker)
        return worker


class _Worker:
    """One child process. It is `usable` until it failed, was killed, or answered its share of questions."""

    def __init__(self, directory: Path, memory_bytes: int) -> None:
        self._link, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "warpline_collector.worker", str(theirs.fileno()), str(directory)]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, str(memory_bytes)],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
        except BaseException:
            self._link.close()
            raise
        self._ready = False
        self._queries = 0
        self.usable = True

    def ask(self, request: Mapping[str, Any], seconds_max: float) -> tuple[dict[str, Any], bytes]:
        """One question; QueryError if there is no answer to it."""
        usable, self.usable = self.usable, False  # until the answer is whole
        try:
            self._await_start()
            send(self._link, dict(request))
            header, payload = self._receive(time.monotonic() + seconds_max)
        except TimeoutError as error:
            said = f"the query ran longer than {seconds_max:g} s and was stopped"
            raise Unanswered(said, "ask for less", CANCELLED) from error
        except (OSError, EOFError) as error:
            raise Unanswered(self._epitaph(), "ask for less", ENDED) from error
        self._queries += 1
        self.usable = usable and not header.get("retire") and self._queries < QUERIES_PER_WORKER_MAX
        _insist(header)
        return header, payload

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def interrupt(self) -> None:
        """End the process; whoever waits for its answer gets a QueryError."""
        self._process.kill()

    def kill(self) -> None:
        """End the process now, and give everything back."""
        self.usable = False
        self._process.kill()
        self._process.wait()
        self._link.close()

    def _await_start(self) -> None:
        if self._ready:
            return
        header, _ = self._receive(time.monotonic() + START_SECONDS_MAX)
        _insist(header)
        self._ready = True

    def _receive(self, deadline: float) -> tuple[dict[str, Any], bytes]:
        header_size, payload_size = HEADER.unpack(self._exactly(HEADER.size, deadline))
        if header_size > HEADER_BYTES_MAX or payload_size > RESULT_BYTES_MAX:
            raise EOFError("an answer past its bound")
        header: dict[str, Any] = json.loads(self._exactly(header_size, deadline))
        return header, self._exactly(payload_size, deadline)

    def _exactly(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._link.settimeout(max(deadline - time.monotonic(), 0.001))
            piece = self._link.recv(min(size - len(data), 1024 * 1024))
            if not piece:
                raise EOFError("the worker closed its end")
            data += piece
        return bytes(data)

    def _epitaph(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        if self._process.returncode == -signal.SIGXCPU:
            return "the query used more CPU time than it may and was stopped"
        return "the query ended its worker process: it needs more memory than a worker may have"


def _insist(header: Mapping[str, Any]) -> None:
    if header["error"] is not None:
        raise Unanswered(header["error"], header["hint"], header["sqlstate"])
