"""One client's session: what it asks for, one message after the other, and the state of its transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from warpline_collector.callers import Caller
from warpline_collector.pool import Rows, WorkerPool
from warpline_collector.question import BUSY, POSTGRES, Question, Unanswered, Unread, who
from warpline_proto.errors import QueryError

from . import commands, dialect, messages, parameters
from .catalog import SETTINGS
from .commands import Command
from .link import Gone, Link
from .portals import PORTALS_MAX, STATEMENT_BYTES_MAX, STATEMENTS_MAX, Portal, Prepared
from .rows import count, forms

APART_CHARS: Final = 8_000
"""Longer texts are taken apart in a thread."""
_TOLD: Final = {"application_name", "client_encoding"}
"""Settings that a client hears of when it changes them."""
Done = TypeVar("Done")


class Session:
    """Answers one client until it leaves. `whence` tells clients apart that nobody asked for a name."""

    def __init__(
        self,
        link: Link,
        caller: Caller,
        pool: WorkerPool,
        whence: str,
        told: Mapping[str, str],
        idle_seconds: float,
    ) -> None:
        self._link = link
        self._caller = caller
        self._pool = pool
        self._whence = whence
        self._unread = Unread(pool.unread, who(caller, POSTGRES, whence))
        self._idle_seconds = idle_seconds
        self._settings = {name.lower(): value for name, value in SETTINGS.items()} | {
            name.lower(): value for name, value in told.items() if name.lower() in _TOLD
        }
        self._statements: dict[str, Prepared] = {}
        self._portals: dict[str, Portal] = {}
        self._status = "I"
        self._skipping = False
        self._question: Question | None = None

    async def run(self) -> None:
        """Until the client leaves; Gone, TimeoutError or Broken where it does so without a word."""
        self._link.write(messages.ready(self._status))
        while True:
            await self._link.flush()
            async with asyncio.timeout(self._idle_seconds):
                message = await self._link.message()
            if isinstance(message, messages.Terminate):
                return
            if self._skipping and not isinstance(message, messages.Sync):
                continue
            try:
                await self._take(message)
            except QueryError as error:
                self._fail(error)
                self._skipping = True

    @property
    def asking(self) -> bool:
        """Whether a question waits for its answer."""
        return self._question is not None

    def cancel(self) -> None:
        """End the question that is being answered."""
        if self._question is not None:
            self._question.cancel()

    def close(self) -> None:
        """Let go of everything."""
        self.cancel()
        for portal in self._portals.values():
            portal.release(self._unread)
        self._portals.clear()

    async def _take(self, message: messages.Message) -> None:
        match message:
            case messages.Query(sql):
                await self._simple(sql)
            case messages.Parse():
                await self._parse(message)
            case messages.Bind():
                self._bind(message)
            case messages.Describe(kind, name):
                await (self._describe_statement(name) if kind == "S" else self._describe_portal(name))
            case messages.Execute(name, rows_max):
                await self._execute(self._portal(name), rows_max)
            case messages.Close(kind, name):
                self._close(kind, name)
            case messages.Sync():
                self._sync()
            case messages.Other(kind) if kind not in ("d", "c", "f"):
                raise Unanswered(f"a message {kind!r} is not known here", sqlstate="08P01")

    async def _simple(self, sql: str) -> None:
        """Statements one after the other, up to the first that fails."""
        try:
            listed = await self._apart(dialect.statements, sql)
            if not listed:
                self._link.write(messages.EMPTY)
            for each in listed:
                portal = Portal(Prepared(each, (), await self._apart(commands.recognised, each)))
                try:
                    await self._describe(portal)
                    await self._execute(portal, 0)
                finally:
                    portal.release(self._unread)
        except QueryError as error:
            self._fail(error)
        self._sync()

    async def _parse(self, message: messages.Parse) -> None:
        listed = await self._apart(dialect.statements, message.sql)
        if len(listed) > 1:
            raise Unanswered("several statements cannot be prepared as one", sqlstate="42601")
        sql = listed[0] if listed else ""
        known = len(sql) + sum(len(each.sql) for name, each in self._statements.items() if name != message.name)
        if len(self._statements) >= STATEMENTS_MAX or known > STATEMENT_BYTES_MAX:
            raise Unanswered("too many statements are prepared", "DEALLOCATE ALL", BUSY)
        self._statements[message.name] = Prepared(sql, message.oids, await self._apart(commands.recognised, sql))
        self._link.write(messages.PARSED)

    def _bind(self, message: messages.Bind) -> None:
        prepared = self._statement(message.statement)
        if len(self._portals) >= PORTALS_MAX and message.portal not in self._portals:
            raise Unanswered("too many portals are open", "read them to their end", BUSY)
        if (old := self._portals.pop(message.portal, None)) is not None:
            old.release(self._unread)
        given = parameters.values(prepared.oids, message.forms, message.values)
        self._portals[message.portal] = Portal(prepared, given, message.result_forms)
        self._link.write(messages.BOUND)

    async def _describe_statement(self, name: str) -> None:
        prepared = self._statement(name)
        fields = _fields_of(prepared.command, self._portals)
        oids = list(prepared.oids)
        if prepared.command is None and prepared.sql:
            if prepared.described is None:
                prepared.described = await self._asked(lambda question: self._pool.describe(prepared.sql, question))
            fields = prepared.described.fields
            oids += [0] * (prepared.described.parameters - len(oids))
        self._link.write(messages.parameter_description(oids))
        self._link.write(messages.NO_DATA if fields is None else messages.row_description(fields, [0] * len(fields)))

    async def _describe_portal(self, name: str) -> None:
        portal = self._portal(name)
        if not await self._describe(portal):
            self._link.write(messages.NO_DATA)

    async def _describe(self, portal: Portal) -> bool:
        """Tell the columns of a portal; a question is answered for that. False where there are none."""
        fields = _fields_of(portal.prepared.command, self._portals)
        if portal.prepared.command is None and portal.prepared.sql:
            fields = (await self._rows_of(portal)).fields
        if fields is None:
            return False
        self._link.write(messages.row_description(fields, forms(portal.forms, len(fields))))
        return True

    async def _execute(self, portal: Portal, rows_max: int) -> None:
        prepared = portal.prepared
        if self._status == "E" and (prepared.command is None or prepared.command.kind not in _ENDS):
            said = "the transaction failed, and nothing is answered until it ends"
            raise Unanswered(said, "ROLLBACK", "25P02")
        if not prepared.sql:
            self._link.write(messages.EMPTY)
        elif prepared.command is not None:
            await self._command(prepared.command, portal.values)
        else:
            await self._rows_of(portal)
            await self._send(portal, rows_max, "SELECT")

    async def _rows_of(self, portal: Portal) -> Rows:
        """The answer, asked for where it is not there yet."""
        if portal.rows is None:
            if self._status == "E":
                raise Unanswered("the transaction failed, and nothing is answered until it ends", "ROLLBACK", "25P02")
            prepared = portal.prepared
            portal.answer(
                await self._asked(
                    lambda question: self._pool.rows(prepared.sql, question, portal.values, portal.forms)
                ),
                self._unread,
            )
        assert portal.rows is not None
        return portal.rows

    async def _send(self, portal: Portal, rows_max: int, tag: str) -> None:
        rows = portal.rows
        assert rows is not None
        whole = not rows_max and len(portal.rest) == len(rows.payload)
        piece = portal.next(rows_max)
        await self._link.flush()
        await self._link.send(piece)
        if tag == "SELECT" and portal.rest:
            self._link.write(messages.SUSPENDED)
            return
        if rows.truncated and not portal.rest:
            self._link.write(messages.notice(f"only the first {rows.rows} rows: there are more", "01004", "WARNING"))
        self._link.write(messages.complete(f"{tag} {rows.rows if whole else count(piece)}"))

    async def _command(self, command: Command, values: Sequence[parameters.Value]) -> None:
        kind = command.kind
        if kind == commands.FETCH:
            await self._send(self._portal(command.name), 0 if command.rows < 0 else command.rows, commands.FETCH)
            return
        if kind == commands.COPY:
            await self._copy(command)
            return
        if kind == commands.DECLARE:
            await self._declare(command, values)
        elif kind in (commands.BEGIN, commands.COMMIT, commands.ROLLBACK, commands.RELEASE, commands.SAVEPOINT):
            self._transact(command)
            return
        elif kind == commands.SET:
            self._set(command)
        elif kind == commands.SHOW:
            if command.name not in self._settings:
                raise _unknown(command.name)
            self._link.write(messages.data_row([self._settings[command.name].encode()]))
        elif kind == commands.CLOSE:
            self._let_go(command.name)
        elif kind == commands.DEALLOCATE:
            self._forget(command.name)
        elif kind == commands.DISCARD:
            self._forget("all")
            self._let_go("all")
        self._link.write(messages.complete(command.tag))

    async def _copy(self, command: Command) -> None:
        rows = await self._asked(lambda question: self._pool.copied(command.sql, question, command.csv, command.header))
        self._unread.take(len(rows.payload))
        try:
            self._link.write(messages.copy_out(len(rows.fields)))
            await self._link.flush()
            await self._link.send(rows.payload)
        finally:
            self._unread.give(len(rows.payload))
        self._link.write(messages.COPY_DONE + messages.complete(f"COPY {rows.rows}"))

    async def _declare(self, command: Command, values: Sequence[parameters.Value]) -> None:
        """A cursor is a portal that was not bound."""
        if len(self._portals) >= PORTALS_MAX:
            raise Unanswered("too many cursors are open", "CLOSE ALL", BUSY)
        portal = Portal(Prepared(command.sql, (), None), values)
        await self._rows_of(portal)
        self._let_go(command.name)
        self._portals[command.name] = portal

    def _transact(self, command: Command) -> None:
        failed = self._status == "E"
        if command.kind == commands.BEGIN:
            self._status = "T"
        elif command.kind in (commands.COMMIT, commands.ROLLBACK):
            self._status = "I"
            self._let_go("all")
        elif command.kind == commands.RELEASE and command.tag == commands.ROLLBACK:
            self._status = "T"
        self._link.write(messages.complete(commands.ROLLBACK if failed else command.tag))

    def _set(self, command: Command) -> None:
        name, value = command.name, command.value
        if name == "client_encoding" and value.upper().replace("-", "") not in (
            "UTF8",
            "UNICODE",
            "DEFAULT",
            "SQL_ASCII",
        ):
            raise Unanswered(f"texts are told in UTF-8, not in {value[:50]}", "SET client_encoding TO 'UTF8'", "22023")
        if name == "timezone" and value.upper() not in ("UTC", "GMT", "ETC/UTC", "Z", "0", "DEFAULT", "LOCAL"):
            self._link.write(messages.notice("times are told in UTC, each with its offset"))
        elif name in _TOLD:
            self._settings[name] = "UTF8" if name == "client_encoding" else value[:100]
            self._link.write(messages.parameter_status(name, self._settings[name]))

    def _sync(self) -> None:
        self._skipping = False
        if self._status == "I":
            self._let_go("all")
        self._link.write(messages.ready(self._status))

    def _close(self, kind: str, name: str) -> None:
        if kind == "S":
            self._statements.pop(name, None)
        elif (portal := self._portals.pop(name, None)) is not None:
            portal.release(self._unread)
        self._link.write(messages.CLOSED)

    def _let_go(self, name: str) -> None:
        """Of one portal, or of all."""
        for each in list(self._portals) if name == "all" else [name]:
            if (portal := self._portals.pop(each, None)) is not None:
                portal.release(self._unread)

    def _forget(self, name: str) -> None:
        if name == "all":
            self._statements.clear()
        self._statements.pop(name, None)

    def _statement(self, name: str) -> Prepared:
        if name not in self._statements:
            raise Unanswered(f"there is no statement {name[:100]!r}", sqlstate="26000")
        return self._statements[name]

    def _portal(self, name: str) -> Portal:
        if name not in self._portals:
            raise Unanswered(
                f"there is no portal or cursor {name[:100]!r}", "cursors live within BEGIN and COMMIT", "34000"
            )
        return self._portals[name]

    def _fail(self, error: QueryError) -> None:
        if self._status == "T":
            self._status = "E"
        state = error.sqlstate if isinstance(error, Unanswered) else "42601"
        self._link.write(messages.error(error.message, state, error.hint))

    async def _apart(self, work: Callable[[str], Done], sql: str) -> Done:
        """Look into a text; a long one keeps nobody else waiting."""
        return work(sql) if len(sql) < APART_CHARS else await asyncio.to_thread(work, sql)

    async def _asked(self, work: Callable[[Question], Done]) -> Done:
        """The pool's answer; a client that leaves meanwhile takes its question back."""
        question = self._question = Question(self._caller, POSTGRES, self._whence)
        try:
            await self._link.flush()
            with self._pool.place(question):
                return await self._awaited(work, question)
        finally:
            self._question = None

    async def _awaited(self, work: Callable[[Question], Done], question: Question) -> Done:
        answering = asyncio.get_running_loop().run_in_executor(self._pool.threads, work, question)
        leaving = asyncio.ensure_future(self._link.left())
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise Gone
            return answering.result()
        finally:
            if not answering.done():
                question.cancel()
                answering.add_done_callback(lambda done: done.exception())
            leaving.cancel()
            await asyncio.wait((leaving,))  # it must not read any more when the next message is read


_ENDS: Final = frozenset({commands.COMMIT, commands.ROLLBACK, commands.RELEASE})
"""What is answered also in a transaction that failed."""


def _unknown(setting: str) -> Unanswered:
    return Unanswered(f"there is no setting {setting[:100]!r}", "SHOW TABLES lists tables", "42704")


def _fields_of(command: Command | None, portals: Mapping[str, Portal]) -> Sequence[tuple[str, int, int]] | None:
    """The columns that a command answers with; None where it has none."""
    if command is None:
        return None
    if command.kind == commands.SHOW:
        name = next((each for each in SETTINGS if each.lower() == command.name.lower()), None)
        if name is None:
            raise _unknown(command.name)
        return [(name, messages.TEXT_OID, -1)]
    if command.kind == commands.FETCH and command.name in portals:
        rows = portals[command.name].rows
        return None if rows is None else rows.fields
    return None
