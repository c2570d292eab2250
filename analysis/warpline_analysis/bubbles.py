"""Pipeline bubbles: the part of a step in which a rank neither computes nor takes part in a collective.

A slow rank fills its own bubble, while the stages that wait for it see theirs grow; sums over a step hide both, because the
reduction of gradients ends it for all at once (fifth case study of ARGUS, found there by hand).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from warpline_proto.finding import Evidence

from .detector import Reader, literal, show
from .robust import Array, median, peers_median
from .self_time import SELF_KINDS, Member, PeerGroup, SelfTime, beside_peers
from .waits import POINT_TO_POINT, UNTIMED

SHARE: Final = 0.25
"""Bubbles of other stages speak when they grew by at least this share of what the slow phase takes longer."""

REPLICAS_MAX: Final = 32
"""Other replicas whose bubbles are looked at."""


@dataclass(frozen=True)
class Bubbles:
    """How the bubbles of the accused and of its replica's other stages differ from their peers', seconds a step.

    `agrees` is None where bubbles say nothing.
    """

    own: float
    others: float
    agrees: bool | None


def chosen_replicas(reader: Reader, job: str, members: Sequence[Member]) -> tuple[int, ...]:
    """The replicas of these members and REPLICAS_MAX others; empty where replicas are not known."""
    own = {member.dp for member in members if member.dp is not None}
    rows = reader.query(f"SELECT DISTINCT dp FROM phases WHERE job = {literal(job)} AND dp IS NOT NULL ORDER BY dp")
    others = [dp for dp in rows.column("dp").to_pylist() if dp not in own]
    return (*sorted(own), *others[:REPLICAS_MAX]) if own else ()


def bubble_cells(job: str, first: int, replicas: Sequence[int]) -> str:
    """SELECT of (step, rank, seconds, parts): step time less compute and collectives, sends and receives not among them."""
    name = literal(job)
    known = f"job = {name} AND {_of_replicas(job, replicas)} AND step >= {first} AND duration_ns IS NOT NULL"
    return (
        f"SELECT step, rank, (whole - computed - coalesce(reduced, 0)) / 1e9 AS seconds, 1 AS parts FROM (SELECT step, rank, "
        f"max(duration_ns) AS whole FROM steps WHERE {known} AND scope = 'step' GROUP BY step, rank) JOIN (SELECT step, rank, "
        f"sum(duration_ns) AS computed FROM phases WHERE {known} AND kind IN {SELF_KINDS} GROUP BY step, rank) "
        "USING (step, rank) LEFT JOIN (SELECT step, rank, sum(duration_ns) AS reduced FROM collectives WHERE "
        f"{known} AND operation NOT IN {POINT_TO_POINT} AND coalesce(timing, 'host') NOT IN {UNTIMED} GROUP BY step, rank) "
        "USING (step, rank)"
    )


def _of_replicas(job: str, replicas: Sequence[int]) -> str:
    listed = ", ".join(str(replica) for replica in replicas)
    return f"rank IN (SELECT DISTINCT rank FROM phases WHERE job = {literal(job)} AND dp IN ({listed}))"


def load_bubbles(reader: Reader, job: str, first: int, replicas: Sequence[int]) -> SelfTime:
    """Bubbles of the ranks of some replicas beside each other, from step `first` on; no groups without step times."""
    told = f"SELECT rank FROM steps WHERE job = {literal(job)} AND scope = 'step' AND step >= {first} AND duration_ns IS NOT NULL"
    condition = (
        f"FROM phases WHERE job = {literal(job)} AND {_of_replicas(job, replicas)} AND kind IN {SELF_KINDS} AND step >= {first} "
        f"AND duration_ns IS NOT NULL AND rank IN ({told})"
    )
    return beside_peers(reader, job, "phases", condition, bubble_cells(job, first, replicas))


def compare_bubbles(
    reader: Reader, job: str, first: int, accused: Sequence[Member], lost: float
) -> tuple[Bubbles, Evidence] | None:
    """Does what bubbles did fit a phase that takes the accused `lost` seconds longer since `first`? None without bubbles."""
    replicas = chosen_replicas(reader, job, accused)
    found = _compared(load_bubbles(reader, job, first, replicas), accused, lost) if replicas else None
    return None if found is None else (found, bubble_evidence(reader, job, first, replicas))


def _compared(bubbles: SelfTime, accused: Sequence[Member], lost: float) -> Bubbles | None:
    ranks, replicas = {member.rank for member in accused}, {member.dp for member in accused}
    stages = {member.pp for member in accused}
    own: list[float] = []
    others: list[float] = []
    for group in bubbles.groups:
        for member, excess in zip(group.members, _excess(group), strict=True):
            if np.isnan(excess):
                continue
            if member.rank in ranks:
                own.append(excess)
            elif member.dp in replicas and member.pp not in stages:
                others.append(excess)
    if not own or not others or None in replicas:
        return None
    mine, theirs = float(np.median(own)), max(others)
    agrees = True if theirs >= SHARE * lost and mine <= theirs / 2 else None
    return Bubbles(mine, theirs, False if mine >= lost / 2 and theirs < SHARE * lost else agrees)


def _excess(group: PeerGroup) -> Array:
    """Median over the steps of each member's bubble less its peers'."""
    excess: Array = np.atleast_1d(median(group.seconds - peers_median(group.seconds), axis=0))
    return excess


def bubble_evidence(reader: Reader, job: str, first: int, replicas: Sequence[int]) -> Evidence:
    """Bubbles by stage and replica."""
    place = f"SELECT DISTINCT rank, pp, dp FROM phases WHERE job = {literal(job)} AND kind IN {SELF_KINDS}"
    return show(
        reader,
        "SELECT pp AS stage, dp, round(median(seconds), 6) AS bubble_seconds_per_step FROM "
        f"({bubble_cells(job, first, replicas)}) JOIN ({place}) USING (rank) GROUP BY pp, dp "
        "ORDER BY pp, bubble_seconds_per_step DESC",
    )
