"""Part `load`: a collector, the agents of so many ranks at once, and a user who asks something each second."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from collector_rows import RANKS, ROWS_PER_SECOND, node_name
from collector_watch import Watch

from warpline_cli.pki.keeping import Keeping
from warpline_proto.client import QueryClient
from warpline_proto.errors import QueryError
from warpline_proto.tls import Tls

HERE: Final = Path(__file__).parent
PROCESSES: Final = 2
"""Generators."""
SLACK: Final = 1.3
"""Making frames may take so much longer than was guessed."""
SETTLE_SECONDS: Final = 5
"""From the first frame on, before anything counts: every stream has begun by then."""
DRAIN_SECONDS: Final = 60.0
BEHIND_SECONDS_MAX: Final = 2.0
"""Where the last second's frames wait longer for credit than this, the load is not sustained."""
ACKED_SHARE_MIN: Final = 0.99
ACK_MS_MAX: Final = 5_000.0
"""The load is sustained where so much of what is sent is acknowledged, and 99 of 100 frames within this time."""
QUESTIONS: Final = (
    "SELECT job, rank, max(step) AS step FROM steps WHERE start_ns > {since} GROUP BY job, rank "
    "ORDER BY job, rank LIMIT 100",
    "SELECT job, avg(duration_ns) / 1e6 AS step_ms, max(duration_ns) / 1e6 AS longest FROM steps WHERE start_ns > {since} "
    "GROUP BY job",
    "SELECT node, avg(power_watts) AS watts, max(temperature_celsius) AS hottest FROM device_samples WHERE time_ns > {since} "
    "AND job = 'job-001' GROUP BY node ORDER BY watts DESC LIMIT 20",
    "SELECT kernel_id, sum(count) AS kernels, sum(sum_ns) / 1e9 AS seconds FROM kernel_clusters WHERE job = 'job-002' AND "
    "start_ns > {since} GROUP BY kernel_id ORDER BY seconds DESC LIMIT 10",
    "SELECT node, device, max(value) - min(value) AS bytes FROM link_counters WHERE time_ns > {since} "
    "AND counter = 'port_xmit_data' GROUP BY node, device ORDER BY bytes LIMIT 20",
    "SELECT kind, severity, summary FROM current_findings LIMIT 50",
)
"""Small questions about the last ten seconds, one each second in turn."""
SINCE_NS: Final = 10 * 10**9


@dataclass
class Load:
    """What agents said, added up by `second` of the run."""

    acks_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    newest: dict[int, dict[str, Any]] = field(default_factory=dict)

    def total(self, name: str) -> int:
        """Over all generators."""
        return sum(each[name] for each in self.newest.values())


class Generators:
    """The agents' processes."""

    def __init__(self, nodes: int, seconds: int, folder: Path) -> None:
        edges = np.linspace(0, nodes, PROCESSES + 1).astype(int).tolist()
        self.load = Load()
        self._mutex = threading.Lock()
        self._seconds = seconds
        self._processes = [
            subprocess.Popen(
                [
                    sys.executable, str(HERE / "collector_agents.py"), str(first), str(end - first), str(seconds),
                    str(folder / f"frames-{first}"),
                ],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for first, end in itertools.pairwise(edges)
        ]  # fmt: skip

    def make(self) -> int:
        """Let them make their frames; when the first ones are due, in nanoseconds."""
        guessed = max(each["guess_seconds"] for each in self._all_hear())
        start_ns = (int(time.time() + guessed * SLACK) + 12 + self._seconds // 60) * 10**9
        self._all_say({"start_ns": start_ns})
        self._all_hear()
        return start_ns

    def begin(self, **told: Any) -> None:
        """Let them connect, and send when the time has come."""
        self._all_say(told)
        self._threads = [threading.Thread(target=self._follow, args=(at,), daemon=True) for at in range(PROCESSES)]
        for thread in self._threads:
            thread.start()

    def clear(self) -> None:
        """What counts begins now."""
        with self._mutex:
            self.load.acks_ms.clear()
            self.load.late_ms.clear()

    def acked(self) -> dict[int, tuple[float, int]]:
        """When each generator last told how many frames were acknowledged, and how many."""
        with self._mutex:
            return {at: (each["time"], each["acked"]) for at, each in self.load.newest.items()}

    def acked_per_second(self, before: dict[int, tuple[float, int]]) -> float:
        """Frames acknowledged since, by the generators' own clocks."""
        return sum(
            (acked - before[at][1]) / (then - before[at][0])
            for at, (then, acked) in self.acked().items()
            if at in before and then > before[at][0]
        )

    def finish(self, seconds: float) -> bool:
        """Whether all have sent everything and heard of it within so long."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0.0))
        done = not any(thread.is_alive() for thread in self._threads)
        for process in self._processes:
            process.kill()
            process.wait()
        return done

    def _follow(self, at: int) -> None:
        stdout = self._processes[at].stdout
        assert stdout
        for line in stdout:
            told = json.loads(line)
            if told.get("done"):
                return
            with self._mutex:
                self.load.acks_ms += told.pop("acks_ms")
                self.load.late_ms.append(told["late_ms"])
                self.load.newest[at] = told

    def _all_say(self, told: dict[str, Any]) -> None:
        for process in self._processes:
            assert process.stdin
            process.stdin.write(json.dumps(told) + "\n")
            process.stdin.flush()

    def _all_hear(self) -> list[dict[str, Any]]:
        return [json.loads(process.stdout.readline()) for process in self._processes if process.stdout]


class Asker:
    """A user who asks one question each second, over the network."""

    def __init__(self, client: QueryClient) -> None:
        self.seconds: list[float] = []
        self.failed = 0
        self._client = client
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def begin(self) -> None:
        """Ask from now on."""
        self._thread.start()

    def end(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _loop(self) -> None:
        at = 0
        while not self._stop.wait(1.0):
            begun = time.perf_counter()
            try:
                self._client.query(QUESTIONS[at % len(QUESTIONS)].format(since=time.time_ns() - SINCE_NS))
                self.seconds.append(time.perf_counter() - begun)
            except QueryError as error:
                print(f"a question failed: {error}", file=sys.stderr)
                self.failed += 1
            at += 1


@contextmanager
def collector(folder: Path, settings: str = "") -> Iterator[tuple[int, str]]:
    """A collector as an operator starts it, with settings of its own where told: its process, and where it listens."""
    file = folder / "config.toml"
    file.write_text(settings)
    command = [
        sys.executable,
        "-m",
        "warpline_cli.main",
        "collector",
        "--config",
        str(file),
        "--store",
        str(folder / "store"),
    ]
    with subprocess.Popen([*command, "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process.pid, _address(process)
        finally:
            process.terminate()
            process.wait(120)


def _address(process: subprocess.Popen[str]) -> str:
    """Where it listens; everything else it says goes on to standard error."""
    assert process.stderr
    told = iter(process.stderr)
    for line in told:
        sys.stderr.write(line)
        if " listens on " in line:
            threading.Thread(target=lambda: [sys.stderr.write(each) for each in told], daemon=True).start()
            return line.split(" listens on ")[1].split(",")[0]
    raise RuntimeError("the collector did not start")


def keys(folder: Path, nodes: int) -> tuple[Tls, Tls, str]:
    """Certificates for a collector and a user, and where those of the nodes lie: of an authority made for this load."""
    keeping = Keeping(folder)
    keeping.start(30)
    collector = Tls.within(str(keeping.issue("collector", "collector", ("127.0.0.1", "localhost"))))
    user = Tls.within(str(keeping.issue("viewer", "user")))
    places = [str(keeping.issue("agent", node_name(node))) for node in range(nodes)]
    return collector, user, places[0].replace(node_name(0), "{node}")


def load(nodes: int, seconds: int, folder: Path, settings: str = "", *, tls: bool = False) -> dict[str, Any]:
    """One load for so long."""
    folder.mkdir(parents=True)
    shown, told = Tls(), {}
    if tls:
        mine, shown, told["keys"] = keys(folder / "keys", nodes)
        files = {"certificate": mine.certificate, "key": mine.key, "authority": mine.authority}
        settings += "[tls]\nalways = true\n" + "".join(f'{name} = "{file}"\n' for name, file in files.items())
    generators = Generators(nodes, seconds + SETTLE_SECONDS, folder)
    start_ns = generators.make()
    with collector(folder, settings) as (pid, address):
        generators.begin(address=address, **told)
        watch, asker = Watch(pid), Asker(QueryClient(address, shown))
        time.sleep(max(start_ns / 1e9 + SETTLE_SECONDS - time.time(), 0.0))
        generators.clear()
        before = generators.acked()
        begun = time.time()
        watch.begin()
        asker.begin()
        time.sleep(max(begun + seconds - time.time(), 0.0))
        rate = generators.acked_per_second(before)
        core_percent = watch.end()
        asker.end()
        figures = {"seconds": seconds} | _figures(generators.load, nodes, rate, asker)
        drained = generators.finish(DRAIN_SECONDS)
        stored = _stored(address, shown)
    size = sum(path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file())
    return {
        "ranks": nodes * RANKS,
        "sustained": drained and figures["sustained"],
        "core_percent": round(core_percent, 1),
        "rss_mb": round(watch.tree.peak_rss_bytes / 2**20),
        "pss_mb": round(watch.tree.peak_pss_bytes / 2**20),
        **{name: each for name, each in figures.items() if name != "sustained"},
        "all_acked": drained,
        "rows_stored": stored,
        "rows_sent": generators.load.total("sent") * ROWS_PER_SECOND,
        "store_bytes": size,
    }


def _stored(address: str, shown: Tls) -> int:
    """Rows that agents sent, as the collector counts them."""
    with QueryClient(address, shown) as client:
        return int(client.status().rows)


def _figures(load: Load, nodes: int, rate: float, asker: Asker) -> dict[str, Any]:
    late = max(load.late_ms, default=0.0)
    return {
        "sustained": bool(
            rate >= ACKED_SHARE_MIN * nodes
            and late <= BEHIND_SECONDS_MAX * 1e3
            and load.acks_ms
            and np.quantile(load.acks_ms, 0.99) <= ACK_MS_MAX
            and not load.total("broken")
        ),
        "rows_per_second": round(rate * ROWS_PER_SECOND),
        "ack_p50_ms": _quantile(load.acks_ms, 0.50),
        "ack_p99_ms": _quantile(load.acks_ms, 0.99),
        "ack_max_ms": _quantile(load.acks_ms, 1.0),
        "sent_late_max_ms": late,
        "query_p50_ms": _quantile([1e3 * each for each in asker.seconds], 0.50),
        "query_p95_ms": _quantile([1e3 * each for each in asker.seconds], 0.95),
        "questions": len(asker.seconds),
        "questions_failed": asker.failed,
        "refused": load.total("refused"),
        "broken": load.total("broken"),
        "why": next((each["why"] for each in load.newest.values() if each["why"]), ""),
    }


def _quantile(values: Sequence[float], share: float) -> float | None:
    return round(float(np.quantile(values, share)), 1) if values else None
