"""What Kineto, PyTorch's profiler library, says to the daemon of a node and what it is answered: datagrams in and out, no socket.

A process asks every five seconds whether there is work (`req`), and may tell which GPU it uses (`ctxt`). An answer is the text
of a configuration, or nothing. This is the protocol of dynolog (its ipcfabric) and of libkineto's IpcFabricConfigClient.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from warpline_proto.errors import Refused

SOCKET: Final = "\0dynolog\0"
"""Abstract name at which the daemon of a node is asked."""
HEADER: Final = struct.Struct("<Q32s")
"""Bytes behind it, kind."""
CONTEXT: Final = struct.Struct("<iiq")
"""GPU, pid as the process knows itself, number of its Slurm job."""
REQUEST: Final = struct.Struct("<iiq")
"""What for (a mask), how many pids follow, number of its Slurm job; the pids are its own and those of its ancestors."""
ANCESTORS_MAX: Final = 64
DATAGRAM_BYTES_MAX: Final = HEADER.size + REQUEST.size + 4 * ANCESTORS_MAX
"""Longer ones are none of Kineto's."""
ACTIVITIES: Final = 2
"""Bit of what for: absent while a profiler runs in the process, its own or one that was asked for."""
POLL_SECONDS: Final = 5.0
"""A process asks this often."""
WARM_UP_SECONDS: Final = 2
"""Kineto prepares itself for so long before a trace begins."""


class Ask(NamedTuple):
    """One datagram: `kind` as it is to be answered, `pid` as the process knows itself; `idle` where no profiler runs in it."""

    kind: bytes
    pid: int
    idle: bool


def read(datagram: bytes) -> Ask:
    """What a datagram asks; Refused where it is none of Kineto's."""
    if not HEADER.size <= len(datagram) <= DATAGRAM_BYTES_MAX:
        raise Refused(f"a datagram of {len(datagram)} bytes")
    size, name = HEADER.unpack_from(datagram)
    payload, kind = datagram[HEADER.size :], name.rstrip(b"\0")
    if size != len(payload):
        raise Refused(f"a datagram that claims {size} bytes and has {len(payload)}")
    if kind == b"ctxt" and len(payload) == CONTEXT.size:
        _, pid, _ = CONTEXT.unpack(payload)
        return _checked(Ask(kind, pid, True))
    if kind == b"req" and len(payload) >= REQUEST.size:
        wants, count, _ = REQUEST.unpack_from(payload)
        if 0 < count <= ANCESTORS_MAX and len(payload) == REQUEST.size + 4 * count:
            (pid,) = struct.unpack_from("<i", payload, REQUEST.size)
            return _checked(Ask(kind, pid, bool(wants & ACTIVITIES)))
    raise Refused("a datagram of a kind that is not known")


def reply(ask: Ask, configuration: str = "") -> bytes:
    """The answer: to a context how many processes share the GPU, to a request a configuration or nothing."""
    payload = struct.pack("<i", 1) if ask.kind == b"ctxt" else configuration.encode("ascii")
    return HEADER.pack(len(payload), ask.kind) + payload


def configuration(path: str, start_ns: int, duration_ns: int) -> str:
    """A trace of a time (ns since the Unix epoch), written to `path` with `_PID` before its ending.

    By time, not by number of step: Kineto counts calls of all optimizers, and ranks hear of it up to five seconds apart. Ranks
    that train together are in the same steps at the same time.
    """
    return "\n".join(
        (
            f"ACTIVITIES_LOG_FILE={path}",
            f"PROFILE_START_TIME={-(-start_ns // 1_000_000)}",
            f"ACTIVITIES_DURATION_MSECS={max(duration_ns // 1_000_000, 1)}",
            f"ACTIVITIES_WARMUP_PERIOD_SECS={WARM_UP_SECONDS}",
            "",
        )
    )


def _checked(ask: Ask) -> Ask:
    if ask.pid <= 0:
        raise Refused(f"a datagram of pid {ask.pid}")
    return ask
