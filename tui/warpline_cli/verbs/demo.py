"""`warpline demo`: collector, agents and detectors for real, GPUs made up, faults injected, findings as they come."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from warpline_cli import demo_energy, screen
from warpline_cli.streams import tell

if TYPE_CHECKING:
    from warpline_cli.processes import Processes
    from warpline_cli.scenario import Scenario
    from warpline_proto.client import QueryClient

SECONDS: Final = 16.0
SECONDS_MIN: Final = 10.0
SECONDS_MAX: Final = 600.0
START_SECONDS: Final = 4.0
"""Made-up time begins so long after the start, when every agent is there."""
READY_SECONDS_MAX: Final = 60.0
"""On a busy machine everything is there only so long after the start; one that ends is told at once."""
LAST_PASS_SECONDS: Final = 3.0
"""After the last row the analysis has at least this long for its last pass ..."""
LAST_PASS_SECONDS_MAX: Final = 100.0
"""... and on a busy machine up to this long, until a pass has begun that late: it rests four times as long as it took."""
LEFT: Final = "Left before the run was over: not judged."
TOO_BUSY: Final = (
    f"No pass of the analysis saw the end of the run within {LAST_PASS_SECONDS_MAX:g} s, so nothing is judged: this machine is "
    "too busy. Try again when it is not."
)
FLUSH_SECONDS: Final = 1.0
"""Agents have sent their last rows so long after these were made."""
LOOK_SECONDS: Final = 5.0
LOOK_ANSWER_SECONDS: Final = 10.0
"""A closer look at the end takes so much of the jobs' time, and waits so long for it."""
POLL_SECONDS: Final = 0.5
ANALYSIS_SECONDS: Final = 1.0
_BROKEN: Final = "SELECT source, subject, reason FROM source_state WHERE state = 'dead' ORDER BY time_ns"
_PASS: Final = (
    "SELECT max(time_ns - duration_ns) AS begun_ns FROM source_health WHERE source = 'analysis' AND subject = 'pass'"
)
_FINDINGS: Final = "SELECT id, document FROM current_findings ORDER BY opened_ns, id"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `warpline demo`."""
    parser.add_argument(
        "--seed", type=int, default=1, help="moves victim and fault; some seeds are healthy (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long the jobs are watched (%(default)s)")
    parser.add_argument("--tui", action="store_true", help="open the terminal screen on it; `q` leaves")
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, help="keep store, settings and logs in this new or empty folder"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object at the end; what happens meanwhile is told apart"
    )
    parser.epilog = "Exit 0: what was injected was found, and nobody else accused; 1: not so, or something did not run."


def run(options: argparse.Namespace) -> int:
    """0: found what was injected and accused nobody else; 1: not so, or something did not run."""
    if not options.json:
        return _run(options)[0]
    with contextlib.redirect_stdout(sys.stderr):
        code, document = _run(options)
    print(json.dumps(document, indent=2))
    return code


def _run(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """The exit code, and what happened as JSON has it."""
    from warpline_cli.processes import ChildEnded
    from warpline_cli.scenario import scenario

    _check(options)
    plan = scenario(options.seed)
    with _folder(options.keep) as folder:
        try:
            found, unjudged = _play(options, plan, folder)
        except ChildEnded as error:
            tell(f"demo: {error}")
            return 1, {"seed": plan.seed, "error": str(error)}
    expected, outcome = plan.expectation(), plan.judge(found)
    document = {
        "seed": plan.seed, "injected": None if expected is None else expected.words, "judged": not unjudged,
        "found": outcome.found, "wrongly_accused": list(outcome.wrong), "findings": found,
    }  # fmt: skip
    return _tell(plan, found, unjudged), document


def _check(options: argparse.Namespace) -> None:
    from importlib.util import find_spec

    from warpline_proto.errors import ConfigError

    if not SECONDS_MIN <= options.seconds <= SECONDS_MAX:
        raise ConfigError(f"--seconds {options.seconds:g}", f"from {SECONDS_MIN:g} to {SECONDS_MAX:g}")
    if options.seed < 1:
        raise ConfigError(f"--seed {options.seed}", "seeds start at 1")
    if options.tui and options.json:
        raise ConfigError("--tui draws on standard output, where --json prints", "leave one of them out")
    for name in ("duckdb", "textual") if options.tui else ("duckdb",):
        if find_spec(name) is None:  # told now, not by a process that was started for nothing
            raise ModuleNotFoundError(name=name)
    if options.tui:
        screen.check()
    if options.keep is not None and options.keep.exists() and any(options.keep.iterdir()):
        raise ConfigError(f"--keep {options.keep}: the folder is not empty", "name a new one")


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="warpline-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _play(options: argparse.Namespace, plan: Scenario, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Run everything; the findings that are open at the end, and why they are not to be judged, "" where they are."""
    from warpline_cli.processes import Processes, free_address
    from warpline_proto.client import QueryClient

    address = free_address()
    with Processes(folder) as processes:
        started = time.monotonic()
        agents = _start(processes, plan, folder, address, options.seconds)
        _say(started, f"seed {plan.seed}: starting a collector and {agents} agents; every GPU is made up")
        with QueryClient(address) as client:
            _await(processes, lambda: _answers(client, agents))
            _say(started, f"{agents} agents send to the collector at {address}")
            if options.tui:
                if code := screen.show(client.query):
                    raise SystemExit(code)
                over = time.monotonic() - started >= START_SECONDS + options.seconds + LAST_PASS_SECONDS
                return _findings(client), "" if over else LEFT
            return _watch(processes, client, started, START_SECONDS + options.seconds)


def _start(processes: Processes, plan: Scenario, folder: Path, address: str, seconds: float) -> int:
    from warpline_cli.scenario import SIMULATED_SECONDS, agent_settings
    from warpline_proto.config import render

    settings = f'[collector]\nlisten = "{address}"\ndirectory = "{folder / "store"}"\n'
    settings += f"[collector.analysis]\nperiod_seconds = {ANALYSIS_SECONDS}\n"
    (folder / "collector.toml").write_text(settings)
    processes.start("collector", ["collector", "--config", str(folder / "collector.toml")])
    nodes = plan.nodes(time.time_ns() + int(START_SECONDS * 1e9), SIMULATED_SECONDS / seconds)
    for node in nodes:
        path = folder / f"{node.node}.toml"
        path.write_text(render(agent_settings(node, address, str(folder / f"spool-{node.node}"))))
        processes.start(node.node, ["agent", "--config", str(path)])
    return len(nodes)


def _await(processes: Processes, condition: Callable[[], bool]) -> None:
    from warpline_cli.processes import ChildEnded

    end = time.monotonic() + READY_SECONDS_MAX
    while not condition():
        processes.check()
        if time.monotonic() > end:
            raise ChildEnded(f"not everything was there within {READY_SECONDS_MAX:g} s")
        time.sleep(POLL_SECONDS / 2)


def _answers(client: QueryClient, agents: int) -> bool:
    from warpline_proto.errors import QueryError

    try:
        return client.status().agents >= agents
    except QueryError:
        return False


def _watch(
    processes: Processes, client: QueryClient, started: float, seconds: float
) -> tuple[list[dict[str, Any]], str]:
    """Print findings as they come and go, until a pass has begun after the last rows of the jobs, `seconds` from the start."""
    last_rows_ns = time.time_ns() + int((started + seconds + FLUSH_SECONDS - time.monotonic()) * 1e9)
    seen: dict[str, dict[str, Any]] = {}
    judged, over_seconds = False, 0.0
    while not judged and over_seconds < LAST_PASS_SECONDS_MAX:
        time.sleep(POLL_SECONDS)
        processes.check()
        over_seconds = time.monotonic() - started - seconds
        judged = over_seconds >= LAST_PASS_SECONDS and _passed(client, last_rows_ns)
        now = {finding["id"]: finding for finding in _findings(client)}
        for identifier in now.keys() - seen.keys():
            _say(started, _told(now[identifier]))
        for identifier in seen.keys() - now.keys():
            _say(started, f"resolved: {identifier}")
        seen = now
    for row in client.query(_BROKEN).to_pylist():
        _say(started, f"broken: {row['source']} {row['subject']}: {row['reason']}")
    _say(started, demo_energy.line(client))
    _say(started, _closer_look(client, seen.values()))
    return list(seen.values()), "" if judged else TOO_BUSY


def _passed(client: QueryClient, last_rows_ns: int) -> bool:
    """Whether a pass that began after the last rows of the jobs is done."""
    begun_ns = client.query(_PASS)["begun_ns"][0].as_py()
    return begun_ns is not None and begun_ns >= last_rows_ns


def _closer_look(client: QueryClient, found: Iterable[Mapping[str, Any]]) -> str:
    """The last raw kernels of the first rank that is accused, or of some rank, fetched from its node; in words."""
    from warpline_cli import fetching
    from warpline_cli.scenario import SICK
    from warpline_proto.errors import WarplineError

    subjects = [finding["subject"] for finding in found]
    job, rank = next(((each["job"], each["rank"]) for each in subjects if each.get("rank") is not None), (SICK, 0))
    try:
        capture, node = fetching.ask(client, fetching.Wanted(job, rank, LOOK_SECONDS))
    except WarplineError as error:  # nothing of that rank has come
        return f"no closer look: {error}"
    answer = fetching.wait(client, capture, node, LOOK_ANSWER_SECONDS)
    what = f"kernels of rank {rank} of job {job} one by one, from the ring on {node}"
    return f"closer look {answer.id}: {what}: {answer.detail or answer.state}"


def _findings(client: QueryClient) -> list[dict[str, Any]]:
    import json

    return [json.loads(row["document"]) for row in client.query(_FINDINGS).to_pylist()]


def _told(finding: dict[str, Any]) -> str:
    from warpline_cli.findings_text import finding_lines

    return "\n          ".join(finding_lines(finding | {"evidence": []}))


def _say(started: float, words: str) -> None:
    print(f"{time.monotonic() - started:6.1f} s  {words}", flush=True)


def _tell(plan: Scenario, found: list[dict[str, Any]], unjudged: str) -> int:
    """The truth beside what was said; nothing is judged of a run that was left early, or that the analysis did not see whole."""
    expected = plan.expectation()
    outcome = plan.judge(found)
    print(f"\ninjected: {expected.words if expected else 'nothing, this run is healthy'}")
    if unjudged:
        print(unjudged)
        return 0 if unjudged == LEFT else 1
    if outcome.right:
        named = (
            "Found what was injected, and accused nobody else."
            if expected
            else "Nothing was wrong, and nobody was accused."
        )
        print(named)
        return 0
    if not outcome.found:
        print("Not found: what was injected was not named.")
    if outcome.wrong:
        print(f"Wrongly accused: {', '.join(outcome.wrong)}.")
    return 1
