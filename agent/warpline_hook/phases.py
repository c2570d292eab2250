"""The `with` statement of the public face; what happens within is none of its business."""

from __future__ import annotations

import time
from contextlib import nullcontext
from types import TracebackType
from typing import Final

from .recorder import Recorder

NOTHING: Final = nullcontext()


class Phase:
    """From entry to exit, however it is left."""

    def __init__(self, recorder: Recorder, name: str, kind: str) -> None:
        self._recorder = recorder
        self._name = name
        self._kind = kind
        self._began = 0

    def __enter__(self) -> None:
        self._began = time.monotonic_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._recorder.phase(self._name, self._kind, self._began, time.monotonic_ns())
