"""Kineto traces as fuzzing sees them: plain, gzipped, in tar and zip, damaged in the text, in its numbers and in its wrapping.

An input is a file as a job, or whoever can write to its folder, leaves it.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

from fuzz_engine import DATA, Broken, changed, word

from warpline_agent.kineto_reading import reading_of
from warpline_agent.parsers.kineto import Trace, read_trace
from warpline_agent.recordings.archive import Limits, file_input, is_archive, unpack
from warpline_agent.source import Input
from warpline_agent.sources.kineto import Kineto
from warpline_proto.errors import Refused

MEBIBYTE: Final = 1024**2
LIMITS: Final = Limits(file_bytes=64 * MEBIBYTE, ratio_free_bytes=8 * MEBIBYTE, members=64)
CORPUS_EVENTS: Final = 3_000
CORPUS_TRACE_BYTES_MAX: Final = 4 * MEBIBYTE
KINDS: Final = (
    "kernel", "gpu_memcpy", "gpu_memset", "cuda_runtime", "cuda_driver", "user_annotation", "gpu_user_annotation", "Operator",
    "cpu_op", "Kernel", "Runtime", "ac2g", "é", "",
)  # fmt: skip
GPU: Final = ("kernel", "gpu_memcpy", "gpu_memset", "Kernel", "Memcpy", "Memset")
NAMES: Final = (
    "void gemm<float>(int)", "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage)", "Memcpy HtoD", "ProfilerStep#3",
    "ProfilerStep#999999999999999999", "gloo:all_reduce", "enumerate(DataLoader)#x.__next__", "x" * 9000, "", "\ud800", "a\0b",
    "record_param_comms", "nccl:all_reduce", "Optimizer.step#SGD.step",
)  # fmt: skip
RAW: Final = (
    "1e400", "-0", "1E-400", "NaN", "Infinity", "-Infinity", "1" * 400, "9" * 5000, "0.1e5", "1e18", "-5.25", "true", "null",
    '"7"', "[1]", "{}", "18446744073709551616", "1693000000000000.123", '"\\ud800"', "1e999999999", "0." + "3" * 5000,
)  # fmt: skip


class KinetoTarget:
    """The Kineto reader, and the archives around it."""

    name = "kineto"
    seconds_max = 30.0
    growth_bytes_max = 700 * MEBIBYTE

    def __init__(self) -> None:
        memory = Path("/dev/shm")
        self._root = Path(tempfile.mkdtemp(prefix="warpline-fuzz-", dir=memory if memory.is_dir() else None))

    def __del__(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)

    def draw(self, random: Random) -> bytes:
        """A trace by grammar, at times damaged or wrapped."""
        text = _trace(random)
        data = text.encode(random.choice(("utf-8",) * 20 + ("utf-8-sig", "utf-16")), "surrogatepass")
        if random.random() < 0.25:
            data = changed(data, random)
        wrapped = random.random()
        if wrapped < 0.15:
            data = gzip.compress(data, 1)
        elif wrapped < 0.25:
            data = _tar(data, random)
        elif wrapped < 0.35:
            data = _zip(data, random)
        elif wrapped < 0.4:
            data = gzip.compress(bytes(random.choice((1, 20, 80)) * MEBIBYTE), 9)
        return changed(data, random, 3) if wrapped < 0.4 and random.random() < 0.6 else data

    def mutate(self, data: bytes, random: Random) -> bytes:
        """Bytes changed; of a text also its values replaced."""
        if random.random() < 0.5 or data[:1] not in (b"{", b"["):
            return changed(data, random)
        at = random.randrange(len(data))
        found = data.find(b":", at)
        end = min((place for place in (data.find(mark, found) for mark in b",}") if place > found), default=-1)
        if found < 0 or end < 0:
            return changed(data, random)
        return data[: found + 1] + random.choice(RAW).encode() + data[end:]

    def run(self, data: bytes) -> str:
        """Read it as a file that was named to be read."""
        folder = Path(tempfile.mkdtemp(dir=self._root))
        try:
            path = folder / ("trace.zip" if data[:2] == b"PK" else "worker0.pt.trace.json")
            path.write_bytes(data)
            return _file(path, "worker0.1694128201554.pt.trace.json", folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _file(path: Path, shown: str, folder: Path) -> str:
    try:
        candidate = file_input(path, shown if path.suffix != ".zip" else path.name, LIMITS)
        if not is_archive(candidate):
            return _read(candidate)
        (within := folder / "within").mkdir()
        members = unpack(candidate, within, LIMITS)
    except Refused:
        return "refused"
    outside = [each for each in folder.rglob("*") if within not in (each, *each.parents) and each != path]
    if outside or any(each.is_symlink() for each in within.rglob("*")):
        raise Broken(f"an archive wrote outside its folder: {outside}")
    told = set()
    for member in members:
        if member.file is not None:
            try:
                told.add(_read(file_input(member.file, member.name, LIMITS)))
            except Refused:
                told.add("refused")
    return "read an archive" if "read" in told else "refused in an archive"


def _read(candidate: Input) -> str:
    Kineto().recognises(candidate)
    try:
        with candidate.open() as stream:
            trace = read_trace(stream)
    except Refused:
        return "refused"
    _adds_up(trace)
    reading = reading_of(trace, candidate.name)
    for each in reading.rows:
        each.batch.validate(full=True)
        if each.dropped < 0:
            raise Broken("less than nothing was dropped")
    for part in reading.raw:
        for each in part():
            each.batch.validate(full=True)
    json.dumps(reading.facts)
    return "read" if len(trace.kernels) else "read, no kernels"


def _adds_up(trace: Trace) -> None:
    """Events of the GPU are kept, malformed or counted as beyond the bound."""
    seen = sum(count for name, count in trace.categories.items() if name in GPU)
    kept = len(trace.kernels) + trace.records_dropped
    if len(trace.categories) < 64 and not kept <= seen <= kept + trace.malformed:
        raise Broken(f"{seen} events gave {kept} records and {trace.malformed} malformed ones")


@cache
def _corpus() -> tuple[list[str], list[str]]:
    """Events of recorded traces as text, and their other members, where they are at hand."""
    events: list[str] = []
    members: list[str] = []
    for path in sorted((DATA / "A-kineto").rglob("*.json.gz")) if DATA.is_dir() else ():
        with gzip.open(path) as file:
            content = file.read(CORPUS_TRACE_BYTES_MAX + 1)
        if len(content) > CORPUS_TRACE_BYTES_MAX:
            continue
        trace = json.loads(content)
        listed = trace["traceEvents"] if isinstance(trace, dict) else trace
        step = max(len(listed) // CORPUS_EVENTS * 8, 1)
        events += [json.dumps(each) for each in listed[::step]]
        if isinstance(trace, dict):
            members += [
                f"{json.dumps(name)}: {json.dumps(value)}" for name, value in trace.items() if name != "traceEvents"
            ]
    return events, members


def _value(random: Random, sound: Any, hostile: float = 0.05) -> str:
    if random.random() < hostile:
        return random.choice((*RAW, str(word(random)), json.dumps("x" * random.choice((1, 5000)))))
    return json.dumps(sound)


def _event(random: Random, number: int, hostile: float) -> str:
    kind = random.choice(KINDS)
    start = 1_693_000_000_000_000 + number * 10 + random.random()
    arguments: dict[str, Any] = {
        "device": random.choice((0, 1, 7, -1)),
        "stream": random.choice((7, 20, -1)),
        "correlation": random.randrange(number + 2),
    }
    if random.random() < 0.2:
        arguments |= {
            "Collective name": random.choice(("allreduce", "_allgather_base", "", 5)),
            "In msg nelems": random.choice((1024, 2**62, -1, "x")),
            "Group size": random.choice((8, 0, 2**40)),
            "dtype": random.choice(("Float", "BFloat16", None)),
            "Process Group Name": random.choice(("default_pg", "1", 7)),
            "Process Group Ranks": random.choice(("[0, 1, 2, 3]", "[0, ...]", "[" * 50, "[9999999999]", [0, 1])),
        }
    told = {
        "ph": _value(random, random.choice(("X", "X", "X", "X", "X", "i", "M")), hostile),
        "cat": _value(random, kind, hostile),
        "name": _value(random, random.choice(NAMES), hostile),
        "pid": _value(random, random.choice((0, 4242, "python")), hostile),
        "tid": _value(random, random.choice((7, 4242, "stream 7")), hostile),
        "ts": _value(random, start, hostile),
        "dur": _value(random, random.choice((0, 5, 7.25, -1)), hostile),
        "args": _value(random, arguments, hostile),
    }
    if random.random() < hostile:
        told.pop(random.choice(list(told)))
    return "{" + ", ".join(f'"{name}": {value}' for name, value in told.items()) + "}"


def _members(random: Random) -> list[str]:
    groups = [{"pg_name": "0", "pg_desc": "default_pg", "backend_config": "cuda:nccl", "pg_size": 8, "ranks": [0, 1]}]
    known = {
        "schemaVersion": 1,
        "deviceProperties": [{"id": 0, "name": "NVIDIA H100", "totalGlobalMem": 1}],
        "distributedInfo": {
            "backend": random.choice(("nccl", "gloo", 3)),
            "rank": 0,
            "world_size": 8,
            "pg_config": groups,
        },
        "baseTimeNanoseconds": random.choice((0, 1_693_000_000_000_000_000, 2**61, 2**64, -1)),
        "host_name": random.choice(("n1", "", "\u202e", 5)),
        "traceName": "/tmp/x.json",
        "with_flops": 1,
    }
    chosen = random.sample(list(known), random.randrange(len(known) + 1))
    told = [f'"{name}": {_value(random, known[name])}' for name in chosen]
    _, recorded = _corpus()
    if recorded and random.random() < 0.3:
        told.append(random.choice(recorded))
    if random.random() < 0.1:
        told.append('"x": ' + random.choice(("[" * 5000, '{"a":' * 5000, '"' + "y" * 2**20 + '"', "[" * 90 + "]" * 90)))
    random.shuffle(told)
    return told


def _trace(random: Random) -> str:
    recorded, _ = _corpus()
    hostile = random.choice((0.0, 0.002, 0.05))
    events = [
        random.choice(recorded) if recorded and random.random() < 0.5 else _event(random, number, hostile)
        for number in range(random.choice((0, 1, 10, 60, 300)))
    ]
    array = "[" + random.choice((", ", ",", ",\n")).join(events) + random.choice(("]",) * 20 + (",]", "", "]]"))
    if random.random() < 0.1:
        return array
    members = _members(random)
    members.insert(random.randrange(len(members) + 1), f'"traceEvents": {array}')
    if random.random() < 0.05:
        members.append(f'"traceEvents": {array}')
    return "{" + ", ".join(members) + random.choice(("}",) * 20 + ("",))


def _tar(data: bytes, random: Random) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=random.choice(("w", "w:gz"))) as archive:
        for _ in range(random.choice((1, 2, 70))):
            name = random.choice(("worker0.json", "../x", "/etc/x", "a/b/c.json", "x" * 300, "worker0.json"))
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.type = random.choice(
                (tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)
            )
            entry.linkname = "/etc/passwd"
            archive.addfile(entry, io.BytesIO(data))
    return sink.getvalue()


def _zip(data: bytes, random: Random) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for number in range(random.choice((1, 2, 70))):
            archive.writestr(random.choice((f"w{number}.json", f"../{number}", f"/x{number}", f"a/{number}\\b")), data)
    return sink.getvalue()
