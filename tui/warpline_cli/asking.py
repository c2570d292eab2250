"""Where a verb's questions go: a running collector, or a store directory that nobody needs to run."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from warpline_proto.client import QueryClient
    from warpline_proto.tls import Tls

_SPAN: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Query(Protocol):
    """One statement in, rows out; QueryError if there are none to be had."""

    def __call__(self, sql: str) -> pa.Table: ...


def arguments(parser: argparse.ArgumentParser) -> None:
    """--collector, --tls and --store."""
    from warpline_proto.defaults import COLLECTOR_ADDRESS

    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--collector", default=COLLECTOR_ADDRESS, metavar="ADDR", help="ask a running collector (%(default)s)"
    )
    where.add_argument("--store", metavar="DIR", help="ask a store directory; no collector needs to run")
    certificates(parser)


def certificates(parser: argparse.ArgumentParser) -> None:
    """--tls."""
    parser.add_argument(
        "--tls", metavar="DIR", help="certificate.pem, key.pem and authority.pem to call with, in the place of [tls]"
    )


def client(options: argparse.Namespace) -> QueryClient:
    """A client of the collector that `options` name, with the certificates that they or the settings name."""
    from warpline_proto.client import QueryClient

    return QueryClient(options.collector, tls(options))


def tls(options: argparse.Namespace) -> Tls:
    """What is shown to a collector. Settings that cannot be read keep nobody from asking one on this machine."""
    from warpline_cli.streams import tell
    from warpline_proto.config import files, load
    from warpline_proto.errors import ConfigError
    from warpline_proto.tls import NONE, SECTION, Tls, is_local

    if options.tls is not None:
        return Tls.within(options.tls)
    explicit = getattr(options, "config", None)
    try:
        found: Tls = load({SECTION: Tls}, files(explicit))[SECTION]
    except ConfigError as error:
        if explicit is not None or not is_local(options.collector):
            raise
        tell(f"no certificates: {error}")
        return NONE
    return found


@contextlib.contextmanager
def collector(options: argparse.Namespace) -> Iterator[Query]:
    """Questions to the collector that `options` name."""
    with client(options) as opened:
        yield opened.query


@contextlib.contextmanager
def trusted(options: argparse.Namespace) -> Iterator[Query]:
    """Questions that are warpline's own: a store is read in this process."""
    if options.store is None:
        with collector(options) as query:
            yield query
        return
    from pathlib import Path

    from warpline_collector.reader import CatalogReader

    with CatalogReader(Path(options.store)) as reader:
        yield reader.query


def moment_ns(words: str | None, option: str) -> int | None:
    """A moment as a user writes it, ns since 1970: a number of them, or ISO 8601; ConfigError if it is neither."""
    from datetime import UTC, datetime, timedelta

    from warpline_proto.errors import ConfigError

    if words is None:
        return None
    if words.isdigit():
        return int(words)
    try:
        moment = datetime.fromisoformat(words)
    except ValueError as error:
        raise ConfigError(f"{option} {words!r} is no time", "ns since 1970, or like 2026-01-31T12:00:00.5") from error
    since = moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.fromtimestamp(0, UTC)
    return since // timedelta(microseconds=1) * 1_000


def since_ns(words: str, now_ns: int, option: str) -> int:
    """A span before `now_ns` such as 30m, 24h or 7d, or a moment, ns since 1970; ConfigError if it is neither."""
    if found := _SPAN.fullmatch(words):
        return now_ns - int(found[1]) * _UNIT_SECONDS[found[2]] * 10**9
    moment = moment_ns(words, option)
    assert moment is not None
    return moment


def text(value: str) -> str:
    """A text as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"
