"""Tables of warpline's own: how its sources fare, what it found, what it was asked to look at."""

from __future__ import annotations

from .columns import INT, REAL, SMALL, TEXT, TEXTS, place
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
        Column("version", TEXT, "", "version of warpline that the agent is of, on rows of source `own`"),
        Column("machine", TEXT, "", "a hash of the machine id, on rows of source `own` that speak of the agent"),
    ),
    large=True,
)

AGENTS = Table(
    "agents",
    "how the collector saw one agent: about once a minute, and when what is wrong with it changes",
    "time_ns",
    (
        *place(),
        Column("agent", TEXT, "", "name that the agent sends under"),
        Column("boot", TEXT, "", "newest start of the agent"),
        Column("version", TEXT, "", "version of warpline that it is of, NULL for versions that do not say"),
        Column("time_ns", INT, "ns", "when it was judged, on the collector's clock"),
        Column("heard_ns", INT, "ns", "when its newest frame came, on the collector's clock"),
        Column("troubles", TEXTS, "", "late, dropping, skewed, over_budget, refused, reduced; empty where all is well"),
        Column("detail", TEXT, "", "what is wrong, in words; empty where all is well"),
        Column(
            "clock_offset_ns",
            INT,
            "ns",
            "its clock less the collector's, as node_clocks or else the quickest frames say",
        ),
        Column("clock_error_ns", INT, "ns", "the truth is no farther from that; NULL where quick frames alone say so"),
        Column("clock_jumps", INT, "", "counter: jumps of its clock since its newest start"),
        Column("frames", INT, "", "counter: frames heard of it, since the collector was started"),
        Column("rows", INT, "", "counter: rows of these frames"),
        Column("bytes", INT, "B", "counter: bytes of these frames, unpacked"),
        Column("dropped", INT, "", "counter: rows that fell off at the agent, since the collector was started"),
        Column("lost", INT, "", "counter: frames that fell off its spool since its newest start"),
        Column("refused_frames", INT, "", "counter: frames of it that were not taken, since the collector was started"),
        Column(
            "refused_rows",
            INT,
            "",
            "counter: rows of it that were not taken, with times that cannot be or too many jobs",
        ),
        Column(
            "cpu_percent", REAL, "%", "CPU of the agent and its children between its two newest reports, of one core"
        ),
        Column("rss_bytes", INT, "B", "memory of the agent and its children"),
        Column("waiting_bytes", INT, "B", "what waited in its spool"),
        Column("detail_level", INT, "", "how much it tells: 0 everything, up to 3 what a diagnosis cannot do without"),
        Column("kernels_left_out", INT, "", "counter: kernels that it did not tell for that, since its newest start"),
    ),
    large=True,
)

NODE_CLOCKS = Table(
    "node_clocks",
    "how far a node's clock is from the collector's: about once a minute, and at once where it jumped; the view clock_spans says "
    "what holds at which time",
    "time_ns",
    (
        *place(),
        Column("boot", TEXT, "", "start of the agent that says so"),
        Column("time_ns", INT, "ns", "when this was so, on the node's clock; just after a jump"),
        Column("steady_ns", INT, "ns", "the same on a clock that nobody sets, since the node was started"),
        Column(
            "offset_ns",
            INT,
            "ns",
            "the node's clock less the collector's; NULL where the collector does not tell its time",
        ),
        Column("error_ns", INT, "ns", "the truth is no farther from offset_ns than this"),
        Column(
            "round_trip_ns",
            INT,
            "ns",
            "there and back of the exchange that says so, without what the collector took between",
        ),
        Column("exchanges", INT, "", "counter: exchanges since the agent was started"),
        Column("jumps", INT, "", "counter: jumps since the agent was started"),
        Column("jump_ns", INT, "ns", "by how much the clock jumped, below 0 where it went back; NULL on other rows"),
        Column("before_ns", INT, "ns", "what it said just before the jump"),
        Column("detail", TEXT, "", "what is known of the jump, in words"),
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
        Column(
            "state",
            TEXT,
            "",
            "open, resolved, replaced: the GPU or machine is another one now, or ended: its job or node fell silent with the "
            "finding standing",
        ),
        Column("detector", TEXT, "", "the question that it answers"),
        Column("job", TEXT, "", "job of the subject"),
        Column("rank", SMALL, "", "rank of the subject"),
        Column("gpu_uuid", TEXT, "", "GPU of the subject"),
        Column("subject", TEXT, "", "the whole subject as JSON"),
        Column("opened_ns", INT, "ns", "when it was first raised"),
        Column("updated_ns", INT, "ns", "when this state was written"),
        Column("alarms", INT, "", "accusations that it stood for then: in each pass its own and those folded under it"),
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
