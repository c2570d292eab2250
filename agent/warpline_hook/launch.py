"""The environment in which `warpline run` starts a command: what is in it is inherited by every process of the job."""

from __future__ import annotations

from collections.abc import Mapping

from .environment import HOOK, JOB, RUN, directory, name_run, switched_on
from .flight_recorder import flight_recorder_variables
from .library import capture_variables


def environment_for(environment: Mapping[str, str], now_ns: int, job: str | None = None) -> dict[str, str]:
    """The given environment with the hook and the native library switched on; what the user has set stays."""
    wanted = dict(environment)
    wanted.setdefault(HOOK, "1")
    if job is not None:
        wanted[JOB] = job
    name_run(wanted, now_ns)
    if switched_on(wanted):
        wanted |= capture_variables(wanted)
        wanted |= flight_recorder_variables(wanted, directory(wanted), wanted[RUN])
    return wanted
