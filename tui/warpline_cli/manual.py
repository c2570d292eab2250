"""Manual pages in the macros of man(7), made from the parsers: one of the command, one of each verb; pure."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping

from .json_keys import KEYS
from .parsers import ABOUT, children, options

EXITS: Mapping[str, str] = {
    "64": "usage or configuration error",
    "70": "a fault of warpline itself",
    "74": "a disk or stream failed",
}
FILES: Mapping[str, str] = {
    "/etc/warpline/config.toml": "settings of the machine; `warpline config print` prints every one",
    "~/.config/warpline/config.toml": "settings of a user, read after those of the machine",
}


def pages(parser: argparse.ArgumentParser, version: str) -> dict[str, str]:
    """File name -> page: `warpline.1`, and `warpline-VERB.1` for each verb of the whole command's parser."""
    verbs = children(parser)
    made = {"warpline.1": command(verbs, version)}
    return made | {f"warpline-{name}.1": verb(each, version) for name, each in verbs.items()}


def command(verbs: Mapping[str, argparse.ArgumentParser], version: str) -> str:
    """The page of the command."""
    also = ", ".join(f"warpline-{name}(1)" for name in verbs)
    parts = [
        *_head("warpline", "always-on GPU tracing and diagnosis", version),
        ".SH SYNOPSIS", ".B warpline", ".I VERB", "[options]", ".SH DESCRIPTION", text(ABOUT), ".SH VERBS",
        *_items((name, _told(each.description)) for name, each in verbs.items()),
        *_foot([]),
        ".SH FILES", *_items(FILES.items()),
        ".SH SEE ALSO", text(also),
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def verb(parser: argparse.ArgumentParser, version: str) -> str:
    """The page of a verb, its subverbs in it."""
    below = children(parser)
    lines = _head(parser.prog.replace(" ", "-"), _told(parser.description), version)
    lines += [".SH SYNOPSIS"]
    for each in below.values() or [parser]:
        lines += [".PP", text(_usage(each))]
    if not below:
        lines += _described(parser, "SH")
    for each in below.values():
        lines += [f".SH {text(each.prog.removeprefix('warpline ').upper())}", text(_told(each.description))]
        lines += _described(each, "SS")
    lines += _foot([_told(parser.epilog)] if parser.epilog and not below else [])
    lines += [".SH SEE ALSO", "warpline(1)"]
    return "\n".join(lines) + "\n"


def text(words: str) -> str:
    """Words that no request and no escape can be made of, on one line."""
    line = re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", words)).strip()
    line = line.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{line}" if line.startswith((".", "'")) else line


def _head(name: str, meaning: str, version: str) -> list[str]:
    title = f'.TH {text(name.upper())} 1 "" "warpline {text(version)}" "warpline"'
    return [title, ".nh", ".ad l", ".SH NAME", f"{text(name)} \\- {text(meaning)}"]


def _foot(told: Iterable[str]) -> list[str]:
    return [".SH EXIT STATUS", *map(text, told), *_items(EXITS.items())]


def _described(parser: argparse.ArgumentParser, heading: str) -> list[str]:
    """What a parser takes, and what it prints as JSON."""
    lines = [f".{heading} OPTIONS", *_items(_option(parser, each) for each in options(parser))]
    if heading == "SS" and parser.epilog:
        lines += [".PP", text(_told(parser.epilog))]
    keys = KEYS.get(parser.prog.removeprefix("warpline "))
    if keys:
        lines += [f".{heading} JSON", text("With --json one document goes to standard output. Its keys stay:")]
        lines += _items(keys.items())
    return lines


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str]:
    formatter = parser._get_formatter()
    told = formatter._expand_help(action) if action.help else ""
    if not action.option_strings:
        return formatter._format_args(action, action.dest.upper()), told
    value = "" if action.nargs == 0 else " " + formatter._format_args(action, action.dest.upper())
    return ", ".join(action.option_strings) + value, told


def _items(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, told in pairs:
        yield ".TP"
        yield f"\\fB{text(name)}\\fR"
        yield text(told) or "\\&"


def _usage(parser: argparse.ArgumentParser) -> str:
    return parser.format_usage().removeprefix("usage: ")


def _told(words: str | None) -> str:
    """Words as argparse prints them."""
    return (words or "").replace("%%", "%")
