"""What a user may set of the metrics."""

from __future__ import annotations

from dataclasses import dataclass

from warpline_proto.config import check_address


@dataclass(frozen=True)
class Config:
    """Where /metrics and /healthz are served: host:port or unix:PATH, nowhere if empty; a page is kept for `cache_seconds`.

    Other machines are served over TLS and show a certificate of a viewer or an operator; anybody is with `insecure`, in plain
    text.
    """

    listen: str = ""
    cache_seconds: float = 5.0
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.listen:
            check_address(self.listen, "listen")
        if self.cache_seconds < 0:
            raise ValueError("cache_seconds is not less than 0")
