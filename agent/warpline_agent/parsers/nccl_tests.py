"""Reads the result tables of nccl-tests, line by line, whole or torn by other output.

Layouts from 2019 (`error`, no root) to 2026 (`#wrong`, root): https://github.com/NVIDIA/nccl-tests. Sizes are bytes, times
microseconds, bandwidths 10^9 bytes per second.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final, NamedTuple

from . import nccl
from .values import real, scaled

DEVICES_MAX: Final = 65_536
"""Ranks listed by one file that are kept."""

RESULTS_MAX: Final = 100_000
"""Result rows kept between two calls of `take`; more are counted in `dropped`."""

_DEVICE: Final = re.compile(
    r"#\s+Rank\s+(\d{1,6})\s+(?:Group\s+\d+\s+)?Pid\s+(\d{1,10}) on\s+(\S{1,253}) device\s+(\d{1,4})"
    r" \[([0-9a-fA-Fx:.]{1,20})\]"
)
_SETTINGS: Final = re.compile(r"#\s*nThread \d+ nGpus \d+ .*?(?<!warmup )iters: (\d{1,9})\b")
_VALIDATION: Final = re.compile(r"\bvalidation: (\d)")
_TEST: Final = re.compile(r"\b(\w{4,20}_perf)\b")
_FILE: Final = re.compile(
    r"all[-_]?reduce|reduce[-_]?scatter|all[-_]?gather|all[-_]?to[-_]?all|broadcast|send[-_]?recv", re.I
)
_OUT_OF_BOUNDS: Final = re.compile(r"#\s*Out of bounds values\s*:\s*(\d{1,18})\s+(OK|FAILED)")
_AVERAGE: Final = re.compile(r"#\s*Avg bus bandwidth\s*:\s*(\d[\d.eE+-]{0,20})")
_EXIT: Final = re.compile(r"srun: error: (\S{1,253}): tasks? \S{1,200} Exited with exit code (\d{1,5})")
_STEP: Final = re.compile(r"srun: Terminating StepId=(\d{1,18}(?:\.\d{1,9})?)")
_REDUCTIONS: Final = frozenset({"sum", "prod", "max", "min", "avg", "all", "mulsum", "none"})
_NUMBER: Final = re.compile(r"\d[\d.eE+-]{0,20}")
_WHOLE: Final = re.compile(r"-?\d{1,18}")


class Device(NamedTuple):
    """One rank as the head of a table lists it."""

    rank: int
    pid: int
    node: str
    device: int
    bus_id: str | None


class Result(NamedTuple):
    """One half (out of place or in place) of one line of a table."""

    size: int
    elements: int
    datatype: str | None
    reduction: str | None
    root: int | None
    in_place: bool
    microseconds: float
    algorithm_gigabytes: float
    bus_gigabytes: float
    wrong: int | None


class ResultTables:
    """Fed with lines; keeps results until they are taken, and what the last table said of itself."""

    def __init__(self, name: str = "") -> None:
        self.test = _perf(name)
        self.unnamed = 0
        self._file = _unmistakable(name)
        self.iterations: int | None = None
        self.validated: bool | None = None
        self.devices: dict[int, Device] = {}
        self.lines = 0
        self.average_bus_gigabytes: float | None = None
        self.out_of_bounds: int | None = None
        self.peak_bus_gigabytes: float | None = None
        self.exits: Counter[tuple[str, int]] = Counter()
        self.failed: list[int] = []
        self.run_id: str | None = None
        self.dropped = 0
        self._wrong_column = True
        self._head: tuple[int, int, str | None, str | None, int | None] | None = None
        self._halves = 0
        self._results: list[Result] = []

    @property
    def seen(self) -> bool:
        """Whether anything of nccl-tests was read at all."""
        return bool(self.lines or self.devices or self.out_of_bounds is not None)

    def feed(self, line: str) -> bool:
        """Read one line, without launcher prefix; whether it belonged to a table."""
        text = line.strip()
        if text.startswith("#"):
            return self._comment(text)
        if text.startswith("srun: "):
            return self._launcher(text)
        return bool(text) and text[0].isdigit() and self._row(text.split(None, 16))

    def take(self) -> list[Result]:
        """Results since the last call."""
        taken, self._results = self._results, []
        return taken

    def operation(self, result: Result) -> str | None:
        """What the table timed: from the test's name where it was printed, else from the columns, else from the file's name."""
        return self.test or _by_columns(result) or self._file

    def _comment(self, text: str) -> bool:
        if found := _DEVICE.match(text):
            if len(self.devices) < DEVICES_MAX:
                self.devices[int(found[1])] = _device(found)
        elif found := _OUT_OF_BOUNDS.match(text):
            self.out_of_bounds = int(found[1])
            if found[2] == "FAILED" and len(self.failed) < RESULTS_MAX:
                self.failed.append(self.out_of_bounds)
        elif found := _AVERAGE.match(text):
            self.average_bus_gigabytes = real(found[1])
        elif found := _SETTINGS.match(text):
            self.iterations = int(found[1])
            checked = _VALIDATION.search(text)
            self.validated = checked[1] != "0" if checked else None
        elif "algbw" in text:
            self._wrong_column = "#wrong" in text
        elif "Collective test" in text or "_perf" in text:
            self.test = _perf(text) or self.test
        else:
            return False
        return True

    def _launcher(self, text: str) -> bool:
        if found := _EXIT.match(text):
            if len(self.exits) < DEVICES_MAX:
                self.exits[found[1], int(found[2])] += 1
        elif found := _STEP.match(text):
            self.run_id = found[1]
        return found is not None

    def _row(self, tokens: list[str]) -> bool:
        if _is_half(tokens):
            return self._half(tokens)
        head, rest = _head(tokens)
        if (
            head is None
            or len(rest) not in (0, 4, 8)
            or not all(_is_half(rest[at : at + 4]) for at in range(0, len(rest), 4))
        ):
            return False
        self._head, self._halves = head, 0
        self.lines += 1
        for at in range(0, len(rest), 4):
            self._half(rest[at : at + 4])
        return True

    def _half(self, tokens: list[str]) -> bool:
        if self._head is None or self._halves == 2:
            return False
        time, algorithm, bus = (real(token) for token in tokens[:3])
        if time is None or algorithm is None or bus is None:
            return False
        wrong = (
            int(tokens[3])
            if self._wrong_column and self.validated is not False and _WHOLE.fullmatch(tokens[3])
            else None
        )
        result = Result(*self._head, bool(self._halves), time, algorithm, bus, wrong)
        self._halves += 1
        if not result.in_place:
            self.peak_bus_gigabytes = max(bus, self.peak_bus_gigabytes or 0.0)
        if len(self._results) < RESULTS_MAX:
            self._results.append(result)
        else:
            self.dropped += 1
        return True


def columns(tables: ResultTables, result: Result) -> dict[str, Any]:
    """One result as a row of `collectives`; `count` is the number of operations that the time is the mean of."""
    operation = tables.operation(result)
    tables.unnamed += operation is None
    return {
        "source": "nccl_tests",
        "operation": operation,
        "datatype": result.datatype,
        "reduction": result.reduction,
        "elements": result.elements,
        "message_bytes": result.size,
        "nranks": len(tables.devices) or None,
        "duration_ns": scaled(result.microseconds, 1000),
        "timing": "summary",
        "algorithm_bytes_per_second": real(result.algorithm_gigabytes * 1e9),
        "bus_bytes_per_second": real(result.bus_gigabytes * 1e9),
        "count": tables.iterations,
        "wrong_values": result.wrong,
    }


def _head(tokens: list[str]) -> tuple[tuple[int, int, str | None, str | None, int | None] | None, list[str]]:
    """Size, count, type, reduction and root, and the tokens after them."""
    if len(tokens) < 3 or not (_WHOLE.fullmatch(tokens[0]) and _WHOLE.fullmatch(tokens[1]) and tokens[2][0].isalpha()):
        return None, tokens
    rest = tokens[3:]
    word = rest.pop(0) if rest and rest[0] in _REDUCTIONS else None
    root = int(rest.pop(0)) if len(rest) in (1, 5, 9) and _WHOLE.fullmatch(rest[0]) else None
    kind = nccl.datatype(tokens[2])
    if kind is None and word is None and root is None:
        return None, tokens
    return (int(tokens[0]), int(tokens[1]), kind, nccl.reduction(word or ""), root), rest


def _is_half(tokens: list[str]) -> bool:
    return (
        len(tokens) == 4
        and all(_NUMBER.fullmatch(token) for token in tokens[:3])
        and (tokens[3] == "N/A" or _NUMBER.fullmatch(tokens[3]) is not None)
    )


def _device(found: re.Match[str]) -> Device:
    bus = found[5].lower()
    whole = f"{bus}.0" if bus.count(":") == 2 and "." not in bus else None
    return Device(int(found[1]), int(found[2]), found[3], int(found[4]), whole)


def _perf(text: str) -> str | None:
    found = _TEST.search(text)
    return nccl.operation(found[1]) if found else None


def _unmistakable(name: str) -> str | None:
    """The operation a file is called after, of those whose name is not part of another's."""
    found = _FILE.search(name)
    return nccl.operation(found[0]) if found else None


def _by_columns(result: Result) -> str | None:
    width = nccl.DATATYPE_BYTES.get(result.datatype or "")
    if width is None or not result.elements or not result.size:
        return None
    shares = result.size / (result.elements * width)
    if result.reduction is not None:
        if shares != 1:
            return "reduce_scatter"
        return "all_reduce" if result.root in (None, -1) else "reduce"
    return "broadcast" if shares == 1 and result.root is not None and result.root >= 0 else None
