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
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warpline_collector.admission import named
from warpline_collector.audit import DENIED, Audit
from warpline_collector.callers import LOCAL, Caller, Role
from warpline_collector.certificates import Certificates
from warpline_collector.pool import WorkerPool
from warpline_collector.question import POSTGRES, who
from warpline_collector.shares import Bounds, Full, Shares
from warpline_proto.errors import ConfigError, QueryError

from . import messages
from .catalog import SETTINGS
from .config import NOWHERE, Config
from .link import Gone, Link
from .messages import Broken
from .session import Session

BEGIN_SECONDS_MAX: Final = 10.0
"""What a client may take from connecting to its first question."""
OF_ONE: Final = 0.5
"""Of `connections_max` one caller may have this part."""
KEPT: Final = 0.25
FEW: Final = 0.0625
"""The last part is for callers that have `FEW` at most."""
USER_CHARS_MAX: Final = 64
FULL: Final = "full"
SHARE: Final = "share"
CALLER: Final = "caller"
"""Why a client is turned away: too many are there, too many of this caller, or it may not come."""
SOCKET_BYTES_MAX: Final = 107
"""Longest path that a socket can have."""
_CREDENTIALS: Final = struct.Struct("3i")
_REPORTED: Final = (
    "server_version", "server_encoding", "client_encoding", "application_name", "is_superuser", "session_authorization",
    "DateStyle", "IntervalStyle", "TimeZone", "integer_datetimes", "standard_conforming_strings",
    "default_transaction_read_only", "in_hot_standby",
)  # fmt: skip
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sessions:
    """Clients that are connected and were let in, those since the start, and those that were not let in, by the reason."""

    now: int
    begun: int
    refused: Mapping[str, int]


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
        most = config.connections_max
        of_one, kept = max(int(most * OF_ONE), 1), int(most * KEPT)
        self._room = Shares(Bounds(most, of_one, kept, max(int(most * FEW), 1)))
        self._servers: list[asyncio.Server] = []
        self._links: dict[Link, bool] = {}
        self._sessions: dict[int, tuple[bytes, Session]] = {}
        self._begun = 0
        self._refused = Counter({FULL: 0, SHARE: 0, CALLER: 0})

    @property
    def connections(self) -> int:
        """Clients that are connected."""
        return len(self._links)

    @property
    def refused(self) -> int:
        """Connections that were turned away."""
        return self._refused.total()

    def sessions(self) -> Sessions:
        """The counts of now."""
        return Sessions(len(self._sessions), self._begun, dict(self._refused))

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
                self._refused[FULL] += 1
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
            self._refused[FULL] += 1
            oldest.abort()
        self._links[link] = False
        return True

    async def _converse(self, link: Link, connection: socket.socket) -> None:
        async with asyncio.timeout(BEGIN_SECONDS_MAX):
            opened = await self._begin(link, connection)
        if opened is None:
            return
        caller, told = opened
        whence = f"user {told.pop('user')}"
        each = who(caller, POSTGRES, whence)
        try:
            self._room.take(each)
        except Full as full:
            self._refused[SHARE if full.own else FULL] += 1
            whose = f" of {' '.join(each)}" if full.own else ""
            await _farewell(link, f"too many connections{whose}", "53300", "close some")
            return
        try:
            self._links[link] = True
            await self._answer(link, Session(link, caller, self._pool, whence, told, self._config.idle_seconds), told)
        finally:
            self._room.give(each)

    async def _answer(self, link: Link, session: Session, told: Mapping[str, str]) -> None:
        """Begin a session, and answer it to its end."""
        self._begun += 1
        number, secret = self._begun % 0x7FFFFFFF, secrets.token_bytes(4)
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
            self._refused[CALLER] += 1
            self._audit.note(None, POSTGRES, "connect", DENIED, first.parameters.get("user", ""), error.message)
            await _farewell(link, error.message, "28000", error.hint)
            return None
        return caller, {
            "application_name": first.parameters.get("application_name", "")[:100],
            "client_encoding": "UTF8",
            "user": first.parameters.get("user", "")[:USER_CHARS_MAX],
        }

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
