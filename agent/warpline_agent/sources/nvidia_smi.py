"""Recorded nvidia-smi tables: its own CSV, scripts that write like it, Zeus' power monitor, captures with many sections."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from warpline_proto.errors import Refused

from ..parsers import nvidia_table, nvidia_values, values
from ..parsers.nvidia_table import Cell, Readings
from ..source import Input, Origin, Reading

Row = dict[str, Any]

TABLE_LINES_MAX: Final = 20_000
"""Lines of one table of a capture; what follows is passed over. A capture shows each GPU once or a few times."""

_NO_ZONE: Final = "times carry no zone and are read as UTC"
_ZEUS_HEADER: Final = "Time,Power"
_ZEUS_LINE: Final = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{9}),(\d{1,9})")
_SECTION: Final = re.compile(r"# (\w[\w ]*?) :: ")
_COMMAND: Final = re.compile(r"# \$ nvidia-smi\b.*--query-gpu=")
_COLLECTED: Final = re.compile(r"collected_at:\s*(\S+)")
_ZONE_STEP_SECONDS: Final = 900
_ZONE_SECONDS_MAX: Final = 14 * 3600


class NvidiaSmi:
    """`nvidia-smi --query-gpu=... --format=csv` in any order of columns, with or without units."""

    name = "nvidia_smi"

    def recognises(self, candidate: Input) -> bool:
        """By the header: a GPU or a time, and something that nvidia-smi measures."""
        return nvidia_table.is_header(_first_line(candidate))

    def read(self, candidate: Input) -> Reading:
        """Lines -> device_samples. A header that comes again (the tool was started again) is obeyed."""
        readings = Readings()
        zones = False
        cells: list[Cell] = []
        width = 0
        for line in candidate.lines():
            if not line.strip():
                continue
            if not cells or (not line[0].isdigit() and nvidia_table.is_header(line)):
                cells, width = nvidia_table.plan(line, 0)
                continue
            zones = zones or nvidia_values.has_zone(line.split(",", 1)[0])
            nvidia_table.read_line(readings, cells, width, line)
        return _reading(readings, [] if zones else [_NO_ZONE])


class ZeusMonitor:
    """Zeus' power monitor: `Time,Power`, milliwatts of one GPU that the file does not name."""

    name = "zeus_monitor"

    def recognises(self, candidate: Input) -> bool:
        """By its header and the nine decimals of its times."""
        lines = candidate.head.decode("utf-8", "replace").splitlines()
        return len(lines) > 1 and lines[0].strip() == _ZEUS_HEADER and bool(_ZEUS_LINE.fullmatch(lines[1].strip()))

    def read(self, candidate: Input) -> Reading:
        """Lines -> device_samples without a GPU."""
        readings = Readings()
        for line in candidate.lines():
            if found := _ZEUS_LINE.fullmatch(line.strip()):
                time_ns = nvidia_values.time_ns(found[1])
                watts = float(found[2]) / 1e3
                row = {"source": self.name, "time_ns": time_ns, "power_watts": watts, "power_method": "unstated"}
                readings.add(row)
            elif line.strip() not in ("", _ZEUS_HEADER):
                readings.broken += 1
        return _reading(readings, [_NO_ZONE, "the GPU is not named"])


class NvidiaSmiCapture:
    """A text of many nvidia-smi outputs under headings, each with its command; the query-gpu tables are read."""

    name = "nvidia_smi_capture"

    def recognises(self, candidate: Input) -> bool:
        """By headings that name an nvidia-smi command."""
        text = candidate.head.decode("utf-8", "replace")
        return "\n# $ nvidia-smi" in text and _SECTION.search(text) is not None

    def read(self, candidate: Input) -> Reading:
        """Tables -> device_samples; `facts` has the mean power of each phase by its heading (idle, load)."""
        readings, phases = Readings(), {}
        offset: int | None = None
        collected: int | None = None
        for heading, header, lines in _tables(candidate.lines()):
            if not lines:
                collected = nvidia_values.time_ns(header)
                continue
            if offset is None:
                offset = _offset(header, lines[0], collected)
            cells, width = nvidia_table.plan(header, offset or 0)
            part = Readings()
            for line in lines:
                nvidia_table.read_line(part, cells, width, line)
                nvidia_table.read_line(readings, cells, width, line)
            phases[heading] = part.facts()["mean_power_watts"]
        reading = _reading(readings, [] if offset is not None else [_NO_ZONE])
        reading.facts["phases"] = phases
        return reading


def _first_line(candidate: Input) -> str:
    text = candidate.head.decode("utf-8", "replace").lstrip("\ufeff \r\n\t")
    return text.split("\n", 1)[0]


def _reading(readings: Readings, notes: list[str]) -> Reading:
    rows = readings.finish()
    if not rows:
        raise Refused("holds a header and no reading of a GPU", "the file is cut off, or nvidia-smi could not read one")
    if readings.broken:
        notes.append(f"{readings.broken} lines are cut off or hold no reading and were skipped")
    if readings.dropped:
        notes.append(f"{readings.dropped} readings beyond the first {nvidia_table.SAMPLES_MAX} were left out")
    node = next(iter(readings.nodes)) if len(readings.nodes) == 1 else None
    return Reading(rows, readings.facts(), Origin(node=node, content=values.digest(rows)), notes)


def _tables(lines: Iterable[str]) -> Iterable[tuple[str, str, list[str]]]:
    """(heading, header, lines) of each query-gpu table; the time of collection comes first, without lines."""
    heading, wanted, header = "", False, ""
    body: list[str] = []
    for line in lines:
        if found := _COLLECTED.match(line):
            yield "", found[1], []
        if line.startswith("#"):
            if found := _SECTION.match(line):
                heading, wanted = found[1], False
            wanted = wanted or _COMMAND.match(line) is not None
        elif wanted and not header and nvidia_table.is_header(line):
            header = line
        elif header and line.strip():
            body += [line] if len(body) < TABLE_LINES_MAX else []
        elif header:
            if body:
                yield heading, header, body
            wanted, header, body = False, "", []
    if header and body:
        yield heading, header, body


def _offset(header: str, line: str, collected: int | None) -> int | None:
    """Seconds east of UTC of the tables' clock, by the first reading against the time of collection, which has a zone."""
    cells, width = nvidia_table.plan(header, 0)
    fields = line.split(",")
    local = nvidia_table.sample(cells, fields).get("time_ns") if len(fields) == width else None
    if local is None or collected is None:
        return None
    seconds = round((local - collected) / 1e9 / _ZONE_STEP_SECONDS) * _ZONE_STEP_SECONDS
    return seconds if abs(seconds) <= _ZONE_SECONDS_MAX else None
