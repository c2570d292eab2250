"""The endpoint of metrics: whom it answers when, nobody held up by it, and a real Prometheus that reads it."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest
from scraped import NOW_NS, ask, readings_of, serving, snapshot

from warpline_cli.processes import free_address
from warpline_collector.metrics import endpoint
from warpline_collector.metrics.config import Config
from warpline_collector.metrics.endpoint import Endpoint
from warpline_collector.metrics.snapshot import Snapshot
from warpline_proto.errors import ConfigError


async def test_a_page_is_made_once_for_all_who_ask_within_its_time() -> None:
    made: list[int] = []

    def take() -> Snapshot:
        made.append(1)
        return snapshot()

    async with serving(take, Config("127.0.0.1:0", cache_seconds=600)) as address:
        answers = await asyncio.gather(*(ask(address, path) for path in ("/metrics", "/healthz") * 4))
    assert [status for status, _ in answers] == [200] * 8
    assert len(made) == 1


async def test_a_store_that_does_not_answer_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks meanwhile gets the same answer, and no further question is put to it."""
    monkeypatch.setattr(endpoint, "MAKE_SECONDS_MAX", 0.05)
    answered = threading.Event()
    asked: list[int] = []

    def take() -> Snapshot:
        asked.append(1)
        answered.wait(30)
        return snapshot()

    async with serving(take) as address:
        answers = await asyncio.gather(*(ask(address, "/healthz") for _ in range(3)))
        answered.set()
    assert [(status, b"could be told within" in body) for status, body in answers] == [(503, True)] * 3
    assert len(asked) == 1


async def test_a_failure_is_a_sentence_and_the_next_page_is_tried_anew(caplog: pytest.LogCaptureFixture) -> None:
    failing = [True]

    def take() -> Snapshot:
        if failing.pop() if failing else False:
            raise ZeroDivisionError("of its own making")
        return snapshot()

    async with serving(take) as address:
        status, body = await ask(address, "/metrics")
        assert (status, (await ask(address, "/metrics"))[0]) == (503, 200)
    assert b"ZeroDivisionError: of its own making" in body
    assert [record.message for record in caplog.records] == ["metrics could not be made"]


async def test_questions_that_are_none_are_refused_in_words() -> None:
    async with serving(snapshot) as address:
        assert await ask(address, "/") == (404, b"there are /metrics and /healthz\n")
        assert (await ask(address, "/metrics", method="POST"))[0] == 405
        assert await ask(address, "/healthz?full=1", method="HEAD") == (200, b"")


async def test_callers_who_do_not_ask_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are; meanwhile one more is closed, and later all is as before."""
    monkeypatch.setattr(endpoint, "ANSWER_SECONDS_MAX", 0.2)
    async with serving(snapshot) as address:
        silent = [await asyncio.open_connection(*address.split(":")) for _ in range(endpoint.CALLERS_MAX + 1)]
        for reader, _ in silent:
            assert await asyncio.wait_for(reader.read(), 60) == b""
        long, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(b"x" * 2 * endpoint.REQUEST_BYTES_MAX)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(long.readexactly(1), 60)
        monkeypatch.setattr(endpoint, "ANSWER_SECONDS_MAX", 30.0)
        assert (await ask(address, "/healthz"))[0] == 200
        for _, each in [*silent, (long, writer)]:
            each.close()


async def test_a_unix_socket_does_as_well_and_a_file_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    for _ in range(2):  # the second finds the socket of the first
        async with serving(snapshot, Config(f"unix:{path}")) as address:
            assert (await ask(address, "/healthz"))[0] == 200
    path.unlink()
    path.write_text("a user's own")
    with pytest.raises(ConfigError, match="cannot serve metrics on"):
        await Endpoint(Config(f"unix:{path}"), snapshot).start()
    assert path.read_text() == "a user's own"


def test_addresses_that_are_none_are_refused() -> None:
    assert Config().listen == ""
    for wrong in ("9469", "host:port", "127.0.0.1:70000"):
        with pytest.raises(ValueError, match="listen"):
            Config(wrong)


async def test_promtool_has_nothing_to_say_against_the_names(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    async with serving(lambda: snapshot(readings_of("node-1", 2, NOW_NS))) as address:
        _, page = await ask(address, "/metrics")
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False, timeout=60)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def prometheus(folder: Path, address: str, *, words: Sequence[str] = ()) -> tuple[subprocess.Popen[bytes], str]:
    """A real Prometheus that scrapes `address` every two seconds."""
    own = free_address()
    settings = folder / "prometheus.yml"
    settings.write_text(
        "scrape_configs:\n"
        f"- {{job_name: warpline, scrape_interval: 2s, scrape_timeout: 2s, static_configs: [{{targets: ['{address}']}}]}}\n"
    )
    command = [
        "prometheus",
        f"--config.file={settings}",
        f"--storage.tsdb.path={folder}",
        f"--web.listen-address={own}",
    ]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([*command, *words], stdout=log, stderr=log), own


def answered(own: str, question: str) -> list[tuple[dict[str, str], float]]:
    """What that Prometheus answers, as soon as it has an answer."""
    pause, end = threading.Event(), time.monotonic() + 120
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://{own}/api/v1/query?query={question}", timeout=5) as reply:
                found = json.load(reply)["data"]["result"]
        except OSError:
            found = []
        if found:
            return [(each["metric"], float(each["value"][1])) for each in found]
        pause.wait(0.1)
    raise AssertionError(f"Prometheus never answered {question}")


async def test_a_real_prometheus_scrapes_it(tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    now_ns = time.time_ns()
    at = snapshot(readings_of("node-1", 2, now_ns), now_ns=now_ns)
    async with serving(lambda: at) as address:
        process, own = prometheus(tmp_path, address)
        try:
            found = await asyncio.to_thread(answered, own, "warpline_gpu_power_watts")
            ((_, up),) = await asyncio.to_thread(answered, own, "max_over_time(up[5m])")
        finally:
            process.terminate()
            process.wait(60)
    assert up == 1.0
    assert {(labels["node"], labels["gpu"], labels["uuid"], watts) for labels, watts in found} == {
        ("node-1", str(index), f"GPU-node-1-{index}", 300.5) for index in range(2)
    }
