"""How the fleet stands: every agent as the collector judged it last, the analysis, the open findings; for people and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from warpline_proto.finding import GRAVITY
from warpline_tui.grid import grid
from warpline_tui.words import UNKNOWN, age, size

from .asking import Query
from .findings_text import one_line

if TYPE_CHECKING:
    from warpline_proto.service_pb2 import StatusReply

AGENTS_MAX: Final = 10_000
"""Agents asked for at once."""
NAMED_MAX: Final = 5
"""Agents named in a sentence about many."""
SHOWN_MAX: Final = 40
"""Agents with a line of their own, unless all are asked for."""
STALE_NS: Final = 180 * 10**9
"""The collector judges each agent once a minute; where nothing newer than this is to be had, none is at work."""
_COLUMNS: Final = (
    "agent", "version", "time_ns", "heard_ns", "troubles", "detail", "clock_offset_ns", "clock_error_ns", "clock_jumps", "frames",
    "rows", "dropped", "lost", "cpu_percent", "rss_bytes", "waiting_bytes", "detail_level", "kernels_left_out",
)  # fmt: skip
"""Columns of agents, as far as the collector has them: one of an earlier version may be asked."""
_AGENTS: Final = f"""
SELECT COLUMNS('^({"|".join(_COLUMNS)})$')
FROM agents WHERE time_ns > (SELECT max(time_ns) FROM agents) - 600000000000
QUALIFY row_number() OVER (PARTITION BY agent ORDER BY time_ns DESC) = 1 ORDER BY agent LIMIT {AGENTS_MAX}
"""
_OPEN: Final = "SELECT severity, count(*) AS findings FROM current_findings GROUP BY severity"
_REPLACED: Final = "SELECT summary FROM current_findings WHERE kind = 'replaced' ORDER BY onset_ns DESC"
_PASS: Final = "SELECT time_ns, state, reason FROM source_state WHERE source = 'analysis' AND subject = 'pass'"
_HEADING: Final = ("agent", "heard", "version", "clock", "cpu", "memory", "waiting", "what is wrong")
_WHAT_TO_DO: Final = {
    "late": "is the node up? there: `systemctl status warpline-agent`, `warpline doctor`",
    "dropping": "what fell off is gone: see `warpline sql \"FROM source_health WHERE state = 'dropped'\"`",
    "skewed": "times of these nodes cannot be compared with others: there: `chronyc tracking` or `timedatectl`",
    "over_budget": "ask which source costs: `warpline sql \"FROM source_state WHERE node = '...'\"`; bounds: [collector.agents]",
    "reduced": "its frames wait: is the collector short of CPU or disk? see `spool` and `detail` of it in source_state",
    "refused": "what it sends cannot be so, or is too much; is it of this version? bounds: [collector.limits]",
}


@dataclass(frozen=True)
class Collector:
    """What a running collector says of itself."""

    address: str
    version: str
    started_ns: int
    frames: int
    rows: int


@dataclass(frozen=True)
class Known:
    """What a store says; `collector` is None where none was asked."""

    agents: Sequence[Mapping[str, Any]]
    findings: Mapping[str, int]
    pass_ns: int | None
    pass_failed: str | None
    collector: Collector | None = None
    replaced: Sequence[str] = ()

    def of(self, reply: StatusReply, address: str) -> Known:
        """The same with what the collector at `address` says of itself."""
        told = Collector(address, reply.version, reply.started_ns, reply.frames, reply.rows)
        return replace(self, collector=told)

    @property
    def judged_ns(self) -> int | None:
        """When the fleet was judged last."""
        return max((agent["time_ns"] for agent in self.agents), default=None)

    @property
    def troubled(self) -> Mapping[str, Sequence[str]]:
        """What is wrong -> the agents with which it is."""
        troubles = {trouble for agent in self.agents for trouble in agent["troubles"] or ()}
        order = sorted(troubles, key=lambda each: [*_WHAT_TO_DO, each].index(each))
        return {each: [agent["agent"] for agent in self.agents if each in (agent["troubles"] or ())] for each in order}

    def to_json(self) -> dict[str, Any]:
        """The published form."""
        return {
            "judged_ns": self.judged_ns,
            "collector": asdict(self.collector) if self.collector else None,
            "troubled": self.troubled,
            "versions": _versions(self),
            "analysis": {"pass_ns": self.pass_ns, "failed": self.pass_failed},
            "findings_open": self.findings,
            "replaced": list(self.replaced),
            "agents": list(self.agents),
        }


def take(query: Query) -> Known:
    """Ask the store."""
    passes = query(_PASS).to_pylist()
    counts = {row["severity"]: row["findings"] for row in query(_OPEN).to_pylist()}
    return Known(
        agents=query(_AGENTS).to_pylist(),
        findings={each: counts[each] for each in sorted(counts, key=lambda each: GRAVITY.get(each, len(GRAVITY)))},
        pass_ns=passes[0]["time_ns"] if passes else None,
        pass_failed=passes[0]["reason"] if passes and passes[0]["state"] != "fresh" else None,
        replaced=[row["summary"] for row in query(_REPLACED).to_pylist()],
    )


def text(known: Known, now_ns: int, *, everyone: bool = False) -> str:
    """What an operator reads, the worst first."""
    lines = [*_fleet(known, now_ns), *_rest(known, now_ns)]
    listed = sorted((agent for agent in known.agents if everyone or agent["troubles"]), key=_gravity)
    shown = listed if everyone else listed[:SHOWN_MAX]
    if shown:
        lines += ["", *grid([_HEADING, *(_row(agent, now_ns) for agent in shown)], [False] * len(_HEADING))]
    if len(listed) > len(shown):
        lines.append(f"and {len(listed) - len(shown)} more: `warpline status --all`")
    return "\n".join(one_line(line) for line in lines) + "\n"


def _fleet(known: Known, now_ns: int) -> Iterator[str]:
    judged_ns = known.judged_ns
    if judged_ns is None:
        yield "No agent has sent anything yet: is one running, and does it send here? `warpline agent --collector HOST:PORT`"
        return
    if now_ns - judged_ns > STALE_NS:
        yield f"THIS IS HOW IT STOOD {age(judged_ns, now_ns)}: no collector has written since."
    for trouble, names in known.troubled.items():
        named = ", ".join(names[:NAMED_MAX]) + (f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else "")
        yield f"{len(names)} of {len(known.agents)} agents {trouble.replace('_', ' ')}: {named}"
        yield f"  {_WHAT_TO_DO.get(trouble, '')}".rstrip()
    well = sum(not agent["troubles"] for agent in known.agents)
    if well:
        yield f"{well} of {len(known.agents)} agents are well: they send, lose nothing, keep time, and cost little."


def _rest(known: Known, now_ns: int) -> Iterator[str]:
    versions = _versions(known)
    if versions:
        yield "Versions of agents: " + ", ".join(f"{each} ({count})" for each, count in versions.items())
    if known.collector is not None:
        told = known.collector
        yield (
            f"Collector {told.version} at {told.address}, started {age(told.started_ns, now_ns)}: "
            f"{told.frames:,} frames, {told.rows:,} rows since."
        )
    if known.pass_failed is not None:
        yield f"The last analysis pass failed: {known.pass_failed}"
    else:
        yield f"Last analysis pass: {age(known.pass_ns, now_ns) if known.pass_ns is not None else 'none yet'}."
    yield from known.replaced[:NAMED_MAX]
    if len(known.replaced) > NAMED_MAX:
        yield f"{len(known.replaced) - NAMED_MAX} more GPUs or machines were replaced: see the view places"
    counts = ", ".join(f"{count} {severity}" for severity, count in known.findings.items())
    yield f"Open findings: {counts}: `warpline findings`" if counts else "Open findings: none."


def _row(agent: Mapping[str, Any], now_ns: int) -> list[str]:
    offset_ns, cpu = agent["clock_offset_ns"], agent["cpu_percent"]
    return [
        agent["agent"],
        age(agent["heard_ns"], now_ns),
        agent["version"] or UNKNOWN,
        UNKNOWN if offset_ns is None else _clock(offset_ns, agent.get("clock_error_ns")),
        UNKNOWN if cpu is None else f"{cpu:.1f} %",
        size(agent["rss_bytes"]),
        size(agent["waiting_bytes"]),
        agent["detail"] or "",
    ]


def _clock(offset_ns: int, error_ns: int | None) -> str:
    """+2 s where frames alone say so; +0.3 ms +-0.7 ms where it was measured."""
    if error_ns is None:
        return f"{round(offset_ns / 1e9, 1) + 0.0:+g} s"
    told = f"{offset_ns / 1e9:+.1f} s" if abs(offset_ns) >= 1e9 else f"{offset_ns / 1e6:+.1f} ms"
    return f"{told} +-{error_ns / 1e6:.1f} ms"


def _gravity(agent: Mapping[str, Any]) -> tuple[int, int, str]:
    """The place in the order of what is wrong, the gravest first; then agents with more of it."""
    troubles = agent["troubles"] or ()
    order = [*_WHAT_TO_DO, *troubles]
    return min((order.index(each) for each in troubles), default=len(order)), -len(troubles), agent["agent"]


def _versions(known: Known) -> Mapping[str, int]:
    """Version -> agents that are of it, the most common first."""
    return dict(Counter(agent["version"] or "unknown" for agent in known.agents).most_common())
