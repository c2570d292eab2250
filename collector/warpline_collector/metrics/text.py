"""Prometheus' text format, written as it is made: a page of 10,000 GPUs has 100,000 lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

_ODD: Final = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}


class Family:
    """Samples of one name: a counter where that ends in `_total`, else a gauge."""

    def __init__(self, name: str, meaning: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self._labels = labels
        kind = "counter" if name.endswith("_total") else "gauge"
        told = meaning.replace("\\", r"\\").replace("\n", r"\n")
        self.lines = [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]

    def add(self, values: Iterable[str], value: float) -> None:
        """One sample, with a value for each label."""
        self.add_said(said(self._labels, values), value)

    def add_said(self, labels: str, value: float) -> None:
        """One sample, with labels as `said` gives them: made once for all families of a thing."""
        number = repr(float(value))
        self.lines.append(f"{self.name}{labels} {_ODD.get(number, number)}")


def said(names: Iterable[str], values: Iterable[str]) -> str:
    """Labels as they stand behind a name; nothing where there are none."""
    listed = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{listed}}}" if listed else ""


def text(families: Iterable[Family]) -> bytes:
    """The whole page."""
    lines: list[str] = []
    for family in families:
        lines += family.lines
    lines.append("")
    return "\n".join(lines).encode("utf-8", "replace")


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
