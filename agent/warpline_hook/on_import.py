"""Calls back when the program has imported a module; imports nothing by itself."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module typing is not loaded at the start of every process
    from collections.abc import Callable, Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    Attach = Callable[[ModuleType], None]


def when_imported(names: Iterable[str], attach: Attach) -> None:
    """Call `attach` with each of these modules: now where it is there, else just after it has been executed."""
    waited = set()
    for name in names:
        module = sys.modules.get(name)
        if module is None:
            waited.add(name)
        else:
            _quietly(attach, module)
    sys.meta_path.insert(0, Finder(waited, attach))


def _quietly(attach: Attach, module: ModuleType) -> None:
    """No error of the hook may become one of the program's imports."""
    try:
        attach(module)
    except Exception:
        return


class Finder:
    """Asks the other finders, and wraps the loader of the modules that are waited for."""

    def __init__(self, names: set[str], attach: Attach) -> None:
        self._names = names
        self._attach = attach

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that another finder has for a module that is waited for; None for every other."""
        if name not in self._names:
            return None
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find is not None else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = Loader(spec.loader, self._attach)  # type: ignore[assignment]  # it has the methods of one
                return spec
        return None


class Loader:
    """The module's own loader, with a call at the end; the module never sees it."""

    def __init__(self, loader: Any, attach: Attach) -> None:
        self._loader = loader
        self._attach = attach

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader."""
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """As the module's own loader, which is given back to the module first."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _quietly(self._attach, module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
