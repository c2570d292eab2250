"""What an Nsight Systems sqlite export says of the GPU: records, launches, steps, versions.

Only the tables named here are opened. An export also holds the whole environment of the job (TARGET_INFO_SYSTEM_ENV and the
ENVIRONMENT_VARIABLE lines of META_DATA_CAPTURE): the first is never opened, the second is asked for one key by name. Which
tables exist depends on what happened and on the version: without one memset there is no table of memsets.
"""

from __future__ import annotations

import re
import sqlite3
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from warpline_proto.errors import Refused

from ..kernels import (
    COMPUTE,
    MEMCPY,
    MEMSET,
    RECORDS_MAX,
    TIME_NS_MAX,
    KernelLog,
    Kernels,
    StepSpan,
    Times,
    clean_name,
)
from . import values

_KERNEL: Final = "CUPTI_ACTIVITY_KIND_KERNEL"
_MEMCPY: Final = "CUPTI_ACTIVITY_KIND_MEMCPY"
_MEMSET: Final = "CUPTI_ACTIVITY_KIND_MEMSET"
_RUNTIME: Final = "CUPTI_ACTIVITY_KIND_RUNTIME"
_NEEDED: Final = ("start", "end", "deviceId", "streamId")
_STEP: Final = re.compile(
    r"(?:ProfilerStep#|(?:train(?:ing)?|global|iter(?:ation)?|step)[\s_-]*(?:step)?[\s_#:=-]*)(\d{1,15})$",
    re.IGNORECASE,
)
_STEP_CHARS_MAX: Final = 64
_COPY_KINDS: Final = {
    1: "HtoD",
    2: "DtoH",
    8: "DtoD",
    10: "PtoP",
    0: "unknown",
    3: "HtoA",
    4: "AtoH",
    9: "HtoH",
    11: "UVM",
}


@dataclass(frozen=True)
class Export:
    """What one export says; all times count from `epoch_ns` (Unix time), which is None where the export does not give it.

    `launch_ns` (-1 where the launch was not recorded) and `process` go with `kernels`, whose steps are not yet given;
    `steps` are those of each process.
    """

    kernels: Kernels
    launch_ns: Times
    process: Times
    steps: dict[int, list[StepSpan]]
    epoch_ns: int | None
    facts: dict[str, Any]
    node: str | None
    dropped: int


Tables = dict[str, frozenset[str]]
"""Table -> its columns."""


def read_export(database: sqlite3.Connection) -> Export:
    """Everything that the product wants of an export; Refused where it is none, sqlite3.Error where it is damaged."""
    names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    tables = {str(name): _columns(database, str(name)) for (name,) in names}
    _require(tables)
    log, launches = KernelLog(), _launches(database, tables)
    launch, returned, owner, dropped = array("q"), array("q"), array("q"), 0
    for query, category in _queries(tables):
        for start, end, device, stream, correlation, process, name in database.execute(query):
            if len(log) >= RECORDS_MAX or not (_sound(start) and _sound(end)):
                dropped += 1
                continue
            label = _label(name, category)
            log.append(start, end - start, log.name_id(label, category), _number(device, 31), _number(stream, 63))
            began, ended = launches.get((process, correlation), (-1, -1))
            launch.append(began)
            returned.append(ended)
            owner.append(_number(process, 63))
    return Export(
        kernels=replace(log.finish(), launched_ns=np.array(returned, dtype=np.int64)),
        launch_ns=np.array(launch, dtype=np.int64),
        process=np.array(owner, dtype=np.int64),
        steps=_steps(database, tables),
        epoch_ns=_epoch(database, tables),
        facts=_facts(database, tables),
        node=_node(database, tables),
        dropped=dropped,
    )


def _columns(database: sqlite3.Connection, table: str) -> frozenset[str]:
    quoted = table.replace('"', '""')
    return frozenset(str(row[1]) for row in database.execute(f'PRAGMA table_info("{quoted}")'))


def _require(tables: Tables) -> None:
    """Refused with what is missing, so that a database of another tool is told from an export without GPU activity."""
    activity = [table for table in (_KERNEL, _MEMCPY, _MEMSET) if table in tables]
    if not activity or "StringIds" not in tables:
        missing = "StringIds" if activity else f"{_KERNEL} (nor copies, nor sets)"
        exported = "META_DATA_EXPORT" in tables
        known = ", ".join(sorted(tables)[:6]) or "none"
        raise Refused(
            f"the Nsight export has no table {missing}"
            if exported
            else f"a sqlite database, but no Nsight Systems export: it has no table {missing} (its tables: {known}, ...)",
            "record with `nsys profile --trace=cuda`"
            if exported
            else "only databases of `nsys export --type sqlite` are read",
        )
    for table in activity:
        lacking = [column for column in _NEEDED if column not in tables[table]]
        if lacking:
            raise Refused(f"table {table} has no column {', '.join(lacking)}", "export with a newer Nsight Systems")


def _queries(tables: Tables) -> Iterator[tuple[str, int]]:
    for table, category in ((_KERNEL, COMPUTE), (_MEMCPY, MEMCPY), (_MEMSET, MEMSET)):
        columns = tables.get(table)
        if columns is None:
            continue
        correlation = "r.correlationId" if "correlationId" in columns else "NULL"
        process = "r.globalPid" if "globalPid" in columns else "NULL"
        name, join = "NULL", ""
        if category == COMPUTE:
            source = next((each for each in ("demangledName", "shortName", "mangledName") if each in columns), None)
            name, join = ("s.value", f" LEFT JOIN StringIds s ON s.id = r.{source}") if source else ("NULL", "")
        elif category == MEMCPY and "copyKind" in columns:
            name = "r.copyKind"
        yield (
            f"SELECT r.start, r.end, r.deviceId, r.streamId, {correlation}, {process}, {name} FROM {table} r{join}",
            category,
        )


def _label(name: object, category: int) -> str:
    if category == MEMSET:
        return "Memset"
    if category == MEMCPY:
        return f"Memcpy {_COPY_KINDS.get(name, name)}" if isinstance(name, int) else "Memcpy"
    return name if isinstance(name, str) and name else "(unnamed kernel)"


def _sound(time_ns: object) -> bool:
    return isinstance(time_ns, int) and 0 <= time_ns < TIME_NS_MAX


def _number(value: object, bits: int) -> int:
    """A whole number that fits, else -1."""
    return value if isinstance(value, int) and 0 <= value < 2**bits else -1


def _process(thread: int) -> int:
    """The number of the process in that of its thread: nsys puts the thread into the last 24 bits."""
    return thread & ~0xFFFFFF


def _launches(database: sqlite3.Connection, tables: Tables) -> dict[tuple[Any, Any], tuple[int, int]]:
    """(process, correlation) -> start and end of the launching call, -1 where there is no end."""
    if not {"start", "correlationId", "globalTid"} <= tables.get(_RUNTIME, frozenset()):
        return {}
    end = "end" if "end" in tables[_RUNTIME] else "NULL"
    query = f"SELECT globalTid, correlationId, start, {end} FROM {_RUNTIME} LIMIT {RECORDS_MAX}"
    return {
        (_process(thread), correlation): (start, end if _sound(end) else -1)
        for thread, correlation, start, end in database.execute(query)
        if isinstance(thread, int) and isinstance(correlation, int) and _sound(start)
    }


def _steps(database: sqlite3.Connection, tables: Tables) -> dict[int, list[StepSpan]]:
    """Steps of each process, marked by NVTX ranges such as `ProfilerStep#3`, `step 3` or `iteration_3`.

    Ranges within a step do not start a new one.
    """
    if not {"start", "end", "text", "textId", "globalTid"} <= tables.get("NVTX_EVENTS", frozenset()):
        return {}
    text = "coalesce(n.text, s.value)"
    query = (
        f"SELECT n.start, n.end, n.globalTid, {text} FROM NVTX_EVENTS n LEFT JOIN StringIds s ON s.id = n.textId"
        f" WHERE n.end IS NOT NULL AND length({text}) < {_STEP_CHARS_MAX} ORDER BY n.start, n.end DESC"
    )
    steps: dict[int, list[StepSpan]] = {}
    for start, end, thread, name in database.execute(query):
        match = _STEP.match(name) if isinstance(name, str) else None
        if match is None or not (_sound(start) and _sound(end) and isinstance(thread, int)):
            continue
        spans = steps.setdefault(_process(thread), [])
        if not spans or start >= spans[-1].start_ns + spans[-1].duration_ns:
            spans.append(StepSpan(int(match[1]), start, end - start))
    return steps


def _epoch(database: sqlite3.Connection, tables: Tables) -> int | None:
    """Unix time of the moment from which the export counts."""
    if "utcEpochNs" not in tables.get("TARGET_INFO_SESSION_START_TIME", frozenset()):
        return None
    row = database.execute("SELECT utcEpochNs FROM TARGET_INFO_SESSION_START_TIME").fetchone()
    return row[0] if row and isinstance(row[0], int) and 0 < row[0] < TIME_NS_MAX else None


def _node(database: sqlite3.Connection, tables: Tables) -> str | None:
    if "META_DATA_CAPTURE" not in tables:
        return None
    row = database.execute("SELECT value FROM META_DATA_CAPTURE WHERE name = 'DEVICE_DISPLAY_NAME'").fetchone()
    name = values.text(row[0]) if row else None
    return clean_name(name)[:200] if name else None


def _facts(database: sqlite3.Connection, tables: Tables) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if "META_DATA_EXPORT" in tables:
        wanted = {"EXPORT_PRODUCT_VERSION": "nsys_version", "EXPORT_SCHEMA_VERSION": "schema_version"}
        query = (
            "SELECT name, value FROM META_DATA_EXPORT WHERE name IN ('EXPORT_PRODUCT_VERSION', 'EXPORT_SCHEMA_VERSION')"
        )
        facts = {wanted[name]: values.text(value) for name, value in database.execute(query)}
    if "name" in tables.get("TARGET_INFO_GPU", frozenset()):
        names = [clean_name(str(name)) for (name,) in database.execute("SELECT name FROM TARGET_INFO_GPU LIMIT 256")]
        facts["gpu_names"] = {each: names.count(each) for each in dict.fromkeys(names)}
    facts["nvtx_events"] = (
        database.execute("SELECT count(*) FROM NVTX_EVENTS").fetchone()[0] if "NVTX_EVENTS" in tables else None
    )
    return facts
