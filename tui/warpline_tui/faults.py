"""Faults of warpline's own while a screen is open: each is one line on the screen and a traceback kept, and ends nothing else."""

from __future__ import annotations

import logging
import traceback
from typing import Final

FAULTS_MAX: Final = 16
"""So many different ones are kept; of further ones only the line is shown."""
WORDS_MAX: Final = 160
"""Of what an exception says, which may be as long as a name or a statement."""
_LOG: Final = logging.getLogger(__name__)


class Faults:
    """What went wrong, each once: a page is asked for and drawn every second. `kept` has the traceback of the first of each."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def line(self, what: str, failure: Exception) -> str:
        """What to show of it; it is logged and kept where it is new."""
        words = f"{what}: {' '.join(f'{type(failure).__name__}: {failure}'.split())[:WORDS_MAX]}"
        if words not in self.kept and len(self.kept) < FAULTS_MAX:
            _LOG.error("%s", words, exc_info=failure)
            self.kept[words] = "".join(traceback.format_exception(failure))
        return f"{words} (a fault of warpline, told in full on leaving; the other screens go on)"
