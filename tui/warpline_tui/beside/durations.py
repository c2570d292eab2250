"""Kernels, or where none are kept the operations that the framework names: how long each takes the accused and its peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.newest_run import EPOCH_CLOCKS_NS

from ..literal import literal
from ..view import Ask
from .ranks import Compared, in_ranks

NAMES_MAX: Final = 200
RECENT_STEPS: Final = 64
"""Steps that are summed up, the newest of those that are asked for."""
RECENT_NS: Final = 15 * 60 * 10**9
"""Of a live fleet no more than these before the newest step."""
BINS_A_DECADE: Final = 48
"""Durations are counted in bins of 4.9 %, which are joined as far as the window is small."""
KERNELS: Final = "kernels"
OPERATIONS: Final = "operations"


@dataclass(frozen=True)
class Side:
    """One kernel on one side: medians over its ranks of count, total, median and 99th percentile; ns, None where not known."""

    count: float | None
    total_ns: float | None
    mean_ns: float | None
    p50_ns: float | None
    p99_ns: float | None
    max_ns: float | None


NOBODY: Final = Side(None, None, None, None, None, None)


@dataclass(frozen=True)
class Timed:
    """One kernel or operation. `key` is what it is asked for by, `share` the part of the accused's time, 0 to 1."""

    key: str
    name: str
    category: str
    share: float
    mine: Side
    peers: Side = NOBODY

    @property
    def ratio(self) -> float | None:
        """How many times as long as on the peers: of the medians, where there are none of the means."""
        for mine, peers in ((self.mine.p50_ns, self.peers.p50_ns), (self.mine.mean_ns, self.peers.mean_ns)):
            if mine is not None and peers:
                return mine / peers
        return None

    @property
    def excess_ns(self) -> float:
        """What the accused spends in it beyond its peers; 0 where that is not known."""
        if self.mine.mean_ns is None or self.peers.mean_ns is None or self.mine.count is None:
            return 0.0
        return (self.mine.mean_ns - self.peers.mean_ns) * self.mine.count


Bin = tuple[int, float, float]
"""Number of a bin on the logarithmic scale; how much of the accused's, and of the peers', lies in it, each 0 to 1 in all."""


@dataclass(frozen=True)
class Durations:
    """`what` is KERNELS or OPERATIONS, empty where neither is kept; `steps` the first and the last, None where there are none.

    `bins` are those of the one called `chosen`, shortest first; `shapeless` says how much of it is told by sums alone.
    `sql` is the query behind the items.
    """

    what: str = ""
    items: tuple[Timed, ...] = ()
    steps: tuple[int, int] | None = None
    chosen: str | None = None
    bins: tuple[Bin, ...] = ()
    shapeless: float = 0.0
    sql: str = ""


@dataclass(frozen=True)
class Span:
    """Steps from and to, both included, and the same in time; None where open."""

    first_step: int | None = None
    last_step: int | None = None
    end_ns: int | None = None
    start_ns: int | None = None


EVER: Final = Span()


@dataclass(frozen=True)
class Sides:
    """SQL conditions over rows of a job: which are the accused's, and which are the peers'; and the steps that they span.

    `outside` are the same of what lies in no step: where none of the kernels knows its step, it stands for them.
    """

    job: str
    mine: str
    peers: str
    steps: tuple[int, int] | None = None
    outside: Sides | None = None

    def against(self, other: Sides) -> Sides:
        """The accused of both, the other's in the place of the peers."""
        outside = None if self.outside is None or other.outside is None else self.outside.against(other.outside)
        return Sides(self.job, self.mine, other.mine, self.steps, outside)

    def of(self, table: str, columns: str, only: str = "TRUE") -> str:
        """SQL: rows of both, marked by `mine`; a row that belongs to both stands twice."""
        return " UNION ALL ".join(
            f"SELECT {mine} AS mine, {columns} FROM {table} WHERE job = {literal(self.job)} AND {only} AND {side}"
            for mine, side in (("TRUE", self.mine), ("FALSE", self.peers))
        )


def durations(ask: Ask, who: Compared, span: Span = EVER, chosen: str | None = None) -> Durations:
    """Ask for the kernels, else the operations, of the accused and its peers in a span; `chosen` is whose bins are asked for."""
    if who.job is None or not who.accused:
        return Durations()
    return told(ask, sides_of(ask, who, span), chosen)


def told(ask: Ask, sides: Sides, chosen: str | None = None) -> Durations:
    """The kernels of two sides, else their operations; of any there are."""
    for what, each in ((KERNELS, sides), (KERNELS, sides.outside), (OPERATIONS, sides)):
        found = Durations() if each is None else durations_of(ask, what, each, chosen)
        if found.items:
            return found
    return Durations()


def sides_of(ask: Ask, who: Compared, span: Span = EVER) -> Sides:
    """The accused and its peers over the newest steps of a span."""
    within, outside, steps = _recent(ask, who, span)
    mine, peers = in_ranks(who.accused), in_ranks(who.peers)
    stepless = None if outside is None else Sides(who.job or "", f"{mine} AND {outside}", f"{peers} AND {outside}")
    return Sides(who.job or "", f"{mine} AND {within}", f"{peers} AND {within}", steps, stepless)


def durations_of(ask: Ask, what: str, sides: Sides, chosen: str | None = None) -> Durations:
    """KERNELS or OPERATIONS of any two sides, the greatest excess first."""
    sql = (_kernels if what == KERNELS else _operations)(sides).strip()
    rows = ask.rows(sql).to_pylist()
    if not rows:
        return Durations()
    whole = sum(row["mine_total"] or 0.0 for row in rows)
    items = sorted(
        (_timed(row, whole) for row in rows),
        key=lambda each: (-each.excess_ns, -(each.mine.total_ns or 0.0), each.name),
    )
    key = chosen if chosen in {item.key for item in items} else items[0].key
    bins = ask.rows((_kernel_bins if what == KERNELS else _operation_bins)(sides, str(key))).to_pylist()
    return Durations(what, tuple(items), sides.steps, key, *_bins(bins), sql)


def edges_ns(number: int) -> tuple[float, float]:
    """From and to of a bin, ns."""
    return 10 ** (number / BINS_A_DECADE), 10 ** ((number + 1) / BINS_A_DECADE)


def _recent(ask: Ask, who: Compared, span: Span) -> tuple[str, str | None, tuple[int, int] | None]:
    """SQL: the newest rows of a span; the same of those outside any step, None where steps were asked for; and the steps."""
    times = [ask.until("start_ns")]
    times += [] if span.end_ns is None else [f"(start_ns IS NULL OR start_ns <= {span.end_ns})"]
    times += [] if span.start_ns is None else [f"start_ns >= {span.start_ns}"]
    terms = [] if span.first_step is None else [f"step >= {span.first_step}"]
    terms += [] if span.last_step is None else [f"step <= {span.last_step}"]
    of_accused = f"job = {literal(who.job or '')} AND {in_ranks(who.accused)} AND step IS NOT NULL"
    [row] = ask.rows(
        "SELECT min(step) AS first, max(step) AS last, max(at_ns) AS at_ns FROM (SELECT step, max(start_ns) AS at_ns FROM steps "
        f"WHERE {' AND '.join([of_accused, *times, *terms])} GROUP BY step "
        f"ORDER BY max(start_ns) FILTER (start_ns > {EPOCH_CLOCKS_NS}) DESC NULLS LAST, step DESC LIMIT {RECENT_STEPS})"
    ).to_pylist()
    if row["last"] is None:
        return " AND ".join(times + terms), None, None
    if row["at_ns"] is not None and row["at_ns"] > EPOCH_CLOCKS_NS:
        times.append(f"start_ns > {row['at_ns'] - RECENT_NS}")
    outside = None if span.last_step is not None else " AND ".join([*times, "step IS NULL"])
    within = " AND ".join([*times, f"step BETWEEN {row['first']} AND {row['last']}"])
    return within, outside, (row["first"], row["last"])


def _kernels(sides: Sides) -> str:
    """SQL: each kernel on both sides. Medians are weighted by count over the clusters that have one."""
    return f"""
WITH kept AS (
    {sides.of("kernel_clusters", "rank, kernel_id, category, count, sum_ns, p50_ns, p99_ns, max_ns", "kernel_id IS NOT NULL")}
), ranks AS (
    SELECT kernel_id, mine, any_value(category) AS category, sum(count) AS count, sum(sum_ns) AS total,
           sum(p50_ns * count) / sum(count) FILTER (p50_ns IS NOT NULL) AS p50, max(p99_ns) AS p99, max(max_ns) AS longest
    FROM kept GROUP BY kernel_id, mine, rank
), told AS ({_both("kernel_id")}), names AS (
    SELECT kernel_id, any_value(name) AS name FROM kernel_names WHERE kernel_id IN (SELECT kernel_id FROM told) GROUP BY kernel_id
)
SELECT CAST(kernel_id AS VARCHAR) AS key, told.* EXCLUDE (kernel_id), coalesce(name, 'kernel ' || kernel_id) AS name
FROM told LEFT JOIN names USING (kernel_id)
"""


def _operations(sides: Sides) -> str:
    """SQL: each phase on both sides."""
    return f"""
WITH kept AS (
    {sides.of("phases", "rank, phase, kind, duration_ns", "phase IS NOT NULL AND duration_ns > 0")}
), ranks AS (
    SELECT phase, mine, any_value(kind) AS category, count(*) AS count, sum(duration_ns) AS total, median(duration_ns) AS p50,
           quantile_cont(duration_ns, 0.99) AS p99, max(duration_ns) AS longest
    FROM kept GROUP BY phase, mine, rank
), told AS ({_both("phase")})
SELECT phase AS key, phase AS name, told.* EXCLUDE (phase) FROM told
"""


_SUMS: Final = {
    "count": "count", "total": "total", "mean": "total / count", "p50": "p50", "p99": "p99", "longest": "longest",
}  # fmt: skip
"""Of each rank; a side is told by the median over its ranks."""


def _both(key: str) -> str:
    """SQL: one row for each kernel in `ranks`."""
    sums = ", ".join(
        f"median({expression}) FILTER ({side}) AS {name}_{short}"
        for name, side in (("mine", "mine"), ("peers", "NOT mine"))
        for short, expression in _SUMS.items()
    )
    return f"""
    SELECT {key}, any_value(category) AS category, {sums} FROM ranks
    GROUP BY {key} HAVING count(*) FILTER (mine) > 0 ORDER BY sum(total) FILTER (mine) DESC LIMIT {NAMES_MAX}
"""


def _timed(row: dict[str, Any], whole: float) -> Timed:
    mine, peers = (Side(*(row[f"{side}_{short}"] for short in _SUMS)) for side in ("mine", "peers"))
    share = (mine.total_ns or 0.0) / whole if whole else 0.0
    return Timed(str(row["key"]), str(row["name"]), row["category"] or "", share, mine, peers)


_BIN: Final = f"CAST(floor(log10(took) * {BINS_A_DECADE}) AS INTEGER)"


def _kernel_bins(sides: Sides, key: str) -> str:
    """SQL: durations of one kernel by bin: of its runs, else of its order statistics; of sums alone by their mean, told apart."""
    return f"""
WITH kept AS (
    {sides.of("kernel_clusters", "*", f"kernel_id = {int(key)}")}
), told AS (
    SELECT mine, unnest(run_counts)::DOUBLE AS count, unnest(run_means_ns) AS took, FALSE AS shapeless FROM kept
    WHERE len(run_counts) > 0
    UNION ALL
    SELECT mine, count * unnest([0.1, 0.4, 0.4, 0.1]) AS count, unnest([p10_ns, p50_ns, p90_ns, p99_ns]) AS took,
           FALSE AS shapeless
    FROM kept WHERE coalesce(len(run_counts), 0) = 0 AND p50_ns IS NOT NULL
    UNION ALL
    SELECT mine, count::DOUBLE AS count, sum_ns / count AS took, TRUE AS shapeless FROM kept
    WHERE coalesce(len(run_counts), 0) = 0 AND p50_ns IS NULL
)
SELECT mine, {_BIN} AS bin, sum(count) AS count, coalesce(sum(count) FILTER (shapeless), 0.0)::DOUBLE AS shapeless FROM told
WHERE took > 0 AND count > 0 GROUP BY mine, bin ORDER BY bin
"""


def _operation_bins(sides: Sides, key: str) -> str:
    """SQL: durations of one phase by bin."""
    return f"""
WITH told AS (
    {sides.of("phases", "duration_ns AS took", f"phase = {literal(key)} AND duration_ns > 0")}
)
SELECT mine, {_BIN} AS bin, count(*)::DOUBLE AS count, 0.0::DOUBLE AS shapeless FROM told GROUP BY mine, bin ORDER BY bin
"""


def _bins(rows: Sequence[dict[str, Any]]) -> tuple[tuple[Bin, ...], float]:
    """Shares of each side by bin, and how much of all is told by sums alone."""
    whole = {side: sum(row["count"] for row in rows if row["mine"] == side) or 1.0 for side in (True, False)}
    shares: dict[int, list[float]] = {}
    for row in rows:
        shares.setdefault(row["bin"], [0.0, 0.0])[0 if row["mine"] else 1] = row["count"] / whole[row["mine"]]
    told = sum(row["count"] for row in rows)
    shapeless = sum(row["shapeless"] for row in rows) / told if told else 0.0
    return tuple((number, mine, peers) for number, (mine, peers) in sorted(shares.items())), shapeless
