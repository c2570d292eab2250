"""What an operator relies on when a whole fleet connects at once: the collector lives through it."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from certified import HOST, Authority

from warpline_proto.tls import context, read

THREADS = 16
CONNECTIONS = 100
DOOR = Path(__file__).parents[1] / "fakes" / "tls_door.py"


def test_a_fleet_that_connects_at_once_does_not_end_the_collector(tmp_path: Path) -> None:
    """1,600 handshakes, sixteen at a time."""
    authority = Authority(tmp_path / "pki")
    calling = context(read(authority.of("agent", "node-1")), ssl.PROTOCOL_TLS_CLIENT)
    calling.set_alpn_protocols(["h2"])
    directory = str(Path(authority.collector().certificate).parent)
    with subprocess.Popen([sys.executable, str(DOOR), directory], stdout=subprocess.PIPE, text=True) as door:
        assert door.stdout is not None
        port = int(door.stdout.readline())

        def connect() -> int:
            for _ in range(CONNECTIONS):
                with socket.create_connection(("127.0.0.1", port), 60) as plain:
                    calling.wrap_socket(plain, server_hostname=HOST).close()
            return CONNECTIONS

        try:
            with ThreadPoolExecutor(THREADS) as threads:
                made = [threads.submit(connect) for _ in range(THREADS)]
            assert sum(each.result() for each in made) == THREADS * CONNECTIONS
            assert door.poll() is None
        finally:
            door.kill()
