"""The NCCL profiler plugin in real processes, loaded by a host program of our own, in every version of the interface."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warpline_agent.ring_file import RingFile, open_ring
from warpline_hook import ring

HASH = 0x9F3C5B7E11D2
Start = Callable[..., Any]


@pytest.fixture
def job(compile_program: Callable[..., Path], native_library: Path, drive: Callable[..., Any], tmp_path: Path) -> Start:
    """Start a program that uses NCCL of a version of the interface."""
    program = compile_program("nccl_host")

    def start(api: int, **environment: str) -> Any:
        told = {
            "FAKE_NCCL_API": str(api),
            "NCCL_PROFILER_PLUGIN": str(native_library),
            "WARPLINE_DIRECTORY": str(tmp_path),
            **environment,
        }
        return drive([program], told)

    return start


def ring_in(folder: Path) -> RingFile:
    (path,) = folder.glob("*.ring")
    opened = open_ring(path)
    assert opened is not None
    return opened


def operations(reader: RingFile, kind: int = ring.COLLECTIVE) -> list[dict[str, Any]]:
    """New operations with their texts."""
    found = reader.read("nccl")
    reader.release()
    reader.read_texts()
    return [
        {
            "operation": reader.text(each["name"]),
            "datatype": reader.text(each["context"]),
            "algorithm": reader.text(each["device"]),
            "protocol": reader.text(each["stream"]),
            "channels": int(each["flags"]),
            "count": int(each["value"]),
            "sequence": int(each["number"]),
            "other": int(each["correlation"]),
            "communicator": communicator(reader, int(each["extra"])),
        }
        for each in found[found["kind"] == kind]
    ]


def communicator(reader: RingFile, number: int) -> tuple[Any, ...]:
    text = reader.texts[number]
    assert text.kind == ring.COMMUNICATOR
    head = ring.COMMUNICATOR_HEAD
    return (*head.unpack_from(text.content), text.content[head.size :].decode())


@pytest.mark.parametrize("api", range(1, 7))
def test_each_version_tells_every_operation_in_order(job: Start, tmp_path: Path, api: int) -> None:
    process = job(api)
    assert process.ask(f"comm {HASH:x} 3 8 2 world") == "0"
    assert process.ask("version") == str(api)
    assert process.ask("mask") == "6"
    before = time.time_ns()
    assert process.ask("coll 0 5 1000 40") == "5"
    assert process.ask("p2p 0 2 77 6") == "2"
    reader = ring_in(tmp_path)
    place = (HASH, 3, 8, 2, api, "world") if api >= 4 else (HASH, 3, -1, -1, api, "world")
    found = reader.read("nccl")
    assert np.all((found["start_ns"] >= before) & (found["start_ns"] <= time.time_ns()))
    again = ring_in(tmp_path)
    assert operations(again) == [
        {
            "operation": "AllReduce",
            "datatype": "ncclBfloat16",
            "algorithm": "RING",
            "protocol": "SIMPLE",
            "channels": 16,
            "count": 1000,
            "sequence": 40 + each,
            "other": 0,
            "communicator": place,
        }
        for each in range(5)
    ]
    assert operations(ring_in(tmp_path)) == []
    points = found[found["kind"] == ring.POINT_TO_POINT]
    reader.read_texts()
    assert [(reader.text(each["name"]), int(each["value"]), int(each["correlation"])) for each in points] == [
        ("Send", 77, 6)
    ] * 2
    assert list(points["number"]) == [0, 1]
    assert {reader.text(each) for each in points["context"]} == {"ncclFloat32"}
    assert reader.standing().channels["nccl"][0] == "ok"
    assert reader.standing().counters["nccl_operations"] == 7


@pytest.mark.parametrize("api", range(1, 7))
def test_each_version_tells_which_launch_an_operation_is_of(job: Start, tmp_path: Path, api: int) -> None:
    """NCCL tells of a launch before the operations in it."""
    process = job(api)
    process.ask(f"comm {HASH:x} 3 8 2 world")
    process.ask("coll 0 3 1000 40")
    assert ring_in(tmp_path).read("nccl")["duration_ns"].tolist() == [1, 2, 3]


def test_texts_are_written_once_a_communicator(job: Start, tmp_path: Path) -> None:
    process = job(6)
    process.ask(f"comm {HASH:x} 0 8 1 world")
    reader = ring_in(tmp_path)
    process.ask("coll 0 1 8 0")
    assert len(reader.read_texts()) == 5
    process.ask("coll 0 1000 8 1")
    assert reader.read_texts() == {}


def test_communicators_and_threads_are_told_apart(job: Start, tmp_path: Path) -> None:
    process = job(6)
    for each in range(4):
        process.ask(f"comm {HASH + each:x} {each} 4 1 group{each}")
    assert process.ask("threads 1000") == "4000"
    found = operations(ring_in(tmp_path))
    for each in range(4):
        own = [one["sequence"] for one in found if one["communicator"][0] == HASH + each]
        assert own == list(range(1000))


def test_several_threads_at_one_communicator_do_no_harm(job: Start, tmp_path: Path) -> None:
    process = job(6)
    process.ask(f"comm {HASH:x} 0 1 1 world")
    assert process.ask("together 4 1000") == "4000"
    found = operations(ring_in(tmp_path))
    assert len(found) == 4000
    assert {one["operation"] for one in found} == {"AllReduce"}


@pytest.mark.parametrize("api", [3, 4, 5, 6])
def test_kernel_channels_are_opened_on_request_and_closed_in_time(job: Start, tmp_path: Path, api: int) -> None:
    process = job(api, FAKE_NCCL_VERSION="22907")
    process.ask(f"comm {HASH:x} 0 8 1 world")
    reader = ring_in(tmp_path)
    process.ask("coll 0 1 8 0")
    until_ms = time.time_ns() // 1_000_000 + 3_600_000
    reader.say(1, nccl_control=ring.nccl_control(ring.NCCL_KERNEL_CHANNELS, until_ms))
    process.ask("coll 0 1 8 1")
    assert process.ask("mask") == "70"
    process.ask("coll 0 1 8 2")
    found = reader.read("nccl")
    assert (
        list(found["kind"])
        == [ring.COLLECTIVE] * 2 + [ring.NCCL_KERNEL] * 4 + [ring.COLLECTIVE] + [ring.NCCL_KERNEL] * 4
    )
    channels = found[2:6]
    assert set(channels["number"]) == {found[1]["commit"]}
    assert [(int(each["stream"]), int(each["flags"])) for each in channels] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert list(channels["value"]) == ([1000, 2000, 1001, 2001] if api >= 4 else [0] * 4)
    reader.say(1, nccl_control=ring.nccl_control(ring.NCCL_KERNEL_CHANNELS, time.time_ns() // 1_000_000 - 1))
    process.ask("coll 0 1 8 3")
    assert process.ask("mask") == "6"


@pytest.mark.parametrize(("api", "version"), [(6, "23102"), (6, "0"), (2, "22401")])
def test_kernel_channels_stay_closed_where_they_cost_too_much(
    job: Start, tmp_path: Path, api: int, version: str
) -> None:
    process = job(api, FAKE_NCCL_VERSION=version)
    process.ask(f"comm {HASH:x} 0 8 1 world")
    reader = ring_in(tmp_path)
    until_ms = time.time_ns() // 1_000_000 + 3_600_000
    reader.say(1, nccl_control=ring.nccl_control(ring.NCCL_KERNEL_CHANNELS, until_ms))
    process.ask("coll 0 3 8 0")
    assert process.ask("mask") == "6"
    reader.read_texts()
    reasons = [reader.text(event["name"]) for event in reader.read("events") if event["name"]]
    assert reasons == ["kernel channels stay closed: they cost too much with this NCCL"]


def test_the_library_stays_when_nccl_unloads_it_and_may_be_loaded_again(job: Start, tmp_path: Path) -> None:
    process = job(6)
    process.ask(f"comm {HASH:x} 0 8 1 first")
    process.ask("coll 0 3 8 0")
    assert process.ask("destroy 0") == "0"
    process.ask(f"comm {HASH:x} 0 8 1 second")
    process.ask("coll 1 3 8 0")
    names = [one["communicator"][-1] for one in operations(ring_in(tmp_path))]
    assert names == ["first"] * 3 + ["second"] * 3
    process.ask("exit")
    assert process.end() == 0


def test_a_full_ring_drops_the_newest_operations_and_counts_them(job: Start, tmp_path: Path) -> None:
    process = job(6)
    process.ask(f"comm {HASH:x} 0 8 1 world")
    assert process.ask("coll 0 10000 8 0") == "8192"
    reader = ring_in(tmp_path)
    assert [one["sequence"] for one in operations(reader)] == list(range(8192))
    assert reader.standing().dropped["nccl"] == 10000 - 8192
    assert process.ask("coll 0 1 8 10000") == "1"


def test_a_child_by_fork_tells_nothing(job: Start, tmp_path: Path) -> None:
    process = job(6)
    process.ask(f"comm {HASH:x} 0 8 1 world")
    process.ask("coll 0 1 8 0")
    assert process.ask("fork 0") == "0"
    process.ask("coll 0 1 8 1")
    assert [one["sequence"] for one in operations(ring_in(tmp_path))] == [0, 1]


def test_without_a_place_for_its_ring_the_plugin_asks_for_nothing(job: Start) -> None:
    process = job(6, WARPLINE_DIRECTORY="/nowhere")
    process.ask(f"comm {HASH:x} 0 8 1 world")
    assert process.ask("mask") == "0"
    assert process.ask("coll 0 5 8 0") == "0"
    process.ask("exit")
    assert process.end() == 0


def test_an_injection_of_another_tool_keeps_its_place_and_that_is_told(job: Start, tmp_path: Path) -> None:
    """Its own library does not run here then; the plugin for NCCL does, and says why there are no kernels."""
    process = job(6, CUDA_INJECTION64_PATH="/opt/nsight/libToolsInjection64.so")
    process.ask(f"comm {HASH:x} 0 8 1 world")
    reader = ring_in(tmp_path)
    reader.read_texts()
    state, why = reader.standing().channels["kernels"]
    told = "CUDA has room for one injection, and CUDA_INJECTION64_PATH names /opt/nsight/libToolsInjection64.so"
    assert (state, reader.text(why)) == ("busy", told)
    assert reader.standing().channels["nccl"][0] == "ok"


def test_kernels_and_operations_of_one_process_share_one_ring(
    native_library: Path, compile_fake: Callable[[str, str], Path], job: Start, tmp_path: Path
) -> None:
    """NCCL and the CUDA driver load the same library: it is in the process once."""
    fake = compile_fake("cupti", "libcupti.so.12")
    process = job(6, CUDA_INJECTION64_PATH=str(native_library), WARPLINE_CUPTI=str(fake))
    assert process.ask("cuda") == "1"
    process.ask(f"comm {HASH:x} 0 8 1 world")
    states = {name: state for name, (state, _) in ring_in(tmp_path).standing().channels.items()}
    assert states == {"kernels": "ok", "nccl": "ok"}
    process.ask("exit")
    assert process.end() == 0
    assert list(tmp_path.glob("*.ring")) == [], "nobody has ever read, nobody would clean up"
