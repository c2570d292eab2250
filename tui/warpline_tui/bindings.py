"""Every key of the program, from the bindings that declare them, grouped by where they work; and which keys a user gave them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Final

from textual.binding import Binding
from textual.screen import Screen
from textual.widget import Widget

from warpline_proto.config import nearest
from warpline_proto.errors import ConfigError

from . import screens, widgets
from .screens import SCREENS

EVERYWHERE: Final = "everywhere"


@dataclass(frozen=True)
class Group:
    """Bindings that work in one place: everywhere, on a screen, or in a kind of widget."""

    name: str
    bindings: tuple[Binding, ...]


def declared(everywhere: Iterable[Any]) -> list[Group]:
    """All there are; loads every screen."""
    groups = [Group(EVERYWHERE, tuple(_bindings(everywhere)))]
    for name, entry in SCREENS.items():
        page = getattr(import_module(f"{screens.__name__}.{entry.module}"), entry.page)
        bindings = [
            each for kind in page.__mro__ if _is_ours(kind) for each in _bindings(vars(kind).get("BINDINGS", ()))
        ]
        groups.append(Group(name, tuple(bindings)))
    for kind in _widgets():
        groups.append(Group(_spoken(kind), tuple(_bindings(vars(kind).get("BINDINGS", ())))))
    return [group for group in groups if group.bindings]


def keymap(groups: Iterable[Group], wanted: Mapping[str, str]) -> dict[str, str]:
    """`wanted` (binding id -> keys, with commas between them) once it is known to be good.

    ConfigError for an id that nothing has, with the nearest, and for a key that would mean two things in one place.
    """
    listed = list(groups)
    known = {each.id for group in listed for each in group.bindings if each.id}
    for name in wanted:
        if name not in known:
            raise ConfigError(f"[tui.keys]: there is no key {name!r}", nearest(name, known))
    common = listed[0].bindings
    for group in listed:
        _check((*group.bindings, *(common if group is not listed[0] else ())), wanted, group.name)
    return dict(wanted)


def keys(binding: Binding, given: Mapping[str, str]) -> list[str]:
    """The keys of a binding, those that a user gave it where there are any."""
    return [key.strip() for key in given.get(binding.id or "", binding.key).split(",")]


def _check(bindings: Iterable[Binding], given: Mapping[str, str], where: str) -> None:
    """What a user gave collides with nothing."""
    taken: dict[str, str] = {}
    for binding in bindings:
        for key in keys(binding, given):
            other = taken.setdefault(key, binding.id or "")
            if other != binding.id and {other, binding.id} & set(given):
                raise ConfigError(
                    f"[tui.keys]: {key!r} would be {other} and {binding.id} ({where})", "give one another key"
                )


def _bindings(listed: Iterable[Any]) -> Iterator[Binding]:
    for each in listed:
        yield each if isinstance(each, Binding) else Binding(*each)


def _widgets() -> Iterator[type[Any]]:
    """Widgets and prompts of this program that have keys of their own."""
    root = widgets.__name__.rpartition(".")[0]
    modules = [f"{widgets.__name__}.{each.name}" for each in iter_modules(widgets.__path__)]
    modules += [f"{screens.__name__}.{each.name}" for each in iter_modules(screens.__path__)]
    modules += [f"{root}.help", f"{root}.prompt"]
    pages = {(f"{screens.__name__}.{entry.module}", entry.page) for entry in SCREENS.values()}
    for name in modules:
        for kind in vars(import_module(name)).values():
            is_own = inspect.isclass(kind) and issubclass(kind, Widget) and kind.__module__ == name
            if is_own and (name, kind.__name__) not in pages and "BINDINGS" in vars(kind):
                yield kind


def _is_ours(kind: type[Any]) -> bool:
    return issubclass(kind, Screen) and kind.__module__.startswith(screens.__name__)


def _spoken(kind: type[Any]) -> str:
    """HeatGrid -> heat grid."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()
