"""The line on top: what is watched, how many findings are open, what time is looked at, how old the data is and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from rich.text import Text
from textual.reactive import reactive
from textual.widgets import Static

from ..travel import Travel
from ..views.headline import Headline
from ..words import age

STALE_SECONDS: Final = 30
"""From this age on, the data's age is shown as a warning."""
FRESH_SECONDS: Final = 5
"""Data younger than this is called live without its age: a line that does not change costs no bytes."""
SLOW_SECONDS: Final = 1.0
"""A question that takes longer is told of."""
WIDE_COLUMNS: Final = 100
"""A narrower window has no room for the name."""
ERROR_MAX: Final = 300
STYLES: Final = {"critical": "bold white on red", "warning": "bold black on yellow"}


@dataclass(frozen=True)
class Standing:
    """How things stand. `now_ns` is the viewer's clock, `waiting` what is asked for since how many seconds, `error` why nothing
    newer is shown. `recorded` says that nothing newer will come."""

    headline: Headline = field(default_factory=Headline)
    travel: Travel = field(default_factory=Travel)
    now_ns: int = 0
    recorded: bool = False
    waiting: tuple[str, float] | None = None
    error: str | None = None


class Status(Static):
    """Written anew when it would say something else."""

    standing: reactive[Standing] = reactive(Standing)

    def __init__(self) -> None:
        super().__init__()
        self._said: Text | None = None

    def watch_standing(self, standing: Standing) -> None:
        """Write the line."""
        said = line(standing, self.app.size.width)
        if said != self._said:
            before, self._said = self._said, said
            self.update(said, layout=before is None or self._lines(before) != self._lines(said))

    def _lines(self, said: Text) -> int:
        """To lay out anew is to paint everything anew: it is done where this changes."""
        return -(-said.cell_len // max(self.app.size.width, 1))


def line(standing: Standing, columns: int) -> Text:
    """The words of the line, in a window of so many columns."""
    headline = standing.headline
    text = Text(" ") if columns < WIDE_COLUMNS else Text(" ").append(" warpline ", "bold reverse").append("  ")
    text.append(("  " if columns >= WIDE_COLUMNS else " ").join(_counted(headline)) + " ")
    text.append_text(_verdict(headline)).append(" ").append_text(_time(standing, columns))
    if standing.waiting is not None and standing.waiting[1] >= SLOW_SECONDS:
        what, seconds = standing.waiting
        text.append(f"  asking for {what} for {seconds:.0f} s", "yellow")
    if standing.error is not None:
        text.append(f"  {standing.error[:ERROR_MAX]}", "bold red")
    return text


def _counted(headline: Headline) -> list[str]:
    counts = ((headline.nodes, "node"), (headline.gpus, "GPU"), (headline.jobs, "job"), (headline.ranks, "rank"))
    return [f"{count:,} {name}{'' if count == 1 else 's'}" for count, name in counts]


def _verdict(headline: Headline) -> Text:
    if headline.open:
        worst = next(iter(headline.open))
        return Text(f" {sum(headline.open.values())} open: {worst} ", STYLES.get(worst, "bold"))
    if headline.gpus or headline.ranks:
        return Text(" nothing is accused ", "bold green")
    return Text(" no data yet ", "bold")


def _clock(time_ns: int, now_ns: int) -> str:
    """A UTC time of day with its seconds, with its date where that is another day than now."""
    then, now = (datetime.fromtimestamp(each // 10**9, UTC) for each in (time_ns, now_ns))
    return then.strftime("%H:%M:%S" if then.date() == now.date() else "%Y-%m-%d %H:%M:%S")


def _time(standing: Standing, columns: int) -> Text:
    at_ns, newest_ns = standing.travel.moment.at_ns, standing.headline.newest_ns
    if at_ns is not None:
        said = "PLAYING" if standing.travel.playing else "PAUSED"
        then = f" {said} AT {_clock(at_ns, standing.now_ns)}, {age(at_ns, standing.now_ns)} "
        said = "now" if standing.recorded else "live"
        return Text(then, "bold black on cyan").append(f" L: {said}", "not bold default on default")
    if standing.recorded:
        said = "RECORDED to" if columns >= WIDE_COLUMNS else "to"
        return Text("" if newest_ns is None else f"{said} {_clock(newest_ns, 0)}", "bold")
    if newest_ns is None:
        return Text("LIVE", "bold")
    old_seconds = (standing.now_ns - newest_ns) / 1e9
    if old_seconds < FRESH_SECONDS:
        return Text("LIVE", "bold green")
    return Text(f"LIVE, data {age(newest_ns, standing.now_ns)}", "yellow" if old_seconds > STALE_SECONDS else "dim")
