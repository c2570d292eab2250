"""What a process may say of its files for dumps: no link, no other user's file and nothing absurd is followed or read."""

from __future__ import annotations

import os
import pickle
import stat
import time
from pathlib import Path

import pytest
from ranks import SECOND, dump

from warpline_agent.dump_pipe import DumpFiles, ask, dump_files, fetch, sweep, take_away
from warpline_hook.flight_recorder import PREFIX
from warpline_proto.errors import Refused, Unsupported


def test_a_pipe_behind_a_link_is_not_written_to(tmp_path: Path) -> None:
    """Neither where the pipe itself is a link, nor where a folder on the way is one."""
    (tmp_path / "real").mkdir()
    os.mkfifo(tmp_path / "real/p0.pipe")
    (tmp_path / "p0.pipe").symlink_to(tmp_path / "real/p0.pipe")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    reading = os.open(tmp_path / "real/p0.pipe", os.O_RDONLY | os.O_NONBLOCK)
    for pipe in ("p", "link/p"):
        with pytest.raises(Refused, match="cannot be opened"):
            ask(DumpFiles(os.getpid(), f"{tmp_path}/{pipe}0.pipe", f"{tmp_path}/d0"))
    assert os.read(reading, 10) == b""
    os.close(reading)


def contained(folder: Path) -> Path:
    """A made-up /proc in which process 7 lives in a container, whose files lie in `7/root`."""
    proc = folder / "proc"
    (proc / "7/root/dev/shm").mkdir(parents=True)
    (proc / "7/root/tmp").mkdir()
    variables = {
        "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": "/dev/shm/p",
        "TORCH_FR_DUMP_TEMP_FILE": "/tmp/d",
        "TORCH_FR_BUFFER_SIZE": "9",
    }
    (proc / "7/environ").write_bytes(b"\0".join(f"{name}={value}".encode() for name, value in variables.items()))
    return proc


def test_a_process_in_a_container_is_asked_through_its_own_root(tmp_path: Path) -> None:
    proc = contained(tmp_path)
    os.mkfifo(proc / "7/root/dev/shm/p3.pipe")
    reading = os.open(proc / "7/root/dev/shm/p3.pipe", os.O_RDONLY | os.O_NONBLOCK)
    named = dump_files(7, 3, str(proc))
    before = ask(named, str(proc))
    assert os.read(reading, 64)
    assert fetch(named, before, str(proc)) is None
    (proc / "7/root/tmp/d3").write_bytes(pickle.dumps(dump(3)))
    found = fetch(named, before, str(proc))
    assert found is not None and found[0].name == "d3"
    os.close(reading)


@pytest.mark.parametrize("way", ["absolute", "upwards"])
def test_no_link_leads_out_of_a_container(tmp_path: Path, way: str) -> None:
    """A link in a container that was followed by the agent would lead to files of the host."""
    proc = contained(tmp_path)
    (tmp_path / "host").mkdir()
    (tmp_path / "host/d3").write_bytes(pickle.dumps(dump(3)))
    os.mkfifo(tmp_path / "host/p3.pipe")
    reading = os.open(tmp_path / "host/p3.pipe", os.O_RDONLY | os.O_NONBLOCK)
    for folder in ("dev/shm", "tmp"):
        (proc / "7/root" / folder).rmdir()
        depth = "../" * (2 + folder.count("/") + 1)
        (proc / "7/root" / folder).symlink_to(tmp_path / "host" if way == "absolute" else f"{depth}host")
    named = dump_files(7, 3, str(proc))
    with pytest.raises(Refused, match="cannot be opened"):
        ask(named, str(proc))
    assert fetch(named, None, str(proc)) is None
    assert os.read(reading, 64) == b""
    os.close(reading)


@pytest.mark.parametrize(
    ("without", "told"),
    [
        ("TORCH_NCCL_DEBUG_INFO_PIPE_FILE", "has no pipe"),
        ("TORCH_FR_BUFFER_SIZE", "is off"),
        ("TORCH_FR_DUMP_TEMP_FILE", "where it writes dumps is not known"),
    ],
)
def test_what_is_not_set_is_said(tmp_path: Path, without: str, told: str) -> None:
    proc = contained(tmp_path)
    content = (proc / "7/environ").read_bytes().split(b"\0")
    (proc / "7/environ").write_bytes(b"\0".join(each for each in content if not each.startswith(without.encode())))
    with pytest.raises(Unsupported, match=told):
        dump_files(7, 3, str(proc))


def test_only_pipes_are_written_to_and_only_files_are_read(tmp_path: Path) -> None:
    me = os.getpid()
    (tmp_path / "p0.pipe").write_text("precious")
    with pytest.raises(Refused, match="is no pipe"):
        ask(DumpFiles(me, f"{tmp_path}/p0.pipe", f"{tmp_path}/d0"))
    assert (tmp_path / "p0.pipe").read_text() == "precious"
    os.mkfifo(tmp_path / "d0")
    with pytest.raises(Refused, match="no regular file"):
        fetch(DumpFiles(me, f"{tmp_path}/p0.pipe", f"{tmp_path}/d0"), None)
    with pytest.raises(Refused, match="no absolute path"):
        ask(DumpFiles(me, f"{tmp_path}/../p0.pipe", f"{tmp_path}/d0"))
    with pytest.raises(Refused, match="no absolute path"):
        ask(DumpFiles(me, "p0.pipe", "d0"))


def test_a_pipe_that_nobody_reads_is_not_waited_at(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p0.pipe")
    with pytest.raises(Unsupported, match="nobody reads the pipe"):
        ask(DumpFiles(os.getpid(), f"{tmp_path}/p0.pipe", f"{tmp_path}/d0"))


def test_a_dump_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "d0", "wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(Refused, match="holds more than"):
        fetch(DumpFiles(os.getpid(), f"{tmp_path}/p0.pipe", f"{tmp_path}/d0"), None)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have files of another user")
def test_files_of_another_user_than_the_process_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "d0").write_bytes(pickle.dumps({}))
    os.chown(tmp_path / "d0", 12345, 12345)
    with pytest.raises(Refused, match="belongs to another user"):
        fetch(DumpFiles(os.getpid(), f"{tmp_path}/p0.pipe", f"{tmp_path}/d0"), None)


def test_a_dump_that_the_user_has_named_is_left_where_it_is(tmp_path: Path) -> None:
    for name in ("mine0", f"{PREFIX}r-dump_0"):
        (tmp_path / name).write_bytes(b".")
        take_away(DumpFiles(os.getpid(), "/nowhere", f"{tmp_path}/{name}"))
    assert [each.name for each in tmp_path.iterdir()] == ["mine0"]


def test_pipes_that_nobody_reads_any_more_are_swept(tmp_path: Path) -> None:
    """Only ours, only old ones, and never a file."""
    for name in (f"{PREFIX}a-0.pipe", f"{PREFIX}b-0.pipe", "other-0.pipe"):
        os.mkfifo(tmp_path / name)
    (tmp_path / f"{PREFIX}c").write_text("")
    reading = os.open(tmp_path / f"{PREFIX}b-0.pipe", os.O_RDONLY | os.O_NONBLOCK)
    sweep(str(tmp_path), time.time_ns())
    assert len(list(tmp_path.iterdir())) == 4
    sweep(str(tmp_path), time.time_ns() + 3600 * SECOND)
    assert {each.name for each in tmp_path.iterdir()} == {f"{PREFIX}b-0.pipe", "other-0.pipe", f"{PREFIX}c"}
    os.close(reading)
    assert stat.S_ISFIFO(os.stat(tmp_path / "other-0.pipe").st_mode)
