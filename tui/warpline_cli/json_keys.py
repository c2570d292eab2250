"""What `--json` prints, key by key: these names stay. Manual pages say them, and tests hold the verbs to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FINDING: Final = {
    "id": "the same for the same kind and subject",
    "kind": "what somebody or something is accused of",
    "severity": "critical, warning or info",
    "confidence": "0 to 1",
    "subject": "who: job, rank, group, stage, dp, tp, ep, node, gpu, link, communicator; only what is known",
    "onset": "since when: time_ns, step, watched_step, earliest_step, latest_step",
    "cost": "seconds_per_step, gpu_hours, joules",
    "summary": "one sentence",
    "evidence": "objects with sql and the rows that it returned",
    "ruled_out": "other explanations, and by what they fell",
    "missing": "inputs that were not there",
    "next_step": "what to do now",
}
LIFE: Final = {
    "state": "open, resolved, replaced or ended",
    "opened_ns": "when it was first raised",
    "updated_ns": "when this was written",
    "alarms": "accusations that it stood for then: in each pass its own and those folded under it",
}
KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "demo": {
        "seed": "as it was given",
        "injected": "the fault in words; null: none",
        "judged": "whether the run was watched to its end",
        "found": "whether the fault was named",
        "wrongly_accused": "identifiers of findings that accuse somebody else",
        "findings": "objects as `warpline findings` has them, without their life",
    },
    "analyze": {
        "verdict": "healthy, warning, critical or unknown",
        "inputs": "objects with path, kind, status (read, refused, reference), reason and facts",
        "findings": "objects as `warpline findings` has them, without their life",
        "checks": "questions without an accusation: detector, verdict, job, detail, missing, rank",
    },
    "top": {
        "at_ns": "the moment that is looked at",
        "gpus": "an object for each GPU: its newest reading; null where the device does not tell",
        "ranks": "an object for each rank: its newest step, medians in ns over recent steps",
        "findings": "objects as `warpline findings` has them",
    },
    "status": {
        "judged_ns": "when the collector judged the agents last",
        "collector": "what a running collector says of itself; null of a store",
        "troubled": "agents by trouble",
        "versions": "agents by version",
        "analysis": "pass_ns: end of the last pass; failed: why it failed, or null",
        "findings_open": "open findings by severity",
        "replaced": "GPUs and machines that were replaced, in words",
        "agents": "an object for each agent: columns of table agents",
    },
    "findings": {
        "verdict": "critical, warning, healthy or unknown",
        "analysed_ns": "end of the last pass of the analysis",
        "findings": "objects: " + ", ".join([*FINDING, *LIFE]) + ", and closer_look where one was asked for",
        "healthy": "questions that were judged without an accusation: question, answer",
        "unknown": "questions that could not be judged: question, answer",
    },
    "explain": {
        **FINDING,
        **LIFE,
        "related": "other findings of the same job, node or GPU, in the same form",
        "beside": "facts asked for now: title, sql, rows",
        "markdown": "the text that is printed without --json",
    },
    "report": {
        "output": "the file that was written",
        "bytes": "its size",
        "verdict": "critical, warning, healthy or unknown, at the end of the time",
        "job": "as it was given, or null",
        "start_ns": "begin of the time",
        "end_ns": "its end",
        "findings": "identifiers of the findings that stood in it",
        "failed": "titles of questions without an answer",
    },
    "sql": {
        "[].NAME": "an object for each row: its columns by name; unknown is null",
        "[].name, [].meaning": "with --describe: tables and views",
        "name, meaning, columns": "with --describe TABLE",
    },
    "power report": {
        "by": "what one line stands for",
        "start_ns": "begin of the first window",
        "end_ns": "end of the time",
        "currency": "of the costs; null where no price is set",
        "pue": "what costs and carbon are multiplied by",
        "lines": "objects with key, gpus, kwh, gpu_hours, and seconds and joules by state",
        "total": "the same of all together; null where nothing is accounted",
    },
    "power plan": {
        "gpus": "GPUs of the account",
        "total_joules": "what they drew",
        "proposals": "objects with name, saved_joules and other bounds as [at least, at most], and assumptions",
        "jobs": "headroom and spikes of each job",
        "curves": "by workload the best limit for each slowdown",
        "currency": "of the costs; null where no price is set",
    },
    "power restore": {"restored": "UUIDs of GPUs whose clocks were unlocked", "left": "UUID -> why not"},
    "capture": {"captures": "objects with id, what, job, rank, node, state, detail, records and exit"},
    "export": {
        "file": "the file that was written",
        "bytes": "its size",
        "selection": "job, ranks, capture and finding that were chosen",
        "drawn": "how much of what was drawn, and what was left out",
    },
    "notify": {
        "[].receiver": "its name",
        "[].words": "who is told of what; with --test, what came of it",
        "[].kind, [].host": "without --test; host is null where the file with the URL cannot be used",
        "[].taken, [].status": "with --test: whether it took the made-up incident, and its HTTP status",
    },
    "store check": {
        "running": "whether a collector writes to it",
        "segments": "files",
        "rows": "in them",
        "bytes": "of them",
        "troubles": "objects with kind, path, table and detail",
    },
    "store repair": {"set_aside": "objects with path, rows and reason", "rows": "lost"},
    "store compact": {"fewer": "files fewer"},
    "store backup": {"linked": "files linked", "copied": "files copied", "bytes": "of all"},
    "doctor": {"exit": "the exit code", "checks": "objects with id, state, detail and hint"},
    "pki init": {"directory": "where the authority is"},
    "pki issue": {"folders": "where the certificates are"},
    "pki rotate": {"folders": "where those are that were renewed"},
    "pki show": {"certificates": "objects with role, name, ends (ISO 8601) and hosts"},
    "config": {
        "files": "read, in order; the last that says something holds",
        "absent": "why sections are left out",
        "settings": "of print: by section, every setting with its value",
    },
}
"""By verb, without `warpline`. Times end in _ns: nanoseconds since 1970, UTC."""
