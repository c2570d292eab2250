"""What an agent works with where a test moves it by hand: workers that have finished at once, and a collector that is away."""

from __future__ import annotations

from collections.abc import Callable

from warpline_agent.exporter import Sent
from warpline_agent.slot import Round
from warpline_agent.source import Health


class Inline:
    """A worker that has finished before `submit` returns, unless it is told to hang."""

    def __init__(self, name: str) -> None:
        self.hangs = False
        self.idle = True
        self._result: list[Round] = []

    def submit(self, call: Callable[[], Round]) -> None:
        self.idle = False
        if not self.hangs:
            self._result.append(call())

    def take(self) -> Round | None:
        if self._result:
            self.idle = True
            return self._result.pop()
        return None


class Nowhere:
    """An exporter that keeps everything waiting."""

    alive = True

    def start(self) -> None:
        self.started = True

    def drain(self, seconds: float) -> bool:
        return False

    def close(self) -> None:
        self.alive = False

    def sent(self) -> Sent:
        return Sent(frames=3, bytes=700)

    def health(self) -> list[Health]:
        return [Health("collector", "stale", "away")]
