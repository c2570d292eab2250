"""Compares native/cupti_abi.h with the headers in the CUPTI wheels that NVIDIA publishes on PyPI, 11.8 to 13.x.

`python tests/cupti_headers.py [--keep DIR]` fetches them (12 MB each), compiles one assertion for each number, lets a program
load the native library beside that libcupti, and prints a line for each version. Exit 0 if every version that could be fetched
agrees and does no harm, 1 if one does not, 75 if none could be fetched. Nothing of NVIDIA's is kept in the repository.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from warpline_agent.ring_file import open_ring
from warpline_hook.library import LIBRARY
from warpline_hook.native_build import SOURCES, compile_library, system_compiler

WHEELS: Final = (
    ("nvidia-cuda-cupti-cu11", "11.8.87"),
    ("nvidia-cuda-cupti-cu12", "12.1.105"),
    ("nvidia-cuda-cupti-cu12", "12.4.127"),
    ("nvidia-cuda-cupti-cu12", "12.9.79"),
    ("nvidia-cuda-cupti", "13.0.48"),
    ("nvidia-cuda-cupti", "13.5.25"),
)
FETCH_SECONDS: Final = 180
NOT_FETCHED: Final = 75
"""EX_TEMPFAIL."""

CUDA_H: Final = """
#include <stddef.h>
#include <stdint.h>
typedef void *CUcontext, *CUstream, *CUgraph, *CUgraphNode, *CUgraphExec, *CUmodule, *CUfunction, *CUevent, *CUgreenCtx;
typedef int CUdevice, CUgraphNodeType, CUresult, CUstreamAttrID, CUdevice_attribute;
typedef struct { char bytes[16]; } CUuuid;
typedef struct { char bytes[64]; } CUstreamAttrValue;
typedef struct { void *base; size_t bytes; float ratio; int hit, miss; } CUaccessPolicyWindow;
"""
"""CUPTI's headers ask for CUDA's, of which they need only that these types exist."""
EMPTY: Final = ("builtin_types.h", "cuda_stdint.h", "cuda_runtime_api.h", "vector_types.h")

PLACE: Final = "deviceId:device contextId:context streamId:stream correlationId:correlation"
GRAPH: Final = "graphNodeId:graph_node graphId:graph"
FIELDS: Final = {
    "kernel": f"kind start end completed {PLACE} gridId:grid name {GRAPH}",
    "memcpy": f"kind copyKind:copy_kind bytes start end {PLACE} {GRAPH}",
    "memset": f"kind value bytes start end {PLACE} {GRAPH}",
    "graph": f"kind start end {PLACE} graphId:graph",
}
"""Fields of each record, as CUPTI calls them and, where it differs, as cupti_abi.h does."""
STRUCTURES: Final = {"kernel": "Kernel", "memcpy": "Memcpy", "memset": "Memset", "graph": "GraphTrace"}
NUMBERS: Final = {
    "ABI_MEMCPY": "CUPTI_ACTIVITY_KIND_MEMCPY",
    "ABI_MEMSET": "CUPTI_ACTIVITY_KIND_MEMSET",
    "ABI_CONCURRENT_KERNEL": "CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL",
    "ABI_GRAPH_TRACE": "CUPTI_ACTIVITY_KIND_GRAPH_TRACE",
    "ABI_SUCCESS": "CUPTI_SUCCESS",
    "ABI_MAX_LIMIT_REACHED": "CUPTI_ERROR_MAX_LIMIT_REACHED",
    "ABI_MULTIPLE_SUBSCRIBERS": "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED",
    "ABI_UNKNOWN": "CUPTI_ERROR_UNKNOWN",
    "ABI_DEVICE_BUFFER_POOL_LIMIT": "CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_POOL_LIMIT",
    "ABI_ZEROED_OUT_ACTIVITY_BUFFER": "CUPTI_ACTIVITY_ATTR_ZEROED_OUT_ACTIVITY_BUFFER",
    "ABI_FLUSH_FORCED": "CUPTI_ACTIVITY_FLAG_FLUSH_FORCED",
}


def newest(header: str, structure: str) -> str:
    """The newest form of a record in a header; the older ones have stayed as they were."""
    numbers = re.findall(rf"}}\s*CUpti_Activity{structure}(\d*);", header)
    return f"CUpti_Activity{structure}{max(numbers, key=lambda number: int(number or 1))}"


def program(header: str) -> str:
    """C that compiles only if every number agrees, and prints the sizes of the records."""
    lines = ["#include <cupti_activity.h>", '#include "cupti_abi.h"', "#include <stdio.h>"]
    sizes = []
    for ours, theirs in STRUCTURES.items():
        record = newest(header, theirs)
        sizes.append(f'printf("{record} %zu, ", sizeof({record}));')
        for pair in FIELDS[ours].split():
            field, own = pair.split(":") if ":" in pair else (pair, pair)
            where = f"offsetof({record}, {field}) == offsetof(struct abi_{ours}, {own})"
            size = f"sizeof((({record} *)0)->{field}) == sizeof(((struct abi_{ours} *)0)->{own})"
            lines.append(f'_Static_assert({where} && {size}, "{record} {field}");')
        lines.append(f'_Static_assert(sizeof({record}) >= sizeof(struct abi_{ours}), "{record}");')
    lines += [f'_Static_assert((int){ours} == (int){theirs}, "{theirs}");' for ours, theirs in NUMBERS.items()]
    return "\n".join([*lines, f"int main(void) {{ {' '.join(sizes)} return 0; }}", ""])


def fetch(package: str, version: str, folder: Path) -> Path | None:
    """The folder with the headers of one wheel; None where it cannot be had."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]
    wanted = f"{package.replace('-', '_')}-{version}-"
    if not any(path.name.startswith(wanted) for path in folder.glob("*.whl")):
        try:
            subprocess.run(
                [*command, str(folder), f"{package}=={version}"],
                check=True,
                capture_output=True,
                timeout=FETCH_SECONDS,
            )
        except subprocess.SubprocessError:
            return None
    (wheel,) = (path for path in folder.glob("*.whl") if path.name.startswith(wanted))
    unpacked = folder / f"{package}-{version}"
    with zipfile.ZipFile(wheel) as archive:
        wanted_files = [name for name in archive.namelist() if name.endswith(".h") or "/libcupti.so." in name]
        archive.extractall(unpacked, wanted_files)
    return next(unpacked.rglob("cupti_activity.h")).parent


def check(include: Path, folder: Path, compiler: Sequence[str]) -> str:
    """Compile against one version; the sizes of its records, or CalledProcessError with the assertions that fail."""
    stub = folder / "cuda"
    stub.mkdir(exist_ok=True)
    (stub / "cuda.h").write_text(f"#pragma once\n{CUDA_H}")
    for name in EMPTY:
        (stub / name).write_text("#pragma once\n")
    source, target = folder / "check.c", folder / "check"
    source.write_text(program((include / "cupti_activity.h").read_text()))
    folders = [f"-I{each}" for each in (stub, include, SOURCES)]
    command = [*compiler, "-std=gnu11", *folders, "-o", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return subprocess.run([str(target)], check=True, capture_output=True, text=True).stdout.rstrip(", ")


def load(include: Path, folder: Path, compiler: Sequence[str]) -> str:
    """Initialise the native library with the libcupti of one version in a program, as CUDA would; what it says of it.

    Where there is no driver each of them refuses, in its own way. CalledProcessError where the program does not end in order.
    """
    library, program = folder / LIBRARY, folder / "trainer"
    if not program.exists():
        compile_library(compiler, library)
        source = Path(__file__).parent / "fakes" / "trainer.c"
        subprocess.run([*compiler, "-O1", "-o", str(program), str(source), "-lpthread", "-ldl"], check=True)
    (found,) = include.parent.glob("lib/libcupti.so.*")
    rings = folder / f"rings-{include.parent.parent.parent.name}"
    rings.mkdir()
    told = {"WARPLINE_CUPTI": str(found), "CUDA_INJECTION64_PATH": str(library), "WARPLINE_DIRECTORY": str(rings)}
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=told) as process:
        assert process.stdin and process.stdout
        process.stdin.write("cuda\n")
        process.stdin.flush()
        answer = process.stdout.readline().strip()
        state = _state(rings)
        process.communicate()
    if answer != "1" or process.returncode:
        raise subprocess.CalledProcessError(process.returncode, str(program), stderr=f"answered {answer!r}")
    return state


def _state(rings: Path) -> str:
    (path,) = rings.glob("*.ring")
    ring = open_ring(path)
    assert ring is not None
    ring.read_texts()
    state, why = ring.standing().channels["kernels"]
    ring.close()
    return f"{state} ({ring.text(why)})"


def main() -> int:
    """Check every version."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the wheels there for the next time")
    kept = parser.parse_args().keep
    compiler = system_compiler({}) or [sys.executable, "-m", "ziglang", "cc"]
    agreed = failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = kept or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for package, version in WHEELS:
            include = fetch(package, version, folder)
            if include is None:
                print(f"{package} {version}: skipped, cannot be fetched")
                continue
            try:
                sizes = check(include, Path(temporary), compiler)
                print(f"{package} {version}: agrees; {sizes}; {load(include, Path(temporary), compiler)}")
                agreed += 1
            except subprocess.CalledProcessError as error:
                print(f"{package} {version}: differs\n{error.stderr}")
                failed += 1
    return 1 if failed else 0 if agreed else NOT_FETCHED


if __name__ == "__main__":
    sys.exit(main())
