"""`warpline capture trace`: from the command to the agents of two nodes, and what each said, on the terminal and in the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import pytest

from warpline_cli.fetching import Wanted, ask
from warpline_cli.main import main
from warpline_proto.batch import Batch
from warpline_proto.capture import DENIED, DONE
from warpline_proto.tables import AGENTS, CAPTURES, NODE_CLOCKS, STEPS

STEP_NS = 400_000_000
NOW_NS = 1_795_000_000_000_000_000


class Answering:
    """A collector's side of the query client: steps of two ranks, and agents that answer what is pushed."""

    address = "nowhere:1"

    def __init__(self, store: Callable[[Any], Any], states: Sequence[str], tables: Mapping[str, Any] = {}) -> None:
        steps = [
            {"job": "night", "rank": rank, "node": f"node{rank}", "step": step, "scope": "step",
             "start_ns": NOW_NS + step * STEP_NS, "duration_ns": STEP_NS}
            for rank in (3, 7) for step in range(20)
        ]  # fmt: skip
        self._reader = store({"steps": [STEPS.from_rows([row]).to_pylist()[0] for row in steps], **tables})
        self.states = list(states)
        self.asked: list[dict[str, Any]] = []

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *how: object) -> None: ...

    def push(self, frame: Any) -> None:
        batches: Sequence[Batch] = frame.batches
        self.asked += [row for batch in batches for row in batch.rows.to_pylist()]

    def query(self, sql: str) -> Any:
        if "current_captures" not in sql:
            return self._reader.query(sql)
        place = next(place for place, row in enumerate(self.asked) if row["id"] in sql)
        row = {**self.asked[place], "state": self.states[place], "detail": f"steps 4 to 5 of rank {place}"}
        return CAPTURES.from_rows([row]).select(["state", "detail", "records"])


@pytest.fixture
def collector(reader_of: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Answering]]:
    """A collector that answers as the test says."""

    def start(*states: str) -> Answering:
        made = Answering(reader_of, states)

        monkeypatch.setattr("warpline_proto.client.QueryClient", lambda address, tls: made)
        monkeypatch.setattr("warpline_cli.fetching.time.sleep", lambda seconds: None)
        return made

    yield start


def test_all_ranks_are_asked_for_the_same_time_and_each_answer_is_told(
    collector: Callable[..., Answering], capsys: pytest.CaptureFixture[str]
) -> None:
    """Long enough for two whole steps wherever it begins, and so far ahead that every process hears of it."""
    made = collector(DONE, DONE)
    before_ns = time.time_ns()
    assert main(["capture", "trace", "--job", "night", "--ranks", "3,7", "--steps", "2"]) == 0
    first, second = made.asked
    assert [(row["rank"], row["node"], row["what"]) for row in made.asked] == [
        (3, "node3", "trace"),
        (7, "node7", "trace"),
    ]
    assert (first["start_ns"], first["duration_ns"]) == (second["start_ns"], second["duration_ns"])
    assert first["duration_ns"] >= 3 * STEP_NS
    assert first["start_ns"] >= before_ns + 10 * 10**9
    said = capsys.readouterr()
    assert said.out.split() == [first["id"], second["id"]]
    assert "rank 3 on node3: done: steps 4 to 5" in said.err and "rank 7 on node7: done" in said.err


def test_one_rank_that_was_denied_is_the_exit_code(
    collector: Callable[..., Answering], capsys: pytest.CaptureFixture[str]
) -> None:
    collector(DONE, DENIED)
    assert main(["capture", "trace", "--job", "night", "--ranks", "3,7"]) == 1
    assert "rank 7 on node7: denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rank", "5"], "no step of rank 5 of job night is kept"),
        (["--ranks", "3,x"], "numbers, as in 3,7"),
        (["--rank", "3", "--steps", "11"], "1 to 10"),
        (["--rank", "3", "--seconds", "31"], "at most 30"),
        (["--rank", "3", "--node", "node3"], "--from and --node are for kernels"),
    ],
)
def test_what_cannot_be_asked_for_is_said_at_once(
    collector: Callable[..., Answering], capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    made = collector()
    assert main(["capture", "trace", "--job", "night", *words]) == 64
    assert said in capsys.readouterr().err
    assert not made.asked


@pytest.mark.parametrize("known", [True, False])
def test_a_time_of_a_node_is_asked_for_by_the_clock_it_has_now(reader_of: Callable[[Any], Any], known: bool) -> None:
    """Not by the one it had before it was set back and the agent started anew, where the collector heard of that."""
    clocks = [
        {"node": "node3", "boot": "18", "steady_ns": 9, "offset_ns": 3_600 * 10**9},
        {"node": "node3", "boot": "17", "steady_ns": 5, "offset_ns": 1_000},
    ]
    heard = [{"node": "node3", "agent": "node3", "boot": boot, "time_ns": at} for at, boot in enumerate(("18", "17"))]
    tables = {
        "node_clocks": NODE_CLOCKS.from_rows(clocks).to_pylist(),
        "agents": AGENTS.from_rows(heard if known else []).to_pylist(),
    }
    made = Answering(reader_of, (), tables)
    ask(cast(Any, made), Wanted("night", 3, 2.0, NOW_NS, "node3"))
    assert NOW_NS - made.asked[0]["start_ns"] == (1_000 if known else 3_600 * 10**9)
