"""What a user may set of the PostgreSQL door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from warpline_proto.config import PORT_MAX, check_address

NOWHERE: Final = "none"
CONNECTIONS_MAX: Final = 10_000


@dataclass(frozen=True)
class Config:
    """Where PostgreSQL's clients may connect, and how many.

    A socket `.s.PGSQL.<port>` lies in `socket_directory`: in the store's directory if that is empty, nowhere if it is "none".
    `listen` is host:port for TCP, nowhere if empty; without TLS that can be loopback only. A connection that asks nothing for
    `idle_seconds` is closed.
    """

    socket_directory: str = ""
    port: int = 5433
    listen: str = ""
    connections_max: int = 64
    idle_seconds: float = 3_600.0

    def __post_init__(self) -> None:
        if not 1 <= self.port <= PORT_MAX:
            raise ValueError(f"port {self.port} is not within 1 and {PORT_MAX}")
        if self.listen:
            check_address(self.listen, "listen")
            if self.listen.startswith("unix:"):
                raise ValueError("listen is host:port: socket_directory says where the socket lies")
        if not 1 <= self.connections_max <= CONNECTIONS_MAX:
            raise ValueError(f"connections_max = {self.connections_max} is not within 1 and {CONNECTIONS_MAX}")
        if self.idle_seconds <= 0:
            raise ValueError("idle_seconds is more than 0")
