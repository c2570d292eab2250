"""What the first screen wants to know, asked while the screen itself is still being loaded: one takes as long as the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from .answers import Answers
from .view import Ask, Moment, Query, View
from .views.fleet import FleetView
from .views.headline import HeadlineView

FIRST: Final[dict[str, Callable[[], View[Any]]]] = {"fleet": FleetView}
"""Screen -> the view that it wants before anything was chosen on it, where asking takes long."""


class Ahead:
    """Asks `query` for the headline and for what the screen `first` wants at a moment. `clock` gives ns since the epoch."""

    def __init__(self, query: Query, first: str, moment: Moment, clock: Callable[[], int] = time.time_ns) -> None:
        self.answers = Answers(query, clock)
        views = [HeadlineView(), *([FIRST[first]()] if first in FIRST else [])]
        threads = ThreadPoolExecutor(len(views), "ahead")
        self._asked: dict[tuple[View[Any], Moment], Future[Any]] = {
            (view, moment): threads.submit(view.take, Ask(self.answers, clock(), moment)) for view in views
        }
        threads.shutdown(wait=False)

    def taken(self, view: View[Any], moment: Moment) -> Future[Any] | None:
        """The answer that is under way, handed out once: whoever asks again wants a newer one."""
        return self._asked.pop((view, moment), None)
