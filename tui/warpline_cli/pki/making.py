"""Makes keys and certificates: an authority's, those of callers, that of a collector. EC P-256, SHA-256, RFC 5280 throughout."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from warpline_proto.certificate import COLLECTOR, uri

AUTHORITY_DAYS: Final = 3_650
BEFORE: Final = timedelta(hours=1)
"""A certificate holds from so long before it is made on: clocks of the fleet differ."""
COMMON_NAME_CHARS_MAX: Final = 64
LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
"""Every collector is these to those on its own machine."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def certificate_pem(self) -> bytes:
        return pem(self.certificate)

    def key_pem(self) -> bytes:
        """Without a pass phrase: a service that starts by itself has nobody to ask for it."""
        form = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def pem(certificate: x509.Certificate) -> bytes:
    """The certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def read(certificate: bytes, key: bytes) -> Pair:
    """What `certificate_pem` and `key_pem` gave; ValueError if it is not that."""
    held = serialization.load_pem_private_key(key, None)
    if not isinstance(held, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is of another kind")
    return Pair(x509.load_pem_x509_certificate(certificate), held)


def authority(now: datetime, days: int = AUTHORITY_DAYS) -> Pair:
    """A new authority, which speaks for itself. One more may stand below it: the one that takes its place."""
    key = _key()
    number = x509.random_serial_number()
    name = _name(f"warpline authority {number:040x}"[:COMMON_NAME_CHARS_MAX], "authority")
    end = now + timedelta(days=days)
    made = _certificate(name, key, number, now, end, name, key, path_length=1)
    return Pair(made, key)


def vouched(newer: Pair, older: Pair, now: datetime) -> x509.Certificate:
    """The newer authority in the words of the older, for those who know only that one."""
    end = min(newer.certificate.not_valid_after_utc, older.certificate.not_valid_after_utc)
    number = x509.random_serial_number()
    subject, issuer = newer.certificate.subject, older.certificate.subject
    return _certificate(subject, newer.key, number, now, end, issuer, older.key, path_length=0)


def caller(by: Pair, role: str, name: str, now: datetime, days: int) -> Pair:
    """A certificate to call with: `role` agent, viewer or operator; `name` is the agent's node, or who it is."""
    return _issued(by, role, name, [x509.UniformResourceIdentifier(uri(role, name))], now, days)


def collector(by: Pair, hosts: Sequence[str], now: datetime, days: int) -> Pair:
    """A certificate to be called with, at the first of `hosts` and the others, by name or number."""
    names: list[x509.GeneralName] = [_host(each) for each in dict.fromkeys((*hosts, *LOCAL_HOSTS))]
    return _issued(
        by, COLLECTOR, hosts[0], [*names, x509.UniformResourceIdentifier(uri(COLLECTOR, hosts[0]))], now, days
    )


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """The hosts that it names."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def _issued(by: Pair, role: str, name: str, names: Sequence[x509.GeneralName], now: datetime, days: int) -> Pair:
    key = _key()
    end = min(now + timedelta(days=days), by.certificate.not_valid_after_utc)
    number = x509.random_serial_number()
    subject = _name(name[:COMMON_NAME_CHARS_MAX], role)
    return Pair(
        _certificate(subject, key, number, now, end, by.certificate.subject, by.key, names=names, role=role), key
    )


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    number: int,
    now: datetime,
    end: datetime,
    issuer: x509.Name,
    by: ec.EllipticCurvePrivateKey,
    *,
    path_length: int | None = None,
    names: Sequence[x509.GeneralName] = (),
    role: str = "",
) -> x509.Certificate:
    """With `path_length` an authority, else one who calls, or the collector, and cannot take the part of the other."""
    is_authority = path_length is not None
    public = key.public_key()
    made = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=public, serial_number=number)
        .not_valid_before(now.astimezone(UTC) - BEFORE)
        .not_valid_after(end.astimezone(UTC))
        .add_extension(x509.BasicConstraints(is_authority, path_length), critical=True)
        .add_extension(_usage(is_authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    if not is_authority:
        part = ExtendedKeyUsageOID.SERVER_AUTH if role == COLLECTOR else ExtendedKeyUsageOID.CLIENT_AUTH
        made = made.add_extension(x509.ExtendedKeyUsage([part]), critical=False)
        made = made.add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
    return made.sign(by, hashes.SHA256())


def _usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name(common: str, unit: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "warpline"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
