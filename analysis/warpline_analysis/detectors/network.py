"""Is one port of the fabric worse than its siblings: errors, losses, flapping, a state or a rate of its own?

A port is held against the other ports of its node and against the same port of other nodes (its rail), never against a fixed
level: what is normal differs from fabric to fabric. Counters tell by how much they grew; one that stands at its ceiling cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from warpline_proto.finding import (
    Check,
    Evidence,
    Finding,
    FindingKind,
    Onset,
    Report,
    Severity,
    Subject,
    Verdict,
)

from ..detector import Reader, literal, show
from ..jobs import jobs_of_nodes
from ..port_history import began
from ..ports import (
    ACTIVE,
    CABLE,
    CONGESTION,
    DOWNED,
    LOSS,
    PORTS,
    STATES,
    UNPLUGGED,
    Fabric,
    Port,
    load_fabric,
)

DETECTOR: Final = "network"
GROWTH_MIN: Final = 10
"""Errors in the window below which a port is not looked at ..."""
VALUES_MIN: Final = 3
"""... nor with fewer different readings: a single burst is none."""
FAR: Final = 10.0
"""A port stands out from so many times its siblings' median on ..."""
ALIKE_MAX: Final = 0.25
"""... when at most this share of them shows a tenth of it; else it is a matter of the fabric."""
CONGESTED_RAIL_MIN: Final = 3
"""Other nodes with the same port from which congestion is compared; different ports of a node carry different loads."""
RAIL_MIN: Final = 2
RAIL_SHARE: Final = 0.75
"""So many other nodes, and this share of them, have to show a faster rate of the same port."""
FINDINGS_MAX: Final = 32
_GRADE: Final = {Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}


@dataclass(frozen=True)
class Symptom:
    """One thing that is wrong with a port, in words; `counters` show it."""

    severity: Severity
    words: str
    counters: tuple[str, ...]
    next_step: str
    confidence: float


def detect(reader: Reader) -> Report:
    """Judge every port of every node."""
    fabric = load_fabric(reader)
    if not fabric.ports:
        return Report()
    sick = [(port, found) for port in fabric.ports if (found := _symptoms(fabric, port))]
    sick.sort(key=lambda item: -max(_GRADE[symptom.severity] for symptom in item[1]))
    jobs = jobs_of_nodes(reader, (port.node for port, _ in sick[:FINDINGS_MAX]))
    findings = [_finding(reader, fabric, port, found, jobs.get(port.node)) for port, found in sick[:FINDINGS_MAX]]
    worse = {port.name + (port.node or "") for port, found in sick if any(s.severity != Severity.INFO for s in found)}
    calm = [port for port in fabric.ports if port.name + (port.node or "") not in worse]
    left = len(sick) - FINDINGS_MAX
    more = (
        (Check(DETECTOR, Verdict.UNKNOWN, None, f"{left} more ports stand out and are not listed"),) if left > 0 else ()
    )
    return Report(tuple(findings), (*more, *((_check(calm),) if calm else ())))


def _check(ports: Sequence[Port]) -> Check:
    nodes = {port.node for port in ports}
    over = f"{len(ports)} ports of {len(nodes)} node{'s' * (len(nodes) > 1)}"
    full = sorted({name for port in ports for name, counter in port.counters.items() if counter.full})
    lacking = tuple(f"growth of {name}: the counter stands at its ceiling" for name in full)
    if max(port.readings for port in ports) < 2:
        text = f"{over}: one reading of each, which shows states and rates only; growth of errors needs two"
        return Check(DETECTOR, Verdict.UNKNOWN, None, text, ("a second reading of the counters", *lacking))
    detail = f"{over}: no port stands out from its siblings by {FAR:.0f} times in errors, losses, state or rate"
    return Check(DETECTOR, Verdict.HEALTHY, None, detail, lacking)


def _symptoms(fabric: Fabric, port: Port) -> list[Symptom]:
    found = (_state(fabric, port), _rate(fabric, port), _flapping(port), *_errors(fabric, port),
             _congestion(fabric, port), _full(fabric, port))  # fmt: skip
    return [symptom for symptom in found if symptom]


def _state(fabric: Fabric, port: Port) -> Symptom | None:
    state = port.last("state")
    siblings = [each.last("state") for each in (*fabric.neighbours(port), *fabric.rail(port))]
    active = sum(each == ACTIVE for each in siblings)
    if state is None or state >= ACTIVE or not active:
        return None
    name = STATES.get(state, str(state))
    others = f"{active} of {len([each for each in siblings if each is not None])} siblings are ACTIVE"
    step = "read the subnet manager's log and the port (ibstat, mlxlink), reseat or replace the cable"
    if port.first("state") == ACTIVE:
        return Symptom(Severity.CRITICAL, f"went from ACTIVE to {name} while {others}", ("state",), step, 0.95)
    unused = state == 1 and port.last("phys_state") in UNPLUGGED
    severity = Severity.INFO if unused else Severity.WARNING
    words = f"is {name} while {others}" + ("; nothing is plugged in, which may be meant so" if unused else "")
    return Symptom(severity, words, ("state", "phys_state"), step, 0.6 if unused else 0.8)


def _rate(fabric: Fabric, port: Port) -> Symptom | None:
    now, before = port.last("rate"), port.highest_rate or port.first("rate")
    step = "read speed and width of both ends (ibstat, mlxlink), reseat or replace the cable"
    if not now or before is None or port.last("state") not in (None, ACTIVE):
        return None
    rail, near = _rates(fabric.rail(port)), _rates(fabric.neighbours(port))
    if now < before and (now < (port.first("rate") or now) or any(each > now for each in (*rail, *near))):
        words = f"fell from {_gigabits(before)} to {_gigabits(now)}"
        return Symptom(Severity.WARNING, words, ("rate",), step, 0.9)
    faster, ahead = [each for each in rail if each > now], [each for each in near if each > now]
    if len(rail) >= RAIL_MIN and len(faster) >= RAIL_SHARE * len(rail):
        others = f"runs at {_gigabits(now)}, the same port of {len(faster)} other nodes at {_gigabits(max(faster))}"
        if ahead:
            return Symptom(Severity.WARNING, others, ("rate",), step, 0.85)
        # A node whose ports are all slower may be of another kind; it is told once.
        if all(port.name <= each.name for each in fabric.neighbours(port)):
            words = f"{others}, as are all ports of its node, which may be meant so"
            return Symptom(Severity.INFO, words, ("rate",), step, 0.5)
    if len(rail) < RAIL_MIN and len(near) >= RAIL_MIN and len(ahead) >= RAIL_SHARE * len(near):
        words = f"runs at {_gigabits(now)}, its neighbours at {_gigabits(max(ahead))}, which may be meant so"
        return Symptom(Severity.INFO, words, ("rate",), step, 0.5)
    return None


def _rates(ports: Sequence[Port]) -> list[int]:
    return [rate for port in ports if (rate := port.last("rate"))]


def _gigabits(rate: int) -> str:
    return f"{rate / 1e9:.3g} Gb/s"


def _flapping(port: Port) -> Symptom | None:
    downs = port.growth(DOWNED)
    if not downs:
        return None
    times = "once" if downs == 1 else f"{downs} times"
    step = "look for loose or failing optics and cable (mlxlink -m), and for restarts of the switch at that time"
    words = f"went down {times} in the last {_minutes(port.seconds)}"
    return Symptom(Severity.WARNING, words, (DOWNED,), step, 0.85)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _errors(fabric: Fabric, port: Port) -> list[Symptom]:
    """Counters of errors that grow here and not at the siblings: one symptom for the wire, one for losses."""
    found = []
    for names, what, step in (
        (
            CABLE,
            "errors of the wire",
            "clean or replace cable and optics, then clear the counters and watch them (perfquery -R)",
        ),
        (LOSS, "lost or repeated packets", "check flow control and buffers of the switch port, then cable and optics"),
    ):
        grown = {name: port.growth(name) for name in names if _stands_out(fabric, port, name)}
        if grown:
            listed = ", ".join(f"{name} +{growth:,}" for name, growth in grown.items())
            words = f"counts {what}: {listed} in {_minutes(port.seconds)}, its siblings next to none"
            found.append(Symptom(Severity.WARNING, words, tuple(grown), step, 0.8))
    return found


def _stands_out(fabric: Fabric, port: Port, name: str) -> bool:
    growth, counter = port.growth(name), port.counters.get(name)
    if growth is None or counter is None or growth < GROWTH_MIN or counter.values < VALUES_MIN:
        return False
    typical, alike, siblings = fabric.siblings_level(port, name, whole_node=True)
    return siblings > 0 and (port.per_unit(name) or 0.0) >= FAR * typical and alike <= ALIKE_MAX


def _congestion(fabric: Fabric, port: Port) -> Symptom | None:
    far = []
    for name in CONGESTION:
        own, counter = port.per_unit(name), port.counters.get(name)
        if not own or counter is None or counter.values < VALUES_MIN:
            continue
        typical, alike, siblings = fabric.siblings_level(port, name, whole_node=False)
        if siblings >= CONGESTED_RAIL_MIN and own >= FAR * typical > 0 and alike <= ALIKE_MAX:
            far.append(f"{name} {own / typical:.0f} times")
    if not far:
        return None
    words = f"is congested: for its traffic {', '.join(far)} what the same port of other nodes shows"
    step = "look at what else shares the path (storage, other jobs) and at the routing of this rail"
    return Symptom(Severity.INFO, words, tuple(name for name in CONGESTION if port.growth(name)), step, 0.5)


def _full(fabric: Fabric, port: Port) -> Symptom | None:
    """A counter that stands at its ceiling while no sibling's does: something happened, nobody knows when or how often."""
    full = [
        name for name in (DOWNED, *CABLE)
        if name in port.counters and port.counters[name].full
        and not any(each.counters[name].full for each in fabric.neighbours(port) if name in each.counters)
    ]  # fmt: skip
    if not full or not fabric.neighbours(port):
        return None
    listed = ", ".join(f"{name} at its ceiling of {port.last(name)}" for name in full)
    step = "clear the counters (perfquery -R) so that growth can be seen again"
    return Symptom(
        Severity.INFO, f"has {listed}: when and how often is not known, its siblings have none", tuple(full), step, 0.5
    )


def _finding(reader: Reader, fabric: Fabric, port: Port, symptoms: Sequence[Symptom], job: str | None) -> Finding:
    worst = max(symptoms, key=lambda symptom: _GRADE[symptom.severity])
    counters = tuple(dict.fromkeys(name for symptom in symptoms for name in symptom.counters))
    full = [name for name in counters if port.counters[name].full]
    first = began(reader, _place(port), worst.counters) if port.readings > 1 else None
    return Finding(
        kind=FindingKind.NETWORK_DEGRADATION,
        severity=worst.severity,
        confidence=worst.confidence,
        subject=Subject(job=job, node=port.node, link=port.name),
        summary=f"{port.label} {'; it '.join(symptom.words for symptom in symptoms)}",
        next_step=f"On {port.label[5:]}: {worst.next_step}",
        onset=Onset(first),
        evidence=(_evidence(reader, port, counters), *_members(reader, port)),
        ruled_out=_ruled_out(fabric, port, worst),
        missing=(("a second reading of the counters",) if port.readings < 2 else ())
        + tuple(f"growth of {name}: the counter stands at its ceiling" for name in full),
    )


def _ruled_out(fabric: Fabric, port: Port, worst: Symptom) -> tuple[str, ...]:
    if worst.severity == Severity.INFO or not set(worst.counters) & {*CABLE, *LOSS}:
        return ()
    siblings = len(fabric.neighbours(port)) + len(fabric.rail(port))
    return (f"a fault of the whole fabric: of its {siblings} siblings at most {ALIKE_MAX:.0%} show a tenth of it",)


def _place(port: Port) -> str:
    return (
        f"node IS NOT DISTINCT FROM {literal(port.node)} AND device = {literal(port.device)} AND port = {port.number}"
    )


def _evidence(reader: Reader, port: Port, counters: Sequence[str]) -> Evidence:
    """The counters of the port, then those of its siblings."""
    names = ", ".join(literal(name) for name in counters)
    return show(
        reader,
        f"SELECT ({_place(port)}) AS accused, node, device, port, counter, arg_min(value, coalesce(time_ns, 0)) AS first, "
        "arg_max(value, coalesce(time_ns, 0)) AS last, bool_or(saturated) AS at_ceiling, count(*) AS readings "
        f"{PORTS} AND counter IN ({names}) AND (node IS NOT DISTINCT FROM {literal(port.node)} OR (device = "
        f"{literal(port.device)} AND port = {port.number})) GROUP BY ALL ORDER BY accused DESC, node, device, port, counter",
    )


def _members(reader: Reader, port: Port) -> tuple[Evidence, ...]:
    """Communicators that reach other nodes from here, where known."""
    found = show(
        reader,
        "SELECT job, communicator, max(group_kind) AS group_kind, max(nranks) AS nranks, count(DISTINCT rank) AS ranks_here "
        f"FROM communicators WHERE node = {literal(port.node)} AND coalesce(nnodes, 2) > 1 AND communicator IS NOT NULL "
        "GROUP BY job, communicator ORDER BY nranks DESC, communicator",
    )
    return (found,) if found.rows else ()
