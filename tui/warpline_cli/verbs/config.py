"""`warpline config`: print every setting with its value, say where it is read from, or check a file."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from warpline_cli.streams import tell

HALVES: Final = ("agent", "collector")
"""What an agent's machine has installed is enough for the first, and that is part of what the second needs."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which file."""
    parser.add_argument(
        "action", choices=("print", "validate", "path"), help="print the settings, check them, or name the files"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file to read instead of those of the system and the user"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object: `files`, `absent`, and for print `settings`"
    )


def run(options: argparse.Namespace) -> int:
    """A ConfigError goes to the command's rim: one sentence, exit 64."""
    from warpline_proto.config import files, load, render
    from warpline_proto.defaults import SYSTEM_CONFIG, USER_CONFIG

    paths = files(options.config)
    if options.action == "path":
        if options.json:
            return _json(paths, [])
        print("\n".join(map(str, paths)) or f"no file: {SYSTEM_CONFIG} and {USER_CONFIG} do not exist, defaults hold")
        return 0
    known, absent = sections()
    of_screen, without = _of_screen()
    absent += without
    settings = load(known | of_screen, paths)
    if options.action == "validate" and of_screen:
        _check_keys(settings["tui"].keys)
    for words in absent:
        tell(words)
    if options.json:
        return _json(paths, absent, settings if options.action == "print" else None)
    if options.action == "print":
        print(render(settings), end="")
    else:
        print(f"valid: {', '.join(map(str, paths)) or 'no file, defaults hold'}")
    return 0


def _json(paths: Sequence[Path], absent: Sequence[str], settings: dict[str, Any] | None = None) -> int:
    from warpline_proto.plain import plain

    document: dict[str, Any] = {"files": list(map(str, paths)), "absent": list(absent)}
    if settings is not None:
        document["settings"] = {name: plain(dataclasses.asdict(each)) for name, each in settings.items()}
    print(json.dumps(document, indent=2))
    return 0


def _of_screen() -> tuple[dict[str, type[Any]], list[str]]:
    """Section [tui], or a sentence where nothing is installed that draws a screen."""
    try:
        settings = importlib.import_module("warpline_tui.settings")
    except ModuleNotFoundError as error:
        return {}, [f"section [tui] is left out without {error.name}"]
    return {settings.SECTION: settings.Tui}, []


def _check_keys(wanted: Mapping[str, str]) -> None:
    """ConfigError where [tui.keys] names what is no key, or gives one key to two."""
    from warpline_tui.app import WarplineApp
    from warpline_tui.bindings import declared, keymap

    keymap(declared(WarplineApp.BINDINGS), wanted)


def sections() -> tuple[dict[str, type[Any]], list[str]]:
    """Sections of the file that agent and collector share, and a sentence for each half that is not installed here.

    ModuleNotFoundError where neither is.
    """
    known: dict[str, type[Any]] = {}
    absent: list[ModuleNotFoundError] = []
    for half in HALVES:
        try:
            known |= importlib.import_module(f"warpline_{half}.config").sections()
        except ModuleNotFoundError as error:
            absent.append(error)
    if not known:
        raise absent[0]
    return known, [f"section [collector] is left out without {error.name}" for error in absent]
