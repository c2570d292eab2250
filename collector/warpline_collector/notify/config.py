"""What a user may set of notification: who is told, of what, how often."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from warpline_proto.errors import ConfigError
from warpline_proto.finding import GRAVITY, Finding, FindingKind, Severity

from ..notifiers import NOTIFIERS

RECEIVERS_MAX: Final = 16
HOURS_MAX: Final = 24.0 * 365
SECONDS_MAX: Final = 3_600.0
SECRET_BYTES_MAX: Final = 8 * 1024
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_BLANK: Final = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True)
class Receiver:
    """One who is told: `kind` is webhook, slack or alertmanager.

    Its URL stands in `url`, or as the first line of `url_file` where it is a password or holds one; that file is read for each
    message. What stands in `token_file` is sent as a bearer token. It is told of incidents of at least `severity`, of these
    `kinds` (all, if empty), in jobs whose names match one of the patterns `jobs` (all, and what belongs to no job, if empty);
    with `resolved` also that they are over. What stands is told again after `repeat_hours`, never if that is 0.
    """

    name: str = ""
    kind: str = ""
    url: str = ""
    url_file: str = ""
    token_file: str = ""
    severity: str = "warning"
    kinds: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    resolved: bool = True
    repeat_hours: float = 24.0
    timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name {self.name!r} is not made of small letters, digits, _ and -")
        if self.kind not in NOTIFIERS:
            raise ValueError(f"kind {self.kind!r} is none of {', '.join(NOTIFIERS)}")
        if bool(self.url) == bool(self.url_file):
            raise ValueError(f"receiver {self.name} needs one of url and url_file")
        if self.url:
            _check_open_url(self.url, self.kind)
        if self.severity not in tuple(Severity):
            raise ValueError(f"severity {self.severity!r} is none of {', '.join(Severity)}")
        if unknown := sorted(set(self.kinds) - set(FindingKind)):
            raise ValueError(f"kinds {', '.join(unknown)}: there are {', '.join(FindingKind)}")
        if not 0 <= self.repeat_hours <= HOURS_MAX:
            raise ValueError(f"repeat_hours is within 0 and {HOURS_MAX:g}")
        if not 0 < self.timeout_seconds <= SECONDS_MAX:
            raise ValueError(f"timeout_seconds is more than 0, and {SECONDS_MAX:g} at most")

    def wants(self, finding: Finding) -> bool:
        """Whether it is told of this one."""
        if GRAVITY[finding.severity] > GRAVITY[Severity(self.severity)]:
            return False
        if self.kinds and finding.kind not in self.kinds:
            return False
        return not self.jobs or any(fnmatchcase(finding.subject.job or "", pattern) for pattern in self.jobs)

    def address(self) -> str:
        """The URL, as its file has it now; ConfigError without the URL where it cannot be used."""
        if not self.url_file:
            return self.url
        url = _first_line(self.url_file, "url_file")
        try:
            _check_url(url)
        except ValueError as error:
            raise ConfigError(f"receiver {self.name}: the first line of {self.url_file} {error}") from None
        return url

    def token(self) -> str:
        """The bearer token, as its file has it now; empty where there is none."""
        return _first_line(self.token_file, "token_file") if self.token_file else ""


@dataclass(frozen=True)
class Config:
    """Receivers of incidents, none by default.

    What opens in one job, else on one node, within `group_seconds` is one message. An incident that is over is told as such
    once it stayed so for `closed_seconds`. `cluster` names this collector where receivers hear several.
    """

    group_seconds: float = 15.0
    closed_seconds: float = 120.0
    cluster: str = ""
    receivers: tuple[Receiver, ...] = ()

    def __post_init__(self) -> None:
        for name in ("group_seconds", "closed_seconds"):
            if not 0 <= getattr(self, name) <= SECONDS_MAX:
                raise ValueError(f"{name} is within 0 and {SECONDS_MAX:g}")
        if len(self.receivers) > RECEIVERS_MAX:
            raise ValueError(f"{len(self.receivers)} receivers: {RECEIVERS_MAX} at most")
        twice = [name for name, count in Counter(each.name for each in self.receivers).items() if count > 1]
        if twice:
            raise ValueError(f"two receivers are called {', '.join(twice)}")

    def check_files(self) -> None:
        """ConfigError where a file of a URL or a token cannot be read now."""
        for receiver in self.receivers:
            receiver.address()
            receiver.token()


def _check_open_url(url: str, kind: str) -> None:
    """One that may stand in a settings file: `warpline config print` shows it to whoever may run it."""
    _check_url(url, "url ")
    parts = urlsplit(url)
    if NOTIFIERS[kind].secret or parts.username or parts.password or parts.query:
        raise ValueError("a url that holds a password or a token stands in a file of its own: name that as url_file")


def _check_url(url: str, name: str = "") -> None:
    """ValueError, without what it says, unless it is a URL of HTTP or HTTPS."""
    wrong = f"{name}is not http://HOST/... or https://HOST/..."
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(wrong) from None
    if parts.scheme not in ("http", "https") or not host or _BLANK.search(url) or not url.isascii():
        raise ValueError(wrong)


def _first_line(path: str, name: str) -> str:
    try:
        with Path(path).open("rb") as stream:
            text = stream.read(SECRET_BYTES_MAX).decode()
    except OSError as error:
        raise ConfigError(f"{name} {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{name} {path} is no text") from None
    line = text.partition("\n")[0].strip()
    if not line or _BLANK.search(line):
        raise ConfigError(f"{name} {path} has no single word in its first line")
    return line
