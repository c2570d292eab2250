"""The control groups of a process -> the Slurm job and step, Kubernetes pod and container it runs in.

Names of groups are given by whoever may make them: below `user.slice` that is the user, so nothing is believed from there but
the identifier of a container of their own. Shapes: cgroup v1 and v2, systemd's and cgroupfs' names, and paths that are relative
to the reader's own namespace of groups (`/../..`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

LINES_MAX: Final = 64
"""Hierarchies of a process; cgroup v1 has a dozen."""
PATH_CHARS_MAX: Final = 4096
INTERACTIVE_STEP: Final = "4294967290"
"""What Slurm numbers the step of an interactive allocation, which its group calls by name."""
_JOB: Final = re.compile(
    r"/(?:slurm(?:_[^/]{1,64})?/uid_(?P<uid>\d{1,10})|(?:system\.slice/)?(?:[^/]{1,64}_)?slurmstepd\.scope)"
    r"/job_(?P<job>\d{1,10})(?=/|$)(?:/step_(?P<step>\d{1,10}|batch|extern|interactive)(?=/|$))?"
)
_POD: Final = re.compile(
    r"/(?:[a-z-]*kubepods[a-z-]*-pod|kubepods(?:/burstable|/besteffort|/guaranteed)?/pod)"
    r"(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?=\.slice|[/:]|$)"
)
_CONTAINER: Final = re.compile(
    r"(?:/|:)(?:(?:cri-containerd|crio|docker|libpod|containerd|nerdctl)[-:])?(?P<id>[0-9a-f]{64})(?:\.scope)?(?=/|$)"
)
_OF_USERS: Final = re.compile(r"/user\.slice/|/user@\d+\.service/")


@dataclass(frozen=True)
class Grouped:
    """What the groups say; None where they say nothing. `job` is `JOB` or `JOB.STEP`, as launchers name it."""

    job: str | None = None
    uid: int | None = None
    pod: str | None = None
    container: str | None = None

    @property
    def slurm(self) -> str | None:
        """The Slurm job alone."""
        return self.job.partition(".")[0] if self.job else None


NOTHING: Final = Grouped()


def grouped(text: str) -> Grouped:
    """/proc/PID/cgroup -> what it says; the first hierarchy that says a thing counts."""
    job = uid = pod = container = None
    for line in text.splitlines()[:LINES_MAX]:
        path = line.split(":", 2)[-1][:PATH_CHARS_MAX]
        container = container or _container(path)
        if _OF_USERS.search(path):
            continue
        found = _JOB.search(path)
        if found and (job is None or "." not in job):
            job, uid = _job(found), int(found["uid"]) if found["uid"] else uid
        pod = pod or _pod(path)
    return Grouped(job, uid, pod, container)


def _job(found: re.Match[str]) -> str:
    """A step is named as its environment names it: a batch script's and what joined from outside have no number."""
    step = {"interactive": INTERACTIVE_STEP, "batch": None, "extern": None}.get(found["step"] or "", found["step"])
    return f"{found['job']}.{step}" if step else found["job"]


def _pod(path: str) -> str | None:
    found = _POD.search(path)
    return found["uid"].replace("_", "-") if found else None


def _container(path: str) -> str | None:
    """The innermost container."""
    found = [each["id"] for each in _CONTAINER.finditer(path)]
    return found[-1] if found else None
