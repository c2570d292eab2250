"""Who this process is: job, rank and place in the parallel groups, from the environment and from what frameworks have loaded."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from .environment import JOB, RUN

GROUPS_MAX: Final = 64
"""Process groups of one rank that are told."""
NAME_CHARS_MAX: Final = 200
LAUNCHERS: Final = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),  # torchrun, accelerate, the operators of Kubernetes
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
)
"""Rank, ranks, rank on the node and ranks on the node, by launcher: the innermost first, of which only the first counts."""
PLACE: Final = ("rank", "world_size", "local_rank", "local_world_size")
NAMES_OF_JOBS: Final = ("PMIX_NAMESPACE", "PMI_JOBID", "TORCHELASTIC_RUN_ID", "KUBERNETES_JOB_NAME", "JOBSET_NAME")
"""Variables that name one launch, strongest first after Slurm's."""
SLURM: Final = ("SLURM_JOB_ID", "SLURM_STEP_ID")
ADDRESS: Final = ("MASTER_ADDR", "MASTER_PORT")
RESTARTS: Final = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
VARIABLES: Final = frozenset(
    (JOB, RUN, *SLURM, *ADDRESS, *NAMES_OF_JOBS, *RESTARTS, *(name for names in LAUNCHERS for name in names))
)
"""Everything that `job_name` and `launcher_place` look at."""
NO_RUN_ID: Final = "none"
"""What torchrun calls a run that nobody named."""
_UUID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""What torchrun --standalone calls a run: as good as no name."""
PLACES: Final = ("CUDA_INJECTION64_PATH", "NCCL_PROFILER_PLUGIN")
"""Variables that name one library each, which may be another's than warpline's."""
OURS: Final = "libwarpline_hook"
AXES: Final = {"tensor": "tp", "pipeline": "pp", "data": "dp", "expert": "ep", "context": "cp"}


def identity(environment: Mapping[str, str]) -> dict[str, Any]:
    """What is known by now, ready for JSON; names that are absent are not known."""
    place = (launcher_place(environment) | _told(_distributed)) or {"rank": 0, "world_size": 1}
    job, evidence = job_name(environment, place)
    told = {"job": job, "evidence": evidence, "pid": os.getpid(), "user": os.getuid(), **place}
    taken = {name: value[:NAME_CHARS_MAX] for name in PLACES if (value := environment.get(name)) and OURS not in value}
    if taken:
        told["taken"] = taken
    for part in (_device, _framework, _groups, _megatron):
        told |= _told(part)
    return told


def _told(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a framework tells; nothing where it is of another kind than is known here."""
    try:
        return part()
    except Exception:
        return {}


def job_name(environment: Mapping[str, str], place: Mapping[str, int]) -> tuple[str, str]:
    """Name of the launch that this process belongs to, and the variable it was taken from.

    A launch on one node bears the name of its outermost process too, since torchrun's own is often none or used again. One that
    was started again by its launcher is another one: its steps begin anew.
    """
    given = environment.get(JOB)
    name, evidence = (given, JOB) if given else _named_by_launcher(environment)
    if not given and _on_one_node(environment, place):
        name, evidence = _of_launch(name, evidence, environment.get(RUN, ""))
    restarts = [environment[each] for each in RESTARTS if environment.get(each, "0") not in ("", "0")]
    return "-r".join([name, *restarts])[:NAME_CHARS_MAX] if name else "", evidence


def _of_launch(name: str, evidence: str, run: str) -> tuple[str, str]:
    """Name of a launch on one node. Without that of its outermost process, as it is seen from outside, only one that somebody
    gave is one: an address and a port are used again."""
    if not name or _UUID.fullmatch(name):
        return run, RUN
    if run:
        return f"{name}/{run}", f"{evidence}, {RUN}"
    return ("", "") if evidence.startswith(ADDRESS[0]) else (name, evidence)


def _named_by_launcher(environment: Mapping[str, str]) -> tuple[str, str]:
    slurm = environment.get(SLURM[0])
    if slurm:
        step = environment.get(SLURM[1])
        return (f"{slurm}.{step}", ", ".join(SLURM)) if step else (slurm, SLURM[0])
    for variable in NAMES_OF_JOBS:
        value = environment.get(variable, "")
        if value and value != NO_RUN_ID:
            return value, variable
    host, port = environment.get(ADDRESS[0]), environment.get(ADDRESS[1], "")
    return (f"{host}:{port}", ", ".join(ADDRESS)) if host else ("", "")


def _on_one_node(environment: Mapping[str, str], place: Mapping[str, int]) -> bool:
    """Whether one outermost process has started all ranks: torchrun on one node, or no launcher at all."""
    if "TORCHELASTIC_RUN_ID" in environment:
        return place.get("world_size") == place.get("local_world_size")
    return not any(environment.get(names[0]) for names in LAUNCHERS)


def launcher_place(environment: Mapping[str, str]) -> dict[str, Any]:
    """Rank, ranks, and both on the node, by the innermost launcher; empty where none has set them."""
    for names in LAUNCHERS:
        if environment.get(names[0], "").isdecimal():
            values = [environment.get(name, "") for name in names]
            return {key: int(value) for key, value in zip(PLACE, values, strict=True) if value.isdecimal()}
    return {}


def _distributed() -> dict[str, Any]:
    """Rank and ranks as torch.distributed has them; nothing before it is initialised."""
    module = sys.modules.get("torch.distributed")
    if module is None or not module.is_available() or not module.is_initialized():
        return {}
    return {"rank": int(module.get_rank()), "world_size": int(module.get_world_size())}


def _groups() -> dict[str, Any]:
    """The process groups that this rank is in: name, description, its index and their size."""
    module = sys.modules.get("torch.distributed.distributed_c10d")
    world = getattr(module, "_world", None)
    members: Mapping[Any, Mapping[int, int]] = getattr(world, "pg_group_ranks", None) or {}
    rank = _distributed().get("rank", -1)
    found: list[dict[str, Any]] = []
    for group, ranks in list(members.items())[:GROUPS_MAX]:
        if rank in ranks:
            name = str(getattr(world, "pg_names", {}).get(group, ""))[:NAME_CHARS_MAX]
            description = str(getattr(group, "group_desc", ""))[:NAME_CHARS_MAX]
            found.append({"name": name, "description": description, "index": ranks[rank], "size": len(ranks)})
    return {"groups": found} if found else {}


def _megatron() -> dict[str, Any]:
    """Index and size along each axis, as Megatron-LM has them: axis -> [index, size]."""
    state = sys.modules.get("megatron.core.parallel_state")
    if state is None or not state.model_parallel_is_initialized():
        return {}
    names = {axis: (f"get_{word}_{'' if axis in ('dp', 'cp') else 'model_'}parallel_") for word, axis in AXES.items()}
    found: dict[str, list[int]] = {}
    for axis, start in names.items():
        index, size = getattr(state, f"{start}rank", None), getattr(state, f"{start}world_size", None)
        if index is not None and size is not None:
            found[axis] = [int(index()), int(size())]
    return {"axes": found}


def _device() -> dict[str, Any]:
    """The GPU of this process, where it has one open; never opens one."""
    module = sys.modules.get("torch.cuda")
    if module is None or not module.is_initialized():
        return {}
    device = int(module.current_device())
    uuid = getattr(module.get_device_properties(device), "uuid", None)
    return {"device": device} | ({"gpu_uuid": f"GPU-{uuid}"} if uuid is not None else {})


def _framework() -> dict[str, Any]:
    version = getattr(sys.modules.get("torch"), "__version__", None)
    return {} if version is None else {"framework": f"torch {version}"[:NAME_CHARS_MAX]}
