"""The PostgreSQL door: a socket for those on the machine, TCP on loopback or behind TLS, a bounded number of clients.

Who asks is told by the certificate it shows, and on a socket by the kernel: the collector's own user and root are operators,
everybody else is a viewer.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
import os
import pwd
import secrets
import socket
import ssl
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from warpline_collector.admission import named
from warpline_collector.audit import DENIED, Audit
from warpline_collector.callers import LOCAL, Caller, Role
from warpline_collector.certificates import Certificates
from warpline_collector.pool import WorkerPool
from warpline_proto.errors import ConfigError, QueryError

from . import messages
from .catalog import SETTINGS
from .config import NOWHERE, Config
from .link import Gone, Link
from .messages import Broken
from .portals import Held
from .session import DOOR, Session

BEGIN_SECONDS_MAX: Final = 10.0
"""What a client may take from connecting to its first question."""
QUESTIONS_MAX: Final = 16
"""Questions that wait for a worker or are answered, of all clients."""
SOCKET_BYTES_MAX: Final = 107
"""Longest path that a socket can have."""
_CREDENTIALS: Final = struct.Struct("3i")
_REPORTED: Final = (
    "server_version", "server_encoding", "client_encoding", "application_name", "is_superuser", "session_authorization",
    "DateStyle", "IntervalStyle", "TimeZone", "integer_datetimes", "standard_conforming_strings",
    "default_transaction_read_only", "in_hot_standby",
)  # fmt: skip
_LOG = logging.getLogger(__name__)


class Endpoint:
    """`start` listens, `close` ends. With `certificates` TCP speaks TLS and nothing else."""

    def __init__(
        self,
        config: Config,
        pool: WorkerPool,
        audit: Audit,
        directory: Path,
        certificates: Certificates | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._clock = clock
        self._config = config
        self._pool = pool
        self._audit = audit
        self._certificates = certificates
        folder = config.socket_directory or str(directory.resolve())
        self._path = None if folder == NOWHERE else Path(folder) / f".s.PGSQL.{config.port}"
        self._threads = ThreadPoolExecutor(QUESTIONS_MAX, thread_name_prefix="postgres")
        self._held = Held()
        self._servers: list[asyncio.Server] = []
        self._links: dict[Link, bool] = {}
        self._sessions: dict[int, tuple[bytes, Session]] = {}
        self._begun = 0
        self.refused = 0
        """Connections that were turned away."""

    @property
    def connections(self) -> int:
        """Clients that are connected."""
        return len(self._links)

    @property
    def asking(self) -> int:
        """Questions that wait for an answer."""
        return sum(session.asking for _, session in self._sessions.values())

    async def start(self) -> list[str]:
        """Where it listens; ConfigError if an address cannot be had."""
        told = []
        if self._path is not None and await self._listen_on_socket(self._path):
            told.append(f"unix:{self._path}")
        if self._config.listen:
            told.append(await self._listen_on_tcp(self._config.listen))
        return told

    async def close(self) -> None:
        """Listen no more; clients are cut."""
        for server in self._servers:
            server.close()
        for link in list(self._links):
            link.abort()
        for _, session in list(self._sessions.values()):
            session.close()
        if self._path is not None and self._servers:
            self._path.unlink(missing_ok=True)
        self._servers.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _listen_on_socket(self, path: Path) -> bool:
        """False, with a word in the log, where nobody asked for a socket and there can be none."""
        try:
            if len(os.fsencode(path)) > SOCKET_BYTES_MAX:
                raise OSError(errno.ENAMETOOLONG, "a socket's path may be 107 bytes long")
            if path.is_socket():
                path.unlink()  # left by a collector that was killed: the store's lock says that none runs
            server = await asyncio.start_unix_server(self._serve, path)
            path.chmod(0o666)  # who may do what is said by who connects
        except OSError as error:
            said, hint = (
                f"cannot listen on {path}: {error.strerror or error}",
                "name another [collector.postgres] socket_directory",
            )
            if self._config.socket_directory:
                raise ConfigError(said, hint) from error
            _LOG.warning("%s; %s", said, hint)
            return False
        self._servers.append(server)
        return True

    async def _listen_on_tcp(self, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        try:
            server = await asyncio.start_server(self._serve, host.strip("[]"), int(port))
        except OSError as error:
            hint = "name another address under [collector.postgres] listen"
            raise ConfigError(f"cannot listen on {listen}: {error.strerror or error}", hint) from error
        self._servers.append(server)
        return f"{host}:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, from connecting to leaving; the last to catch what goes wrong with it."""
        link = Link(reader, writer)
        try:
            if not self._room_for(link):
                self.refused += 1
                link.write(messages.error("too many connections", "53300", "close some", severity="FATAL"))
                await link.flush()
                return
            await self._converse(link, writer.get_extra_info("socket"))
        except Broken as error:
            await _farewell(link, str(error), "08P01")
        except TimeoutError:
            await _farewell(link, "the connection was idle or too slow", "57P05")
        except (Gone, OSError, ssl.SSLError):
            pass
        except Exception:  # the rim: what fails here must not end the collector, nor be silent
            _LOG.exception("a client of the PostgreSQL door could not be answered")
        finally:
            self._links.pop(link, None)
            writer.close()

    def _room_for(self, link: Link) -> bool:
        """Whether there is; where all room is taken, one that has not begun yet has to go."""
        if len(self._links) >= self._config.connections_max:
            oldest = next((each for each, begun in self._links.items() if not begun), None)
            if oldest is None:
                return False
            self._links.pop(oldest)
            self.refused += 1
            oldest.abort()
        self._links[link] = False
        return True

    async def _converse(self, link: Link, connection: socket.socket) -> None:
        async with asyncio.timeout(BEGIN_SECONDS_MAX):
            opened = await self._begin(link, connection)
        if opened is None:
            return
        caller, told = opened
        self._links[link] = True
        session = Session(link, caller, self._pool, self._threads, self._held, told, self._config.idle_seconds)
        self._begun = self._begun % 0x7FFFFFFF + 1
        number, secret = self._begun, secrets.token_bytes(4)
        self._sessions[number] = (secret, session)
        try:
            link.write(messages.authenticated())
            for name in _REPORTED:
                link.write(messages.parameter_status(name, told.get(name, SETTINGS[name])))
            link.write(messages.backend_key(number, secret))
            await self._until_expired(link, session)
        finally:
            del self._sessions[number]
            session.close()

    async def _until_expired(self, link: Link, session: Session) -> None:
        """Answer a client as long as its certificate holds: the handshake may be long over."""
        left = None if link.end_ns is None else max(link.end_ns - self._clock(), 0) / 1e9
        try:
            async with asyncio.timeout(left) as holding:
                await session.run()
        except TimeoutError:
            if not holding.expired():
                raise
            await _farewell(link, "the certificate has expired", "28000", "renew it with `warpline pki rotate`")

    async def _begin(self, link: Link, connection: socket.socket) -> tuple[Caller, dict[str, str]] | None:
        """Who it is and what it says of itself; None where it only wanted another's question cancelled, or is turned away."""
        local, secure = connection.family == socket.AF_UNIX, False
        while True:
            first = await link.startup()
            if first.code == messages.CANCEL_REQUEST:
                self._cancel(*first.key)
                return None
            if first.code == messages.SSL_REQUEST and self._certificates is not None and not local and not secure:
                await link.secure(self._certificates.for_streams())
                secure = True
            elif first.code in (messages.SSL_REQUEST, messages.GSS_REQUEST):
                await link.send(b"N")
            else:
                break
        if first.code >> 16 != messages.PROTOCOL or "replication" in first.parameters:
            await _farewell(link, "this door speaks PostgreSQL's protocol 3.0, without replication", "0A000")
            return None
        unknown = [name for name in first.parameters if name.startswith("_pq_.")]
        if first.code & 0xFFFF or unknown:
            link.write(messages.negotiate(unknown))
        try:
            caller = self._caller(link, connection, local, secure)
        except QueryError as error:
            self._audit.note(None, DOOR, "connect", DENIED, first.parameters.get("user", ""), error.message)
            await _farewell(link, error.message, "28000", error.hint)
            return None
        told = {"application_name": first.parameters.get("application_name", "")[:100], "client_encoding": "UTF8"}
        return caller, told

    def _caller(self, link: Link, connection: socket.socket, local: bool, secure: bool) -> Caller:
        """Who connects; QueryError where that may not."""
        if local:
            return peer(connection)
        if self._certificates is None:
            return LOCAL
        if not secure:
            raise QueryError(
                "this door wants TLS and a certificate", "sslmode=verify-full sslcert=... sslkey=... sslrootcert=..."
            )
        try:
            caller = named(_uris(link.certificate))
        except ConfigError as error:
            raise QueryError(error.message, error.hint) from error
        if caller.role is Role.AGENT:
            raise QueryError("agents ask nothing", "connect with the certificate of a viewer or an operator")
        return caller

    def _cancel(self, number: int, secret: bytes) -> None:
        known, session = self._sessions.get(number, (b"", None))
        if session is not None and hmac.compare_digest(known, secret):
            session.cancel()


def peer(connection: socket.socket) -> Caller:
    """Who is at the other end of a socket, as the kernel says."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(found)
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    return Caller(name, Role.OPERATOR if uid in (0, os.geteuid()) else Role.VIEWER)


def _uris(certificate: dict[str, object]) -> tuple[str, ...]:
    names = certificate.get("subjectAltName", ())
    return tuple(value for kind, value in names if kind == "URI") if isinstance(names, tuple) else ()


async def _farewell(link: Link, words: str, sqlstate: str, hint: str = "") -> None:
    """The reason, before the connection ends, if the client still listens."""
    try:
        async with asyncio.timeout(1.0):
            link.write(messages.error(words, sqlstate, hint, severity="FATAL"))
            await link.flush()
    except (Gone, OSError, TimeoutError):
        link.abort()
