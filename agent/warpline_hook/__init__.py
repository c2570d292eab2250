"""What is loaded into the training process: the standard library and the native library; nothing else.

With WARPLINE_HOOK=1 in the environment (`warpline run` sets it) steps of torch optimizers are recorded by themselves. Other
frameworks call `step()` at the end of each step and put `with phase("name"):` around what they want to see. Without the
variable both do nothing. Neither ever raises.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # nothing more than is needed is loaded at the start of every process
    from contextlib import AbstractContextManager

__all__ = ["phase", "status", "step"]


def step(number: int | None = None) -> None:
    """A step has ended, the one with this number or the next; from then on no optimizer ends a step of this process."""
    from .start import recorder

    recording = recorder()
    if recording is not None:
        recording.told_step(number)


def phase(name: str, kind: str = "host") -> AbstractContextManager[None]:
    """Times what runs within as one phase of the step.

    `kind` is compute, communication, optimizer, host or data; anything else counts as host. Say compute only of what does
    not wait for other ranks.
    """
    from .phases import NOTHING, Phase
    from .start import recorder

    recording = recorder()
    return NOTHING if recording is None else Phase(recording, name, kind)


def status() -> str:
    """Whether this process is recorded and where to, or why not, in one sentence."""
    from .start import recorder

    recording = recorder()
    return "off: WARPLINE_HOOK is not set to 1" if recording is None else recording.status
