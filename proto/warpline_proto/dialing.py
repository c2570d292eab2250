"""A channel to a collector: over TLS beyond this machine, and a sentence for each way in which that does not come about."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from typing import Final

import grpc

from .certificate import COLLECTOR
from .errors import ConfigError
from .tls import HINT, Material, Tls, context, host_of, is_local, read

PROBE_SECONDS_MAX: Final = 2.0
"""How long it may take to find out why a connection failed, for each of connecting and answering."""
PROBE_BYTES: Final = 64


def channel(address: str, tls: Tls, options: Sequence[tuple[str, object]]) -> grpc.Channel:
    """A channel with the certificates as the files hold them now; ConfigError without any where the address needs them."""
    held = checked(address, tls)
    if held is None:
        return grpc.insecure_channel(address, options=options)
    credentials = grpc.ssl_channel_credentials(held.authority, held.key, held.certificate)
    return grpc.secure_channel(address, credentials, options=options)


def checked(address: str, tls: Tls) -> Material | None:
    """What is shown at `address`, None where nothing is; ConfigError where `channel` would raise one."""
    if tls.serves(address):
        return read(tls)
    if not is_local(address):
        hint = f"set certificate, key and authority under [tls], or name their directory by --tls; {HINT}"
        raise ConfigError(f"{address} is another machine, and there is no certificate to show it", hint)
    return None


def trouble(address: str, tls: Tls) -> str:
    """Why no TLS came about with whoever answers at `address`, in one sentence; empty where that is not the reason.

    A connection of its own tells: what gRPC says of a handshake that failed is often no more than that a socket was closed.
    """
    if address.startswith("unix:"):
        return ""
    try:
        if tls.serves(address):
            return _refused(address, read(tls))
        return _wanted(address)
    except ConfigError as error:
        return str(error)
    except (OSError, ValueError):  # nobody there, which is told by others
        return ""


def _wanted(address: str) -> str:
    """Whether TLS is spoken where it was not."""
    anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anything.check_hostname = False
    anything.verify_mode = ssl.CERT_NONE  # nothing is said or believed here: only whether it is TLS
    with _connection(address) as plain, anything.wrap_socket(plain):
        return f"the collector at {address} speaks TLS: call it by its host name, or name your certificates by --tls"


def _refused(address: str, held: Material) -> str:
    """Where between the two sides the certificates do not fit."""
    collector = f"the collector at {address}"
    trusting = context(held, ssl.PROTOCOL_TLS_CLIENT)
    trusting.set_alpn_protocols(["h2"])
    try:
        with _connection(address) as plain, trusting.wrap_socket(plain, server_hostname=host_of(address)) as wrapped:
            if not wrapped.recv(PROBE_BYTES):  # its settings come first, unless it does not want us
                return f"{collector} closes the connection: {_unwanted(held)}"
    except ssl.SSLCertVerificationError as error:
        return f"{collector} is not believed: {_untrusted(error, host_of(address))}"
    except ssl.SSLError as error:
        reason = error.reason or ""
        if "ALERT" in reason:
            return f"{collector} closes the connection: {_unwanted(held)}"
        if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
            return f"{collector} speaks no TLS: it has no certificate, or it is another program"
        return f"no TLS with {collector}: {reason or error}"
    return ""


def _unwanted(held: Material) -> str:
    """What our certificate lacks, as far as we can tell: the other side closes without a word."""
    now_ns = time.time_ns()
    if held.told.end_ns <= now_ns:
        return "our certificate has expired"
    if held.told.start_ns > now_ns:
        return "our certificate does not hold yet: is the clock of this machine right?"
    role, _ = held.told.identity() or ("", "")
    if role == COLLECTOR:
        return "our certificate is one of a collector, not of one who calls"
    return "it does not know the authority of our certificate, or its clock is wrong"


def _untrusted(error: ssl.SSLCertVerificationError, host: str) -> str:
    words = error.verify_message
    if "mismatch" in words.lower():
        return f"its certificate does not name {host}"
    if "expired" in words or "not yet valid" in words:
        return f"its {words}"
    if "purpose" in words:
        return "its certificate is not one of a collector"
    if "issuer" in words or "self-signed" in words or "self signed" in words:
        return "its certificate is of an authority that [tls] authority does not hold"
    return words


def _connection(address: str) -> socket.socket:
    made = socket.create_connection((host_of(address), int(address.rpartition(":")[2])), PROBE_SECONDS_MAX)
    made.settimeout(PROBE_SECONDS_MAX)
    return made
