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

    def ticked(self, nanoseconds: int, newest_ns: int) -> Travel:
        """So much time went by: what plays moves on, and is live again once it came to the newest."""
        if self.moment.at_ns is None or not self.playing:
            return self
        at_ns = self.moment.at_ns + nanoseconds
        return Travel() if at_ns >= newest_ns else replace(self, moment=Moment(at_ns))


def moment_ns(words: str, now_ns: int) -> int:
    """A moment as people write it, ns since the epoch: `-15m` before now, `14:05` of today, or ISO 8601; times are UTC.

    ConfigError if it is none of them.
    """
    words = words.strip()
    if found := _BACK.fullmatch(words):
        return now_ns - int(found[1]) * _UNIT_SECONDS[found[2]] * 10**9
    today = datetime.fromtimestamp(now_ns // 10**9, UTC)
    try:
        if _TIME_OF_DAY.fullmatch(words):
            given = datetime.fromisoformat(f"{today:%Y-%m-%d}T{words.zfill(5 if words.count(':') == 1 else 8)}")
        else:
            given = datetime.fromisoformat(words)
    except ValueError as error:
        raise ConfigError(f"{words!r} is no time", "-15m, 14:05 or 2026-01-31T12:00:00, in UTC") from error
    since = given.replace(tzinfo=given.tzinfo or UTC) - datetime.fromtimestamp(0, UTC)
    return since // timedelta(microseconds=1) * 1_000
