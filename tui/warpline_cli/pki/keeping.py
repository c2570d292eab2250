"""The directory of an authority: its key, what it issued, and how it is followed by another without a moment of mistrust.

    authority -> generations/authority-1f2e3d...      key.pem certificate.pem authority.pem chain.pem
    issued/agent-node-1 -> ../generations/agent-...   key.pem certificate.pem authority.pem

Nothing is ever written over: each certificate lies in a folder of its own, complete before a link to it takes the place of the
link before. A new authority is vouched for by the old one, in a certificate that travels with all it issues, and both are
trusted until the change is finished: so old and new certificates are believed by whoever has either, in any order of renewal.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote

from cryptography import x509

from warpline_proto.certificate import COLLECTOR, NAME_CHARS_MAX, parse
from warpline_proto.errors import ConfigError
from warpline_proto.tls import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE

from . import making
from .making import Pair

CHAIN_FILE: Final = "chain.pem"
"""What travels behind each certificate: the new authority in the words of the old one, else nothing."""
DAYS: Final = 397
"""How long a certificate holds unless it is said."""
DAYS_MAX: Final = 3_650
_AUTHORITY, _GENERATIONS, _ISSUED = "authority", "generations", "issued"


@dataclass(frozen=True)
class Issued:
    """A certificate that was issued: whose it is, where it lies, how long it holds, and whether the newest authority made it."""

    role: str
    name: str
    hosts: tuple[str, ...]
    folder: Path
    end: datetime
    newest: bool


def _now() -> datetime:
    return datetime.now(UTC)


class Keeping:
    """`start` makes the authority, `issue` certificates, `renew` them, `succeed` and `finish` change the authority."""

    def __init__(self, directory: Path, clock: Callable[[], datetime] = _now) -> None:
        self._directory = directory
        self._clock = clock

    def start(self, days: int) -> None:
        """A new authority; ConfigError where there is one already."""
        if (self._directory / _AUTHORITY).is_symlink():
            raise ConfigError(f"{self._directory} holds an authority already", "`warpline pki rotate` renews it")
        for name in ("", _GENERATIONS, _ISSUED):
            (self._directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone():
            made = making.authority(self._clock(), _checked_days(days))
            self._point(_AUTHORITY, self._generation(_AUTHORITY, made, made.certificate_pem(), b""), replace=False)

    def issue(self, role: str, name: str, hosts: Sequence[str] = (), days: int = DAYS) -> Path:
        """The folder of a new certificate; ConfigError where there is one for that role and name already."""
        if not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable():
            raise ConfigError(f"{name!r} is no name", f"1 to {NAME_CHARS_MAX} characters that can be printed")
        link = _link(role, name)
        with self._alone():
            if (self._directory / link).is_symlink():
                told = f"{self._directory / link} is there already"
                raise ConfigError(told, "`warpline pki rotate` renews what was issued")
            return self._place(role, name, hosts, _checked_days(days), replace=False)

    def renew(self, within: timedelta | None = None) -> list[Issued]:
        """Issue anew what was issued, with new keys; with `within` only what ends so soon. Those before stay where they were."""
        with self._alone():
            due = [
                each
                for each in self.issued()
                if within is None or not each.newest or each.end <= self._clock() + within
            ]
            for each in due:
                self._place(each.role, each.name, each.hosts, self._days(each), replace=True)
            self._prune()
            return [
                each
                for each in self.issued()
                if _link(each.role, each.name) in {_link(one.role, one.name) for one in due}
            ]

    def succeed(self, days: int) -> None:
        """A new authority beside the old one; ConfigError while an earlier change is not finished."""
        with self._alone():
            older, trusted, chain = self._authority()
            if chain:
                raise ConfigError("the change to this authority is not finished", "`warpline pki rotate --finish`")
            newer = making.authority(self._clock(), _checked_days(days))
            vouched = making.pem(making.vouched(newer, older, self._clock()))
            folder = self._generation(_AUTHORITY, newer, newer.certificate_pem() + trusted, vouched)
            self._point(_AUTHORITY, folder, replace=True)

    def finish(self) -> None:
        """Trust the newest authority alone; ConfigError where there is nothing to finish, or something is not renewed."""
        with self._alone():
            newest, _, chain = self._authority()
            if not chain:
                raise ConfigError("there is no older authority to leave behind", "`warpline pki rotate --authority`")
            old = [each for each in self.issued() if not each.newest]
            if old:
                raise ConfigError(
                    f"{len(old)} certificates are of the older authority", "`warpline pki rotate` renews them"
                )
            folder = self._generation(_AUTHORITY, newest, newest.certificate_pem(), b"")
            self._point(_AUTHORITY, folder, replace=True)
            for each in self.issued():
                held = making.read(*((each.folder / name).read_bytes() for name in (CERTIFICATE_FILE, KEY_FILE)))
                self._leave(each.role, each.name, held, replace=True)

    def issued(self) -> list[Issued]:
        """What was issued, the newest of each role and name."""
        newest = self._authority()[0].certificate.subject
        return sorted(
            (_issued(path.resolve(), newest) for path in (self._directory / _ISSUED).iterdir() if path.is_symlink()),
            key=lambda each: (each.role, each.name),
        )

    def authorities(self) -> list[x509.Certificate]:
        """Those that are trusted, the newest first."""
        return x509.load_pem_x509_certificates(self._authority()[1])

    def _authority(self) -> tuple[Pair, bytes, bytes]:
        """The newest authority, those that are trusted, and what travels with what it issues."""
        folder = self._directory / _AUTHORITY
        names = (CERTIFICATE_FILE, KEY_FILE, AUTHORITY_FILE, CHAIN_FILE)
        try:
            certificate, key, trusted, chain = ((folder / name).read_bytes() for name in names)
            return making.read(certificate, key), trusted, chain
        except FileNotFoundError as error:
            raise ConfigError(f"{self._directory} holds no authority", "`warpline pki init` makes one") from error
        except ValueError as error:
            raise ConfigError(f"the authority in {self._directory} cannot be read: {error}") from error

    def _place(self, role: str, name: str, hosts: Sequence[str], days: int, *, replace: bool) -> Path:
        by, now = self._authority()[0], self._clock()
        try:
            made = (
                making.collector(by, hosts, now, days)
                if role == COLLECTOR
                else making.caller(by, role, name, now, days)
            )
        except ValueError as error:
            raise ConfigError(f"{name!r} cannot stand in a certificate: {error}") from error
        return self._leave(role, name, made, replace=replace)

    def _leave(self, role: str, name: str, made: Pair, *, replace: bool) -> Path:
        """The certificate in a folder of its own, and the link that everybody knows it by."""
        _, trusted, chain = self._authority()
        link = _link(role, name)
        self._point(link, self._generation(Path(link).name, made, trusted, chain), replace=replace)
        return self._directory / link

    def _generation(self, name: str, made: Pair, trusted: bytes, chain: bytes) -> Path:
        """A folder that is complete under its name, or not there."""
        parent = self._directory / _GENERATIONS
        final = parent / f"{name}-{made.certificate.serial_number:x}"
        number = 1
        while final.exists():  # the same certificate with another authority beside it
            final = parent / f"{name}-{made.certificate.serial_number:x}-{number}"
            number += 1
        begun = final.with_name(f".{final.name}")
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(mode=0o700)
        behind = b"" if name == _AUTHORITY else chain
        files: Mapping[str, tuple[bytes, int]] = {
            KEY_FILE: (made.key_pem(), 0o600),
            CERTIFICATE_FILE: (made.certificate_pem() + behind, 0o644),
            AUTHORITY_FILE: (trusted, 0o644),
            **({CHAIN_FILE: (chain, 0o644)} if name == _AUTHORITY else {}),
        }
        for each, (data, mode) in files.items():
            _write(begun / each, data, mode)
        _flush(begun)
        begun.rename(final)
        _flush(parent)
        return final

    def _point(self, link: str, folder: Path, *, replace: bool) -> None:
        """Let `link` name `folder`: at once, and only where it names nothing unless it is to be replaced."""
        path = self._directory / link
        target = os.path.relpath(folder, path.parent)
        if replace:
            beside = path.with_name(f".{path.name}")
            beside.unlink(missing_ok=True)
            beside.symlink_to(target)
            beside.replace(path)
        else:
            path.symlink_to(target)
        _flush(path.parent)

    def _prune(self) -> None:
        """Remove folders that no link names and whose certificate holds no more."""
        links = [self._directory / _AUTHORITY, *(self._directory / _ISSUED).iterdir()]
        named = {link.resolve() for link in links}
        for folder in (self._directory / _GENERATIONS).iterdir():
            if folder.resolve() in named:
                continue
            with contextlib.suppress(OSError, ConfigError):
                if parse((folder / CERTIFICATE_FILE).read_bytes()).end_ns <= self._clock().timestamp() * 1e9:
                    shutil.rmtree(folder)

    def _days(self, before: Issued) -> int:
        """As long as the one before held."""
        told = parse((before.folder / CERTIFICATE_FILE).read_bytes())
        return max(round((told.end_ns - told.start_ns) / 1e9 / 86_400), 1)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes the directory meanwhile."""
        try:
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError as error:
            raise ConfigError(f"there is no directory {self._directory}", "`warpline pki init` makes one") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _issued(folder: Path, newest: x509.Name) -> Issued:
    data = (folder / CERTIFICATE_FILE).read_bytes()
    certificate = x509.load_pem_x509_certificate(data)
    role, name = parse(data).identity() or ("", "")
    if not role:
        raise ConfigError(f"{folder} holds a certificate without a role")
    hosts = tuple(making.hosts_of(certificate)) if role == COLLECTOR else ()
    first = [name] if role == COLLECTOR else []
    ordered = tuple(dict.fromkeys([*first, *hosts]))
    return Issued(role, name, ordered, folder, certificate.not_valid_after_utc, certificate.issuer == newest)


def _link(role: str, name: str) -> str:
    return f"{_ISSUED}/{role}-{quote(name, safe='')}"


def _checked_days(days: int) -> int:
    if not 1 <= days <= DAYS_MAX:
        raise ConfigError(f"{days} days", f"1 to {DAYS_MAX}")
    return days


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
