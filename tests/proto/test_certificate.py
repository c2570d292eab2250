"""Certificates and settings of TLS as agents and collectors read them, also when somebody else wrote them."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_cli.pki import making
from warpline_proto import certificate
from warpline_proto.certificate import identity, parse, uri
from warpline_proto.errors import ConfigError
from warpline_proto.tls import Tls, is_local, read

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
BY = making.authority(NOW)


def test_role_name_and_time_are_read_as_they_were_written() -> None:
    read_back = parse(making.caller(BY, "agent", "gpu 1/ü", NOW, 30).certificate_pem())
    assert read_back.identity() == ("agent", "gpu 1/ü")
    assert (read_back.start_ns, read_back.end_ns) == (
        int((NOW.timestamp() - 3_600) * 1e9),
        int((NOW.timestamp() + 30 * 86_400) * 1e9),
    )


def test_a_time_after_2049_is_written_otherwise_and_read_the_same() -> None:
    late = making.authority(datetime(2060, 1, 2, tzinfo=UTC), days=1)
    assert parse(late.certificate_pem()).end_ns == int(datetime(2060, 1, 3, tzinfo=UTC).timestamp() * 1e9)


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("https://agent/node-1",),
        ("warpline://agent/",),
        ("warpline://agent",),
        ("warpline:///node-1",),
        (uri("agent", "node-1"), uri("operator", "otto")),
        ("warpline://agent/" + "x" * 254,),
        ("warpline://agent/a%0Ab",),
    ],
)
def test_a_certificate_that_names_nobody_or_several_is_nobodys(uris: tuple[str, ...]) -> None:
    assert identity(uris) is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 600), st.integers(0, 255))
def test_whatever_is_in_a_certificate_it_is_read_or_refused(data: bytes, place: int, byte: int) -> None:
    good = bytearray(base64.b64decode(b"".join(making.pem(BY.certificate).splitlines()[1:-1])))
    good[place % len(good)] = byte
    for der in (data, bytes(good)):
        body = base64.encodebytes(der)
        try:
            parse(b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n")
        except ConfigError:
            continue


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.8.9.10:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/run/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.test:1", False),
        ("127.0.0.1.test:1", False),
        ("127.1:1", False),
    ],
)
def test_what_is_not_certainly_this_machine_counts_as_another(address: str, local: bool) -> None:
    assert is_local(address) is local


def test_loopback_is_plain_unless_it_is_asked_for(tmp_path: Path) -> None:
    plain = Tls("c", "k", "a")
    assert (plain.serves("127.0.0.1:1"), plain.serves("node:1"), plain.serves("unix:/x")) == (False, True, False)
    assert Tls.within(str(tmp_path)).serves("127.0.0.1:1")
    assert not Tls.within(str(tmp_path)).serves("unix:/x")
    with pytest.raises(ValueError, match="set together"):
        Tls(certificate="c")


def test_files_that_do_not_fit_are_told_by_name(tmp_path: Path) -> None:
    made, other = (making.caller(BY, "viewer", name, NOW, 30) for name in ("anna", "otto"))
    files = {
        "certificate.pem": made.certificate_pem(),
        "key.pem": made.key_pem(),
        "authority.pem": BY.certificate_pem(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    tls = Tls.within(str(tmp_path))
    assert read(tls).told.identity() == ("viewer", "anna")

    def said(name: str, data: bytes | None) -> str:
        (tmp_path / name).write_bytes(data) if data is not None else (tmp_path / name).unlink()
        with pytest.raises(ConfigError) as error:
            read(tls)
        (tmp_path / name).write_bytes(files[name])
        return str(error.value)

    assert "key.pem: the key is not that of the certificate" in said("key.pem", other.key_pem())
    assert "key.pem: it cannot be used" in said("key.pem", b"no key")
    assert "authority.pem: there is no certificate in it" in said("authority.pem", b"nobody")
    assert "certificate.pem: there is no certificate in it" in said("certificate.pem", b"")
    assert "cannot read" in said("key.pem", None)
    assert "more than" in said("authority.pem", b"x" * 300_000)
    assert certificate.parse(files["certificate.pem"]).uris == ("warpline://viewer/anna",)
