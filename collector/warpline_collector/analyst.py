"""The detectors in a process of their own: what they compute takes no turn from the threads that take frames in.

`python -P -m warpline_collector.analyst FD DIRECTORY`: over the socket FD each byte asks for a pass, each answer is a length and
the reports as JSON. The process keeps what the detectors remember from pass to pass, and ends when its socket is closed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Final

from warpline_analysis.runner import ask
from warpline_proto.errors import StoreError
from warpline_proto.finding import Check, Report, Verdict, from_json

from .beside import start
from .heap import give_way, share
from .reader import CatalogReader

PASS_SECONDS_MAX: Final = 1_800.0
"""A pass that takes longer will never end: the process is ended then, and the next pass has a new one."""
ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024
NICER: Final = 5
"""Frames are taken in first: where cores are scarce the analysis waits."""
OOM_SCORE_ADJ: Final = 900
"""Where memory is short the kernel ends this process before the collector, and SQL workers before it: a pass is lost."""
_ASK: Final = b"?"
_LENGTH: Final = struct.Struct("!I")


class Analyst:
    """Asks the detectors of a child process about the store at `directory`, which is started by the first pass.

    A pass whose process ended is a StoreError, and the next one has a new process.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mutex = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None

    def reports(self) -> dict[str, Report]:
        """What each detector says now."""
        link = self._started()
        try:
            link.sendall(_ASK)
            with link.makefile("rb") as answers:
                document = json.loads(_whole(answers, _LENGTH.unpack(_whole(answers, _LENGTH.size))[0]))
        except (OSError, EOFError) as error:
            self.close()
            raise StoreError(
                f"the process of the analysis ended in the midst of a pass: {error or type(error).__name__}",
                "the next pass has a new one; if it happens again: has the machine memory left?",
            ) from error
        return {name: _report(each) for name, each in document.items()}

    def interrupt(self) -> None:
        """End the pass that runs in another thread; it ends with a StoreError."""
        with self._mutex:
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process; safe to call twice."""
        with self._mutex:
            process, self._process = self._process, None
            link, self._link = self._link, None
        if process is not None and link is not None:
            process.kill()
            process.wait()
            link.close()

    def _started(self) -> socket.socket:
        with self._mutex:
            if self._link is not None:
                return self._link
            try:
                self._process, link = start(__name__, str(self._directory), stderr=None)
            except OSError as error:
                raise StoreError(
                    f"the process of the analysis could not be started: {error}", "has the machine memory left?"
                ) from error
            link.settimeout(PASS_SECONDS_MAX)
            self._link = link
            return link


def main(arguments: list[str]) -> int:
    """Serve one socket until its other end closes it."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    share()
    give_way(OOM_SCORE_ADJ)
    with contextlib.suppress(OSError):
        os.nice(NICER)
    directory = Path(arguments[1])
    with (
        socket.socket(fileno=int(arguments[0])) as link,
        CatalogReader(directory) as reader,
        contextlib.suppress(BrokenPipeError, ConnectionResetError),  # the collector is gone
    ):
        while link.recv(len(_ASK)):
            answer = _document(ask(reader))
            link.sendall(_LENGTH.pack(len(answer)) + answer)
    return 0


def _whole(answers: BinaryIO, size: int) -> bytes:
    if size > ANSWER_BYTES_MAX:
        raise EOFError(f"an answer of {size} bytes")
    data = answers.read(size)
    if len(data) < size:
        raise EOFError("it closed its end")
    return data


def _document(reports: Mapping[str, Report]) -> bytes:
    told = {
        name: {
            "findings": [finding.to_json() for finding in report.findings],
            "checks": [asdict(check) for check in report.checks],
        }
        for name, report in reports.items()
    }
    return json.dumps(told).encode()


def _report(document: Mapping[str, Any]) -> Report:
    checks = (
        Check(**{**each, "verdict": Verdict(each["verdict"]), "missing": tuple(each["missing"])})
        for each in document["checks"]
    )
    return Report(tuple(map(from_json, document["findings"])), tuple(checks))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
