"""The collector's certificates before a gRPC server that answers nothing: `python tls_door.py DIRECTORY` says its port."""

from __future__ import annotations

import asyncio
import sys

import grpc

from warpline_collector.certificates import Certificates
from warpline_proto.tls import Tls


async def main(directory: str) -> None:
    """Listen until killed."""
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", Certificates(Tls.within(directory)).for_grpc())
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
