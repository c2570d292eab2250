"""What a user may set for the power guard: section `[agent.guard]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .down_clock import COOLDOWN_SECONDS, TRIGGER_SECONDS, WAKES_PER_MINUTE_MAX, Rule

STATE_DIRECTORY: Final = "/var/lib/warpline-guard"
"""The guard's own, for it runs as root: nobody else may write there."""


@dataclass(frozen=True)
class GuardConfig:
    """`nodes` names the nodes on which `--live` sets clocks, by the name of `[agent] node`; on all others it is a dry run.

    `memory` lowers memory clocks too. `locked_gpus` (UUID or index) are GPUs whose clocks somebody else locks: they are never
    touched. `wakes_per_minute_max` is how often a GPU may be woken before it is left alone for a while.
    """

    nodes: tuple[str, ...] = ()
    locked_gpus: tuple[str, ...] = ()
    memory: bool = False
    period_seconds: float = 1.0
    trigger_seconds: float = TRIGGER_SECONDS
    cooldown_seconds: float = COOLDOWN_SECONDS
    wakes_per_minute_max: float = WAKES_PER_MINUTE_MAX
    call_seconds: float = 5.0
    silent_seconds: float = 20.0
    state_directory: str = STATE_DIRECTORY

    def __post_init__(self) -> None:
        if not self.state_directory.startswith("/"):
            raise ValueError("state_directory must be an absolute path")
        if min(self.period_seconds, self.trigger_seconds, self.call_seconds, self.wakes_per_minute_max) <= 0:
            raise ValueError("period, trigger, call and wake-ups must be above 0")
        if self.period_seconds > 2:
            raise ValueError("period_seconds is 2 at most: a GPU at work must not wait longer for its clocks")
        if self.cooldown_seconds < 0 or self.silent_seconds <= 2 * self.call_seconds:
            raise ValueError("cooldown_seconds must not be below 0, silent_seconds above twice call_seconds")

    def rule(self) -> Rule:
        """Settings of the algorithm."""
        return Rule(
            trigger_seconds=self.trigger_seconds,
            cooldown_seconds=self.cooldown_seconds,
            wakes_per_minute_max=self.wakes_per_minute_max,
        )
