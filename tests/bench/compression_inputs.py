"""What the compression benchmark compresses: recorded traces, recorded operations, and a larger rank made up from them.

Each input is a list of steps, each step a list of `Kernels`, one a rank. Activity outside any step is left out where a trace
has steps; a trace without them is one step.
"""

from __future__ import annotations

import gzip
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from warpline_agent.kernels import COMMUNICATION, COMPUTE, NO_STEP, Kernels, by_device, by_step, steps_at
from warpline_agent.parsers.kineto import read_trace
from warpline_agent.parsers.nsys_export import Export, read_export
from warpline_agent.recordings.archive import Limits, file_input, is_archive, unpack
from warpline_agent.sources.kineto import Kineto

RECORDS_PER_STEP: Final = 48_400
"""Times 208 bytes: the 10 MB step."""
SOURCES: Final = (
    "trace_diff_control_rank3of8_a100.json.gz",
    "df_index_resolver_2rank_v100_rank1.json.gz",
    "ns_resolution_rank-0.pt.trace.json.gz",
    "nccl_data_2rank_a100_rank0.json.gz",
    "resnet50_num_workers_0.pt.trace.json.gz",
    "mi300_resnet_act_checkpoint_rank0of8.json.gz",
)
"""Traces of several steps: only these say how much one and the same launch varies from step to step."""
LAUNCHED_AHEAD_LOG_NS: Final = (13.0, 1.0)
"""Logarithm of how long a made-up kernel waits since its launch, mean and spread: half a millisecond, as on a recorded A100."""
LAUNCHES_MIN: Final = 4
"""Launches a step that a group must have to be taken over."""

Numbers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Load:
    """One input; `kind` is trace, operations or synthetic. `steps` can be gone through once."""

    name: str
    kind: str
    steps: Iterable[list[Kernels]]


@dataclass(frozen=True)
class Launches:
    """One (kernel, stream) of a trace: median duration of each launch of a step, and the durations seen over those medians."""

    name: str
    category: int
    stream: int
    template_ns: Reals
    ratios: Reals


def recorded(data: Path) -> Iterator[Load]:
    """Every trace of A-kineto and Nsight export of F-nsys that holds GPU activity."""
    for folder in ("A-kineto", "F-nsys"):
        for path in sorted(each for each in (data / folder).rglob("*") if each.is_file()):
            steps = _by_step(path)
            if steps:
                yield Load(path.name, "trace", steps)


def operations(data: Path) -> Iterator[Load]:
    """The operations of the straggler traces, as if each were a kernel of its rank."""
    for path in sorted((data / "G-stragglers/bytedance").glob("trace-*.parquet")):
        table = pq.read_table(path)
        columns = {name: table.column(name).to_numpy() for name in ("rank", "step", "start_ts", "duration")}
        names, name_id = np.unique(np.asarray(table.column("optype").to_pylist()), return_inverse=True)
        whole = Kernels(
            start_ns=(columns["start_ts"].astype(np.float64) * 1e9).astype(np.int64),
            duration_ns=(columns["duration"].astype(np.float64) * 1e9).astype(np.int64),
            name_id=name_id.astype(np.int32),
            category=np.where(np.char.endswith(names, "compute"), COMPUTE, COMMUNICATION).astype(np.uint8)[name_id],
            device=columns["rank"].astype(np.int32),
            stream=np.zeros(len(name_id), dtype=np.int64),
            step=columns["step"].astype(np.int64),
            names=tuple(names.tolist()),
        )
        parts = by_step(whole)
        yield Load(path.name, "operations", [[rank for _, rank in by_device(parts[step])] for step in sorted(parts)])


def synthetic(data: Path, steps: int, seed: int = 1) -> Load:
    """The 10 MB step: every second real group, by launches, and these repeated until there are RECORDS_PER_STEP of them.

    Launch i of a group lasts its recorded median, times a ratio drawn from those that the same group showed between steps.
    """
    random = np.random.default_rng(seed)
    groups = [group for name in SOURCES for group in launches(next((data / "A-kineto").rglob(name)))]
    groups = sorted(groups, key=lambda group: len(group.template_ns))[::2]
    share = RECORDS_PER_STEP / sum(len(group.template_ns) for group in groups)
    groups = [
        replace(each, template_ns=np.resize(each.template_ns, round(len(each.template_ns) * share))) for each in groups
    ]
    return Load("synthetic_10_MB_step", "synthetic", [[_made_up(groups, step, random)] for step in range(steps)])


def _made_up(groups: list[Launches], step: int, random: np.random.Generator) -> Kernels:
    durations = [group.template_ns * random.choice(group.ratios, len(group.template_ns)) for group in groups]
    sizes = [len(each) for each in durations]
    owner = np.repeat(np.arange(len(groups)), sizes)
    order = random.permutation(len(owner))
    duration_ns = np.maximum(np.concatenate(durations)[order], 1).astype(np.int64)
    stream = np.array([group.stream for group in groups])[owner[order]]
    start_ns = np.empty_like(duration_ns)
    for each in np.unique(stream):
        here = stream == each
        gaps = random.choice([1_000, 1_500, 2_500, 8_000], int(here.sum()))
        start_ns[here] = np.cumsum(duration_ns[here] + gaps) - duration_ns[here]
    start_ns += step * 2_000_000_000 + int(random.normal(0, 1e6))
    ahead = np.random.default_rng(step).lognormal(*LAUNCHED_AHEAD_LOG_NS, len(owner)).astype(np.int64)
    return Kernels(
        start_ns=start_ns,
        duration_ns=duration_ns,
        name_id=owner[order].astype(np.int32),
        category=np.array([group.category for group in groups], dtype=np.uint8)[owner[order]],
        device=np.zeros(len(owner), dtype=np.int32),
        stream=stream.astype(np.int64),
        step=np.full(len(owner), step, dtype=np.int64),
        names=tuple(group.name for group in groups),
        launched_ns=start_ns - ahead,
    )


def launches(path: Path) -> Iterator[Launches]:
    """Groups that every whole step of a trace launches equally often."""
    parts = [part for (part,) in _by_step(path)]
    usual = np.median([len(part) for part in parts])
    parts = [part for part in parts if abs(len(part) - usual) < 0.2 * usual]
    groups = [_groups(part) for part in parts]
    for key, first in groups[0].items():
        found = [each.get(key) for each in groups]
        same = [each for each in found if each is not None and len(each) == len(first)]
        if len(same) < max(2, len(groups) - 1) or len(first) < LAUNCHES_MIN or min(map(min, same)) <= 0:
            continue
        durations = np.array(same, dtype=np.float64)
        template = np.median(durations, axis=0)
        name, category, stream = key
        yield Launches(f"{path.name.split('.')[0]}/{name}", category, stream, template, (durations / template).ravel())


def _groups(part: Kernels) -> dict[tuple[str, int, int], Numbers]:
    """Durations of each (name, category, stream) in order of time."""
    order = np.argsort(part.start_ns, kind="stable")
    found: dict[tuple[str, int, int], list[int]] = {}
    columns = (part.name_id[order], part.category[order], part.stream[order], part.duration_ns[order])
    for name, category, stream, duration in zip(*(column.tolist() for column in columns), strict=True):
        found.setdefault((part.names[name], category, stream), []).append(duration)
    return {key: np.array(each, dtype=np.int64) for key, each in found.items()}


def _by_step(path: Path) -> list[list[Kernels]]:
    """Steps of one file, oldest first, each with its ranks (files of an archive, or GPUs)."""
    steps: dict[int, list[Kernels]] = {}
    for kernels in _kernels(path):
        inside = kernels.select(kernels.step != NO_STEP) if (kernels.step != NO_STEP).any() else kernels
        for step, part in by_step(inside).items():
            steps.setdefault(step, []).extend(rank for _, rank in by_device(part))
    return [steps[step] for step in sorted(steps)]


def _kernels(path: Path) -> Iterator[Kernels]:
    candidate = file_input(path, path.name, Limits())
    if is_archive(candidate):
        with tempfile.TemporaryDirectory() as folder:
            for member in unpack(candidate, Path(folder), Limits()):
                if member.file is not None:
                    yield from _kernels(member.file)
    elif Kineto().recognises(candidate):
        with candidate.open() as stream:
            found = read_trace(stream).kernels
        if len(found):
            yield found
    elif path.name.endswith(".sqlite.gz"):
        with tempfile.NamedTemporaryFile(suffix=".sqlite") as plain:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, plain)
            plain.flush()
            with closing(sqlite3.connect(plain.name)) as database:
                yield from _exported(read_export(database))


def _exported(export: Export) -> Iterator[Kernels]:
    """GPU by GPU, given to the steps of the process that used it most, as the source does it."""
    for device in np.unique(export.kernels.device):
        chosen = export.kernels.device == device
        kernels, launch_ns = export.kernels.select(chosen), export.launch_ns[chosen]
        processes, used = np.unique(export.process[chosen], return_counts=True)
        times = np.where(launch_ns >= 0, launch_ns, kernels.start_ns)
        yield kernels.with_steps(steps_at(times, export.steps.get(int(processes[used.argmax()]), [])))
