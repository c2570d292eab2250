"""The keys of the timeline: w, a, s, d, comma and full stop as in the Perfetto UI, the rest as in vi."""

from __future__ import annotations

from typing import Final

from textual.binding import Binding, BindingType

PAN: Final = 0.25
"""So much of the screen earlier or later."""

KEYS: Final[list[BindingType]] = [
    Binding(
        "w,plus,equals_sign",
        "zoom(0.5)",
        "zoom in",
        show=True,
        id="timeline.in",
        tooltip="Half the time, around the cursor",
    ),
    Binding("s,minus", "zoom(2)", "out", show=True, id="timeline.out", tooltip="Twice the time, around the cursor"),
    Binding(
        "a,shift+left",
        f"pan(-{PAN})",
        "earlier",
        show=False,
        id="timeline.earlier",
        tooltip="A quarter of the screen earlier",
    ),
    Binding(
        "d,shift+right",
        f"pan({PAN})",
        "later",
        show=False,
        id="timeline.later",
        tooltip="A quarter of the screen later",
    ),
    Binding("left,h", "cursor(-1)", "left", show=False, id="timeline.left", tooltip="The cursor a column earlier"),
    Binding("right,l", "cursor(1)", "right", show=False, id="timeline.right", tooltip="The cursor a column later"),
    Binding("up,k", "lane(-1)", "up", show=False, id="timeline.up", tooltip="The lane above"),
    Binding("down,j", "lane(1)", "down", show=False, id="timeline.down", tooltip="The lane below"),
    Binding("full_stop", "slice(1)", "next", show=False, id="timeline.next", tooltip="The next thing in this lane"),
    Binding(
        "comma", "slice(-1)", "previous", show=False, id="timeline.previous", tooltip="The thing before it in this lane"
    ),
    Binding("right_parenthesis", "step(False)", "step", show=False, id="timeline.next_step", tooltip="The next step"),
    Binding(
        "left_parenthesis",
        "step(True)",
        "step back",
        show=False,
        id="timeline.previous_step",
        tooltip="The step before",
    ),
    Binding("f", "fit", "fit", show=True, id="timeline.fit", tooltip="What is under the cursor fills the screen"),
    Binding("z", "whole", "all", show=False, id="timeline.whole", tooltip="All that is kept of this rank"),
    Binding("0", "newest", "newest", show=False, id="timeline.newest", tooltip="The newest steps, followed"),
    Binding(
        "slash",
        "search",
        "search",
        show=True,
        id="timeline.search",
        tooltip="Search for a kernel by a part of its name",
    ),
    Binding(
        "n",
        "again(False)",
        "next found",
        show=False,
        id="timeline.found",
        tooltip="The next kernel that was searched for",
    ),
    Binding("N", "again(True)", "found before", show=False, id="timeline.found_before", tooltip="The one before"),
    Binding(
        "c", "compare", "beside", show=True, id="timeline.beside", tooltip="Another rank or another time beside it"
    ),
    Binding(
        "left_square_bracket",
        "rank(-1)",
        "rank before",
        show=False,
        id="timeline.rank_before",
        tooltip="The rank before",
    ),
    Binding(
        "right_square_bracket", "rank(1)", "next rank", show=True, id="timeline.rank_next", tooltip="The next rank"
    ),
    Binding(
        "enter",
        "open",
        "open",
        show=False,
        id="timeline.open",
        tooltip="Open the finding, or fit what is under the cursor",
    ),
    Binding("x", "sql", "SQL", show=True, id="timeline.sql", tooltip="The SQL of what this lane shows"),
    Binding(
        "e",
        "export",
        "export",
        show=True,
        id="timeline.export",
        tooltip="The command that writes this span for the Perfetto UI",
    ),
    Binding("y", "copy", "copy", show=False, id="timeline.copy", tooltip="Copy what is under the cursor, with its SQL"),
]
