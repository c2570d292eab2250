"""Tables of warpline's own: how its sources fare, what it found, what it was asked to look at."""

from __future__ import annotations

from .columns import INT, REAL, SMALL, TEXT, place
from .table import Column, Table

SOURCE_HEALTH = Table(
    "source_health",
    "how one source fared in one round",
    "time_ns",
    (
        *place(),
        Column("time_ns", INT, "ns", "when the round ended"),
        Column("subject", TEXT, "", "what the row speaks of: the source itself, a GPU, a field, a port, a file"),
        Column("state", TEXT, "", "fresh, stale, unsupported, busy, denied, dropped, refused or dead"),
        Column("reason", TEXT, "", "why, in words"),
        Column("rows", INT, "", "rows read"),
        Column("dropped", INT, "", "rows that fell off"),
        Column("duration_ns", INT, "ns", "time the round took"),
        Column("cpu_ns", INT, "ns", "CPU time of the agent since its start, on rows of source `own`"),
        Column("rss_bytes", INT, "B", "memory of the agent, on rows of source `own`"),
    ),
    large=True,
)

FINDINGS = Table(
    "findings",
    "one state of one finding; the view current_findings has the newest state of each",
    "updated_ns",
    (
        *place(),
        Column("id", TEXT, "", "stable identifier: kind and subject"),
        Column("kind", TEXT, "", "see FindingKind"),
        Column("severity", TEXT, "", "info, warning or critical"),
        Column("confidence", REAL, "", "0 to 1"),
        Column("state", TEXT, "", "open, resolved, or ended: its job or node fell silent with the finding standing"),
        Column("detector", TEXT, "", "the question that it answers"),
        Column("job", TEXT, "", "job of the subject"),
        Column("rank", SMALL, "", "rank of the subject"),
        Column("gpu_uuid", TEXT, "", "GPU of the subject"),
        Column("subject", TEXT, "", "the whole subject as JSON"),
        Column("opened_ns", INT, "ns", "when it was first raised"),
        Column("updated_ns", INT, "ns", "when this state was written"),
        Column("onset_ns", INT, "ns", "since when, where a clock is known"),
        Column("onset_step", INT, "", "since which step"),
        Column("summary", TEXT, "", "one sentence for an operator"),
        Column("document", TEXT, "", "the whole finding as JSON, as `warpline findings --json` prints it"),
    ),
)

CAPTURES = Table(
    "captures",
    "one state of one request to look closer; the view current_captures has the furthest state of each",
    "requested_ns",
    (
        *place(),
        Column("id", TEXT, "", "identifier"),
        Column("requested_ns", INT, "ns", "when it was asked for"),
        Column("updated_ns", INT, "ns", "when this state was written"),
        Column("job", TEXT, "", "job"),
        Column("rank", SMALL, "", "rank"),
        Column("what", TEXT, "", "kernels, stacks, flight_recorder or trace"),
        Column("start_ns", INT, "ns", "from when"),
        Column("duration_ns", INT, "ns", "for how long"),
        Column("reason", TEXT, "", "finding that asked"),
        Column("state", TEXT, "", "requested, sent, done, denied or expired"),
        Column("detail", TEXT, "", "why, or what came of it, in words"),
        Column("records", INT, "", "raw records delivered"),
        Column("delivered_start_ns", INT, "ns", "start of the time that they cover, on their own clock"),
        Column("delivered_end_ns", INT, "ns", "end of that time"),
        Column("missing_ns", INT, "ns", "time asked for of which no record is or was held"),
    ),
)
