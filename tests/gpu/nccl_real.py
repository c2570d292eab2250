"""The NCCL profiler plugin in the NCCL that torch brings: is it loaded, do all operations come, do they fit the kernels?

    python tests/gpu/nccl_real.py [--dry] [--out FOLDER]

One process with a communicator of one rank, and two where there are two GPUs. Operations are known in number and order; those
that the ring holds are compared with them, and joined to kernels of NCCL by their order: the k-th group of operations of a
communicator to the k-th kernel, which may not have started before it was enqueued. A communicator of one rank copies in place of
most kernels, so that the join says little there. At most two minutes.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from gpu_job import COPIES, Job, jobs, machine, until
from gpu_setup import FAKES, Figures, Setup, compiler, main, rows

from warpline_agent.ring_file import open_ring
from warpline_hook import ring

ROUNDS: Final = 50
WAIT_SECONDS: Final = 3.0
DRY_OPERATIONS: Final = 20
TOGETHER_NS: Final = 50_000
"""Operations enqueued within this of each other may be of one group, which has one kernel."""


def join(enqueued_ns: Sequence[int], kernels_ns: Sequence[int], tolerance_ns: int = 0) -> dict[str, Any]:
    """Operations and kernels of one communicator, both sorted by start, matched by order.

    `early` counts kernels that started before their operation was enqueued, which says that the match is wrong.
    """
    matched = min(len(enqueued_ns), len(kernels_ns))
    pairs = zip(enqueued_ns, kernels_ns, strict=False)
    early = sum(kernel + tolerance_ns < operation for operation, kernel in pairs)
    return {"operations": len(enqueued_ns), "kernels": len(kernels_ns), "matched": matched, "early": early}


def groups(enqueued_ns: Sequence[int]) -> list[int]:
    """The first of each group of operations that were enqueued together."""
    return [at for number, at in enumerate(enqueued_ns) if not number or at - enqueued_ns[number - 1] > TOGETHER_NS]


def compared(job: Job, names: Sequence[str]) -> dict[str, Any]:
    """What the ring of one process holds beside what was run."""
    until(lambda: job.standing().counters["nccl_operations"] >= len(names), WAIT_SECONDS)
    found = job.read("nccl")
    found = found[np.isin(found["kind"], (ring.COLLECTIVE, ring.POINT_TO_POINT))]
    told = Counter(job.text(int(each)) or "" for each in found["name"])
    job.capture(0)
    until(lambda: job.kept != [], WAIT_SECONDS)
    kept = np.concatenate(job.kept) if job.kept else found[:0]
    nccl = np.array([(job.text(int(each)) or "").startswith("nccl") for each in kept["name"]], dtype=bool)
    kernels = np.sort(kept["start_ns"][nccl]).tolist()
    by_communicator = {
        str(each): join(groups(np.sort(found["start_ns"][found["extra"] == each]).tolist()), kernels)
        for each in np.unique(found["extra"])
    }
    standing = job.standing()
    return {
        "nccl_version": standing.nccl_version,
        "channel": standing.channels["nccl"][0],
        "run": dict(Counter(names)),
        "told": dict(told),
        "kernels_of_nccl": dict(Counter((job.text(int(each)) or "").split("(")[0] for each in kept["name"][nccl])),
        "dropped": standing.dropped["nccl"],
        "join_by_communicator": by_communicator,
    }


def real(setup: Setup, ranks: int) -> dict[str, Any]:
    """So many processes, a GPU each; by rank."""
    wanted = {f"rank{rank}of{ranks}": {"NCCL_PROFILER_PLUGIN": str(setup.library)} for rank in range(ranks)}
    with jobs(setup, **wanted) as running:
        for rank, job in enumerate(running.values()):
            job.keep = True
            job.capture(COPIES)
            job.send("nccl", rank=rank, ranks=ranks, rounds=ROUNDS, meet=str(setup.folder / f"meet{ranks}"))
        answers = [job.answer() for job in running.values()]
        return {
            name: compared(job, answer["names"]) for (name, job), answer in zip(running.items(), answers, strict=True)
        }


def pretended(setup: Setup) -> dict[str, Any]:
    """The same of the program that stands for NCCL; it has no kernels."""
    program, folder = setup.folder / "nccl_host", setup.folder / "nccl"
    folder.mkdir()
    command = [*compiler(), "-O1", "-rdynamic", "-o", str(program), str(FAKES / "nccl_host.c"), "-lpthread", "-ldl"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    told = {"FAKE_NCCL_API": "6", "NCCL_PROFILER_PLUGIN": str(setup.library), "WARPLINE_DIRECTORY": str(folder)}
    with subprocess.Popen(
        [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=told
    ) as process:
        assert process.stdin and process.stdout
        for line in ("comm 7 0 1 1 world", f"coll 0 {DRY_OPERATIONS} 1000 0"):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            process.stdout.readline()
        found = _found(folder, ["AllReduce"] * DRY_OPERATIONS)
        process.stdin.close()
    return {"rank0of1": found}


def _found(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    (path,) = folder.glob("*.ring")
    opened = open_ring(path)
    assert opened is not None
    found = opened.read("nccl")
    opened.read_texts()
    told = Counter(opened.text(int(each)) or "" for each in found["name"])
    enqueued = np.sort(found["start_ns"]).tolist()
    channel, dropped = opened.standing().channels["nccl"][0], opened.standing().dropped["nccl"]
    opened.close()
    figures = {"nccl_version": 0, "channel": channel, "run": dict(Counter(names)), "told": dict(told)}
    return figures | {
        "kernels_of_nccl": {},
        "dropped": dropped,
        "join_by_communicator": {"0": join(groups(enqueued), [])},
    }


def measure(setup: Setup) -> Figures:
    """By number of ranks."""
    if setup.dry:
        return {"runs": {"1": pretended(setup)}}
    figures: Figures = {"machine": machine(setup), "runs": {}}
    for ranks in (1, 2):
        if figures["machine"]["gpus"] < ranks:
            setup.note(f"a communicator of {ranks} ranks is not measured: there is one GPU")
            continue
        found = setup.attempt(f"{ranks} ranks", lambda ranks=ranks: real(setup, ranks))  # type: ignore[misc]
        if found:
            figures["runs"][str(ranks)] = found
    setup.demand(figures["runs"])
    return figures


def table(figures: Mapping[str, Any]) -> str:
    """One line a process."""
    listed = [
        (
            *(name, told["channel"], told["nccl_version"], sum(told["run"].values()), sum(told["told"].values())),
            sum(told["kernels_of_nccl"].values()),
            "; ".join(
                f"{each['matched']} of {each['operations']} groups, {each['early']} early"
                for each in told["join_by_communicator"].values()
            ),
        )
        for run in figures["runs"].values()
        for name, told in run.items()
    ]
    return rows(("process", "plugin", "NCCL", "operations run", "told", "kernels of NCCL", "joined by order"), listed)


if __name__ == "__main__":
    main(__doc__, "nccl_real", measure, table)
