"""What the terminal screen costs and how soon it answers: over 10,000 GPUs, and over eight beside nvitop and nvtop.

    python tests/bench/tui.py [--quick] [--json] [--part fleet|keys|node ...] [--size 80x24 ...]
        [--gpus N] [--seconds N] [--rounds N]

The figures of BENCHMARKS.md: `nice -n -5 python tests/bench/tui.py --json` on a machine that does nothing else (without the
right to `nice -n -5`, plain `python tests/bench/tui.py --json`).

`fleet`: a real collector on loopback that is sent a reading of each GPU every second (tui_fleet.py); the program as it is
installed runs on a pseudo-terminal of 200x60 and of 80x24 (terminal.py). `first_screen_s` is from exec to the last byte of the
paint that first shows the whole fleet, the median over rounds, each a new process; CPU time and memory are those of that process
alone while it refreshes once a second for a minute, its start left out; bytes are what came over the pseudo-terminal in that
minute, a second. `keys`: from writing a key to the last byte of the paint that answers it, as the terminal's own text shows,
while the same refreshes go on: cursor moves, changes of screen, and typing into the filter. `node`: the view of one node of
eight GPUs of tests/fakes/nvml.c, read by warpline's real agent, beside nvitop (PyPI) and nvtop (where it is installed), which
read it themselves; the agent and the collector are told apart from the screen. What cannot run is left out, and it is said.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from collector_load import collector
from collector_rows import RANKS
from terminal import Program
from tui_cost import Cost
from tui_fleet import Fleet
from tui_node import node

from warpline_collector.stores.duckdb import DuckDBStore

HERE: Final = Path(__file__).parent
PARTS: Final = ("fleet", "keys", "node")
SIZES: Final = ((200, 60), (80, 24))
GPUS: Final = 10_000
QUICK_GPUS: Final = 400
SECONDS: Final = 60
QUICK_SECONDS: Final = 5
ROUNDS: Final = 5
QUICK_ROUNDS: Final = 1
HISTORY_SECONDS: Final = 30
QUICK_HISTORY_SECONDS: Final = 5
SETTLE_SECONDS: Final = 5
"""After the first screen, before CPU time counts."""
FIRST_SECONDS_MAX: Final = 60.0
ANSWER_SECONDS_MAX: Final = 60.0
"""A key that was not answered by then never is, however busy the machine."""
KEYS: Final = 240
QUICK_KEYS: Final = 24
KEY_PAUSE_SECONDS: Final = (0.1, 0.4)
"""Between an answer and the next key, drawn evenly, so that keys fall anywhere between two refreshes."""
CHOSEN: Final = re.compile("◆ (\\S+ GPU \\d+) ")
FILTER_HINT: Final = "words of node"
FILTER: Final = "node-000"
SETTINGS: Final = "[collector.analysis]\nperiod_seconds = 3600\n"
SWITCH_SECONDS: Final = 0.0002
"""How long telling what a paint says may keep the thread from its turn that reads, and times, the next."""


@contextmanager
def fleet(gpus: int, history: int, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A collector that is sent the rows of so many GPUs each second: its address, and figures of it once it ends."""
    nodes = gpus // RANKS
    store = DuckDBStore(folder / "store")
    store.write([Fleet(nodes).findings(time.time_ns())])
    store.close()
    told: dict[str, Any] = {}
    with collector(folder, SETTINGS) as (pid, address):
        command = [sys.executable, str(HERE / "tui_fleet.py"), address, str(nodes), str(history)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as pushing:
            assert pushing.stdin and pushing.stdout
            try:
                if pushing.stdout.readline() != "stored\n":
                    raise RuntimeError("the history could not be stored")
                yield address, told
                cost = Cost(pid, tree=True)
                time.sleep(SETTLE_SECONDS)
                told["collector_core_percent_alone"] = round(cost.core_percent(), 1)
            finally:
                pushing.stdin.close()
            seconds, late = pushing.stdout.read().split()
            told |= {"seconds_pushed": int(seconds), "seconds_late": int(late)}


def top(address: str, columns: int, lines: int) -> Program:
    """The program as it is installed."""
    words = [sys.executable, "-m", "warpline_cli.main", "top", "--collector", address]
    return Program(words, dict(os.environ), columns, lines)


def complete(gpus: int) -> Callable[[str], bool]:
    """Whether a screen shows the whole fleet: how many GPUs there are, and something of each drawn node."""
    told = {f"{gpus // RANKS} nodes", f"{gpus:,} GPU", f"{gpus} GPU"}
    return lambda text: any(words in text for words in told) and "node-" in text


def refreshed(gpus: int, address: str, size: tuple[int, int], seconds: int, rounds: int) -> dict[str, Any]:
    """First screens, then one program watched for so long."""
    firsts = []
    for _ in range(rounds):
        program = top(address, *size)
        shown = program.shows(complete(gpus), FIRST_SECONDS_MAX)
        if shown is None:
            text = program.screen.text()
            program.close()
            raise RuntimeError(f"the fleet was never shown:\n{text}")
        firsts.append(shown - program.started)
        if len(firsts) < rounds:
            program.close()
    time.sleep(SETTLE_SECONDS)
    begun_bytes, cost = program.bytes, Cost(program.pid)
    time.sleep(seconds)
    told = cost.figures()
    sent = (program.bytes - begun_bytes) / seconds
    program.close()
    return {
        "first_screen_s": round(statistics.median(firsts), 2),
        "first_screen_s_by_round": [round(each, 2) for each in firsts],
        **told,
        "bytes_a_refresh": round(sent),
    }


@dataclass(frozen=True)
class Key:
    """A key, its kind, and whether a screen shows its answer: given the text before and after."""

    kind: str
    typed: bytes
    answered: Callable[[str, str], bool]


def script() -> Iterator[Key]:
    """Keys without end, in turn: the cursor through the fleet, a filter typed and taken away, other screens and back."""
    while True:
        for typed in (b"l", b"j", b"h", b"k", b"l", b"l", b"h", b"h"):
            yield Key("cursor", typed, moved)
        yield Key("filter", b"/", shows(FILTER_HINT))
        for at, letter in enumerate(FILTER):
            yield Key("filter", letter.encode(), written(FILTER[: at + 1]))
        yield Key("escape", b"\x1b", lambda before, after: not written(FILTER)(before, after))
        for typed, words in ((b"2", "gravest first"), (b"1", "accused"), (b"5", "Now:"), (b"1", "accused")):
            yield Key("screen", typed, shows(words))


def moved(before: str, after: str) -> bool:
    """Whether the line that tells of the GPU under the cursor names another."""
    was, now = CHOSEN.search(before), CHOSEN.search(after)
    return now is not None and (was is None or was[1] != now[1])


def shows(words: str) -> Callable[[str, str], bool]:
    """Whether the words are there."""
    return lambda before, after: words in after


def written(words: str) -> Callable[[str, str], bool]:
    """Whether a line has these words and no others."""
    return lambda before, after: any(line.strip() == words for line in after.splitlines())


def typed(gpus: int, address: str, size: tuple[int, int], count: int) -> dict[str, Any]:
    """Keys in turn, each answered before the next is typed."""
    random = np.random.default_rng(1)
    took: dict[str, list[float]] = {}
    unanswered = 0
    program = top(address, *size)
    program.shows(complete(gpus), FIRST_SECONDS_MAX)
    for key, _ in zip(script(), range(count), strict=False):
        time.sleep(random.uniform(*KEY_PAUSE_SECONDS))
        program.drain()
        before = program.screen.text()
        pressed = program.press(key.typed)
        shown = program.shows(partial(key.answered, before), ANSWER_SECONDS_MAX)
        if shown is None:
            unanswered += 1
        took.setdefault(key.kind, []).append(ANSWER_SECONDS_MAX if shown is None else shown - pressed)
    program.close()
    every = [each for some in took.values() for each in some]
    return {
        "keys": len(every),
        "unanswered": unanswered,
        **{f"key_p{share}_ms": quantile(every, share) for share in (50, 95)},
        **{f"{kind}_p95_ms": quantile(some, 95) for kind, some in took.items()},
        "key_max_ms": quantile(every, 100),
    }


def quantile(seconds: Sequence[float], share: int) -> float:
    """In milliseconds."""
    return round(1e3 * float(np.quantile(seconds, share / 100)), 1)


def measured(options: argparse.Namespace, parts: Sequence[str], folder: Path) -> dict[str, Any]:
    """All figures asked for."""
    gpus = options.gpus or (QUICK_GPUS if options.quick else GPUS)
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    figures: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg(), "gpus": gpus}
    if {"fleet", "keys"} & set(parts):
        with fleet(gpus, QUICK_HISTORY_SECONDS if options.quick else HISTORY_SECONDS, folder) as (address, told):
            for size in options.size or SIZES:
                name = "{}x{}".format(*size)
                found: dict[str, Any] = {}
                if "fleet" in parts:
                    found |= refreshed(gpus, address, size, seconds, rounds)
                if "keys" in parts:
                    found |= typed(gpus, address, size, QUICK_KEYS if options.quick else KEYS)
                figures[name] = found
        figures |= told
    if "node" in parts:
        figures["node"] = node(folder / "node", seconds, rounds)
    return figures | {"load_after": os.getloadavg()}


def text(figures: dict[str, Any]) -> str:
    """Markdown."""
    sizes = [name for name in map("{0[0]}x{0[1]}".format, SIZES) if name in figures]
    lines = [f"{name}: {value}" for name, value in figures.items() if not isinstance(value, dict)]
    names = list(dict.fromkeys(name for size in sizes for name in figures.get(size, {})))
    if names:
        lines += ["", "| | " + " | ".join(sizes) + " |", "| --- " * (len(sizes) + 1) + "|"]
        lines += [
            f"| {name} | " + " | ".join(str(figures[size].get(name, "-")) for size in sizes) + " |" for name in names
        ]
    if "node" in figures:
        titles = ("first_screen_s", "core_percent", "rss_mb", "pss_mb", "bytes_a_second")
        lines += ["", "| one node | " + " | ".join(titles) + " |", "| --- " * (len(titles) + 1) + "|"]
        for name, told in figures["node"].items():
            cells = [str(told.get(title, "-")) for title in titles] if isinstance(told, dict) else [told]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _size(words: str) -> tuple[int, int]:
    columns, lines = words.split("x")
    return int(columns), int(lines)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_GPUS} GPUs, {QUICK_SECONDS} s, {QUICK_KEYS} keys")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--part", choices=PARTS, action="append", help="only these; may be given several times")
    parser.add_argument("--size", type=_size, action="append", metavar="COLUMNSxLINES", help="200x60 and 80x24")
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--seconds", type=int, help="of each watch")
    parser.add_argument("--rounds", type=int, help="starts whose first screens are timed")
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_SECONDS)
    with tempfile.TemporaryDirectory() as scratch:
        figures = measured(options, options.part or PARTS, Path(scratch))
    print(json.dumps(figures, indent=2) if options.json else text(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
