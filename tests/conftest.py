"""What tests share: the recorded data sets, a compiler for the fake libraries, rows to ask, frames to store, a made-up job."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from warpline_hook.library import LIBRARY
from warpline_hook.native_build import SOURCES, compile_library
from warpline_proto.batch import Batch, Frame
from warpline_proto.tables import COLLECTIVES, PHASES, STEPS, TABLES

MakeFrame = Callable[..., Frame]

# How long drawing an example takes says something of the machine only.
hypothesis.settings.register_profile("shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("shared")

FAKES = Path(__file__).parent / "fakes"
sys.path.insert(0, str(FAKES))
pytest_plugins = ["ring_programs", "deployed", "courier_bench", "ranks"]
AGENT = Path(__file__).parents[1] / "agent"
DATA = Path(os.environ.get("WARPLINE_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")).resolve()


@pytest.fixture(scope="session")
def data() -> Path:
    """The recorded data sets; skips where they are not at hand."""
    if not DATA.is_dir():
        pytest.skip(f"no recorded data at {DATA}: set WARPLINE_TEST_DATA")
    return DATA


@pytest.fixture(scope="session")
def compile_fake(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Compile tests/fakes/NAME.c into a shared library, with the system compiler or PyPI's ziglang."""
    folder = tmp_path_factory.mktemp("fakes")

    def build(name: str, library: str) -> Path:
        target = folder / library
        if not target.exists():
            command = [
                *_compiler(),
                "-O1",
                "-shared",
                "-fPIC",
                "-o",
                str(target),
                str(FAKES / f"{name}.c"),
                "-lpthread",
            ]
            subprocess.run(command, check=True, capture_output=True, text=True)
        return target

    return build


@pytest.fixture(scope="session")
def compile_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compile tests/fakes/NAME.c, with sources of the native library where named, into a program."""
    folder = tmp_path_factory.mktemp("programs")

    def build(name: str, *sources: str) -> Path:
        target = folder / name
        if not target.exists():
            files = [FAKES / f"{name}.c", *(SOURCES / source for source in sources)]
            flags = ["-std=gnu11", "-O1", "-rdynamic", "-I", str(SOURCES), "-o", str(target)]
            command = [*_compiler(), *flags, *map(str, files), "-lpthread", "-ldl"]
            subprocess.run(command, check=True, capture_output=True, text=True)
        return target

    return build


@pytest.fixture(scope="session")
def native_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The native library, compiled as an installation from source does it."""
    target = tmp_path_factory.mktemp("native") / LIBRARY
    compile_library(_compiler(), target)
    return target


ANSWER_SECONDS = 60.0


class Driven:
    """A program that does one thing for each line it is given and answers with a line."""

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], **environment},
        )
        self.pid = self._process.pid

    def ask(self, line: str) -> str:
        """Its answer; empty if it has ended."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        assert select.select([self._process.stdout], [], [], ANSWER_SECONDS)[0], f"no answer to {line!r}"
        return self._process.stdout.readline().strip()

    def end(self) -> int:
        """Let it end by itself; its exit status."""
        self._process.communicate(timeout=60)
        return self._process.returncode

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.communicate(timeout=60)


@pytest.fixture
def drive() -> Iterator[Callable[..., Driven]]:
    """Start a program that is driven line by line: `drive(command, environment)`."""
    started: list[Driven] = []

    def start(command: Sequence[str | Path], environment: Mapping[str, str]) -> Driven:
        started.append(Driven(command, environment))
        return started[-1]

    yield start
    for each in started:
        each.kill()


SCREEN_SECONDS = 180.0


class Terminal:
    """One program in a tmux server of its own, of `columns` by `lines`."""

    def __init__(self, folder: Path, columns: int, lines: int, *words: str) -> None:
        self._socket = f"warpline-{uuid.uuid4().hex[:12]}"
        command = f"{shlex.join([sys.executable, '-m', 'warpline_cli.main', *words])}; echo left with $?; read -r _"
        environment = {**os.environ, "TMUX_TMPDIR": str(folder), "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
        self._environment = {name: value for name, value in environment.items() if name != "TMUX"}
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(lines), "sh", "-c", command)

    def screen(self) -> str:
        """What is to be read on the screen now."""
        return self._tmux("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def shows(self, *wanted: str) -> str:
        """The screen, once all of `wanted` is on it, wherever its lines break."""

        def there(screen: str) -> bool:
            return all(words in " ".join(screen.split()) for words in wanted)

        return self.until(there, f"shows {wanted}")

    def until(self, condition: Callable[[str], bool], meaning: str) -> str:
        pause, end = threading.Event(), time.monotonic() + SCREEN_SECONDS
        while not condition(screen := self.screen()):
            assert time.monotonic() < end, f"never {meaning}:\n{screen}"
            pause.wait(0.1)
        return screen

    def pid(self) -> int:
        """Of the shell that started the program."""
        return int(self._tmux("display-message", "-p", "#{pane_pid}"))

    def close(self) -> None:
        """End it, with its programs; once is enough."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._tmux("kill-server")

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._socket, *words], env=self._environment, capture_output=True, text=True, check=True
        )
        return done.stdout


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Start warpline on a terminal: `open_terminal(columns, lines, *words)`."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    opened: list[Terminal] = []

    def make(columns: int, lines: int, *words: str) -> Terminal:
        opened.append(Terminal(tmp_path, columns, lines, *words))
        return opened[-1]

    yield make
    for terminal in opened:
        terminal.close()


@pytest.fixture(scope="session")
def hooked_python(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A Python environment in which the hook is installed as the wheel installs it, with further import paths.

    It is made from `base`, another Python, where one is given; its own site-packages are then to be seen too.
    """

    def make(*paths: Path, base: str = sys.executable) -> Path:
        folder = tmp_path_factory.mktemp("hooked")
        subprocess.run([base, "-m", "venv", "--without-pip", str(folder)], check=True, capture_output=True)
        (site,) = folder.glob("lib/python*/site-packages")
        seen = subprocess.run([base, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                              check=True, capture_output=True, text=True).stdout.strip()  # fmt: skip
        foreign = [] if base == sys.executable else [seen]
        (site / "_paths.pth").write_text("\n".join([str(AGENT), *map(str, paths), *foreign, ""]))
        shutil.copy(AGENT / "warpline_hook.pth", site)
        return folder / "bin" / "python"

    return make


def _compiler() -> list[str]:
    system = shutil.which("cc")
    return [system] if system else [sys.executable, "-m", "ziglang", "cc"]


class RowsReader:
    """A Reader over rows in memory: every declared table, empty where nothing is given."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        import duckdb

        self._connection = duckdb.connect(":memory:", config={"threads": 2})
        for name, table in TABLES.items():
            given = tables.get(name, [])
            rows = given if isinstance(given, pa.Table) else pa.Table.from_batches([table.from_rows(given)])
            self._connection.register(name, rows.cast(table.schema))

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        return self._connection.sql(sql, params=list(parameters)).to_arrow_table()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def reader_of() -> Iterator[Callable[[Mapping[str, Any]], RowsReader]]:
    """Tables by name (rows as mappings, or an Arrow table) -> a Reader over them."""
    opened: list[RowsReader] = []

    def make(tables: Mapping[str, Any]) -> RowsReader:
        opened.append(RowsReader(tables))
        return opened[-1]

    yield make
    for reader in opened:
        reader.close()


@pytest.fixture
def make_frame() -> MakeFrame:
    """A frame of `rows` rows of table steps; column `step` repeats the sequence, `rank` numbers the rows."""

    def make(
        sequence: int, rows: int = 3, boot: str = "boot-1", agent: str = "node-1", dropped: int = 0, lost: int = 0
    ) -> Frame:
        listed = [
            {
                "node": agent,
                "job": boot,
                "rank": rank,
                "scope": "step",
                "step": sequence,
                "start_ns": sequence * 1_000 + rank,
            }
            for rank in range(rows)
        ]
        batch = Batch(STEPS.name, "synthetic", STEPS.from_rows(listed), dropped)
        return Frame(agent, boot, sequence, 1_000_000 + sequence, (batch,), lost)

    return make


Times = npt.NDArray[np.float64]
TRANSFER = 0.004
"""Seconds of the one healthy collective that ends each step."""
BEGIN_NS = 1_700_000_000_000_000_000
PHASE_SHARES = {
    "forward-compute": ("compute", 0.35),
    "backward-compute": ("compute", 0.6),
    "optimizer": ("optimizer", 0.05),
}


def noisy(seed: int, steps: int = 100, ranks: int = 8, jitter: float = 0.02) -> Times:
    """(steps, ranks) of compute seconds around 0.1 s."""
    return 0.1 * np.exp(np.random.default_rng(seed).normal(0, jitter, (steps, ranks)))


def training(
    phases: Mapping[str, tuple[str, Times]],
    *,
    gap: Times | float = 0.0,
    data_wait: Times | float | None = None,
    pause: Times | float = 0.0,
    stages: int = 1,
    order: Any = None,
    skew_ns: int = 0,
    in_pipeline: bool = False,
) -> dict[str, pa.Table]:
    """Rows of a job whose ranks run `phases` (name -> kind, seconds by step and rank) and meet in one all-reduce a step.

    `gap` is time in which a rank's GPU has nothing to do before it comes to the collective, `pause` what all ranks stop for
    after it. Ranks are counted stage by stage, four to a node, `order` renames them; with `in_pipeline` the stages of a
    replica wait for each other with nothing on their GPUs before the collective.
    """
    own = np.sum([seconds for _, seconds in phases.values()], axis=0) + gap
    steps, ranks = own.shape
    replicas = ranks // stages
    ready = np.tile(own.reshape(steps, stages, replicas).max(axis=1), (1, stages)) if in_pipeline else own
    reached = ready.max(axis=1, keepdims=True) + TRANSFER
    duration = np.broadcast_to(reached + (np.reshape(pause, (-1, 1)) if np.ndim(pause) else pause), own.shape)
    computed = np.sum([seconds for kind, seconds in phases.values() if kind in ("compute", "optimizer")], axis=0)
    rank, step = np.tile(np.arange(ranks), steps), np.repeat(np.arange(steps), ranks)
    started = BEGIN_NS + np.round((np.cumsum(duration[:, 0]) - duration[:, 0]) * 1e9).astype(np.int64)
    place = {
        "job": "train",
        "rank": (np.arange(ranks) if order is None else np.asarray(order))[rank],
        "dp": rank % replicas,
        "pp": rank // replicas if stages > 1 else None,
        "node": [f"node{each // 4}" for each in rank],
        "step": step,
        "start_ns": started[step] + rank * skew_ns,
        "clock": [f"realtime@node{each // 4}" for each in rank],
    }
    told = {
        "scope": "step",
        "duration_ns": _ns(duration),
        "busy_ns": _ns(computed + reached - ready),
        "compute_ns": _ns(computed),
        "communication_ns": _ns(reached - ready),
        "exposed_communication_ns": _ns(reached - ready),
        "idle_ns": _ns(duration - computed - reached + ready),
        "data_wait_ns": None if data_wait is None else _ns(np.broadcast_to(data_wait, own.shape)),
    }
    joined = {
        "sequence": step,
        "communicator": "world",
        "operation": "all_reduce",
        "message_bytes": 1 << 28,
        "nranks": ranks,
        "duration_ns": _ns(reached - ready),
        "timing": "kernel_gpu",
    }
    named = [
        PHASES.from_columns(place | {"phase": name, "kind": kind, "duration_ns": _ns(seconds)})
        for name, (kind, seconds) in phases.items()
    ]
    return {
        "steps": pa.Table.from_batches([STEPS.from_columns(place | told)]),
        "phases": pa.Table.from_batches(named),
        "collectives": pa.Table.from_batches([COLLECTIVES.from_columns(place | joined)]),
    }


def _ns(seconds: Times) -> npt.NDArray[np.int64]:
    return np.round(np.ravel(seconds) * 1e9).astype(np.int64)


def split(compute: Times) -> dict[str, tuple[str, Times]]:
    """Compute as forward, backward and optimizer."""
    return {name: (kind, compute * share) for name, (kind, share) in PHASE_SHARES.items()}


@pytest.fixture
def train() -> Callable[..., dict[str, pa.Table]]:
    """`training` over compute seconds (split into the usual phases), or over phases as they are given."""

    def make(work: Times | Mapping[str, tuple[str, Times]], **how: Any) -> dict[str, pa.Table]:
        return training(work if isinstance(work, Mapping) else split(work), **how)

    return make
