"""`warpline serve`: the screen in a browser, for whoever has the token or a certificate, and for nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest
from browser import browser

from warpline_cli.main import EXIT_USAGE, main
from warpline_cli.pki.keeping import Keeping
from warpline_cli.serving.address import file_in
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.tables import TABLES
from warpline_proto.tls import Tls, context, read

SECONDS = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One GPU."""
    directory = tmp_path_factory.mktemp("serve") / "store"
    made = DuckDBStore(directory)
    row = {
        "node": "node-a",
        "gpu_uuid": "GPU-1",
        "gpu_index": 0,
        "time_ns": 1_800_000_000 * 10**9,
        "power_watts": 555.0,
    }
    made.write([Batch("device_samples", "test", TABLES["device_samples"].from_rows([row]))])
    made.close()
    return directory


def started(runtime: Path, *words: str) -> subprocess.Popen[str]:
    """As a service of a unit with RuntimeDirectory=."""
    command = [sys.executable, "-m", "warpline_cli.main", "serve", "--listen", "127.0.0.1:0", *words]
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(runtime)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def opening(runtime: Path, printed: str) -> str:
    """The address with its token, of the one that is printed."""
    port = printed.rstrip("/").rpartition(":")[2]
    return (runtime / f"serve-{port}").read_text().strip()


@contextmanager
def serving(runtime: Path, *words: str) -> Iterator[str]:
    """The address that it prints."""
    with started(runtime, *words) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            assert process.wait(SECONDS) == 0


@pytest.fixture(scope="module")
def local(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    runtime = tmp_path_factory.mktemp("run")
    with serving(runtime, "--store", str(store)) as printed:
        yield opening(runtime, printed)


async def painted(websocket: aiohttp.ClientWebSocketResponse, wanted: bytes) -> bytes:
    """What the program wrote until `wanted` was there."""
    said = b""
    while wanted not in said:
        message = await websocket.receive(timeout=SECONDS)
        assert message.type is aiohttp.WSMsgType.BINARY, message
        said += message.data
    return said


async def test_who_has_the_token_sees_the_screen_and_types_into_it(local: str) -> None:
    root = local.partition("?")[0]
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(local) as page:
            said = await page.text()
            assert page.status == 200 and "token" not in str(page.url), "it is not left in the address line"
            assert 'data-session-websocket-url="ws://127.0.0.1:' in said and "https://" not in said
            assert "script-src 'self'" in page.headers["Content-Security-Policy"]
        for part in ("static/js/textual.js", "static/css/xterm.css", "page.css"):
            async with browser.get(root + part) as answer:
                assert answer.status == 200
        async with browser.ws_connect(f"{root}ws?width=100&height=30", origin=root.rstrip("/")) as websocket:
            await painted(websocket, b"node-a")
            await websocket.send_str("no JSON")
            await websocket.send_json(["resize", {"width": 10**9, "height": 40}])
            await websocket.send_json(["stdin", "9"])
            await painted(websocket, b"What can be asked for")


def test_a_browser_shows_it(local: str) -> None:
    """The page's own scripts, under its own content security policy, reach the program and draw what it writes."""
    with browser() as page:
        page.resize(1200, 700)
        page.goto(local)
        page.wait_for("document.body.classList.contains('-first-byte') && document.querySelector('.xterm canvas')")
        assert page.evaluate("location.search") == ""
        assert not page.complaints


async def test_nobody_else_comes(local: str) -> None:
    """Other accounts, pages of other sites, and names that a stranger's DNS server gave loopback."""
    root, _, token = local.partition("?")
    async with aiohttp.ClientSession() as stranger:
        for path in ("", "ws", "static/js/textual.js", "?token=guessed", "download/x"):
            async with stranger.get(root + path) as answer:
                assert answer.status == 403, path
        for headers in (
            {"Origin": "https://evil.example"},
            {"Host": "evil.example:80"},
            {"Host": "127.0.0.1.evil.example"},
        ):
            async with stranger.get(f"{root}?{token}", headers=headers, allow_redirects=False) as answer:
                assert answer.status == 403, headers
    port = root.rstrip("/").rpartition(":")[2]
    for line in (f"Cookie: warpline-{port}=".encode() + b"\xff", b"Origin: \xff"):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(f"GET / HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n".encode() + line + b"\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 403 "), line
        writer.close()


async def test_every_address_of_loopback_is_as_good(store: Path, tmp_path: Path) -> None:
    with serving(tmp_path, "--store", str(store), "--listen", "127.0.0.2:0") as printed:
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as browser, browser.get(opening(tmp_path, printed)) as page:
            assert page.status == 200


def test_whoever_reads_the_journal_is_not_let_in(store: Path, tmp_path: Path) -> None:
    """What a service prints others read too: the token is in a file of the account's own, which goes with the server."""
    with serving(tmp_path / "warpline", "--store", str(store)) as printed:
        (file,) = (tmp_path / "warpline").iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        assert "token" not in printed and file.read_text().startswith(f"{printed}?token=")
    assert list((tmp_path / "warpline").iterdir()) == []


def test_a_terminal_is_shown_the_whole_address(store: Path, tmp_path: Path) -> None:
    """Whoever started it there opens it from there."""
    command = [sys.executable, "-m", "warpline_cli.main", "serve", "--listen", "127.0.0.1:0", "--store", str(store)]
    mine, its = os.openpty()
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=its, env=environment) as process:
        os.close(its)
        with open(mine, encoding="utf-8") as terminal:
            assert "/?token=" in terminal.readline()
            process.terminate()
    assert process.returncode == 0 and list(tmp_path.iterdir()) == []


def test_a_token_that_cannot_be_kept_is_not_printed_instead(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with started(tmp_path / "file", "--store", str(store)) as process:
        said = process.communicate(timeout=SECONDS)
    assert process.returncode == EXIT_USAGE
    assert said[0] == "" and "the address with its token cannot be kept in" in said[1]


@pytest.mark.parametrize(
    ("environment", "file"),
    [
        ({"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": "/run/user/7"}, "/run/a/serve-1"),
        ({"XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/home/ada"}, "/run/user/7/warpline/serve-1"),
        ({"HOME": "/home/ada"}, "/home/ada/.local/state/warpline/serve-1"),
    ],
)
def test_the_file_of_the_token_lies_where_the_service_or_the_session_says(
    environment: dict[str, str], file: str
) -> None:
    assert file_in(environment, 1) == Path(file)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--listen", "0.0.0.0:0"], "other machines could come"),
        (["--listen", "nowhere"], "is no HOST:PORT"),
        (["--https", "/nonexistent"], "cannot read /nonexistent"),
        (["--operator", "--store", "/tmp"], "a directory takes no requests"),
        (["--store", "/nonexistent"], "/nonexistent"),
        (["--theme", "plaid"], "plaid"),
    ],
)
def test_what_would_let_strangers_in_or_opens_no_screen_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *words]) == EXIT_USAGE
    assert said in capsys.readouterr().err


async def test_beyond_loopback_a_certificate_says_who_comes(store: Path, tmp_path: Path) -> None:
    """A directory shows everything, so only an operator's will do; without one there is not even a page."""
    keeping = Keeping(tmp_path / "pki")
    keeping.start(30)
    mine = keeping.issue("collector", "screen", ("localhost", "127.0.0.1"))
    shown = {role: Tls.within(str(keeping.issue(role, "ada"))) for role in ("agent", "viewer", "operator")}
    with serving(tmp_path, "--store", str(store), "--https", str(mine)) as root:
        assert root.startswith("https://") and "token" not in root
        for role, status in (("agent", 403), ("viewer", 403), ("operator", 200)):
            secured = context(read(shown[role]), ssl.PROTOCOL_TLS_CLIENT)
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=secured)) as browser:
                async with browser.get(root) as answer:
                    assert answer.status == status, role
                if status == 200:
                    async with browser.ws_connect(f"{root}ws", origin=root.rstrip("/")) as websocket:
                        await painted(websocket, b"node-a")
        bare = ssl.create_default_context(cafile=shown["operator"].authority)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=bare)) as nobody:
            with pytest.raises(aiohttp.ClientError):
                async with nobody.get(root) as answer:
                    await answer.read()


async def test_a_session_ends_with_its_program(local: str) -> None:
    root = local.partition("?")[0]
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(local):
            pass
        async with browser.ws_connect(f"{root}ws") as websocket:
            await painted(websocket, b"node-a")
            await websocket.send_str(json.dumps(["stdin", "q"]))
            while (await websocket.receive(timeout=SECONDS)).type is aiohttp.WSMsgType.BINARY:
                pass
            assert websocket.closed


async def test_sessions_do_not_outlive_a_server_that_was_killed(store: Path, tmp_path: Path) -> None:
    """As where memory runs out: nobody is left to end them."""
    with started(tmp_path, "--store", str(store)) as process:
        assert process.stdout
        root = process.stdout.readline().strip()
        address = opening(tmp_path, root)
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            async with browser.get(address):
                pass
            async with browser.ws_connect(f"{root}ws") as websocket:
                await painted(websocket, b"node-a")
                sessions = psutil.Process(process.pid).children(recursive=True)
                process.kill()
        assert sessions and not psutil.wait_procs(sessions, timeout=SECONDS)[1]
