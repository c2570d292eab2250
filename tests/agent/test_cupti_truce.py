"""A process that the user looks into with a tool of NVIDIA's: the tool has CUPTI for itself, and the agent is told so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warpline_agent.ring_file import open_ring
from warpline_hook import ring

AT_ONCE = str(ring.control(ring.FULL, ring.KERNELS, flush_ms=20, unread=True))


@pytest.mark.parametrize(
    ("library", "tool"),
    [
        ("libToolsInjection64.so", "Nsight Systems"),
        ("libTreeLauncherTargetInjection.so", "Nsight Compute"),
        ("libharmless.so", None),
    ],
)
def test_where_a_tool_of_nvidias_is_loaded_cupti_is_left_to_it(
    compile_fake: Callable[[str, str], Path],
    compile_program: Callable[..., Path],
    native_library: Path,
    drive: Callable[..., Any],
    tmp_path: Path,
    library: str,
    tool: str | None,
) -> None:
    """Also where it has not asked for CUPTI yet: nothing of ours is ever registered or subscribed there."""
    cupti, theirs = compile_fake("cupti", "libcupti.so.12"), compile_fake("other_injection", library)
    told = {"FAKE_CUPTI": str(cupti), "WARPLINE_CUPTI": str(cupti), "CUDA_INJECTION64_PATH": str(native_library)}
    told |= {"WARPLINE_DIRECTORY": str(tmp_path), "WARPLINE_CONTROL": AT_ONCE, "LD_PRELOAD": str(theirs)}
    process = drive([compile_program("trainer")], {**told, "WARPLINE_HOLD_CUPTI": "1"})
    assert process.ask("cuda") == "1"
    (path,) = tmp_path.glob("*.ring")
    reader = open_ring(path)
    assert reader is not None
    reader.read_texts()
    state, why = reader.standing().channels["kernels"]
    if tool is None:
        assert (state, process.ask("subscribed")) == ("ok", "1")
    else:
        assert (state, reader.text(why)) == ("busy", f"CUPTI is left to {tool}, which is loaded here")
        assert [process.ask(each) for each in ("registered", "subscribed", "kernels 10 k")] == ["0", "0", "0"]
    process.ask("exit")
    assert process.end() == 0
