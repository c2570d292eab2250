"""`warpline pki`: an authority of one's own, and the certificates with which agents, people and the collector know each other."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from warpline_cli.streams import tell

if TYPE_CHECKING:
    from pathlib import Path

    from warpline_cli.pki.keeping import Keeping

DIRECTORY: Final = "/etc/warpline/pki"
NEXT: Final = "copy {folder}/*.pem to /etc/warpline/tls on {where}, and name them under [tls]"


def arguments(parser: argparse.ArgumentParser) -> None:
    """One parser for each thing to do."""
    kind = type(parser)
    added = parser.add_subparsers(dest="subverb", metavar="SUBVERB", required=True, parser_class=kind)
    start = added.add_parser("init", help="make an authority")
    start.add_argument("--days", type=int, help="how long it holds (3650)")
    issue = added.add_parser("issue", help="make a certificate, with its key, for whom it names")
    whom = issue.add_mutually_exclusive_group(required=True)
    whom.add_argument(
        "--agent", nargs="+", metavar="NODE", help="agents, by the node each speaks for: `node` of [agent]"
    )
    whom.add_argument("--viewer", nargs="+", metavar="NAME", help="people and programs that may ask")
    whom.add_argument("--operator", nargs="+", metavar="NAME", help="people who may also ask for captures")
    whom.add_argument("--collector", metavar="HOST[,HOST...]", help="the collector, by the names it is called by")
    issue.add_argument("--days", type=int, help="how long it holds (397)")
    rotate = added.add_parser("rotate", help="renew what was issued, and the authority")
    rotate.add_argument("--expiring", type=int, metavar="DAYS", help="only what ends within so many days")
    step = rotate.add_mutually_exclusive_group()
    step.add_argument("--authority", action="store_true", help="a new authority too, trusted beside the old one")
    step.add_argument("--finish", action="store_true", help="trust the new authority alone")
    show = added.add_parser("show", help="what ends when")
    for each in (start, issue, rotate, show):
        each.add_argument("--json", action="store_true", help="one JSON object")
        each.add_argument("--directory", default=DIRECTORY, metavar="DIR", help="where it is all kept (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Do it, and say what is to be done next."""
    from pathlib import Path

    from warpline_cli.pki.keeping import Keeping

    kept = Keeping(Path(options.directory))
    return {"init": _init, "issue": _issue, "rotate": _rotate, "show": _show}[options.subverb](kept, options)


def _init(kept: Keeping, options: argparse.Namespace) -> int:
    from warpline_cli.pki.making import AUTHORITY_DAYS

    kept.start(AUTHORITY_DAYS if options.days is None else options.days)
    tell(
        f"an authority is in {options.directory}: who reads its key may call as anybody, keep it from the fleet's machines"
    )
    tell("next: warpline pki issue --collector HOST, and --agent NODE for each node")
    if options.json:
        print(json.dumps({"directory": options.directory}))
    return 0


def _issue(kept: Keeping, options: argparse.Namespace) -> int:
    from warpline_cli.pki.keeping import DAYS

    days = DAYS if options.days is None else options.days
    if options.collector:
        hosts = [each.strip() for each in options.collector.split(",") if each.strip()]
        return _folders([kept.issue("collector", hosts[0] if hosts else "", hosts, days)], options)
    named = [(role, name) for role in ("agent", "viewer", "operator") for name in getattr(options, role) or ()]
    return _folders((kept.issue(role, name, days=days) for role, name in named), options)


def _folders(made: Iterable[Path], options: argparse.Namespace) -> int:
    """Where certificates lie, a line each as they are made, or together as JSON."""
    if options.json:
        print(json.dumps({"folders": list(map(str, made))}))
        return 0
    for each in made:
        print(each)
    return 0


def _rotate(kept: Keeping, options: argparse.Namespace) -> int:
    from datetime import timedelta

    from warpline_cli.pki.making import AUTHORITY_DAYS

    if options.finish:
        kept.finish()
        tell("the new authority alone is trusted: bring the new authority.pem to the collector last")
        return _folders((each.folder for each in kept.issued()), options)
    if options.authority:
        kept.succeed(AUTHORITY_DAYS)
        tell("a new authority is trusted beside the old one; once all certificates are brought out: --finish")
    within = None if options.expiring is None else timedelta(days=options.expiring)
    return _folders((each.folder for each in kept.renew(within)), options)


def _show(kept: Keeping, options: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    rows: list[tuple[str, str, datetime, tuple[str, ...]]] = [
        ("authority", each.subject.rfc4514_string(), each.not_valid_after_utc, ()) for each in kept.authorities()
    ]
    rows += [(each.role, each.name, each.end, each.hosts) for each in kept.issued()]
    if options.json:
        names = ("role", "name", "ends", "hosts")
        told = [dict(zip(names, row, strict=True)) for row in rows]
        print(json.dumps({"certificates": told}, default=datetime.isoformat, indent=2))
        return 0
    for role, name, end, hosts in rows:
        days = (end - now).days
        when = f"ends {end:%Y-%m-%d}, " + (f"in {days} days" if days >= 0 else "over")
        print(f"{role:<10} {name:<40} {when}  {' '.join(hosts)}".rstrip())
    return 0
