"""Answers requests to look closer: finds the source that can, one request of a source at a time, and tells what came of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from warpline_proto.capture import DENIED, DONE, KERNELS, Capture
from warpline_proto.tables import CAPTURES

from .source import Capturing, Delivered, Rows, Source

PENDING_MAX: Final = 64
"""Requests that wait for their sources; more are denied at once."""
AHEAD_SECONDS_MAX: Final = 120.0
"""Kernels of a time that ends within so long are asked for when it has ended; of a later one at once, as far as it goes."""


@dataclass
class Asked:
    """One request, the sources that may still be asked for it, and why those asked before could not."""

    capture: Capture
    left: deque[str]
    reasons: list[str] = field(default_factory=list)


class Desk:
    """`put` a request, `next_for` a source that has nothing else to do, `settle` what it said; answers are rows of `captures`."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._kinds = {name: source.captures for name, source in sources.items() if isinstance(source, Capturing)}
        self._names = ", ".join(sources) or "none"
        self._waiting: list[Asked] = []

    def put(self, capture: Capture) -> Iterator[Rows]:
        """Take a request on; what can be denied at once is."""
        able = deque(name for name, kinds in self._kinds.items() if capture.what in kinds)
        if len(self._waiting) >= PENDING_MAX:
            yield answer(capture, DENIED, f"{PENDING_MAX} other requests wait on this node")
        elif not able:
            yield answer(capture, DENIED, f"no source of this node can take {capture.what} (it reads: {self._names})")
        else:
            self._waiting.append(Asked(capture, able))

    def next_for(self, name: str, now_ns: int) -> Asked | None:
        """The oldest request whose turn it is at this source; it is the source's until it is settled."""
        found = next((each for each in self._waiting if each.left[0] == name and _ripe(each.capture, now_ns)), None)
        if found is not None:
            self._waiting.remove(found)
        return found

    def settle(
        self, asked: Asked, refusal: str | None, rows: int, delivered: Delivered | None = None
    ) -> Iterator[Rows]:
        """What the source said: rows taken, or why it could not, then the next source is asked; or that it answers by itself."""
        name = asked.left.popleft()
        if delivered is not None and delivered.later and refusal is None:
            return
        if refusal is None:
            yield answer(asked.capture, DONE, f"{name}: {rows} rows", delivered)
            return
        asked.reasons.append(f"{name}: {refusal}")
        if asked.left:
            self._waiting.append(asked)
        else:
            yield answer(asked.capture, DENIED, "; ".join(asked.reasons))


def answer(capture: Capture, state: str, detail: str, delivered: Delivered | None = None) -> Rows:
    """A row of table `captures`, without place and time of writing. It was asked for when the look was to begin."""
    columns: dict[str, int] = {}
    if delivered is not None:
        detail = f"{detail}, {delivered.note}"
        columns = {
            "records": delivered.records, "delivered_start_ns": delivered.start_ns,
            "delivered_end_ns": delivered.end_ns, "missing_ns": delivered.missing_ns,
        }  # fmt: skip
    row = capture.row(state, detail, requested_ns=capture.start_ns, **columns)
    return Rows(CAPTURES.name, CAPTURES.from_rows([row]))


def _ripe(capture: Capture, now_ns: int) -> bool:
    left_ns = capture.start_ns + capture.duration_ns - now_ns
    return capture.what != KERNELS or left_ns <= 0 or left_ns > AHEAD_SECONDS_MAX * 1e9
