"""Configuration: frozen dataclasses filled from TOML, environment and flags; a bad key names the nearest known one.

A component's settings are a frozen dataclass with a default for each field; its section of the TOML file has the same name. A
field that is a tuple of dataclasses is an array of tables there: `[[collector.notify.receivers]]`.
Precedence: flag > WARPLINE_<SECTION>_<KEY> > user file > system file > default.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, Union

from .defaults import SYSTEM_CONFIG, USER_CONFIG
from .errors import ConfigError

SCHEMA_VERSION = 1
ROOTS = frozenset({"agent", "sources", "collector", "power", "tls", "tui"})
"""Top-level sections of the one file that agent, collector and users share; each reads its own and passes over the others'."""
FILE_BYTES_MAX: Final = 1024 * 1024
"""Longest file that is read."""
PORT_MAX: Final = 65_535
_ADDRESS: Final = re.compile(r"(?:[^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
Settings = TypeVar("Settings")
Sections = Mapping[str, type[Any]]
"""Section name (dots for nesting: `sources.nvml`) -> the dataclass that holds its settings."""


def files(explicit: str | None = None) -> list[Path]:
    """Files to read, weakest first: the named one alone, or those of the system and the user that exist."""
    if explicit is not None:
        return [Path(explicit)]
    return [path for path in (Path(SYSTEM_CONFIG), Path(USER_CONFIG).expanduser()) if path.is_file()]


def load(
    sections: Sections, paths: Iterable[Path] = (), environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Section name -> its filled dataclass. ConfigError names file, section and key, and the nearest known key."""
    values: dict[str, dict[str, Any]] = {name: {} for name in sections}
    for path in paths:
        for name, section in _read(path, sections).items():
            _check_section(sections[name], section, f"{path}: [{name}]")
            values[name].update(section)
    for name, key, text in _environment(sections, os.environ if environment is None else environment):
        values[name][key] = _from_text(sections[name], key, text, f"environment variable {variable(name, key)}")
    return {name: fill(sections[name], values[name], f"[{name}]") for name in sections}


def variable(section: str, key: str) -> str:
    """The environment variable that sets `key` of `section`."""
    return f"WARPLINE_{section}_{key}".upper().replace(".", "_")


def fill(kind: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    """One dataclass from plain values; unknown keys and wrong types are ConfigErrors."""
    _check_section(kind, values, where)
    hints = typing.get_type_hints(kind)
    try:
        return kind(**{key: _freeze(hints[key], value, f"{where} {key}") for key, value in values.items()})
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def check_address(value: str, name: str) -> None:
    """ValueError unless `value` is host:port, [IPv6]:port or unix:PATH."""
    if re.fullmatch("unix:.+", value):
        return
    match = _ADDRESS.fullmatch(value)
    if match is None:
        raise ValueError(f"{name} {value!r} is not host:port")
    if int(match[1]) > PORT_MAX:
        raise ValueError(f"{name} {value!r}: the highest port is {PORT_MAX}")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint: the nearest known word, else all of them."""
    listed = sorted(known)
    close = difflib.get_close_matches(word, listed, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(listed)}"


def render(sections: Mapping[str, Any]) -> str:
    """The settings as TOML, ready to be read back."""
    lines = [f"schema_version = {SCHEMA_VERSION}"]
    for name, settings in sections.items():
        lines += ["", f"[{name}]"]
        lines += _keys(settings)
        for field in dataclasses.fields(settings):
            for inner in _tables(getattr(settings, field.name)):
                lines += ["", f"[[{name}.{field.name}]]", *_keys(inner)]
    return "\n".join(lines) + "\n"


def _keys(settings: Any) -> Iterable[str]:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if not _tables(value):
            yield f"# {field.name} = (not set)" if value is None else f"{field.name} = {_toml(value)}"


def _tables(value: Any) -> tuple[Any, ...]:
    """What a value says as an array of tables, behind the plain keys of its section."""
    return value if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]) else ()


def _read(path: Path, sections: Sections) -> dict[str, dict[str, Any]]:
    try:
        with path.open("rb") as stream:
            text = stream.read(FILE_BYTES_MAX + 1)
        if len(text) > FILE_BYTES_MAX:
            raise ConfigError(f"{path} holds more than {FILE_BYTES_MAX} bytes: it is no settings file")
        document = tomllib.loads(text.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    version = document.pop("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{path}: schema_version {version!r}", f"this version reads {SCHEMA_VERSION}")
    return dict(_sections(document, sections, "", path))


def _sections(
    tree: Mapping[str, Any], sections: Sections, prefix: str, path: Path
) -> Iterable[tuple[str, dict[str, Any]]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if (
            isinstance(value, Mapping)
            and name in ROOTS
            and not any(section.split(".")[0] == name for section in sections)
        ):
            continue
        nested = any(section.startswith(f"{name}.") for section in sections)
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: there is no section above {name!r}", "settings stand below a [section]")
        if name not in sections and not nested:
            raise ConfigError(f"{path}: there is no section [{name}]", nearest(name, sections))
        inner = {each for each in value if f"{name}.{each}" in sections and isinstance(value[each], Mapping)}
        if name in sections:
            yield name, {each: value[each] for each in value if each not in inner}
        else:
            inner = set(value)
        yield from _sections({each: value[each] for each in inner}, sections, f"{name}.", path)


def _environment(sections: Sections, environment: Mapping[str, str]) -> Iterable[tuple[str, str, str]]:
    for name, kind in sections.items():
        for field in dataclasses.fields(kind):
            text = environment.get(variable(name, field.name))
            if text is not None:
                yield name, field.name, text


def _from_text(kind: type[Any], key: str, text: str, where: str) -> Any:
    """A value from a string: TOML syntax if it parses as the wanted type, else the string itself."""
    wanted = typing.get_type_hints(kind)[key]
    if _fits(wanted, text):
        return text
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: {text!r} is not {_words(wanted)}") from error
    _check(wanted, value, where)
    return value


def _check_section(kind: type[Any], values: Mapping[str, Any], where: str) -> None:
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{where}: there is no setting {key!r}", nearest(key, known))
        _check(hints[key], value, f"{where} {key}")


def _check(wanted: Any, value: Any, where: str) -> None:
    if not _fits(wanted, value):
        raise ConfigError(f"{where}: {value!r} is not {_words(wanted)}")
    if (inner := _table(wanted)) is not None:
        for number, each in enumerate(value, 1):
            _check_section(inner, each, f"{where} {number}")


def _table(wanted: Any) -> type[Any] | None:
    """The dataclass of which a setting is a list: an array of tables in the file."""
    inner = typing.get_args(wanted)[0] if typing.get_origin(wanted) is tuple else None
    return inner if isinstance(inner, type) and dataclasses.is_dataclass(inner) else None


def _fits(wanted: Any, value: Any) -> bool:
    origin = typing.get_origin(wanted)
    if origin in (Union, types.UnionType):
        return any(_fits(each, value) for each in typing.get_args(wanted))
    if origin is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(typing.get_args(wanted)[0], each) for each in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(_fits(typing.get_args(wanted)[1], each) for each in value.values())
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if dataclasses.is_dataclass(wanted):
        return isinstance(value, Mapping)
    return wanted is not type(None) and isinstance(value, wanted)


def _words(wanted: Any) -> str:
    origin = typing.get_origin(wanted)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(each) for each in typing.get_args(wanted) if each is not type(None))
    if origin is tuple:
        return f"a list of {_words(typing.get_args(wanted)[0])}"
    if origin is dict:
        return f"a table of {_words(typing.get_args(wanted)[1])}"
    if dataclasses.is_dataclass(wanted):
        return "tables"
    return {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}.get(
        wanted, str(wanted)
    )


def _freeze(wanted: Any, value: Any, where: str) -> Any:
    if (inner := _table(wanted)) is not None:
        return tuple(fill(inner, each, f"{where} {number}") for number, each in enumerate(value, 1))
    return tuple(value) if isinstance(value, list) else value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(name)} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)
