"""Where one can be in the program, and the message of whoever wants to go there."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message


@dataclass(frozen=True)
class Place:
    """A screen by its name in `screens.SCREENS`, and what of it is looked at; what is None is left to the screen.

    `gpu` is a UUID, `incident` a finding's id, `start_ns` and `end_ns` a span in ns since the epoch, `sql` one SELECT.
    """

    screen: str
    node: str | None = None
    gpu: str | None = None
    job: str | None = None
    rank: int | None = None
    incident: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    sql: str | None = None


class Go(Message):
    """The user wants to be at `place`. The app opens it on top; `escape` comes back to where this was posted."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place


class Stop(Message):
    """Nobody waits for the answer to the user's own statement any more: it should be ended where it runs."""
