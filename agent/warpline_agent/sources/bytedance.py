"""Per-operation traces in the form ByteDance publishes (arXiv 2505.05713): Parquet, its Chrome timeline, its meta file.

One row is one operation of one step on one recorded rank. `start_ts` counts in float32 seconds from the start of its step, so
steps have a length but no date. A recorded rank stands for a tensor-parallel group where the numbers of the recorded ranks
leave even gaps (0, 4, 8, ...). The timeline has the same operations with the wait for late peers cut off communication.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warpline_proto.errors import Refused
from warpline_proto.tables import JOBS

from ..parsers.operations import Ints, Operations, reading
from ..parsers.values import SMALL_MAX, real, text, whole
from ..source import Input, Origin, Reading, Rows

REQUIRED: Final = ("dp_rank", "stage", "rank", "step", "optype", "start_ts", "duration")
OPTIONAL: Final = ("seq_id", "mc", "mb_id")
OPERATIONS_MAX: Final = 20_000_000
"""More rows than this in one file are refused: they would not fit in memory beside the rest."""
PARQUET_BYTES_MAX: Final = 512 * 1024 * 1024
COLUMN_BYTES_MAX: Final = 4 * 1024 * 1024 * 1024
"""Bytes that the columns of a Parquet file may say they unpack to."""
NAME_BYTES_MAX: Final = 100
"""Longest name of an operation; as text it takes so much memory once for each row."""
TIMELINE_BYTES_MAX: Final = 256 * 1024 * 1024
META_BYTES_MAX: Final = 64 * 1024
SECONDS_MAX: Final = 1e9
"""Larger times are not measurements, and their nanoseconds would not fit 64 bits."""
STREAMS: Final = ("compute", "pp-comm", "tp-comm", "dp-comm", "misc")
"""Threads that the timeline draws for each rank, in order: thread id = rank * 5 + position."""

Reals = npt.NDArray[np.float64]


class OperationTrace:
    """The Parquet file: rows of operations."""

    name = "operation_trace"

    def recognises(self, candidate: Input) -> bool:
        return candidate.head.startswith(b"PAR1")

    def read(self, candidate: Input) -> Reading:
        operations = _from_parquet(candidate.read_bytes(PARQUET_BYTES_MAX))
        return reading(operations, _family(candidate.name), waits=True)


class OperationTimeline:
    """The same operations as a Chrome trace: `cat` is the operation, `pid` the replica, `tid` rank and stream."""

    name = "operation_timeline"

    def recognises(self, candidate: Input) -> bool:
        head = candidate.head[:4096]
        return head.lstrip()[:1] in (b"[", b"{") and all(
            key in head for key in (b'"model_chunk"', b'"mb_id"', b'"seq_id"')
        )

    def read(self, candidate: Input) -> Reading:
        result = reading(_from_timeline(candidate.read_bytes(TIMELINE_BYTES_MAX)), _family(candidate.name), waits=False)
        result.notes.append("communication is drawn here without the wait for late peers: kept as phases only")
        return result


class RunMeta:
    """The file beside them: `key: value` lines with the sizes of the job."""

    name = "run_meta"

    def recognises(self, candidate: Input) -> bool:
        named = candidate.name.lower().endswith((".yaml", ".yml"))
        return named and all(re.search(rb"^%s\s*:" % key, candidate.head, re.M) for key in (b"pp_size", b"world_size"))

    def read(self, candidate: Input) -> Reading:
        lines = candidate.read_bytes(META_BYTES_MAX).decode("utf-8", "replace").splitlines()
        return _from_meta(parse_meta(lines), _family(candidate.name))


def parse_meta(lines: Iterable[str]) -> dict[str, str]:
    """`key: value` lines -> mapping; Refused where a line is neither that, a comment nor blank."""
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        said = line.split(" #", 1)[0].rstrip()
        if not said or said.startswith(("#", "---")):
            continue
        match = re.fullmatch(r"([A-Za-z_]\w*)\s*:\s*(\S.*)", said)
        if match is None:
            raise Refused(f"line {number} of the meta file is not `key: value`")
        found[match[1]] = match[2].strip("'\"")
    return found


def _from_meta(meta: dict[str, str], family: str) -> Reading:
    sizes = {key: _size(meta, key) for key in ("world_size", "dp_size", "tp_size", "pp_size")}
    trial, run = meta.get("trial_name"), meta.get("run_id")
    if trial is not None and trial != family:
        family = trial
    row = {**sizes, "run_id": f"{trial}/{run}" if trial and run is not None else None}
    facts = {key: value for key, value in {**sizes, "trial_name": trial}.items() if value is not None}
    origin = Origin(world_size=sizes["world_size"], sibling=family)
    return Reading([Rows("jobs", JOBS.from_rows([row]))], facts, origin)


def _size(meta: dict[str, str], key: str) -> int | None:
    said = meta.get(key)
    if said is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", said):
        raise Refused(f"{key} of the meta file is {said[:40]!r}, not a positive number")
    return int(said)


def _family(name: str) -> str:
    """`trace-AR.parquet`, `timeline-AR.json` and `meta-AR.yaml` -> `AR`."""
    return re.sub(r"^(trace|timeline|meta)[-_]", "", name).split(".", 1)[0] or name


def _from_parquet(data: bytes) -> Operations:
    try:
        buffer = pa.BufferReader(data)
        metadata = pq.read_metadata(buffer)
        _check_size(metadata)
        found = metadata.schema.to_arrow_schema().names
        missing = [column for column in REQUIRED if column not in found]
        if missing:
            raise Refused(f"Parquet file without the columns of an operation trace: {', '.join(missing)} missing")
        present = [column for column in (*REQUIRED, *OPTIONAL) if column in found]
        # Names stay in their dictionary: a long one in each of many rows would fill the memory.
        parquet = pq.ParquetFile(buffer, metadata=metadata, read_dictionary=["optype"])
        table = parquet.read(columns=present).combine_chunks()
        columns: dict[str, Any] = {name: table.column(name) for name in present}
        numbers = {
            name: _whole(columns.get(name), table.num_rows) for name in ("dp_rank", "stage", "rank", "step", *OPTIONAL)
        }
        seconds = {name: columns[name].cast(pa.float64()).to_numpy() for name in ("start_ts", "duration")}
        names = _names(columns["optype"])
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise Refused(f"not a readable operation trace: {error}") from error
    return _operations(numbers, seconds["start_ts"], seconds["duration"], names)


def _check_size(metadata: pq.FileMetaData) -> None:
    if metadata.num_rows > OPERATIONS_MAX:
        raise Refused(f"holds {metadata.num_rows:,} operations, more than {OPERATIONS_MAX:,}")
    unpacked = sum(metadata.row_group(position).total_byte_size for position in range(metadata.num_row_groups))
    if unpacked > COLUMN_BYTES_MAX:
        raise Refused(f"unpacks to {unpacked:,} bytes, more than {COLUMN_BYTES_MAX:,}")


def _names(column: pa.ChunkedArray) -> pa.Array:
    """Names of operations as text."""
    encoded = (
        column if pa.types.is_dictionary(column.type) else column.cast(pa.string()).dictionary_encode()
    ).combine_chunks()
    longest = pc.max(pc.binary_length(encoded.dictionary)).as_py() or 0
    if longest > NAME_BYTES_MAX:
        raise Refused(f"names an operation in {longest:,} bytes, more than {NAME_BYTES_MAX:,}")
    return encoded.dictionary_decode().cast(pa.string())


def _whole(column: Any, rows: int) -> Ints:
    """An integer column; -1 for a column that is absent and for NULL."""
    if column is None:
        return np.full(rows, -1, dtype=np.int64)
    return np.asarray(pc.fill_null(column.cast(pa.int64()), -1).to_numpy(), dtype=np.int64)


def _operations(numbers: dict[str, Ints], start: Reals, duration: Reals, names: pa.Array) -> Operations:
    """Checked columns: rows without place, name or a finite time are left out and counted."""
    usable = np.isfinite(start) & np.isfinite(duration) & (np.abs(start) < SECONDS_MAX) & (duration < SECONDS_MAX)
    usable &= (duration >= 0) & ~np.asarray(pc.is_null(names).to_numpy(zero_copy_only=False), dtype=bool)
    for key in ("dp_rank", "stage", "rank"):
        usable &= (numbers[key] >= 0) & (numbers[key] < SMALL_MAX + 1)
    if not usable.any():
        raise Refused("holds no operation with a place and a time")
    kept = {key: values[usable] for key, values in numbers.items()}
    for key in ("mc", "mb_id"):
        kept[key] = np.where((kept[key] >= 0) & (kept[key] <= SMALL_MAX), kept[key], -1)
    return Operations(
        dp=kept["dp_rank"],
        stage=kept["stage"],
        rank=kept["rank"],
        step=kept["step"],
        start=np.rint(start[usable] * 1e9).astype(np.int64),
        duration=np.rint(duration[usable] * 1e9).astype(np.int64),
        sequence=kept["seq_id"],
        chunk=kept["mc"],
        microbatch=kept["mb_id"],
        name=names.filter(pa.array(usable)),
        dropped=int((~usable).sum()),
    )


def _from_timeline(data: bytes) -> Operations:
    try:
        document = json.loads(data)
        events = document["traceEvents"] if isinstance(document, dict) else document
        stages = _stages(events)
        rows = [_event(event, stages) for event in events if event.get("ph") == "X"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"not a readable operation timeline: {type(error).__name__}: {error}") from error
    if not rows:
        raise Refused("a timeline without operations")
    names = pa.array([row[0] for row in rows], pa.string())
    numbers = np.array([row[1] for row in rows], dtype=np.int64)
    times = np.array([row[2] for row in rows], dtype=np.float64) / 1e6
    keys = ("dp_rank", "stage", "rank", "step", "seq_id", "mc", "mb_id")
    columns = {key: numbers[:, position] for position, key in enumerate(keys)}
    return _operations(columns, _from_step(times[:, 0], columns["step"]), times[:, 1], names)


def _stages(events: Any) -> dict[tuple[int, int], tuple[int, int]]:
    """(process, thread) -> (rank, stage), from the names that the timeline gives its threads."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for event in events:
        if event.get("name") != "thread_name":
            continue
        match = re.fullmatch(r"PP rank (\d{1,6}), TP rank \d{1,6}, (\S+)", event["args"]["name"])
        if match is None or match[2] not in STREAMS:
            continue
        rank, position = divmod(event["tid"], len(STREAMS))
        if STREAMS[position] != match[2]:
            raise Refused(f"thread {event['tid']} of the timeline is called {match[2]!r}: its rank cannot be told")
        found[event["pid"], event["tid"]] = (rank, int(match[1]))
    return found


def _event(event: Any, stages: dict[tuple[int, int], tuple[int, int]]) -> tuple[str, list[int], tuple[float, float]]:
    place = stages.get((event["pid"], event["tid"]))
    if place is None:
        raise Refused(f"thread {event['tid']} of process {event['pid']} has no name: its stage cannot be told")
    extra = event["args"]
    given = (event["pid"], place[1], place[0], extra["step"], extra["seq_id"], extra["model_chunk"], extra["mb_id"])
    numbers = [number for each in given if (number := whole(each)) is not None]
    name, start, duration = text(event["cat"]), real(event["ts"]), real(event["dur"])
    if name is None or start is None or duration is None or len(numbers) < len(given):
        raise Refused("an operation of the timeline has no name, or a number that is none or does not fit 64 bits")
    return name, numbers, (start, duration)


def _from_step(times: Reals, steps: Ints) -> Reals:
    """Times counted from the first operation of their step, seconds."""
    numbers, inverse = np.unique(steps, return_inverse=True)
    first = np.full(numbers.size, np.inf)
    np.minimum.at(first, inverse, times)
    counted: Reals = times - first[inverse]
    return counted
