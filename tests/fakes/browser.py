"""A headless Chromium for tests, spoken to through a pipe by its own protocol: needs no driver, port or package.

`with browser() as page:` gives one page; the test is skipped where Chromium is not installed. Without a network of its own:
every host but 127.0.0.1 is one that it cannot find.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
FLAGS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
ANSWER_SECONDS: Final = 180.0
"""Most that one answer may take, waiting within the page included."""
_PIPES: Final = """
import fcntl, os, sys
given = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3]]
for wanted, each in zip((3, 4), given): os.dup2(each, wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser reads from descriptor 3 and writes to 4."""
_UNTIL: Final = """new Promise((resolve, reject) => {{
    const end = performance.now() + {milliseconds};
    const look = async () => {{
        let seen = null, trouble = '';
        try {{ seen = await ({condition}); }} catch (error) {{ trouble = String(error); }}
        if (seen) resolve(seen);
        else if (performance.now() > end) reject(new Error('never: ' + {told} + ' ' + trouble));
        else setTimeout(look, 20);
    }};
    look();
}})"""


class Page:
    """One page of a browser. What JavaScript throws is an AssertionError with its words."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for each in ("Page.enable", "Runtime.enable"):
            self._call(each)

    def resize(self, width: int, height: int) -> None:
        """Size of the window in pixels."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def goto(self, address: str) -> None:
        """Open an address (`Path.as_uri()` of a file, or of a server on 127.0.0.1) and wait until it is loaded."""
        failed = self._call("Page.navigate", url=address).get("errorText")
        assert not failed, f"{address}: {failed}"
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression, of a promise what it comes to, as JSON carries it."""
        answer = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            thrown = answer["exceptionDetails"]
            raise AssertionError(thrown.get("exception", {}).get("description") or thrown.get("text"))
        return answer["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 60.0) -> Any:
        """The value of a JavaScript expression as soon as it is true; AssertionError when it never is."""
        values = {"milliseconds": int(seconds * 1_000), "condition": condition, "told": json.dumps(condition)}
        return self.evaluate(_UNTIL.format(**values))

    def text(self) -> str:
        """What a reader sees of the page, without its markup."""
        return str(self.evaluate("document.body.innerText"))

    def screenshot(self, target: Path) -> None:
        """Save what is seen as PNG."""
        target.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + ANSWER_SECONDS
        while True:
            answer = self._next(end)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                found: dict[str, Any] = answer["result"]
                return found
            self._heard(answer)

    def _heard(self, event: dict[str, Any]) -> None:
        """Keep what the page's scripts complain of: errors that nobody caught, and console.error."""
        told = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            thrown = told["exceptionDetails"]
            self.complaints.append(thrown.get("exception", {}).get("description") or thrown["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and told["type"] == "error":
            self.complaints.append(" ".join(str(each.get("value", each.get("description"))) for each in told["args"]))

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reading], [], [], max(end - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            piece = os.read(self._reading, 1 << 20)
            assert piece, "the browser is gone"
            self._rest += piece
        message, self._rest = self._rest.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def browser(width: int = 1600, height: int = 1000) -> Iterator[Page]:
    """A page of a browser of its own, which is gone afterwards with all it wrote."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("chromium is not installed")
    to_read, writing = os.pipe()
    reading, to_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [sys.executable, "-c", _PIPES, str(to_read), str(to_write), program, *FLAGS]
        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"], env={**os.environ, "HOME": profile},
            pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        try:
            page = Page(reading, writing)
            page.resize(width, height)
            yield page
        finally:
            os.close(writing)
            os.close(reading)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
