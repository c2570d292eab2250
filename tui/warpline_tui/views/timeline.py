"""What the timeline shows: the lanes of one rank over a span of time, those of what stands beside it, and what is usual."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from ..incident import Incident, newest, open_ones
from ..lanes import ORDER, Lane
from ..literal import literal
from ..view import Ask
from .timeline_beside import Aligned, Beside, aligned
from .timeline_lanes import finding_lane, lanes_of
from .timeline_sql import Window
from .timeline_usual import Usual, usual

STEPS_SHOWN: Final = 4
"""Without a span, the newest of so many steps are shown."""
WITHOUT_STEPS_NS: Final = 2 * 10**9
"""... and the newest of so much time where there are none."""
RANKS_MAX: Final = 20_000
RANKS_SECONDS: Final = 10.0
RankKey = tuple[str, int | None]


@dataclass(frozen=True)
class Jump:
    """Look for the next (or previous) thing from `from_ns` on: a step, or a kernel whose name has `needle` in it."""

    what: Literal["step", "kernel", "whole"]
    from_ns: int = 0
    back: bool = False
    needle: str = ""


@dataclass(frozen=True)
class Timeline:
    """The rank that is shown (None where none is known), its span, its lanes from the top down, and what ranks there are.

    `found_ns` is what `jump` led to (start and end), None where there is nothing. `notes` are sentences about what is missing.
    """

    who: RankKey | None = None
    start_ns: int = 0
    end_ns: int = 1
    lanes: tuple[Lane, ...] = ()
    usual: Usual = field(default_factory=Usual)
    ranks: tuple[RankKey, ...] = ()
    jump: Jump | None = None
    found_ns: tuple[int, int] | None = None
    beside: str = ""
    shift_ns: int = 0
    usual_beside: Usual = field(default_factory=Usual)
    notes: tuple[str, ...] = ()
    clock: str | None = None


@dataclass(frozen=True)
class TimelineView:
    """The timeline of `who` (None: most worth a look) from start_ns to end_ns (None: newest steps), `columns` wide."""

    who: RankKey | None = None
    any_rank: bool = False
    start_ns: int | None = None
    end_ns: int | None = None
    columns: int = 80
    needle: str = ""
    jump: Jump | None = None
    beside: Beside | None = None

    def take(self, ask: Ask) -> Timeline:
        """Ask for all of it."""
        incidents = newest(ask)
        ranks = _ranks(ask)
        who = _chosen(ranks, incidents, self.who, self.any_rank)
        if who is None:
            return Timeline()
        window = self._window(ask, who)
        if window is None:
            return Timeline(who, ranks=ranks)
        lanes, facts = lanes_of(ask, window, self.needle)
        lanes += finding_lane(window, incidents, facts)
        shown = Timeline(
            who,
            window.start_ns,
            window.end_ns,
            usual=usual(ask, window),
            ranks=ranks,
            notes=facts.notes(window),
            clock=facts.clock,
        )
        second: Aligned | str = "" if self.beside is None else aligned(ask, window, self.beside)
        if isinstance(second, Aligned):
            other, its_facts = lanes_of(ask, second.window, self.needle)
            other += finding_lane(second.window, incidents, its_facts)
            lanes += [replace(each, side=1) for each in other]
            shown = replace(shown, shift_ns=second.shift_ns, usual_beside=usual(ask, second.window))
        said = second.said if isinstance(second, Aligned) else second
        return replace(
            shown,
            lanes=tuple(sorted(lanes, key=lambda each: (ORDER[each.kind], _by_number(each.label), each.side))),
            jump=self.jump,
            found_ns=None if self.jump is None else _found(ask, window, self.jump),
            beside=said,
        )

    def _window(self, ask: Ask, who: RankKey) -> Window | None:
        job, rank = who
        start_ns, end_ns = self.start_ns, self.end_ns
        if start_ns is None or end_ns is None:
            found = _newest_span(ask, Window(job, rank, 0, 1, 1, ask.at_ns), start_ns)
            if found is None:
                return None
            start_ns, end_ns = found
        return Window(job, rank, start_ns, max(end_ns, start_ns + 1), self.columns, ask.at_ns)


def _ranks(ask: Ask) -> tuple[RankKey, ...]:
    sql = f"""SELECT DISTINCT job, rank FROM steps WHERE job IS NOT NULL AND {ask.until("start_ns")}
ORDER BY job, rank LIMIT {RANKS_MAX}"""
    return tuple((row["job"], row["rank"]) for row in ask.rows(sql, RANKS_SECONDS).to_pylist())


def _chosen(
    ranks: tuple[RankKey, ...], incidents: Iterable[Incident], wanted: RankKey | None, any_rank: bool
) -> RankKey | None:
    """The rank that is wanted; of a job, or of all, the one that an open finding accuses, else the first."""
    if wanted is not None and not any_rank:
        return wanted
    known = [each for each in ranks if wanted is None or each[0] == wanted[0]]
    accused = [(each.finding.subject.job, each.finding.subject.rank) for each in open_ones(incidents)]
    return next((each for each in accused if each in known), None) or next(iter(known), wanted)


def _newest_span(ask: Ask, window: Window, from_ns: int | None) -> tuple[int, int] | None:
    """The newest steps, or the first from `from_ns` on; without steps the newest of whatever is kept."""
    after = "" if from_ns is None else f" AND start_ns + coalesce(duration_ns, 0) > {from_ns}"
    order = "DESC" if from_ns is None else ""
    ended = "" if ask.at_ns is None else f" AND start_ns + coalesce(duration_ns, 0) <= {ask.at_ns}"
    rows = ask.rows(f"""SELECT min(start_ns) AS start_ns, max(start_ns + coalesce(duration_ns, 0)) AS end_ns FROM (
    SELECT start_ns, duration_ns FROM steps WHERE {window.who} AND start_ns IS NOT NULL AND scope = 'step'{after}{ended}
    ORDER BY start_ns {order} LIMIT {STEPS_SHOWN}
)""").to_pylist()
    if rows[0]["start_ns"] is None:
        whole = _whole(ask, window)
        return None if whole is None else (max(whole[0], whole[1] - WITHOUT_STEPS_NS), whole[1])
    return rows[0]["start_ns"], rows[0]["end_ns"]


def _whole(ask: Ask, window: Window) -> tuple[int, int] | None:
    """All that is kept of the rank."""
    parts = " UNION ALL ".join(
        f"SELECT min(start_ns) AS first, max({end}) AS last FROM {table} WHERE {window.who}{window.there()}"
        for table, end in (
            ("steps", "start_ns + coalesce(duration_ns, 0)"),
            ("raw_kernels", "start_ns + coalesce(duration_ns, 0)"),
            ("kernel_clusters", "coalesce(end_ns, start_ns)"),
            ("collectives", "start_ns + coalesce(duration_ns, 0)"),
        )
    )
    row = ask.rows(f"SELECT min(first) AS first, max(last) AS last FROM ({parts})", 1.0).to_pylist()[0]
    return None if row["first"] is None else (row["first"], max(row["last"], row["first"] + 1))


def _found(ask: Ask, window: Window, jump: Jump) -> tuple[int, int] | None:
    """Start and end of what a jump leads to."""
    if jump.what == "whole":
        return _whole(ask, window)
    than, order = ("<", "DESC") if jump.back else (">", "ASC")
    beyond = f"{window.who}{window.there()} AND start_ns {than} {jump.from_ns}"
    if jump.what == "step":
        asked = [
            f"SELECT start_ns, start_ns + coalesce(duration_ns, 0) AS end_ns FROM steps WHERE {beyond} AND scope = 'step'"
        ]
    else:
        named = f"kernel_id IN (SELECT kernel_id FROM kernel_names WHERE contains(lower(name), {literal(jump.needle.lower())}))"
        asked = [
            f"SELECT start_ns, start_ns + coalesce(duration_ns, 0) AS end_ns FROM raw_kernels WHERE {beyond} AND {named}",
            f"SELECT start_ns, coalesce(end_ns, start_ns) AS end_ns FROM kernel_clusters WHERE {beyond} AND {named}",
        ]
    for sql in asked:
        rows = ask.rows(f"{sql} ORDER BY start_ns {order} LIMIT 1").to_pylist()
        if rows:
            return rows[0]["start_ns"], rows[0]["end_ns"]
    return None


def _by_number(label: str) -> tuple[int, int, str]:
    """Stream 7 before stream 20."""
    digits = "".join(each for each in label if each.isdecimal())
    return (0, int(digits), label) if digits and len(digits) < 8 else (1, 0, label)
