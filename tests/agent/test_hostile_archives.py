"""Archives with damaged offsets, names and sizes: refused in words, or what is sound of them is read."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from warpline_agent.recordings.archive import Limits, file_input, unpack
from warpline_proto.errors import Refused


def zipped(*names: str) -> bytearray:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name in names:
            archive.writestr(name, b'{"traceEvents": []}')
    return bytearray(sink.getvalue())


def opened(content: bytearray, folder: Path) -> list[str]:
    path = folder / "traces.zip"
    path.write_bytes(content)
    (folder / "within").mkdir()
    return [member.name for member in unpack(file_input(path, path.name, Limits()), folder / "within", Limits())]


def test_a_zip_whose_members_lie_before_its_start_is_refused(tmp_path: Path) -> None:
    content = zipped("a.json")
    directory = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    struct.pack_into("<I", content, end + 16, directory + 40)  # where the directory began before something was cut off
    with pytest.raises(Refused, match="damaged archive"):
        opened(content, tmp_path)


def test_a_member_without_a_name_is_passed_over(tmp_path: Path) -> None:
    content = zipped("a.json", "b.json")
    place = content.index(b"PK\x01\x02")
    name_at = place + 46
    content[name_at] = 0  # a name ends at the first zero byte
    assert opened(content, tmp_path) == ["b.json"]


def test_whatever_byte_of_a_zip_is_damaged_it_is_read_or_refused(tmp_path: Path) -> None:
    content = zipped("a.json", "é/b.json")
    for at in range(len(content)):
        for value in (0, 0x7F, 0xFF):
            folder = tmp_path / f"{at}-{value}"
            folder.mkdir()
            damaged = bytearray(content)
            damaged[at] = value
            try:
                opened(damaged, folder)
            except Refused:
                continue
