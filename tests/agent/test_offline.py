"""What a user relies on when files of any kind are given: one report each, a clear reason, nothing outside the files."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from warpline_agent.offline import Formats, Import, read_paths
from warpline_agent.recordings.archive import Limits
from warpline_agent.recordings.describe import reference_name
from warpline_agent.recordings.inputs import InputReport
from warpline_agent.source import Input, Origin, Reading, Rows, Tree
from warpline_proto.errors import Refused
from warpline_proto.tables import DEVICE_SAMPLES, LINK_COUNTERS, STEPS

SMALL = Limits(file_bytes=1_000_000, ratio_free_bytes=10_000, members=8)


class Steps:
    """A format for tests: `steps RANK WORLD DURATION...`."""

    name = "steps_text"

    def recognises(self, candidate: Input) -> bool:
        return candidate.head.startswith(b"steps ")

    def read(self, candidate: Input) -> Reading:
        _, rank, world, *durations = candidate.read_bytes(1_000_000).decode().split()
        rows = [{"scope": "step", "step": step, "duration_ns": int(each)} for step, each in enumerate(durations)]
        origin = Origin(rank=int(rank), world_size=int(world), sibling="steps")
        return Reading([Rows("steps", STEPS.from_rows(rows))], {"durations": len(durations)}, origin)


class Broken:
    """A format with a bug."""

    name = "broken"

    def recognises(self, candidate: Input) -> bool:
        return candidate.head.startswith(b"broken")

    def read(self, candidate: Input) -> Reading:
        raise ZeroDivisionError("division by zero")


class Watts:
    """A format for telemetry that names no machine."""

    name = "watts"

    def recognises(self, candidate: Input) -> bool:
        return candidate.head.startswith(b"watts")

    def read(self, candidate: Input) -> Reading:
        return Reading([Rows("device_samples", DEVICE_SAMPLES.from_rows([{"gpu_index": 0, "power_watts": 70.0}]))])


class Ports:
    """A tree format: a folder that holds `ports/1`."""

    name = "ports"

    def recognises_tree(self, candidate: Tree) -> bool:
        return any(name.endswith("ports/1") and name.count("/") == 1 for name in candidate.names)

    def read_tree(self, candidate: Tree) -> Reading:
        value = int((candidate.root / "ports" / "1").read_text())
        return Reading([Rows("link_counters", LINK_COUNTERS.from_rows([{"port": 1, "value": value}]))])


FORMATS = Formats((Steps(), Broken(), Watts()), (Ports(),))


def read(*paths: Path, limits: Limits | None = None) -> Import:
    return read_paths(paths, limits, FORMATS)


def only(imported: Import) -> InputReport:
    assert len(imported.inputs) == 1, imported.inputs
    return imported.inputs[0]


def tar_of(path: Path, members: dict[str, bytes], special: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for entry in special:
            archive.addfile(entry)
    return path


@pytest.mark.parametrize(
    ("name", "content", "kind", "words"),
    [
        ("a.log", b"", "empty", "empty file"),
        ("a.json", b'{"a": 1, ', "json", "starts like JSON but is not"),
        ("a.json", b"{garbage", "json", "starts like JSON but is not"),
        ("a.json", b"[" * 200_000, "json", "nested too deep"),
        ("a.json", b'{"ids": [' + b"9" * 400 + b"]}", "json", "JSON object with keys ids"),
        ("a.jsonl", b'{"a": 1}\n{"a": 2}\n', "jsonl", "JSON lines"),
        ("a.md", b"# Title\n", "markdown", "prose"),
        ("a.xml", b'<?xml version="1.0"?>\n<system version="1"></system>', "xml", "XML of type <system>"),
        ("a.csv", b"x,y\n1,2\n", "csv", "CSV with columns x, y"),
        ("a.pkl", b"\x80\x04\x95\x00numpy.core", "pickle", "NumPy pickle"),
        ("a.log", b"[host] something else\n", "text", "begins '[host] something else'"),
        ("a.log", bytes(range(256)) * 10, "binary", "binary data"),
        ("a.log", "NCCL INFO".encode("utf-16"), "utf-16", "save it as UTF-8"),
        ("a.nsys-rep", b"NSIGHT\0\0\0", "nsys-rep", "nsys export"),
    ],
)
def test_a_file_that_nobody_reads_says_what_it_looks_like(
    tmp_path: Path, name: str, content: bytes, kind: str, words: str
) -> None:
    """A reason names what the file is, never just that it is unknown."""
    (tmp_path / name).write_bytes(content)
    report = only(read(tmp_path / name))
    assert (report.status, report.kind) == ("refused", kind)
    assert words in (report.reason or "")


def test_a_hostile_beginning_is_described_at_once(tmp_path: Path) -> None:
    """Markup made to backtrack does not hold up the reader."""
    path = tmp_path / "x"
    path.write_bytes(b"<!---->" * 9_000 + b"x")
    assert read_paths([path]).inputs[0].kind == "text"


def test_a_truncated_gzip_is_refused_with_one_sentence(tmp_path: Path) -> None:
    """Cut within the head or far behind it: the same clear words."""
    whole = gzip.compress(b"steps 0 1 " + os.urandom(100_000).hex().encode())
    for cut in (30, len(whole) - 10):
        (tmp_path / "cut.gz").write_bytes(whole[:cut])
        assert "truncated gzip" in (only(read(tmp_path / "cut.gz")).reason or "")


def test_a_damaged_gzip_is_refused_with_one_sentence(tmp_path: Path) -> None:
    """Flipped bytes in the middle."""
    whole = bytearray(gzip.compress(b"steps 0 1 " + os.urandom(10_000).hex().encode()))
    whole[500:520] = bytes(20)
    (tmp_path / "bad.gz").write_bytes(bytes(whole))
    assert "gzip" in (only(read(tmp_path / "bad.gz")).reason or "")


def test_a_gzip_bomb_is_refused_before_it_fills_memory(tmp_path: Path) -> None:
    """By how it grows, and by its size."""
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"steps 0 1 " + b"1 " * 400_000))
    assert "compression bomb" in (only(read(tmp_path / "bomb.gz", limits=SMALL)).reason or "")
    assert "more than 1,000 bytes" in (only(read(tmp_path / "bomb.gz", limits=Limits(file_bytes=1_000))).reason or "")


def test_members_that_point_outside_an_archive_are_not_unpacked(tmp_path: Path) -> None:
    """Neither by name nor by link; the good member is read all the same."""
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device = tarfile.TarInfo("device")
    device.type = tarfile.CHRTYPE
    members = {"../outside.txt": b"steps 1 2 1", "/abs.txt": b"steps 1 2 1", "ok.txt": b"steps 0 2 5 6 7"}
    imported = read(tar_of(tmp_path / "evil.tar.gz", members, (link, device)))
    report = only(imported)
    assert (report.status, report.kind, report.reason) == ("read", "steps_text", "1 of 5 members read")
    states = {line["path"]: line["status"] for line in report.facts["members"]}
    assert states == {
        "../outside.txt": "refused", "/abs.txt": "refused", "device": "refused", "link": "refused", "ok.txt": "read",
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tar.gz"]
    assert not (tmp_path.parent / "outside.txt").exists()


def test_an_archive_with_too_many_members_is_refused(tmp_path: Path) -> None:
    """The bound is named."""
    path = tar_of(tmp_path / "many.tar.gz", {f"{number}.txt": b"steps 0 1 1" for number in range(9)})
    assert "more than 8 members" in (only(read(path, limits=SMALL)).reason or "")


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    """Members are held to the same growth as single files."""
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(900_000))
    assert "compression bomb" in (only(read(tmp_path / "bomb.zip", limits=SMALL)).reason or "")


def test_an_archive_of_headers_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and attributes that fill the memory, in a tar and in the directory of a zip."""
    monkeypatch.setattr("warpline_agent.recordings.archive.HEADERS_BYTES_MAX", 20_000)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("a")
        entry.pax_headers = {"comment": "x" * 50_000}
        archive.addfile(entry)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as container:
        for number in range(1_000):
            container.writestr(f"{number}.txt", b"")
    for report in read(tmp_path / "a.tar", tmp_path / "b.zip").inputs:
        assert "describes its members in more than 20,000 bytes" in (report.reason or "")


def test_a_large_member_is_no_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what describes members is bounded so tightly."""
    monkeypatch.setattr("warpline_agent.recordings.archive.HEADERS_BYTES_MAX", 20_000)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a.txt", "b.txt", "c.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 100_000
            archive.addfile(entry, io.BytesIO(b"steps 0 1 5" + b" " * 99_989))
    assert read(tmp_path / "a.tar").inputs[0].status == "read"


def test_zip_and_nested_gzip_members_are_read(tmp_path: Path) -> None:
    """A zip of compressed recordings is one input with a line for each."""
    with zipfile.ZipFile(tmp_path / "ranks.zip", "w") as archive:
        for rank in range(2):
            archive.writestr(f"rank{rank}.txt.gz", gzip.compress(f"steps {rank} 2 {rank + 5} 6 7".encode()))
    imported = read(tmp_path / "ranks.zip")
    assert [line["status"] for line in only(imported).facts["members"]] == ["read", "read"]
    jobs = {row["job"] for batch in imported.batches if batch.table == "steps" for row in batch.rows.to_pylist()}
    assert len(jobs) == 1


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    """A tar cut in the middle and a zip of junk."""
    tar_of(tmp_path / "whole.tar.gz", {"a": os.urandom(5_000)})
    unpacked = gzip.decompress((tmp_path / "whole.tar.gz").read_bytes())
    (tmp_path / "cut.tar").write_bytes(unpacked[:3_000])
    (tmp_path / "junk.zip").write_bytes(b"PK\x03\x04" + os.urandom(500))
    for name in ("cut.tar", "junk.zip"):
        report = only(read(tmp_path / name))
        assert report.status == "refused"
        assert "damaged archive" in (report.reason or "")


def test_a_reader_with_a_bug_does_not_stop_the_others(tmp_path: Path) -> None:
    """Its file is refused and says so; the next one is read."""
    (tmp_path / "a.txt").write_text("broken")
    (tmp_path / "b.txt").write_text("steps 0 1 5 6 7")
    first, second = read(tmp_path).inputs
    assert (first.status, second.status) == ("refused", "read")
    assert first.reason == "reader broken failed: ZeroDivisionError: division by zero (please report it with the file)"


def test_published_answers_are_set_aside_unread(tmp_path: Path) -> None:
    """By name, and a text that states a detector's verdicts by what it says."""
    (tmp_path / "result-X.json").write_text("steps 0 1 5 6 7")
    (tmp_path / "fault_injection.log").write_text("Rank 12, fault_type: GPU_ERROR")
    (tmp_path / "controller.log").write_text("INFO: ok\nINFO: Reason of fail-slow is comp\n")
    imported = read(tmp_path)
    assert Counter(item.status for item in imported.inputs) == {"reference": 3}
    assert imported.batches == []
    assert reference_name("model.gpu_timeline.csv")
    assert not reference_name("gpu_metrics_expected.json")


def test_links_are_not_followed_and_bounds_are_said(tmp_path: Path) -> None:
    """What was not reached is never silent."""
    (tmp_path / "real").mkdir()
    for number in range(4):
        (tmp_path / "real" / f"{number}.txt").write_text(f"steps 0 1 {number} 6 7")
    (tmp_path / "loop").symlink_to(tmp_path)
    reasons = {Path(item.path).name: item.reason or "" for item in read(tmp_path).inputs}
    assert "symbolic link" in reasons["loop"]
    assert len(reasons) == 5
    cut = read(tmp_path, limits=Limits(files=2)).inputs
    assert any("2.txt and what follows it was not reached" in (item.reason or "") for item in cut)
    deep = read(tmp_path, limits=Limits(depth=1)).inputs
    assert any("nested too deep" in (item.reason or "") for item in deep)


def test_paths_that_cannot_be_opened_say_why(tmp_path: Path) -> None:
    """Missing files and pipes do not hang or crash."""
    os.mkfifo(tmp_path / "pipe")
    assert "no such file" in (only(read(tmp_path / "missing")).reason or "")
    assert "not a regular file" in (only(read(tmp_path / "pipe")).reason or "")


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    """Directly and through its folder."""
    (tmp_path / "a.txt").write_text("steps 0 1 5 6 7")
    assert len(read(tmp_path / "a.txt", tmp_path).inputs) == 1


def test_the_same_data_given_twice_is_stored_once(tmp_path: Path) -> None:
    """The copy is named, and its rows do not count double."""
    (tmp_path / "a.txt").write_text("steps 0 1 5 6 7")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"steps 0 1 5 6 7"))
    imported = read(tmp_path)
    assert [item.status for item in imported.inputs] == ["read", "read"]
    assert imported.inputs[1].reason == f"same data as {tmp_path}/a.txt"
    assert sum(batch.rows.num_rows for batch in imported.batches if batch.table == "steps") == 3


def test_rows_carry_job_rank_and_source(tmp_path: Path) -> None:
    """And the job has a row that says on what evidence; its name does not depend on where the files lie."""
    jobs = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for rank in range(2):
            (tmp_path / place / f"rank{rank}.txt").write_text(f"steps {rank} 2 5 {rank + 6} 7")
        imported = read(tmp_path / place)
        rows = [row for batch in imported.batches if batch.table == "steps" for row in batch.rows.to_pylist()]
        assert {row["rank"] for row in rows} == {0, 1}
        assert {row["source"] for row in rows} == {"steps_text"}
        (job,) = [row for batch in imported.batches if batch.table == "jobs" for row in batch.rows.to_pylist()]
        assert job["world_size"] == 2
        assert job["evidence"] == "written together as steps, world size 2"
        assert {row["job"] for row in rows} == {job["job"]}
        assert all(item.facts["job"] == job["job"] for item in imported.inputs)
        jobs.append(job["job"])
    assert jobs[0] == jobs[1]
    assert jobs[0].startswith("steps-")


def test_telemetry_that_names_no_machine_is_kept_apart_and_given_to_no_job(tmp_path: Path) -> None:
    """Two recordings of GPU 0 are two GPUs until something says otherwise."""
    (tmp_path / "a.csv").write_text("watts of one")
    (tmp_path / "b.csv").write_text("watts of another")
    rows = [row for batch in read(tmp_path).batches for row in batch.rows.to_pylist()]
    assert len({row["node"] for row in rows}) == 2
    assert all(row["node"].startswith("(") and row["job"] is None for row in rows)


def test_a_tree_is_read_as_a_whole_from_a_folder_and_from_an_archive(tmp_path: Path) -> None:
    """One report; files beside the tree have their own."""
    (tmp_path / "box" / "ports").mkdir(parents=True)
    (tmp_path / "box" / "ports" / "1").write_text("7")
    (tmp_path / "other.txt").write_text("steps 0 1 5 6 7")
    assert [(item.kind, item.facts.get("files")) for item in read(tmp_path).inputs] == [
        ("ports", 1),
        ("steps_text", None),
    ]
    report = only(read(tar_of(tmp_path / "box.tar.gz", {"ports/1": b"7"})))
    assert (report.kind, report.status) == ("ports", "read")


def test_a_refusal_in_a_format_is_told_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reason and hint reach the user."""

    def refuse(self: Steps, candidate: Input) -> Reading:
        raise Refused("no kernels in it", "record with CUDA activities")

    monkeypatch.setattr(Steps, "read", refuse)
    (tmp_path / "a.txt").write_text("steps 0 1 5")
    assert only(read(tmp_path / "a.txt")).reason == "no kernels in it (record with CUDA activities)"


def test_reading_offline_loads_no_live_library() -> None:
    """The extra `analyze` brings neither psutil nor NVML nor Textual, so reading must not ask for them."""
    code = (
        "import sys, json, warpline_agent.offline; "
        "print(json.dumps(sorted({'psutil', 'pynvml', 'textual', 'duckdb'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_every_recorded_file_has_exactly_one_report(data: Path) -> None:
    """The whole collection is walked without a crash; a reader that fails is a bug."""
    imported = read_paths([data])
    files = sorted(str(path) for path in data.rglob("*") if path.is_file())
    assert sorted(item.path for item in imported.inputs) == files
    assert [
        item for item in imported.inputs if "reader" in (item.reason or "") and "failed" in (item.reason or "")
    ] == []
    assert all(item.reason for item in imported.inputs if item.status != "read")
    traces = [item for item in imported.inputs if "A-kineto" in item.path and item.status != "reference"]
    assert {(item.kind, item.status) for item in traces} == {("kineto", "read")}
    json.dumps([item.to_json() for item in imported.inputs], allow_nan=False)
