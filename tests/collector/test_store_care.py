"""Looking after a store: what is wrong is found and named, what can serve serves, and a copy is whole whenever it is taken."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from warpline_collector import backup, catalog
from warpline_collector.check import check
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import Config
from warpline_collector.stores.tended import TendedStore
from warpline_proto.batch import Frame
from warpline_proto.errors import StoreError

MakeFrame = Callable[..., Frame]
EACH_ONCE = "SELECT count(*) AS rows, count(DISTINCT (step, rank)) AS distinct_rows, max(step) AS newest FROM steps"
WRITER = Path(__file__).parent / "writer_process.py"
SETTINGS = Config(seal_rows=12)


@pytest.fixture
def place(tmp_path: Path, make_frame: MakeFrame) -> Path:
    """A store of four segments of 12 steps and 6 hot rows, without a collector."""
    directory = tmp_path / "store"
    store = TendedStore(directory, SETTINGS)
    for sequence in range(1, 19):
        store.append([make_frame(sequence)])
        store.maintain()
    store.close()
    return directory


def segments(directory: Path) -> list[Path]:
    return sorted((directory / "segments" / "steps").glob("*.parquet"))


def rewrite(path: Path, data: bytes) -> None:
    path.unlink()  # a copy of the store may be linked to it
    path.write_bytes(data)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 0x10
    rewrite(path, bytes(data))


def whole(sequences: int) -> list[dict[str, int]]:
    return [{"rows": 3 * sequences, "distinct_rows": 3 * sequences, "newest": sequences}]


def test_a_sound_store_is_said_to_be(place: Path) -> None:
    report = check(place)
    assert (report.troubles, report.running, report.segments, report.rows) == ((), False, 4, 48)
    assert report.bytes == sum(path.stat().st_size for path in segments(place))


@pytest.mark.parametrize(
    ("harm", "kind", "words"),
    [
        ("missing", "missing", "is missing"),
        ("cut", "damaged", "bytes long"),
        ("flipped", "damaged", "cannot be read"),
        ("swapped", "mismatch", "was written with"),
    ],
)
def test_each_harm_is_found_and_set_aside_and_the_rest_serves(place: Path, harm: str, kind: str, words: str) -> None:
    """The file is kept in `aside`, its rows are told as gone, and afterwards the store is sound."""
    path = segments(place)[1]
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        rewrite(path, data[: len(data) // 3])
    elif harm == "flipped":
        flip(path, 40)
    else:
        change_rows(place, path)
    report = check(place)
    assert [(each.kind, each.path, each.table) for each in report.troubles] == [
        (kind, f"segments/steps/{path.name}", "steps")
    ]
    assert words in report.troubles[0].detail
    store = TendedStore(place, SETTINGS)
    found = store.set_aside()
    if kind == "mismatch":
        assert found == []
    else:
        assert [segment.path for segment, _ in found] == [f"segments/steps/{path.name}"]
        assert store.query(EACH_ONCE).to_pylist()[0]["rows"] == 54 - 12
        told = store.query("SELECT subject, state, dropped FROM source_health WHERE dropped IS NOT NULL").to_pylist()
        assert told == [{"subject": f"segments/steps/{path.name}", "state": "refused", "dropped": 12}]
        assert (place / "aside" / "steps" / path.name).exists() == (kind == "damaged")
        assert store.set_aside() == []
    store.close()
    assert kind == "mismatch" or check(place).troubles == ()


def change_rows(place: Path, path: Path) -> None:
    import duckdb

    with duckdb.connect(str(place / "warpline.duckdb")) as connection:
        connection.execute("UPDATE manifest SET rows = 11 WHERE path = ?", [f"segments/steps/{path.name}"])


def test_a_bit_anywhere_in_a_segment_is_found_or_harmless(place: Path) -> None:
    """Two hundred places: what is not told as damage changes no row."""
    path = segments(place)[0]
    data = path.read_bytes()
    with CatalogReader(place) as reader:
        before = reader.query("SELECT * FROM steps")
    dice = random.Random(5)
    for position in (dice.randrange(len(data)) for _ in range(60)):
        flip(path, position)
        if not check(place).troubles:
            with CatalogReader(place) as reader:
                assert reader.query("SELECT * FROM steps").equals(before), f"bit flipped at {position} of {len(data)}"
        rewrite(path, data)


def test_what_an_interruption_left_is_told_and_costs_nothing(place: Path) -> None:
    orphan = segments(place)[0].with_name("0000000099-interrupt.tmp")
    orphan.write_bytes(b"PAR1 half")
    report = check(place)
    assert [(each.kind, each.path) for each in report.troubles] == [("orphan", f"segments/steps/{orphan.name}")]
    assert report.lost == ()
    TendedStore(place, SETTINGS).close()
    assert check(place).troubles == ()


def test_a_store_is_checked_beside_its_collector(place: Path) -> None:
    store = TendedStore(place, SETTINGS)
    assert (check(place).troubles, check(place).running) == ((), True)
    path = segments(place)[0]
    flip(path, 40)
    assert [each.kind for each in check(place).troubles] == ["damaged"]
    store.close()


def test_a_damaged_database_is_a_sentence(place: Path) -> None:
    data = (place / "warpline.duckdb").read_bytes()
    (place / "warpline.duckdb").write_bytes(b"\x00" * len(data))
    with pytest.raises(StoreError, match=r"warpline\.duckdb cannot be read"):
        check(place)


def test_merging_by_hand_leaves_one_file_a_day(place: Path) -> None:
    store = TendedStore(place, Config(seal_rows=1_000))
    assert store.compact() == 3
    assert store.query(EACH_ONCE).to_pylist() == whole(18)
    assert store.compact() == 0
    store.close()
    assert check(place).lost == ()
    with CatalogReader(place) as reader:
        assert reader.query(EACH_ONCE).to_pylist() == whole(18)


def test_a_copy_is_a_store(place: Path, tmp_path: Path, make_frame: MakeFrame) -> None:
    """Readable as it lies, sound, goes on by itself, and what it goes on with is not in the first."""
    copied = backup.make(place, tmp_path / "copy", 1.0)
    assert (copied.linked, copied.copied) == (4 + len(catalog.read(place).tables["steps"].chunks), 0)
    with CatalogReader(tmp_path / "copy") as reader:
        assert reader.query(EACH_ONCE).to_pylist() == whole(18)
    assert check(tmp_path / "copy").troubles == ()
    restored = TendedStore(tmp_path / "copy", SETTINGS)
    assert restored.acknowledged("node-1", "boot-1") == 18
    assert list(restored.append([make_frame(18), make_frame(19)])) == [False, True]
    restored.maintain()
    restored.close()
    assert check(place).troubles == ()
    with pytest.raises(StoreError, match="is there already"):
        backup.make(place, tmp_path / "copy", 1.0)
    with pytest.raises(StoreError, match="within the store"):
        backup.make(place, place / "copy", 1.0)


def test_a_running_collector_makes_the_copy_that_another_process_asks_for(
    place: Path, tmp_path: Path, make_frame: MakeFrame
) -> None:
    """Frames are appended all the while, and the copy holds each whole or not at all."""
    store = TendedStore(place, SETTINGS)
    stop = threading.Event()
    newest = [18]

    def write() -> None:
        while not stop.is_set():
            store.append([make_frame(newest[0] + 1)])
            newest[0] += 1
            store.maintain()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            before = newest[0]
            backup.make(place, tmp_path / f"copy-{number}", 300.0)
            after = newest[0]
            copied = TendedStore(tmp_path / f"copy-{number}", SETTINGS)
            stored = copied.acknowledged("node-1", "boot-1")
            assert before <= stored <= after
            assert copied.query(EACH_ONCE).to_pylist() == whole(stored)
            copied.close()
            assert check(tmp_path / f"copy-{number}").troubles == ()
    finally:
        stop.set()
        writer.join()
        store.close()
    with pytest.raises(StoreError, match="is there already"):
        backup.make(place, tmp_path / "copy-0", 60.0)


def test_bytes_that_go_to_another_disk_hold_nobody_up_and_stay_whatever_becomes_of_the_store(
    place: Path, tmp_path: Path, make_frame: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While they are copied, frames are stored, and files that are merged are in the copy as they were."""
    store = TendedStore(place, Config(seal_rows=12, compact_files=2, grace_seconds=0.0))
    link, copyfile = os.link, shutil.copyfile
    stored = [18]

    def elsewhere(source: Path, target: Path) -> None:
        if not Path(target).is_relative_to(place):
            raise OSError(errno.EXDEV, "another disk")
        link(source, target)

    def slowly(source: Path, target: Path) -> None:
        if Path(source).suffix == ".parquet":
            stored[0] += 1
            appended = threading.Thread(target=store.append, args=([make_frame(stored[0])],))
            appended.start()
            appended.join(60.0)
            assert not appended.is_alive(), "the store is held up"
            for old in segments(place):
                old.unlink(missing_ok=True)
        copyfile(source, target)

    monkeypatch.setattr(os, "link", elsewhere)
    monkeypatch.setattr(shutil, "copyfile", slowly)
    asked = threading.Thread(target=backup.ask, args=(place, tmp_path / "copy", 600.0))
    asked.start()
    while asked.is_alive():
        store.maintain()
        asked.join(0.01)
    store.close()
    assert stored[0] > 20 and not (place / backup.HOLD).exists()
    with CatalogReader(tmp_path / "copy") as reader:
        assert reader.query(EACH_ONCE).to_pylist() == whole(18)
    assert check(tmp_path / "copy").troubles == ()


def test_a_collector_that_cannot_copy_says_why_and_goes_on(place: Path, tmp_path: Path, make_frame: MakeFrame) -> None:
    store = TendedStore(place, SETTINGS)
    (tmp_path / "file").touch()
    asked = threading.Thread(target=lambda: refused.append(_refusal(place, tmp_path / "file" / "copy")))
    refused: list[str] = []
    asked.start()
    while asked.is_alive():
        store.maintain()
        asked.join(0.01)
    assert "cannot be copied" in refused[0]
    (place / backup.REQUEST).write_text("{")
    store.maintain()
    assert list(store.append([make_frame(19)])) == [True]
    assert not (place / backup.REQUEST).exists()
    store.close()


def _refusal(place: Path, destination: Path) -> str:
    with pytest.raises(StoreError) as told:
        backup.ask(place, destination, 60.0)
    return str(told.value)


def test_nobody_who_answers_is_told(place: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="made no copy within"):
        backup.ask(place, tmp_path / "copy", 0.0)
    assert not (place / backup.REQUEST).exists()


def test_copies_taken_of_a_killed_collector_hold_all_it_acknowledged(tmp_path: Path) -> None:
    """kill -9 in the middle of appending, sealing and merging: check finds no row lost, copy and store agree."""
    place = tmp_path / "store"
    for number in range(3):
        command = [sys.executable, str(WRITER), str(place), f"boot-{number}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            told = [process.stdout.readline() for _ in range(7 + 5 * number)]
            process.kill()
            told += process.stdout.readlines()
        newest = max(int(line) for line in told if line.endswith("\n"))
        assert check(place).lost == ()
        backup.make(place, tmp_path / f"copy-{number}", 1.0)
        for directory in (tmp_path / f"copy-{number}", place):
            store = TendedStore(directory)
            stored = store.acknowledged("node", f"boot-{number}")
            assert stored >= newest
            found = store.query("SELECT count(*) AS rows FROM steps WHERE job = ?", [f"boot-{number}"]).to_pylist()
            assert found == [{"rows": 40 * stored}]
            store.close()
            assert check(directory).troubles == ()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_full_costs_no_acknowledged_row_and_no_sound_file(
    small_disk: Path, tmp_path: Path, make_frame: MakeFrame
) -> None:
    """Appending, merging and copying all fail on it with a sentence; with room again all of it goes on."""
    place = small_disk / "store"
    store = TendedStore(place, Config(seal_rows=3_000, grace_seconds=0.0))
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\x00" * 1_500_000)
    stored = failures = 0
    while failures < 3 and stored < 3_000:
        try:
            store.append([make_frame(stored + 1, rows=500)])
            stored += 1
            store.maintain()
        except StoreError:
            failures += 1
    assert failures == 3
    with pytest.raises(StoreError):
        backup.copy(place, small_disk / "copy", store._connection)
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "store"]
    ballast.unlink()
    while not store.append([make_frame(stored + 1, rows=500)])[0]:
        stored += 1
    stored += 1
    store.maintain()
    store.compact()
    wanted = [{"rows": 500 * stored, "distinct_rows": 500 * stored, "newest": stored}]
    assert store.query(EACH_ONCE).to_pylist() == wanted
    store.close()
    assert check(place).lost == ()
    copied = backup.make(place, tmp_path / "copy", 1.0)
    assert copied.linked == 0
    with CatalogReader(tmp_path / "copy") as reader:
        assert reader.query(EACH_ONCE).to_pylist() == wanted
    assert catalog.read(tmp_path / "copy").damaged == ()


def test_a_store_that_is_killed_while_it_lets_go_loses_no_other_row_and_counts_each_once(tmp_path: Path) -> None:
    """kill -9 eight times: what is left and what was told to be gone add up to all that was stored, to the row."""
    dice = random.Random(11)
    for _ in range(8):
        command = [sys.executable, str(WRITER.with_name("keeper_process.py")), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            told = [process.stdout.readline() for _ in range(dice.randint(5, 15))]
            process.kill()
            told += process.stdout.readlines()
        newest = max(int(line) for line in told if line.endswith("\n"))
        assert check(tmp_path).lost == ()
        store = TendedStore(tmp_path)
        stored = store.acknowledged("node", "boot")
        assert stored >= newest
        [left] = store.query(
            "SELECT count(*) AS rows, min(step) AS oldest, max(step) AS newest FROM phases"
        ).to_pylist()
        gone = store.query("SELECT CAST(coalesce(sum(dropped), 0) AS BIGINT) AS rows FROM source_health").to_pylist()
        assert left["rows"] + gone[0]["rows"] == 40 * stored
        assert (left["rows"], left["newest"]) == (40 * (stored - left["oldest"] + 1), stored)
        assert stored - left["oldest"] <= 6
        store.close()
