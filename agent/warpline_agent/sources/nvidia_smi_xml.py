"""`nvidia-smi -q -x`: one reading of every GPU and MIG device of a node, in the schemas v10 to v13."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final
from xml.etree.ElementTree import Element

from warpline_proto.errors import Refused
from warpline_proto.tables import DEVICE_SAMPLES, LOG_EVENTS

from ..parsers import nvidia_table, nvidia_values, plain_xml, values
from ..parsers.nvidia_values import quantity, whole
from ..source import Input, Origin, Reading, Rows

Row = dict[str, Any]

_ROOT: Final = b"nvidia_smi_log"
_SKIPPED: Final = frozenset(("supported_clocks", "accounted_processes"))
_REALS: Final = {
    "sm_clock_mhz": "clocks/sm_clock",
    "memory_clock_mhz": "clocks/mem_clock",
    "sm_clock_max_mhz": "max_clocks/sm_clock",
    "gpu_utilization_percent": "utilization/gpu_util",
    "memory_utilization_percent": "utilization/memory_util",
    "temperature_celsius": "temperature/gpu_temp",
    "memory_temperature_celsius": "temperature/memory_temp",
    "fan_percent": "fan_speed",
    "pcie_tx_bytes_per_second": "pci/tx_util",
    "pcie_rx_bytes_per_second": "pci/rx_util",
}
_WHOLES: Final = {
    "memory_used_bytes": "fb_memory_usage/used",
    "memory_total_bytes": "fb_memory_usage/total",
    "pcie_replays": "pci/replay_counter",
    "pcie_generation": "pci/pci_gpu_link_info/pcie_gen/current_link_gen",
    "pcie_width": "pci/pci_gpu_link_info/link_widths/current_link_width",
    "power_cap_ns": "clocks_event_reasons_counters/clocks_event_reasons_counters_sw_power_cap",
    "sync_boost_ns": "clocks_event_reasons_counters/clocks_event_reasons_counters_sync_boost",
    "thermal_ns": "clocks_event_reasons_counters/clocks_event_reasons_counters_sw_therm_slowdown",
    "hardware_thermal_ns": "clocks_event_reasons_counters/clocks_event_reasons_counters_hw_therm_slowdown",
    "power_brake_ns": "clocks_event_reasons_counters/clocks_event_reasons_counters_hw_power_brake",
}
_POWERS: Final = (
    ("gpu_power_readings/average_power_draw", "average"),
    ("gpu_power_readings/power_draw", "unstated"),
    ("power_readings/power_draw", "unstated"),
    ("gpu_power_readings/instant_power_draw", "instant"),
)
_LIMITS: Final = (
    "gpu_power_readings/current_power_limit",
    "gpu_power_readings/enforced_power_limit",
    "power_readings/enforced_power_limit",
    "power_readings/power_limit",
)
_REASONS: Final = (
    ("clocks_event_reasons", "clocks_event_reason_"),
    ("clocks_throttle_reasons", "clocks_throttle_reason_"),
)


class NvidiaSmiXml:
    """One `nvidia-smi -q -x` document."""

    name = "nvidia_smi_xml"

    def recognises(self, candidate: Input) -> bool:
        """By the root element."""
        head = candidate.head.lstrip(b"\xef\xbb\xbf \r\n\t")
        return head.startswith(b"<") and _ROOT in head[:2048]

    def read(self, candidate: Input) -> Reading:
        """GPUs and MIG devices -> device_samples."""
        with candidate.open() as stream:
            root = plain_xml.load(stream, _SKIPPED)
        gpus = root.findall("gpu")
        if root.tag != "nvidia_smi_log" or not gpus:
            raise Refused("is no nvidia-smi log with a GPU in it")
        time_ns = nvidia_values.time_ns(_text(root, "timestamp"))
        attached = values.whole(_text(root, "attached_gpus"))
        samples: list[Row] = []
        lost: list[Row] = []
        for position, gpu in enumerate(gpus):
            row = {"time_ns": time_ns, **_gpu(gpu)}
            row["gpu_index"] = position if attached == len(gpus) else None
            event = nvidia_table.lost(row, [each.text or "" for each in gpu.iter()])
            lost += [{**event, "source": self.name}] if event else []
            samples += [row, *(_mig(device, row) for device in gpu.findall("mig_devices/mig_device"))]
        rows = [Rows("device_samples", DEVICE_SAMPLES.from_rows(samples))]
        if lost:
            rows.append(Rows("log_events", LOG_EVENTS.from_rows(lost)))
        return Reading(
            rows, _facts(root, gpus, samples), Origin(content=values.digest(rows)), _notes(time_ns, attached, gpus)
        )


def _text(element: Element, path: str) -> str | None:
    found = element.find(path)
    return None if found is None or found.text is None else found.text.strip()


def _gpu(gpu: Element) -> Row:
    powers = ((quantity(_text(gpu, path)), method) for path, method in _POWERS)
    power, method = next(((watts, method) for watts, method in powers if watts is not None), (None, None))
    limits = (quantity(_text(gpu, path)) for path in _LIMITS)
    row: Row = {
        "source": "nvidia_smi_xml",
        "gpu_uuid": nvidia_values.gpu_uuid(_text(gpu, "uuid")),
        "gpu_name": values.text(_text(gpu, "product_name")),
        "bus_id": nvidia_values.bus_id(_text(gpu, "pci/pci_bus_id") or gpu.get("id")),
        "power_watts": power,
        "power_method": method,
        "power_limit_watts": next((limit for limit in limits if limit is not None), None),
        "performance_state": nvidia_values.performance_state(_text(gpu, "performance_state")),
        "clock_event_reasons": _reasons(gpu),
        "ecc_corrected": _ecc(gpu, "_correctable", "single_bit"),
        "ecc_uncorrected": _ecc(gpu, "_uncorrectable", "double_bit"),
        "remapped_rows": _sum(whole(_text(gpu, f"remapped_rows/remapped_row_{kind}")) for kind in ("corr", "unc")),
        "resident_processes": _processes(gpu),
    }
    row |= {column: quantity(_text(gpu, path)) for column, path in _REALS.items()}
    row |= {column: whole(_text(gpu, path)) for column, path in _WHOLES.items()}
    row |= {column: values.small(row[column]) for column in ("pcie_generation", "pcie_width")}
    return row


def _mig(device: Element, gpu: Row) -> Row:
    """A MIG device shares its GPU's sensors; its own are memory and errors. Without a UUID it is named as drivers once did."""
    instance, compute = _text(device, "gpu_instance_id"), _text(device, "compute_instance_id")
    legacy = f"MIG-{gpu['gpu_uuid']}/{instance}/{compute}" if gpu["gpu_uuid"] and instance and compute else None
    return {
        **{name: gpu[name] for name in ("source", "time_ns", "gpu_index", "bus_id")},
        "gpu_uuid": nvidia_values.gpu_uuid(_text(device, "uuid")) or legacy,
        "gpu_name": f"{gpu['gpu_name']} MIG {instance}" if gpu["gpu_name"] and instance else gpu["gpu_name"],
        "memory_used_bytes": whole(_text(device, "fb_memory_usage/used")),
        "memory_total_bytes": whole(_text(device, "fb_memory_usage/total")),
        "ecc_uncorrected": _sum(
            whole(each.text)
            for each in device.findall("ecc_error_count/volatile_count/*")
            if "_uncorrectable" in each.tag
        ),
    }


def _reasons(gpu: Element) -> int | None:
    for path, prefix in _REASONS:
        found = gpu.findall(f"{path}/*")
        if found:
            return nvidia_values.reasons({each.tag.removeprefix(prefix): (each.text or "").strip() for each in found})
    return None


def _ecc(gpu: Element, marker: str, old: str) -> int | None:
    """Errors since the driver was loaded: the sum over memories, or the total of older schemas."""
    counters = [each for each in gpu.findall("ecc_errors/volatile/*") if marker in each.tag]
    if counters:
        return _sum(whole(each.text) for each in counters)
    return whole(_text(gpu, f"ecc_errors/volatile/{old}/total"))


def _sum(numbers: Iterable[int | None]) -> int | None:
    """The sum where every part is known."""
    listed = list(numbers)
    known = [number for number in listed if number is not None]
    return sum(known) if known and len(known) == len(listed) else None


def _processes(gpu: Element) -> int | None:
    found = gpu.find("processes")
    if found is None or (found.text or "").strip() == "N/A":
        return None
    return sum("C" in (_text(each, "type") or "") for each in found.findall("process_info"))


def _facts(root: Element, gpus: list[Element], samples: list[Row]) -> Row:
    return {
        "attached_gpus": values.whole(_text(root, "attached_gpus")),
        "gpus": len(gpus),
        "gpu_names": dict(Counter(_text(gpu, "product_name") or "?" for gpu in gpus)),
        "driver_version": values.text(_text(root, "driver_version")),
        "gpu_utilization": [quantity(_text(gpu, "utilization/gpu_util")) for gpu in gpus],
        "mig_devices": len(samples) - len(gpus),
    }


def _notes(time_ns: int | None, attached: int | None, gpus: list[Element]) -> list[str]:
    notes = ["it carries no time"] if time_ns is None else ["its time carries no zone and is read as UTC"]
    if attached is not None and attached != len(gpus):
        notes.append(f"{attached} GPUs are attached, {len(gpus)} are in the file: which index they have is not known")
    return notes
