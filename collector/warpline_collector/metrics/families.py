"""Metrics of one snapshot: base units in their names, node and GPU UUID as labels, never the name of a kernel or a process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from warpline_proto.finding import FindingKind, Severity

from ..admission import Doors
from ..fleet import Seen, readings
from ..standing import TROUBLES, Standing
from .snapshot import Snapshot, health
from .text import Family, said

GPUS_MAX: Final = 20_000
"""GPUs that are told of; further ones are counted."""
GPU_SECONDS_MAX: Final = 60.0
"""A reading that is older by the collector's clock is told no more: its series ends."""
LABEL_CHARS_MAX: Final = 128

Value = Callable[[Any], float | None]
_COLLECTOR: Final[tuple[tuple[str, str, Value], ...]] = (
    ("start_time_seconds", "When the collector was started, in seconds since 1970.", lambda at: at.started_ns / 1e9),
    ("frames_total", "Frames stored since the start.", lambda at: at.frames),
    ("rows_total", "Rows of these frames.", lambda at: at.rows),
    ("frames_refused_total", "Frames refused for ever since the start.", lambda at: at.refused),
    ("streams", "Agents connected now.", lambda at: at.streams),
    ("queue_bytes", "Memory of frames that wait to be stored.", lambda at: at.queue_bytes),
    ("writer_age_seconds", "Time since the writer last turned: about 1 unless the disk is slow.", lambda at: at.writer_seconds),
    ("sql_workers", "SQL workers.", lambda at: at.workers),
    ("sql_workers_busy", "SQL workers that answer now.", lambda at: at.workers_busy),
    ("sql_questions_total", "Questions asked since the start.", lambda at: at.questions),
    ("sql_questions_failed_total", "Questions refused, failed or past a bound.", lambda at: at.questions_failed),
    ("sql_questions_waiting", "Questions that wait for a worker.", lambda at: at.questions_waiting),
    ("engine_memory_bytes", "What DuckDB holds within the collector.", lambda at: at.held and at.held.engine_bytes),
    ("arrow_memory_bytes", "What Arrow holds within the collector.", lambda at: at.held and at.held.arrow_bytes),
    ("analysis_failures_total", "Passes of the analysis that failed.", lambda at: at.pass_failures),
    ("healthy", "1 where /healthz is 200, 0 where it is 503.", lambda at: float(not health(at).red)),
)  # fmt: skip
_DOORS: Final[tuple[tuple[str, str, Value], ...]] = (
    ("foreign_rows_total", "Rows left out of frames because they speak of another node than their agent's.",
     lambda doors: doors.strays),
    ("tls_handshakes_total", "Connections with which TLS was begun.", lambda doors: doors.connections),
    ("tls_connections_total", "Connections over which a caller with a certificate came.", lambda doors: doors.entered),
    ("certificate_end_timestamp_seconds", "Until when the collector's certificate holds, in seconds since 1970.",
     lambda doors: _scaled(doors.end_ns, 1e-9)),
)  # fmt: skip
_DOOR: Final[tuple[tuple[str, str, Value], ...]] = (
    ("questions_total", "Questions asked by this door since the start.", lambda tally: tally.asked),
    ("seconds_total", "What they took, waiting for a worker included.", lambda tally: tally.seconds),
)
_SESSIONS: Final[tuple[tuple[str, str, Value], ...]] = (
    ("sessions", "Clients of PostgreSQL's door that are connected.", lambda sessions: sessions.now),
    ("sessions_total", "Clients that it let in since the start.", lambda sessions: sessions.begun),
)
_PASS: Final[tuple[tuple[str, str, Value], ...]] = (
    ("analysis_pass_seconds", "What the newest pass of the analysis took.", lambda newest: newest.seconds),
    ("analysis_rest_seconds", "How long the analysis rests after it.", lambda newest: newest.rest_seconds),
    ("analysis_pass_timestamp_seconds", "When it ended, in seconds since 1970.", lambda newest: newest.ended_ns / 1e9),
)
_STORE: Final[tuple[tuple[str, str, Value], ...]] = (
    ("segments", "Sealed files of the store.", lambda size: size.segments),
    ("segment_bytes", "What they take on disk.", lambda size: size.segment_bytes),
    ("hot_files", "Files of rows that are not sealed yet.", lambda size: size.hot_files),
    ("hot_rows", "Rows that are not sealed yet.", lambda size: size.hot_rows),
    ("damaged_files", "Files left out because they cannot be read.", lambda size: size.damaged),
    ("database_bytes", "The DuckDB file with its log.", lambda size: size.database_bytes),
    ("free_bytes", "What the disk of the store has left.", lambda size: size.free_bytes),
    ("disk_bytes", "What that disk holds in all.", lambda size: size.disk_bytes),
)
_AGENT: Final[tuple[tuple[str, str, Value], ...]] = (
    ("heard_timestamp_seconds", "When the newest frame came, on the collector's clock.", lambda seen: seen.heard_ns / 1e9),
    ("frames_total", "Frames heard since the collector was started.", lambda seen: seen.frames),
    ("rows_total", "Rows of these frames.", lambda seen: seen.rows),
    ("bytes_total", "These frames, unpacked.", lambda seen: seen.bytes),
    ("dropped_rows_total", "Rows that fell off at the agent before they were sent.", lambda seen: seen.dropped),
    ("lost_frames_total", "Frames that fell off the agent's spool since its start.", lambda seen: seen.lost),
    ("clock_offset_seconds", "The agent's clock less the collector's, as it measured, else by its quickest frames.",
     lambda seen: _scaled(seen.clock_offset_ns, 1e-9)),
    ("clock_error_seconds", "The truth is no farther from that; absent where it was not measured.",
     lambda seen: _scaled(seen.clock_error_ns, 1e-9)),
    ("clock_jumps_total", "Jumps of the agent's clock since its start.", lambda seen: seen.clock_jumps),
    ("cpu_ratio", "CPU of the agent and its children, in cores.", lambda seen: _scaled(seen.cpu_percent, 0.01)),
    ("resident_memory_bytes", "Memory of the agent and its children.", lambda seen: seen.rss_bytes),
    ("spool_bytes", "What waits in the agent's spool.", lambda seen: seen.waiting_bytes),
    ("detail_level", "How much it tells: 0 everything, up to 3 the least.", lambda seen: seen.detail_level),
    ("left_out_kernels_total", "Kernels that it did not tell since its start.", lambda seen: seen.kernels_left_out),
)  # fmt: skip
_RECEIVER: Final[tuple[tuple[str, str, Value], ...]] = (
    ("messages_total", "Messages that the receiver took since the collector was started.", lambda at: at.messages),
    ("failures_total", "Attempts that failed.", lambda at: at.failures),
    ("dropped_total", "Incidents given up: too many waited, or the receiver called the message faulty.", lambda at: at.dropped),
    ("waiting", "Incidents that it was not told of yet.", lambda at: at.waiting),
    ("failing", "1 where the newest attempt failed.", lambda at: float(bool(at.failure))),
    ("taken_timestamp_seconds", "When it took the newest message, in seconds since 1970.", lambda at: _scaled(at.taken_ns, 1e-9)),
)  # fmt: skip
_GPU: Final[tuple[tuple[str, str, Value], ...]] = (
    ("power_watts", "Board power.", lambda row: row["power_watts"]),
    ("energy_joules_total", "Energy counter since the driver was loaded.", lambda row: row["energy_joules"]),
    ("sm_clock_hertz", "SM clock.", lambda row: _scaled(row["sm_clock_mhz"], 1e6)),
    ("utilization_ratio", "Share of the last period in which a kernel was resident.",
     lambda row: _scaled(row["gpu_utilization_percent"], 0.01)),
    ("temperature_celsius", "Core temperature.", lambda row: row["temperature_celsius"]),
    ("memory_used_bytes", "Device memory in use.", lambda row: row["memory_used_bytes"]),
    ("memory_bytes", "Device memory.", lambda row: row["memory_total_bytes"]),
    ("reading_timestamp_seconds", "When it was read, on the agent's clock less what that is known to be off.",
     lambda row: row["time_ns"] / 1e9),
)  # fmt: skip


def families(at: Snapshot) -> Iterator[Family]:
    """All of a snapshot. What is not known is left out, never 0."""
    yield _one("warpline_build_info", "The collector's version.", {"version": version("warpline")}, 1)
    yield from _each("warpline_collector_", _COLLECTOR, [("", at)])
    yield from _each(
        "warpline_collector_sql_door_", _DOOR, [(said(("door",), (door,)), tally) for door, tally in at.tallies.items()]
    )
    yield _unanswered(at)
    if at.sessions is not None:
        yield from _each("warpline_collector_postgres_", _SESSIONS, [("", at.sessions)])
        yield _by_reason(
            "warpline_collector_postgres_sessions_refused_total",
            "Clients turned away: full (too many are there), share (too many of one caller), caller (it may not come).",
            at.sessions.refused,
        )
    if at.doors is not None:
        yield from _each("warpline_collector_", _DOORS, [("", at.doors)])
        yield _by_reason(
            "warpline_collector_refused_total", "Calls and frames refused for who sent them.", at.doors.refused
        )
        yield _certificates(at.doors)
    yield from _each("warpline_", _PASS, [("", at.newest)] if at.newest else [])
    yield from _each("warpline_store_", _STORE, [("", at.size)] if at.size else [])
    yield _findings(at)
    yield from _each(
        "warpline_notify_", _RECEIVER, [(said(("receiver",), (each.receiver,)), each) for each in at.receivers]
    )
    yield _watts(at)
    yield from _each("warpline_agent_", _AGENT, [(said(("node",), _agent(each)), each.seen) for each in at.standings])
    yield from _troubles(at)
    yield _gpu_errors(at)
    gpus, left_out = _gpus(at)
    yield from _each("warpline_gpu_", _GPU, gpus)
    lost = Family("warpline_left_out", "What is not told of, because there is too much.", ["what"])
    lost.add(["gpus"], left_out)
    lost.add(["frames_of_agents"], at.left_out)
    yield lost


def _each(prefix: str, told: Iterable[tuple[str, str, Value]], of: Sequence[tuple[str, Any]]) -> Iterator[Family]:
    """A family for each value, with a sample for each thing that has it, behind its labels."""
    for name, meaning, value in told:
        family = Family(prefix + name, meaning)
        for labels, thing in of:
            if (known := value(thing)) is not None:
                family.add_said(labels, known)
        yield family


def _one(name: str, meaning: str, labels: Mapping[str, str], value: float) -> Family:
    family = Family(name, meaning, list(labels))
    family.add(labels.values(), value)
    return family


def _by_reason(name: str, meaning: str, counts: Mapping[str, int]) -> Family:
    family = Family(name, meaning, ["reason"])
    for reason, count in counts.items():
        family.add([reason], count)
    return family


def _unanswered(at: Snapshot) -> Family:
    family = Family(
        "warpline_collector_sql_door_failures_total",
        "Questions of this door without an answer: busy (too many), cancelled, denied (to a role), memory and time (past "
        "the bound), refused (does more than read), statement (wrong in itself).",
        ["door", "kind"],
    )
    for door, tally in at.tallies.items():
        for kind, count in sorted(tally.failures.items()):
            family.add([door, kind], count)
    return family


def _certificates(doors: Doors) -> Family:
    family = Family(
        "warpline_agent_certificate_end_timestamp_seconds",
        "Until when the certificate holds that the agent came with last, in seconds since 1970.",
        ["node"],
    )
    for node, end_ns in doors.agents.items():
        family.add([_label(node)], end_ns / 1e9)
    return family


def _findings(at: Snapshot) -> Family:
    family = Family("warpline_findings_open", "Findings open after the newest pass.", ["kind", "severity"])
    for kind in FindingKind if at.newest else ():
        for severity in Severity:
            family.add([kind, severity], at.newest.open.get((kind, severity), 0) if at.newest else 0)
    return family


def _watts(at: Snapshot) -> Family:
    family = Family(
        "warpline_state_power_watts",
        "Mean power of GPUs in each state, over the newest ten minutes accounted.",
        ["state"],
    )
    for state, watts in sorted(at.watts.items()):
        family.add([state], watts)
    return family


def _gpu_errors(at: Snapshot) -> Family:
    family = Family(
        "warpline_agent_gpu_error_timestamp_seconds",
        "When the newest error of this kind and code was written to a log of the node, in seconds since 1970.",
        ["node", "kind", "code", "severity"],
    )
    for standing in at.standings:
        node = _label(standing.seen.agent)
        for (kind, code, severity), time_ns in list(standing.seen.gpu_errors.items()):
            family.add([node, kind, "" if code is None else str(code), severity], time_ns / 1e9)
    return family


def _troubles(at: Snapshot) -> Iterator[Family]:
    fleet = Family("warpline_agents", "Agents that were heard of within a day.")
    fleet.add((), len(at.standings))
    each = Family("warpline_agent_trouble", "1 for what is wrong with an agent.", ["node", "trouble"])
    told = Family("warpline_agent_info", "The version that an agent is of.", ["node", "version"])
    for standing in at.standings:
        node = _label(standing.seen.agent)
        told.add([node, _label(standing.seen.version or "unknown")], 1)
        for trouble in TROUBLES:
            each.add([node, trouble], float(trouble in standing.troubles))
    yield from (fleet, told, each)


def _gpus(at: Snapshot) -> tuple[list[tuple[str, Any]], int]:
    """Labels and newest reading of each GPU, and how many of them are not told of."""
    gpus: dict[tuple[str, str, str], Any] = {}
    left_out = 0
    for standing in at.standings:
        node, offset_ns = _label(standing.seen.agent), _offset_ns(standing.seen, standing.troubles)
        for row in readings(standing.seen):
            row["time_ns"] -= offset_ns
            if abs(at.now_ns - row["time_ns"]) / 1e9 > GPU_SECONDS_MAX:
                continue
            key = (node, "" if row["gpu_index"] is None else str(row["gpu_index"]), _label(row["gpu_uuid"]))
            if len(gpus) < GPUS_MAX or key in gpus:
                gpus[key] = row
            else:
                left_out += 1
    return [(said(("node", "gpu", "uuid"), key), row) for key, row in gpus.items()], left_out


def _agent(standing: Standing) -> tuple[str]:
    return (_label(standing.seen.agent),)


def _offset_ns(seen: Seen, troubles: Mapping[str, str]) -> int:
    return (seen.clock_offset_ns or 0) if "skewed" in troubles else 0


def _label(text: str) -> str:
    return text[:LABEL_CHARS_MAX]


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else value * by
