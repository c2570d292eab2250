"""Finding: what, who, since when, how sure, what it costs, the SQL that shows it, what to do next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final

import pyarrow as pa

from .plain import plain
from .tables import FINDINGS


class FindingKind(StrEnum):
    """Everything that warpline can accuse somebody or something of."""

    COMPUTE_STRAGGLER = "compute_straggler"
    HOST_STRAGGLER = "host_straggler"
    MASKED_STRAGGLER = "masked_straggler"
    PIPELINE_BUBBLE = "pipeline_bubble"
    DATA_IMBALANCE = "data_imbalance"
    STAGE_IMBALANCE = "stage_imbalance"
    LINK_DEGRADATION = "link_degradation"
    NETWORK_DEGRADATION = "network_degradation"
    THROTTLING = "throttling"
    SPORADIC_STALL = "sporadic_stall"
    REGRESSION = "regression"
    HANG = "hang"
    GPU_LOST = "gpu_lost"
    GPU_ERROR = "gpu_error"
    PROCESS_DIED = "process_died"
    WRONG_DATA = "wrong_data"
    IDLE_SPIN = "idle_spin"
    EXECUTION_IDLE = "execution_idle"
    BUSY_WAIT = "busy_wait"
    REPLACED = "replaced"


class Severity(StrEnum):
    """How soon somebody should act."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


GRAVITY: Final = {Severity.CRITICAL: 0, Severity.WARNING: 1, Severity.INFO: 2}
"""Order in which findings are told, the gravest first. A severity as plain text finds its place too."""


class Verdict(StrEnum):
    """The answer as a whole; `unknown` where nothing could be judged."""

    HEALTHY = "healthy"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Subject:
    """Who or what is accused. Only what the evidence singles out is set.

    `group` says in words what several ranks are accused together (a whole stage, a tensor-parallel group); then `rank` is
    None, because no single one of them is accused.
    """

    job: str | None = None
    rank: int | None = None
    group: str | None = None
    stage: int | None = None
    dp: int | None = None
    tp: int | None = None
    ep: int | None = None
    node: str | None = None
    gpu: str | None = None
    link: str | None = None
    communicator: str | None = None

    def named(self) -> dict[str, Any]:
        """Only the fields that are set."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Evidence:
    """A query that shows the finding when run on the same store, and what it returned (at most EVIDENCE_ROWS_MAX rows)."""

    sql: str
    rows: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Onset:
    """Since when: `time_ns` since the Unix epoch and `step`, each None where not known.

    `watched_step` is the first step from then on in which ranks were watched, where they are watched in windows only: what is
    told of a rank can be dated no earlier. `earliest_step` and `latest_step` bound `step` where scatter leaves it open.
    """

    time_ns: int | None = None
    step: int | None = None
    watched_step: int | None = None
    earliest_step: int | None = None
    latest_step: int | None = None


@dataclass(frozen=True)
class Cost:
    """What it costs: seconds lost in each step, GPU-hours and joules lost so far; None where not known."""

    seconds_per_step: float | None = None
    gpu_hours: float | None = None
    joules: float | None = None


@dataclass(frozen=True)
class Finding:
    """One accusation with everything an operator needs to act on it at 3 a.m.

    `ruled_out` says which other explanations were tried and by what they fell, `missing` which inputs were not there,
    `next_step` what to do now. `confidence` is 0 to 1.
    """

    kind: FindingKind
    severity: Severity
    confidence: float
    subject: Subject
    summary: str
    next_step: str
    onset: Onset = Onset()
    cost: Cost = Cost()
    evidence: tuple[Evidence, ...] = ()
    ruled_out: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The same for the same kind and subject, whoever computes it and when."""
        text = json.dumps([self.kind, self.subject.named()], sort_keys=True, separators=(",", ":"))
        return f"{self.kind}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"

    def to_json(self) -> dict[str, Any]:
        """The published form, keys in reading order."""
        body = asdict(self)
        body["subject"] = self.subject.named()
        body["evidence"] = [{"sql": item.sql, "rows": plain(item.rows)} for item in self.evidence]
        order = (
            "kind", "severity", "confidence", "subject", "onset", "cost", "summary", "evidence", "ruled_out", "missing",
            "next_step",
        )  # fmt: skip
        return {"id": self.id} | {key: body[key] for key in order}


def from_json(document: Mapping[str, Any]) -> Finding:
    """The finding in its published form; KeyError, TypeError or ValueError if it is not one."""
    return Finding(
        kind=FindingKind(document["kind"]),
        severity=Severity(document["severity"]),
        confidence=float(document["confidence"]),
        subject=Subject(**document["subject"]),
        summary=document["summary"],
        next_step=document["next_step"],
        onset=Onset(**document["onset"]),
        cost=Cost(**document["cost"]),
        evidence=tuple(Evidence(item["sql"], tuple(item["rows"])) for item in document["evidence"]),
        ruled_out=tuple(document["ruled_out"]),
        missing=tuple(document["missing"]),
    )


@dataclass(frozen=True)
class Check:
    """One question that was asked and not answered with an accusation: healthy, or why it could not be told.

    `detail` gives the figure against its gate, for example `largest excess 0.4 %, gate 10 %`. `rank` is set where a closer look
    at one rank would tell.
    """

    detector: str
    verdict: Verdict
    job: str | None
    detail: str
    missing: tuple[str, ...] = ()
    rank: int | None = None


@dataclass(frozen=True)
class Report:
    """What a detector, or all of them, had to say."""

    findings: tuple[Finding, ...] = ()
    checks: tuple[Check, ...] = ()

    def __add__(self, other: Report) -> Report:
        return Report(self.findings + other.findings, self.checks + other.checks)

    @property
    def verdict(self) -> Verdict:
        """Worst finding; healthy if something was judged and nothing found; else unknown."""
        severities = {finding.severity for finding in self.findings}
        if Severity.CRITICAL in severities:
            return Verdict.CRITICAL
        if Severity.WARNING in severities:
            return Verdict.WARNING
        if self.findings or any(check.verdict == Verdict.HEALTHY for check in self.checks):
            return Verdict.HEALTHY
        return Verdict.UNKNOWN


@dataclass(frozen=True)
class FindingState:
    """A finding with its life: OPEN or how it was closed, when it was opened, when this state was written, who found it.

    `alarms` counts accusations of detectors that it stands for since it was opened: in each pass its own and those folded under
    it; None where that is not known.
    """

    finding: Finding
    state: str
    opened_ns: int
    updated_ns: int = 0
    detector: str | None = None
    alarms: int | None = None

    def closed(self, state: str, now_ns: int) -> FindingState:
        """The same finding, RESOLVED, REPLACED or ENDED at `now_ns`."""
        return replace(self, state=state, updated_ns=now_ns)


OPEN: Final = "open"
RESOLVED: Final = "resolved"
"""The question was asked again, and answered without the accusation."""
REPLACED: Final = "replaced"
"""What it accuses is not there any more: another GPU or machine is in its place."""
ENDED: Final = "ended"
"""The job or the node fell silent with the finding standing: nobody can tell any more."""


def to_rows(states: list[FindingState]) -> pa.RecordBatch:
    """Rows of table `findings`."""
    return FINDINGS.from_rows(
        {
            "source": "analysis",
            "node": state.finding.subject.node,
            "id": state.finding.id,
            "kind": str(state.finding.kind),
            "severity": str(state.finding.severity),
            "confidence": state.finding.confidence,
            "state": state.state,
            "detector": state.detector,
            "job": state.finding.subject.job,
            "rank": state.finding.subject.rank,
            "gpu_uuid": state.finding.subject.gpu,
            "subject": json.dumps(state.finding.subject.named(), sort_keys=True),
            "opened_ns": state.opened_ns,
            "updated_ns": state.updated_ns,
            "alarms": state.alarms,
            "onset_ns": state.finding.onset.time_ns,
            "onset_step": state.finding.onset.step,
            "summary": state.finding.summary,
            "document": json.dumps(state.finding.to_json()),
        }
        for state in states
    )
