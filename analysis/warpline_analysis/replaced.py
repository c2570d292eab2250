"""GPUs and machines that were replaced: what was said of the one before is not said of the one that is there now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from warpline_proto.finding import Finding, FindingKind, Onset, Severity, Subject
from warpline_proto.inventory_table import MACHINE

from .detector import Reader, literal, show
from .remembered import once

TOLD_NS: Final = 24 * 3600 * 10**9
"""A replacement is told for so long."""
REPLACED_MAX: Final = 10_000
STILL_THERE: Final = (
    "NOT EXISTS (SELECT 1 FROM inventory AS following WHERE following.replaced IS NOT NULL "
    "AND following.node = log_events.node AND log_events.time_ns < following.first_ns AND "
    f"(following.kind = '{MACHINE}' OR following.slot = log_events.bus_id OR following.replaced = log_events.gpu_uuid))"
)
"""Condition on rows of log_events: of the machine, and the GPU, that is there now."""


@dataclass(frozen=True)
class Replacement:
    """In one place `identity` gives readings since `first_ns`, of which `replaced` gave the last at `last_ns`."""

    node: str
    kind: str
    slot: str | None
    gpu_index: int | None
    identity: str
    replaced: str
    first_ns: int
    last_ns: int | None
    told: bool
    """Whether it is new enough to be told."""


@once
def replacements(reader: Reader) -> Sequence[Replacement]:
    """Every one that is known, the newest first."""
    rows = reader.query(
        "SELECT DISTINCT node, kind, slot, gpu_index, identity, replaced, first_ns, last_ns, first_ns >= coalesce((SELECT "
        f"max(time_ns) FROM source_health WHERE source_health.node = inventory.node), first_ns) - {TOLD_NS} AS told "
        "FROM inventory WHERE replaced IS NOT NULL AND identity IS NOT NULL AND node IS NOT NULL AND first_ns IS NOT NULL "
        f"ORDER BY first_ns DESC, node, slot LIMIT {REPLACED_MAX}"
    ).to_pylist()
    return [Replacement(**row) for row in rows]


def _there(reader: Reader) -> frozenset[str]:
    """GPUs and machines that are somewhere now."""
    rows = reader.query(
        "SELECT identity FROM inventory QUALIFY row_number() OVER (PARTITION BY node, source, kind, slot "
        "ORDER BY time_ns DESC, first_ns DESC) = 1"
    )
    return frozenset(rows.column("identity").to_pylist())


def replaced_findings(reader: Reader) -> list[Finding]:
    """One a GPU or machine that came lately instead of another that is nowhere now: one that was moved is not gone."""
    told = [each for each in replacements(reader) if each.told]
    there = _there(reader) if told else frozenset()
    found: dict[str, Finding] = {}
    for each in told:
        finding = _finding(reader, each)
        if each.replaced not in there and finding.id not in found:
            found[finding.id] = finding
    return list(found.values())


def _finding(reader: Reader, each: Replacement) -> Finding:
    machine = each.kind == MACHINE
    what = "The machine" if machine else f"GPU {each.slot if each.gpu_index is None else each.gpu_index} of {each.node}"
    where = f" that is called {each.node}" if machine else f" ({each.slot}): {each.identity} instead of {each.replaced}"
    of = "that machine" if machine else "that GPU"
    return Finding(
        kind=FindingKind.REPLACED,
        severity=Severity.INFO,
        confidence=0.95,
        subject=Subject(node=each.node, gpu=None if machine else each.replaced, group="machine" if machine else None),
        summary=f"{what}{where} {'is another one' if machine else ''}".strip()
        + f"; findings on {of} are closed as replaced, and what was recorded of it stays",
        next_step="Nothing, where it was meant: the view places says what was where from when to when",
        onset=Onset(each.first_ns),
        evidence=(
            show(
                reader,
                "SELECT kind, slot, gpu_index, gpu_name, identity, replaced, first_ns, last_ns FROM inventory "
                f"WHERE node = {literal(each.node)} AND kind = {literal(each.kind)} "
                f"AND slot IS NOT DISTINCT FROM {literal(each.slot)} ORDER BY time_ns, first_ns",
            ),
        ),
    )
