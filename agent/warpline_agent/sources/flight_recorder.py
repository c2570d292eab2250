"""PyTorch flight-recorder dumps, pickle or JSON, as files."""

from __future__ import annotations

import re
from typing import Final

from ..parsers.flight_dump import JSON_START, read_dump
from ..source import Input, Reading

_PICKLE_NAME: Final = re.compile(r"\.(?:pkl|pickle)$|_dump_\d+$", re.IGNORECASE)
_PICKLE_START: Final = re.compile(rb"\x80[\x02-\x05]")
_JSON_KEYS: Final = (b'"pg_config"', b'"collective_seq_id"')
_TRACE_KEYS: Final = (b'"traceEvents"', b'"distributedInfo"')


class FlightRecorder:
    """One dump of one rank."""

    name = "flight_recorder"

    def recognises(self, candidate: Input) -> bool:
        """Any pickle, by its start or name (nothing else here reads pickles), and JSON with the recorder's own keys."""
        if _PICKLE_START.match(candidate.head) or _PICKLE_NAME.search(candidate.name):
            return True
        trace = any(key in candidate.head for key in _TRACE_KEYS)  # a profiler's trace may carry the same group table
        return bool(JSON_START.match(candidate.head)) and not trace and any(key in candidate.head for key in _JSON_KEYS)

    def read(self, candidate: Input) -> Reading:
        """Entries -> collectives, process groups -> communicators. A dump without entries is evidence too and is read."""
        return read_dump(candidate)
