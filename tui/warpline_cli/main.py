"""The command `warpline`: reads the verb, imports its file, runs it, turns errors into one sentence and an exit code."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn, Protocol, cast

from warpline_cli import streams

EXIT_USAGE = 64
"""Usage or configuration error (EX_USAGE of sysexits.h); verdict codes 0 to 3 are left to `analyze`."""
EXIT_BROKEN = 70
"""A fault of warpline's own (EX_SOFTWARE): never 1, which is a verdict."""
EXIT_OUTPUT = 74
"""A file or stream failed while it was read or written (EX_IOERR): the disk is full, standard output is closed."""

VERBS = {
    "demo": "a whole run on this machine without a GPU: faults injected, findings printed",
    "analyze": "recorded files in, findings out, offline",
    "run": "a training command, with what its ranks do recorded for the agent",
    "agent": "read this node and send to a collector",
    "collector": "take frames in, keep them, answer SQL, run the analysis",
    "top": "the terminal screen",
    "serve": "the terminal screen in a browser",
    "status": "the fleet: which agents are late, dropping, skewed or over budget, of which version",
    "findings": "what is wrong now, and since when",
    "explain": "one finding as Markdown, for a ticket: who, since when, what to do, on which evidence",
    "report": "a page with plots: what was wrong, how fast and at what cost, of a job or a day",
    "sql": "ask the store",
    "power": "joules and money: who drew what, in which state, and what can be done about it",
    "capture": "fetch the raw kernels of a rank and a time from its node",
    "export": "what is kept of a rank and a time, as a trace for the Perfetto UI",
    "notify": "who is told of incidents; a made-up one, to see that they hear",
    "store": "look after what is kept: check, repair, compact, backup",
    "doctor": "what works on this machine and what does not",
    "pki": "certificates for agents, people and the collector, where there is no authority",
    "config": "print or check the configuration",
    "completion": "what bash, zsh and fish complete after `warpline`",
    "man": "manual pages, made from what the verbs take",
}
EXTRAS = {
    "agent": "agent", "collector": "collector", "analyze": "analyze", "demo": "all", "top": "tui", "serve": "serve",
    "power": "collector", "findings": "collector", "sql": "collector", "export": "collector", "capture": "collector",
    "status": "collector", "store": "collector", "notify": "collector", "pki": "pki", "explain": "collector", "report": "report",
    "completion": "completion",
}  # fmt: skip
WITH_DUCKDB = ("collector", "analyze", "report", "all")
"""Extras that bring the database; a verb of another extra needs it only for `--store`."""


class Verb(Protocol):
    """What a file in `verbs` offers."""

    def arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace) -> int: ...


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        streams.tell(f"{self.format_usage()}{self.prog}: {message}")
        raise SystemExit(EXIT_USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = next(iter(words), "")
    if name != "run":  # the command that it becomes gets streams and environment as they are
        streams.prepare()
    try:
        with streams.ended_by_signals():
            try:
                return _run(name, words[1:]) if name in VERBS else _about(name)
            finally:
                sys.stdout.flush()
    except BrokenPipeError:
        streams.give_up_output()
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        return _failed(name, error)


def verb_of(name: str) -> Verb:
    """The file of a verb."""
    return cast(Verb, importlib.import_module(f"warpline_cli.verbs.{name}"))


def _run(name: str, rest: list[str]) -> int:
    verb = verb_of(name)
    parser = _Parser(prog=f"warpline {name}", description=VERBS[name])
    verb.arguments(parser)
    return verb.run(parser.parse_args(rest))


def _about(word: str) -> int:
    """What is no verb: a question about the command itself, or a mistake."""
    if word in ("--version", "version"):
        print(f"warpline {_version()}")
        return 0
    if word in ("-h", "--help", "help"):
        print(_help())
        return 0
    if not word:
        streams.tell(_help())
    else:
        streams.tell(f"warpline: there is no verb {word!r}: {_nearest(word)}")
    return EXIT_USAGE


def _failed(name: str, error: Exception) -> int:
    """One sentence for what a user can mend; a traceback only for what is a fault of warpline's own."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("warpline_"):
        library = error.name.partition(".")[0]
        streams.tell(f"warpline {name} needs {library}: pip install 'warpline[{_extra(name, library)}]'")
        return EXIT_USAGE
    if _ours(error):
        streams.tell(f"warpline {name}: {error}")
        return EXIT_USAGE
    if isinstance(error, OSError):
        streams.give_up_output()
        where = f"{error.filename}: " if error.filename is not None else ""
        streams.tell(f"warpline {name}: {where}{error.strerror or error}")
        return EXIT_OUTPUT
    streams.tell("".join(traceback.format_exception(error)))
    streams.tell(f"warpline {name}: this is a fault of warpline: please report it with the lines above")
    return EXIT_BROKEN


def _extra(name: str, library: str) -> str:
    extra = EXTRAS.get(name, "all")
    return "collector" if library == "duckdb" and extra not in WITH_DUCKDB else extra


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
    lines += [
        "",
        "`warpline VERB --help` says more. Exit 64: usage or configuration error, 70: a fault of warpline itself,",
    ]
    lines += ["74: a disk or stream failed."]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
