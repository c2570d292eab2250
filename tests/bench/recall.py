"""Whether diagnosis from compressed kernels sees what it sees in raw records: the same jobs judged by the same analysis.

    python tests/bench/recall.py [--quick] [--json] [--workers N] [--resume FOLDER]

Each kind and size of fault of the cluster model once, and healthy jobs, of 8 to 32 ranks, every third watched in windows. Of each
job every kernel is drawn by itself: launches of a recorded trace with the ratios that they showed between steps, as much slower
as the rank's phase is. `raw` gives the analysis each record as a row of its own, `clusters` what a collector would have stored:
clusters as an agent makes them, packed into frames of a node and step, and unpacked again. Judged is twice, at the end of the job
(healthy ones at three times): `kernels` has times of steps and collectives beside, as the diagnosis benchmark does; in `alone`
nothing but kernels is known, and there the coarser grades are judged too, that an agent falls back to. Seeds are below 1,000,000.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pyarrow as pa
import trials
from cluster.durations import DATA, TRACE, durations
from cluster.episode import LAYOUTS, Episode, added, episode, record, run
from cluster.faults import SIZES
from cluster.layout import Ints
from cluster.rows import Recording, Writer
from cluster.timing import Timeline
from cluster.work import BACKWARD, Reals
from compression_inputs import Launches, launches
from journal import ROOT, Journal, code_of, run_all
from scoring import Judge, Outcome, score, warpline
from tables import share

from warpline_agent.compressor import GRADES, compress
from warpline_agent.kernels import COMMUNICATION, COMPUTE, Kernels
from warpline_proto import wire
from warpline_proto.batch import Batch, Frame
from warpline_proto.clusters import NUMBERS
from warpline_proto.stream import Packer, Unpacker
from warpline_proto.tables import KERNEL_CLUSTERS, KERNEL_NAMES

FIRST_SEED: Final = 600_000
HEALTHY: Final = 24
QUICK_FAULTY: Final = 3
QUICK_HEALTHY: Final = 1
RANKS_MAX: Final = 32
SMALL: Final = tuple(layout for layout in LAYOUTS if layout.ranks <= RANKS_MAX)
WINDOWED_EVERY: Final = 3
GROUPS_MAX: Final = 12
"""Heaviest kernels of the trace, as many as the model's own clusters stand for."""
RAW: Final = "raw"
CODECS: Final = {"kernels": (RAW, GRADES[0]), "alone": (RAW, *GRADES)}
"""What is judged, by how the job is seen."""
COMPUTE_STREAM, COMMUNICATION_STREAM = 7, 20
JITTER_SAMPLES: Final = 500


@dataclass(frozen=True)
class Seen:
    """A recording with rows of kernels put to it, and of `alone` the times of collectives left out."""

    base: Recording
    kernels: Mapping[str, tuple[pa.Table, Ints]]
    alone: bool

    @property
    def observed(self) -> Ints:
        """Steps inside capture windows."""
        return self.base.observed

    def until(self, step: int) -> dict[str, pa.Table]:
        """What is known when `step` has ended."""
        tables = self.base.until(step)
        if self.alone:
            tables.pop("collectives", None)
        for name, (rows, ended) in self.kernels.items():
            tables[name] = rows.slice(0, int(np.searchsorted(ended, step, side="right")))
        return tables


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_FAULTY + QUICK_HEALTHY} jobs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="keep outcomes here, and use those that are")
    options = parser.parse_args()
    faulty, healthy = (QUICK_FAULTY, QUICK_HEALTHY) if options.quick else (sum(map(len, SIZES.values())), HEALTHY)
    figures = measure(sample(FIRST_SEED, faulty, healthy), options.workers, options.resume)
    print(json.dumps(figures, indent=2) if options.json else page(figures))
    return 0


def sample(first: int, faulty: int, healthy: int) -> list[Episode]:
    """Kinds and sizes in an order by chance; of a hundred seeds for each job the first that is watched as wanted counts."""
    cases = [(kind, size) for kind, sizes in SIZES.items() for size in sizes]
    order = np.random.default_rng(first).permutation(len(cases))
    drawn = [cases[order[at % len(cases)]] for at in range(faulty)] + [("healthy", 0.0)] * healthy
    return [_watched(first + 100 * at, kind, size, at) for at, (kind, size) in enumerate(drawn)]


def _watched(seed: int, kind: str, size: float, at: int) -> Episode:
    windowed = at % WINDOWED_EVERY == WINDOWED_EVERY - 1
    found = (episode(seed + more, kind, size, at, SMALL) for more in range(100))
    chosen = next(each for each in found if (each.sight.window is not None) == windowed)
    return replace(chosen, sight=replace(chosen.sight, mode="kernels", clusters=True))


def measure(episodes: Sequence[Episode], workers: int, folder: Path | None = None) -> dict[str, Any]:
    """Every episode, in worker processes."""
    begun = time.perf_counter()
    journal = Journal(folder)
    code = f"{code_of(*trials.SOURCES, ROOT / 'agent', Path(__file__))}-{durations().source}"
    jobs = [(each.name, each) for each in episodes]
    with ProcessPoolExecutor(workers) as executor:
        said = run_all("recall", code, judged, jobs, executor, journal)
    journal.close()
    return summed(said, time.perf_counter() - begun)


def summed(said: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """What `judged` said of all episodes, together."""
    found = [_restored(each) for each in said]
    figures: dict[str, Any] = {
        sight: {codec: _row([each[sight, codec] for each in found]) for codec in codecs}
        for sight, codecs in CODECS.items()
    }
    differing = {
        sight: {codec: _differing(found, sight, codec) for codec in codecs[1:]} for sight, codecs in CODECS.items()
    }
    return figures | {
        "differing": differing,
        "missed_in_raw": {sight: _missed([each[sight, RAW] for each in found]) for sight in CODECS},
        "records": sum(each["records"] for each in said),
        "episodes": len(said),
        "durations": durations().source,
        "seconds": round(seconds, 1),
    }


Judged = dict[tuple[str, str], Outcome]
"""(sight, codec) -> outcome."""


def judged(each: Episode) -> dict[str, Any]:
    """One job, both sights, each codec, as plain values: outcomes by sight and codec, and how many records there were."""
    real = durations()
    timeline = run(each, real)
    longer = added(each, timeline, real)
    rows, records = kernel_rows(each, timeline)
    found: dict[str, dict[str, Any]] = {}
    for sight, codecs in CODECS.items():
        told = replace(each.sight, mode=sight, clusters=False)
        base = record(replace(each, sight=told), timeline, real)
        for codec in codecs:
            seen: Any = Seen(base, rows[codec], sight == "alone")
            judge = warpline if each.kind == "healthy" else _at_the_end(seen, len(timeline.length))
            found.setdefault(sight, {})[codec] = asdict(score(each, timeline, seen, longer, (), 0.0, judge))
    return {"outcomes": found, "records": records}


def _restored(said: Mapping[str, Any]) -> Judged:
    return {
        (sight, codec): trials.outcome_of(outcome)
        for sight, codecs in said["outcomes"].items()
        for codec, outcome in codecs.items()
    }


def _at_the_end(seen: Any, step: int) -> Judge:
    findings = warpline(seen, step)
    return lambda recording, asked: findings


def kernel_rows(each: Episode, timeline: Timeline) -> tuple[dict[str, dict[str, tuple[pa.Table, Ints]]], int]:
    """Codec -> rows of `kernel_clusters` and `kernel_names`, each with the step when it became known; and how many records."""
    writer = Writer(each.layout, each.conditions, each.sight, timeline, np.random.default_rng((each.seed, 3)))
    writer.random = np.random.default_rng((each.seed, 8))
    parts: dict[str, list[pa.Table]] = {codec: [] for codec in (RAW, *GRADES)}
    step, rank = writer.grid()
    node = each.layout.node_of[rank]
    records, names = 0, pa.table({})
    for number in np.unique(node):
        kernels = drawn(writer, step[node == number], rank[node == number])
        names, records = _names(kernels), records + len(kernels)
        parts[RAW].append(raw_rows(writer, kernels))
        for grade in GRADES:
            rows = compressed(writer, kernels, grade)
            parts[grade].append(shipped(rows) if grade == GRADES[0] else rows)
    told = {"kernel_names": (names, np.zeros(names.num_rows, dtype=np.int64))}
    return {codec: {"kernel_clusters": _by_step(tables)} | told for codec, tables in parts.items()}, records


def _by_step(tables: list[pa.Table]) -> tuple[pa.Table, Ints]:
    rows = pa.concat_tables(tables)
    step = rows.column("step").to_numpy()
    order = np.argsort(step, kind="stable")
    return rows.take(pa.array(order)), step[order]


def drawn(writer: Writer, step: Ints, rank: Ints) -> Kernels:
    """Every kernel of some steps of some ranks; the rank stands in the column of the device."""
    line = writer.timeline
    nominal = writer.conditions.forward_seconds * writer.conditions.microbatches
    names, parts = [], []
    for group in programme():
        backward = "backward" in group.name.lower()
        ratio = (line.backward / (BACKWARD * nominal) if backward else line.forward / nominal)[step, rank]
        jitter = writer.random.choice(group.ratios, (len(step), len(group.template_ns)))
        names.append((group.name, COMPUTE, COMPUTE_STREAM))
        parts.append(ratio[:, None] * group.template_ns * jitter)
    for each in line.operations:
        names.append(
            (f"ncclDevKernel_{each.operation}({each.kind}, {len(names)})", COMMUNICATION, COMMUNICATION_STREAM)
        )
        parts.append(1e9 * (each.end - each.start)[step, rank][:, None])
    size = [part.size for part in parts]
    owner = np.concatenate([np.repeat(np.arange(len(step)), part.shape[1]) for part in parts])
    name_id = np.repeat(np.arange(len(names)), size)
    return Kernels(
        start_ns=writer.stamp(line.begin[step], rank)[owner],
        duration_ns=np.maximum(np.rint(np.concatenate([part.ravel() for part in parts])), 1).astype(np.int64),
        name_id=name_id.astype(np.int32),
        category=np.array([category for _, category, _ in names], dtype=np.uint8)[name_id],
        device=rank[owner].astype(np.int32),
        stream=np.array([stream for _, _, stream in names], dtype=np.int64)[name_id],
        step=step[owner],
        names=tuple(name for name, _, _ in names),
    )


@lru_cache(maxsize=1)
def programme() -> tuple[Launches, ...]:
    """The heaviest kernels of a step, launch by launch."""
    real = durations()
    if real.source == "recorded":
        found = [each for each in launches(DATA / TRACE) if each.category == COMPUTE]
        return tuple(sorted(found, key=lambda each: -float(each.template_ns.sum()))[:GROUPS_MAX])
    random = np.random.default_rng(0)
    return tuple(
        Launches(each.name, COMPUTE, COMPUTE_STREAM, _spread(each.median_ns, each.log_sigma, each.count, random),
                 random.lognormal(0.0, 0.02, JITTER_SAMPLES))
        for each in real.kernels
    )  # fmt: skip


def _spread(median_ns: float, log_sigma: float, count: int, random: np.random.Generator) -> Reals:
    found: Reals = median_ns * random.lognormal(0.0, log_sigma, count)
    return found


def _names(kernels: Kernels) -> pa.Table:
    columns = {"kernel_id": kernels.kernel_ids(), "name": list(kernels.names)}
    return pa.Table.from_batches([KERNEL_NAMES.from_columns(columns)])


def raw_rows(writer: Writer, kernels: Kernels) -> pa.Table:
    """Each record as a cluster of its own, exact in every number."""
    offsets = pa.array(np.arange(len(kernels) + 1), pa.int32())
    columns: dict[str, Any] = dict.fromkeys(NUMBERS, kernels.duration_ns) | {"count": 1}
    columns |= {
        "step": kernels.step,
        "stream": kernels.stream,
        "kernel_id": kernels.kernel_ids()[kernels.name_id],
        "category": pa.array(["compute", "communication"]).take(pa.array(kernels.category)),
        "cluster_index": 0,
        "run_counts": pa.ListArray.from_arrays(offsets, pa.array(np.ones(len(kernels)), pa.int32())),
        "run_means_ns": pa.ListArray.from_arrays(offsets, pa.array(kernels.duration_ns)),
    }
    return _placed(writer, columns, kernels.device.astype(np.int64), kernels.step)


def compressed(writer: Writer, kernels: Kernels, grade: str) -> pa.Table:
    """What an agent makes of all ranks of a node."""
    made = compress(kernels, grade=grade).rows
    columns = {
        name: made.column(name) for name in KERNEL_CLUSTERS.schema.names if made.column(name).null_count < made.num_rows
    }
    return _placed(writer, columns, made.column("device").to_numpy(), made.column("step").to_numpy())


def shipped(rows: pa.Table) -> pa.Table:
    """Rows of a node as a collector stores them: a frame for each step, all ranks in it."""
    packer, unpacker = Packer(), Unpacker()
    stored = []
    for number, part in enumerate(_steps_of(rows)):
        batch = Batch("kernel_clusters", "kernels", wire.one_batch(part))
        message = packer.pack(wire.to_message(Frame("node", "187a1b2c3d4e5f60a1b2c3d4", number + 1, number, (batch,))))
        frame = unpacker.unpack(type(message).FromString(message.SerializeToString()))
        stored += [each.rows for each in frame.batches]
    return pa.Table.from_batches(stored)


def _steps_of(rows: pa.Table) -> Iterator[pa.Table]:
    ordered, step = _by_step([rows])
    edges = np.flatnonzero(np.diff(step)) + 1
    for start, stop in zip([0, *edges.tolist()], [*edges.tolist(), len(step)], strict=True):
        yield ordered.slice(start, stop - start)


def _placed(writer: Writer, columns: Mapping[str, Any], rank: Ints, step: Ints) -> pa.Table:
    line = writer.timeline
    times = {
        "source": "kernels",
        "start_ns": writer.stamp(line.begin[step], rank),
        "end_ns": writer.stamp((line.begin + line.length)[step], rank),
        "device": rank % writer.layout.per_node,
    }
    return pa.Table.from_batches([KERNEL_CLUSTERS.from_columns({**columns, **writer.identity(rank), **times})])


def _row(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    faulty = [each for each in outcomes if not each.healthy]
    healthy = [each for each in outcomes if each.healthy]
    large = [each for each in faulty if not each.small]
    found = [each for each in faulty if each.detected]
    return {
        "faulty": len(faulty),
        "recall": share(len(found), len(faulty)),
        "recall_of_2_percent_and_more": share(sum(each.detected for each in large), len(large)),
        "top1": share(sum(each.top1 for each in found), len(found)),
        "class": share(sum(each.classed for each in found), len(found)),
        "innocent_accused": share(sum(bool(each.accused) for each in faulty), len(faulty)),
        "healthy": len(healthy),
        "healthy_accused": share(sum(bool(each.accused) for each in healthy), len(healthy)),
    }


def _missed(outcomes: Sequence[Outcome]) -> list[str]:
    return [each.name for each in outcomes if not each.healthy and not each.detected]


def _differing(found: Sequence[Judged], sight: str, codec: str) -> list[str]:
    """Episodes of which something else was said than with raw records, and what."""
    told = []
    for each in found:
        raw, other = each[sight, RAW], each[sight, codec]
        fields = ("detected", "top1", "classed", "accused")
        changed = [
            f"{name} {getattr(raw, name)} -> {getattr(other, name)}"
            for name in fields
            if getattr(raw, name) != getattr(other, name)
        ]
        if changed:
            told.append(f"{raw.name}: {'; '.join(changed)}")
    return told


def page(figures: Mapping[str, Any]) -> str:
    """Markdown: a table for each sight, then what differs."""
    columns = tuple(figures["alone"][RAW])
    lines = [
        f"{figures['episodes']} jobs, {figures['records']} records, {figures['seconds']} s, {figures['durations']}"
    ]
    for sight in CODECS:
        lines += ["", f"| {sight} | " + " | ".join(name.replace("_", " ") for name in columns) + " |"]
        lines.append("| --- " * (len(columns) + 1) + "|")
        for codec, row in figures[sight].items():
            cells = ("-" if row[name] is None else str(row[name]) for name in columns)
            lines.append(f"| {codec} | " + " | ".join(cells) + " |")
        told = {f"{codec} differs from raw": names for codec, names in figures["differing"][sight].items()}
        for heading, names in (told | {"missed in raw": figures["missed_in_raw"][sight]}).items():
            lines += ["", f"{heading}: {len(names)}", *(f"- {name}" for name in names)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
