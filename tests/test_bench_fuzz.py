"""The fuzzing bench: readers hold on inputs of their grammar, what is found is kept once, and the journal adds up over runs."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

import fuzz
import fuzz_engine
from fuzz_engine import Broken, Runner, Stretch

INPUTS = 12


@pytest.mark.parametrize("name", sorted(fuzz.TARGETS))
def test_a_reader_holds_on_inputs_of_its_grammar_sound_and_hostile(name: str) -> None:
    target, random = fuzz.TARGETS[name](), Random(11)
    for _ in range(INPUTS):
        data = target.draw(random)
        assert target.run(data)
        assert target.run(target.mutate(data, random))


class Fragile:
    """Reads anything but what holds a zero byte."""

    name = "fragile"
    seconds_max = 5.0
    growth_bytes_max = 2**30

    def draw(self, random: Random) -> bytes:
        return random.randbytes(4)

    def mutate(self, data: bytes, random: Random) -> bytes:
        return fuzz_engine.changed(data, random)

    def run(self, data: bytes) -> str:
        if 0 in data:
            raise Broken(f"zero in {data!r}")
        return "read"


def test_what_breaks_a_reader_is_kept_once_for_each_way_of_breaking(tmp_path: Path) -> None:
    runner = Runner(Fragile(), tmp_path, Stretch("fragile", "mutation", "abc", "1", fuzz_engine.now()), None)
    assert [runner.one(data) for data in (b"ab", b"a\0", b"\0b")] == ["read", "broken", "broken"]
    stretch = runner.finish()
    assert (stretch.executions, stretch.findings, stretch.outcomes) == (3, 1, {"broken": 2, "read": 1})
    kept = sorted((tmp_path / fuzz_engine.FINDINGS).iterdir())
    assert kept[0].read_bytes() == b"a\0"
    assert "zero in" in kept[1].read_text()


def test_runs_add_to_the_journal_and_a_line_that_was_cut_is_passed_over(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        runner = Runner(Fragile(), tmp_path, Stretch("fragile", "mutation", "abc", seed, fuzz_engine.now()), None)
        runner.one(b"ab")
        fuzz_engine.write(tmp_path, runner.finish())
    with open(tmp_path / fuzz_engine.JOURNAL, "a") as file:
        file.write('{"target": "fra')
    [row] = fuzz_engine.table(fuzz_engine.stretches(tmp_path))
    assert (row["stretches"], row["executions"], row["findings"]) == (2, 2, 0)


def test_the_same_seed_gives_the_same_inputs() -> None:
    for name, target in fuzz.TARGETS.items():
        if name != "ring":  # its processes are those of this machine
            assert target().draw(Random(5)) == target().draw(Random(5))
