"""Kills agent, collector and query workers at random, with disks full or slow and connections cut, and counts what is lost.

    python tests/bench/chaos.py [--quick] [--json] [--loops N] [--seed N] [--folder DIR] [--agents N]

Real processes: `warpline collector`, agents around the real spool and exporter (`chaos_agent.py`), SQL workers that are asked
all the while. Each loop draws a trouble (none, a full disk of the collector or of the agents, a slow disk, a cut connection)
and a victim, which dies by SIGKILL while at least three frames are sent and not acknowledged; a loop where fewer were is not
counted. Then what died is started again, the trouble ends, and frames of every agent must be acknowledged anew.

Kill points are known, not guessed: `chaos_shim.c`, loaded into agent and collector, writes each step of a write to a page that
outlives the process, or ends it itself at the n-th step of a kind; half of the kills are random in time. It also makes a disk
slow. A disk is full for real: a small tmpfs with a ballast file. `after ack` is judged by the wire.

After each EPOCH_LOOPS loops agents drain, the collector ends (by SIGKILL every other time), and the verifier, a process of its
own that was the TCP proxy between agents and collector (`chaos_verifier.py`), holds its journal of acknowledgements against the
rows of the store, read without warpline. With --folder a run that was cut goes on after its last epoch; the seed is kept there.

Tmpfs knows no power loss: what is shown is kill -9.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

from chaos_agent import ROWS
from chaos_probe import AGENT_TARGETS, COLLECTOR_TARGETS, POINTS, compile_shim, point_of_agent, point_of_collector
from chaos_rig import LEFT_BYTES_MAX, START_SECONDS, Program, Rig, running, until

from warpline_proto.client import QueryClient
from warpline_proto.errors import QueryError

EPOCH_LOOPS: Final = 20
IN_FLIGHT_MIN: Final = 3
RECOVER_SECONDS: Final = 90.0
KILL_SECONDS: Final = 8.0
TRIES_MAX: Final = 6
VICTIMS: Final = {"collector": 45, "agent": 30, "worker": 15, "collector and agent": 10}
TROUBLES: Final = {"none": 30, "full disk": 25, "slow disk": 20, "cut connection": 25}
CUTS: Final = ("cut", "half", "stall", "mute")
HEAVY: Final = "SELECT sum(a.rank * b.rank * c.rank) FROM steps a CROSS JOIN steps b CROSS JOIN steps c"
COUNTED: Final = "SELECT job, step, count(*) AS rows, count(DISTINCT rank) AS own FROM steps GROUP BY ALL"
ODD: Final = f"SELECT count(*) AS frames FROM ({COUNTED}) WHERE rows <> {ROWS['steps']} OR own <> {ROWS['steps']}"
FAULTS: Final = (
    "acked_lost",
    "duplicates",
    "partial",
    "spooled_lost",
    "refused",
    "seen_partial",
    "stuck",
    "unasked_ends",
)


class Loops:
    """Loops of one epoch on one rig."""

    def __init__(self, rig: Rig, draw: random.Random) -> None:
        self._rig = rig
        self._draw = draw
        self.seen_partial = self.unasked_ends = self.stuck = 0
        self.notes: list[str] = []

    def one(self) -> dict[str, Any] | None:
        """What one loop did; None if it does not count."""
        rig, draw = self._rig, self._draw
        trouble = _drawn(draw, TROUBLES)
        victim = _drawn(draw, VICTIMS)
        agent = draw.choice(rig.agents)
        where = draw.choice(("collector", "agent"))
        begun = time.monotonic()
        detail = self._begin(trouble, where)
        time.sleep(draw.uniform(0.0, 0.4))
        killed = self._kill_worker() if victim == "worker" else self._kill(victim, agent)
        self._restart()
        if trouble == "full disk":
            rig.collector.until_ready(draw.uniform(0.5, 4.0))  # it may end: then it is started again when there is room
        self._end(where)
        self._restart()
        self._recover()
        if killed is None:
            return None
        return {"trouble": detail, "victim": victim, "seconds": round(time.monotonic() - begun, 2), **killed}

    def _begin(self, trouble: str, where: str) -> str:
        rig, draw = self._rig, self._draw
        if trouble == "full disk":
            rig.disks[where].fill(draw.randrange(LEFT_BYTES_MAX), rig.pages(where))
            return f"full disk of {where}"
        if trouble == "slow disk":
            for page in rig.pages(where):
                page.put("sync_delay_ns", int(draw.uniform(0.02, 0.4) * 1e9))
                page.put("write_delay_ns", int(draw.choice((0.0, 0.002)) * 1e9))
            return f"slow disk of {where}"
        if trouble == "cut connection":
            how = draw.choice(CUTS)
            rig.verifier.ask("cut", how=how, seconds=draw.uniform(0.2, 1.5))
            return f"connection: {how}"
        return trouble

    def _end(self, where: str) -> None:
        rig = self._rig
        rig.disks[where].free(rig.pages(where))
        for page in (*rig.pages("collector"), *rig.pages("agent")):
            page.put("sync_delay_ns", 0)
            page.put("write_delay_ns", 0)

    def _kill(self, victim: str, agent: Program) -> dict[str, Any] | None:
        """End one or both; None where too little was in flight."""
        rig, draw = self._rig, self._draw
        chosen = {"collector": [rig.collector], "agent": [agent]}.get(victim, [rig.collector, agent])
        draw.shuffle(chosen)
        first, of_agent = chosen[0], chosen[0] is agent
        name = agent.name if of_agent else ""
        before = rig.verifier.ask("acked")["newest_ns"]
        by, at_ns = self._end_of(first, name, AGENT_TARGETS if of_agent else COLLECTOR_TARGETS)
        if at_ns is None:
            return None
        for other in chosen[1:]:
            other.process.kill()
        for each in chosen:
            each.process.wait()
        time.sleep(0.05)  # what the dead had sent is read by the verifier
        acked_ns = max(before, rig.verifier.ask("acked")["newest_ns"])
        flying = rig.verifier.ask("in_flight_at", agent=name, at_ns=at_ns, cut=True)
        point = point_of_agent(first.page) if of_agent else point_of_collector(first.page, at_ns, acked_ns)
        if flying < IN_FLIGHT_MIN:
            return None
        return {"first": "agent" if of_agent else "collector", "by": by, "point": point, "in_flight": flying}

    def _end_of(self, program: Program, name: str, targets: Any) -> tuple[str, int | None]:
        """Kill at random, at an acknowledgement, or let it end itself at a step."""
        draw, verifier = self._draw, self._rig.verifier
        way = draw.choice(("random", "random", "step", "step", "seen", "unseen") if not name else ("random", "step"))
        if way == "step":
            until(lambda: self._in_flight(name) >= IN_FLIGHT_MIN, KILL_SECONDS)
            target = draw.choice(list(targets.values()))
            program.page.arm(target, draw.randint(1, 12))
            if until(lambda: not program.alive, KILL_SECONDS / 2) and program.page.get("killed_ns"):
                return "its own step", program.page.get("killed_ns")
            program.page.disarm()
            way = "random"
        at_ns = verifier.ask(
            "kill",
            pid=program.process.pid,
            agent=name,
            at_least=IN_FLIGHT_MIN,
            within=KILL_SECONDS,
            pause=draw.uniform(0.0, 0.3),
            moment=way,
        )
        return ("time" if way == "random" else "an acknowledgement"), at_ns

    def _in_flight(self, name: str) -> int:
        return int(self._rig.verifier.ask("in_flight_at", agent=name, at_ns=time.monotonic_ns(), cut=True))

    def _kill_worker(self) -> dict[str, Any] | None:
        """End a SQL worker in the midst of a question; the next question must be answered."""
        rig = self._rig
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(_asked(rig.address, HEAVY)))
        asking.start()
        time.sleep(self._draw.uniform(0.1, 0.5))
        until(lambda: self._in_flight("") >= IN_FLIGHT_MIN, KILL_SECONDS)
        workers = rig.collector.workers() if rig.collector.alive else []
        at_ns = time.monotonic_ns()
        for each in workers:
            each.kill()
        flying = rig.verifier.ask("in_flight_at", agent="", at_ns=at_ns, cut=False)
        asking.join()
        if flying < IN_FLIGHT_MIN or not workers:
            return None
        point = point_of_collector(rig.collector.page, at_ns, rig.verifier.ask("acked")["newest_ns"])
        return {"first": "worker", "by": "time", "point": point, "in_flight": flying, "answer": answers[0][:120]}

    def _restart(self) -> None:
        for program in (self._rig.collector, *self._rig.agents):
            if not program.alive:
                program.process.wait()
                program.start()

    def _recover(self) -> None:
        """Until the collector is ready, each agent is heard anew, and a question is answered."""
        rig = self._rig
        end = time.monotonic() + RECOVER_SECONDS
        while not rig.collector.until_ready(START_SECONDS) and time.monotonic() < end:
            self._note_end(rig.collector)
            rig.collector.start()
        before = rig.verifier.ask("acked")["frames"]
        for agent in rig.agents:
            heard = until(
                lambda: rig.verifier.ask("acked")["frames"].get(agent.name, 0) >= before.get(agent.name, 0) + 5,  # noqa: B023
                max(end - time.monotonic(), 1.0),
            )
            if not heard:
                self.stuck += 1
                self.notes.append(f"{agent.name} was not heard of again: {agent.said()[-500:]}")
        if (odd := _asked(rig.address, ODD)) != "[{'frames': 0}]":
            self.seen_partial += 1
            self.notes.append(f"asked for frames that are not whole: {odd}")

    def _note_end(self, program: Program) -> None:
        self.unasked_ends += 1
        self.notes.append(f"{program.name} ended by itself: {program.said()[-500:]}")


def epoch(rig: Rig, draw: random.Random, loops: int, *, gently: bool) -> dict[str, Any]:
    """Loops, then the verdict."""
    runner = Loops(rig, draw)
    done: list[dict[str, Any]] = []
    tries = 0
    while len(done) < loops and tries < loops + TRIES_MAX:
        tries += 1
        if (found := runner.one()) is not None:
            done.append(found)
            print(json.dumps(found), file=sys.stderr, flush=True)
    for agent in rig.agents:
        agent.process.send_signal(signal.SIGTERM)
    undrained = [agent.name for agent in rig.agents if agent.process.wait(180.0) != 0]
    if (odd := _asked(rig.address, ODD)) != "[{'frames': 0}]":
        runner.seen_partial += 1
        runner.notes.append(f"asked for frames that are not whole: {odd}")
    rig.collector.end(signal.SIGTERM if gently else signal.SIGKILL, 60.0)
    verdict = rig.verifier.ask("judge", store=str(rig.store), spools=rig.spool_journals, expected=ROWS)
    verdict |= {"seen_partial": runner.seen_partial, "unasked_ends": runner.unasked_ends}
    verdict |= {"stuck": runner.stuck + len(undrained), "notes": runner.notes, "uncounted": tries - len(done)}
    return {"loops": done, "verdict": verdict}


def summary(seed: int, epochs: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The figures of all epochs."""
    loops = [loop for each in epochs for loop in each["loops"]]
    verdicts = [each["verdict"] for each in epochs]
    points: dict[str, dict[str, int]] = {}
    for victim in ("collector", "agent", "worker"):
        counted = Counter(loop["point"] for loop in loops if loop["first"] == victim)
        points[victim] = {point: counted[point] for point in POINTS if counted[point]}
    return {
        "loops": len(loops),
        "seed": seed,
        **{name: sum(each[name] for each in verdicts) for name in (*FAULTS, "sent", "acked", "stored", "uncounted")},
        "in_flight_min": min((loop["in_flight"] for loop in loops), default=0),
        "kill_points": points,
        "killed_by": dict(Counter(loop["by"] for loop in loops)),
        "victims": dict(Counter(loop["victim"] for loop in loops)),
        "variants": dict(Counter(loop["trouble"] for loop in loops)),
        "queries_killed": sum("error" in loop.get("answer", "") for loop in loops),
        "seconds": round(seconds),
        "examples": [word for each in verdicts for word in (*each["examples"], *each["notes"])][:20],
    }


def table(found: dict[str, Any]) -> str:
    """Markdown, the histogram first."""
    points = found["kill_points"]
    lines = ["| kill point | collector | agent | SQL worker (where the collector was) |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {point} | "
        + " | ".join(str(points[victim].get(point, 0)) for victim in ("collector", "agent", "worker"))
        + " |"
        for point in POINTS
    ]
    rest = {name: value for name, value in found.items() if name != "kill_points"}
    return "\n".join([*lines, "", *(f"- {name}: {value}" for name, value in rest.items())])


def main() -> int:
    """Print the figures; status 1 if anything was lost, doubled, partial or stuck."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="8 loops")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--loops", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=None, help="keep each epoch's outcome here, and go on from it")
    parser.add_argument("--agents", type=int, default=2)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    loops = 8 if options.quick else options.loops
    with tempfile.TemporaryDirectory(prefix="chaos-") as work:
        folder = options.folder or Path(work)
        folder.mkdir(parents=True, exist_ok=True)
        seed = _seed(folder, options.seed)
        kept = folder / "epochs.jsonl"
        epochs = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
        shim = compile_shim(Path(work))
        while (left := loops - sum(len(each["loops"]) for each in epochs)) > 0:
            number = len(epochs)
            begun = time.monotonic()
            place = Path(work) / f"epoch-{number}"
            with running(place, shim, options.agents) as rig:
                found = epoch(rig, random.Random(f"{seed}/{number}"), min(left, EPOCH_LOOPS), gently=number % 2 == 0)
                found["seconds"] = time.monotonic() - begun
                if any(found["verdict"][name] for name in FAULTS):
                    shutil.copytree(place, folder / f"failed-{number}-{time.time_ns()}", dirs_exist_ok=True)
            shutil.rmtree(place)
            epochs.append(found)
            with kept.open("a") as stream:
                stream.write(json.dumps(found) + "\n")
            print(json.dumps(found["verdict"]), file=sys.stderr, flush=True)
    figures = summary(seed, epochs, sum(each["seconds"] for each in epochs))
    print(json.dumps(figures, indent=2) if options.json else table(figures))
    return int(any(figures[name] for name in FAULTS))


def _seed(folder: Path, wanted: int | None) -> int:
    """The seed of the folder's run, drawn and written down by the first."""
    path = folder / "seed"
    if not path.exists():
        path.write_text(str(random.SystemRandom().randrange(2**31) if wanted is None else wanted))
    return int(path.read_text())


def _drawn(draw: random.Random, weights: dict[str, int]) -> str:
    return draw.choices(list(weights), list(weights.values()))[0]


def _asked(address: str, sql: str) -> str:
    """The rows of an answer, or what went wrong."""
    try:
        with QueryClient(address) as client:
            return str(client.query(sql).to_pylist())
    except QueryError as error:
        return f"error: {error}"


if __name__ == "__main__":
    raise SystemExit(main())
