"""`warpline doctor`: what works on this machine and what does not, each with a reason and what to do.

Exit 0 all well, 1 something is limited, 2 something is broken. A machine without a GPU is a state, not an error.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

PARTS: Final = {"agent": ("pynvml", "psutil"), "collector": ("duckdb",), "tui": ("textual",)}
WIRE: Final = ("pyarrow", "grpc", "zstandard", "numpy", "google.protobuf")
CLOCK_UNSYNCHRONISED: Final = 5
"""adjtimex's TIME_ERROR: nothing disciplines the system clock."""
RANKS_MIN: Final = 16
"""Training processes of one node for which there is to be room."""
TROUBLES_MAX: Final = 20
TROUBLES_SQL: Final = (
    "SELECT source, subject, state, reason FROM source_state WHERE node = '{node}' AND state IN ('busy', 'denied', 'dead', "
    "'refused') AND time_ns > (SELECT max(time_ns) FROM source_health WHERE node = '{node}') - {age_ns} "
    "ORDER BY source, subject LIMIT {rows}"
)
"""What of a node gives nothing at present, and why; trouble that lasts is told once a minute."""
TROUBLE_AGE_NS: Final = 150 * 10**9
EXIT: Final = {"ok": 0, "absent": 0, "limited": 1, "broken": 2}


@dataclass(frozen=True)
class Check:
    """One answer: `id` is stable, `state` is ok, absent (not there and not needed), limited or broken."""

    id: str
    state: str
    detail: str
    hint: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `warpline doctor`."""
    from warpline_cli import asking
    from warpline_proto.defaults import COLLECTOR_ADDRESS

    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asking.certificates(parser)
    parser.add_argument(
        "--collector", default=COLLECTOR_ADDRESS, metavar="ADDR", help="collector to look for (%(default)s)"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file to check instead of those of the system and the user"
    )
    parser.epilog = "Exit 0: all of it works or is not needed, 1: something is limited, 2: something is broken."


def run(options: argparse.Namespace) -> int:
    """Run every check, print them, return the worst."""
    checks = [
        *_python(),
        *_configuration(options.config),
        *_sources(),
        _clock(),
        _capture(),
        _hook(),
        _certificates(options),
        _collector(options),
        *_troubles(options),
    ]
    worst = max(EXIT[check.state] for check in checks)
    if options.json:
        print(json.dumps({"exit": worst, "checks": [asdict(check) for check in checks]}, indent=2))
        return worst
    for check in checks:
        print(f"{check.state:<8} {check.id:<24} {check.detail}")
        if check.hint and check.state != "ok":
            print(f"{'':<8} {'':<24} -> {check.hint}")
    return worst


def _python() -> Iterator[Check]:
    yield Check("python", "ok", sys.version.split()[0])
    for part, modules in PARTS.items():
        absent = [name for name in (*WIRE, *modules) if not _importable(name)]
        yield (
            Check(f"install.{part}", "absent", f"needs {', '.join(absent)}", f"pip install 'warpline[{part}]'")
            if absent
            else Check(f"install.{part}", "ok", "all libraries found")
        )


def _importable(name: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _configuration(explicit: str | None) -> Iterator[Check]:
    from warpline_cli.verbs.config import sections
    from warpline_proto.config import files, load
    from warpline_proto.errors import ConfigError

    paths = files(explicit)
    try:
        known, absent = sections()
        load(known, paths)
    except ConfigError as error:
        yield Check("config", "broken", error.message, error.hint)
    except ModuleNotFoundError as error:
        yield Check("config", "absent", f"not checked without {error.name}")
    else:
        read = ", ".join(map(str, paths)) or "no file, defaults hold"
        yield Check("config", "ok", "; ".join([read, *absent]))


def _sources() -> Iterator[Check]:
    """Open each live source as the agent would, and give it back."""
    try:
        from warpline_agent.config import MADE_UP, sections
        from warpline_agent.sources import SOURCES
    except ModuleNotFoundError as error:
        yield Check("sources", "absent", f"not opened without {error.name}", "pip install 'warpline[agent]'")
        return
    from warpline_proto.errors import Busy, Denied, SourceError, Unsupported

    states = {Unsupported: "absent", Denied: "limited", Busy: "limited"}
    kinds = sections()
    for name, kind in SOURCES.items():
        if name in MADE_UP:
            continue
        source = kind(kinds[f"sources.{name}"]())  # type: ignore[call-arg]  # every source takes its settings
        try:
            source.open()
        except SourceError as error:
            yield Check(f"source.{name}", states.get(type(error), "broken"), error.message, error.hint)
        except ModuleNotFoundError as error:
            yield Check(f"source.{name}", "absent", f"needs {error.name}", "pip install 'warpline[agent]'")
        else:
            yield Check(f"source.{name}", "ok", "can be read")
        finally:
            source.close()


def _clock() -> Check:
    """Whether the kernel says that something keeps the clock; cross-host times are worth only as much."""
    room = ctypes.create_string_buffer(256)  # struct timex, all zero: read only
    state = ctypes.CDLL(None, use_errno=True).adjtimex(room)
    if state < 0:
        return Check("clock", "limited", "the kernel does not tell whether the clock is synchronised")
    if state == CLOCK_UNSYNCHRONISED:
        hint = "run chrony or systemd-timesyncd; times are not compared across hosts until then"
        return Check("clock", "limited", "nothing synchronises the system clock", hint)
    return Check("clock", "ok", "synchronised")


def _capture() -> Check:
    """Whether there is a native library that this machine can load."""
    from warpline_hook.library import library

    found = library()
    if found is None:
        hint = "install warpline from a wheel for this processor, or from source where there is a C compiler"
        return Check(
            "capture", "absent", "no capture library: kernels come from trace files, steps from the hook", hint
        )
    try:
        ctypes.CDLL(str(found))
    except OSError as error:
        return Check("capture", "broken", f"the capture library cannot be loaded: {error}", "reinstall warpline")
    return Check("capture", "ok", f"capture library {found}")


def _hook() -> Check:
    """Whether interpreters of this environment find the hook, and whether there is room for what it writes."""
    import os
    import site
    from pathlib import Path

    from warpline_hook.environment import directory
    from warpline_hook.layout import FILE_BYTES

    folders = [*site.getsitepackages(), site.getusersitepackages()]
    if not any(Path(each, "warpline_hook.pth").is_file() for each in folders):
        return Check("hook", "absent", "this Python was not given the hook", "pip install warpline in it")
    where = directory(os.environ)
    try:
        space = os.statvfs(where)
    except OSError as error:
        return Check("hook", "limited", f"{where}: {error.strerror}", "set WARPLINE_DIRECTORY to a folder on memory")
    ranks = space.f_bavail * space.f_frsize // FILE_BYTES
    if ranks < RANKS_MIN or not os.access(where, os.W_OK):
        hint = "make room there, or set WARPLINE_DIRECTORY for the jobs"
        return Check("hook", "limited", f"{where} has room for {ranks} ranks, or is not writable", hint)
    return Check("hook", "ok", f"jobs of this Python that ask for it record their steps in {where}")


def _certificates(options: argparse.Namespace) -> Check:
    """Whether there are certificates to call a collector of another machine with, and for how long."""
    from warpline_cli.pki.looking import look

    found = look(options)
    return Check("certificates", found.state, found.detail, found.hint)


def _troubles(options: argparse.Namespace) -> Iterator[Check]:
    """What the agent of this machine says of sources, and of training processes, that give nothing."""
    if any(not _importable(name) for name in WIRE):
        return
    from warpline_cli import asking
    from warpline_proto.errors import ConfigError, QueryError

    node = _node(options.config).replace("'", "''")
    sql = TROUBLES_SQL.format(node=node, age_ns=TROUBLE_AGE_NS, rows=TROUBLES_MAX)
    try:
        with asking.client(options) as client:
            rows = client.query(sql).to_pylist()
    except (ConfigError, QueryError):  # said of the collector itself
        return
    for row in rows:
        yield Check(f"agent.{row['source']}", "limited", f"{row['subject']}: {row['state']}: {row['reason']}")


def _node(explicit: str | None) -> str:
    """The name that the agent of this machine bears."""
    import platform

    from warpline_cli.verbs.config import sections
    from warpline_proto.config import files, load
    from warpline_proto.errors import ConfigError

    try:
        agent = load(sections()[0], files(explicit)).get("agent")
    except (ConfigError, ModuleNotFoundError):
        agent = None
    return str(getattr(agent, "node", platform.node()))


def _collector(options: argparse.Namespace) -> Check:
    missing = [name for name in WIRE if not _importable(name)]
    if missing:
        return Check("collector", "absent", f"not asked without {', '.join(missing)}")
    from warpline_cli import asking
    from warpline_proto.errors import ConfigError, QueryError

    try:
        with asking.client(options) as client:
            status = client.status()
    except (ConfigError, QueryError) as error:
        return Check("collector", "absent", error.message, error.hint)
    return Check("collector", "ok", f"version {status.version} at {options.collector}, {status.agents} agents")
