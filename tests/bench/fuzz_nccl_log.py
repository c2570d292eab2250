"""NCCL's logs as fuzzing sees them: lines of every kind that is known, torn, overlong, with values that cannot be.

An input is a file: its first byte tells how it is read, whole, or live in pieces.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from datetime import UTC
from functools import cache
from random import Random
from typing import Any, Final

from fuzz_engine import DATA, Broken, changed, word

from warpline_agent.parsers.nccl_log_parser import Live, NcclLogParser
from warpline_agent.source import HEAD_BYTES, LINE_CHARS_MAX, Input, Rows
from warpline_agent.sources.nccl_log import NcclLog
from warpline_proto.errors import Refused

LINES_MAX: Final = 400
CORPUS_LINES_MAX: Final = 20_000
INPUT_CHARS_MAX: Final = 256 * 1024
_TUNED: Final = (b" Bytes -> ", b"NCCL CALL", b"busbw", b"float", b"half", b"# ")
"""What gives operations beside COLL lines: without it their number is known."""


class NcclLogTarget:
    """The parser of NCCL's logs, as a recording and as a file that grows."""

    name = "nccl_log"
    seconds_max = 20.0
    growth_bytes_max = 512 * 1024 * 1024

    def draw(self, random: Random) -> bytes:
        """Lines by grammar and of recordings."""
        corpus = _corpus()
        lines: list[bytes] = []
        for _ in range(random.choice((1, 5, 40, LINES_MAX))):
            if corpus and random.random() < 0.4:
                at = random.randrange(len(corpus))
                lines += corpus[at : at + random.choice((1, 1, 8))]
            else:
                lines.append(random.choice(_LINES)(random).encode("utf-8", "surrogatepass"))
            if random.random() < 0.15:
                lines[-1] = _torn(lines, random)
        if random.random() < 0.3:
            at = random.randrange(len(lines))
            lines[at] = changed(lines[at], random, 3)
        return (
            bytes([random.randrange(256)]) + random.choice((b"\n", b"\n", b"\r\n", b"")).join(lines)[:INPUT_CHARS_MAX]
        )

    def mutate(self, data: bytes, random: Random) -> bytes:
        """Bytes changed, or lines of it taken apart and put together."""
        if random.random() < 0.5:
            return changed(data, random)[: INPUT_CHARS_MAX + 1]
        lines = data[1:].split(b"\n")
        for _ in range(random.randint(1, 8)):
            lines[random.randrange(len(lines))] = _torn(lines, random)
        return data[:1] + b"\n".join(lines)[:INPUT_CHARS_MAX]

    def run(self, data: bytes) -> str:
        """Read it whole, or in pieces with rows asked for between them."""
        how, content = data[0] if data else 0, data[1:]
        return _live(content, how) if how % 2 else _recorded(content)


def _recorded(content: bytes) -> str:
    candidate = Input("job.log", "job.log", content[:HEAD_BYTES], len(content), lambda: io.BytesIO(content))
    NcclLog().recognises(candidate)
    try:
        reading = NcclLog().read(candidate)
    except Refused:
        return "refused"
    _sound(reading.rows)
    operations = reading.facts.get("operation_lines", 0) + reading.facts.get("call_lines", 0)
    told = sum(row["count"] or 1 for row in _of(reading.rows, "collectives"))
    lost = sum(each.dropped for each in reading.rows if each.table == "collectives")
    if operations and not any(mark in content for mark in _TUNED) and told + lost > operations:
        raise Broken(f"{told} operations of {operations} lines")
    return "read" if any(each.batch.num_rows for each in reading.rows) else "read, no rows"


def _live(content: bytes, how: int) -> str:
    parser = NcclLogParser("job.log", UTC, Live("n1", lambda: 1_800_000_000 * 10**9))
    found = 0
    stream = io.BytesIO(content)
    number = 0
    while line := stream.readline(LINE_CHARS_MAX):
        parser.feed(line.decode("utf-8", "replace").rstrip("\r\n"))
        number += 1
        if number % (how + 1) == 0:
            found += _sound(parser.rows())
    found += _sound(parser.rows())
    parser.facts(), parser.notes(), parser.origin()
    if _sound(parser.rows()):
        raise Broken("rows are told twice")
    return "read" if found else "read, no rows"


def _sound(rows: list[Rows]) -> int:
    for each in rows:
        each.batch.validate(full=True)
        if each.dropped < 0:
            raise Broken("less than nothing was dropped")
    return sum(each.batch.num_rows for each in rows)


def _of(rows: list[Rows], table: str) -> list[dict[str, Any]]:
    return [row for each in rows if each.table == table for row in each.batch.to_pylist() if row["timing"] == "enqueue"]


@cache
def _corpus() -> list[bytes]:
    """Lines of recorded logs, where they are at hand."""
    lines: list[bytes] = []
    for path in sorted((DATA / "B-nccl-logs").rglob("*")) if DATA.is_dir() else ():
        if path.suffix in (".gz", ".log", ".txt", ".out"):
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            lines += [line[:LINE_CHARS_MAX] for line in content.splitlines()[: CORPUS_LINES_MAX // 8]]
    return lines[:CORPUS_LINES_MAX]


def _torn(lines: list[bytes], random: Random) -> bytes:
    one, other = random.choice(lines), random.choice(lines)
    return one[: random.randrange(len(one) + 1)] + other[random.randrange(len(other) + 1) :]


def _number(random: Random) -> str:
    kind = random.randrange(6)
    if kind < 3:
        return str(random.choice((0, 1, 2, 3, 7, 8, 64)))
    if kind == 3:
        return str(word(random))
    if kind == 4:
        return "9" * random.choice((10, 12, 20, 40, 5000))
    return random.choice(("-1", "", "1.5", "nan", "1e999", "٣", "²", "0x7f", "１"))


def _host(random: Random) -> str:
    return random.choice(("n1", "n2", "gpu-17", "a" * 253, "a.b-c", "-", "[", "n1n2", "é", "n1\u202e"))


def _pointer(random: Random) -> str:
    return random.choice(("0x55d0c0", "0x7f0", "(nil)", "0x" + "f" * 40, "0x0"))


def _head(random: Random) -> str:
    moment = random.choice(("2024-05-01 10:00:00", "9999-12-31 23:59:59", "1969-01-01T00:00:00", "2024-13-01 00:00:00"))
    when = random.choice(("", "", f"[{moment}] ", f"[{moment}.{_number(random)}] "))
    device = random.choice(("", f"[{_number(random)}] "))
    place = random.choice(("", "", "enqueue.cc:77 ", "net_ib.cc:999999 "))
    level = random.choice(("INFO", "INFO", "INFO", "WARN", "CALL", "TRACE", "ABORT"))
    return f"{when}{_host(random)}:{_number(random)}:{_number(random)} {device}{place}NCCL {level} "


def _operation(random: Random) -> str:
    return random.choice(("AllReduce", "Broadcast", "AllGather", "Send", "Recv", "Reduce", "AlltoAll", "x" * 40, "é"))


def _coll(random: Random) -> str:
    number = f"{random.getrandbits(random.choice((4, 16, 64))):x}"
    text = f"{_operation(random)}: opCount {number} sendbuff {_pointer(random)} recvbuff {_pointer(random)} "
    text += f"count {_number(random)} datatype {_number(random)} op {_number(random)} root {_number(random)} "
    return _head(random) + text + f"comm {_pointer(random)} [nranks={_number(random)}] stream {_pointer(random)}"


def _call(random: Random) -> str:
    told = ",".join([_pointer(random), _pointer(random), *(_number(random) for _ in range(4)), _pointer(random), "0x1"])
    return f"{_head(random)}nccl{_operation(random)}({told})"


def _init(random: Random) -> str:
    kind = random.choice(("Init START", "Init COMPLETE", "Destroy COMPLETE", "Abort COMPLETE", "Destroy START"))
    told = f"comm {_pointer(random)} rank {_number(random)} nranks {_number(random)} nRanks {_number(random)} "
    told += f"nNodes {_number(random)} localRanks {_number(random)} localRank {_number(random)} MNNVL 0 "
    told += f"cudaDev {_number(random)} nvmlDev {_number(random)} busId {_number(random)} commId 0x{random.getrandbits(64):x}"
    return f"{_head(random)}ncclCommInitRank {told} - {kind}"


def _tuned(random: Random) -> str:
    tail = f"channel{{Lo..Hi}}={{{_number(random)}..{_number(random)}}}"
    return random.choice(
        (
            f"{_head(random)}{_operation(random)}: {_number(random)} Bytes -> Algo RING proto LL128 {tail}",
            f"{_head(random)}{_number(random)} Bytes -> Algo {_number(random)} proto {_number(random)} time {_number(random)}",
        )
    )


def _warn(random: Random) -> str:
    return _head(random) + random.choice(
        (
            f"NET/IB : Got completion from peer {_host(random)}<{_number(random)}> with status={_number(random)} opcode=0 len=0 "
            f"vendor err {_number(random)} (Recv) localGid ::1 remoteGid ::ffff:10.0.0.1 hca mlx5_{_number(random)}",
            f"NET/IB : mlx5_0:{_number(random)} Got async event : port error",
            f"Cuda failure {_number(random)} 'an illegal memory access'",
            f"socketStartConnect: Connect to 10.0.0.{_number(random)}<4> failed : Connection refused",
            f"[Service thread] Connection closed by localRank {_number(random)}",
        )
    )


def _other(random: Random) -> str:
    return random.choice(
        (
            f" iteration {_number(random)}/ 9 | elapsed time per iteration (ms): {_number(random)}.{_number(random)} |",
            f"[2024-05-01 10:00:00] iteration 5/ 9 |{' x' * random.choice((1, 150))} elapsed time per iteration (s): 1.5",
            f"# nThread {_number(random)} nGpus {_number(random)} minBytes 8 maxBytes {_number(random)} step: 2(factor)",
            f"#  Rank {_number(random)} Group 0 Pid {_number(random)} on {_host(random)} device {_number(random)} [0x07] A",
            "  ".join(_number(random) for _ in range(random.choice((8, 13, 40)))) + "  float  sum  -1",
            f"{_number(random)} {_number(random)} float sum -1 {_number(random)} 1.0 2.0 0 {_number(random)} 1.0 2.0 N/A",
            f"# Out of bounds values : {_number(random)} FAILED",
            f"# Avg bus bandwidth : {_number(random)}",
            f"srun: error: {_host(random)}: task {_number(random)}: Exited with exit code {_number(random)}",
            f"NCCL version {_number(random)}.{_number(random)}.{_number(random)}+cuda12.4",
            f"busbw: {_number(random)} Gbps algbw: {_number(random)}",
            "\x1b[" + "0;" * 2000,
            "[" * random.choice((10, 4000)),
            "a:" * 2000,
            " " * 8000 + "NCCL INFO ",
            "NCCL INFO " * random.choice((2, 400)),
            "\x1b]" + "x" * 300,
            "(" * 2000 + ")" * 2000,
            "\udcff\x00\x85\u2028",
        )
    )


_LINES: Final[tuple[Callable[[Random], str], ...]] = (_coll, _coll, _call, _init, _init, _tuned, _warn, _other)
