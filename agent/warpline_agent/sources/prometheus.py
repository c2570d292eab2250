"""Recorded Prometheus text: dcgm-exporter, xpu_timer and NCCL Inspector by name, every other exporter as plain metrics."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from warpline_proto.errors import Refused
from warpline_proto.tables import COLLECTIVES, DEVICE_SAMPLES, LOG_EVENTS, METRICS

from ..parsers import dcgm, exposition, nccl, values
from ..parsers.bus_id import normal_bus_id
from ..parsers.exposition import Exposition, Sample
from ..parsers.xid import severity
from ..scrub import scrub
from ..source import Input, Origin, Reading, Rows

Row = dict[str, Any]

_IDENTITY: Final = {"rank": "rank", "UUID": "gpu_uuid", "Hostname": "node"}
_JOB_LABELS: Final = ("job_name", "hpc_job", "slurm_job_id")
_NO_JOB: Final = frozenset(("", "unknown"))
_HANG: Final = "XPU_TIMER_COMMON_HANG"
_INSPECTOR: Final = {
    "nccl_bus_bandwidth_gbs": ("bus_bytes_per_second", 1e9),
    "nccl_p2p_bus_bandwidth_gbs": ("bus_bytes_per_second", 1e9),
    "nccl_collective_exec_time_microseconds": ("duration_ns", 1e3),
    "nccl_p2p_exec_time_microseconds": ("duration_ns", 1e3),
}
_UNITS: Final = (("_microseconds", "us"), ("_gbs", "GB/s"))


class Prometheus:
    """One scrape of one exporter, saved as text."""

    name = "prometheus"

    def recognises(self, candidate: Input) -> bool:
        """By form: every sample in the head is in order, and labels or TYPE lines are there."""
        return exposition.recognises(candidate.head.decode("utf-8", "replace"))

    def read(self, candidate: Input) -> Reading:
        """Samples -> device_samples, log_events, collectives and metrics."""
        found = exposition.parse(candidate.lines())
        if not found.samples:
            raise Refused("holds no Prometheus sample in readable form")
        jobs = {job for sample in found.samples if (job := _job(sample.labels))}
        devices, metrics = _devices(found)
        rows = [
            Rows("device_samples", DEVICE_SAMPLES.from_rows(devices)),
            Rows("metrics", METRICS.from_rows(_metric(sample, found) for sample in metrics), found.dropped),
            Rows("log_events", LOG_EVENTS.from_rows([*_hangs(found), *_xids(found)])),
            Rows("collectives", COLLECTIVES.from_rows(_collectives(found.samples))),
        ]
        if len(jobs) > 1:
            rows = [Rows("metrics", METRICS.from_rows(_with_job(found)), found.dropped)]
        rows = [each for each in rows if each.batch.num_rows]
        return Reading(rows, _facts(found), _origin(found, jobs, rows), _notes(found, jobs))


def _job(labels: dict[str, str]) -> str | None:
    return next((labels[name] for name in _JOB_LABELS if labels.get(name, "") not in _NO_JOB), None)


def _origin(found: Exposition, jobs: set[str], rows: list[Rows]) -> Origin:
    nodes = {node for sample in found.samples if (node := _node(sample))}
    return Origin(
        run_id=jobs.pop() if len(jobs) == 1 else None,
        node=nodes.pop() if len(nodes) == 1 else None,
        content=values.digest(rows),
    )


def _facts(found: Exposition) -> Row:
    facts: Row = {"samples": len(found.samples), "metrics": len({sample.name for sample in found.samples})}
    ranks = {rank for sample in found.samples if (rank := values.small(sample.labels.get("rank"))) is not None}
    if ranks:
        facts["ranks"] = len(ranks)
    hangs = [sample for sample in found.samples if sample.name == _HANG]
    if hangs:
        facts["hang_flags"] = len(hangs)
        facts["hanging_ranks"] = sorted(int(row["rank"]) for row in _hangs(found) if row["rank"] is not None)
    return facts


def _notes(found: Exposition, jobs: set[str]) -> list[str]:
    notes = []
    if found.skipped:
        notes.append(f"{found.skipped} lines are not in Prometheus form and were skipped")
    if found.dropped:
        notes.append(f"{found.dropped} samples beyond the bound were left out")
    if len(jobs) > 1:
        notes.append(f"samples of {len(jobs)} jobs: kept as metrics with their job only")
    return notes


def _node(sample: Sample) -> str | None:
    labels = sample.labels
    if sample.name.startswith("XPU_TIMER_"):
        return labels.get("ip") or None
    if sample.name.startswith("nccl_"):
        return labels.get("node") or None
    return labels.get("Hostname") or None


def _metric(sample: Sample, found: Exposition) -> Row:
    labels = {name: value for name, value in sample.labels.items() if name not in _IDENTITY and name not in _JOB_LABELS}
    stated = next((unit for ending, unit in _UNITS if sample.name.endswith(ending)), None)
    return {
        "source": "prometheus",
        "node": _node(sample),
        "rank": values.small(sample.labels.get("rank")),
        "gpu_uuid": sample.labels.get("UUID") or None,
        "time_ns": sample.time_ns,
        "metric": sample.name,
        "labels": _shown(labels),
        "value": sample.value,
        "unit": found.units.get(sample.name) or stated,
    }


def _shown(labels: dict[str, str]) -> str:
    """Labels as JSON; a secret in one of them is masked, by its shape or by the label's name."""
    shown = json.dumps(labels, sort_keys=True, ensure_ascii=False)
    if scrub(shown) == shown:
        return shown
    masked = {name: scrub(f"{name}={value}").partition("=")[2] for name, value in labels.items()}
    return json.dumps(masked, sort_keys=True, ensure_ascii=False)


def _with_job(found: Exposition) -> Iterable[Row]:
    for sample in found.samples:
        yield {**_metric(sample, found), "job": _job(sample.labels)}


def _hangs(found: Exposition) -> list[Row]:
    """xpu_timer raises its hang flag of a rank once no kernel of that rank finishes any more."""
    return [
        {
            "source": "prometheus",
            "node": _node(sample),
            "rank": values.small(sample.labels.get("rank")),
            "time_ns": sample.time_ns,
            "kind": "hang",
            "severity": "critical",
            "message": f"xpu_timer reports that rank {sample.labels.get('rank', '?')} hangs",
            "count": 1,
        }
        for sample in found.samples
        if sample.name == _HANG and sample.value is not None and sample.value > 0
    ]


def _xids(found: Exposition) -> Iterable[Row]:
    for sample in found.samples:
        code = values.count(sample.value)
        if sample.name == dcgm.XID and code and not dcgm.is_blank(code):
            yield {
                "source": "prometheus",
                "node": _node(sample),
                "gpu_uuid": sample.labels.get("UUID") or None,
                "time_ns": sample.time_ns,
                "kind": "xid",
                "code": code,
                "severity": severity(code),
                "bus_id": normal_bus_id(sample.labels.get("pci_bus_id", "")),
                "message": f"dcgm-exporter: last Xid of GPU {sample.labels.get('gpu', '?')} is {code}",
                "count": 1,
            }


def _devices(found: Exposition) -> tuple[list[Row], list[Sample]]:
    """The samples that are readings of a GPU, one row a GPU and time, and all the samples that are not."""
    devices: dict[tuple[str, ...], Row] = {}
    rest = []
    for sample in found.samples:
        labels = sample.labels
        if not sample.name.startswith("DCGM_FI_"):
            rest.append(sample)
        elif sample.value is not None and not dcgm.is_blank(sample.value):
            cell = dcgm.column(sample.name, sample.value, found.helps.get(sample.name, ""))
            if cell is None and sample.name != dcgm.POWER_INSTANT:
                rest.append(sample)
                continue
            names = ("Hostname", "UUID", "gpu", "GPU_I_ID")
            key = (*(labels.get(name, "") for name in names), str(sample.time_ns))
            row = devices.setdefault(key, _device(sample))
            _put(row, sample, cell)
    return list(devices.values()), rest


def _device(sample: Sample) -> Row:
    labels = sample.labels
    uuid = labels.get("UUID") or None
    if instance := labels.get("GPU_I_ID"):
        uuid = f"MIG-{uuid}/{instance}" if uuid else None
    return {
        "source": "prometheus",
        "node": _node(sample),
        "gpu_uuid": uuid,
        "gpu_index": values.small(labels.get("gpu")),
        "gpu_name": labels.get("modelName") or None,
        "bus_id": normal_bus_id(labels.get("pci_bus_id", "")),
        "time_ns": sample.time_ns,
    }


def _put(row: Row, sample: Sample, cell: tuple[str, float | int] | None) -> None:
    if cell is None:
        if "power_watts" not in row:
            row["power_watts"], row["power_method"] = sample.value, "instant"
        return
    row[cell[0]] = cell[1]
    if cell[0] == "power_watts":
        row["power_method"] = "unstated"


def _collectives(samples: Iterable[Sample]) -> list[Row]:
    """NCCL Inspector's averages: time and bandwidth of one operation in one range of sizes are one summary row."""
    rows: dict[str, Row] = {}
    for sample in samples:
        if sample.name not in _INSPECTOR or sample.value is None:
            continue
        column, factor = _INSPECTOR[sample.name]
        key = json.dumps([sample.labels, sample.time_ns], sort_keys=True)
        row = rows.setdefault(key, _summary(sample))
        row[column] = values.scaled(sample.value, factor) if column == "duration_ns" else sample.value * factor
    return list(rows.values())


def _summary(sample: Sample) -> Row:
    labels = sample.labels
    algorithm, _, protocol = labels.get("algo_proto", "").partition("_")
    return {
        "source": "prometheus",
        "node": _node(sample),
        "group_name": labels.get("comm_name") or None,
        "operation": nccl.operation(labels.get("collective") or labels.get("p2p_operation") or ""),
        "nranks": values.small(labels.get("nranks")),
        "algorithm": algorithm.lower() or None,
        "protocol": protocol.lower() or None,
        "start_ns": sample.time_ns,
        "timing": "summary",
    }
