"""Greyhound's run logs: the tests it runs on every rank, its estimates of iteration time, and what it says of the job.

Greyhound (ATC'25, github.com/wutianyuan1/Greyhound) writes one folder a run: `global_controller_*.log` with the results of a
matrix product on each rank and of transfers between pairs, `local_controller_*.log` with iteration times,
`megatron_output_*.log` with the size of the job, and `ncclprobe*.log` with the communicators that were set up. Only
measurements are read; its own verdicts and plans are passed over.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from warpline_proto.errors import Refused
from warpline_proto.tables import COMMUNICATORS, JOBS, METRICS, PROBES

from ..parsers import values
from ..source import Input, Origin, Reading, Rows

Row = dict[str, Any]

ROWS_MAX: Final = 1_000_000
"""Measurements kept of one log; more are counted as dropped."""
ITERATION_METRIC: Final = "iteration_seconds"
RUN_LINE_CHARS: Final = 4096
SIBLING: Final = "greyhound"

_MARKS: Final = (b"[Local controller] ID=", b"Esimated iteration time: {", b"[ncclCommInitRankConfig] nranks=")
_RESULT_MARK: Final = b"Computation result of rank "
_NUMBER: Final = r"([0-9.eE+-]{1,32})"
_RESULT: Final = re.compile(
    rf"(Computation result|Result) of rank (\d{{1,9}}) collected = \(Perf: min={_NUMBER}, max={_NUMBER}, avg={_NUMBER}, "
)
_TASK: Final = re.compile(r"task (\(\[[\d, ]{0,4096}\], \[[\d, ]{0,4096}\]\)) dispatched")
_ITERATION: Final = re.compile(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+)\] Esimated iteration time: (\{.{0,60000}\})")
_PROCESS: Final = re.compile(r"Rank: (\d{1,9}), global Status initialized")
_COMMUNICATOR: Final = re.compile(r"\[ncclCommInitRankConfig\] nranks=(\d{1,9}), rank=(\d{1,9})")
_RUN: Final = re.compile(
    r"\*{5} log=(?P<log>[^,\s]{1,1024}), master=[^,]{0,256}, nnodes=(?P<nodes>\d{1,6}), rank=\d+,\s+num_gpus=(?P<gpus>\d{1,6}), "
    r"gpu_type=(?P<name>.{1,256}?) gpu_memory="
)
_RUN_NAME: Final = re.compile(r"/(log_[\d_]{10,40})_rank\d+/")


class Greyhound:
    """One log of a run."""

    name = "greyhound"

    def recognises(self, candidate: Input) -> bool:
        """By the lines that carry measurements, or that begin such a log."""
        head = candidate.head
        if head.startswith(b"***** log=") and b"num_gpus=" in head[:RUN_LINE_CHARS]:
            return True
        return any(mark in head for mark in _MARKS) or (_RESULT_MARK in head and b"collected = (Perf: " in head)

    def read(self, candidate: Input) -> Reading:
        """Lines -> `probes` (results of tests), `metrics` (iteration times) or the job's row."""
        if candidate.head.startswith(b"***** log="):
            return _job(candidate)
        log = _Log()
        for line in candidate.lines():
            log.take(line)
        return log.reading()


class _Log:
    """Collects the measurements of a controller's log. Only lines with iteration times carry a time."""

    def __init__(self) -> None:
        self._probes: list[Row] = []
        self._metrics: list[Row] = []
        self._communicators: list[Row] = []
        self._rank: int | None = None
        self._rounds: Counter[tuple[str, int]] = Counter()
        self._peers: dict[int, int] = {}
        self._dropped = 0
        self._damaged = 0

    def take(self, line: str) -> None:
        """One line."""
        if found := _TASK.search(line):
            self._peers = _pairs(found[1])
        elif found := _RESULT.search(line):
            self._keep(self._probes, self._result(found))
        elif found := _ITERATION.search(line):
            for row in self._iteration(found[1], found[2]):
                self._keep(self._metrics, row)
        elif found := _PROCESS.search(line):
            self._rank = values.small(found[1])
        elif found := _COMMUNICATOR.search(line):
            size, place = (values.small(text) for text in found.groups())
            self._keep(self._communicators, {"rank": self._rank, "nranks": size, "communicator_rank": place})

    def _keep(self, rows: list[Row], row: Row | None) -> None:
        if row is None:
            self._damaged += 1
        elif len(rows) < ROWS_MAX:
            rows.append(row)
        else:
            self._dropped += 1

    def _result(self, found: re.Match[str]) -> Row | None:
        rank = int(found[2])
        shortest, longest, mean = (values.scaled(text, 1e6) for text in found.group(3, 4, 5))
        if mean is None or mean <= 0 or values.small(rank) is None:
            return None
        peer = None if found[1] == "Computation result" else self._peers.get(rank)
        probe, kind = ("gemm", "compute") if found[1] == "Computation result" else ("pair", "communication")
        key = (probe if peer is None else f"{probe} {peer}", rank)
        number = self._rounds[key]
        self._rounds[key] += 1
        times = {"duration_ns": mean, "min_ns": shortest, "max_ns": longest}
        return {"rank": rank, "round": number, "probe": probe, "kind": kind, "peer": peer} | times

    def _iteration(self, moment: str, told: str) -> Iterable[Row | None]:
        time_ns = values.epoch_ns(datetime.fromisoformat(moment))
        for name, microseconds in _literal(told, dict).items():
            rank = values.small(str(name).removeprefix("rank"))
            value = values.real(microseconds)
            if rank is None or rank < 0 or value is None or value <= 0:
                yield None
            else:
                place = {"rank": rank, "time_ns": time_ns, "metric": ITERATION_METRIC, "labels": "{}"}
                yield place | {"value": value / 1e6, "unit": "s"}

    def reading(self) -> Reading:
        """What was collected; Refused where there is nothing."""
        rows = [
            Rows("probes", PROBES.from_rows(self._probes)),
            Rows("metrics", METRICS.from_rows(self._metrics), self._dropped),
            Rows("communicators", COMMUNICATORS.from_rows(self._communicators)),
        ]
        kept = [each for each in rows if each.batch.num_rows or each.dropped]
        ranks = {row["rank"] for row in self._probes + self._metrics}
        if not kept:
            raise Refused("a log of Greyhound's without a single measurement")
        facts = {"ranks": len(ranks), "tests": len(self._probes), "iteration_times": len(self._metrics)}
        notes = ["verdicts and plans in the log are another detector's and were passed over"] if ranks else []
        if self._metrics:
            notes.append("times carry no zone and are read as UTC")
        if self._damaged:
            notes.append(f"{self._damaged} damaged measurements were left out")
        sizes = [row["nranks"] for row in self._communicators if row["nranks"]]
        return Reading(kept, facts, Origin(world_size=_world(ranks, sizes), sibling=SIBLING), notes)


def _world(ranks: set[int], sizes: Sequence[int]) -> int | None:
    """Every rank is tested, so that ranks without a gap are the whole job; and some communicator holds all of them."""
    if ranks:
        return len(ranks) if max(ranks) + 1 == len(ranks) else None
    return max(sizes, default=None)


def _pairs(told: str) -> dict[int, int]:
    """`([3, 1], [0, 2])` -> who communicates with whom; empty where the text is no such pair of lists."""
    lists = _literal(told, tuple)
    if len(lists) != 2 or not all(isinstance(each, list) for each in lists):
        return {}
    pairs = [(one, other) for one, other in zip(*lists, strict=False) if type(one) is int and type(other) is int]
    return dict(pairs) | {other: one for one, other in pairs}


def _literal(text: str, kind: type) -> Any:
    """A Python literal of this type, an empty one where the text is none."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return kind()
    return found if isinstance(found, kind) else kind()


def _job(candidate: Input) -> Reading:
    found = _RUN.search(candidate.head[:RUN_LINE_CHARS].decode("utf-8", "replace"))
    if found is None:
        raise Refused("the first line does not tell nodes and GPUs")
    world = int(found["nodes"]) * int(found["gpus"])
    run = _RUN_NAME.search(found["log"])
    jobs = JOBS.from_rows([{"framework": "megatron", "world_size": values.small(world), "run_id": run and run[1]}])
    facts = {"world_size": world, "gpu_names": {found["name"]: world}}
    return Reading([Rows("jobs", jobs)], facts, Origin(world_size=world, sibling=SIBLING))
