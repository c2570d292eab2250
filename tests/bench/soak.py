"""Do collector and agent grow? Both run for hours, in which all that they keep comes, is merged and goes many times.

    python tests/bench/soak.py [--quick] [--json] [--hours H] [--state DIR] [--streams N] [--report]

A real collector takes frames of N made-up agents (16 unless told otherwise, 8 ranks each, 100 clusters of kernels a rank
every five seconds, one job after another, every other one with a slow rank) that are killed at random and send again what was
not acknowledged, and of two real agents with the sources synthetic, nvml (over a fake library) and host, of which one is
stopped or killed every few minutes. Tables are kept for 5 to 40 minutes. Meanwhile questions are asked, one in a while past
its bound, /metrics is scraped, and the steps that were acknowledged are counted in the store: each once.

Memory, descriptors, threads and disk are sampled every minute. Flat is a series whose slope over the last two thirds of a
run, less twice its standard error, is no more than 2 % of its mean an hour, and whose error is small enough to say so.

With `--state` outcomes are kept in a folder: a later call goes on until H hours are together, each call a run with a seed of
its own; `--report` tells what there is, also while another process runs. `--quick` is one minute.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

from journal import ROOT, code_of
from soak_flat import flatness
from soak_processes import Cast, on_disk

from warpline_proto.client import QueryClient
from warpline_proto.errors import QueryError

STREAMS: Final = 16
RANKS: Final = 8
SAMPLE_SECONDS: Final = 60.0
QUICK_SAMPLE_SECONDS: Final = 1.0
ASK_SECONDS: Final = 5.0
SCRAPE_SECONDS: Final = 15.0
JOB_SECONDS: Final = 600.0
QUICK_JOB_SECONDS: Final = 25.0
QUICK_HOURS: Final = 60.0 / 3_600.0
MISSING_MAX: Final = 20
QUESTIONS: Final = (
    "SELECT job, rank, count(*) AS steps, avg(duration_ns) AS mean_ns FROM steps GROUP BY ALL ORDER BY mean_ns DESC LIMIT 20",
    "SELECT kernel_id, sum(count) AS calls, sum(sum_ns) AS total_ns FROM kernel_clusters GROUP BY ALL ORDER BY 3 DESC LIMIT 20",
    "SELECT node, avg(power_watts) AS watts, max(temperature_celsius) AS celsius FROM device_samples GROUP BY ALL",
    "SELECT kind, state, count(*) AS findings FROM findings GROUP BY ALL",
    "SELECT source, subject, state, count(*) AS told FROM source_health GROUP BY ALL ORDER BY told DESC LIMIT 50",
    "SELECT * FROM agents QUALIFY row_number() OVER (PARTITION BY agent ORDER BY time_ns DESC) = 1",
    "SELECT c.job, c.rank, sum(c.sum_ns) AS ns, avg(d.power_watts) AS watts FROM kernel_clusters c JOIN device_samples d "
    "ON d.gpu_uuid = c.gpu_uuid AND d.time_ns BETWEEN c.start_ns AND c.end_ns GROUP BY ALL LIMIT 200",
    "SELECT count(*) AS rows FROM kernel_clusters a, kernel_clusters b, kernel_clusters c WHERE a.p50_ns + b.p50_ns = c.p50_ns",
)
"""The last one does not end, and is ended by its bound."""
BOUND_SECONDS: Final = 1.0
JUDGED_SECONDS: Final = 1_200.0
"""A run that is shorter says nothing of growth."""
SERIES: Final = {
    "collector_rss_mb": ("collector", "rss_mb"), "collector_pss_mb": ("collector", "pss_mb"),
    "collector_own_rss_mb": ("collector", "own_rss_mb"), "collector_own_pss_mb": ("collector", "own_pss_mb"),
    "collector_fds": ("collector", "own_fds"), "collector_threads": ("collector", "own_threads"),
    "engine_mb": ("page", "engine_mb"), "arrow_mb": ("page", "arrow_mb"),
    "agent_rss_mb": ("agent", "rss_mb"), "agent_pss_mb": ("agent", "pss_mb"),
    "agent_fds": ("agent", "fds"), "agent_threads": ("agent", "threads"),
    "store_mb": ("store", "mb"), "store_files": ("store", "files"), "database_mb": ("page", "database_mb"),
    "agent_disk_mb": ("spool", "mb"),
}  # fmt: skip
_PAGE: Final = {
    "warpline_collector_engine_memory_bytes": "engine_mb",
    "warpline_collector_arrow_memory_bytes": "arrow_mb",
    "warpline_store_database_bytes": "database_mb",
    "warpline_store_segments": "segments",
    "warpline_store_hot_rows": "hot_rows",
    "warpline_collector_rows_total": "rows",
}


def main() -> int:
    """Run, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one minute")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--hours", type=float, default=2.0, help="of all runs in the state together")
    parser.add_argument("--state", type=Path, help="a folder that keeps outcomes, to go on with later")
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--report", action="store_true", help="tell what the state says, without a run")
    options = parser.parse_args()
    if options.quick:
        options.hours = QUICK_HOURS
    if options.report and not options.state:
        parser.error("--report needs --state")
    if options.state:
        figures = with_state(options.state, options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            figures = with_state(Path(folder), options)
    print(json.dumps(figures, indent=2) if options.json else table(figures))
    return 0 if figures["sound"] else 1


def with_state(state: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Go on until there are enough hours; all runs of the state."""
    state.mkdir(parents=True, exist_ok=True)
    file = state / "samples.jsonl"
    hours = summary(file)["hours"] if file.exists() else 0.0
    if not options.report and hours < options.hours:
        Run(state, options.streams, quick=options.quick).go((options.hours - hours) * 3_600.0)
    return summary(file)


class Run:
    """One run: processes from start to end, a sample a line."""

    def __init__(self, state: Path, streams: int, *, quick: bool) -> None:
        self._seed = time.time_ns() // 10**9 % 10**9
        self._state, self._number, self._quick = state, streams, quick
        self._cast = Cast(state, streams, self._seed, QUICK_JOB_SECONDS if quick else JOB_SECONDS, quick=quick)
        self._file = (state / "samples.jsonl").open("a")
        self._begun = time.monotonic()
        self._page: dict[str, float] = {}
        self._stopped = False
        self._wrong: list[str] = []
        self.counts = dict.fromkeys(
            ("asked", "bounded", "failed", "scraped", "unhealthy", "counted", "lost", "duplicates"), 0
        )

    def go(self, seconds: float) -> None:
        """For so long, or until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, frame: setattr(self, "_stopped", True))
        self._cast.start()
        every = QUICK_SAMPLE_SECONDS if self._quick else SAMPLE_SECONDS
        due = {"sample": every, "ask": ASK_SECONDS, "scrape": 1.0}
        try:
            with QueryClient(self._cast.address) as client:
                while not self._stopped and (at := time.monotonic() - self._begun) < seconds:
                    self._cast.turn()
                    if at >= due["ask"]:
                        due["ask"] = at + ASK_SECONDS
                        self._ask(client)
                    if at >= due["scrape"]:
                        due["scrape"] = at + min(SCRAPE_SECONDS, every)
                        self._scrape()
                    if at >= due["sample"]:
                        due["sample"] = at + every
                        self._sample()
                    time.sleep(0.25)
        finally:
            self._sample()
            statuses = self._cast.end()
            if bad := {name: status for name, status in statuses.items() if status != 0}:
                self._wrong.append(f"ended with {bad}")
            self._write({"run": self._seed, "ended": True, "wrong": self._wrong})
            self._file.close()

    def _ask(self, client: QueryClient) -> None:
        """The next question, and after each round of them whether what was acknowledged is there."""
        sql = QUESTIONS[self.counts["asked"] % len(QUESTIONS)]
        self.counts["asked"] += 1
        try:
            client.query(sql, seconds_max=BOUND_SECONDS if sql == QUESTIONS[-1] else 30.0)
        except QueryError as error:
            self.counts["bounded" if sql == QUESTIONS[-1] else "failed"] += 1
            if sql != QUESTIONS[-1]:
                self._wrong.append(f"{sql[:60]}: {error}"[:300])
        if self.counts["asked"] % 4 == 0:
            self._count(client)

    def _count(self, client: QueryClient) -> None:
        """Acknowledged steps of the job that runs: all there, each once."""
        status = self._streams()
        if not status:
            return
        sql = (
            "SELECT node, count(*) AS rows, count(DISTINCT (rank, step)) AS told, max(step) AS newest FROM steps "
            f"WHERE job = '{status['job']}' AND scope = 'step' GROUP BY node"
        )
        try:
            found = {row["node"]: row for row in client.query(sql).to_pylist()}
        except QueryError as error:
            self.counts["failed"] += 1
            self._wrong.append(f"counting: {error}"[:300])
            return
        for node, acked in status["acked_steps"].items():
            row = found.get(node, {"rows": 0, "told": 0, "newest": -1})
            newest = max(acked, row["newest"])
            self.counts["counted"] += row["told"]
            self.counts["lost"] += RANKS * (newest + 1) - row["told"]
            self.counts["duplicates"] += row["rows"] - row["told"]

    def _scrape(self) -> None:
        """/metrics, and whether /healthz is red."""
        base = f"http://127.0.0.1:{self._cast.page}"
        try:
            with urllib.request.urlopen(f"{base}/metrics", timeout=10.0) as answer:
                lines = answer.read().decode().splitlines()
            with urllib.request.urlopen(f"{base}/healthz", timeout=10.0):
                self.counts["scraped"] += 1
        except urllib.error.HTTPError as error:
            self.counts["unhealthy"] += 1
            self._wrong.append(f"health: {error.read().decode()}"[:300])
            return
        except OSError as error:
            self.counts["failed"] += 1
            self._wrong.append(f"scrape: {error}"[:300])
            return
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#") and "{" not in line)
        for name, short in _PAGE.items():
            if name in values:
                scale = 1e6 if short.endswith("_mb") else 1.0
                self._page[short] = round(float(values[name]) / scale, 3)

    def _sample(self) -> None:
        """One line."""
        self._write({
            "run": self._seed, "at": round(time.monotonic() - self._begun, 1), "unix": round(time.time()),
            "code": code_of(ROOT / "collector", ROOT / "agent", ROOT / "proto", ROOT / "analysis"),
            "streams": self._number, "collector": self._cast.collector.taken(),
            "agent": self._cast.agents[0].taken(), "generator": self._cast.streams.taken(), "page": self._page,
            "store": on_disk(self._state / "store"), "spool": on_disk(self._state / "steady"), "counts": self.counts,
            "fleet": {name: value for name, value in self._streams().items() if isinstance(value, int)},
            "restarts": self._cast.restarts, "deaths": self._cast.deaths, "wrong": self._wrong[:MISSING_MAX],
        })  # fmt: skip

    def _streams(self) -> dict[str, Any]:
        try:
            told: dict[str, Any] = json.loads(self._cast.status.read_text())
        except (OSError, ValueError):
            return {}
        return told

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()


def summary(file: Path) -> dict[str, Any]:
    """All runs together, and each series of each run."""
    runs: dict[int, list[dict[str, Any]]] = {}
    wrong: list[str] = []
    for line in file.read_text().splitlines():
        entry = json.loads(line)
        if "ended" in entry:
            wrong += entry["wrong"]
        else:
            runs.setdefault(entry["run"], []).append(entry)
    told = [one_run(samples) for samples in runs.values()]
    totals = (
        {name: sum(run[name] for run in told) for name in told[0] if isinstance(told[0][name], int)} if told else {}
    )
    seconds = sum(run["seconds"] for run in told)
    series = [(run, name, row) for run in told for name, row in run["series"].items()]
    growing = [f"{run['seed']}: {name}" for run, name, row in series if row["verdict"] == "growing"]
    deaths = [name for run in told for name in run["deaths"]]
    exact = not any(totals.get(each) for each in ("lost", "duplicates", "refused"))
    return {
        "hours": round(seconds / 3_600.0, 3),
        "runs": len(told),
        "seeds": [run["seed"] for run in told],
        **{name: value for name, value in totals.items() if name != "seed"},
        "deaths": deaths,
        "wrong": wrong,
        "growing": growing,
        "sound": bool(told) and exact and not growing and not deaths,
        "each": told,
    }


def one_run(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """What came of one run, and how flat each series is."""
    last, seconds = samples[-1], samples[-1]["at"]
    series = {}
    for name, (whose, what) in SERIES.items():
        known = [(each["at"], each[whose][what]) for each in samples if what in each[whose]]
        if known:
            found = flatness([at for at, _ in known], [value for _, value in known])
            series[name] = {
                key: round(value, 3) if math.isfinite(value) else None for key, value in vars(found).items()
            }
            series[name]["verdict"] = found.verdict if seconds >= JUDGED_SECONDS else "too short"
    cores = {
        f"{who}_core_percent": round(100.0 * last[who].get("cpu_seconds", 0.0) / max(seconds, 1.0), 1)
        for who in ("collector", "agent", "generator")
    }
    return {
        "seed": last["run"],
        "seconds": seconds,
        "code": last["code"],
        **{name: int(value) for name, value in (last["counts"] | last["fleet"]).items()},
        "restarts": last["restarts"],
        "stored_rows": int(last["page"].get("rows", 0)),
        "deaths": last["deaths"],
        **cores,
        "series": series,
    }


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    counted = ("asked", "bounded", "failed", "kills", "restarts", "stored_rows", "counted", "lost", "duplicates")
    lines = [
        f"{figures['hours']} h in {figures['runs']} runs (seeds {figures['seeds']}): "
        + ", ".join(f"{name} {figures.get(name, 0):,}" for name in counted)
        + f"; died unasked: {figures['deaths'] or 'none'}; growing: {figures['growing'] or 'none'}."
    ]
    for run in figures["each"]:
        lines += [
            "",
            f"Seed {run['seed']}, {run['seconds'] / 3600:.2f} h: collector {run['collector_core_percent']} % of a core, "
            f"agent {run['agent_core_percent']} %.",
            "",
            "| series | least | mean | most | slope an hour | error | last third / first | |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {name} | {row['least']} | {row['mean']} | {row['most']} | {row['slope']} | {row['error']} | {row['ratio']} | "
            f"{row['verdict']} |"
            for name, row in run["series"].items()
        ]
    return "\n".join(lines + [f"- {each}" for each in figures["wrong"][:MISSING_MAX]])


if __name__ == "__main__":
    raise SystemExit(main())
