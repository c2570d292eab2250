"""The command `warpline`: reads the verb, imports its file, runs it, turns errors into one sentence and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol, cast

EXIT_USAGE = 64
"""Usage or configuration error (EX_USAGE of sysexits.h); verdict codes 0 to 3 are left to `analyze`."""

VERBS = {
    "demo": "a whole run on this machine without a GPU: faults injected, findings printed",
    "analyze": "recorded files in, findings out, offline",
    "agent": "read this node and send to a collector",
    "collector": "take frames in, keep them, answer SQL, run the analysis",
    "top": "the terminal screen",
    "findings": "what is wrong now, and since when",
    "sql": "ask the store",
    "doctor": "what works on this machine and what does not",
    "config": "print or check the configuration",
}
EXTRAS = {
    "agent": "agent", "collector": "collector", "analyze": "analyze", "demo": "all", "top": "tui",
    "findings": "collector", "sql": "collector",
}  # fmt: skip


class Verb(Protocol):
    """What a file in `verbs` offers."""

    def arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace) -> int: ...


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in (["--version"], ["version"]):
        print(f"warpline {_version()}")
        return 0
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else EXIT_USAGE
    name, rest = words[0], words[1:]
    if name not in VERBS:
        print(f"warpline: there is no verb {name!r}: {_nearest(name)}", file=sys.stderr)
        return EXIT_USAGE
    return _run(name, rest)


def _run(name: str, rest: list[str]) -> int:
    verb = cast(Verb, importlib.import_module(f"warpline_cli.verbs.{name}"))
    parser = _Parser(prog=f"warpline {name}", description=VERBS[name])
    verb.arguments(parser)
    options = parser.parse_args(rest)
    try:
        return verb.run(options)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("warpline_"):
            raise
        extra = EXTRAS.get(name, "all")
        print(f"warpline {name} needs {error.name}: pip install 'warpline[{extra}]'", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        if not _ours(error):
            raise
        print(f"warpline {name}: {error}", file=sys.stderr)
        return EXIT_USAGE


def _ours(error: Exception) -> bool:
    from warpline_proto.errors import WarplineError

    return isinstance(error, WarplineError)


def _nearest(name: str) -> str:
    from warpline_proto.config import nearest

    return nearest(name, VERBS)


def _version() -> str:
    from importlib.metadata import version

    return version("warpline")


def _help() -> str:
    lines = ["usage: warpline VERB [options]", "", "Always-on GPU tracing and diagnosis.", ""]
    lines += [f"  {name:<10} {meaning}" for name, meaning in VERBS.items()]
    lines += ["", "`warpline VERB --help` says more. Exit 64: usage or configuration error."]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
