"""Prometheus and OpenMetrics text -> samples: names, labels with escapes, values, timestamps, and what HELP and TYPE say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from . import values

SAMPLES_MAX: Final = 1_000_000
"""More samples than any exporter shows at once; the rest is counted in `dropped`."""

CHARS_MAX: Final = 256 * 1024 * 1024
"""Samples beyond so many characters are dropped as well."""

DESCRIPTIONS_MAX: Final = 20_000
"""HELP and UNIT lines kept."""

LABELS_MAX: Final = 64
"""A sample with more labels than this is counted in `skipped`."""

PROBE_LINES: Final = 20
"""How many samples a head must show in good form to be taken for an exposition."""

_NAME: Final = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_NUMBER: Final = (
    r"[-+]?(?:\d{1,40}(?:\.\d{0,40})?(?:[eE][-+]?\d{1,4})?|\.\d{1,40}(?:[eE][-+]?\d{1,4})?|[nN]a[nN]|[iI]nf)"
)
_LABEL: Final = r'[a-zA-Z_][a-zA-Z0-9_]*\s*=\s*"(?:[^"\\]|\\.)*+"'
# Each part ends where the next can begin in one way only, so that no line takes longer than its length.
_SAMPLE: Final = re.compile(
    rf"({_NAME})(?:\s*+\{{\s*+((?:{_LABEL}\s*+(?:,\s*+|(?=\}})))*+)\}}\s*+|\s++)({_NUMBER})(?:\s++({_NUMBER}))?\s*+(?:#.*)?"
)
_ONE_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"')
_META: Final = re.compile(rf"#\s*(HELP|TYPE|UNIT)\s+({_NAME})(?:\s+(.*))?")
_ESCAPE: Final = re.compile(r"\\(.)")
_TYPES: Final = frozenset(
    ("counter", "gauge", "histogram", "summary", "untyped", "unknown", "info", "stateset", "gaugehistogram")
)


class Sample(NamedTuple):
    """One line: `value` is None for NaN and infinities, `time_ns` None where the line gives no time."""

    name: str
    labels: dict[str, str]
    value: float | None
    time_ns: int | None


@dataclass
class Exposition:
    """A whole text. `skipped` lines could not be read, `dropped` samples were beyond SAMPLES_MAX."""

    samples: list[Sample] = field(default_factory=list)
    helps: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    dropped: int = 0


def recognises(head: str) -> bool:
    """Whether the start of a text is an exposition: every sample in it is in form, and labels or a TYPE line are there."""
    marked, seen = False, 0
    lines = head.splitlines()
    for line in lines[:-1] if len(lines) > 1 else lines:
        stripped = line.strip()
        if not stripped:
            continue
        if stripped.startswith("#"):
            found = _META.fullmatch(stripped)
            marked = marked or (found is not None and found[1] == "TYPE" and (found[3] or "") in _TYPES)
            continue
        found = _SAMPLE.fullmatch(stripped)
        if found is None:
            return False
        marked = marked or bool(found[2])
        seen += 1
        if seen >= PROBE_LINES:
            break
    return marked and seen > 0


def parse(lines: Iterable[str]) -> Exposition:
    """Lines -> samples. A line that is not in form is skipped and counted; nothing is raised."""
    exposition = Exposition()
    times: list[float | None] = []
    seconds, chars = False, 0
    for line in lines:
        stripped = line.strip()
        if not stripped:
            continue
        chars += len(stripped)
        if stripped.startswith("#"):
            seconds = seconds or stripped == "# EOF"
            _describe(exposition, stripped)
        elif (found := _SAMPLE.fullmatch(stripped)) is None or (labels := _labels(found[2] or "")) is None:
            exposition.skipped += 1
        elif len(exposition.samples) >= SAMPLES_MAX or chars > CHARS_MAX:
            exposition.dropped += 1
        else:
            exposition.samples.append(Sample(found[1], labels, values.real(found[3]), None))
            times.append(values.real(found[4]))
    factor = (
        1e9 if seconds else 1e6
    )  # OpenMetrics, which ends in EOF, stamps in seconds, the older text in milliseconds
    exposition.samples = [
        sample if time is None else sample._replace(time_ns=values.scaled(time, factor))
        for sample, time in zip(exposition.samples, times, strict=True)
    ]
    return exposition


def _describe(exposition: Exposition, line: str) -> None:
    if found := _META.fullmatch(line):
        target = {"HELP": exposition.helps, "UNIT": exposition.units}.get(found[1])
        if target is not None and len(target) < DESCRIPTIONS_MAX:
            target[found[2]] = values.text(found[3]) or ""


def _labels(inner: str) -> dict[str, str] | None:
    pairs = _ONE_LABEL.findall(inner)
    if len(pairs) > LABELS_MAX:
        return None
    return {name: values.text(_ESCAPE.sub(_unescape, value)) or "" for name, value in pairs}


def _unescape(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]
