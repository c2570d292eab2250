"""How the certificates that the settings name stand: until when they hold, whose they are, and who can read the key."""

from __future__ import annotations

import argparse
import os
import stat
import time
from dataclasses import dataclass
from typing import Final

from warpline_cli import asking
from warpline_proto.errors import ConfigError
from warpline_proto.tls import KEY_FILE, read

SOON_DAYS: Final = 30
"""A certificate that ends sooner should be renewed."""
NS_PER_DAY: Final = 86_400 * 10**9


@dataclass(frozen=True)
class Look:
    """`state` is ok, absent, limited or broken."""

    state: str
    detail: str
    hint: str = ""


def look(options: argparse.Namespace) -> Look:
    """What there is to say of the certificates that `options` or the settings name."""
    try:
        tls = asking.tls(options)
        if not tls:
            return Look("absent", "none: collectors of this machine alone can be called", "warpline pki --help")
        told = read(tls).told
        mode = stat.S_IMODE(os.stat(tls.key).st_mode)
    except ConfigError as error:
        return Look("broken", error.message, error.hint)
    except OSError as error:
        return Look("broken", f"{error.filename}: {error.strerror}")
    role, name = told.identity() or ("nobody", "")
    days = (told.end_ns - time.time_ns()) // NS_PER_DAY
    ends = f"{role} {name}, ends in {days} days" if days >= 0 else f"{role} {name}, ended {-days} days ago"
    if days < 0:
        return Look("broken", ends, "warpline pki rotate")
    if days < SOON_DAYS:
        return Look("limited", ends, "warpline pki rotate --expiring 30")
    if mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
        return Look("limited", f"{ends}; others than its owner can reach {tls.key}", f"chmod 600 {KEY_FILE}")
    return Look("ok", ends)
