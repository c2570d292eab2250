"""A pickle reader that knows only plain data: it can name no class, call nothing and grow no further than its limits.

Pickle is a program. Of its opcodes only those that build None, booleans, numbers, text, bytes, lists, tuples and dicts are
carried out here; every other one, the globals above all, is Refused by name. Dict keys are scalars, so nothing nested is
ever hashed, and before the result is handed out it is walked once: shared parts are counted as often as they are reached, so
that whoever prints or copies it meets no more than VALUES_MAX values, DEPTH_MAX deep.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, Never

from warpline_proto.errors import Refused

BYTES_MAX: Final = 64 * 1024 * 1024
OPCODES_MAX: Final = 4_000_000
VALUES_MAX: Final = 4_000_000
DEPTH_MAX: Final = 32
DIGITS_MAX: Final = 20
"""Enough for every 64-bit number."""

HINT: Final = "only plain data is read from a pickle; nothing in it was run"

_MARK: Final = object()
_SCALARS: Final = frozenset(
    (
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
        "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
        "BINUNICODE8",
    )
)  # fmt: skip
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES: Final = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KEYS: Final = (str, int, float, bool, bytes, type(None))


def load(content: bytes) -> Any:
    """A pickle of plain data -> that data. Everything else about it is Refused with a reason."""
    if len(content) > BYTES_MAX:
        raise Refused(f"is a pickle of {len(content)} bytes, above the limit of {BYTES_MAX}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # old text opcodes with a stray backslash warn, and say nothing about the data
            result = _run(content)
    except (ValueError, IndexError) as error:
        raise Refused(f"is a damaged pickle: {str(error)[:200]}", HINT) from None
    _measure(result)
    return result


def _run(content: bytes) -> Any:
    machine = _Machine()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if number >= OPCODES_MAX:
            raise Refused(f"is a pickle of more than {OPCODES_MAX} opcodes", HINT)
        if opcode.name == "STOP":
            break
        machine.step(opcode.name, argument)
    return machine.pop()


class _Machine:
    """The stack and the memo, and what each permitted opcode does to them."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._steps: dict[str, Callable[[Any], None]] = {
            "PROTO": self._nothing, "FRAME": self._nothing, "MARK": lambda _: self._stack.append(_MARK),
            "EMPTY_LIST": lambda _: self._stack.append([]), "EMPTY_DICT": lambda _: self._stack.append({}),
            "LIST": lambda _: self._stack.append(self._marked()), "DICT": self._dict,
            "TUPLE": lambda _: self._stack.append(tuple(self._marked())),
            "APPEND": self._append, "APPENDS": self._appends, "SETITEM": self._set_item, "SETITEMS": self._set_items,
            "PUT": self._put, "BINPUT": self._put, "LONG_BINPUT": self._put, "MEMOIZE": self._memoize,
            "GET": self._get, "BINGET": self._get, "LONG_BINGET": self._get,
            "POP": lambda _: self._drop(), "POP_MARK": lambda _: self._drop_marked(),
        }  # fmt: skip

    def step(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        if name in _SCALARS:
            self._stack.append(_scalar(argument))
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self._stack.append(tuple(reversed([self.pop() for _ in range(_TUPLES[name])])))
        elif name in self._steps:
            self._steps[name](argument)
        else:
            self._refuse(name, argument)

    def pop(self) -> Any:
        """The top of the stack; ValueError where it is empty or a mark."""
        if not self._stack or self._stack[-1] is _MARK:
            raise ValueError("its stack is empty")
        return self._stack.pop()

    def _refuse(self, name: str, argument: Any) -> Never:
        if name in ("GLOBAL", "INST"):
            raise Refused(f"is a pickle that wants to load {_wanted(str(argument).replace(' ', '.'))}", HINT)
        if name == "STACK_GLOBAL":
            parts = [part if isinstance(part, str) else "?" for part in self._stack[-2:]]
            raise Refused(f"is a pickle that wants to load {_wanted('.'.join(parts))}", HINT)
        raise Refused(f"is a pickle that wants more than plain data (opcode {name})", HINT)

    def _nothing(self, _: Any) -> None:
        """Framing carries no data."""

    def _drop(self) -> None:
        self.pop()

    def _drop_marked(self) -> None:
        self._marked()

    def _marked(self) -> list[Any]:
        items: list[Any] = []
        while self._stack:
            item = self._stack.pop()
            if item is _MARK:
                items.reverse()
                return items
            items.append(item)
        raise ValueError("it has no mark")

    def _append(self, _: Any) -> None:
        item = self.pop()
        self._list().append(item)

    def _appends(self, _: Any) -> None:
        items = self._marked()
        self._list().extend(items)

    def _set_item(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._set((key, value))

    def _set_items(self, _: Any) -> None:
        self._set(self._marked())

    def _dict(self, _: Any) -> None:
        items = self._marked()
        self._stack.append({})
        self._set(items)

    def _list(self) -> list[Any]:
        top = self._stack[-1]
        if not isinstance(top, list):
            raise ValueError("it appends to something that is no list")
        return top

    def _set(self, items: list[Any] | tuple[Any, ...]) -> None:
        top = self._stack[-1]
        if not isinstance(top, dict) or len(items) % 2:
            raise ValueError("it sets items of something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, _KEYS):
                raise Refused("is a pickle with a dict key that is neither text nor a number", HINT)
            top[key] = value

    def _put(self, index: int) -> None:
        self._memo[index] = self._top()

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise ValueError("it remembers something that is not there")
        return self._stack[-1]

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise ValueError(f"it recalls item {index}, which it never stored")
        self._stack.append(self._memo[index])


def _scalar(argument: Any) -> Any:
    if isinstance(argument, int) and not isinstance(argument, bool) and argument.bit_length() > DIGITS_MAX * 4:
        raise Refused("is a pickle with an integer of absurd size", HINT)
    return argument


def _wanted(name: str) -> str:
    library = name.partition(".")[0]
    if library == "numpy":
        return f"{name}: it holds numpy arrays, not the plain records of a dump"
    return name[:200]


def _children(value: Any) -> Iterator[Any]:
    return iter(value.values()) if isinstance(value, dict) else iter(value)


def _measure(root: Any) -> None:
    """Refuse what is circular, too deep, or too large once every shared part is counted as often as it is reached."""
    sizes: dict[int, tuple[int, int]] = {}
    if not isinstance(root, list | tuple | dict):
        return
    path: list[tuple[Any, Iterator[Any], list[int]]] = [(root, _children(root), [1, 0])]
    open_parts = {id(root)}
    while path:
        value, rest, totals = path[-1]
        for child in rest:
            if not isinstance(child, list | tuple | dict) or not child:
                totals[0] += 1
            elif known := sizes.get(id(child)):
                totals[0] += known[0]
                totals[1] = max(totals[1], known[1])
            else:
                if id(child) in open_parts or len(path) > DEPTH_MAX:
                    raise Refused(f"is a pickle that holds itself or nests deeper than {DEPTH_MAX}", HINT)
                open_parts.add(id(child))
                path.append((child, _children(child), [1, 0]))
                break
        else:
            path.pop()
            open_parts.discard(id(value))
            sizes[id(value)] = (totals[0], totals[1] + 1)
            if totals[0] > VALUES_MAX or len(path) + totals[1] + 1 > DEPTH_MAX + 1:
                raise Refused(f"is a pickle of more than {VALUES_MAX} values or nested deeper than {DEPTH_MAX}", HINT)
            if path:
                parent = path[-1][2]
                parent[0] += totals[0]
                parent[1] = max(parent[1], totals[1] + 1)
