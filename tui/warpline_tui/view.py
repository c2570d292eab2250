"""The seam between screens and data: a view says what a screen wants to know, and asks for it off the screen's thread.

A screen (`screens/NAME.py`) names the view that it wants (`wanted`) and draws what that gave (`draw`). A view (`views/NAME.py`)
is a frozen dataclass whose fields are what the user has chosen; two that are equal ask for the same. What it gives is frozen too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import pyarrow as pa

from .answers import Answers
from .console.catalogue import Console
from .power import Prices

Query = Callable[[str], pa.Table]
"""SQL in, rows out; raises a WarplineError when it cannot. Called from several threads."""
Shown_co = TypeVar("Shown_co", covariant=True)


@dataclass(frozen=True)
class Moment:
    """What time is looked at: ns since the epoch, None for whatever is newest."""

    at_ns: int | None = None


LIVE = Moment()


class Ask:
    """What a view asks with: SQL, the moment that is looked at, what energy costs (None where no price is set), and where SQL of
    the user's own goes (None: where all goes).

    `now_ns` is the moment, or the viewer's clock while the newest is looked at; ages are told against it.
    """

    def __init__(
        self,
        answers: Answers,
        now_ns: int,
        moment: Moment = LIVE,
        prices: Prices | None = None,
        console: Console | None = None,
    ) -> None:
        self._answers = answers
        self.at_ns = moment.at_ns
        self.now_ns = now_ns if moment.at_ns is None else moment.at_ns
        self.prices = prices
        self.console = console

    def rows(self, sql: str, for_seconds: float = 0.0) -> pa.Table:
        """The answer to one SELECT, or one to the same words that is younger than `for_seconds`; raises a WarplineError."""
        return self._answers.rows(sql, for_seconds)

    def until(self, column: str = "time_ns") -> str:
        """SQL: the row was there at the moment that is looked at."""
        return "TRUE" if self.at_ns is None else f"({column} IS NULL OR {column} <= {self.at_ns})"


class View(Protocol[Shown_co]):
    """What a screen wants to know; frozen and compared by its fields."""

    def take(self, ask: Ask) -> Shown_co:
        """Ask and sum up; raises a WarplineError. Runs off the screen's thread."""
        ...
