"""The questions behind a timeline: what lies in a span of time, summed by column where it is too short to be seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..literal import literal, same

SLICES_MAX: Final = 4_000
"""Slices of one lane or group of lanes; the longest are drawn, the others counted."""
LONGEST_NS: Final = 3600 * 10**9
"""Nothing that is drawn takes longer: what began earlier than this before the span is not looked for."""
APART_NS: Final = 600 * 10**9
"""Clocks of two nodes are no farther apart where the same operation is looked for on other ranks."""
HELD_NS: Final = 5 * 10**9
"""A reading of a GPU is taken to hold so long, unless the next comes before."""
PAIRED_MAX: Final = 5_000
"""Of so many operations of the rank at most, those of the others are looked for."""
EXTENTS_MAX: Final = 64
MARKS_MAX: Final = 200
UNTIMED: Final = "('summary', 'enqueue', 'kernel_shared')"
"""Collectives without a time of their own."""
POINT_TO_POINT: Final = "('send', 'recv', 'send_recv')"
"""Operations of which the shortest duration over the ranks says nothing of the others' waiting."""


@dataclass(frozen=True)
class Window:
    """Rows of one rank from start_ns to end_ns, `columns` of the screen wide; `until` is what else a start must meet."""

    job: str
    rank: int | None
    start_ns: int
    end_ns: int
    columns: int
    at_ns: int | None = None

    @property
    def bin_ns(self) -> int:
        """Time of one column."""
        return max((self.end_ns - self.start_ns) // max(self.columns, 1), 1)

    @property
    def who(self) -> str:
        """Condition: the row is this rank's."""
        return f"job = {literal(self.job)} AND {same('rank', self.rank)}"

    def there(self, column: str = "start_ns") -> str:
        """Condition: the row was there at the moment looked at."""
        return "" if self.at_ns is None else f" AND {column} <= {self.at_ns}"

    def within(self, end: str = "start_ns + coalesce(duration_ns, 0)") -> str:
        """Condition: this rank's, and any of its time lies in the window."""
        return (
            f"{self.who} AND start_ns < {self.end_ns} AND start_ns > {self.start_ns - LONGEST_NS} "
            f"AND greatest({end}, start_ns + 1) > {self.start_ns}{self.there()}"
        )


def binned(rows: str, window: Window, summed: str = "") -> str:
    """SELECT of slices from `rows` (track, start_ns, duration_ns, name, category, step, hit): what is at least a column long
    by itself, what is shorter by the column in which it began. A clock that was set back makes nothing take less than no time."""
    return f"""SELECT track, min(start_ns) AS start_ns, max(start_ns + duration_ns) AS end_ns, count(*) AS count,
    sum(duration_ns)::BIGINT AS busy_ns, max(duration_ns) AS longest_ns, arg_max(name, duration_ns) AS name,
    arg_max(category, duration_ns) AS category, arg_max(step, duration_ns) AS step, bool_or(hit) AS hit{summed},
    count(*) OVER () AS groups
FROM (SELECT * REPLACE (greatest(coalesce(duration_ns, 0), 0) AS duration_ns) FROM ({rows}))
GROUP BY track, duration_ns >= {window.bin_ns},
    CASE WHEN duration_ns >= {window.bin_ns} THEN start_ns ELSE (start_ns - {window.start_ns}) // {window.bin_ns} END
ORDER BY busy_ns DESC, start_ns LIMIT {SLICES_MAX}"""


def steps(window: Window) -> str:
    """Steps, and the whole of a recorded file where it has none."""
    rows = f"""
    SELECT coalesce(scope, 'step') AS track, start_ns, coalesce(duration_ns, 0) AS duration_ns, step::VARCHAR AS name,
        '' AS category, step, false AS hit, idle_ns, data_wait_ns
    FROM steps WHERE {window.within()}"""
    return binned(
        rows,
        window,
        ", sum(idle_ns)::BIGINT AS idle_ns, sum(data_wait_ns)::BIGINT AS data_wait_ns, any_value(step) AS any_step",
    )


def phases(window: Window) -> str:
    """Phases by what they are; those that count from the start of their step have no place here."""
    rows = f"""
    SELECT CASE WHEN kind = 'data' THEN 'data' WHEN phase = 'gc' THEN 'gc' ELSE 'phase' END AS track, start_ns,
        coalesce(duration_ns, 0) AS duration_ns, coalesce(phase, 'phase') AS name,
        coalesce(kind, '') AS category, step, false AS hit
    FROM phases WHERE {window.within()} AND coalesce(clock, '') NOT LIKE 'step@%'"""
    return binned(rows, window)


def extents(window: Window) -> str:
    """From when to when single kernels are kept, by the closer look that they were sent for."""
    end = "start_ns + greatest(coalesce(duration_ns, 0), 0)"
    return f"""SELECT capture_id, min(start_ns) AS start_ns, max({end}) AS end_ns, count(*) AS kernels
FROM raw_kernels WHERE {window.within()} GROUP BY capture_id ORDER BY start_ns LIMIT {EXTENTS_MAX}"""


def _hits(needle: str) -> str:
    if not needle:
        return "false"
    return f"kernel_id IN (SELECT kernel_id FROM kernel_names WHERE contains(lower(name), {literal(needle.lower())}))"


def _named(drawn: str) -> str:
    """The longest kernel of each slice with its name."""
    return f"""WITH drawn AS ({drawn}), names AS (
    SELECT kernel_id, any_value(name) AS kernel FROM kernel_names WHERE kernel_id IN (SELECT name FROM drawn) GROUP BY kernel_id
)
SELECT drawn.* REPLACE (coalesce(kernel, 'kernel ' || name) AS name), drawn.name AS kernel_id
FROM drawn LEFT JOIN names ON names.kernel_id = drawn.name ORDER BY busy_ns DESC, start_ns"""


def kernels(window: Window, several: bool, needle: str = "") -> str:
    """Single kernels by stream; a record that several closer looks sent (`several`) counts once."""
    device = "CASE WHEN coalesce(device, 0) > 0 AND rank IS NULL THEN device || ':' ELSE '' END"
    rows = f"""
    SELECT {"DISTINCT " if several else ""}{device} || coalesce(stream::VARCHAR, '?') AS track, start_ns, duration_ns,
        kernel_id AS name, category, step, {_hits(needle)} AS hit
    FROM raw_kernels WHERE {window.within()}"""
    return _named(binned(rows, window))


def clusters(window: Window, needle: str = "") -> str:
    """Kernels by stream and step as counts and sums; `longest_ns` is the time of the kernel with most of it."""
    end = "greatest(end_ns, start_ns)"
    by_kernel = f"""
    SELECT coalesce(stream::VARCHAR, '?') AS track, step, kernel_id, any_value(category) AS category, min(start_ns) AS start_ns,
        max({end}) AS until_ns, sum(count) AS kernels, sum(sum_ns) AS sum_ns, {_hits(needle)} AS hit
    FROM kernel_clusters WHERE {window.within(end)} GROUP BY stream, step, kernel_id"""
    by_step = f"""
    SELECT track, step, min(start_ns) AS start_ns, max(until_ns) - min(start_ns) AS duration_ns,
        coalesce(sum(kernels), 0)::BIGINT AS kernels, coalesce(sum(sum_ns), 0)::BIGINT AS taken_ns,
        arg_max(kernel_id, sum_ns) AS name, arg_max(category, sum_ns) AS category, bool_or(hit) AS hit
    FROM ({by_kernel}) GROUP BY track, step"""
    return _named(binned(by_step, window, ", sum(kernels)::BIGINT AS kernels, sum(taken_ns)::BIGINT AS taken_ns"))


def gaps(window: Window, several: bool, holes: tuple[tuple[int, int], ...]) -> str:
    """When no kernel ran on any stream, between two that are kept; `holes` lie between two closer looks."""
    outside = "".join(f" AND NOT (before_ns <= {start} AND start_ns >= {end})" for start, end in holes)
    rows = f"""
    SELECT '' AS track, before_ns AS start_ns, start_ns - before_ns AS duration_ns, 'idle' AS name, '' AS category,
        step, false AS hit
    FROM (
        SELECT start_ns, step, max(start_ns + duration_ns) OVER (
            ORDER BY start_ns ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS before_ns FROM (
            SELECT {"DISTINCT " if several else ""}start_ns, duration_ns, step FROM raw_kernels WHERE {window.within()}
        )
    ) WHERE start_ns > before_ns{outside}"""
    return binned(rows, window)


def collectives(window: Window) -> str:
    """Collectives with their waiting apart, where the same operation is known of every rank that takes part: the shortest
    duration over them is the transfer, for the last to come does not wait."""
    mine = (
        f"{window.within()} AND duration_ns IS NOT NULL AND count IS NULL AND coalesce(timing, 'host') NOT IN {UNTIMED}"
    )
    rows = f"""
    WITH mine AS (SELECT * FROM collectives WHERE {mine}), whole AS (
        SELECT communicator, operation, sequence, min(duration_ns) AS transfer_ns, arg_min(rank, duration_ns) AS last
        FROM collectives
        SEMI JOIN (SELECT * FROM mine WHERE (SELECT count(*) FROM mine) <= {PAIRED_MAX}) AS few
            USING (communicator, operation, sequence)
        WHERE job = {literal(window.job)} AND start_ns BETWEEN {window.start_ns - APART_NS} AND {window.end_ns + APART_NS}
            AND duration_ns > 0 AND operation NOT IN {POINT_TO_POINT} AND coalesce(timing, 'host') NOT IN {UNTIMED}
        GROUP BY communicator, operation, sequence
        HAVING count(DISTINCT rank) > 1 AND count(DISTINCT rank) = coalesce(max(nranks), count(DISTINCT rank))
    )
    SELECT coalesce(group_name, mine.communicator, '') AS track, start_ns, duration_ns,
        mine.operation AS name, '' AS category, step, false AS hit, duration_ns - transfer_ns AS wait_ns, last,
        coalesce(message_bytes, -1) AS message_bytes, mine.sequence AS sequence
    FROM mine LEFT JOIN whole USING (communicator, operation, sequence)"""
    return binned(
        rows,
        window,
        ", sum(wait_ns)::BIGINT AS wait_ns, count(wait_ns) AS told, arg_max(last, duration_ns) AS last, "
        "arg_max(message_bytes, duration_ns) AS message_bytes, arg_max(sequence, duration_ns) AS sequence",
    )


def readings(window: Window, node: str, gpu_uuid: str) -> str:
    """Power and SM clock of the rank's GPU, mean by column."""
    return f"""SELECT greatest(time_ns - {window.start_ns}, -1) // {window.bin_ns} AS place, max(time_ns) AS time_ns,
    count(*) AS count,
    avg(power_watts) AS watts, min(power_watts) AS watts_lowest, max(power_watts) AS watts_highest,
    max(power_limit_watts) AS watts_top, avg(sm_clock_mhz) AS mhz, min(sm_clock_mhz) AS mhz_lowest,
    max(sm_clock_mhz) AS mhz_highest, max(sm_clock_max_mhz) AS mhz_top
FROM device_samples WHERE node = {literal(node)} AND gpu_uuid = {literal(gpu_uuid)}
    AND time_ns >= {window.start_ns - HELD_NS} AND time_ns < {window.end_ns}{window.there("time_ns")}
GROUP BY place ORDER BY place LIMIT {SLICES_MAX}"""


def logs(window: Window, node: str) -> str:
    """Faults that the node's logs tell of, and those of the rank."""
    return f"""SELECT time_ns, kind, code, severity, bus_id, message, count(*) OVER () AS groups FROM log_events
WHERE node = {literal(node)} AND (job IS NULL OR job = {literal(window.job)}) AND (rank IS NULL OR {same("rank", window.rank)})
    AND time_ns >= {window.start_ns} AND time_ns < {window.end_ns}{window.there("time_ns")}
ORDER BY time_ns LIMIT {MARKS_MAX}"""
