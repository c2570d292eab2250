"""Plots of a report as SVG without scripts: a page that shows them may be mailed, and opened under any policy."""

from __future__ import annotations

import io
import itertools
import logging
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from warpline_proto.finding import GRAVITY, OPEN, FindingState
from warpline_tui.words import UNKNOWN

from ..findings_text import one_line
from .asked import WINDOW_NS
from .markup import Html

SVG: Final = "http://www.w3.org/2000/svg"
LINK: Final = "http://www.w3.org/1999/xlink"
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#999999"
)  # fmt: skip
"""The colours of Okabe and Ito, which the colour-blind tell apart."""
STATES: Final = {
    "active": ("at work", GREEN),
    "execution_idle": ("idle under a program", RED),
    "busy_wait": ("waiting busily", ORANGE),
    "spinning": ("spinning", YELLOW),
    "low_unknown": ("idle, program or not is unknown", PURPLE),
    "deep_idle": ("empty", SKY),
    "blind": ("no signal of activity", GREY),
    "unobserved": ("not read", "#cccccc"),
}
"""What GPUs do, in words and colours."""
COLOURS: Final = (BLUE, ORANGE, GREY, PURPLE, GREEN, SKY, RED)
PARTS: Final = ("compute", "exposed_communication", "idle", "data_wait")
SEVERITIES: Final = {"critical": RED, "warning": ORANGE, "info": GREY}
MARKERS: Final = "osD^vPX*"
NAME_CHARS: Final = 40
MARKS_MAX: Final = 12
MARKS_APART: Final = 0.03
"""Findings that began closer together, as a part of what is shown, have one mark."""
BARS_MAX: Final = 40
LIVES_MAX: Final = 20
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none", "svg.hashsalt": "warpline", "font.family": "sans-serif", "font.size": 9, "text.parse_math": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e4e4e4", "axes.axisbelow": True,
    "legend.frameon": False,
}  # fmt: skip
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", LINK)
logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its cache and of fonts, which the browser chooses


def iterations(
    name: str, rows: Sequence[Mapping[str, Any]], states: Sequence[FindingState], job: str, what: str
) -> Html:
    """Iteration time of a job over its steps, and where its findings began; `what` says what the line is."""
    with _figure(3.0) as figure:
        axes = figure.subplots()
        steps = [row["last_step"] for row in rows]
        low, high = ([row[key] for row in rows] for key in ("low", "high"))
        axes.fill_between(steps, low, high, color=SKY, alpha=0.35, linewidth=0, label="quickest to slowest step")
        axes.plot(steps, [row["seconds"] for row in rows], color=BLUE, linewidth=1.2, label=what)
        axes.set_ylim(bottom=0, top=1.3 * max(high))
        axes.set_xlabel("step")
        axes.set_ylabel("seconds a step")
        for place, (at, words, colour) in enumerate(_marks(rows, states)):
            axes.axvline(at, color=colour, linestyle="--", linewidth=1)
            axes.text(at, 0.98 - 0.08 * (place % 4), f" {words}", color=colour, va="top", fontsize=8,
                      transform=axes.get_xaxis_transform())  # fmt: skip
        axes.legend(loc="lower right", fontsize=8)
        return _svg(figure, name, f"iteration time of job {job}")


def _marks(rows: Sequence[Mapping[str, Any]], states: Sequence[FindingState]) -> list[tuple[int, str, str]]:
    """Steps at which findings began, as far as they lie among those that are shown: step, words and colour."""
    first, last = rows[0]["last_step"], rows[-1]["last_step"]
    begun: dict[int, list[FindingState]] = {}
    for step, state in sorted(((_began(rows, state), state) for state in states), key=lambda each: each[0] or 0):
        if step is not None and first <= step <= last:
            near = next((at for at in begun if step - at < MARKS_APART * (last - first)), step)
            begun.setdefault(near, []).append(state)
    marks = []
    for step in sorted(begun)[:MARKS_MAX]:
        worst, *others = sorted(begun[step], key=lambda state: GRAVITY[state.finding.severity])
        more = f" and {len(others)} more" if others else ""
        marks.append((step, f"{worst.finding.kind}{more}", SEVERITIES[str(worst.finding.severity)]))
    return marks


def _began(rows: Sequence[Mapping[str, Any]], state: FindingState) -> int | None:
    onset = state.finding.onset
    if onset.step is not None or onset.time_ns is None:
        return onset.step
    return next((row["last_step"] for row in rows if row["at_ns"] is not None and row["at_ns"] >= onset.time_ns), None)


def stages(name: str, rows: Sequence[Mapping[str, Any]], parts: Sequence[str]) -> Html:
    """Parts of a step by job and pipeline stage, side by side; `parts` are keys of the rows, in seconds."""
    shown = rows[:BARS_MAX]
    with _figure(0.9 + 0.28 * len(shown)) as figure:
        axes = figure.subplots()
        left = [0.0] * len(shown)
        for part, colour in zip(parts, itertools.cycle(COLOURS)):
            widths = [row.get(part) or 0.0 for row in shown]
            axes.barh(range(len(shown)), widths, left=left, color=colour, label=_words(part), height=0.7)
            left = [before + width for before, width in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(shown)), [_stage(row) for row in shown])
        axes.invert_yaxis()
        axes.set_xlabel("seconds a step, mean")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(parts), fontsize=8)
        return _svg(figure, name, "parts of a step by pipeline stage")


def _stage(row: Mapping[str, Any]) -> str:
    stage = "" if row["stage"] is None else f", stage {row['stage']}"
    return f"{_short(row['job'])}{stage} ({row['ranks']})"


def power(name: str, rows: Sequence[Mapping[str, Any]]) -> Html:
    """Mean power over time, by what GPUs were doing."""
    times = sorted({row["at_ns"] for row in rows})
    watts = {(row["at_ns"], row["state"]): row["watts"] or 0.0 for row in rows}
    width = min((later - sooner for sooner, later in itertools.pairwise(times)), default=WINDOW_NS)
    unit, size = ("kW", 1e3) if sum(watts.values()) > 1e4 * len(times) else ("W", 1.0)
    with _figure(2.8) as figure:
        axes = figure.subplots()
        base = [0.0] * len(times)
        for state, (said, colour) in STATES.items():
            heights = [watts.get((at, state), 0.0) / size for at in times]
            if any(heights):
                axes.bar(_dates(times), heights, bottom=base, width=width / 86_400e9, align="edge", color=colour,
                         label=said, edgecolor="none")  # fmt: skip
                base = [before + height for before, height in zip(base, heights, strict=True)]
        axes.set_ylabel(f"mean power, {unit}")
        _over_time(axes)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=8)
        return _svg(figure, name, "power by state over time")


def bandwidth(name: str, rows: Sequence[Mapping[str, Any]]) -> Html:
    """Bus bandwidth over message size, by job and operation."""
    series: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        series.setdefault((row["job"], row["operation"]), []).append(row)
    with _figure(3.0) as figure:
        axes = figure.subplots()
        for place, ((job, operation), points) in enumerate(series.items()):
            middle = [point["middle"] for point in points]
            ends = [[max(point["middle"] - point["low"], 0) for point in points],
                    [max(point["high"] - point["middle"], 0) for point in points]]  # fmt: skip
            axes.errorbar([point["bytes"] for point in points], middle, yerr=ends, color=COLOURS[place % len(COLOURS)],
                          marker=MARKERS[place % len(MARKERS)], capsize=2, linewidth=1, markersize=4,
                          label=f"{_short(operation)}, {_short(job)}")  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("message, bytes")
        axes.set_ylabel("bus bandwidth, GB/s")
        axes.legend(loc="upper left", fontsize=8)
        return _svg(figure, name, "bus bandwidth by message size")


def lives(name: str, states: Sequence[FindingState], start_ns: int, end_ns: int) -> Html:
    """From when to when each finding stood, of the gravest."""
    shown = states[:LIVES_MAX]
    with _figure(0.8 + 0.22 * len(shown)) as figure:
        axes = figure.subplots()
        for place, state in enumerate(shown):
            begun = max(min(state.finding.onset.time_ns or state.opened_ns, state.opened_ns), start_ns)
            over = end_ns if state.state == OPEN else min(state.updated_ns, end_ns)
            first, last = _dates([begun, max(over, begun)])
            colour = SEVERITIES[str(state.finding.severity)]
            axes.plot([first, last], [place, place], color=colour, linewidth=6, solid_capstyle="butt")
            axes.plot([last], [place], color=colour, marker=">" if state.state == OPEN else "|", markersize=8)
        axes.set_yticks(range(len(shown)), [_short(f"{each.finding.kind}, {each.finding.severity}") for each in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(start_ns / 86_400e9, end_ns / 86_400e9)
        _over_time(axes)
        return _svg(figure, name, "when each finding stood")


def _over_time(axes: Axes) -> None:
    locator = AutoDateLocator(tz=UTC, maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis_date(UTC)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))
    axes.set_xlabel("UTC")


def _dates(times_ns: Sequence[int]) -> list[float]:
    """Days since 1970, as the library counts them."""
    return [each / 86_400e9 for each in times_ns]


def _words(name: str) -> str:
    return _short(name).replace("_", " ")


def _short(name: str | None) -> str:
    text = UNKNOWN if name is None else one_line(name)
    return text if len(text) <= NAME_CHARS else text[: NAME_CHARS - 1] + "…"


@contextmanager
def _figure(height_inches: float) -> Iterator[Figure]:
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # text stays text: the browser has the fonts
        yield Figure(figsize=(10, height_inches), layout="constrained")


def _svg(figure: Figure, name: str, told: str) -> Html:
    """The drawing alone: no document around it, its identifiers its own among those of other plots on the page."""
    sink = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(sink, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(sink.getvalue())
    for each in root.findall(f"{{{SVG}}}metadata"):
        root.remove(each)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key == f"{{{LINK}}}href" and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", one_line(told))
    return Html(ElementTree.tostring(root, encoding="unicode"))
