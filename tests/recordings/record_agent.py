"""Records what an agent of an earlier version says to a collector of that version, and what it leaves in its spool.

Run it with that version on the path, and name the folder to write:

    git archive COMMIT | tar -x -C OLD
    PYTHONPATH=OLD/proto:OLD/agent:OLD/collector:OLD/analysis:OLD/tui python tests/recordings/record_agent.py FOLDER

`frames.bin` and `acks.bin` are the messages of one stream, each behind its length in four bytes, as they went through a proxy
between the two; `spool` is what the agent left behind when it was killed while there was no collector.
"""

from __future__ import annotations

import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

METHOD = "/warpline.v1.Warpline/Push"
FRAMES = 6
SETTINGS = """
[agent]
node = "node-old"
cluster = "old"
sources = ["synthetic"]
spool_directory = "{folder}/spool"
[sources.synthetic]
replicas = 2
stages = 1
ranks_per_node = 2
[collector]
listen = "127.0.0.1:0"
directory = "{folder}/store"
"""


class Proxy:
    """Passes the messages of streams on as they are, and keeps them."""

    def __init__(self, address: str) -> None:
        self.frames: list[bytes] = []
        self.acks: list[bytes] = []
        self._channel = grpc.insecure_channel(address)
        self._server = grpc.server(ThreadPoolExecutor(4))
        handler = grpc.stream_stream_rpc_method_handler(self._push)
        service, _, method = METHOD[1:].partition("/")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _push(self, messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        def kept() -> Iterator[bytes]:
            for message in messages:
                self.frames.append(message)
                yield message

        for ack in self._channel.stream_stream(METHOD)(kept()):
            self.acks.append(ack)
            yield ack

    def close(self) -> None:
        self._server.stop(None).wait()
        self._channel.close()


def warpline(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "warpline_cli.main", *words], stderr=subprocess.PIPE, text=True)


def until(condition: Any) -> None:
    while not condition():
        time.sleep(0.1)


def write(path: Path, messages: list[bytes]) -> None:
    path.write_bytes(b"".join(struct.pack("<I", len(each)) + each for each in messages))


def main(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = folder / "warpline.toml"
        settings.write_text(SETTINGS.format(folder=folder))
        collector = warpline("collector", "--config", str(settings))
        assert collector.stderr is not None
        proxy = Proxy(collector.stderr.readline().split("listens on ")[1].split(",")[0])
        agent = warpline("agent", "--config", str(settings), "--collector", proxy.address)
        until(lambda: len(proxy.frames) >= FRAMES and len(proxy.acks) >= 2)
        agent.send_signal(signal.SIGTERM)
        agent.wait()
        proxy.close()
        collector.terminate()
        collector.wait()
        write(target / "frames.bin", proxy.frames)
        write(target / "acks.bin", proxy.acks)
        alone = warpline("agent", "--config", str(settings), "--collector", "127.0.0.1:9")
        until(lambda: len(list((folder / "spool").glob("*.frame"))) >= FRAMES // 2)
        alone.kill()
        alone.wait()
        shutil.copytree(
            folder / "spool", target / "spool", ignore=shutil.ignore_patterns("lock", "raw"), dirs_exist_ok=True
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
