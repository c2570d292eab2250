"""`python -m warpline_hook.exports`: what `warpline run` would set, as lines of a Slurm task prolog (`export NAME=value`).

For clusters that record every job without a launcher. What the job has set stays; one that says WARPLINE_HOOK=0 is left alone.
"""

from __future__ import annotations

import os

from .environment import HOOK, directory, switched_on
from .flight_recorder import flight_recorder_variables
from .library import capture_variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def exports(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables to be set beside those of a task; none where it wants no recording.

    The launch is not named here: the outermost Python of each does so, and a batch script may hold several.
    """
    wanted = {HOOK: "1"} if HOOK not in environment else {}
    if not switched_on({**environment, **wanted}):
        return {}
    run = ".".join(environment[name] for name in ("SLURM_JOB_ID", "SLURM_STEP_ID") if environment.get(name))
    wanted |= capture_variables(environment)
    return wanted | flight_recorder_variables(environment, directory(environment), run or "task")


def lines(variables: Mapping[str, str]) -> list[str]:
    """As Slurm reads them: a value ends with its line, so one that has several is left out."""
    return [f"export {name}={value}" for name, value in variables.items() if "\n" not in value]


if __name__ == "__main__":
    for line in lines(exports(os.environ)):
        os.write(1, f"{line}\n".encode())
