"""Says what a file looks like when no format reads it, and which files are somebody's published answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

from ..source import Input

REFERENCE_NAMES: Final = (
    "result-*.json",
    "ms-*.json",
    "mw-*.json",
    "fault_injection.log",
    "reference.txt",
    "*_reference.txt",
    "*gpu_timeline.csv",
    "injection.trace",
)
"""Names under which publishers keep what is known or computed about a recording."""

VERDICT_LINE: Final = re.compile(
    rb"(fail-?slow (events?|problem|is )|reason of fail-?slow|change point at|mitigation plan|straggler (detected|found))",
    re.IGNORECASE,
)
"""Lines in which another detector states what it found."""

DOCUMENT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Largest JSON document that is opened only to say what it is."""
NAMES_SHOWN: Final = 8


class Looks(NamedTuple):
    """A word for the kind of file, and a sentence that says what it holds."""

    kind: str
    reason: str


def reference_name(name: str) -> bool:
    """Whether a file of this name (without .gz) is set aside unread as a published answer."""
    return any(fnmatchcase(name.lower(), pattern) for pattern in REFERENCE_NAMES)


def holds_verdicts(candidate: Input) -> bool:
    """Whether a text that no format reads states another detector's verdicts."""
    return _is_text(candidate.head) and VERDICT_LINE.search(candidate.head) is not None


def describe(candidate: Input) -> Looks:
    """What a file that no format recognises looks like; Refused if it cannot be read to its end."""
    if not candidate.head:
        return Looks("empty", "empty file: 0 bytes")
    for look in _LOOKS:
        found = look(candidate)
        if found is not None:
            return found
    return Looks("binary", f"binary data of no known kind, begins with bytes {candidate.head[:4].hex(' ')}")


_MAGIC: Final = (
    (b"PK\x03\x04", "zip", "zip container (a NumPy, PyTorch or office file?): not unpacked, it is not called .zip"),
    (b"\x7fELF", "elf", "ELF program or library"),
    (b"\x28\xb5\x2f\xfd", "zstandard", "Zstandard-compressed: unpack it first"),
    (b"BZh", "bzip2", "bzip2-compressed: unpack it first"),
    (b"\xfd7zXZ", "xz", "xz-compressed: unpack it first"),
    (b"\xff\xfe", "utf-16", "text in UTF-16, as Windows tools write it: save it as UTF-8"),
    (b"\xfe\xff", "utf-16", "text in UTF-16: save it as UTF-8"),
    (b"\x93NUMPY", "numpy", "NumPy array"),
    (b"\x89HDF", "hdf5", "HDF5 file"),
    (b"%PDF", "pdf", "PDF document"),
    (b"\x89PNG", "image", "picture"),
    (b"NSIGHT", "nsys-rep", "Nsight Systems report: export it with `nsys export --type sqlite`"),
)


def _magic(candidate: Input) -> Looks | None:
    if re.match(rb"\x80[\x02-\x05]", candidate.head):
        library = "NumPy " if b"numpy" in candidate.head else ""
        return Looks("pickle", f"{library}pickle that is no flight-recorder dump: not loaded, a pickle can run code")
    for magic, kind, reason in _MAGIC:
        if candidate.head.startswith(magic):
            return Looks(kind, reason)
    return None


_XML_START: Final = re.compile(
    rb"\s*+(?:<\?xml[^>]*+>\s*+)?(?:(?><!--.*?-->)\s*+|<!DOCTYPE[^>]*+>\s*+)*+<([A-Za-z_][\w.-]*+)", re.DOTALL
)
"""Declaration, comments and document type, then the root element; each part ends in one way only."""


def _xml(candidate: Input) -> Looks | None:
    match = _XML_START.match(candidate.head)
    if match is None:
        return None
    root = match[1].decode()
    if root.lower() in ("html", "svg"):
        return Looks(root.lower(), f"{root} document")
    return Looks("xml", f"XML of type <{root}>: no format here reads it")


_JSON_START: Final = rb'\s*(\{\s*["}]|\[\s*([\[{"\]]|-?[\d.eE+]+\s*[,\]]))'
"""How JSON begins and a log line in brackets does not."""


def _json(candidate: Input) -> Looks | None:
    named = candidate.name.lower().endswith((".json", ".jsonl"))
    if not re.match(rb"\s*[{\[]" if named else _JSON_START, candidate.head):
        return None
    with candidate.open() as stream:
        data = stream.read(DOCUMENT_BYTES_MAX + 1)
    if len(data) > DOCUMENT_BYTES_MAX:
        return Looks("json", f"starts like JSON, larger than {DOCUMENT_BYTES_MAX:,} bytes, in no form known here")
    try:
        document = json.loads(data)
    except RecursionError:
        return Looks("json", "JSON nested too deep")
    except ValueError as error:
        return _json_lines(data, error)
    return Looks("json", f"JSON {_shape(document)}: no format here reads it")


def _json_lines(data: bytes, error: ValueError) -> Looks:
    lines = data.split(b"\n", 1)
    try:
        first = json.loads(lines[0])
    except (ValueError, RecursionError):
        return Looks("json", f"starts like JSON but is not: {error}")
    if len(lines) == 2 and isinstance(first, dict):
        return Looks("jsonl", f"JSON lines, the first an {_shape(first)}: no format here reads them")
    return Looks("json", f"starts like JSON but is not: {error}")


def _shape(document: Any) -> str:
    if isinstance(document, dict):
        return f"object with keys {_some(list(document))}" if document else "object without keys"
    if isinstance(document, list):
        of = f", the first an {_shape(document[0])}" if document and isinstance(document[0], dict) else ""
        return f"list of {len(document):,}{of}"
    return type(document).__name__


def _markdown(candidate: Input) -> Looks | None:
    if candidate.name.lower().endswith((".md", ".markdown", ".rst")):
        return Looks("markdown", "prose (Markdown or reStructuredText), not a recording")
    return None


def _csv(candidate: Input) -> Looks | None:
    if not _is_text(candidate.head):
        return None
    lines = candidate.head.decode("utf-8", "replace").splitlines()
    columns = lines[0].split(",") if lines else []
    if not candidate.name.lower().endswith(".csv") or len(columns) < 2:
        return None
    return Looks("csv", f"CSV with columns {_some([column.strip() for column in columns])}: no format here reads it")


def _text(candidate: Input) -> Looks | None:
    if not _is_text(candidate.head):
        return None
    text = candidate.head.decode("utf-8", "replace")
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    words = re.sub(r"[^\x20-\x7e]", "?", first)[:60]
    return Looks("text", f"text in no form known here, begins {words!r}" if words else "text of blank lines only")


def _is_text(head: bytes) -> bool:
    """Text has no NUL and almost no control bytes; it may hold bytes that are not UTF-8."""
    control = sum(1 for byte in head if byte < 32 and byte not in (9, 10, 12, 13, 27))
    return b"\0" not in head and control * 100 <= len(head)


def _some(names: list[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:NAMES_SHOWN])
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown


_LOOKS: Final[tuple[Callable[[Input], Looks | None], ...]] = (_magic, _xml, _json, _markdown, _csv, _text)
