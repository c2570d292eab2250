"""Certificates as files: where they are, whether an address needs them, and what is in them once they are found to fit.

TCP beyond this machine always speaks TLS, and both sides show a certificate. Loopback does only where it is asked to, as for
forwarded ports; unix sockets never do, their files say who may come.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .certificate import Certificate, parse
from .errors import ConfigError

CERTIFICATE_FILE: Final = "certificate.pem"
KEY_FILE: Final = "key.pem"
AUTHORITY_FILE: Final = "authority.pem"
SECTION: Final = "tls"
FILE_BYTES_MAX: Final = 256 * 1024
"""Longest file of certificates that is read."""
HINT: Final = "`warpline pki` makes them: warpline pki --help"


@dataclass(frozen=True)
class Tls:
    """Settings: this side's certificate and its key, and the authorities whose certificates are believed; all three or none.

    `always`: on loopback too.
    """

    certificate: str = ""
    key: str = ""
    authority: str = ""
    always: bool = False

    def __post_init__(self) -> None:
        given = (self.certificate, self.key, self.authority)
        if any(given) and not all(given):
            raise ValueError("certificate, key and authority are set together")
        if self.always and not self:
            raise ValueError("always wants certificate, key and authority")

    def __bool__(self) -> bool:
        return bool(self.certificate)

    @classmethod
    def within(cls, directory: str) -> Tls:
        """The files of a directory as `warpline pki issue` leaves it, for any address."""
        certificate, key, authority = (
            os.path.join(directory, name) for name in (CERTIFICATE_FILE, KEY_FILE, AUTHORITY_FILE)
        )
        return cls(certificate, key, authority, always=True)

    def serves(self, address: str) -> bool:
        """Whether TLS is spoken at `address`."""
        return bool(self) and not address.startswith("unix:") and (self.always or not is_local(address))


NONE: Final = Tls()


@dataclass(frozen=True)
class Material:
    """What the files hold, in PEM, and what the certificate says."""

    certificate: bytes
    key: bytes
    authority: bytes
    told: Certificate


def host_of(address: str) -> str:
    """The host of host:port, without the brackets of an IPv6 address."""
    return address.rpartition(":")[0].strip("[]")


def is_local(address: str) -> bool:
    """Whether only this machine can be at the other end: loopback, or a unix socket."""
    if address.startswith("unix:"):
        return True
    host = host_of(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read(tls: Tls) -> Material:
    """The files, once key, certificate and authority are found to fit; ConfigError says which does not and why."""
    held = [_bytes(path) for path in (tls.certificate, tls.key, tls.authority)]
    try:
        told = parse(held[0])
    except ConfigError as error:
        raise ConfigError(f"{tls.certificate}: {error.message}", error.hint) from error
    material = Material(held[0], held[1], held[2], told)
    try:
        context(material, ssl.PROTOCOL_TLS_CLIENT)
    except ssl.SSLError as error:
        raise ConfigError(f"{_culprit(tls, error)}: {_reason(error)}", HINT) from error
    return material


def context(material: Material, protocol: int) -> ssl.SSLContext:
    """A context of the standard library with this certificate, that believes these authorities and demands a certificate."""
    made = ssl.SSLContext(protocol)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.verify_mode = ssl.CERT_REQUIRED
    with _file(material.certificate) as chain, _file(material.key) as key, _file(material.authority) as authority:
        made.load_cert_chain(chain, key, password=lambda: "")  # a key with a pass phrase fails, and asks nobody for it
        made.load_verify_locations(authority)
    return made


def _bytes(path: str) -> bytes:
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", HINT) from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path} holds more than {FILE_BYTES_MAX} bytes: it is no certificate")
    return data


@contextlib.contextmanager
def _file(data: bytes) -> Iterator[str]:
    """The bytes as a file of memory: the library takes no others, and a file read twice may have changed between."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _culprit(tls: Tls, error: ssl.SSLError) -> str:
    return tls.authority if error.reason in ("NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE") else tls.key


def _reason(error: ssl.SSLError) -> str:
    told = {
        "KEY_VALUES_MISMATCH": "the key is not that of the certificate",
        "NO_CERTIFICATE_OR_CRL_FOUND": "there is no certificate in it",
    }
    return told.get(error.reason or "", f"it cannot be used ({error.reason or error})")
