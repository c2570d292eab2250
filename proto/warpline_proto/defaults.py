"""Ports, paths and bounds that more than one part uses, each written down once.

Ports avoid those other tools of the field already take (dynolog 1778, OTLP 4317/4318, zeusd 4938, DCGM 5555, Perfetto
9001, Prometheus 9090, node_exporter 9100, dcgm-exporter 9400, gpud 15132, XPUTimer 18888, NCCL RAS 28028 and others).
"""

from __future__ import annotations

from typing import Final

COLLECTOR_PORT: Final = 14716
COLLECTOR_ADDRESS: Final = f"127.0.0.1:{COLLECTOR_PORT}"
SERVE_PORT: Final = 14720
SERVE_ADDRESS: Final = f"127.0.0.1:{SERVE_PORT}"

STATE_DIRECTORY: Final = "/var/lib/warpline"
RUNTIME_DIRECTORY: Final = "/run/warpline"
SYSTEM_CONFIG: Final = "/etc/warpline/config.toml"
USER_CONFIG: Final = "~/.config/warpline/config.toml"

FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
"""Largest frame on the wire, compressed."""
FRAME_UNPACKED_BYTES_MAX: Final = 128 * 1024 * 1024
"""Largest frame once unpacked; a frame that claims more is refused before it is unpacked."""
QUERY_ROWS_MAX: Final = 100_000
QUERY_SECONDS_MAX: Final = 10.0
QUERY_WAIT_SECONDS_MAX: Final = 15.0
"""A question waits so long for somebody free to answer it: longer than another one may take."""
ASKER: Final = "warpline-asker"
"""Metadata of a question by which programs that come over one socket are told apart: any word of so many characters."""
ASKER_CHARS_MAX: Final = 32
EVIDENCE_ROWS_MAX: Final = 20
