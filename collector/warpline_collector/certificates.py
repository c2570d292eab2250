"""The collector's own certificate, read anew when its files change: whoever connects next meets the new one."""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import grpc

from warpline_proto.errors import ConfigError
from warpline_proto.tls import HINT, Material, Tls, context, is_local, read

PEERS_MAX: Final = 20_000
"""Connections that are remembered, to count each once."""
TELL_SECONDS: Final = 60.0
_LOG = logging.getLogger(__name__)
Mark = tuple[tuple[int, int, int], ...]


class Certificates:
    """What the files hold. Files that do not fit together are told once, and those before them stay in use."""

    def __init__(self, tls: Tls, monotonic: Callable[[], float] = time.monotonic) -> None:
        """ConfigError where they do not fit at the start."""
        self._tls = tls
        self._mutex = threading.Lock()
        self._mark = self._look()
        self._told = ""
        self.connections = 0
        """Connections over which a handshake was begun."""
        self.entered = 0
        """Connections over which a call came."""
        self._peers: OrderedDict[str, None] = OrderedDict()
        self._monotonic = monotonic
        self._noted = (monotonic(), 0)
        self._lacking = 0
        self.failure = ""
        """Why the newest files are not in use; empty where they are."""
        self._take(read(tls))
        self._handed = self._configuration
        """What gRPC has."""

    @property
    def end_ns(self) -> int:
        """Until when the certificate in use holds, ns since 1970."""
        return self._material.told.end_ns

    def for_grpc(self) -> grpc.ServerCredentials:
        """Credentials that ask `self` at each connection, and demand a certificate of the other side."""
        self._handed = self._configuration
        return grpc.dynamic_ssl_server_credentials(
            self._handed, self._for_connection, require_client_authentication=True
        )

    def for_streams(self) -> ssl.SSLContext:
        """A context for asyncio's servers that does the same."""
        made = context(self._material, ssl.PROTOCOL_TLS_SERVER)
        made.sni_callback = self._for_handshake
        return made

    def refresh(self) -> None:
        """Take the files as they are now, if they changed since they were last looked at."""
        with self._mutex:
            mark = self._look()
            if mark == self._mark:
                return
            try:
                self._take(read(self._tls))
                self.failure = ""
                _LOG.warning("the certificate was read anew: it holds for new connections")
            except (
                ConfigError,
                OSError,
            ) as error:  # half of them written, or the wrong ones: the next connection looks again
                self.failure = str(error)
                if self.failure != self._told:
                    _LOG.error("the certificate on disk is not taken, the one before stays in use: %s", error)
                self._told = self.failure
                return
            self._mark = mark

    def _take(self, material: Material) -> None:
        self._material = material
        self._configuration = grpc.ssl_server_certificate_configuration(
            [(material.key, material.certificate)], root_certificates=material.authority
        )
        self._context = context(material, ssl.PROTOCOL_TLS_SERVER)

    def enter(self, peer: str) -> None:
        """A call came from `peer`, which got through the handshake then."""
        with self._mutex:
            if peer not in self._peers:
                self.entered += 1
                self._peers[peer] = None
            self._peers.move_to_end(peer)
            if len(self._peers) > PEERS_MAX:
                self._peers.popitem(last=False)

    def _for_connection(self) -> grpc.ServerCertificateConfiguration | None:
        """The newest certificate where gRPC does not have it yet, else None.

        With one handed over at each connection the process ends once many connect at a time: gRPC 1.85 frees what it had before
        while handshakes in other threads still use it.
        """
        with self._mutex:
            self.connections += 1
            self._note()
        self.refresh()
        with self._mutex:
            before, self._handed = self._handed, self._configuration
            return None if before is self._handed else self._handed

    def _note(self) -> None:
        """Tell once a minute how many did not get through; those of the last minute may still."""
        since, begun = self._noted
        if self._monotonic() - since < TELL_SECONDS:
            return
        lacking = begun - self.entered
        if lacking > self._lacking:
            told = "%d connections did not get through TLS: no certificate, one of another authority, or an expired one"
            _LOG.warning(told, lacking - self._lacking)
            self._lacking = lacking
        self._noted = (self._monotonic(), self.connections)

    def _for_handshake(self, wrapped: ssl.SSLObject, name: str | None, before: ssl.SSLContext) -> None:
        self.refresh()
        wrapped.context = self._context

    def _look(self) -> Mark:
        """What changes when a file is replaced or written; a file that is gone has zeros."""
        return tuple(_mark(path) for path in (self._tls.certificate, self._tls.key, self._tls.authority))


def _mark(path: str) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def needed(tls: Tls, address: str, insecure: bool = False) -> bool:
    """Whether `address` is served with certificates; ConfigError where it has to be and there are none. Empty is no address."""
    if insecure or not address:
        return False
    if not tls.serves(address) and not is_local(address):
        raise ConfigError(f"{address} takes in other machines, and there is no certificate under [tls]", HINT)
    return tls.serves(address)
