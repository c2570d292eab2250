"""Whose a process is, told from outside by /proc: owner, program, Slurm job, Kubernetes pod, and what its launcher has set.

Of its environment only the variables named here are looked at, and nothing else of it is kept. What the kernel says (owner,
control group) goes before what the process was given to say of itself; where these name two Slurm jobs it is the kernel's.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from warpline_hook.identity import SLURM, VARIABLES, job_name, launcher_place
from warpline_hook.process import start_ticks

from .parsers.cgroup import NOTHING, Grouped, grouped
from .parsers.values import small, text

ENVIRONMENT_BYTES_MAX: Final = 256 * 1024
"""What is beyond is not looked at; a launcher sets a few kilobytes."""
FILE_BYTES_MAX: Final = 16 * 1024
FILES_MAX: Final = 4096
"""Open files of a process that are looked at."""
PODS_MAX: Final = 4096
PODS: Final = "/var/log/pods"
"""Where the kubelet keeps a folder NAMESPACE_POD_UID for each pod of the node."""
INITIAL_NAMESPACE: Final = "pid:[4026531836]"
"""The machine's own pid namespace, in which the driver counts; its number is fixed in the kernel."""
ACCOUNT: Final = "SLURM_JOB_ACCOUNT"
POD: Final = "POD_NAME"
NAMESPACE: Final = "POD_NAMESPACE"
HOST: Final = "HOSTNAME"
IN_KUBERNETES: Final = "KUBERNETES_SERVICE_HOST"
_WANTED: Final = frozenset(name.encode() for name in (*VARIABLES, ACCOUNT, POD, NAMESPACE, HOST, IN_KUBERNETES))
_NO_PROCESS: Final = "no such process in /proc: it has ended, or is of a pid namespace that is not seen from here"
_NOT_SURE: Final = "the agent lives in a pid namespace of its own, and this process is not seen to hold a GPU"
UNREADABLE: Final = "its environment may not be read"


@dataclass(frozen=True)
class ProcessIdentity:
    """What is known of a process; None is not known. `start_ticks` is None where it is not in /proc, or not surely this one.

    `claims_other` says that its environment names another Slurm job than the kernel does.
    """

    evidence: str
    start_ticks: int | None = None
    process: str | None = None
    user: str | None = None
    job: str | None = None
    rank: int | None = None
    account: str | None = None
    pod: str | None = None
    container: str | None = None
    scheduler: str | None = None
    readable: bool = True
    claims_other: bool = False


class Identities:
    """Looks processes up below `proc`; `node` is what this machine is called, `pods` the folder of the kubelet."""

    def __init__(self, proc: str = "/proc", node: str | None = None, pods: str = PODS) -> None:
        self._proc = proc
        self._node = node or os.uname().nodename
        self._pods = pods
        self._named: dict[str, tuple[str, str]] = {}
        self._machines_pids = _link(f"{proc}/self/ns/pid") == INITIAL_NAMESPACE

    def ticks(self, pid: int) -> int | None:
        """When a process was started, in ticks since boot; None where there is none of that number."""
        try:
            return start_ticks(pid, self._proc)
        except (OSError, ValueError, IndexError):
            return None

    def identity(self, pid: int) -> ProcessIdentity:
        """All there is to know; nothing where it ends meanwhile."""
        ticks = self.ticks(pid)
        if ticks is None:
            return ProcessIdentity(_NO_PROCESS)
        if not self._machines_pids and not self._holds_gpu(pid):
            return ProcessIdentity(_NOT_SURE)
        status = _fields(_read(f"{self._proc}/{pid}/status") or b"")
        groups = grouped((_read(f"{self._proc}/{pid}/cgroup") or b"").decode("utf-8", "replace"))
        environment = _environment(f"{self._proc}/{pid}/environ")
        if self.ticks(pid) != ticks:
            return ProcessIdentity(_NO_PROCESS)
        return self._told(ticks, status, groups, environment)

    def _told(
        self, ticks: int, status: Mapping[str, str], groups: Grouped, environment: Mapping[str, str] | None
    ) -> ProcessIdentity:
        given = environment or {}
        claimed = given.get(SLURM[0])
        claims_other = bool(groups.slurm and claimed and claimed != groups.slurm)
        if claims_other:
            given = {name: value for name, value in given.items() if not name.startswith("SLURM_")}
        place = launcher_place(given)
        name, variables = ("", "") if claims_other else job_name(given, place)
        namespace, pod = self._pod(groups, given)
        return ProcessIdentity(
            evidence=_evidence(name, variables, groups, environment is not None, claims_other),
            start_ticks=ticks,
            process=text(status.get("Name")),
            user=_owner(status.get("Uid", ""), groups),
            job=text(name) or groups.job,
            rank=small(place.get("rank")),
            account=text(given.get(ACCOUNT)) or namespace,
            pod=pod,
            container=groups.container,
            scheduler=_scheduler(groups, given, bool(name or place)),
            readable=environment is not None,
            claims_other=claims_other,
        )

    def _pod(self, groups: Grouped, given: Mapping[str, str]) -> tuple[str | None, str | None]:
        """Namespace and name (else UID) of its pod; what the kubelet says goes before what the pod was given to say."""
        if groups.pod is None and IN_KUBERNETES not in given:
            return None, None
        if groups.pod is not None and groups.pod not in self._named:
            self._named = _pods(self._pods)
        if groups.pod in self._named:
            return self._named[groups.pod]
        host = given.get(HOST)
        name = given.get(POD) or (host if host != self._node else None) or groups.pod
        return text(given.get(NAMESPACE)), text(name)

    def _holds_gpu(self, pid: int) -> bool:
        """Whether it has a GPU open; where its files may not be seen it is not known to."""
        try:
            files = os.listdir(f"{self._proc}/{pid}/fd")[:FILES_MAX]
        except OSError:
            return False
        return any(_link(f"{self._proc}/{pid}/fd/{each}").startswith("/dev/nvidia") for each in files)


def user_name(number: int) -> str:
    """Name of a user of this machine; the number where it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _owner(told: str, groups: Grouped, named: Callable[[int], str] = user_name) -> str | None:
    """Who owns it. In a container a number is not this machine's user of that number, so it stays one; Slurm's users are."""
    number = small(next(iter(told.split()), ""))
    if number is None or number < 0:
        return None
    if groups.container is not None and groups.job is None:
        return f"uid {number}"
    return named(number)


def _evidence(name: str, variables: str, groups: Grouped, readable: bool, claims_other: bool) -> str:
    """Where job and owner were read."""
    parts = ["cgroup"] if groups != NOTHING else ["owner alone"] if not name else []
    if name:
        parts.insert(0, f"{variables} of its environment")
    if not readable:
        parts.append(UNREADABLE)
    if claims_other:
        parts.append("its environment names another Slurm job, which is not believed")
    return "; ".join(parts)


def _scheduler(groups: Grouped, given: Mapping[str, str], launched: bool) -> str:
    if groups.job or given.get(SLURM[0]):
        return "slurm"
    if groups.pod or IN_KUBERNETES in given:
        return "kubernetes"
    return "launcher" if launched else "none"


def _environment(path: str) -> dict[str, str] | None:
    """The named variables; None where it may not be read. Of a name that is given twice the first counts, as for getenv."""
    content = _read(path, ENVIRONMENT_BYTES_MAX)
    if content is None:
        return None
    found: dict[str, str] = {}
    for entry in content.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name in _WANTED and (told := text(value.decode("utf-8", "replace"))):
            found.setdefault(name.decode(), told)
    return found


def _pods(folder: str) -> dict[str, tuple[str, str]]:
    """UID -> namespace and name; neither may hold an underscore."""
    try:
        names = os.listdir(folder)[:PODS_MAX]
    except OSError:
        return {}
    parts = (name.split("_") for name in names)
    return {each[2]: (each[0], each[1]) for each in parts if len(each) == 3 and all(each)}


def _fields(status: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in status.decode("utf-8", "replace").splitlines())
    return {name: value.strip() for name, _, value in lines}


def _read(path: str, bytes_max: int = FILE_BYTES_MAX) -> bytes | None:
    try:
        with open(path, "rb") as stream:
            return stream.read(bytes_max)
    except OSError:
        return None


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
