"""The environment in which `warpline run` starts a command: what is in it is inherited by every process of the job."""

from __future__ import annotations

from collections.abc import Mapping

from .environment import HOOK, JOB, name_run


def environment_for(environment: Mapping[str, str], now_ns: int, job: str | None = None) -> dict[str, str]:
    """The given environment with the hook switched on; what the user has set stays."""
    wanted = dict(environment)
    wanted.setdefault(HOOK, "1")
    if job is not None:
        wanted[JOB] = job
    name_run(wanted, now_ns)
    return wanted
