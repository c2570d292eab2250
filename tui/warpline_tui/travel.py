"""Travel in time: live, paused at a moment, or playing on from one; and how a moment is written."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from warpline_proto.errors import ConfigError

from .view import LIVE, Moment

STEP_SECONDS: Final = 10
LEAP_SECONDS: Final = 600
HINT: Final = "-15m, 14:05 or 2026-01-31T12:00:00, in UTC"
MOST_NS: Final = 2**63 - 1
"""No clock tells more."""
PLAYED_NS: Final = 60 * 10**9
"""An answer that took longer is not of what is played."""
_BACK: Final = re.compile(r"-(\d{1,6})\s*([smhd])")
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_TIME_OF_DAY: Final = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")


@dataclass(frozen=True)
class Travel:
    """Where in time one is. `playing` says that a past moment moves on as fast as time does."""

    moment: Moment = LIVE
    playing: bool = False

    def paused(self, newest_ns: int) -> Travel:
        """Stop at the newest there is, or where one is; play on where one was stopped."""
        if self.moment.at_ns is None:
            return Travel(Moment(newest_ns))
        return replace(self, playing=not self.playing)

    def stepped(self, seconds: int, newest_ns: int) -> Travel:
        """So far forward (or back, where negative); never beyond the newest, and stopped there."""
        here_ns = newest_ns if self.moment.at_ns is None else self.moment.at_ns
        if self.moment.at_ns is None and seconds > 0:
            return self
        return Travel(Moment(max(0, min(here_ns + seconds * 10**9, newest_ns))))

    def shows(self, asked: Moment) -> bool:
        """Whether an answer as of `asked` may still be shown: of the very moment, or one that was played over."""
        here_ns, then_ns = self.moment.at_ns, asked.at_ns
        if not self.playing or here_ns is None or then_ns is None:
            return asked == self.moment
        return here_ns - PLAYED_NS <= then_ns <= here_ns

    def ticked(self, nanoseconds: int, newest_ns: int) -> Travel:
        """So much time went by: what plays moves on, and is live again once it came to the newest."""
        if self.moment.at_ns is None or not self.playing:
            return self
        at_ns = self.moment.at_ns + nanoseconds
        return Travel() if at_ns >= newest_ns else replace(self, moment=Moment(at_ns))


def moment_ns(words: str, now_ns: int) -> int:
    """A moment as people write it, ns since the epoch: `-15m` before now, `14:05` of today, or ISO 8601; times are UTC.

    ConfigError if it is none of them, or lies before 1970 or beyond all clocks.
    """
    words = words.strip()
    found_ns = _written_ns(words, now_ns)
    if not 0 <= found_ns <= MOST_NS:
        raise ConfigError(f"{words!r} is a time that no clock tells", HINT)
    return found_ns


def _written_ns(words: str, now_ns: int) -> int:
    if found := _BACK.fullmatch(words):
        return now_ns - int(found[1]) * _UNIT_SECONDS[found[2]] * 10**9
    today = datetime.fromtimestamp(now_ns // 10**9, UTC)
    try:
        if _TIME_OF_DAY.fullmatch(words):
            given = datetime.fromisoformat(f"{today:%Y-%m-%d}T{words.zfill(5 if words.count(':') == 1 else 8)}")
        else:
            given = datetime.fromisoformat(words)
    except ValueError as error:
        raise ConfigError(f"{words!r} is no time", HINT) from error
    since = given.replace(tzinfo=given.tzinfo or UTC) - datetime.fromtimestamp(0, UTC)
    return since // timedelta(microseconds=1) * 1_000
