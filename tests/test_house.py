"""The house stands as it is drawn: what the wheel holds, who loads what, what is generated, what the tables promise."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("proto", "agent", "collector", "analysis", "tui")


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def tree() -> set[str]:
    """Packages as they lie on disk, `folder/package`."""
    return {
        f"{floor}/{package.parent.name}"
        for floor in FLOORS
        for package in (ROOT / floor).glob("warpline_*/__init__.py")
    }


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `statement`."""
    program = (
        f"import sys, json\n{statement}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/")
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_wheel_holds_every_package_and_no_other() -> None:
    tool = pyproject()["tool"]
    assert set(tool["hatch"]["build"]["targets"]["wheel"]["packages"]) == tree()
    assert set(tool["importlinter"]["root_packages"]) == {path.split("/")[1] for path in tree()}


def test_every_package_is_named_after_its_folder() -> None:
    expected = {f"{floor}/warpline_{floor}" for floor in FLOORS} | {"agent/warpline_hook", "tui/warpline_cli"}
    assert tree() == expected


def test_base_install_needs_nothing() -> None:
    assert pyproject()["project"]["dependencies"] == []


def test_the_hook_loads_only_the_standard_library() -> None:
    before = loaded_by("pass")
    foreign = {
        name
        for name in loaded_by("import warpline_hook") - before
        if name not in sys.stdlib_module_names and name != "warpline_hook"
    }
    assert foreign == set()


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import warpline_cli.main", {"pyarrow", "grpc", "duckdb", "textual", "pynvml", "psutil", "numpy"}),
        ("import warpline_agent.agent, warpline_cli.verbs.agent", {"duckdb", "textual"}),
        ("import warpline_agent.offline", {"duckdb", "textual", "pynvml", "psutil", "grpc"}),
        ("import warpline_analysis.runner", {"duckdb", "grpc", "textual", "pynvml", "psutil"}),
        ("import warpline_collector.server", {"textual", "pynvml", "psutil"}),
        ("import warpline_tui.app", {"duckdb", "pynvml", "psutil"}),
    ],
)
def test_each_part_loads_only_its_own_libraries(statement: str, forbidden: set[str]) -> None:
    assert loaded_by(statement) & forbidden == set()


def test_generated_code_is_what_the_proto_file_says() -> None:
    """The committed descriptor and service.proto name the same messages, fields and numbers."""
    from google.protobuf import descriptor_pb2

    from warpline_proto import service_pb2

    generated = descriptor_pb2.FileDescriptorProto()
    service_pb2.DESCRIPTOR.CopyToProto(generated)
    text = (ROOT / "proto/warpline_proto/service.proto").read_text()
    declared = {
        (words[-3], int(words[-1]))
        for line in text.splitlines()
        if line.startswith("  ") and "=" in line and (words := line.strip().rstrip(";").split())
    }
    assert {(field.name, field.number) for message in generated.message_type for field in message.field} == declared
    assert [method.name for method in generated.service[0].method] == [
        line.split()[1].split("(")[0] for line in text.splitlines() if line.strip().startswith("rpc ")
    ]


def test_every_column_is_declared_with_a_meaning_and_its_unit() -> None:
    from warpline_proto.tables import TABLES

    units = {"_ns": "ns", "_bytes": "B", "_watts": "W", "_joules": "J", "_mhz": "MHz", "_percent": "%", "_celsius": "C"}
    for table in TABLES.values():
        names = [column.name for column in table.columns]
        assert len(names) == len(set(names)), table.name
        assert table.time in names
        for column in table.columns:
            assert column.meaning, (table.name, column.name)
            for ending, unit in units.items():
                if column.name.endswith(ending):
                    assert column.unit == unit, (table.name, column.name)


def test_the_command_names_every_verb_that_exists() -> None:
    from warpline_cli.main import EXTRAS, VERBS

    files = {path.stem for path in (ROOT / "tui/warpline_cli/verbs").glob("*.py")} - {"__init__"}
    assert set(VERBS) == files
    assert set(EXTRAS) <= set(VERBS)
